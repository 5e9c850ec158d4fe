"""What few bits ask of the training step: a loss scale, largest values, rounding by chance.

`State.scaling` holds what of it the model's precision needs: `loss`, the factor of the loss, and
`good`, the finite steps since it last grew; `largest`, the histories of `lm.nn.products`.
"""

import zlib

import jax
import jax.numpy as jnp

from lm.nn.module import Declaration
from lm.nn.products import remember

HIGHEST = 2.0 ** 24  # of a loss scale


def first(declaration: Declaration) -> dict:
    """Returns the first State.scaling, empty for most precisions."""
    scaling = {}
    if declaration.precision.loss_scale:
        scaling.update(loss=jnp.float32(declaration.precision.loss_scale), good=jnp.int32(0))
    if declaration.carried:
        scaling["largest"] = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype),
                                          declaration.carried)
    return scaling


def after(scaling: dict, messages: dict | None, finite: jax.Array, every: int) -> dict:
    """Returns State.scaling after a step that was finite or not.

    messages: the gradients of the histories. every: good steps in a row that double the loss scale;
    a bad one halves it, down to 1 (Micikevicius et al. 2018, section 3.2).
    """
    new = {}
    if "loss" in scaling:
        good = jnp.where(finite, scaling["good"] + 1, 0)
        factor = jnp.where(finite, jnp.where(good == every, 2.0, 1.0), 0.5)
        new["loss"] = jnp.clip(scaling["loss"] * factor, 1.0, HIGHEST)
        new["good"] = good % every
    if "largest" in scaling:
        new["largest"] = jax.tree.map(lambda old, message: jnp.where(
            finite, remember(old, message), old), scaling["largest"], messages)
    return new


def widened(params: dict) -> dict:
    """Returns parameters as the update rule sees them, float32, so that its moments are too."""
    return jax.tree.map(lambda x: x.astype(jnp.float32), params)


def narrowed(params: dict, like: dict, key: jax.Array) -> dict:
    """Returns float32 parameters in the formats of `like`; to bfloat16 they are rounded by chance.

    The bits follow from the key, the parameter's name and the place in the whole array.
    """
    def narrow(path, x, old):
        if old.dtype != jnp.bfloat16:
            return x.astype(old.dtype)
        name = zlib.crc32(jax.tree_util.keystr(path).encode())
        return stochastic(x, jax.random.fold_in(key, name))
    return jax.tree.map_with_path(narrow, params, like)


def stochastic(x: jax.Array, key: jax.Array) -> jax.Array:
    """Returns float32 x, of finite values, as bfloat16: x exactly in expectation.

    bfloat16 is the upper half of a float32: random bits added to the lower half carry into the
    upper with the probability that the lower half is of its whole.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) + (_noise(key, x.shape) >> 16)
    return jax.lax.bitcast_convert_type((bits >> 16).astype(jnp.uint16), jnp.bfloat16)


def _noise(key, shape):
    """Random uint32 by a hash of each place, a fifth of the work of jax.random's cipher."""
    first, second = jax.random.bits(key, (2,))
    place = jnp.zeros(shape, jnp.uint32)
    for axis, size in enumerate(shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    return _mixed(_mixed(place ^ first) + second)


def _mixed(x):
    """The bits of uint32 x mixed one to one: lowbias32 (Wellons 2018)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7feb352d)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846ca68b)
    return x ^ (x >> 16)
