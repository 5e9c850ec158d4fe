"""Numbers by hand: percentiles, goodput, counts, what was under way, what was given up."""

import math
from array import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.base.errors import UserError
from lm.load import measure
from lm.load.answer import FAILED, FINISHED, REJECTED, UNFINISHED, UNSENT, Row

pytestmark = pytest.mark.usefixtures("few_draws")


def row(due, times=(), end=None, status=FINISHED, output=None, **more):
    """A row that was sent when it was due."""
    times = array("d", times)
    made = Row(due, 10, output or len(times), status=status, times=times, started=due, sent=due,
               end=times[-1] if end is None else end, **more)
    if status == UNSENT:
        made.started = made.sent = made.end = math.nan
    return made


def test_limits():
    assert measure.limits("ttft=0.5, tpot=50ms,e2e=10s") == pytest.approx(
        {"ttft": 0.5, "tpot": 0.05, "e2e": 10.0})
    assert measure.limits("") == {}


@pytest.mark.parametrize("text", [
    "ttft", "ttft=", "ttft=x", "ttft=-1", "ttft=0", "tfft=1", "e2e=inf", "e2e=nan", "ttft=1,ttft=2",
    "ttft=1;e2e=2"])
def test_bad_limits(text):
    with pytest.raises(UserError, match="slo: .* is not understood; give limits in seconds"):
        measure.limits(text)


@settings(max_examples=60)
@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=60))
def test_percentiles_are_numpys(values):
    found = measure.spread(np.array(values), np.zeros(len(values), bool))
    for p in (50, 90, 95, 99):
        x = found[f"p{p}"]
        assert x["value"] == pytest.approx(np.percentile(values, p)) and not x["at_least"]
        assert x["low"] is None or x["low"] <= x["high"]
    assert found["mean"]["value"] == pytest.approx(np.mean(values))
    assert found["max"]["value"] == max(values)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(0.1, 100), st.booleans()), min_size=1, max_size=40))
def test_what_was_given_up_bounds_from_below(pairs):
    """Whatever those would have taken that were given up, no number said is above the true one."""
    values, given_up = np.array([v for v, _ in pairs]), np.array([g for _, g in pairs])
    found = measure.spread(values, given_up)
    truth = np.where(given_up, values * 7, values)
    for name, of in (("mean", np.mean), ("max", np.max), ("p99", lambda x: np.percentile(x, 99)),
                     ("p50", np.median)):
        true = of(truth)
        assert found[name]["value"] <= true * (1 + 1e-12)
        if not found[name]["at_least"]:
            assert found[name]["value"] == pytest.approx(true)


def test_latencies_by_hand():
    rows = [row(0, [1, 2, 4]), row(1, [3], end=3.5), row(2, [], end=9, status=UNFINISHED),
            row(3, [4, 5], end=8, status=UNFINISHED),
            row(4, [], end=5, status=FAILED, why="timeout"),
            row(5, [], end=5.1, status=REJECTED, why="429"),
            row(6, [7], end=7, status=FAILED, why="closed"), row(7, status=UNSENT, end=0)]
    found = measure.latencies(rows[::-1])   # in order of being due, however they come
    assert found["ttft"][0].tolist() == [1, 2, 7, 1, 1]
    assert found["ttft"][1].tolist() == [False, False, True, False, True]
    assert found["e2e"][0].tolist() == [4, 2.5, 7, 5, 1]
    assert found["e2e"][1].tolist() == [False, False, True, True, True]
    assert found["tpot"][0].tolist() == [1.5]
    assert sorted(found["gap"][0]) == [1, 1, 2]


def test_goodput_by_hand():
    rows = [row(0, [0.4, 0.5, 0.6]), row(1, [1.6]),              # one late at first
            row(2, [2.1, 2.9]),                                  # one slow after it
            row(3, [3.1]),                                       # one token has no tpot to miss
            row(4, [4.1, 4.2], end=9),                           # one late at the end
            row(5, [], end=5, status=REJECTED, why="429"),
            row(6, [6.1], status=FAILED, why="closed"), row(7, [7.1], end=10, status=UNFINISHED)]
    slo = {"ttft": 0.5, "tpot": 0.1 + 1e-9, "e2e": 3.0}
    assert [measure.good(r, slo) for r in rows] == [True, False, False, True, *[False] * 4]
    out = measure.summary(rows, slo)
    assert out["seconds"] == 10 and out["goodput"]["share"] == 2 / 8
    assert out["goodput"]["requests"] == pytest.approx(2 / 10)
    assert not measure.good(row(0, [], end=0.1, output=3), {"ttft": 1.0})    # nothing was streamed


STATUS = st.sampled_from([FINISHED, REJECTED, FAILED, UNFINISHED, UNSENT])


@st.composite
def loads(draw):
    """Rows of any fate."""
    rows = []
    for due, wait, status in draw(st.lists(st.tuples(
            st.floats(0, 50), st.floats(0, 20), STATUS), min_size=1, max_size=30)):
        times = sorted(due + wait * x for x in draw(st.lists(st.floats(0, 1), max_size=4)))
        if status in (REJECTED, UNSENT):
            times = []
        why = {REJECTED: "429", FAILED: draw(st.sampled_from(["timeout", "closed"]))}
        rows.append(row(due, times, due + wait, status, 4, why=why.get(status, "")))
    return rows


@settings(max_examples=60)
@given(loads(), st.floats(0, 30))
def test_counts_add_up_whatever_happens(rows, warmup):
    out = measure.summary(rows, {"ttft": 1.0}, warmup)
    n = out["counts"]
    counted = [r for r in rows if r.due >= warmup and r.status != UNSENT]
    assert n["sent"] == len(counted)
    assert n["sent"] == n["finished"] + n["rejected"] + n["failed"] + n["unfinished"]
    assert n["unsent"] == sum(r.status == UNSENT for r in rows)
    assert sum(n["reasons"].values()) == n["rejected"] + n["failed"]
    if counted:
        kept = sum(measure.good(r, {"ttft": 1.0}) for r in counted)
        assert out["goodput"]["share"] * n["sent"] == pytest.approx(kept)
        k = sum(r.status in (FINISHED, UNFINISHED) or r.why == "timeout" for r in counted)
        assert len(measure.latencies(counted)["e2e"][0]) == k


@settings(max_examples=60)
@given(loads())
def test_littles_law(rows):
    """What is under way on average, times the time, is what all of them waited."""
    out = measure.summary(rows, {})
    if "in_flight" not in out:
        return
    live = [r for r in rows if r.status != UNSENT]
    waited = sum(r.end - r.started for r in live)
    flying = out["in_flight"]
    assert flying["mean"] * out["seconds"] == pytest.approx(waited, abs=1e-6)
    most = max(sum(o.started <= r.started <= o.end for o in live) for r in live)
    assert flying["max"] <= most and flying["max"] >= max(
        sum(o.started <= r.started < o.end for o in live) for r in live)
    assert flying["number"][-1] == 0 and min(flying["number"]) >= 0


def test_rates_and_tokens_by_hand():
    rows = [row(2, [3, 4, 5], output=3, prompt_tokens=11, output_tokens=3, cached_tokens=4),
            row(4, [5, 6], end=12, output=9, prompt_tokens=9, output_tokens=6, cached_tokens=0)]
    out = measure.summary(rows, {}, rate=0.5)
    assert out["seconds"] == 10 and out["sending"] == 2 and out["rate"] == 0.5
    assert out["throughput"] == pytest.approx(
        {"requests": 0.2, "output_tokens": 0.9, "total_tokens": 2.9})
    k = out["tokens"]
    assert (k["prompt_asked"], k["prompt"], k["output_asked"], k["output"]) == (10, 10, 6, 4.5)
    assert k["short"] == 1 and k["counted"] and k["cached"] == 0.2
    assert k["per_event"] == pytest.approx(9 / 5)
    assert out["latency"]["tpot"]["mean"]["value"] == pytest.approx((2 / 2 + 1 / 5) / 2)


def test_what_is_sent_while_it_warms_up_is_under_way_and_no_more():
    rows = [row(t, [t + 0.5], end=t + 3) for t in (0, 1, 2, 3)]
    out = measure.summary(rows, {}, warmup=2)
    assert out["counts"]["sent"] == 2 and out["seconds"] == 4
    assert out["in_flight"]["max"] == 4     # who comes at the moment that another goes, met it
    assert out["in_flight"]["mean"] == pytest.approx((1 + 2 + 3 + 3) / 4)
    assert measure.summary([row(0, status=UNSENT, end=0)], {})["counts"]["sent"] == 0
