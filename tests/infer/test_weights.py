"""Weights of few bits: which they are, what they take, and that the engine computes with them."""

import dataclasses
import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.data.tokenizers.plain import Bytes
from lm.experiment import llm, parts, topology
from lm.infer import engine as engines
from lm.infer import shape as shapes
from lm.infer import weights
from lm.infer.config import WEIGHTS, Engine
from lm.infer.core import Core
from lm.infer.request import Sampling
from lm.mesh import devices
from lm.mesh.config import Config as Mesh
from lm.models.decoder import model as decoder
from lm.models.decoder.config import Config
from lm.nn.quantised import FORMATS, Quantised

V, T = Bytes().V, 32
DENSE = Config(L=2, D=32, N=4, K=2, F=96, V=V, T=T, bias="qkv", init="llama")
EXPERTS = dataclasses.replace(DENSE, E=4, F=32, dense_layers=1, L=3, bias="none")
PROMPTS = [[5, 9, 11], [7, 200, 9, 10, 30, 31, 60]]


@functools.cache
def model(c, key=2):
    """The model, and parameters far from their start, so that its text does not repeat."""
    declaration = decoder.build(c)
    params = jax.jit(lambda key: jax.tree.map(lambda p, s: 8 * p if s.hidden else p,
                                              declaration.init(key), declaration.specs))
    return parts.Model(c, declaration, decoder.loss), params(jax.random.key(key))


def on(count, **sizes):
    return devices.use(devices.make(Mesh(data=1, **sizes), jax.devices()[:count]))


def spread(m, params, mesh):
    return jax.device_put(params, m.declaration.shardings(mesh))


def whole(x):
    """What a parameter stands for, as one float32 array."""
    if isinstance(x, tuple):
        return jnp.stack([whole(layer) for layer in x])
    return x.astype(jnp.float32)


@pytest.mark.parametrize("c", [DENSE, EXPERTS, dataclasses.replace(DENSE, tied=True)],
                         ids=["dense", "experts", "tied"])
def test_what_is_quantised(c, one):
    """Matrices, the output's too; neither embeddings, vectors nor routers. On a CPU, by layers."""
    m, params = model(c)
    held = weights.ready(m.declaration, params, one, "int8")
    found = set()
    for (path, spec), x in zip(jax.tree_util.tree_leaves_with_path(m.declaration.specs),
                               m.declaration_leaves if hasattr(m, "declaration_leaves") else
                               jax.tree.structure(m.declaration.specs).flatten_up_to(held),
                               strict=True):
        stacked = spec.axes[0] == "L"
        assert isinstance(x, tuple) == stacked
        if isinstance(x[0] if stacked else x, Quantised):
            found.add(path[-1].key)
        else:
            plain = functools.reduce(lambda tree, key: tree[key.key], path, params)
            np.testing.assert_array_equal(whole(x), plain)
    names = {"q", "k", "v", "o", "gate", "up", "down"} | ({"output"} if not c.tied else set())
    assert found == names
