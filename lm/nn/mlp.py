"""The feed-forward layer: two matrices, or three when gated."""

import math

import jax
import jax.numpy as jnp

from lm.mesh.rules import shard
from lm.nn.linear import linear, linears
from lm.nn.module import Constant, Module, param
from lm.nn.precision import PRECISIONS, Precision
from lm.nn.products import make


def _recomputed(value, slope):
    """An elementwise function whose gradient needs its input alone, nothing made on the way.

    Less is kept for the backward pass, and XLA:CPU no longer computes it in several consumers.
    """
    function = jax.custom_vjp(value)
    function.defvjp(lambda x: (value(x), x), lambda x, dy: (dy * slope(x),))
    return function


def _tanh(x):
    return jnp.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x ** 3))


def _tanh_slope(x):
    t = _tanh(x)
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * (2 / math.pi) ** 0.5 * (1 + 0.134145 * x * x)


def _normal(x):
    """The standard normal distribution function; erfc, which jax.nn.gelu takes, has branches."""
    return 0.5 * (1 + jax.lax.erf(x * 0.5 ** 0.5))


gelu_exact = _recomputed(
    lambda x: x * _normal(x),
    lambda x: _normal(x) + x * jnp.exp(-0.5 * x * x) / (2 * math.pi) ** 0.5)
gelu_tanh = _recomputed(lambda x: 0.5 * x * (1 + _tanh(x)), _tanh_slope)
silu = _recomputed(
    lambda x: x * jax.nn.sigmoid(x),
    lambda x: jax.nn.sigmoid(x) * (1 + x * (1 - jax.nn.sigmoid(x))))

# name: (function, gated)
ACTIVATIONS = {
    "gelu": (gelu_exact, False),
    "gelu_tanh": (gelu_tanh, False),
    "relu2": (lambda x: jax.nn.relu(x) ** 2, False),  # So et al. 2021
    "swiglu": (silu, True),                           # Shazeer 2020
    "geglu": (gelu_tanh, True),
}


class MLP(Module):
    """down(act(up(x))), or down(act(gate(x)) * up(x)) when the activation is gated."""

    def __init__(self, D: int, F: int, activation: str, *, bias: bool, init, init_out,
                 precision: Precision = PRECISIONS["float32"]):
        sizes = dict(D=D, F=F)
        self.activation = activation
        gated = ACTIVATIONS[activation][1]
        self.gate = param("DF", sizes, init, "D") if gated else None
        self.up = param("DF", sizes, init, "D")
        self.down = param("FD", sizes, init_out, "F")
        self.gate_product = make(precision) if gated else None
        self.up_product, self.down_product = make(precision), make(precision)
        self.up_bias = param("F", sizes, Constant(0.0)) if bias else None
        self.down_bias = param("D", sizes, Constant(0.0)) if bias else None

    def __call__(self, x_BTD):
        act, gated = ACTIVATIONS[self.activation]
        down_bias = None if self.down_bias is None else self.down_bias[...]
        into = [(self.up, self.up_product), (self.gate, self.gate_product)][:1 + gated]
        h_BTF, *gate_BTF = linears(x_BTD, [w[...] for w, _ in into], [p for _, p in into])
        h_BTF = h_BTF if self.up_bias is None else h_BTF + self.up_bias[...]
        h_BTF = act(gate_BTF[0]) * h_BTF if gated else act(h_BTF)
        return linear(shard(h_BTF, "BTF"), self.down[...], 1, down_bias, self.down_product)
