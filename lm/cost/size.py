"""How large a tree of arrays is: elements and bytes, in all or on one device."""

import math

import jax
import jax.numpy as jnp


def elements(tree) -> int:
    """Returns the number of elements: of a tree of parameters, its parameter count."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def nbytes(tree) -> int:
    """Returns the bytes of the whole tree, wherever it lies."""
    return sum(by_dtype(tree).values())


def by_dtype(tree) -> dict[str, int]:
    """Returns the bytes by dtype name. Types below 8 bits count packed, as on accelerators."""
    out = {}
    for leaf in jax.tree.leaves(tree):
        name = str(leaf.dtype)
        out[name] = out.get(name, 0) + _bytes(leaf, leaf.shape)
    return out


def per_device(tree, shardings=None) -> int:
    """Returns the bytes on each device of the mesh.

    shardings: one for every leaf, or one for all; by default the leaves' own, and a leaf without
    one lies whole on its device.
    """
    if shardings is None:
        shardings = jax.tree.map(lambda leaf: getattr(leaf, "sharding", None), tree)
    elif isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _, s=shardings: s, tree)
    places = jax.tree.leaves(shardings, is_leaf=lambda s: s is None)
    return sum(_bytes(leaf, place.shard_shape(leaf.shape) if place else leaf.shape)
               for leaf, place in zip(jax.tree.leaves(tree), places, strict=True))


def _bytes(leaf, shape) -> int:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        one = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct((), leaf.dtype))
        return math.prod(shape) * one.size * one.dtype.itemsize
    return -(-math.prod(shape) * _bits(leaf.dtype) // 8)


def _bits(dtype) -> int:
    if jnp.issubdtype(dtype, jnp.integer):
        return jnp.iinfo(dtype).bits
    if jnp.issubdtype(dtype, jnp.floating):
        return jnp.finfo(dtype).bits
    return dtype.itemsize * 8
