"""Softmax attention by the implementation that suits the platform; all give the same numbers."""

import functools
import math

import jax
import jax.numpy as jnp

from lm.base.errors import UserError, pick
from lm.mesh.devices import platform
from lm.mesh.rules import COMPUTE, spec
from lm.nn.linear import dropout

# Longest query block whose scores are held at once.
BLOCK = 512


def attend(q_BTNH, k_BSKH, v_BSKH, *, segments_BT=None, offset_B=None, window: int = 0,
           softcap: float = 0.0, drop: float = 0.0, key=None, how: str = "auto"):
    """Returns the causal attention of q over k and v, [B, T, N, H].

    segments_BT: tokens attend within their own segment. offset_B: the index in S of each row's
    first query (a cache); without it T = S and they start together. window: the number of keys
    back that are seen, itself included; 0 is all. softcap: scores are softcap*tanh(scores/softcap).
    Scores are scaled by H**-0.5 and normalised in float32.
    """
    drop = drop if key is not None else 0.0
    if how == "auto" or offset_B is not None:  # the kernels have no cache
        how = _choose(q_BTNH, offset_B, softcap, drop)
    _refuse(how, q_BTNH.shape[1], softcap, drop)
    with jax.named_scope("attend"):  # so that whoever counts FLOPs can tell them apart
        return pick(KINDS, how, "attention")(
            q_BTNH, k_BSKH, v_BSKH, segments_BT=segments_BT, offset_B=offset_B, window=window,
            softcap=softcap, drop=drop, key=key)


def _choose(q, offset, softcap, drop):
    """The fastest kind that can do what is asked on the platform compiled for."""
    T, H = q.shape[1], q.shape[3]
    if offset is None and not drop:
        if platform() == "tpu" and T % 128 == 0 and H % 8 == 0:
            return "splash"
        if (platform() == "gpu" and not softcap and H % 8 == 0 and H <= 128
                and q.dtype in (jnp.bfloat16, jnp.float16)):
            return "cudnn"
    return "blocks" if T >= 2 * BLOCK and not drop else "dense"


def _refuse(how, T, softcap, drop):
    """Raises UserError if a kind that was asked for by name cannot do what the model needs."""
    cannot = [word for kinds, needed, word in (
        ("blocks splash cudnn", drop, "dropout_attention"), ("cudnn", softcap, "attention_softcap"),
        ("splash", T % 128, f"a sequence of {T}, which 128 does not divide"))
        if how in kinds.split() and needed]
    if cannot:
        raise UserError(f"model.attention = '{how}' cannot do {' or '.join(cannot)}; "
                        "set model.attention='auto'")


def dense(q, k, v, *, segments_BT, offset_B, window, softcap, drop, key):
    """All scores at once: the reference, and the fastest for short sequences on a CPU."""
    T, S = q.shape[1], k.shape[1]
    t = jnp.arange(T)[None, :] if offset_B is None else offset_B[:, None] + jnp.arange(T)
    mask = _mask(t, jnp.arange(S), window)
    if segments_BT is not None:
        mask &= segments_BT[:, :, None] == segments_BT[:, None, :]
    return _scores_to_values(q, k, v, mask, softcap, drop, key)


def _mask(t_BT, s_S, window):
    """Which keys each query sees: [B or 1, T, S]."""
    back = t_BT[:, :, None] - s_S
    return (back >= 0) & (back < window) if window else back >= 0


def _scores_to_values(q_BTNH, k_BSKH, v_BSKH, mask_BTS, softcap, drop=0.0, key=None):
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
    shares = dropout(shares, drop, key)
    return jnp.einsum(f"BK{g}TS,BSKH->BTK{g}H", shares, v_BSKH).reshape(B, T, N, H)


def blocks(q, k, v, *, segments_BT, offset_B, window, softcap, drop, key):
    """A block of queries at a time, over the keys that it can see: memory linear in T."""
    T, S = q.shape[1], k.shape[1]

    @functools.partial(jax.checkpoint, static_argnums=(3, 4))
    def block(q, k, v, start, first):
        t = start + jnp.arange(q.shape[1])
        t = t[None] if offset_B is None else offset_B[:, None] + t
        s = first + jnp.arange(k.shape[1])
        mask = _mask(t, s, window)
        if segments_BT is not None:
            mask &= (segments_BT[:, start:start + q.shape[1], None]
                     == segments_BT[:, None, first:first + k.shape[1]])
        return _scores_to_values(q, k, v, mask, softcap)

    out = []
    for start in range(0, T, BLOCK):
        stop = min(start + BLOCK, T)
        first, last = 0, S
        if offset_B is None:  # what every query of the block looks back to, known before the run
            first, last = max(0, start - window + 1) if window else 0, stop
        out.append(block(q[:, start:stop], k[:, first:last], v[:, first:last], start, first))
    return jnp.concatenate(out, axis=1)


def cudnn(q, k, v, *, segments_BT, offset_B, window, softcap, drop, key):
    """The fused kernel of NVIDIA GPUs; half precision, no soft-cap."""
    mask = None
    if segments_BT is not None:
        mask = (segments_BT[:, :, None] == segments_BT[:, None, :])[:, None]
    return jax.nn.dot_product_attention(
        q, k, v, mask=mask, is_causal=True, implementation="cudnn",
        local_window_size=(window - 1, 0) if window else None)


def splash(q_BTNH, k_BSKH, v_BSKH, *, segments_BT, offset_B, window, softcap, drop, key,
           interpret: bool = False):
    """The sparse flash-attention kernel of TPUs, on each device's own rows and heads."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
    T, N = q_BTNH.shape[1:3]
    mesh = jax.sharding.get_abstract_mesh()
    spread = not mesh.empty and mesh.size > 1
    heads = math.prod(mesh.shape[n] for n in COMPUTE["N"]) if spread else 1
    one = masks.LocalMask((T, T), (window - 1, 0), 0) if window else masks.CausalMask((T, T))
    size = next(b for b in (512, 384, 256, 128) if T % b == 0)
    run = kernel.make_splash_mha(
        masks.MultiHeadMask([one] * (N // heads)), head_shards=1, q_seq_shards=1,
        attn_logits_soft_cap=softcap or None, interpret=interpret,
        block_sizes=kernel.BlockSizes(**dict.fromkeys(
            ("block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv",
             "block_kv_dkv_compute", "block_q_dq", "block_kv_dq"), size)))

    def local(q, k, v, segments):
        q, k, v = (x.swapaxes(1, 2) for x in (q * q.shape[-1] ** -0.5, k, v))
        ids = None if segments is None else kernel.SegmentIds(segments, segments)
        return jax.vmap(run)(q, k, v, ids).swapaxes(1, 2)

    if not spread:
        return local(q_BTNH, k_BSKH, v_BSKH, segments_BT)
    if k_BSKH.shape[2] % heads:  # each device's own query heads need their kv head beside them
        k_BSKH, v_BSKH = (jnp.repeat(x, N // x.shape[2], 2) for x in (k_BSKH, v_BSKH))
    of = lambda x, axes: spec(axes, x.shape, mesh, COMPUTE)  # noqa: E731
    q, kv = of(q_BTNH, "BTNH"), of(k_BSKH, "BSKH")
    ids = None if segments_BT is None else of(segments_BT, "BT")
    return jax.shard_map(local, in_specs=(q, kv, kv, ids), out_specs=q, check_vma=False)(
        q_BTNH, k_BSKH, v_BSKH, segments_BT)


KINDS = dict(dense=dense, blocks=blocks, cudnn=cudnn, splash=splash)
