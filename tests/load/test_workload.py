"""What is asked and when: by its laws, by the seed alone, and refused in words where it is not."""

import numpy as np
import pytest
from scipy import stats

from lm.base.errors import UserError
from lm.load import workload
from lm.load.config import Config
from lm.load.workload import loads, rates


def one(**asked):
    [made] = loads(Config(**asked))
    return made


@pytest.mark.parametrize("arrivals,law", [
    ("poisson", stats.expon(scale=1 / 20)), ("gamma:2", stats.gamma(1 / 4, scale=4 / 20)),
    ("gamma:0.5", stats.gamma(4, scale=1 / 80))])
def test_gaps_follow_their_law(arrivals, law):
    made = one(rate=20.0, requests=4000, arrivals=arrivals, seed=3)
    gaps = np.diff(made.due, prepend=0.0)
    assert stats.kstest(gaps, law.cdf).pvalue > 0.01
    assert stats.kstest(gaps, stats.expon(scale=1 / 22).cdf).pvalue < 1e-3  # and no other's


def test_lengths_follow_their_law():
    made = one(requests=4000, prompt_tokens="lognormal:10000:0.8", output_tokens="uniform:100:999")
    law = stats.lognorm(0.8, scale=10000 * np.exp(-0.32))
    assert stats.kstest(made.prompt, law.cdf).pvalue > 0.01
    assert stats.kstest(made.output, stats.uniform(100, 900).cdf).pvalue > 0.01
    assert abs(np.corrcoef(made.prompt, made.output)[0, 1]) < 0.05


def test_a_duration_holds_what_is_due_in_it():
    for seed, arrivals in enumerate(["poisson", "constant", *["gamma:20"] * 10]):
        made = one(rate=50.0, duration=40.0, arrivals=arrivals, seed=seed)
        assert made.due[0] >= 0 and made.due[-1] < 40 and (np.diff(made.due) >= 0).all()
        longer = one(rate=50.0, duration=90.0, arrivals=arrivals, seed=seed)
        assert (longer.due[:len(made.due)] == made.due).all()
        assert longer.due[len(made.due)] >= 40  # none is missing at the end
    assert len(one(rate=50.0, duration=40.0, arrivals="constant").due) == 1999
    assert len(one().due) == pytest.approx(30, abs=20)  # 1/s for 30 s


def test_lengths_are_the_same_at_every_rate():
    first, *others = loads(Config(rates="1:8", duration=50.0))
    assert [made.rate for made in (first, *others)] == [1, 2, 4, 8]
    for made in others:
        n = len(first.due)
        assert (made.prompt[:n] == first.prompt).all() and (made.output[:n] == first.output).all()
        assert made.due[:n] == pytest.approx(first.due / made.rate)
    again = one(rate=1.0, duration=50.0, seed=1)
    assert len(again.due) != len(first.due) or (again.due != first.due).all()


@pytest.mark.parametrize("text,found", [
    ("1:16", [1, 2, 4, 8, 16]), ("3:20", [3, 6, 12, 20]), ("0.5,2,2.5", [0.5, 2, 2.5]), ("4", [4]),
    ("2:2.5", [2, 2.5])])
def test_rates(text, found):
    assert rates(text) == found


@pytest.mark.parametrize("text", [
    "x", "1:", "1:2:4", "4:1", "2,1", "1,1", "0,1", "-1:4", "nan:4", ""])
def test_bad_rates(text):
    with pytest.raises(UserError, match="LOW:HIGH"):
        rates(text)


def test_a_trace_is_sent_as_it_was_or_stretched(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("time,prompt_tokens,output_tokens\n" + "".join(
        f"{t},{10 + t},{20 + t}\n" for t in (0, 1, 3, 8, 10)) + "11,5,0\n")
    made = one(trace=str(path))
    assert made.due.tolist() == [0, 1, 3, 8, 10] and made.rate == pytest.approx(0.4)
    assert made.prompt.tolist() == [10, 11, 13, 18, 20] and made.output.tolist()[0] == 20
    assert made.notes == ["rows of the trace without tokens are left out: 1"]
    assert one(trace=str(path), rate=4.0).due == pytest.approx([0, 0.1, 0.3, 0.8, 1])
    assert len(one(trace=str(path), requests=2).due) == 2
    assert one(trace=str(path), duration=8.0).due.tolist() == [0, 1, 3]
    with pytest.raises(UserError, match="has 5 requests, not 6"):
        one(trace=str(path), requests=6)


def test_a_closed_loop_has_no_times():
    made = one(concurrency=4)
    assert len(made.due) == 4 * workload.TURNS and not made.due.any() and made.concurrency == 4
    assert len(one(concurrency=4, requests=7).due) == 7


@pytest.mark.parametrize("asked,words", [
    (dict(duration=5.0, requests=5), "--duration and --requests"),
    (dict(rate=1.0, concurrency=2), "--rate and --concurrency"),
    (dict(rates="1:2", concurrency=2), "--rates and --concurrency"),
    (dict(concurrency=2, duration=5.0), "--duration says nothing"),
    (dict(concurrency=2, trace="x"), "--trace says nothing"),
    (dict(rate=1e-3, duration=0.1), "no request is due"), (dict(warmup=1e4), "no request is due"),
    (dict(rate=1e5, duration=1e3), "more than one test holds"),
    (dict(arrivals="bursts"), "arrivals=bursts"), (dict(prompt_tokens="x"), "prompt_tokens=x"),
    (dict(output_tokens="constant:0"), "output_tokens=constant:0")])
def test_what_cannot_be_asked(asked, words):
    with pytest.raises(UserError, match=words):
        loads(Config(**asked))
