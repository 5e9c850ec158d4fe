"""Matrix products between activations and weights."""

import itertools
import math

import jax
import jax.numpy as jnp

from lm.mesh.devices import platform


def linear(x: jax.Array, w: jax.Array, inputs: int = 1, bias: jax.Array | None = None) -> jax.Array:
    """Returns x with its last `inputs` axes contracted with the first `inputs` axes of w.

    x [..., I], w [I, O] -> [..., O] where I and O stand for one axis or more.
    """
    if platform() == "cpu" and x.ndim > inputs:
        # XLA:CPU calls its matrix library for products of two matrices only, and for the gradient
        # of any other form transposes the operands; on a mesh with an axis over T the flat
        # form would cost communication, so that it stays off accelerators, which gain nothing.
        rows, cols = x.shape[:-inputs], w.shape[inputs:]
        depth = math.prod(w.shape[:inputs])
        y = x.reshape(math.prod(rows), depth) @ w.reshape(depth, math.prod(cols))
        y = y.reshape(*rows, *cols)
    else:
        y = jnp.tensordot(x, w, inputs)
    return y if bias is None else y + bias


def linears(x: jax.Array, ws: list[jax.Array]) -> list[jax.Array]:
    """Returns [linear(x, w) for w in ws]; on one CPU device as a single, wider product."""
    mesh = jax.sharding.get_abstract_mesh()
    if platform() != "cpu" or not (mesh.empty or mesh.size == 1):
        return [linear(x, w) for w in ws]
    wide = jnp.concatenate([w.reshape(w.shape[0], -1) for w in ws], 1)
    ends = list(itertools.accumulate(math.prod(w.shape[1:]) for w in ws))
    ys = jnp.split(linear(x, wide), ends[:-1], -1)
    return [y.reshape(*x.shape[:-1], *w.shape[1:]) for y, w in zip(ys, ws, strict=True)]


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Returns x with a share `rate` of its elements zeroed and the rest scaled up; x without key.

    The bits depend on the key and the global shape only, so they are the same on every mesh.
    """
    if key is None or rate == 0:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)
