"""Cross entropy of the next token without the logits of the whole batch in memory."""

import jax
import jax.numpy as jnp

from lm.base.mean import Mean
from lm.mesh.config import AXES
from lm.mesh.devices import platform
from lm.mesh.rules import shard, sharers, ways

# The most logits held at once on one device: 2**26 in float32 are 256 MiB.
LOGITS = 2 ** 26


def logits(x_BTD, w_DV, softcap: float = 0.0):
    """Returns float32 logits [B, T, V] of x and w in one format, softcap*tanh(logits/softcap)."""
    B, T, D = x_BTD.shape
    if platform() == "cpu" and ways("context") == 1:  # for the reason that `linear` gives
        out = jnp.dot(x_BTD.reshape(B * T, D), w_DV, preferred_element_type=jnp.float32)
        out = out.reshape(B, T, -1)
    else:
        out = jnp.einsum("BTD,DV->BTV", x_BTD, w_DV, preferred_element_type=jnp.float32)
    return softcap * jnp.tanh(out / softcap) if softcap else out


def cross_entropy(x_BTD, w_DV, targets_BT, weights_BT, *, softcap: float = 0.0, chunk: int = 0):
    """Returns (nll, z): Means over tokens of -log p(target) in nats and of log(Z)**2.

    The logits are those of `logits`. chunk: tokens of each sequence whose logits are held at once;
    0 chooses the most that fits in `LOGITS`. Where that is not all, the backward pass computes each
    chunk's logits again.
    """
    (B, T), V = targets_BT.shape, w_DV.shape[1]
    parts = _parts(B, T, V) if chunk == 0 else -(-T // chunk)
    if T % parts:
        parts = next(n for n in range(parts, T + 1) if T % n == 0)
    # Whole over fsdp before the loop, and with a gradient that adds up in float32 over its turns.
    w_DV = shard(w_DV, "DV").astype(jnp.float32 if parts > 1 else w_DV.dtype)

    def one(x, targets, weights):
        y = shard(logits(x, w_DV.astype(x.dtype), softcap), "BTV")
        highest = jax.lax.stop_gradient(y.max(-1, keepdims=True))
        log_z = jnp.log(jnp.exp(y - highest).sum(-1)) + highest[..., 0]
        # A comparison, not a gather: it stays local when V is spread over devices, and its
        # gradient is no scatter.
        hit = jnp.arange(V) == targets[..., None]
        nll = log_z - jnp.where(hit, y, 0).sum(-1)
        return (nll * weights).sum(), (log_z ** 2 * weights).sum()

    if parts == 1:
        nll, z = one(x_BTD, targets_BT, weights_BT)
    else:
        def split(x):
            # Part i has the columns i, i + parts, ...: each device keeps its own.
            x = x.reshape(B, T // parts, parts, *x.shape[2:])
            return shard(jnp.moveaxis(x, 2, 0), ".BT" + "." * (x.ndim - 3))

        def body(total, xs):
            return jax.tree.map(jnp.add, total, jax.checkpoint(one)(*xs)), None
        zero = (jnp.zeros((), jnp.float32),) * 2
        (nll, z), _ = jax.lax.scan(body, zero, tuple(map(split, (x_BTD, targets_BT, weights_BT))))
    count = weights_BT.sum()
    return Mean(nll, count), Mean(z, count)


def _parts(B, T, V):
    """The fewest equal parts of T that keep a device's logits within the limit."""
    parts = max(1, -(-B * T * V // (LOGITS * sharers(AXES))))
    return min(parts, T)
