"""The meter's means are exact, late by one step and survive a restart; the loop is in order."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.base.errors import UserError
from lm.base.mean import Mean
from lm.train.loop import Meter, advance, due

OFF = dict(max_skipped=3, spike=0.0)


def means(loss, count=1.0, skipped=0):
    return dict(loss=Mean(loss * count, count), gradient_norm=Mean(loss, 1.0),
                skipped=Mean(float(skipped), 1.0))


def feed(meter, steps, first=1):
    """The records that come out of the meter, the last step's flushed."""
    out = [meter.add(step, one) for step, one in enumerate(steps, first)]
    return [record for record in [*out, meter.flush()] if record]


COUNTS = st.lists(st.tuples(st.integers(0, 100), st.integers(1, 9)), min_size=1, max_size=30)


@given(COUNTS, st.integers(1, 10))
def test_interval_means_are_exact(pairs, every):
    """Weighted by each step's tokens, one record an interval and one at the end, each its own."""
    got = feed(Meter(every, len(pairs), **OFF), [means(x, n) for x, n in pairs])
    edges = [*range(every, len(pairs), every), len(pairs)]
    assert [r["step"] for r in got] == edges
    for start, stop, record in zip([0, *edges], edges, got, strict=False):
        x, n = np.array(pairs[start:stop]).T
        assert record["loss"] == pytest.approx((x * n).sum() / n.sum())
        assert record["gradient_norm"] == pytest.approx(x.mean())
        assert record["skipped"] == 0


def test_a_step_is_read_when_the_next_is_on_its_way():
    class Watched(float):
        read = 0

        def __float__(self):
            Watched.read += 1
            return float.__float__(self)
    meter = Meter(1, 5, **OFF)
    one = dict(loss=Mean(Watched(2), 1.0), skipped=Mean(0.0, 1.0))
    assert meter.add(1, one) is None and Watched.read == 0
    assert meter.add(2, means(3.0))["step"] == 1 and Watched.read > 0
    assert meter.flush()["step"] == 2 and meter.flush() is None


@given(COUNTS, st.integers(1, 10), st.data())
def test_a_restart_loses_nothing(pairs, every, data):
    """Stopped after any step and gone on from `sums`, as a checkpoint's: the same records."""
    steps = [means(x, n) for x, n in pairs]
    cut = data.draw(st.integers(0, len(pairs)))
    whole = feed(Meter(every, len(pairs), **OFF), steps)
    before = Meter(every, len(pairs), **OFF)
    got = feed(before, steps[:cut])
    pending = {name: list(pair) for name, pair in before.sums.items()}
    got += feed(Meter(every, len(pairs), **OFF, pending=pending), steps[cut:], cut + 1)
    assert got == whole


def test_skipped_steps_are_counted_and_left_out():
    nan = float("nan")
    steps = [means(1.0), means(nan, skipped=1), means(nan, skipped=2), means(4.0),
             means(nan, skipped=1)]
    meter = Meter(5, 10, **OFF)
    (record,) = [r for r in map(meter.add, range(1, 7), [*steps, means(1.0)]) if r]
    assert record["skipped"] == 3 and record["loss"] == 2.5 and record["gradient_norm"] == 2.5
    assert "step 5: the loss or its gradient is not finite" in meter.alarm


def test_an_interval_of_skipped_steps():
    (record,) = feed(Meter(2, 2, **OFF), [means(math.inf, skipped=i) for i in (1, 2)])
    assert record == dict(step=2, skipped=2)


def test_a_gradient_that_is_not_finite_is_said():
    """The loss of a skipped step may well be a number."""
    meter = Meter(5, 10, **OFF)
    feed(meter, [dict(loss=Mean(1.0, 1.0), gradient_norm=Mean(math.nan, 1.0),
                      skipped=Mean(1.0, 1.0))])
    assert "step 1: the loss or its gradient is not finite" in meter.alarm


def test_too_many_skipped():
    meter = Meter(100, 100, **OFF)
    feed(meter, [means(math.nan, skipped=i) for i in (1, 2)] + [means(1.0)])
    feed(meter, [means(math.nan, skipped=i) for i in (1, 2)], 4)
    with pytest.raises(UserError, match="step 6: 3 steps in a row .* train.lr"):
        feed(meter, [means(math.nan, skipped=3)], 6)


def alarms(losses, spike=6.0):
    """The steps at which the meter sets its alarm."""
    meter, out = Meter(10 ** 6, 10 ** 6, max_skipped=3, spike=spike), []
    for step, loss in enumerate(losses):
        meter.add(step, means(loss))
        if meter.alarm:
            out.append(step - 1)
            assert f"step {step - 1}: " in meter.alarm
            meter.alarm = ""
    return out


@pytest.mark.parametrize("seed", range(5))
def test_alarm(seed):
    """Once on a leap, whether the loss comes back or stays; never on noise around a fall."""
    rng = np.random.default_rng(seed)
    falling = 2 + 3 * np.exp(-np.arange(2000) / 200) + 0.1 * rng.standard_normal(2000)
    assert alarms(falling) == []
    back, stays = falling.copy(), falling.copy()
    back[1500] += 1.5
    stays[1500:] += 1.5
    assert alarms(back) == [1500] == alarms(stays)
    assert alarms(stays, spike=0.0) == []
    early = falling.copy()
    early[20] += 5
    assert alarms(early) == []  # too early to know what is usual


@given(st.integers(0, 20), st.integers(0, 60), st.integers(1, 60))
def test_due(every, step, until):
    assert due(every, step, until) == (step == until or (every != 0 and step % every == 0))


def test_advance():
    """Steps start+1 .. until, a batch each, taken when its step is; none is read ahead or lost."""
    batches, seen = iter(range(100)), []

    def step_fn(state, batch):
        return state + [batch], dict(batch=batch)
    for step, state, measured in advance(step_fn, [], batches, start=5, until=8):
        seen.append((step, state, measured["batch"]))
    assert seen == [(6, [0], 0), (7, [0, 1], 1), (8, [0, 1, 2], 2)]
    assert next(batches) == 3
    assert list(advance(step_fn, [], batches, start=8, until=8)) == []


def test_steps_that_overflow_are_reported_and_end_nothing():
    """The loss scale has to fall before it fits: no alarm, but the steps are said to be skipped."""
    def scaled(scale, overflowed):
        return means(1.0) | dict(loss_scale=Mean(scale, 1.0), overflowed=Mean(overflowed, 1.0))
    meter = Meter(4, 8, **OFF)
    records = feed(meter, [scaled(2.0 ** (9 - i), 1.0) for i in range(7)] + [scaled(4.0, 0.0)])
    assert [r["skipped"] for r in records] == [4, 3] and not meter.alarm
    assert records[1]["loss_scale"] == (32 + 16 + 8 + 4) / 4 and "overflowed" not in records[0]
