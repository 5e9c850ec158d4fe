"""The sparse flash-attention kernel of TPUs, on each device's own rows, heads and queries."""

import math

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from lm.mesh.rules import STORAGE, island, order, spec


def splash(q_BTNH, k_BSKH, v_BSKH, *, segments_BT, index_BT, window, softcap, drop,
           key, context: int = 1, interpret: bool = False):
    """Returns the causal attention of q over k and v; for the arguments see `attend`.

    context: the devices that share each sequence, its columns in `rules.order`; of keys and values
    each gathers all.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    mesh = jax.sharding.get_abstract_mesh()
    spread = not mesh.empty and mesh.size > 1
    table = STORAGE if context > 1 else dict(STORAGE, T=(), S=())
    of = lambda x, axes: spec(axes, x.shape, mesh, table) if spread else None  # noqa: E731
    q, kv = of(q_BTNH, "BTNH"), of(k_BSKH, "BSKH")
    heads = math.prod(mesh.shape[n] for n in jax.tree.leaves(q[2])) if spread else 1
    run = _kernel(q_BTNH.shape[1], q_BTNH.shape[2] // heads, window, softcap, context, interpret)

    def local(run, q, k, v, segments):
        q, k, v = (x.swapaxes(1, 2) for x in (q * q.shape[-1] ** -0.5, gathered(k, context),
                                              gathered(v, context)))
        ids = None if segments is None else kernel.SegmentIds(segments,
                                                              gathered(segments, context))
        return jax.vmap(run, (0, 0, 0, 0))(q, k, v, ids).swapaxes(1, 2)

    if not spread:
        return local(run, q_BTNH, k_BSKH, v_BSKH, segments_BT)
    ids = None if segments_BT is None else of(segments_BT, "BT")
    columns = NamedSharding(mesh, PartitionSpec(None, "context" if context > 1 else None))
    return island(local, (run.manual_sharding_spec(columns), q, kv, kv, ids), q)(
        run, q_BTNH, k_BSKH, v_BSKH, segments_BT)


def _kernel(T, N, window, softcap, context, interpret):
    """The kernel for N heads and T queries, of which each device of `context` has its part."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
    one = masks.LocalMask((T, T), (window - 1, 0), 0) if window else masks.CausalMask((T, T))
    one.q_sequence = order(T, context).astype(jnp.int32)
    run = T if context == 1 else T // (2 * context)  # columns whose times follow on each other
    size = next(b for b in (512, 384, 256, 128) if run % b == 0)
    return kernel.make_splash_mha(
        masks.MultiHeadMask([one] * N), head_shards=1, q_seq_shards=context,
        attn_logits_soft_cap=softcap or None, interpret=interpret,
        residual_checkpoint_name="attention", block_sizes=kernel.BlockSizes(**dict.fromkeys(
            ("block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv",
             "block_kv_dkv_compute", "block_q_dq", "block_kv_dq"), size)))


def gathered(x_BS, context: int):
    """Returns one device's columns of x, [B, S / context, ...], with all others, in time order."""
    if context == 1:
        return x_BS
    x_BS = jax.lax.all_gather(x_BS, "context", axis=1, tiled=True)
    B, S, *rest = x_BS.shape
    parts = x_BS.reshape(B, context, 2, S // (2 * context), *rest)
    early, late = parts[:, :, 0], parts[:, ::-1, 1]
    return jnp.concatenate([early, late], 1).reshape(B, S, *rest)
