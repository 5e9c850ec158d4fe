"""Intervals hold what they say, also where one wait follows from the last."""

import numpy as np
import pytest

from lm.load.intervals import block, interval


def mean(values):
    return np.array([values.mean()])


def queue(rng, n, load=0.7):
    """Waits in an M/M/1 queue (Lindley), from its steady state; their mean is load / (1 - load)."""
    service, gaps = rng.exponential(load, n + 500), rng.exponential(1.0, n + 500)
    waits, wait = [], 0.0
    for s, gap in zip(service, gaps, strict=True):
        wait = max(0.0, wait + s - gap)
        waits.append(wait)
    return np.array(waits[500:])


def covered(series, truth, of=mean):
    """The share of series whose interval holds the truth."""
    ends = [interval(values, of, seed) for seed, values in enumerate(series)]
    return np.mean([low[0] <= truth <= high[0] for low, high in ends])


def test_the_interval_of_what_is_independent(monkeypatch):
    monkeypatch.setattr("lm.load.intervals.DRAWS", 100)
    rng = np.random.default_rng(0)
    series = rng.exponential(1.0, (100, 100))
    assert covered(series, 1.0) >= 0.85
    assert covered(series[:50], np.log(10), lambda values: np.percentile(values, [90])) >= 0.8
    assert covered(series, 1.4) < 0.3   # and is not simply wide


def test_waits_follow_one_another(monkeypatch):
    monkeypatch.setattr("lm.load.intervals.DRAWS", 100)
    rng = np.random.default_rng(1)
    series = [queue(rng, 2000) for _ in range(60)]
    truth = 0.7 * 0.7 / 0.3     # load times the mean service, over 1 - load
    blocks = covered(series, truth)
    monkeypatch.setattr("lm.load.intervals.block", lambda values: 1)
    alone = covered(series, truth)
    assert blocks >= 0.75 and alone < 0.5, (blocks, alone)


def test_blocks_grow_with_correlation():
    rng = np.random.default_rng(2)
    noise = rng.normal(size=4000)
    slow = np.zeros(4000)
    for i in range(1, 4000):
        slow[i] = 0.9 * slow[i - 1] + noise[i]
    assert block(noise) <= 4 < 40 < block(slow)
    assert block(np.ones(100)) == 1
    # Carlstein's length for an AR(1) of 0.9, by hand: (sqrt 6 * 0.9 / 0.19)^(2/3) * 4000^(1/3).
    assert block(slow) == pytest.approx(81, rel=0.1)


def test_too_little_has_no_interval():
    assert interval(np.arange(9.0), mean) is None
    assert interval(np.array([1.0]), mean) is None
    assert interval(np.arange(200.0), mean) is None     # it only ever rose: there is no second look
    ends = interval(np.full(50, 3.0), mean)
    assert ends.tolist() == [[3.0], [3.0]]


def test_the_seed_decides():
    values = np.random.default_rng(3).exponential(1.0, 300)
    assert (interval(values, mean, 1) == interval(values, mean, 1)).all()
    assert (interval(values, mean, 1) != interval(values, mean, 2)).any()
