"""Generation is the forward pass: token for token, in any batch, over the end of the context."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import FAMILIES

from lm.base.errors import UserError
from lm.infer.config import Config
from lm.infer.generate import generate
from lm.mesh import devices
from lm.mesh.config import Config as Mesh
from lm.models.decoder import model as decoder

V = 64
GREEDY = Config(temperature=0.0, max_tokens=8)
PROMPTS = [[5, 9, 11], [7, 8, 9, 10, 30, 31, 60], [3]]


class Model:
    """A tiny model far from its start, so that its text does not repeat."""

    def __init__(self, family):
        self.config = dataclasses.replace(FAMILIES[family], L=2, unroll=1, T=64)
        self.declaration = decoder.build(self.config)
        self.params = jax.jit(lambda key: jax.tree.map(
            lambda p, spec: 10 * p if spec.hidden else p,
            self.declaration.init(key), self.declaration.specs))(jax.random.key(2))
        self.logits = jax.jit(self._logits)

    def _logits(self, params, tokens_BT):
        model = self.declaration.bind(params)
        return model.logits(model(tokens_BT, jnp.arange(tokens_BT.shape[1])[None])[0])

    def next(self, row):
        """The likeliest token after `row`, by the whole forward pass over it."""
        tokens = np.zeros((1, 64), np.int32)
        tokens[0, :len(row)] = row
        return int(self.logits(self.params, tokens)[0, len(row) - 1].argmax())

    def text(self, prompts, c, *, context=64, **more):
        """The rows that generation makes, None where a row has ended."""
        cache = lambda B, S: decoder.new_cache(self.config, B, S)  # noqa: E731
        steps = list(generate(self.declaration, self.params, cache, prompts, c, context=context,
                              **more))
        return [list(row) for row in zip(*steps, strict=True)]


model = functools.cache(Model)


def by_hand(m, prompt, count, context):
    """Greedy text by whole forward passes, the last half kept when there is no more room."""
    row, out = list(prompt), []
    for _ in range(count):
        if len(row) > context:
            row = row[-(context // 2):]
        out.append(m.next(row))
        row.append(out[-1])
    return out


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_is_the_forward_pass(family):
    """Token for token, for prompts of different lengths in one batch."""
    m = model(family)
    got = m.text(PROMPTS, GREEDY)
    assert got == [by_hand(m, prompt, 8, 64) for prompt in PROMPTS]
    assert len({token for row in got for token in row}) > 8  # text that repeats itself is easy


def test_alone_is_as_in_a_batch():
    """Drawn as well as greedy: sample i is that of seed + i."""
    m = model("llama")
    c = Config(temperature=1.0, top_k=40, max_tokens=8, seed=11)
    batch = m.text(PROMPTS, c)
    for i, prompt in enumerate(PROMPTS):
        assert m.text([prompt], dataclasses.replace(c, seed=11 + i)) == [batch[i]]
    assert m.text([PROMPTS[0]] * 2, c)[0] != m.text([PROMPTS[0]] * 2, c)[1]
    assert m.text(PROMPTS[:1], dataclasses.replace(c, prompt="x", num_samples=3)) == batch[:1]


@pytest.mark.parametrize("context", [16, 15])
def test_past_the_end_of_the_context(context):
    """It goes on from the last half, each row when it is full, whatever its neighbours do."""
    m, c = model("llama"), dataclasses.replace(GREEDY, max_tokens=30)
    full = [[(7 * i + 3) % V for i in range(n)] for n in (context, context - 1, context - 2)]
    got = m.text([*PROMPTS[:2], *full], c, context=context)
    for prompt, row in zip([*PROMPTS[:2], *full], got, strict=True):
        assert row == by_hand(m, prompt, 30, context)


def test_a_prompt_longer_than_the_context():
    m = model("llama")
    prompt = [(5 * i + 1) % V for i in range(40)]
    assert m.text([prompt], GREEDY, context=16) == [by_hand(m, prompt[-8:], 8, 16)]


def test_eos_ends_a_row():
    """The end is not part of the text; the other rows go on as before; then all is over."""
    m = model("llama")
    whole = m.text(PROMPTS, GREEDY)
    eos = whole[0][3]
    got = m.text(PROMPTS, GREEDY, eos=eos)
    ends = [row.index(eos) if eos in row else 8 for row in whole]
    assert ends[0] <= 3 and max(ends) == 8
    for row, right, end in zip(got, whole, ends, strict=True):
        assert row == right[:end] + [None] * (8 - end)
    assert len(m.text(PROMPTS[:1], GREEDY, eos=eos)[0]) == ends[0]


def test_padded_vocabulary():
    """Ids that the tokenizer lacks are not made, however likely."""
    m = model("llama")
    assert max(map(max, m.text(PROMPTS, GREEDY))) >= 20
    assert max(map(max, m.text(PROMPTS, GREEDY, V=20))) < 20


def test_on_a_mesh():
    """One sample or three on eight devices: batches that divide over nothing."""
    m = model("llama")
    right = m.text(PROMPTS, GREEDY)
    mesh = devices.make(Mesh(data=2, fsdp=2, tensor=2))
    with devices.use(mesh):
        params = m.params
        m.params = jax.device_put(params, m.declaration.shardings(mesh))
        try:
            assert m.text(PROMPTS, GREEDY) == right
            assert m.text(PROMPTS[:1], GREEDY) == right[:1]
        finally:
            m.params = params


def test_empty_prompt():
    for prompts in ([], [[]], [[1], []]):
        with pytest.raises(UserError, match="the prompt is empty"):
            model("llama").text(prompts, GREEDY)
