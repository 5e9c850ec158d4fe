"""Cross entropy of the next token without the logits of the whole batch in memory."""

import jax
import jax.numpy as jnp

from lm.base.mean import Mean
from lm.mesh.config import AXES
from lm.mesh.rules import shard, sharers

# The most logits held at once on one device: 2**26 in float32 are 256 MiB.
LOGITS = 2 ** 26


def cross_entropy(x_BTD, logits_of, V: int, targets_BT, weights_BT, chunk: int = 0):
    """Returns (nll, z): Means over tokens of -log p(target) in nats and of log(Z)**2.

    logits_of: x [B, t, D] -> float32 logits [B, t, V]. chunk: tokens of each sequence whose
    logits are held at once; 0 chooses the most that fits in `LOGITS`. Where that is not all, the
    backward pass computes each chunk's logits again.
    """
    B, T = targets_BT.shape
    parts = _parts(B, T, V) if chunk == 0 else -(-T // chunk)
    if T % parts:
        parts = next(n for n in range(parts, T + 1) if T % n == 0)

    def one(x, targets, weights):
        logits = shard(logits_of(x), "BTV")
        highest = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
        log_z = jnp.log(jnp.exp(logits - highest).sum(-1)) + highest[..., 0]
        # A comparison, not a gather: it stays local when V is spread over devices, and its
        # gradient is no scatter.
        hit = jnp.arange(V) == targets[..., None]
        nll = log_z - jnp.where(hit, logits, 0).sum(-1)
        return (nll * weights).sum(), (log_z ** 2 * weights).sum()

    if parts == 1:
        nll, z = one(x_BTD, targets_BT, weights_BT)
    else:
        def split(x):
            return x.reshape(B, parts, T // parts, *x.shape[2:]).swapaxes(0, 1)

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
