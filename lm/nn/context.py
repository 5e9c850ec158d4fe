"""Attention over a sequence that the devices of the mesh axis `context` share.

They hold its columns in `rules.order`: device i of n the parts i and 2n-1-i of 2n, an early and a
late half. Two ways for keys and values to reach the queries of other devices: round a ring, so that
no device ever holds more than its share (Liu et al. 2023; in this order, Brandon et al. 2023), or
all at once.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from lm.mesh.rules import STORAGE, island, spec, ways
from lm.nn.linear import dropout
from lm.nn.remat import named
from lm.nn.scores import sees, weigh
from lm.nn.splash import gathered

# Longest query block whose scores are held at once.
BLOCK = 512


def gather(q_BTNH, k_BSKH, v_BSKH, *, segments_BT, index_BT, window, softcap, drop, key):
    """Returns the causal attention of q over k and v, which every device gathers whole.

    For the arguments see `attend`. A block of each device's queries at a time.
    """
    n, N = ways("context"), q_BTNH.shape[2]
    q, kv, ids = _specs(q_BTNH, k_BSKH, segments_BT)

    def local(q_BTNH, k_BSKH, v_BSKH, segments_BT, index_BT, key):
        k_BSKH, v_BSKH = gathered(k_BSKH, n), gathered(v_BSKH, n)
        ids_BS = None if segments_BT is None else gathered(segments_BT, n)
        T, own = q_BTNH.shape[1:3]
        columns = q_BTNH, _times(T, jax.lax.axis_index("context")), segments_BT, index_BT

        def block(S, columns):
            q_BTNH, t_BT, ids_BT, index_BT = columns
            mask = sees(t_BT, jnp.arange(S), window)
            if ids_BT is not None:
                mask &= ids_BT[:, :, None] == ids_BS[:, None, :S]
            return weigh(q_BTNH, k_BSKH[:, :S], v_BSKH[:, :S], mask, softcap,
                         partial(thin, index_BT=index_BT) if drop else None)

        def thin(shares, index_BT):  # as one device would, which draws for all heads at once
            ones = jnp.ones((*shares.shape[:2], N, shares.shape[-1]), shares.dtype)
            first = 0 if own == N else jax.lax.axis_index("tensor") * own
            kept = jax.lax.dynamic_slice_in_dim(dropout(ones, drop, key, index_BT), first, own, 2)
            return shares * kept.reshape(shares.shape)

        # Early halves see nothing of the late ones; but bits are drawn for all keys.
        seen = n * T if drop else n * T // 2, n * T
        return _join(*(_uncut(jax.lax.map(jax.checkpoint(partial(block, S)), _cut(half)))
                       for S, half in zip(seen, _halves(columns), strict=True)))

    return island(local, (q, kv, kv, ids, PartitionSpec(*q[:2]), PartitionSpec()), q)(
        q_BTNH, k_BSKH, v_BSKH, segments_BT, index_BT, key if drop else None)


def ring(q_BTNH, k_BSKH, v_BSKH, *, segments_BT, window, softcap):
    """Returns the causal attention of q over k and v, which go round; see `attend`.

    Device memory is linear in the columns that a device holds, of the gradient as well.
    """
    q, kv, ids = _specs(q_BTNH, k_BSKH, segments_BT)

    def local(q_BTNH, k_BSKH, v_BSKH, segments_BT):
        B, T, N, H = q_BTNH.shape
        K = k_BSKH.shape[2]
        q_BTKgH = q_BTNH.reshape(B, T, K, N // K, H)
        return _ring(window, softcap, q_BTKgH, k_BSKH, v_BSKH, segments_BT).reshape(B, T, N, H)

    return island(local, (q, kv, kv, ids), q)(
        q_BTNH * q_BTNH.shape[-1] ** -0.5, k_BSKH, v_BSKH, segments_BT)


def _specs(q_BTNH, k_BSKH, segments_BT):
    """How queries, keys and segments lie on the mesh: heads over `tensor`, which T leaves them."""
    mesh = jax.sharding.get_abstract_mesh()
    of = lambda x, axes: None if x is None else spec(axes, x.shape, mesh, STORAGE)  # noqa: E731
    return of(q_BTNH, "BTNH"), of(k_BSKH, "BSKH"), of(segments_BT, "BT")


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _ring(window, softcap, q_BTKgH, k_BSKH, v_BSKH, segments_BT):
    return _forward(window, softcap, q_BTKgH, k_BSKH, v_BSKH, segments_BT)[0]


def _forward(window, softcap, q_BTKgH, k_BSKH, v_BSKH, segments_BT):
    """The output, and what the way back needs."""
    def visit(causal, query, made, keys, _):
        q, ids_BT, t_BT = query
        k, v, ids_BS, s_BS = keys
        scores, _ = _scores(q, k, _mask(causal, window, t_BT, ids_BT, s_BS, ids_BS), softcap)
        top = scores.max(-1, keepdims=True)
        shares = jnp.exp(scores - top)
        total = shares.sum(-1, keepdims=True)
        part = jnp.einsum("BKgTS,BSKH->BTKgH", shares.astype(v.dtype), v,
                          preferred_element_type=jnp.float32)
        return _merge(made, part / _by_query(total), _by_query(top + jnp.log(total))), ()

    start = jnp.zeros(q_BTKgH.shape, jnp.float32), jnp.full((*q_BTKgH.shape[:-1], 1), -jnp.inf)
    (out, lse), _ = _round(visit, (q_BTKgH, segments_BT), start, (k_BSKH, v_BSKH, segments_BT), ())
    out, lse = named(out.astype(q_BTKgH.dtype), "attention"), named(lse, "attention")
    return out, (q_BTKgH, k_BSKH, v_BSKH, segments_BT, out, lse)


def _backward(window, softcap, saved, dy_BTKgH):
    """The gradients of q, k and v: those of k and v go round with them and end at home."""
    q_BTKgH, k_BSKH, v_BSKH, segments_BT, out, lse = saved
    # What the softmax takes off all gradients of a query's scores (Dao et al. 2022, section 3.1).
    mean = (dy_BTKgH.astype(jnp.float32) * out).sum(-1, keepdims=True)

    def visit(causal, query, dq, keys, dkv):
        q, dy, lse, mean, ids_BT, t_BT = query
        k, v, ids_BS, s_BS = keys
        einsum = partial(jnp.einsum, preferred_element_type=jnp.float32)
        scores, slope = _scores(q, k, _mask(causal, window, t_BT, ids_BT, s_BS, ids_BS), softcap)
        shares = jnp.exp(scores - _by_head(lse))
        dshares = einsum("BTKgH,BSKH->BKgTS", dy, v)
        dscores = (shares * (dshares - _by_head(mean)) * slope).astype(q.dtype)
        dk = einsum("BKgTS,BTKgH->BSKH", dscores, q)
        dv = einsum("BKgTS,BTKgH->BSKH", shares.astype(dy.dtype), dy)
        return dq + einsum("BKgTS,BSKH->BTKgH", dscores, k), (dkv[0] + dk, dkv[1] + dv)

    dq, (dk, dv) = _round(
        visit, (q_BTKgH, dy_BTKgH, lse, mean, segments_BT), jnp.zeros(q_BTKgH.shape, jnp.float32),
        (k_BSKH, v_BSKH, segments_BT), (jnp.zeros(k_BSKH.shape, jnp.float32),) * 2)
    return dq.astype(q_BTKgH.dtype), dk.astype(k_BSKH.dtype), dv.astype(v_BSKH.dtype), None


_ring.defvjp(_forward, _backward)


def _round(visit, query, made, keys, load):
    """Returns (made, load) after every half of the keys has met each query half that sees it.

    visit: (causal, query, made, keys, load) -> (made, load), of halves; causal: their times are the
    same, else the keys are earlier. query and made stay; keys go round, and load goes with them;
    all are trees of one device's columns [., T or S, ...]. Each turn is the same work everywhere:
    late queries see all early keys. Besides, early queries see the early keys of devices before
    them, and late queries the late keys of devices after.
    """
    n, i = jax.lax.axis_size("context"), jax.lax.axis_index("context")
    visit = partial(_by_block, visit)
    query = _halves((*query, _times(query[0].shape[1], i)))

    def on(tree):
        return jax.lax.ppermute(tree, "context", [(j, (j + 1) % n) for j in range(n)])

    def halves(made, keys, load, holder):
        return _halves(made), _halves((*keys, _times(keys[0].shape[1], holder))), _halves(load)

    def own(made, keys, load):
        (m0, m1), (k0, k1), (l0, l1) = halves(made, keys, load, i)
        m0, l0 = visit(True, query[0], m0, k0, l0)
        m1, l0 = visit(False, query[1], m1, k0, l0)
        m1, l1 = visit(True, query[1], m1, k1, l1)
        return _join(m0, m1), _join(l0, l1)

    def turn(made, keys, load, step):
        before = step <= i  # the keys are of a device before this one
        choose = partial(jax.tree.map, lambda a, b: jnp.where(before, a, b))
        (m0, m1), (k0, k1), (l0, l1) = halves(made, keys, load, (i - step) % n)
        m1, l0 = visit(False, query[1], m1, k0, l0)
        m, l = visit(False, choose(*query), choose(m0, m1), choose(k0, k1), choose(l0, l1))
        return _join(choose(m, m0), choose(m1, m)), _join(choose(l, l0), choose(l1, l))

    def body(carry, step):
        made, keys, load = carry
        ahead = on(keys)  # first, so that they are on their way during the turn
        made, load = turn(made, keys, load, step)
        return (made, ahead, on(load)), None

    ahead = on(keys)
    made, load = own(made, keys, load)
    (made, keys, load), _ = jax.lax.scan(body, (made, ahead, on(load)), jnp.arange(1, n - 1))
    made, load = turn(made, keys, load, n - 1)
    return made, on(load)


def _by_block(visit, causal, query, made, keys, load):
    """`visit` for a block of queries at a time."""
    def body(load, block):
        made, load = visit(causal, *block, keys, load)
        return load, made

    load, made = jax.lax.scan(body, load, _cut((query, made)))
    return _uncut(made), load


def _cut(tree):
    """The columns of each array in blocks, [blocks, B, block, ...]: the longest that divide."""
    T = jax.tree.leaves(tree)[0].shape[1]
    size = max(size for size in range(1, min(BLOCK, T) + 1) if T % size == 0)
    return jax.tree.map(
        lambda x: jnp.moveaxis(x.reshape(len(x), -1, size, *x.shape[2:]), 1, 0), tree)


def _uncut(tree):
    return jax.tree.map(
        lambda x: jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:]), tree)


def _times(T, holder):
    """The times of the T columns that a device holds: [1, T]."""
    n, half = jax.lax.axis_size("context"), jnp.arange(T // 2)
    return jnp.concatenate([holder * (T // 2) + half, (2 * n - 1 - holder) * (T // 2) + half])[None]


def _halves(tree):
    """The early and the late columns of each array."""
    half = lambda x: x.shape[1] // 2  # noqa: E731
    return (jax.tree.map(lambda x: x[:, :half(x)], tree),
            jax.tree.map(lambda x: x[:, half(x):], tree))


def _join(early, late):
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b], 1), early, late)


def _mask(causal, window, t_BT, ids_BT, s_BS, ids_BS):
    """Which keys of a half the queries of another see: [B or 1, T, S], None for all."""
    mask = sees(t_BT, s_BS[0], window) if causal or window else None
    if ids_BT is not None:
        same = ids_BT[:, :, None] == ids_BS[:, None]
        mask = same if mask is None else mask & same
    return mask


def _scores(q_BTKgH, k_BSKH, mask_BTS, softcap):
    """(scores [B, K, g, T, S], the slope of the soft-cap at each)."""
    scores, slope = jnp.einsum("BTKgH,BSKH->BKgTS", q_BTKgH, k_BSKH,
                               preferred_element_type=jnp.float32), 1.0
    if softcap:
        share = jnp.tanh(scores / softcap)
        scores, slope = softcap * share, 1 - share ** 2
    if mask_BTS is not None:
        scores = jnp.where(jnp.expand_dims(mask_BTS, (1, 2)), scores, -1e30)
    return scores, slope


def _merge(made, part, lse):
    """Two softmax averages of a query's values as one, by the log-sum-exp of their scores.

    One over no key that the query sees has log-sum-exp -1e30, so it counts nothing beside the
    query's own key.
    """
    both = jnp.logaddexp(made[1], lse)
    return made[0] * jnp.exp(made[1] - both) + part * jnp.exp(lse - both), both


def _by_query(x_BKgT1):
    return jnp.moveaxis(x_BKgT1, 3, 1)


def _by_head(x_BTKg1):
    return jnp.moveaxis(x_BTKg1, 1, 3)
