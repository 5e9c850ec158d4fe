"""A small state of all that a run holds, and stores of it: for the tests beside this file."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lm.checkpoint.store import Checkpoints


class State(NamedTuple):
    step: jax.Array
    params: dict
    opt: optax.OptState
    key: jax.Array


def state(seed=0, V=65):
    """A small state of all that a run holds; V: rows of the embedding."""
    key = jax.random.key(seed)
    params = {"embedding": jax.random.normal(key, (V, 128)),
              "layers": {"w": jax.random.normal(key, (2, 8, 16), jnp.bfloat16),
                         "q": jax.random.randint(key, (8, 8), -128, 127, jnp.int8)}}
    train = optax.masked(optax.adamw(1e-3), {"embedding": True, "layers": {"w": False, "q": False}})
    opt = optax.chain(optax.clip_by_global_norm(1.0), train, optax.identity()).init(params)
    return State(jnp.int32(seed), params, (opt, {"words": jnp.arange(5, dtype=jnp.uint32)}), key)


def like(tree, place):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place(x)), tree)


def here(tree):
    return like(tree, lambda x: jax.sharding.SingleDeviceSharding(jax.devices()[0]))


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
    return True


def saved(path, steps=(1, 2), **options):
    """Returns a store with a complete checkpoint of state(step) for every step."""
    store = Checkpoints(path, **options)
    for step in steps:
        assert store.save(step, state(step), {"seed": step, "data": [step, "x"]})
        store.wait()
    return store


def reader(path):
    lines = []
    return Checkpoints(path, warn=lines.append), lines
