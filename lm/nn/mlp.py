"""The feed-forward layer: two matrices, or three when gated."""

import math

import jax
import jax.numpy as jnp

from lm.mesh.rules import shard
from lm.nn.linear import linear
from lm.nn.module import Constant, Module, param

def _gelu(approximate):
    """A gelu whose gradient is computed from its input alone, not from what the forward pass made."""
    def forward(x):
        return jax.nn.gelu(x, approximate=approximate)

    def slope(x):
        if approximate:
            c = (2 / math.pi) ** 0.5
            t = jnp.tanh(c * (x + 0.044715 * x ** 3))
            return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x)
        return (0.5 * (1 + jax.lax.erf(x * 0.5 ** 0.5))
                + x * jnp.exp(-0.5 * x * x) / (2 * math.pi) ** 0.5)
    gelu = jax.custom_vjp(forward)
    gelu.defvjp(lambda x: (forward(x), x), lambda x, dy: (dy * slope(x).astype(dy.dtype),))
    return gelu


gelu_exact, gelu_tanh = _gelu(False), _gelu(True)

# name: (function, gated)
ACTIVATIONS = {
    "gelu": (gelu_exact, False),
    "gelu_tanh": (gelu_tanh, False),
    "relu2": (lambda x: jax.nn.relu(x) ** 2, False),  # So et al. 2021
    "swiglu": (jax.nn.silu, True),                    # Shazeer 2020
    "geglu": (gelu_tanh, True),
}


class MLP(Module):
    """down(act(up(x))), or down(act(gate(x)) * up(x)) when the activation is gated."""

    def __init__(self, D: int, F: int, activation: str, *, bias: bool, init, init_out):
        sizes = dict(D=D, F=F)
        self.activation = activation
        gated = ACTIVATIONS[activation][1]
        self.gate = param("DF", sizes, init, "D") if gated else None
        self.up = param("DF", sizes, init, "D")
        self.down = param("FD", sizes, init_out, "F")
        self.up_bias = param("F", sizes, Constant(0.0)) if bias else None
        self.down_bias = param("D", sizes, Constant(0.0)) if bias else None

    def __call__(self, x_BTD):
        act, gated = ACTIVATIONS[self.activation]
        up_bias = None if self.up_bias is None else self.up_bias[...]
        down_bias = None if self.down_bias is None else self.down_bias[...]
        h_BTF = linear(x_BTD, self.up[...], bias=up_bias)
        h_BTF = act(linear(x_BTD, self.gate[...])) * h_BTF if gated else act(h_BTF)
        return linear(shard(h_BTF, "BTF"), self.down[...], bias=down_bias)
