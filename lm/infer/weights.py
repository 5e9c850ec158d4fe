"""A checkpoint's parameters as the engine computes with them."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from lm.mesh import rules
from lm.mesh.devices import platform
from lm.nn import quantised
from lm.nn.module import Declaration


def ready(d: Declaration, params: dict, mesh, format: str = "auto") -> dict:
    """Returns the parameters as `shapes` says. The mesh is in use."""
    asked = shapes(d, mesh, format)
    old, new = ([(x.shape, x.dtype) for x in jax.tree.leaves(tree)] for tree in (params, asked))
    if old == new:
        return params
    return jax.jit(_maker(d, mesh, format),
                   out_shardings=jax.tree.map(lambda x: x.sharding, asked))(params)


def shapes(d: Declaration, mesh, format: str = "auto") -> dict:
    """Returns the shapes of the parameters in `format` (see lm.infer.config.WEIGHTS) on the mesh.

    Matrices and the embedding are cast to what they are computed with, which loses nothing that
    the layers do not lose; or the matrices, but for exact ones, are `lm.nn.quantised.Quantised`.
    On one CPU device each layer's are arrays of their own, since XLA:CPU copies what it takes out
    of a stack.
    """
    def lie(spec, x):
        whole = isinstance(x, tuple)  # on one device
        letters = jax.tree.map(lambda a: "." * a.ndim, x) if whole else quantised.letters(
            x, spec.axes)
        return jax.tree.map(lambda axes, a: jax.ShapeDtypeStruct(
            a.shape, a.dtype, sharding=rules.sharding(mesh, axes, a.shape)), letters, x)
    return jax.tree.map(lie, d.specs, jax.eval_shape(_maker(d, mesh, format), d.shapes))


def _maker(d, mesh, format) -> Callable:
    """What makes parameters in a format of those that are stored."""
    few = format in quantised.FORMATS
    dtype = jnp.dtype(d.precision.compute if few or format == "auto" else format)
    apart = platform() == "cpu" and mesh.size == 1

    def one(x, spec):
        if few and spec.inputs and not spec.exact:
            x = quantised.quantise(x, spec, format)
        elif not spec.exact and (spec.inputs or "V" in spec.axes):
            x = x.astype(dtype)
        return tuple(x[i] for i in range(x.shape[0])) if apart and spec.axes[0] == "L" else x
    return lambda params: jax.tree.map(one, params, d.specs)


def nbytes(params) -> int:
    """Returns the bytes of a tree of arrays on one device."""
    def own(x):
        bits = 4 if x.dtype == jnp.int4 else 8 * x.dtype.itemsize
        return math.prod(x.sharding.shard_shape(x.shape)) * bits // 8
    return sum(map(own, jax.tree.leaves(params)))
