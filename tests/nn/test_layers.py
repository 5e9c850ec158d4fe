"""Linear maps, norms, activations, rotary positions and dropout against their definitions."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.nn.linear import dropout, linear
from lm.nn.mlp import ACTIVATIONS
from lm.nn.norm import NORMS
from lm.nn.rotary import frequencies, rotate


def both(f, *args):
    """f's value and its gradients, weighted so that no two elements count alike."""
    @jax.jit
    def run(*args):
        def scalar(*args):
            y = f(*args)
            return (y * jnp.cos(jnp.arange(y.size, dtype=jnp.float32).reshape(y.shape))).sum()
        return f(*args), *jax.grad(scalar, range(len(args)))(*args)
    return run(*args)


def close(got, expected, **tolerance):
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, **(dict(rtol=1e-4, atol=1e-5) | tolerance))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize(("x", "w", "inputs", "sum"), [
    ((2, 3, 8), (8, 4, 5), 1, "abi,ijk->abjk"),
    ((2, 3, 4, 5), (4, 5, 6), 2, "abij,ijk->abk"),
    ((2, 8), (8, 5), 1, "ai,ij->aj"),
    ((8,), (8, 5), 1, "i,ij->j"),
])
def test_linear(x, w, inputs, sum, platform, monkeypatch):
    """A plain contraction, whichever form the platform gets."""
    monkeypatch.setattr("lm.nn.linear.platform", lambda: platform)
    x, w = normal(*x), normal(*w, seed=1)
    close(both(functools.partial(linear, inputs=inputs), x, w),
          both(lambda x, w: jnp.einsum(sum, x, w), x, w))
    bias = normal(*w.shape[inputs:], seed=2)
    np.testing.assert_allclose(linear(x, w, inputs, bias), np.einsum(sum, x, w) + bias, rtol=1e-4,
                               atol=1e-5)


@pytest.mark.parametrize("kind", NORMS)
def test_norms(kind):
    """By numpy; the gradient, which is written by hand, by differentiating the definition."""
    x, scale, eps = 3 * normal(4, 5, 16) + 1, normal(16, seed=1), 1e-2

    def definition(x, scale, np=jnp):
        if kind == "layernorm":
            return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * scale
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * scale
    got = both(lambda x, scale: NORMS[kind](x, scale, eps), x, scale)
    np.testing.assert_allclose(got[0], definition(np.float64(x), scale, np), rtol=1e-5, atol=1e-6)
    close(got, both(definition, x, scale))
    half = NORMS[kind](jnp.asarray(x, jnp.bfloat16), scale, eps)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, got[0], atol=0.03)


def test_norm_of_large_numbers_in_bfloat16():
    """Squares of such numbers lose nothing: they are taken in float32."""
    x = jnp.asarray(normal(2, 64) * 1e4 + 1e5, jnp.bfloat16)
    got = NORMS["layernorm"](x, jnp.ones(64), 1e-5)
    np.testing.assert_allclose(got.std(-1), 1, rtol=1e-3)


PLAIN = {
    "gelu": lambda x: 0.5 * x * (1 + jax.lax.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu2": lambda x: jnp.where(x > 0, x * x, 0.0),
    "swiglu": lambda x: x / (1 + jnp.exp(-x)),
    "geglu": lambda x: 0.5 * x * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    x = np.linspace(-6, 6, 101, dtype=np.float32)
    act, gated = ACTIVATIONS[name]
    assert gated == (name in ("swiglu", "geglu"))
    close(both(act, x), both(PLAIN[name], x), atol=1e-6)
    slope = jax.vmap(jax.grad(act))(jnp.asarray(x, jnp.bfloat16))
    assert slope.dtype == jnp.bfloat16
    close([np.float32(slope)], [jax.vmap(jax.grad(PLAIN[name]))(x)], rtol=0.02, atol=0.03)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_rotary_is_relative(share):
    """Scores depend on the distance alone; lengths and what does not rotate stay."""
    H, T = 16, 12
    q, k = normal(H), normal(H, seed=1)
    w_H = frequencies(int(H * share), 100.0)
    assert w_H.shape == (H * share / 2,) and w_H[0] == 1

    def turned(x, start):
        angle = (start + jnp.arange(T, dtype=jnp.float32))[None, :, None] * w_H
        return np.asarray(rotate(jnp.broadcast_to(x, (1, T, 1, H)), angle))[0, :, 0]
    scores = turned(q, 0) @ turned(k, 0).T
    np.testing.assert_allclose(scores, turned(q, 37) @ turned(k, 37).T, rtol=1e-3, atol=1e-4)
    for back in range(T):
        np.testing.assert_allclose(np.diagonal(scores, -back), scores[back, 0], rtol=1e-4,
                                   atol=1e-4)
    assert np.ptp(scores[:, 0]) > 0.5
    np.testing.assert_allclose((turned(q, 5) ** 2).sum(-1), (q ** 2).sum(), rtol=1e-5)
    np.testing.assert_array_equal(turned(q, 5)[:, 2 * len(w_H):], np.tile(q[2 * len(w_H):], (T, 1)))
    np.testing.assert_allclose(turned(q, 0)[0], q, rtol=1e-6)
    # Pairs (i, i + R/2) turn by position * w_i, counter-clockwise.
    R = 2 * len(w_H)
    a, b = q[0], q[R // 2]
    np.testing.assert_allclose(turned(q, 0)[2][[0, R // 2]],
                               [a * np.cos(2) - b * np.sin(2), b * np.cos(2) + a * np.sin(2)],
                               rtol=1e-5)


@pytest.mark.parametrize(("factor", "trained"), [(8.0, 8192.0), (32.0, 8192.0)])
def test_llama3_stretch(factor, trained):
    """As Meta writes it in llama-models' `apply_scaling`, frequency by frequency."""
    def apply_scaling(freqs):
        out = []
        low, high = 1.0, 4.0
        for freq in freqs:
            wavelength = 2 * math.pi / freq
            if wavelength < trained / high:
                out.append(freq)
            elif wavelength > trained / low:
                out.append(freq / factor)
            else:
                smooth = (trained / wavelength - low) / (high - low)
                out.append((1 - smooth) * freq / factor + smooth * freq)
        return out
    plain = [500000.0 ** (-i / 128) for i in range(0, 128, 2)]
    got = frequencies(128, 500000.0, (factor, 1.0, 4.0, trained))
    np.testing.assert_allclose(got, apply_scaling(plain), rtol=1e-6)
    np.testing.assert_allclose(frequencies(128, 500000.0), plain, rtol=1e-6)
    kinds = np.isclose(got, plain, rtol=1e-5) * 1 + np.isclose(got * factor, plain, rtol=1e-5) * 2
    assert set(kinds) == {0, 1, 2}  # kept, stretched and blended ones all occur


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout(rate):
    """A share of zeros, the others scaled so that the mean stays; nothing without a key."""
    x = jnp.asarray(normal(200, 200) + 5)
    y = np.asarray(dropout(x, rate, jax.random.key(0)))
    assert abs((y == 0).mean() - rate) < 0.01
    np.testing.assert_allclose(y[y != 0], np.asarray(x)[y != 0] / (1 - rate), rtol=1e-6)
    assert abs(y.mean() / x.mean() - 1) < 0.02
    assert dropout(x, rate, None) is x and dropout(x, 0.0, jax.random.key(0)) is x
    assert not np.array_equal(y, dropout(x, rate, jax.random.key(1)))
    assert dropout(x.astype(jnp.bfloat16), rate, jax.random.key(0)).dtype == jnp.bfloat16
