"""Matrix products between activations and weights."""

import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from lm.mesh.devices import platform
from lm.nn.products import plain

WIDE = 64  # rows


def linear(x: jax.Array, w: jax.Array, inputs: int = 1, bias: jax.Array | None = None,
           product: Callable = plain) -> jax.Array:
    """Returns x with its last `inputs` axes contracted with the first `inputs` axes of w.

    x [..., I], w [I, O] -> [..., O] where I and O stand for one axis or more. product: what
    multiplies, one of `lm.nn.products`.
    """
    if platform() == "cpu" and x.ndim > inputs:
        # XLA:CPU calls its matrix library for products of two matrices only, and for the gradient
        # of any other form transposes the operands; on a mesh with an axis over T the flat
        # form would cost communication, so that it stays off accelerators, which gain nothing.
        rows, cols = x.shape[:-inputs], w.shape[inputs:]
        depth = math.prod(w.shape[:inputs])
        y = product(x.reshape(math.prod(rows), depth), w.reshape(depth, math.prod(cols)), 1)
        y = y.reshape(*rows, *cols)
    else:
        y = product(x, w, inputs)
    return y if bias is None else y + bias


def linears(x: jax.Array, ws: list[jax.Array], products: list[Callable]) -> list[jax.Array]:
    """Returns linear(x, w, product=product) of each w; on one CPU device as one wider product.

    That is, where x has rows enough to be worth a copy of the matrices.
    """
    mesh = jax.sharding.get_abstract_mesh()
    scaled = any(product is not plain for product in products)  # each matrix by itself
    few = math.prod(x.shape[:-1]) < WIDE
    if scaled or few or platform() != "cpu" or not (mesh.empty or mesh.size == 1):
        return [linear(x, w, product=p) for w, p in zip(ws, products, strict=True)]
    wide = jnp.concatenate([w.reshape(w.shape[0], -1) for w in ws], 1)
    ends = list(itertools.accumulate(math.prod(w.shape[1:]) for w in ws))
    ys = jnp.split(linear(x, wide), ends[:-1], -1)
    return [y.reshape(*x.shape[:-1], *w.shape[1:]) for y, w in zip(ys, ws, strict=True)]


def dropout(x: jax.Array, rate: float, key: jax.Array | None, index_BT=None) -> jax.Array:
    """Returns x_BT... a share `rate` of its elements zeroed, the rest scaled up; x without key.

    index_BT: each token's number in the batch; without it, in the order of x. A token's bits depend
    on the key and its number alone, so they are the same on every mesh and in every microbatch.
    """
    if key is None or rate == 0:
        return x
    B, T, *shape = x.shape
    if index_BT is None:
        index_BT = jnp.arange(B * T).reshape(B, T)
    own = jax.vmap(jax.vmap(lambda i: jax.random.fold_in(key, i)))(index_BT)
    keep = jax.vmap(jax.vmap(lambda k: jax.random.bernoulli(k, 1 - rate, shape)))(own)
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)
