"""8-bit products against the exact ones, and what the histories of largest values do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.cost import count
from lm.nn import products
from lm.nn.linear import linear, linears
from lm.nn.module import declare, stack
from lm.nn.precision import PRECISIONS

SCALED = [name for name, row in PRECISIONS.items() if row.forward]
# Relative errors of (y, dx, dw) on normal numbers. A factor has 2**-4 (e4m3), 2**-3 (e5m2) or
# 1/127 of a row's largest at most; in the mean over a product it is about half of that.
BOUNDS = dict(fp8=(0.045, 0.07, 0.07), fp8_current=(0.045, 0.07, 0.07), int8=(0.012, 1e-6, 1e-6))
LAYOUTS = {"BTD,DF": ((2, 8, 64), (64, 48), 1), "BTD,DNH": ((2, 8, 64), (64, 4, 12), 1),
           "BTNH,NHD": ((2, 8, 4, 16), (4, 16, 48), 2)}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def product(name, **histories):
    """The product of that precision; `fp8` with histories, by default those of normal numbers."""
    made = products.make(PRECISIONS[name])
    if name != "fp8":
        return made
    known = {n: jnp.full(products.STEPS, histories.get(n, 4.0)) for n in ("x", "w", "dy")}
    return declare(made).bind({}, known)


def results(run, x, w, inputs=1):
    """(y, dx, dw) for a dy of normal numbers."""
    y, pull = jax.vjp(lambda x, w: linear(x, w, inputs, product=run), x, w)
    return y, *pull(jnp.asarray(normal(*y.shape, seed=9), y.dtype))


def error(got, exact):
    return float(np.linalg.norm(np.subtract(got, exact)) / np.linalg.norm(exact))


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", SCALED)
def test_errors_are_bounded(name, layout, platform, monkeypatch):
    """Value and gradients, whichever form the platform gets; and something was quantised."""
    monkeypatch.setattr("lm.nn.linear.platform", lambda: platform)
    x, w, inputs = LAYOUTS[layout]
    x, w = normal(*x), normal(*w, seed=1)
    exact = results(products.plain, x, w, inputs)
    errors = list(map(error, results(product(name), x, w, inputs), exact))
    assert all(e < bound for e, bound in zip(errors, BOUNDS[name], strict=True)), errors
    assert all(e > bound / 4 for e, bound in zip(errors, BOUNDS[name], strict=True)
               if bound > 1e-3), errors


@pytest.mark.parametrize("name", SCALED)
def test_what_is_multiplied(name):
    """The operands are in the table's formats, forward and backward; results in x's."""
    row = PRECISIONS[name]
    x, w = jnp.asarray(normal(4, 8), jnp.bfloat16), jnp.asarray(normal(8, 6), jnp.bfloat16)
    run = product(name)
    assert [y.dtype for y in results(run, x, w)] == [jnp.bfloat16] * 3
    seen = count.flops(lambda x, w: results(run, x, w), x, w).by_dtype
    back = f"{row.forward}*{row.backward}" if row.backward else "bfloat16"
    assert seen == {row.forward: 2 * 4 * 8 * 6, back: 4 * 4 * 8 * 6}


@pytest.mark.parametrize("size", [1e-12, 1e12])
@pytest.mark.parametrize("name", ["fp8_current", "int8"])
def test_scales_follow_the_operands(name, size):
    """As good at any magnitude: of the tensors, and for int8 of single rows and columns."""
    x, w = normal(16, 64) * size, normal(64, 48, seed=1) / size
    rows, columns = np.ones((16, 1)), np.ones(48)
    if name == "int8":
        rows, columns = 10.0 ** np.arange(-8, 8)[:, None], 10.0 ** np.linspace(-8, 8, 48)
    y = linear(jnp.asarray(x * rows, jnp.float32), jnp.asarray(w * columns, jnp.float32),
               product=product(name))
    assert error(y / rows / columns, x @ w) < BOUNDS[name][0]


def test_beyond_the_history_saturates():
    """Larger values count as the history's largest: no NaN, and the message tells their size."""
    x, w = normal(8, 64), normal(64, 48, seed=1)
    x[3, 5] = 1000.0
    graph = declare(products.make(PRECISIONS["fp8"]))
    histories = {n: jnp.full(products.STEPS, 4.0) for n in ("x", "w", "dy")}

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def run(histories, x):
        y = linear(x, w, product=graph.bind({}, histories))
        return 100.0 * y.sum(), y
    messages, y = run(histories, x)
    assert error(y, np.clip(x, -4, 4) @ w) < BOUNDS["fp8"][0]
    after = jax.tree.map(products.remember, histories, messages)
    seen = dict(x=1000.0, w=np.abs(w).max(), dy=100.0)
    for name, history in after.items():
        assert history[0] == pytest.approx(seen[name], rel=1e-5)
        assert (history[1:] == 4.0).all()
    assert error(run(after, x)[1], x @ w) < BOUNDS["fp8"][0]


def test_a_history_forgets():
    history = jnp.zeros(products.STEPS)
    message = jnp.zeros(products.STEPS).at[0]
    for size in [100.0] + [1.0] * (products.STEPS - 1):
        history = products.remember(history, message.set(size ** products.POWER))
    assert history.max() == pytest.approx(100.0)
    history = products.remember(history, message.set(1.0))
    assert history.max() == pytest.approx(1.0)


@pytest.mark.parametrize("uses", [2, 16])
def test_messages_add_up(uses):
    """A sum over microbatches says the largest of them, at most a bit of the exponent too much."""
    sizes = np.abs(normal(uses)) * 1e3
    message = jnp.zeros(products.STEPS).at[0].set((sizes ** products.POWER).sum())
    got = float(products.remember(jnp.zeros(products.STEPS), message)[0])
    assert sizes.max() * 0.999 <= got <= sizes.max() * uses ** 0.25 * 1.001 <= sizes.max() * 2.01


def test_without_histories_by_the_values_of_now():
    """Where a model is bound to parameters alone, to evaluate or generate."""
    x, w = 50 * normal(8, 64), normal(64, 48, seed=1)
    unbound = declare(products.make(PRECISIONS["fp8"])).bind({})
    np.testing.assert_array_equal(linear(x, w, product=unbound),
                                  linear(x, w, product=product("fp8_current")))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", SCALED)
def test_what_is_not_finite_is_heard_of(name, bad):
    """By the result or, where it saturates, by the history's message."""
    x, w = normal(8, 64), normal(64, 48, seed=1)
    x[2, 3] = bad
    made, histories = products.make(PRECISIONS[name]), {}
    if name == "fp8":
        histories = {n: jnp.full(products.STEPS, 4.0) for n in ("x", "w", "dy")}

    def run(histories):
        bound = declare(made).bind({}, histories) if histories else made
        return linear(x, w, product=bound).sum()
    value, messages = jax.value_and_grad(run)(histories)
    heard = [value, *jax.tree.leaves(messages)]
    assert not all(np.isfinite(a).all() for a in heard)


def test_zeros_stay_zero():
    """Output matrices may start as zeros: no scale divides by zero."""
    for name in SCALED:
        y, dx, dw = results(product(name, w=0.0), normal(4, 8), np.zeros((8, 6), np.float32))
        assert not y.any() and not dx.any() and np.isfinite(dw).all() and dw.any()


@pytest.mark.parametrize("name", SCALED)
def test_each_matrix_has_its_own_scale(name):
    """linears does not make one matrix of several whose magnitudes are far apart."""
    x, ws = normal(8, 64), [normal(64, 16, seed=1), 1e4 * normal(64, 2, 8, seed=2)]
    ys = linears(x, ws, [product(name), product(name, w=4e4)])
    for y, w in zip(ys, ws, strict=True):
        assert BOUNDS[name][0] / 4 < error(y, np.tensordot(x, w, 1)) < BOUNDS[name][0]


def test_layers_have_their_own_histories():
    declaration = declare(stack(products.make(PRECISIONS["fp8"]), 3))
    assert not declaration.shapes and declaration.count == 0
    assert {n: x.shape for n, x in declaration.carried.items()} == dict.fromkeys(
        ("x", "w", "dy"), (3, products.STEPS))
