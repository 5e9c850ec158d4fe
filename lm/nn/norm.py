"""Normalisation of the last axis, in float32 whatever comes in."""

import jax
import jax.numpy as jnp

from lm.nn.module import Constant, Module, param


def rmsnorm(x, scale, eps):
    """x / rms(x) * scale (Zhang & Sennrich 2019, eq. 4)."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps) * scale


def layernorm(x, scale, eps):
    """(x - mean(x)) / std(x) * scale (Ba et al. 2016)."""
    x = x.astype(jnp.float32)
    x = x - jnp.mean(x, -1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps) * scale


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
