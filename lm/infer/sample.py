"""One token of each row from its logits."""

import jax
import jax.numpy as jnp

from lm.infer.config import Config


def sample(logits_BV: jax.Array, seed_B: jax.Array, index: jax.Array, c: Config) -> jax.Array:
    """Returns token_B, int32. A row's draw depends on its logits, its seed and `index` alone.

    Draws by the Gumbel trick: argmax(logits + noise) has probability softmax(logits).
    """
    if c.temperature < 1e-4:  # below, float32 has no room for the quotients
        return logits_BV.argmax(-1).astype(jnp.int32)
    logits_BV = keep(logits_BV / c.temperature, c)

    def noise(seed):
        key = jax.random.fold_in(jax.random.key(seed), index)
        return jax.random.gumbel(key, logits_BV.shape[1:])
    return (logits_BV + jax.vmap(noise)(seed_B)).argmax(-1).astype(jnp.int32)


def keep(logits_BV: jax.Array, c: Config) -> jax.Array:
    """Returns the logits with those that top_k, top_p and min_p leave out at -inf."""
    V = logits_BV.shape[-1]
    if c.top_k and c.top_k < V:
        least = jax.lax.top_k(logits_BV, c.top_k)[0][:, -1:]
        logits_BV = jnp.where(logits_BV < least, -jnp.inf, logits_BV)
    if c.top_p < 1:  # the smallest set whose share reaches top_p (Holtzman et al. 2020)
        sorted_BV = jnp.sort(logits_BV, -1)[:, ::-1]
        share = jax.nn.softmax(sorted_BV, -1)
        inside = jnp.cumsum(share, -1) - share < c.top_p
        inside = inside.at[:, 0].set(True)
        least = jnp.where(inside, sorted_BV, jnp.inf).min(-1, keepdims=True)
        logits_BV = jnp.where(logits_BV < least, -jnp.inf, logits_BV)
    if c.min_p > 0:  # Nguyen et al. 2024
        least = logits_BV.max(-1, keepdims=True) + jnp.log(c.min_p)
        logits_BV = jnp.where(logits_BV < least, -jnp.inf, logits_BV)
    return logits_BV
