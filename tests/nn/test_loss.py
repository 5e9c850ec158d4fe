"""The loss is the textbook's, in however many chunks; and chunks keep logits out of memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.nn import loss as module
from lm.nn.loss import cross_entropy

B, T, D, V = 3, 12, 8, 40


@functools.cache
def data():
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s, dtype=np.float32) for s in ((B, T, D), (D, V)))
    targets = rng.integers(0, V, (B, T), dtype=np.int32)
    return x, w, targets, rng.random((B, T), dtype=np.float32) * (rng.random((B, T)) < 0.7)


def chunked(x, w, targets, weights, chunk):
    return cross_entropy(x, 3 * w, targets, weights, chunk=chunk)


def naive(x, w, targets, weights, chunk):
    logits = 3 * x @ w
    nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)[..., 0]
    z = jax.scipy.special.logsumexp(logits, -1) ** 2
    return [((v * weights).sum(), weights.sum()) for v in (nll, z)]


def results(loss, chunk):
    """Both Means and the gradients by x and w of their weighted sum, in one program."""
    x, w, targets, weights = data()

    def value(x, w):
        (nll, count), (z, _) = means = loss(x, w, targets, weights, chunk)
        return (nll + 0.1 * z) / count, means
    return jax.jit(jax.value_and_grad(value, (0, 1), has_aux=True))(x, w)


@pytest.mark.parametrize("chunk", [0, 1, 4, 5, 12, 100])
def test_equals_log_softmax(chunk):
    """z term, weights and gradients included; a chunk that does not divide T is made shorter."""
    got, right = (jax.tree.leaves(results(loss, chunk)) for loss in (chunked, naive))
    for a, b in zip(got, right, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5)


def test_large_logits():
    """A logit of 1e4 overflows no exponential."""
    x = jnp.array([[[1e4, 0.0, 1e4]]])
    nll, z = cross_entropy(x, jnp.eye(3), jnp.array([[1]]), jnp.ones((1, 1)))
    assert float(nll.total) == pytest.approx(1e4 + np.log(2)) and np.isfinite(float(z.total))


def largest(jaxpr):
    """The most elements of any array that a program makes, in loops and calls too."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    sizes = [v.aval.size for e in jaxpr.eqns for v in e.outvars if hasattr(v.aval, "size")]
    inner = [largest(j) for e in jaxpr.eqns for p in e.params.values()
             for j in (p if isinstance(p, (tuple, list)) else [p])
             if hasattr(j, "eqns") or hasattr(j, "jaxpr")]
    return max([*sizes, *inner, 0])


def peak(chunk, V=4096, T=64):
    """(largest array, bytes that the compiled program holds) of the loss with its gradient."""
    def value(x, w, targets, weights):
        nll, z = cross_entropy(x, w, targets, weights, chunk=chunk)
        return (nll.total + z.total) / nll.count
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in (
        ((2, T, D), jnp.float32), ((D, V), jnp.float32), ((2, T), jnp.int32),
        ((2, T), jnp.float32))]
    gradient = jax.jit(jax.value_and_grad(value, (0, 1)))
    return (largest(jax.make_jaxpr(gradient)(*shapes)),
            gradient.lower(*shapes).compile().memory_analysis().temp_size_in_bytes)


def test_chunks_never_hold_all_logits():
    """In the forward and the backward pass: a chunk's share of them at once."""
    whole = 2 * 64 * 4096
    array, held = peak(chunk=64)
    assert array == whole and held > 4 * whole
    array, held = peak(chunk=8)
    assert array == whole // 8 and held < 4 * whole


def test_chunk_by_size(monkeypatch):
    """Chosen so that a device's logits stay within the limit, and no smaller than need be."""
    monkeypatch.setattr(module, "LOGITS", 2 * 16 * 4096)
    assert peak(chunk=0)[0] == 2 * 16 * 4096
    monkeypatch.setattr(module, "LOGITS", 2 * 64 * 4096)
    assert peak(chunk=0)[0] == 2 * 64 * 4096
