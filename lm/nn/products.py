"""Products of a layer's activations and weights in 8 bits, as a row of `PRECISIONS` says.

A product is a function (x, w, inputs) -> y that contracts the last `inputs` axes of x with the
first of w; `make` gives the one of each matrix. x, w, y and gradients are in the format that the
rest of the layer is computed in. jax.vmap makes it one of stacked matrices.
"""

from functools import partial

import jax
import jax.numpy as jnp

from lm.nn.module import Module, carried
from lm.nn.precision import Precision

STEPS = 16  # whose largest values a history keeps
# A history's message is a power of the largest value: messages add up over microbatches and the
# turns of a pipeline, and the fourth root of a sum of n fourth powers is at most n**(1/4) times
# the largest, one bit of the exponent for n = 16. Higher powers would leave float32's range.
POWER = 4

plain = jnp.tensordot


def make(precision: Precision):
    """Returns the product for one matrix; a Module where it keeps a history."""
    return KINDS[precision.scaling](precision)


class Delayed(Module):
    """Quantised by the largest values of the last steps (Micikevicius et al. 2022, section 3).

    A value larger than all of those saturates, and its size is known by the next step. Without
    histories, where a model is bound to parameters alone, by the largest values of now.
    """

    def __init__(self, precision: Precision):
        self.precision = precision
        self.x, self.w, self.dy = carried(STEPS), carried(STEPS), carried(STEPS)

    def __call__(self, x, w, inputs):
        histories = [leaf.get_value() for leaf in (self.x, self.w, self.dy)]
        histories = None if histories[0] is None else histories
        return _by_tensor(self.precision, inputs, x, w.astype(x.dtype), histories)


def remember(history, message):
    """Returns a history after a step, newest first, of the gradient that has arrived for it."""
    return jnp.concatenate([message[..., :1] ** (1 / POWER), history[..., :-1]], -1)


def _current(precision):
    return lambda x, w, inputs: _by_tensor(precision, inputs, x, w.astype(x.dtype), None)


def _rows(precision):
    return lambda x, w, inputs: _by_row(precision, inputs, x, w.astype(x.dtype))


KINDS = {"": lambda _: plain, "history": Delayed, "tensor": _current, "row": _rows}


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _by_tensor(p, inputs, x, w, histories):
    """One scale for each of x, w and dy."""
    return _by_tensor_forward(p, inputs, x, w, histories)[0]


def _by_tensor_forward(p, inputs, x, w, histories):
    h_x, h_w, h_dy = histories or (None,) * 3
    qx, scale_x, seen_x = _quantise(x, p.forward, h_x)
    qw, scale_w, seen_w = _quantise(w, p.forward, h_w)
    y = _forward(qx, qw, inputs, p.accumulate) * (scale_x * scale_w)
    return y.astype(x.dtype), (qx, scale_x, seen_x, qw, scale_w, seen_w, h_dy)


def _by_tensor_backward(p, inputs, saved, dy):
    qx, scale_x, seen_x, qw, scale_w, seen_w, h_dy = saved
    qdy, scale_dy, seen_dy = _quantise(dy, p.backward, h_dy)
    dx, dw = _backward(qx, qw, qdy, inputs, p.accumulate)
    dx, dw = dx * (scale_w * scale_dy), dw * (scale_x * scale_dy)
    messages = None if h_dy is None else [
        jnp.zeros(STEPS).at[0].set(seen ** POWER) for seen in (seen_x, seen_w, seen_dy)]
    return dx.astype(dy.dtype), dw.astype(dy.dtype), messages


_by_tensor.defvjp(_by_tensor_forward, _by_tensor_backward)


def _quantise(x, dtype, history):
    """(q, scale, x's largest magnitude), x ~ q * scale; what exceeds the history saturates.

    A value that is not finite ends up in the result as NaN or in the largest magnitude, so that
    the training step hears of it.
    """
    limit = float(jnp.finfo(dtype).max)
    x = x.astype(jnp.float32)
    seen = jnp.abs(x).max()
    largest = seen if history is None else history.max()
    scale = jnp.where(largest == 0, 1.0, largest / limit)
    # Clipped first: e4m3 has no infinity, and what is beyond its range would be NaN.
    return jnp.clip(x / scale, -limit, limit).astype(dtype), scale, seen


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _by_row(p, inputs, x, w):
    """A scale for each row of x and each column of w; gradients as if nothing were quantised."""
    qx, scale_x = _quantise_integer(x, p.forward, range(x.ndim - inputs, x.ndim))
    qw, scale_w = _quantise_integer(w, p.forward, range(inputs))
    rows = x.shape[:x.ndim - inputs]
    scale_x = scale_x.reshape(*rows, *[1] * (w.ndim - inputs))
    y = _forward(qx, qw, inputs, p.accumulate).astype(jnp.float32)
    return (y * scale_x * scale_w.reshape(w.shape[inputs:])).astype(x.dtype)


def _by_row_backward(p, inputs, saved, dy):
    dx, dw = _backward(*saved, dy, inputs, jnp.float32)
    return dx.astype(dy.dtype), dw.astype(dy.dtype)


_by_row.defvjp(lambda p, inputs, x, w: (_by_row(p, inputs, x, w), (x, w)), _by_row_backward)


def _quantise_integer(x, dtype, axes):
    """(q, scale) with x ~ q * scale, one scale for all along `axes`."""
    x = x.astype(jnp.float32)
    scale = jnp.abs(x).max(tuple(axes), keepdims=True) / jnp.iinfo(dtype).max
    scale = jnp.where(scale == 0, 1.0, scale)
    # No integer is NaN: the scale is where one lives on.
    return jnp.round(x / scale).astype(dtype), scale


def _forward(x, w, inputs, accumulate):
    axes = tuple(range(x.ndim - inputs, x.ndim)), tuple(range(inputs))
    return jax.lax.dot_general(x, w, (axes, ((), ())), preferred_element_type=accumulate)


def _backward(x, w, dy, inputs, accumulate):
    """(dx, dw) of `_forward`."""
    columns, rows = w.ndim - inputs, x.ndim - inputs
    ends = tuple(range(dy.ndim - columns, dy.ndim)), tuple(range(inputs, w.ndim))
    starts = tuple(range(rows)), tuple(range(rows))
    return (jax.lax.dot_general(dy, w, (ends, ((), ())), preferred_element_type=accumulate),
            jax.lax.dot_general(x, dy, (starts, ((), ())), preferred_element_type=accumulate))
