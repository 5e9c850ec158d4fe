"""The cache of keys and values in pages, one pool for all layers, and attention over it.

A step computes tokens of many sequences at once (see `lm.nn.places`). Each layer writes their keys
and values into the pool, then attends over the pages of each token's own sequence, so that prefill,
decoding and verification are one program. The pool is carried through the loop over layers and
changed in place (no layer has an array of its own).
"""

import dataclasses
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from lm.mesh.rules import COMPUTE, island, shard, spec
from lm.nn.places import Places
from lm.nn.scores import copies

KEYS = 128   # of a sequence that are gathered and weighed at once
LANES = 128  # of a TPU's registers


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """The pool as one layer sees it in one step.

    pools: arrays as the kind of attention keeps them. scales: k_scale_LK, v_scale_LK, what numbers
    are multiplied by, of each layer and kv head, or None. layer: its number; first: that of the
    pools' first. active: False writes nothing (a stage whose turn it is not). Q: tokens of a block.
    """

    pools: tuple
    scales: tuple | None
    places: Places
    layer: jax.Array | int = 0
    first: jax.Array | int = 0
    active: jax.Array | bool = True
    Q: int = dataclasses.field(default=1, metadata=dict(static=True))
    kind: str = dataclasses.field(default="blocks", metadata=dict(static=True))

    def attend(self, q_BTNH, k_BTKH, v_BTKH, *, window: int, softcap: float):
        """Returns (y_BTNH, cache) of B = 1 row of the step's tokens; their keys are in it then."""
        q, k, v = q_BTNH[0], k_BTKH[0], v_BTKH[0]
        if (more := copies(k.shape[1], q.shape[1])) > 1:
            k, v = (jnp.repeat(x, more, 1) for x in (k, v))
        if self.scales is not None:
            k_scale, v_scale = (scale[self.layer] for scale in self.scales)
            k, v = k / k_scale[:, None], v / v_scale[:, None]
            q = _by_head(q, k_scale)  # scores are linear in the keys' scale, results in the values'
        kind, dtype = KINDS[self.kind], self.pools[0].dtype
        with jax.named_scope("attend"):
            cache = dataclasses.replace(self, pools=kind.write(self, stored(k, dtype),
                                                               stored(v, dtype)))
            y = kind.attend(cache, q, window, softcap)
        if self.scales is not None:
            y = _by_head(y, v_scale)
        return y[None].astype(q_BTNH.dtype), cache

    @property
    def index(self):
        """The layer's index in the pools."""
        return self.layer - self.first

    @property
    def page_T(self):
        """The page that each token's keys go to; past the end where nothing is written."""
        return jnp.where(self.active, self.places.page_T, 2**30)


def stored(x, dtype):
    """Returns x in the cache's format: rounded and clipped where that has few numbers."""
    dtype = jnp.dtype(dtype)
    if jnp.issubdtype(dtype, jnp.integer):
        limit = jnp.iinfo(dtype).max
        return jnp.clip(jnp.round(x), -limit, limit).astype(dtype)
    if dtype.itemsize == 1:  # e4m3 has no infinity: what is beyond its range would be NaN
        limit = float(jnp.finfo(dtype).max)
        return jnp.clip(x, -limit, limit).astype(dtype)
    return x.astype(dtype)


def _by_head(x_TNH, scale_K):
    T, N, H = x_TNH.shape
    K = scale_K.shape[0]
    x = x_TNH.reshape(T, K, N // K, H).astype(jnp.float32) * scale_K[:, None, None]
    return x.reshape(T, N, H).astype(x_TNH.dtype)


class Kind(NamedTuple):
    """A way to keep pages and to attend over them."""

    axes: str           # of its pools: only K lies on the mesh
    make: Callable      # (L, P, S, K, H, dtype) -> pools
    write: Callable     # (cache, k_TKH, v_TKH) -> pools
    attend: Callable    # (cache, q_TNH, window, softcap) -> y_TNH


def heads(L: int, P: int, S: int, K: int, H: int, dtype) -> tuple:
    """Returns empty pools of P pages of S tokens: keys and values, [K, L, P, S, H] each.

    With heads outermost a gathered page needs no transposition before it is multiplied.
    """
    return tuple(shard(jnp.zeros((K, L, P, S, H), dtype), "K....") for _ in range(2))


def write(cache: Cache, k_TKH, v_TKH) -> tuple:
    """Returns the pools of `heads` with the step's keys and values."""
    p = cache.places
    return tuple(
        shard(pool.at[:, cache.index, cache.page_T, p.offset_T].set(
            jnp.swapaxes(new, 0, 1), mode="drop"), "K....")
        for pool, new in zip(cache.pools, (k_TKH, v_TKH), strict=True))


def blocks(cache: Cache, q_TNH, window: int, softcap: float):
    """Attention in plain array operations, a few pages of each block's sequence at a time.

    The softmax is summed up on the way (Milakov & Gimelshein 2018), in as many turns as the longest
    sequence takes.
    """
    p, Q, (keys, values) = cache.places, cache.Q, cache.pools
    K, _, _, S, H = keys.shape
    (T, N, _), M, dtype = q_TNH.shape, p.row_M.shape[0], q_TNH.dtype
    g = N // K
    alone = Q == 1  # each token is a block
    t = jnp.minimum(p.first_M[:, None] + jnp.arange(Q), T - 1)
    q_MQNH, t_MQ = (q_TNH[:, None], p.position_T[:, None]) if alone else (q_TNH[t], p.position_T[t])
    q = jnp.moveaxis((q_MQNH * H ** -0.5).reshape(M, Q, K, g, H), 2, 0).reshape(K, M, Q * g, H)
    t_MX = jnp.repeat(t_MQ, g, 1)
    P = p.table_BP.shape[1]
    G = max(1, min(KEYS // S, P))
    table = jnp.pad(p.table_BP, ((0, 0), (0, -P % G)))[p.row_M]
    used = p.count_M > 0
    turns = -(-jnp.max(jnp.where(used, p.length_B[p.row_M], 0)) // (S * G))
    first = 0
    if window:  # pages that no query of the step looks back to are passed over
        least = jnp.min(jnp.where(used, p.position_T[p.first_M], 2**30))
        first = jnp.minimum(jnp.maximum(0, least - window + 1) // (S * G), turns)

    def turn(i, carry):
        most, total, y = carry
        pages_MG = jax.lax.dynamic_slice_in_dim(table, i * G, G, 1)
        k, v = (pool[:, cache.index, pages_MG].reshape(K, M, G * S, H).astype(dtype)
                for pool in (keys, values))
        scores = jnp.einsum("KMXH,KMSH->KMXS", q, k, preferred_element_type=jnp.float32)
        if softcap:
            scores = softcap * jnp.tanh(scores / softcap)
        back = t_MX[:, :, None] - (i * G * S + jnp.arange(G * S))
        seen = (back >= 0) & (back < window) if window else back >= 0
        scores = jnp.where(seen, scores, -1e30)
        new = jnp.maximum(most, scores.max(-1))
        share = jnp.exp(scores - new[..., None]) * seen
        fade = jnp.exp(most - new)
        got = jnp.einsum("KMXS,KMSH->KMXH", share.astype(dtype), v,
                         preferred_element_type=jnp.float32)
        return new, total * fade + share.sum(-1), y * fade[..., None] + got

    shape = (K, M, Q * g)
    carry = (jnp.full(shape, -1e30, jnp.float32), jnp.zeros(shape, jnp.float32),
             jnp.zeros((*shape, H), jnp.float32))
    _, total, y = jax.lax.fori_loop(first, turns, turn, carry)
    y = y / jnp.maximum(total, 1e-30)[..., None]
    y = jnp.moveaxis(y.reshape(K, M, Q, g, H), 0, 2).reshape(M, Q, N, H).astype(dtype)
    return y[:, 0] if alone else y[p.block_T, p.lane_T]


def tokens(L: int, P: int, S: int, K: int, H: int, dtype) -> tuple:
    """Returns an empty pool as jax's kernel for TPUs reads it, [L, P, S, 2 K, H].

    Keys and values alternate; H is filled up to the 128 lanes of a register.
    """
    return (shard(jnp.zeros((L, P, S, 2 * K, -(-H // LANES) * LANES), dtype), "...K."),)


def _wide(x_TKH, H: int):
    return jnp.pad(x_TKH, ((0, 0), (0, 0), (0, H - x_TKH.shape[2])))


def write_tokens(cache: Cache, k_TKH, v_TKH) -> tuple:
    """Returns the pool of `tokens` with the step's keys and values."""
    pool, = cache.pools
    T, K, _ = k_TKH.shape
    new = jnp.stack([k_TKH, v_TKH], 2).reshape(T, 2 * K, -1)
    pool = pool.at[cache.index, cache.page_T, cache.places.offset_T].set(
        _wide(new, pool.shape[-1]), mode="drop")
    return (shard(pool, "...K."),)


def kernel(cache: Cache, q_TNH, window: int, softcap: float):
    """Attention by jax's ragged paged kernel for TPUs."""
    from jax.experimental.pallas.ops.tpu import ragged_paged_attention as ragged
    p, (pool,) = cache.places, cache.pools
    (L, P, S, _, wide), (T, _, H) = pool.shape, q_TNH.shape
    mesh = jax.sharding.get_abstract_mesh()

    def local(q_TNH, pool, index, length_B, table_BP, start_B, count):
        return ragged.ragged_paged_attention(
            q_TNH, pool.reshape(L * P, S, -1, wide), length_B, table_BP + index * P, start_B, count,
            sm_scale=H ** -0.5, sliding_window=window or None, soft_cap=softcap or None,
            # Said, for the kernel would look the best up by the chips that are here.
            num_kv_pages_per_block=max(1, min(KEYS // S, table_BP.shape[1])),
            num_queries_per_block=min(T, 64))

    if not mesh.empty and mesh.size > 1:
        heads, whole = spec("TNH", q_TNH.shape, mesh, dict(COMPUTE, T=())), PartitionSpec()
        pages = spec("...K.", pool.shape, mesh, COMPUTE)
        local = island(local, (heads, pages, *[whole] * 5), heads)
    y = local(_wide(q_TNH, wide), pool, jnp.asarray(cache.index, jnp.int32), p.length_B,
              p.table_BP, p.start_B, p.count)
    return y[..., :H]


def splits(cache: Cache, q_TNH, window: int, softcap: float, interpret: bool = False):
    """Attention by jax's decoding kernel for GPUs, where every token is a block; else `blocks`.

    Each token is a sequence of its own, which ends with it. The kernel knows no windows.
    """
    p, (keys, values) = cache.places, cache.pools
    (_, L, P, S, H), pages = keys.shape, p.table_BP.shape[1]
    gpu = _decoding()
    if gpu is None or cache.Q > 1 or window or H & (H - 1) or keys.dtype.itemsize == 1:
        return blocks(cache, q_TNH, window, softcap)
    together = max(1, min(8, KEYS // S))     # pages that a program has in hand
    parts = next(n for n in (16, 8, 4, 2, 1) if n * together <= max(pages, together))
    table_TP = p.table_BP[p.row_M] + cache.index * P
    table_TP = jnp.pad(table_TP, ((0, 0), (0, -pages % (parts * together))))
    mesh = jax.sharding.get_abstract_mesh()

    def local(q_TNH, keys, values, table_TP, length_T):
        k, v = (x.reshape(x.shape[0], L * P, S, H) for x in (keys, values))
        return gpu.paged_attention(
            q_TNH * H ** -0.5, k, v, table_TP, length_T, k_splits=parts,
            pages_per_compute_block=together, attn_logits_soft_cap=softcap or None,
            interpret=interpret)

    if not mesh.empty and mesh.size > 1:
        heads, whole = spec("TNH", q_TNH.shape, mesh, dict(COMPUTE, T=())), PartitionSpec()
        held = spec("K....", keys.shape, mesh, COMPUTE)
        local = island(local, (heads, held, held, whole, whole), heads)
    return local(q_TNH, keys, values, table_TP, p.position_T + 1)


def _decoding():
    """jax's decoding kernel for GPUs, which later versions of jax will not have; or None."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            from jax.experimental.pallas.ops.gpu import paged_attention
        except ImportError:
            return None
    return paged_attention


KINDS = dict(blocks=Kind("K....", heads, write, blocks),
             splits=Kind("K....", heads, write, splits),
             kernel=Kind("...K.", tokens, write_tokens, kernel))
