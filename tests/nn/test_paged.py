"""Attention over pages: every kind is the dense one; what is stored is rounded, not lost."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.infer.shape import page_bytes
from lm.models.decoder.config import Config
from lm.nn import paged
from lm.nn.attend import dense
from lm.nn.places import Sizes

S = 8   # tokens of a page


def case(lengths, counts, *, K=2, N=4, H=16, Q=1, L=3, layer=1, dtype=jnp.float32):
    """A step in which sequences of `lengths` tokens have their last `counts` computed.

    Returns (cache with all earlier keys, the step's q, k and v, all keys and values by sequence).
    """
    rng = np.random.default_rng(0)
    P = -(-max(lengths) // S)
    pages = rng.permutation(len(lengths) * P)
    tables = pages.reshape(len(lengths), P).tolist()
    whole = [[rng.standard_normal((n, heads, H)).astype(np.float32) for heads in (N, K, K)]
             for n in lengths]
    pools = [np.array(x) for x in paged.heads(L, len(pages), S, K, H, jnp.float32)]
    for own, (_, k, v), n, count in zip(tables, whole, lengths, counts, strict=True):
        at = np.arange(n - count)
        page = np.array(own)[at // S]
        for pool, x in zip(pools, (k, v), strict=True):
            pool[:, layer, page, at % S] = x[:n - count].swapaxes(0, 1)
    T = sum(counts) + 2
    places = Sizes(T=T, B=len(lengths), P=P, Q=Q, page=S).fill(
        [(own, n - c, c) for own, n, c in zip(tables, lengths, counts, strict=True)])
    step = [np.concatenate([x[i][n - c:] for x, n, c in zip(whole, lengths, counts, strict=True)]
                           + [np.zeros((2, *whole[0][i].shape[1:]), np.float32)])[None]
            for i in range(3)]
    cache = paged.Cache(tuple(jnp.asarray(x, dtype) for x in pools), None, places, layer=layer, Q=Q)
    return cache, step, whole


def right(whole, counts, window, softcap):
    """The same by `dense`, each sequence alone."""
    out = []
    for (q, k, v), count in zip(whole, counts, strict=True):
        y = dense(q[None], k[None], v[None], segments_BT=None, index_BT=None, window=window,
                  softcap=softcap, drop=0.0, key=None)
        out.append(y[0, len(q) - count:])
    return np.concatenate(out)


STEPS = {
    "decoding": ([1, 9, 200, 24], [1, 1, 1, 1]),
    "chunks": ([40, 5, 150], [40, 2, 33]),
    "both": ([30, 8, 17, 129, 12], [1, 8, 3, 1, 12]),
}


@pytest.mark.parametrize("options", [{}, dict(window=11), dict(softcap=2.0)])
@pytest.mark.parametrize("Q", [1, 4, 16])
@pytest.mark.parametrize("step", STEPS)
def test_blocks_are_dense(step, Q, options):
    options = dict(window=0, softcap=0.0) | options
    cache, (q, k, v), whole = case(*STEPS[step], Q=Q)
    y, after = jax.jit(functools.partial(paged.Cache.attend, **options))(cache, q, k, v)
    counts = STEPS[step][1]
    np.testing.assert_allclose(y[0, :sum(counts)], right(whole, counts, **options),
                               rtol=1e-4, atol=1e-5)
    assert np.isfinite(y).all()   # those of nobody too
    for old, new in zip(cache.pools, after.pools, strict=True):
        assert np.count_nonzero(np.any(np.asarray(old != new), (0, 4))) == sum(counts)


@pytest.mark.parametrize("options", [
    {}, dict(K=4), dict(K=1, softcap=3.0), dict(H=64, pages=40), dict(window=9), dict(H=24)])
def test_the_kernel_for_gpus_interpreted(options):
    """Where it cannot do what is asked, `blocks` does."""
    own = dict(window=0, softcap=0.0) | {k: v for k, v in options.items()
                                         if k in ("window", "softcap")}
    lengths, counts = [1, 9, 70, options.get("pages", 5) * S], [1] * 4
    cache, (q, k, v), whole = case(lengths, counts, **{
        k: v for k, v in options.items() if k in "KH"})
    pools = paged.write(cache, k[0], v[0])
    y = paged.splits(dataclasses.replace(cache, pools=pools), q[0], **own, interpret=True)
    np.testing.assert_allclose(y[:4], right(whole, counts, **own), rtol=1e-4, atol=1e-5)


def test_an_inactive_stage_writes_nothing():
    cache, (q, k, v), _ = case([5], [2])
    _, after = dataclasses.replace(cache, active=False).attend(q, k, v, window=0, softcap=0.0)
    for old, new in zip(cache.pools, after.pools, strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("dtype, bound", [("int8", 0.02), ("float8_e4m3fn", 0.1)])
def test_a_cache_of_eight_bits(dtype, bound):
    """With a scale for each head, of heads that differ a thousandfold."""
    lengths, counts = STEPS["both"]
    cache, (q, k, v), whole = case(lengths, counts, Q=4)
    big = np.array([1.0, 1000.0], np.float32)
    scale = np.ones((3, 2), np.float32) * 4 * big / (127 if dtype == "int8" else 448)
    scaled = paged.Cache(
        tuple(paged.stored(x * big[:, None, None, None, None]
                           / scale.T[:, :, None, None, None], dtype) for x in cache.pools),
        (scale, scale), cache.places, layer=1, Q=4)
    y, after = scaled.attend(q / np.repeat(big, 2)[:, None], k * big[:, None], v * big[:, None],
                             window=0, softcap=0.0)
    assert after.pools[0].dtype == dtype
    expected = right(whole, counts, 0, 0.0) * np.repeat(big, 2)[:, None]
    error = np.abs(y[0, :sum(counts)] - expected) / np.repeat(big, 2)[:, None]
    assert error.max() < bound * 4


def test_what_is_stored_is_clipped():
    x = jnp.array([1e6, -1e6, 0.4, 1.6])
    np.testing.assert_array_equal(paged.stored(x, "int8"), [127, -127, 0, 2])
    assert np.abs(np.asarray(paged.stored(x, "float8_e4m3fn"), np.float32)).max() == 448
    assert paged.stored(x, "bfloat16").dtype == jnp.bfloat16


@pytest.mark.parametrize("kind, lanes", [("blocks", 16), ("kernel", 128)])
def test_pages_are_of_the_size_that_is_said(kind, lanes):
    """The kernel for TPUs has heads of 128 lanes, used or not."""
    model = Config(L=3, D=64, N=4, K=2, H=16)
    assert page_bytes(model, S, "bfloat16", kind) == 2 * 3 * S * 2 * lanes * 2
