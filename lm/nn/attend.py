"""Softmax attention by the implementation that suits the platform; all give the same numbers."""

import functools

import jax
import jax.numpy as jnp

from lm.base.errors import UserError, pick
from lm.mesh.devices import platform
from lm.mesh.rules import shard, ways
from lm.nn.context import BLOCK, gather, ring
from lm.nn.linear import dropout
from lm.nn.scores import copies, sees, weigh
from lm.nn.splash import splash


def attend(q_BTNH, k_BSKH, v_BSKH, *, segments_BT=None, index_BT=None, window: int = 0,
           softcap: float = 0.0, drop: float = 0.0, key=None, how: str = "auto",
           context: str = "auto"):
    """Returns the causal attention of q over k and v, [B, T, N, H].

    segments_BT: tokens attend within their own segment. index_BT: each token's number in the batch,
    for dropout; with it, columns are in `rules.order`. window: the number of keys back that are
    seen, itself included; 0 is all. softcap: scores are softcap*tanh(scores/softcap). Scores are
    scaled by H**-0.5 and normalised in float32. how: one of KINDS. context: how the devices of a
    shared sequence come by each other's keys and values, `ring` or `gather`.
    """
    drop = drop if key is not None else 0.0
    if (more := copies(k_BSKH.shape[2], q_BTNH.shape[2])) > 1:
        k_BSKH, v_BSKH = (shard(jnp.repeat(x, more, 2), "BSKH") for x in (k_BSKH, v_BSKH))
    with jax.named_scope("attend"):  # so that whoever counts FLOPs can tell them apart
        n = ways("context")
        if n > 1 and index_BT is not None and q_BTNH.shape[1] % (2 * n) == 0:
            return _over_context(q_BTNH, k_BSKH, v_BSKH, n, how, context, segments_BT=segments_BT,
                                 index_BT=index_BT, window=window, softcap=softcap, drop=drop,
                                 key=key)
        if how == "auto":
            how = _choose(q_BTNH, softcap, drop)
        _refuse(how, q_BTNH.shape[1], softcap, drop)
        return pick(KINDS, how, "attention")(
            q_BTNH, k_BSKH, v_BSKH, segments_BT=segments_BT, index_BT=index_BT, window=window,
            softcap=softcap, drop=drop, key=key)


def _over_context(q, k, v, n, how, context, *, segments_BT, window, softcap, **dropping):
    """Attention of sequences that n devices share, in `rules.order`."""
    T, drop = q.shape[1], dropping["drop"]
    kernel = _choose(q, softcap, drop) == "splash" and T % (256 * n) == 0
    if how == "splash" or how == "auto" and context != "ring" and kernel:
        _refuse("splash", T // (2 * n), softcap, drop, context)
        return splash(q, k, v, segments_BT=segments_BT, window=window,
                      softcap=softcap, context=n, **dropping)
    _refuse(how, T, softcap, drop, context)
    if context == "gather" or context == "auto" and drop:
        return gather(q, k, v, segments_BT=segments_BT, window=window, softcap=softcap, **dropping)
    return ring(q, k, v, segments_BT=segments_BT, window=window, softcap=softcap)


def _choose(q, softcap, drop):
    """The fastest kind that can do what is asked on the platform compiled for."""
    T, H = q.shape[1], q.shape[3]
    if not drop:
        if platform() == "tpu" and T % 128 == 0 and H % 8 == 0:
            return "splash"
        if (platform() == "gpu" and not softcap and H % 8 == 0 and H <= 128
                and q.dtype in (jnp.bfloat16, jnp.float16)):
            return "cudnn"
    return "blocks" if T >= 2 * BLOCK and not drop else "dense"


def _refuse(how, T, softcap, drop, context=None):
    """Raises UserError if a kind that was asked for by name cannot do what the model needs.

    context: of a sequence that devices share, how; T is then the length of what is in one piece.
    """
    cannot = [word for kinds, needed, word in (
        ("blocks splash cudnn", drop, "dropout_attention"), ("cudnn", softcap, "attention_softcap"),
        ("cudnn", context, "mesh.context"), ("splash", context == "ring", "context='ring'"),
        ("splash", T % 128, f"a sequence of {T}, which 128 does not divide"))
        if how in kinds.split() and needed]
    if cannot:
        raise UserError(f"model.attention = '{how}' cannot do {' or '.join(cannot)}; "
                        "set model.attention='auto'")
    if context == "ring" and drop:
        raise UserError("model.context = 'ring' cannot do dropout_attention; "
                        "set model.context='auto'")


def dense(q, k, v, *, segments_BT, index_BT, window, softcap, drop, key):
    """All scores at once: the reference, and the fastest for short sequences on a CPU."""
    T = q.shape[1]
    mask = sees(jnp.arange(T)[None], jnp.arange(T), window)
    if segments_BT is not None:
        mask &= segments_BT[:, :, None] == segments_BT[:, None, :]
    thin = functools.partial(dropout, rate=drop, key=key, index_BT=index_BT) if drop else None
    return weigh(q, k, v, mask, softcap, thin)


def blocks(q, k, v, *, segments_BT, index_BT, window, softcap, drop, key):
    """A block of queries at a time, over the keys that it can see: memory linear in T."""
    T = q.shape[1]

    @functools.partial(jax.checkpoint, static_argnums=(3, 4))
    def block(q, k, v, start, first):
        t = start + jnp.arange(q.shape[1])
        mask = sees(t[None], first + jnp.arange(k.shape[1]), window)
        if segments_BT is not None:
            mask &= (segments_BT[:, start:start + q.shape[1], None]
                     == segments_BT[:, None, first:first + k.shape[1]])
        return weigh(q, k, v, mask, softcap)

    out = []
    for start in range(0, T, BLOCK):
        stop = min(start + BLOCK, T)
        first = max(0, start - window + 1) if window else 0  # what any query of it looks back to
        out.append(block(q[:, start:stop], k[:, first:stop], v[:, first:stop], start, first))
    return jnp.concatenate(out, axis=1)


def cudnn(q, k, v, *, segments_BT, index_BT, window, softcap, drop, key):
    """The fused kernel of NVIDIA GPUs; half precision, no soft-cap."""
    mask = None
    if segments_BT is not None:
        mask = (segments_BT[:, :, None] == segments_BT[:, None, :])[:, None]
    return jax.nn.dot_product_attention(
        q, k, v, mask=mask, is_causal=True, implementation="cudnn",
        local_window_size=(window - 1, 0) if window else None)


KINDS = dict(dense=dense, blocks=blocks, cudnn=cudnn, splash=splash)
