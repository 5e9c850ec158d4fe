"""Attention scores as plain array operations: who sees whom, and from scores to values."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lm.mesh.rules import ways


def copies(K: int, N: int) -> int:
    """Returns how often each of K kv heads is repeated, so that every device has its own heads'.

    A device's query heads, a part of N over `tensor`, need their kv head beside them.
    """
    tensor = ways("tensor")
    if K % tensor == 0 or N % tensor:
        return 1
    return tensor // K if tensor % K == 0 else N // K


def sees(t_BT, s_S, window: int):
    """Returns which keys each query sees by their times: [B or 1, T, S]. window: 0 is all."""
    back = t_BT[:, :, None] - s_S
    return (back >= 0) & (back < window) if window else back >= 0


def weigh(q_BTNH, k_BSKH, v_BSKH, mask_BTS, softcap: float, drop: Callable | None = None):
    """Returns the values that each query sees, weighed by the softmax of its scores: [B, T, N, H].

    drop: dropout of the shares that a query has in its values, [B, T, ..., S].
    """
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    g = "" if N == K else "g"  # the query heads of one kv head; an axis of 1 would cost XLA:CPU
    q = (q_BTNH * H ** -0.5).reshape(B, T, K, *[N // K] * len(g), H)
    scores = jnp.einsum(f"BTK{g}H,BSKH->BK{g}TS", q, k_BSKH, preferred_element_type=jnp.float32)
    if softcap:
        scores = softcap * jnp.tanh(scores / softcap)
    # Added, not chosen between, which XLA:CPU does not fuse as well.
    scores += jnp.expand_dims(jnp.where(mask_BTS, 0.0, -1e30), (1, 2)[:1 + len(g)])
    shares = jax.nn.softmax(scores, axis=-1).astype(v_BSKH.dtype)
    if drop is not None:  # a token's own bits for its scores, so T goes to the front
        shares = jnp.moveaxis(drop(jnp.moveaxis(shares, -2, 1)), 1, -2)
    return jnp.einsum(f"BK{g}TS,BSKH->BTK{g}H", shares, v_BSKH).reshape(B, T, N, H)
