"""Schedules at their corners, and what holds of all of them at any step of any run."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.base.errors import UserError
from lm.train import schedules

PEAK, FINAL = 2.0, 0.1
COMMON = dict(steps=100, warmup=10, final=FINAL, decay=30, cycles=3)
FALLING = ["linear", "cosine", "wsd", "inverse_sqrt"]


def rates(name, **changes):
    """The rate of every step of the run and of a few after it."""
    choices = COMMON | changes
    rate = schedules.make(name, PEAK, **choices)
    return np.asarray(jax.vmap(rate)(np.arange(choices["steps"] + 10)))


@pytest.mark.parametrize("name", schedules.SHAPES)
def test_warm_up(name):
    """A straight line that has moved at the first step and is at the peak at its last."""
    np.testing.assert_allclose(rates(name)[:10], PEAK * np.arange(1, 11) / 10, rtol=1e-6)
    assert rates(name)[10] == PEAK and rates(name, warmup=0)[0] == PEAK


@pytest.mark.parametrize("name", schedules.SHAPES)
def test_end(name):
    """After the run the last rate is held: `final` of the peak where the shape falls to it."""
    after = rates(name)[100:]
    assert (after == after[0]).all()
    if name in ("linear", "cosine", "wsd", "cyclic"):
        np.testing.assert_allclose(after, PEAK * FINAL, rtol=1e-6)
        assert rates(name)[99] > PEAK * FINAL
    assert (rates("constant")[10:] == PEAK).all()


def test_linear_and_cosine():
    share = np.arange(91) / 90
    np.testing.assert_allclose(rates("linear")[10:101], PEAK * (1 - 0.9 * share), rtol=1e-5)
    np.testing.assert_allclose(rates("cosine")[10:101],
                               PEAK * (0.1 + 0.9 * (1 + np.cos(np.pi * share)) / 2), rtol=1e-5)


def test_wsd():
    """The plateau holds until `decay` steps before the end, then a straight line falls."""
    got = rates("wsd")
    assert (got[10:71] == PEAK).all() and got[71] < PEAK
    np.testing.assert_allclose(got[70:101], PEAK * (1 - 0.9 * np.arange(31) / 30), rtol=1e-5)
    assert (rates("wsd", decay=0)[10:] == PEAK).all()
    np.testing.assert_allclose(rates("wsd", decay=1000), rates("linear"), rtol=1e-6)


@pytest.mark.parametrize("warmup", [10, 0])
def test_inverse_sqrt(warmup):
    """The rate times the root of the step is constant after the warm-up."""
    got = rates("inverse_sqrt", warmup=warmup)[warmup:100]
    steps = np.arange(warmup, 100) + (warmup == 0)
    np.testing.assert_allclose(got * steps ** 0.5, PEAK * max(warmup, 1) ** 0.5, rtol=1e-5)


def test_cyclic_restarts_at_the_peak():
    got = rates("cyclic")
    for start in (10, 40, 70):
        assert got[start] == PEAK
        assert (np.diff(got[start:start + 30]) < 0).all()
        np.testing.assert_allclose(got[start:start + 30], got[10:40], rtol=1e-5)
        assert got[start + 29] < PEAK * (FINAL + 0.01)


@settings(max_examples=40)
@given(name=st.sampled_from(sorted(schedules.SHAPES)), steps=st.integers(2, 60),
       share=st.floats(0, 1), final=st.floats(0, 1), decay=st.integers(0, 80),
       cycles=st.integers(1, 9))
def test_any_run(name, steps, share, final, decay, cycles):
    """Positive from the first step, never above the peak, rising before the peak, falling after."""
    warmup = int(share * (steps - 1))
    rate = schedules.make(name, PEAK, steps=steps, warmup=warmup, final=final, decay=decay,
                          cycles=cycles)
    got = np.broadcast_to(rate(np.arange(steps + 1)), steps + 1)
    assert np.isfinite(got).all() and got[0] > 0 and (got[:-1] >= 0).all()
    assert got.max() <= PEAK * (1 + 1e-6) and got[warmup] == np.float32(PEAK)
    assert (np.diff(got[:warmup]) > 0).all()
    if name in [*FALLING, "constant"]:
        assert (np.diff(got[warmup:]) <= 1e-6).all()
    if name in ("linear", "cosine", "cyclic") or (name == "wsd" and decay):
        np.testing.assert_allclose(got[-1], PEAK * final, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("warmup", [100, 101])
def test_warm_up_as_long_as_the_run(warmup):
    with pytest.raises(UserError, match=f"warm-up of {warmup} steps is not shorter than the run"):
        schedules.make("cosine", PEAK, **(COMMON | dict(warmup=warmup)))
    schedules.make("cosine", PEAK, **(COMMON | dict(warmup=99)))
