"""The scheduler of the engine, unchanged, in the planner's simulator, beside the planner's own."""

import copy

import numpy as np
import pytest

from lm.infer.scheduler import Scheduler as Real
from lm.infer.steps import Limits
from lm.load.lengths import lengths
from lm.plan.serving.schedule import Request, Scheduler
from lm.plan.serving.simulate import Workload, kept, measure, simulate

LONG, SHORT = lengths("lognormal:1000"), lengths("lognormal:300")
ANY = 1 << 20  # a context, or a budget, that never binds


def clock(step):
    """70B in int8 on v6e-8: 40 % of peak, half the bandwidth, 5 ms."""
    compute = 2 * 70e9 * (step.prefill + step.decode) / (8 * 918e12 * 0.4)
    return 5e-3 + max(compute, (70e9 + step.context * 163840) / (8 * 1.638e12 * 0.5)) + (
        1e-12 * step.attended)


def both(load, n, real, planned, **more):
    """Runs one load on each scheduler."""
    requests = load.draw(np.random.default_rng(1), n)
    return [simulate(copy.deepcopy(requests), make, clock, **more) for make in (real, planned)]


def real(slots, pages, budget=ANY, **more):
    return lambda: Real(Limits(slots, pages, 128, budget, ANY, **more))


def times(run):
    return [(r.scheduled, r.first, r.finish) for r in run.requests]


@pytest.mark.parametrize("load,n,slots,pages,more", [
    (Workload(10.0, LONG, SHORT, "gamma:2"), 800, 128, 20000, {}),
    (Workload(1000.0, lengths("constant:200"), lengths("constant:600")), 8, 8, 40, {}),
    (Workload(10.0, LONG, SHORT), 400, 64, 400, {"reserve": True}),
    (Workload(30.0, LONG, SHORT), 900, 64, 2000, {"replicas": 3}),
], ids=["free", "thrown out", "reserved", "replicas"])
def test_equal_policies_give_equal_times(load, n, slots, pages, more):
    """Where no budget binds, the two plan the same steps: every time is equal to the last bit."""
    reserve, replicas = more.get("reserve", False), more.get("replicas", 1)
    spare = 0 if reserve else pages // 100
    a, b = both(load, n, real(slots, pages, reserve=reserve, spare=spare),
                lambda: Scheduler(slots, pages, chunk=ANY, reserve=reserve), replicas=replicas)
    assert times(a) == times(b)
    assert a.thrown == b.thrown and np.array_equal(a.steps, b.steps)
    assert (pages == 40) == (a.thrown > 0)


@pytest.mark.parametrize("load,pages", [
    (Workload(10.0, lengths("constant:200"), lengths("constant:300")), 100),
    (Workload(10.0, LONG, SHORT), 400)], ids=["alike", "mixed"])
def test_it_throws_out_fewer_and_hardly_any_time_moves(load, pages):
    """Where pages run out while one draws its last token, the real one waits a step for its."""
    a, b = both(load, 400, real(64, pages, spare=pages // 100),
                lambda: Scheduler(64, pages, chunk=ANY))
    assert 0 < a.thrown < b.thrown
    assert a.steps[:, 2].sum() < b.steps[:, 2].sum()  # so that less is computed again
    of_a, of_b = measure(a), measure(b)
    for name in ("ttft_mean", "e2e_mean", "e2e_p95", "tokens"):
        assert of_a[name] == pytest.approx(of_b[name], rel=0.01), name


def test_one_at_a_time_chunks_are_equal_too():
    a, b = both(Workload(0.5, LONG, lengths("constant:30")), 200, real(1, 500, 512),
                lambda: Scheduler(1, 500, chunk=512))
    assert times(a) == times(b) and (a.steps[:, 2] == 512).any()


def test_a_budget_that_tokens_share_with_prompts_moves_little():
    """The planner's chunk is of prompts alone, and decoding tokens come beside it.

    With room for both in the budget, its steps hold no less than the planner's and no more than
    its slots above.
    """
    slots, chunk = 64, 512
    a, b = both(Workload(8.0, LONG, SHORT), 1500, real(slots, 20000, chunk + slots),
                lambda: Scheduler(slots, 20000, chunk=chunk))
    assert (a.steps[:, 2] + a.steps[:, 3]).max() <= chunk + slots
    of_a, of_b = measure(a), measure(b)
    for name in ("ttft_mean", "tpot_mean", "e2e_mean", "e2e_p95", "busy", "batch", "tokens"):
        assert of_a[name] == pytest.approx(of_b[name], rel=0.05), name
    for run in (a, b):
        assert run.steps[:, 2].sum() == sum(r.prompt for r in run.requests)
        assert run.steps[:, 3].sum() == sum(r.output - 1 for r in run.requests)


@pytest.mark.parametrize("pages", [2000, 300])
def test_laws_of_the_real_one(pages):
    requests = Workload(10.0, LONG, SHORT).draw(np.random.default_rng(2), 500)
    made = []

    def make():
        made.append(real(64, pages, 512)())
        return made[-1]

    def checked(step):
        if step.prefill:
            made[0].check()
        return clock(step)

    run = simulate(requests, make, checked)
    for r in run.requests:  # causes come first
        assert r.arrival <= r.scheduled < r.first <= r.finish
        assert (r.first == r.finish) == (r.output == 1)
    start, seconds, prefill, decode = run.steps.T
    assert (prefill + decode).max() <= 512
    assert (run.thrown > 0) == (pages == 300)
    if not run.thrown:  # Little: time that sequences spend decoding = those that decode, over time
        assert (seconds * decode).sum() == pytest.approx(
            sum(r.finish - r.first for r in run.requests))
    # It computes exactly while a request is there.
    busy, until = 0.0, -1.0
    for r in run.requests:
        arrival, finish = r.arrival, max(q.finish for q in run.requests if q.arrival <= r.arrival)
        busy += max(0.0, finish - max(arrival, until))
        until = max(until, finish)
    assert seconds.sum() == pytest.approx(busy)
    made[0].check()
    assert not len(made[0]) and made[0].pages.available == pages
    assert made[0].queued_tokens == 0


def test_it_is_a_queue_of_known_wait():
    # M/D/1: the mean wait is rho s / 2 (1 - rho).
    load = Workload(0.8, lengths("constant:1"), lengths("constant:1"))
    waits = []
    for seed in range(4):
        run = simulate(load.draw(np.random.default_rng(seed), 20000), real(1, 10, 1),
                       lambda step: 1.0)
        waits.append(np.mean([r.scheduled - r.arrival for r in kept(run)]))
    assert np.mean(waits) == pytest.approx(0.8 / (2 * 0.2), rel=0.08)


def test_a_request_of_counts_has_no_pages_that_others_could_find():
    request = Request(0.0, 300, 2)
    made = real(1, 10)()
    run = simulate([request], lambda: made, lambda step: 1.0)
    assert (request.first, request.finish) == (1.0, 2.0) and run.thrown == 0
    assert (made.queries, made.hits) == (0, 0) and not made.pages.idle
