"""Rotary position embedding (Su et al. 2021), with Llama 3's stretch of long wavelengths."""

import math

import jax
import jax.numpy as jnp
import numpy as np


def frequencies(H: int, base: float, stretch: tuple[float, ...] = ()) -> np.ndarray:
    """Returns the H/2 angular frequencies in radians per position.

    stretch: () or Llama 3's (factor, low, high, trained positions): wavelengths longer than
    trained/low are stretched by factor, those shorter than trained/high kept, between them blended.
    """
    w = base ** -(np.arange(0, H, 2) / H)
    if stretch:
        factor, low, high, trained = stretch
        turns = trained * w / (2 * math.pi)
        smooth = np.clip((turns - low) / (high - low), 0, 1)
        w = (1 - smooth) * w / factor + smooth * w
    return w.astype(np.float32)


def rotate(x_BTNH: jax.Array, angle_BTH: jax.Array) -> jax.Array:
    """Returns x with pairs (i, i + R/2) of its first R = 2 * angle's width elements rotated."""
    half = angle_BTH.shape[-1]
    cos, sin = jnp.cos(angle_BTH)[:, :, None], jnp.sin(angle_BTH)[:, :, None]
    a, b = x_BTNH[..., :half].astype(jnp.float32), x_BTNH[..., half:2 * half].astype(jnp.float32)
    turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x_BTNH.dtype)
    if 2 * half == x_BTNH.shape[-1]:
        return turned
    return jnp.concatenate([turned, x_BTNH[..., 2 * half:]], -1)
