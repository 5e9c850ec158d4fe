"""A tiny model, and its training by any of the methods of `lm.train.method`."""

import dataclasses
import functools

import jax
import numpy as np
import optax
from families import FAMILIES, batch

from lm.mesh import rules
from lm.models.decoder import model as decoder
from lm.train import method
from lm.train import step as program

MODEL = dataclasses.replace(FAMILIES["llama"], L=2, unroll=1, dropout_residual=0.1)
ADAMW = optax.adamw(1e-2, eps=1e-4)  # some gradients are zero but for rounding


def placed(seed, mesh, bad=None):
    """A batch in which every worker has as many tokens: their mean is then that of the batch.

    bad: a row with a weight that is not a number.
    """
    data = batch(seed)
    data["weights_BT"][:] = 1
    if bad is not None:
        data["weights_BT"][bad, 5] = np.nan
    return rules.place(lambda rows: {k: x[rows] for k, x in data.items()}, 8, mesh)


class Run:
    """A compiled step of a method on the mesh in use."""

    def __init__(self, train, mesh, optimizer=None, model=MODEL, **choices):
        self.mesh, self.declaration = mesh, decoder.build(model)
        self.optimizer = optimizer or optax.sgd(0.2)
        self.method = method.choose(train, mesh, 840)
        self.step = program.compiled(self.method.make(
            self.declaration, decoder.loss, self.optimizer, key=jax.random.key(7), dropout=True,
            **choices))

    def first(self):
        return self.method.init(self.declaration, self.optimizer, jax.random.key(3), self.mesh)

    def template(self):
        return self.method.abstract(self.declaration, self.optimizer, self.mesh)

    def put(self, state):
        """Returns a state of host arrays on the mesh."""
        return jax.tree.map(lambda x, s: jax.device_put(x, s.sharding), state, self.template())

    def train(self, state, start, until):
        """Returns the state after steps start .. until - 1, and their means as numbers."""
        out = []
        for seed in range(start, until):
            state, means = self.step(state, placed(seed, self.mesh))
            out.append({k: float(m.total) / float(m.count) for k, m in means.items()})
        return state, out


def host(tree):
    return jax.tree.map(np.array, tree)


def assert_close(got, expected, rtol, atol):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol), got, expected)


def held(state):
    """The bytes of a state on one device."""
    return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state))


def same(got, expected):
    """Asserts that they are, bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, host(got), host(expected))
