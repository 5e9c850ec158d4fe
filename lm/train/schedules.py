"""Learning-rate schedules: a warm-up, then a shape; step -> rate, traceable."""

import jax.numpy as jnp
import optax

from lm.base.errors import UserError


def make(name: str, peak: float, *, steps: int, warmup: int, final: float, decay: int, cycles: int):
    """Returns the schedule `name` of a run of `steps` that rises over `warmup` to `peak`.

    The first step already moves: rate(0) = peak / warmup. After the run the last rate is held.
    """
    if warmup >= steps and warmup:
        raise UserError(f"warm-up of {warmup} steps is not shorter than the run of {steps}; "
                        "shorten train.warmup or lengthen train.length")
    rest = steps - warmup
    after = SHAPES[name](peak, rest, final, warmup=warmup, decay=min(decay, rest), cycles=cycles)
    if not warmup:
        return after

    def rate(step):
        return jnp.where(step < warmup, peak * (step + 1) / warmup, after(step - warmup))
    return rate


def _constant(peak, rest, final, **_):
    return optax.constant_schedule(peak)


def _linear(peak, rest, final, **_):
    return optax.linear_schedule(peak, peak * final, rest)


def _cosine(peak, rest, final, **_):
    return optax.cosine_decay_schedule(peak, rest, final)


def _wsd(peak, rest, final, *, decay, **_):
    """Warm up, stay, decay linearly (Hu et al. 2024; Hägele et al. 2024)."""
    fall = optax.linear_schedule(peak, peak * final, decay)
    return optax.join_schedules([optax.constant_schedule(peak), fall], [rest - decay])


def _inverse_sqrt(peak, rest, final, *, warmup, **_):
    """peak * sqrt(w / (w + step)), with w the warm-up or 1 (Vaswani et al. 2017, eq. 3)."""
    w = max(warmup, 1)
    return lambda step: peak * jnp.sqrt(w / (w + jnp.minimum(step, rest)))


def _cyclic(peak, rest, final, *, cycles, **_):
    """Cosine cycles of equal length with warm restarts (Loshchilov & Hutter 2017)."""
    length = max(rest / cycles, 1)

    def rate(step):
        share = jnp.where(step >= rest, 1.0, (step % length) / length)
        return peak * (final + (1 - final) * 0.5 * (1 + jnp.cos(jnp.pi * share)))
    return rate


SHAPES = dict(constant=_constant, linear=_linear, cosine=_cosine, wsd=_wsd,
              inverse_sqrt=_inverse_sqrt, cyclic=_cyclic)
