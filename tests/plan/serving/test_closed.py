"""The closed form is exact where it must be, near the simulation elsewhere; it knows its limits."""

import math

import pytest

from lm.load.lengths import lengths
from lm.plan.serving.closed import largest_rate, separate, steady
from lm.plan.serving.schedule import Scheduler, Step
from lm.plan.serving.simulate import Workload, repeat


def clock(step):
    return 5e-3 + 1e-5 * step.prefill + 5e-5 * step.decode + 2e-8 * step.context


def at(rate, **more):
    more = {"slots": 512, "tokens": 1e9, "chunk": 2048} | more
    return steady(clock, rate, 1000, 300, **more)


def test_an_idle_server_gives_one_sequence_its_tokens():
    assert at(1e-9).tpot == pytest.approx(clock(Step(decode=1, context=1150)))


def test_the_fixed_point_satisfies_little():
    x = at(10.0)
    t = x.tpot
    assert x.stable and x.batch == pytest.approx(10 * 299 * t)
    decode = 1 + x.batch
    assert t == pytest.approx(clock(Step(10_000 * t, decode, decode * 1150 + 10_000 * t)))


def test_it_is_near_the_simulation():
    load = Workload(15.0, lengths("constant:1000"), lengths("constant:300"))
    x = repeat(load, lambda: Scheduler(512, 10**6, chunk=2048), clock, requests=3000)
    assert at(15.0).tpot == pytest.approx(x["tpot_mean"][0], rel=0.05)
    assert at(15.0).batch == pytest.approx(x["batch"][0], rel=0.08)


def test_what_runs_out_is_said():
    assert at(1e3).limit == "time" and not at(1e3).stable
    assert at(20.0, slots=8).limit == "slots"
    assert at(20.0, tokens=2e4).limit == "cache"
    assert at(20.0, chunk=64).limit == "prompts"


def test_the_largest_rate_is_the_edge():
    x = largest_rate(clock, 1000, 300, 512, 1e9, 2048)
    assert x.stable and at(0.999 * x.rate).stable and not at(1.001 * x.rate).stable
    within = largest_rate(clock, 1000, 300, 512, 1e9, 2048, tpot=0.02)
    assert within.tpot == pytest.approx(0.02, rel=1e-3) and within.rate < x.rate
    assert largest_rate(clock, 1000, 300, 512, 1e9, 2048, tpot=1e-3).tpot > 1e-3


def test_prompts_apart():
    # The published toy: 256 slots, 23.1 ms a step: 13.31 requests/s.
    prompt = 2 * 70.55e9 * 1000 / (8 * 918e12 * 0.4)
    assert separate(23.1e-3, prompt, 300, 256) == pytest.approx(13.31, rel=0.01)
    assert math.isclose(separate(0.02, 0.0, 300, 256), 256 / 6)
