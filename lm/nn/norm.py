"""Normalisation of the last axis, in float32 whatever comes in."""

from functools import partial

import jax
import jax.numpy as jnp

from lm.nn.module import Constant, Module, param


def rmsnorm(x, scale, eps):
    """x / rms(x) * scale (Zhang & Sennrich 2019, eq. 4), float32."""
    return _normalise(x.astype(jnp.float32), scale, eps, False)


def layernorm(x, scale, eps):
    """(x - mean(x)) / std(x) * scale (Ba et al. 2016), float32."""
    return _normalise(x.astype(jnp.float32), scale, eps, True)


# The gradient is written out: traced from the forward pass it is a chain of small sums over the
# last axis, which XLA:CPU computes one after the other, half of them again in each consumer.
@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _normalise(x, scale, eps, centred):
    return _forward(x, scale, eps, centred)[0]


def _forward(x, scale, eps, centred):
    mean = jnp.mean(x, -1, keepdims=True) if centred else jnp.zeros((), x.dtype)
    rate = jax.lax.rsqrt(jnp.mean((x - mean) ** 2, -1, keepdims=True) + eps)
    return (x - mean) * rate * scale, (x, mean, rate, scale)


def _backward(eps, centred, saved, dy):
    x, mean, rate, scale = saved
    unit = (x - mean) * rate
    d = dy * scale
    dx = d - unit * jnp.mean(d * unit, -1, keepdims=True)
    if centred:
        dx = dx - jnp.mean(d, -1, keepdims=True)
    return dx * rate, (dy * unit).sum(tuple(range(x.ndim - 1)))


_normalise.defvjp(_forward, _backward)

NORMS = dict(rmsnorm=rmsnorm, layernorm=layernorm)


class Norm(Module):
    """A normalisation with a learned scale and, for a layernorm, a learned bias."""

    def __init__(self, kind: str, axis: str, size: int, *, eps: float, bias: bool = False,
                 zero_centred: bool = False):
        """axis: letter of the normalised axis. zero_centred: the scale is 1 + w (Gemma)."""
        sizes = {axis: size}
        self.kind, self.eps, self.zero_centred = kind, eps, zero_centred
        self.scale = param(axis, sizes, Constant(0.0 if zero_centred else 1.0))
        self.bias = param(axis, sizes, Constant(0.0)) if bias else None

    def __call__(self, x):
        scale = self.scale[...].astype(jnp.float32) + (1.0 if self.zero_centred else 0.0)
        y = NORMS[self.kind](x, scale, self.eps)
        if self.bias is not None:
            y = y + self.bias[...]
        return y.astype(x.dtype)
