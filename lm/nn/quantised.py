"""Matrices of few bits, which are dequantised where they are computed with."""

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lm.mesh import rules
from lm.mesh.devices import platform


class Format(NamedTuple):
    """Numbers of few bits, as many below zero as above."""

    dtype: str     # as jax calls it
    limit: float   # the largest
    run: int = 0   # elements that share a scale, about; 0: all that one output sums over
    shares: tuple[float, ...] = (1.0,)  # of the largest magnitude that `limit` may stand for


# Of 4 bits so few are near the largest that it pays to cut it off.
FORMATS = dict(int8=Format("int8", 127), fp8=Format("float8_e4m3fn", 448),
               int4=Format("int4", 7, 128, (1.0, 0.95, 0.9, 0.85, 0.8)))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Quantised:
    """Stands where a matrix, or a stack of them, stands: numbers of few bits times their scales.

    scale, bfloat16, has the axes of q, shorter where several of its elements share a scale.
    """

    q: jax.Array
    scale: jax.Array

    @property
    def ndim(self) -> int:
        """Axes of the matrix, as of an array."""
        return self.q.ndim

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of its axes."""
        return self.q.shape

    def __getitem__(self, at):
        """Returns what an index of axes in front leaves: one layer of a stack."""
        return self if at is ... else Quantised(self.q[at], self.scale[at])

    def astype(self, dtype) -> jax.Array:
        """Returns the matrix as a plain array."""
        scale = self.scale
        for axis, (n, m) in enumerate(zip(self.q.shape, scale.shape, strict=True)):
            if 1 < m < n:
                scale = jnp.repeat(scale, n // m, axis)
        # In float32, whose range no product of a scale and a number of few bits leaves.
        return (self.q.astype(jnp.float32) * scale.astype(jnp.float32)).astype(dtype)


def quantise(w: jax.Array, spec, format: str) -> Quantised:
    """Returns a matrix in a format of `FORMATS`; spec: what `lm.nn.module` declares of it.

    A scale is for all along the inputs, or for a run along the last input; each layer and expert
    has its own. Of the format's shares each takes the one with the least squared error.
    """
    name, limit, about, shares = FORMATS[format]
    over = [i for i, a in enumerate(spec.axes) if i >= len(spec.stacked) and a in spec.inputs]
    last, n = over[-1], w.shape[over[-1]]
    run = n if not about else min((g for g in range(1, n + 1) if n % g == 0),
                                  key=lambda g: max(g / about, about / g))
    x = w.astype(jnp.float32).reshape(*w.shape[:last], n // run, run, *w.shape[last + 1:])
    together = dict(axis=(last + 1, *([] if about else over[:-1])), keepdims=True)
    top = jnp.abs(x).max(**together)

    def fit(share):
        # Rounded before it divides, so that what is stored fits the scale that is stored.
        scale = (share * top / limit).astype(jnp.bfloat16)
        scale = jnp.where(scale == 0, 1, scale)
        wide = scale.astype(jnp.float32)
        q = jnp.clip(x / wide, -limit, limit)
        q = jnp.round(q) if jnp.issubdtype(name, jnp.integer) else q
        return ((q * wide - x) ** 2).sum(**together), q, scale
    best = fit(shares[0])
    for share in shares[1:]:
        other = fit(share)
        best = jax.tree.map(partial(jnp.where, other[0] < best[0]), other, best)
    # A CPU gives 4 bits a byte as well, and its compiled programs refuse them in jax 0.10.
    name = "int8" if name == "int4" and platform() == "cpu" else name
    return Quantised(best[1].astype(name).reshape(w.shape), best[2].squeeze(last + 1))


def letters(value, axes: str):
    """Returns `value` with each array's letters in its place, an array's own or a Quantised's two.

    Along an axis where scales are too few for the devices that share the numbers, all have all.
    """
    if not isinstance(value, Quantised):
        return axes
    own = "".join("." if n % math.prod(map(rules.ways, rules.STORAGE[a])) else a
                  for a, n in zip(axes, value.scale.shape, strict=True))
    return Quantised(axes, own)
