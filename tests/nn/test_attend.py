"""Every kind of attention gives the numbers and gradients of the textbook's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.base.errors import UserError
from lm.mesh import devices
from lm.mesh.config import Config as Mesh
from lm.nn import attend as module
from lm.nn.attend import attend, blocks, dense, splash

DEFAULTS = dict(segments_BT=None, index_BT=None, window=0, softcap=0.0, drop=0.0, key=None)


def textbook(q_BTNH, k_BSKH, v_BSKH, *, segments_BT, window, softcap, **_):
    """Attention query by query and head by head, as one writes it down."""
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    rows = []
    for b in range(B):
        heads = []
        for n in range(N):
            k, v = k_BSKH[b, :, n * K // N], v_BSKH[b, :, n * K // N]
            t = np.arange(T)[:, None]
            seen = np.arange(S) <= t
            if window:
                seen &= np.arange(S) > t - window
            if segments_BT is not None:
                seen &= segments_BT[b][:, None] == segments_BT[b]
            scores = q_BTNH[b, :, n] @ k.T / H ** 0.5
            if softcap:
                scores = softcap * jnp.tanh(scores / softcap)
            heads.append(jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), -1) @ v)
        rows.append(jnp.stack(heads, 1))
    return jnp.stack(rows)


def inputs(B=2, T=20, S=None, N=4, K=2, H=8, seed=0):
    """q, k, v and the gradient of the output."""
    rng = np.random.default_rng(seed)
    shapes = (B, T, N, H), (B, S or T, K, H), (B, S or T, K, H), (B, T, N, H)
    return [rng.standard_normal(s, dtype=np.float32) * 2 for s in shapes]


def documents(B, T):
    """Segment ids of rows that hold documents of uneven length."""
    rng = np.random.default_rng(1)
    return np.cumsum(rng.random((B, T)) < 3 / T, 1).astype(np.int32)


def results(kind, arrays, options):
    """The output and the gradients of q, k and v."""
    *qkv, dy = arrays
    options = DEFAULTS | options

    @jax.jit
    def run(q, k, v, dy):
        y, back = jax.vjp(lambda *a: kind(*a, **options), q, k, v)
        return y, *back(dy)
    return run(*qkv, dy)


def compare(kinds, arrays, options, tolerance=2e-5):
    expected = results(textbook, arrays, options)
    for kind in kinds:
        for got, right in zip(results(kind, arrays, options), expected, strict=True):
            np.testing.assert_allclose(got, right, rtol=tolerance, atol=tolerance * 10)


CASES = {
    "causal": (dict(), dict()),
    "one kv head": (dict(K=1), dict(window=7)),
    "a kv head each": (dict(K=4), dict(softcap=3.0)),
    "documents": (dict(), dict(segments_BT=documents(2, 20), window=5, softcap=3.0)),
}


@pytest.mark.parametrize("case", CASES)
def test_dense_and_blocks(case, monkeypatch):
    """Blocks of six queries, the last one not whole."""
    monkeypatch.setattr(module, "BLOCK", 6)
    shape, options = CASES[case]
    compare([dense, blocks], inputs(**shape), options)


@pytest.mark.parametrize(("shape", "options"), [
    (dict(H=64, N=4, K=2), dict(segments_BT=documents(1, 256), softcap=5.0)),
    (dict(H=128, N=2, K=1), dict(window=100)),
    (dict(H=80, N=2, K=2), dict()),
])
def test_splash(shape, options):
    """The TPU's kernel, interpreted."""
    kind = functools.partial(splash, interpret=True)
    compare([kind], inputs(B=1, T=256, **shape), options, tolerance=1e-4)


@pytest.mark.parametrize("K", [2, 1])
def test_splash_on_a_mesh(K):
    """On each device's own rows and heads; a kv head that is not its own is brought there."""
    mesh = devices.make(Mesh(data=1, fsdp=2, tensor=2), jax.devices()[:4])
    arrays, options = inputs(T=128, H=64, N=4, K=K), dict(segments_BT=documents(2, 128))
    right = results(dense, arrays, options)
    with devices.use(mesh):
        got = results(functools.partial(splash, interpret=True), arrays, options)
        assert got[0].sharding.shard_shape(got[0].shape) == (1, 128, 2, 64)
    for a, b in zip(got, right, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("window", [0, 7])
def test_dense_is_jax_nn(window):
    """`jax.nn.dot_product_attention`, whose fused form `cudnn` calls with these arguments."""
    segments = documents(2, 20)

    def library(q, k, v, **_):
        mask = (segments[:, :, None] == segments[:, None, :])[:, None]
        return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=True,
                                            implementation="xla",
                                            local_window_size=(window - 1, 0) if window else None)
    options = dict(segments_BT=segments, window=window)
    for a, b in zip(results(dense, inputs(), options), results(library, inputs(), options),
                    strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-4)


def test_dropout_is_of_the_shares():
    """With the identity for values the output is the shares: some zero, the others scaled up."""
    T = 64
    q, k, _, _ = inputs(B=1, T=T, N=2, K=1, H=T)
    v = np.eye(T, dtype=np.float32)[None, :, None]
    run = jax.jit(functools.partial(dense, **DEFAULTS | dict(drop=0.25, key=jax.random.key(0))))
    shares, left = dense(q, k, v, **DEFAULTS), run(q, k, v)
    zero = np.asarray(left == 0)
    np.testing.assert_allclose(left[~zero], shares[~zero] / 0.75, rtol=1e-5)
    assert 0.2 < zero[np.asarray(shares > 0)].mean() < 0.3


CHOICES = [
    # platform, T, H, dtype, options, kind
    ("tpu", 256, 64, jnp.float32, {}, "splash"),
    ("tpu", 256, 128, jnp.bfloat16, dict(softcap=50.0), "splash"),
    ("tpu", 200, 128, jnp.bfloat16, {}, "dense"),
    ("tpu", 256, 128, jnp.bfloat16, dict(drop=0.1), "dense"),
    ("gpu", 256, 64, jnp.bfloat16, {}, "cudnn"),
    ("gpu", 256, 64, jnp.float32, {}, "dense"),
    ("gpu", 256, 256, jnp.bfloat16, {}, "dense"),
    ("gpu", 4096, 64, jnp.bfloat16, dict(softcap=50.0), "blocks"),
    ("cpu", 256, 64, jnp.float32, {}, "dense"),
    ("cpu", 4096, 64, jnp.float32, {}, "blocks"),
    ("cpu", 4096, 64, jnp.float32, dict(drop=0.1), "dense"),
]


@pytest.mark.parametrize(("platform", "T", "H", "dtype", "options", "kind"), CHOICES)
def test_choice(platform, T, H, dtype, options, kind, monkeypatch):
    called = []
    monkeypatch.setattr(module, "platform", lambda: platform)
    for name in module.KINDS:
        monkeypatch.setitem(module.KINDS, name, lambda *_, name=name, **__: called.append(name))
    q = jax.ShapeDtypeStruct((2, T, 4, H), dtype)
    attend(q, q, q, key=0, **options)
    assert called == [kind]


@pytest.mark.parametrize("how, asked, word", [
    ("splash", dict(drop=0.1), "dropout_attention"),
    ("blocks", dict(drop=0.1), "dropout_attention"),
    ("cudnn", dict(softcap=5.0), "attention_softcap"), ("splash", {}, "a sequence of 6")])
def test_a_kind_asked_for_by_name_refuses_what_it_cannot_do(how, asked, word):
    x = jnp.ones((1, 6, 2, 8))
    with pytest.raises(UserError, match=word):
        attend(x, x, x, how=how, key=jax.random.key(0), **asked)
