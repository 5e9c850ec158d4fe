"""Distributions have the means they say, come at the rate asked for, and are refused in words."""

import numpy as np
import pytest

from lm.base.errors import UserError
from lm.load.lengths import MOST, arrivals, lengths

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("text,mean", [
    ("constant:7", 7), ("uniform:10:20", 15), ("lognormal:1000", 1000), ("lognormal:300:0.2", 300)])
def test_means(text, mean):
    x = lengths(text)
    drawn = x.draw(np.random.default_rng(1), 200_000)
    assert x.mean == mean and drawn.min() >= 1 and drawn.dtype.kind == "i"
    assert drawn.mean() == pytest.approx(mean, rel=0.01)
    if text.startswith("uniform"):
        assert (drawn.min(), drawn.max()) == (10, 20)
    if text == "lognormal:300:0.2":
        assert np.log(drawn).std() == pytest.approx(0.2, rel=0.02)


def test_a_file_of_lengths(tmp_path):
    (tmp_path / "lengths.txt").write_text("5\n10\n300\n")
    x = lengths(str(tmp_path / "lengths.txt"))
    assert x.mean == 105 and set(x.draw(RNG, 100)) == {5, 10, 300}
    (tmp_path / "bad.txt").write_text("5\nten\n")
    (tmp_path / "zero.txt").write_text("5\n0\n")
    (tmp_path / "huge.txt").write_text("5\n1e30\n")
    for name, words in (("bad", "one number on each line"), ("zero", "below 1"),
                        ("huge", "above 10,000,000")):
        with pytest.raises(UserError, match=words):
            lengths(str(tmp_path / f"{name}.txt"))


@pytest.mark.parametrize("text,words", [
    ("lognorma:5", "did you mean 'lognormal'"), ("lognormal", "lognormal:MEAN"),
    ("constant:x", "not understood"), ("uniform:5:2", "the high end"), ("constant:0", "at least 1"),
    ("lognormal:10:-1", "SIGMA"), ("lognormal:nan", "not understood"), ("", "give lognormal"),
    ("uniform:1:2:3", "not understood"), ("constant:1:2", "not understood"),
    ("constant:1e300", "at most"), ("uniform:5:1e30", "at most")])
def test_bad_lengths(text, words):
    with pytest.raises(UserError, match=words) as error:
        lengths(text, "prompt_tokens")
    assert "prompt_tokens" in str(error.value)


def test_the_longest_tail_is_cut():
    drawn = lengths("lognormal:5e6:3").draw(RNG, 1000)
    assert drawn.min() == 1 and drawn.max() == MOST


@pytest.mark.parametrize("text,cv", [("poisson", 1), ("gamma:2", 2), ("gamma:0.5", 0.5),
                                     ("constant", 0)])
def test_arrivals(text, cv):
    times = arrivals(text, 20.0, np.random.default_rng(2), 100_000)
    gaps = np.diff(times)
    assert (gaps >= 0).all() and gaps.mean() == pytest.approx(1 / 20, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, abs=0.05)


def test_a_trace_keeps_its_gaps_and_takes_the_rate(tmp_path):
    (tmp_path / "trace").write_text("0 1 3 3.5")
    times = arrivals(str(tmp_path / "trace"), 5.0, np.random.default_rng(0), 301)
    gaps = np.diff(times)
    assert gaps.mean() == pytest.approx(1 / 5, rel=0.01)
    assert sorted(set(np.round(gaps / gaps.min(), 6))) == [1, 2, 4]


@pytest.mark.parametrize("text", ["gamma:x", "gamma:0", "gamma", "poisson:3", "bursts"])
def test_bad_arrivals(text):
    with pytest.raises(UserError, match="arrivals="):
        arrivals(text, 1.0, RNG, 10)
