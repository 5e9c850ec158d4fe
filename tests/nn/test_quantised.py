"""Matrices of few bits: how far they are from what they stand for, and that they stand for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.mesh import devices, rules
from lm.mesh.config import Config as Mesh
from lm.nn import quantised
from lm.nn.module import Normal, Spec
from lm.nn.quantised import FORMATS, Quantised, letters

SIZES = dict(L=2, E=3, D=24, N=2, K=2, H=20, F=36, V=50)
# axes, inputs, the shape of one scale for all along the inputs
KINDS = [("DV", "D", (1, 50)), ("LDNH", "D", (2, 1, 2, 20)), ("LNHD", "NH", (2, 1, 1, 24)),
         ("LEFD", "F", (2, 3, 1, 24))]


quantise = jax.jit(quantised.quantise, static_argnums=(1, 2))


def spec(axes, inputs):
    return Spec(axes, Normal(1.0), inputs, True)


def matrix(axes, sizes=SIZES, seed=0):
    """Values of very different sizes from output to output."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal([sizes[a] for a in axes]) * np.exp(3 * rng.standard_normal(
        sizes[axes[-1]]))
    return w.astype(np.float32)


def wide(scale, shape):
    """Each element's scale."""
    scale = np.asarray(scale, np.float64)
    for axis, n in enumerate(shape):
        scale = np.repeat(scale, n // scale.shape[axis], axis)
    return scale


@pytest.mark.parametrize("axes, inputs, shape", KINDS)
def test_int8_is_half_a_step_off(axes, inputs, shape):
    """A step is 1/127 of the largest along the inputs; its bfloat16 may be 1/512 larger."""
    w = matrix(axes)
    made = quantise(w, spec(axes, inputs), "int8")
    over = tuple(i for i, a in enumerate(axes) if a in inputs)
    top = np.abs(w).max(over, keepdims=True)
    assert made.q.dtype == jnp.int8 and made.scale.dtype == jnp.bfloat16
    assert made.shape == w.shape and made.ndim == w.ndim and made.scale.shape == shape
    error = np.abs(np.asarray(made.astype(jnp.float32)) - w)
    assert (error <= top / 127 / 2 * (1 + 1 / 256)).all()
    assert (error > top / 127 / 4).any()  # and no less: the bits are used
    assert np.abs(np.asarray(made.q, int)).max() == 127


@pytest.mark.parametrize("axes, inputs, shape", KINDS)
def test_fp8_is_half_a_step_off(axes, inputs, shape):
    """e4m3 has 3 bits after the leading one, and steps of 2**-9 below 2**-6."""
    w = matrix(axes)
    made = quantise(w, spec(axes, inputs), "fp8")
    assert made.q.dtype == jnp.float8_e4m3fn and made.scale.shape == shape
    scale = wide(made.scale, w.shape)
    error = np.abs(np.asarray(made.astype(jnp.float32)) - w)
    assert (error <= np.maximum(np.abs(w) / 16, scale / 1024) * (1 + 1e-6)).all()
    assert 256 <= np.abs(np.asarray(made.q, np.float32)).max() <= 448


@pytest.mark.parametrize("n, runs", [(384, 3), (128, 1), (200, 2), (36, 1), (1366, 2), (131, 1),
                                     (1, 1)])
def test_int4_has_a_scale_for_each_run(n, runs):
    """Of a number of elements near 128 that divides; half a step off where nothing is cut off."""
    w = matrix("LFD", dict(L=2, F=n, D=5))
    made = quantise(w, spec("LFD", "F"), "int4")
    assert made.scale.shape == (2, runs, 5) and np.abs(np.asarray(made.q, int)).max() <= 7
    scale, got = wide(made.scale, w.shape), np.asarray(made.astype(jnp.float32))
    cut = np.abs(w) > 7.5 * scale
    assert (np.abs(got - w)[~cut] <= scale[~cut] / 2 * (1 + 1e-6)).all()
    assert (np.abs(got)[cut] >= 0.79 * np.abs(w)[cut]).all()
    # Cutting off may only help: the squared error of each run is no more than without.
    parts = w.reshape(2, runs, -1, 5).astype(np.float64)
    step = np.abs(parts).max(2, keepdims=True) / 7
    plain = ((np.clip(np.round(parts / step), -7, 7) * step - parts) ** 2).sum(2)
    own = ((got.reshape(parts.shape) - parts) ** 2).sum(2)
    rounded = parts.shape[2] * (step * 7 / 256)[:, :, 0] ** 2  # the scale is, to bfloat16
    assert (own <= plain * 1.02 + rounded).all()
    assert n < 128 or own.sum() < 0.95 * plain.sum()


def test_int4_of_heads():
    """Runs lie along the last input; each head has its own."""
    made = quantise(matrix("LNHD"), spec("LNHD", "NH"), "int4")
    assert made.scale.shape == (2, 2, 1, 24)


@pytest.mark.parametrize("format", FORMATS)
def test_it_stands_for_the_matrix(format):
    """In jit, in loops, under vmap, layer by layer; in bfloat16 it is the float32 one, rounded."""
    w = matrix("LDF", dict(L=3, D=256, F=4))
    made = quantise(w, spec("LDF", "D"), format)
    whole = made.astype(jnp.float32)
    np.testing.assert_array_equal(made[...].astype(jnp.float32), whole)
    np.testing.assert_array_equal(made[1].astype(jnp.float32), whole[1])
    np.testing.assert_array_equal(made[:, :][2].astype(jnp.float32), whole[2])
    np.testing.assert_array_equal(
        made.astype(jnp.bfloat16).view(jnp.uint16), whole.astype(jnp.bfloat16).view(jnp.uint16))
    alone = quantise(w[1], spec("DF", "D"), format)  # a layer's numbers are its own
    np.testing.assert_array_equal(alone.astype(jnp.float32), whole[1])
    x = np.ones(256, np.float32)
    right = whole.sum(1)

    def product(layer):
        return x @ layer.astype(jnp.float32)
    np.testing.assert_allclose(jax.jit(jax.vmap(product))(made), right, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(jax.lax.map(product, made), right, rtol=1e-4, atol=1e-3)
    loop = jax.jit(lambda m: jax.lax.fori_loop(0, 3, lambda i, y: y + product(m[i]), x[:4] * 0))
    np.testing.assert_allclose(loop(made), right.sum(0), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("format", FORMATS)
def test_hostile_values(format):
    w = np.zeros((128, 6), np.float32)
    w[:, 1], w[:, 2], w[3, 3], w[3, 4] = 1e-42, 1e-30, np.nan, np.inf
    w[:, 5] = 1e30
    got = np.asarray(quantise(w, spec("DF", "D"), format).astype(jnp.float32))
    assert (got[:, 0] == 0).all() and (np.abs(got[:, 1]) <= 1e-38).all()
    np.testing.assert_allclose(got[:, [2, 5]], w[:, [2, 5]], rtol=0.1)
    assert np.isnan(got[:, 3]).any() and not np.isfinite(got[:, 4]).all()  # heard of, not hidden


def test_scales_lie_with_what_they_scale():
    """Along the outputs as the matrix; along the inputs where they are enough, else everywhere."""
    mesh = devices.make(Mesh(data=1, tensor=2, fsdp=2, stage=2))
    with devices.use(mesh):
        def of(axes, inputs, sizes, format):
            made = jax.eval_shape(lambda w: quantised.quantise(w, spec(axes, inputs), format),
                                  jnp.zeros([sizes[a] for a in axes]))
            return letters(made, axes)
        sizes = dict(SIZES, F=768, D=256, H=64)
        assert of("LDF", "D", sizes, "int8") == Quantised("LDF", "L.F")
        assert of("LFD", "F", sizes, "int8") == Quantised("LFD", "L.D")
        assert of("LFD", "F", sizes, "int4") == Quantised("LFD", "LFD")           # 6 runs
        assert of("LFD", "F", dict(sizes, F=384), "int4") == Quantised("LFD", "L.D")  # 3 runs
        assert of("LNHD", "NH", sizes, "int8") == Quantised("LNHD", "L.HD")
        assert of("LNHD", "NH", sizes, "int4") == Quantised("LNHD", "LNHD")
        assert letters(jnp.zeros((2, 3)), "DF") == "DF"
        made = quantise(matrix("LFD", sizes), spec("LFD", "F"), "int4")
        laid = jax.tree.map(lambda a, x: jax.device_put(x, rules.sharding(mesh, a, x.shape)),
                            letters(made, "LFD"), made)
        assert {x.sharding.shard_shape(x.shape) for x in jax.tree.leaves(laid)} == {
            (1, 384, 128), (1, 3, 128)}
        np.testing.assert_array_equal(laid.astype(jnp.float32), made.astype(jnp.float32))
