"""The time of a step is that of the published worked answers; figures and clock say the same."""

import numpy as np
import pytest

from lm.cost.chips import CHIPS
from lm.plan.serving.advice import disaggregation
from lm.plan.serving.model import Layout
from lm.plan.serving.published import SHAPES
from lm.plan.serving.schedule import Request, Scheduler, Step
from lm.plan.serving.simulate import simulate
from lm.plan.serving.step import STACKS, TERMS, clock, constants_of, hops, rate, terms, tpot, ttft

LLAMA = SHAPES["llama3-70b"]
V5E = Layout(CHIPS["v5e"], 8, 1, "int8", "int8")


def ideal(layout, **counts):
    counts = {"prefill": 0.0, "decode": 0.0, "context": 0.0, "attended": 0.0} | counts
    return dict(zip(TERMS, terms(LLAMA, layout, **counts)[0], strict=True))


def test_worked_answers_of_the_scaling_book():
    x = ideal(V5E, decode=32.0, context=32 * 8192.0)
    step = x["weights"] + x["cache"]
    assert step == pytest.approx(17e-3, abs=0.5e-3)
    assert 32 / step / 8 == pytest.approx(235, rel=0.02)
    twice = ideal(Layout(CHIPS["v5e"], 16, 1, "int8", "int8"), decode=32.0, context=32 * 8192.0)
    # Eight heads lie on sixteen chips twice: the book lets them be cut further, for 8.5 ms.
    assert twice["weights"] + twice["cache"] / 2 == pytest.approx(8.5e-3, abs=0.25e-3)
    prefill = ideal(Layout(CHIPS["v5e"], 16), prefill=8192.0)["compute"] / 0.4
    assert prefill == pytest.approx(0.91, abs=0.01)
    assert round(disaggregation(prefill, 19e-3, 32, 512).value) == 3


def test_where_compute_begins_to_bind():
    # Critical batch: 240 on v5e in bfloat16, 120 with int8 weights.
    for weights, batch in (("bf16", 240), ("int8", 120)):
        x = ideal(Layout(CHIPS["v5e"], 8, 1, weights), decode=float(batch))
        assert x["compute"] == pytest.approx(x["weights"], rel=0.02)


def test_eight_bit_floats_multiply_as_such_and_integers_do_not():
    assert rate(Layout(CHIPS["h100"], weights="fp8")) == CHIPS["h100"].flops["fp8"]
    assert rate(Layout(CHIPS["v6e"], weights="int8")) == CHIPS["v6e"].flops["bf16"]
    assert rate(Layout(CHIPS["v4"], weights="fp8")) == CHIPS["v4"].flops["bf16"]


def test_stages_share_compute_but_read_their_weights_for_every_microbatch():
    flat, deep = Layout(CHIPS["v5e"], 8), Layout(CHIPS["v5e"], 4, 2)
    a, b = (ideal(x, decode=64.0, context=1e5) for x in (flat, deep))
    assert b["compute"] == a["compute"] and b["cache"] == a["cache"]
    assert b["weights"] == 2 * a["weights"] and b["fixed"] == 2


def test_hops_of_a_square_and_of_a_switch():
    assert [hops(Layout(CHIPS["v6e"], n)) for n in (1, 2, 4, 8, 16)] == [0, 1, 2, 4, 6]
    assert hops(Layout(CHIPS["h100"], 8)) == 1


@pytest.mark.parametrize("name", SHAPES)
def test_clock_is_the_sum_of_the_terms(name):
    shape, layout = SHAPES[name], Layout(CHIPS["v6e"], 8, 2)
    constants = constants_of(layout.chip)
    for counts in (Step(0, 7, 9000), Step(512, 0, 512, 131328), Step(300, 64, 70000, 9e6)):
        x, hop = terms(shape, layout, counts.prefill, counts.decode, counts.context,
                       counts.attended)
        assert clock(shape, layout, constants)(counts) == pytest.approx(
            constants.vector() @ x + hop)


@pytest.mark.parametrize("name", ["llama3-8b", "qwen3-coder-480b", "qwen3.5-397b"])
def test_figures_are_what_the_clock_says(name):
    shape, layout = SHAPES[name], Layout(CHIPS["7x"], 4, 1, "fp8")
    constants = constants_of(layout.chip)
    tick = clock(shape, layout, constants)
    assert tpot(shape, layout, constants, 48, 1500).value == pytest.approx(
        tick(Step(decode=48, context=48 * 1500)))
    for prompt in (1, 512, 1300):
        request = Request(0.0, prompt, 1)
        simulate([request], lambda: Scheduler(4, 1000, chunk=512), tick)
        assert request.first == pytest.approx(
            ttft(shape, layout, constants, prompt, 512).value)


def test_every_chip_has_constants():
    assert {constants_of(chip).source for chip in CHIPS.values()} <= {
        c.source for c in STACKS.values()}
    assert constants_of(CHIPS["h200"]) is STACKS["nim"]
    assert constants_of(CHIPS["v5p"]) is STACKS[""]
    assert all((c.vector() > 0).all() for c in STACKS.values())
    assert np.isfinite(clock(LLAMA, V5E, constants_of(V5E.chip))(Step(decode=1, context=1)))
