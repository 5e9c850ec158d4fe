"""A tiny model far from its start, its text by whole forward passes, and engines over it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from families import FAMILIES

from lm.data.tokenizers.plain import Bytes
from lm.experiment import llm, parts
from lm.infer.config import Engine
from lm.infer.core import Core
from lm.infer.request import Sampling
from lm.mesh import devices
from lm.mesh.config import AXES
from lm.mesh.config import Config as Mesh
from lm.models.decoder import model as decoder

CONTEXT = 64
TOKENIZER = Bytes()
GREEDY = Sampling(max_tokens=10, temperature=0.0, ignore_eos=True)


class Model:
    """Parameters ten times as large as at the start, so that its text does not repeat."""

    def __init__(self, family, deep=2, **changes):
        self.config = dataclasses.replace(
            FAMILIES.get(family) or FAMILIES["llama"], L=deep, unroll=1, T=CONTEXT, V=TOKENIZER.V,
            **changes)
        self.declaration = decoder.build(self.config)
        self.parts = parts.Model(self.config, self.declaration, decoder.loss)
        self.params = jax.jit(lambda key: jax.tree.map(
            lambda p, spec: 10 * p if spec.hidden else p,
            self.declaration.init(key), self.declaration.specs))(jax.random.key(2))
        self.forward = jax.jit(self._logits)

    def _logits(self, params, tokens_BT):
        model = self.declaration.bind(params)
        return model.logits(model(tokens_BT, jnp.arange(tokens_BT.shape[1])[None])[0])

    def logits(self, row):
        """Logits after each token of a row, [T, V]."""
        tokens = np.zeros((1, CONTEXT), np.int32)
        tokens[0, :len(row)] = row
        return np.asarray(self.forward(self.params, tokens)[0, :len(row)])

    @functools.lru_cache(None)  # noqa: B019
    def text(self, prompt: tuple[int, ...], count: int) -> list[int]:
        """The likeliest tokens after a prompt, by the whole forward pass for each."""
        row = list(prompt)
        for _ in range(count):
            row.append(int(self.logits(row)[-1].argmax()))
        return row[len(prompt):]

    def core(self, mesh: Mesh | None = None, V=TOKENIZER.V, tokenizer=TOKENIZER, draft=None,
             **options) -> Core:
        """An engine's Core that is not begun. options: of lm.infer.config.Engine."""
        config = Mesh(data=1) if mesh is None else mesh
        sizes = [getattr(config, axis) for axis in AXES]
        made = devices.make(config, jax.devices()[:int(np.prod(sizes))])
        c = Engine(**(dict(slots=4, page=4, budget=16) | options))

        def make():
            params = jax.device_put(self.params, self.declaration.shardings(made))
            return llm.build(self.parts, params, c, made, V=V, context=CONTEXT,
                             draft=draft and (draft.parts, draft.params))
        return Core(make, c, tokenizer, mesh=made, context=CONTEXT)


model = functools.cache(Model)


def made(llm, prompts, sampling=GREEDY):
    """The tokens that follow each prompt."""
    out = {i: [] for i in range(len(prompts))}
    for i, event in llm.stream(prompts, sampling):
        out[i] += event.tokens
    return [out[i] for i in range(len(prompts))]


def prompts(seed: int, *lengths: int) -> list[list[int]]:
    """Random prompts."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, n).tolist() for n in lengths]
