"""Whatever comes, the scheduler loses no token and no page, and is never idle while work waits."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.plan.serving.schedule import Request, Scheduler

PAGE = 4
REQUESTS = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 20)), min_size=1, max_size=12)


def drain(scheduler, requests):
    """Runs to the end; returns (steps, requests by first token, requests by last)."""
    steps, firsts, lasts = [], [], []
    for request in requests:
        scheduler.add(request)
    while True:
        step = scheduler.plan()
        if step is None:
            break
        assert 0 <= scheduler.free <= scheduler.pages
        assert len(scheduler.decoding) + len(scheduler.filling) <= scheduler.slots
        assert step.prefill <= scheduler.chunk
        steps.append((step.prefill, step.decode, step.context))
        done = scheduler.commit(step)
        firsts += done.first
        lasts += done.finished
        if not scheduler.reserve:
            held = [s.prompt + s.left - (s.last - scheduler.tick) for s in scheduler.decoding]
            assert scheduler.free + sum(s.pages for s in scheduler.filling) + sum(
                -(-tokens // PAGE) for tokens in held) == scheduler.pages
            assert scheduler.context == sum(held)
    return steps, firsts, lasts


@settings(max_examples=150, deadline=None)
@given(REQUESTS, st.integers(1, 5), st.integers(13, 40), st.integers(1, 16), st.booleans(),
       st.booleans())
def test_nothing_is_lost(sizes, slots, pages, chunk, mixed, reserve):
    requests = [Request(0.0, i, o) for i, o in sizes]
    scheduler = Scheduler(slots, pages, PAGE, chunk, mixed, reserve)
    steps, firsts, lasts = drain(scheduler, requests)
    assert sorted(map(id, firsts)) == sorted(map(id, lasts)) == sorted(map(id, requests))
    assert len(scheduler) == 0 and scheduler.free == pages and scheduler.context == 0
    # Each token comes from a prompt's end or from a decoding step.
    begun = len(requests) + scheduler.thrown
    given_ = sum(decode for _, decode, _ in steps)
    prompts = sum(i for i, _ in sizes)
    if scheduler.thrown:
        assert sum(p for p, _, _ in steps) > prompts
        assert given_ + len(requests) <= sum(o for _, o in sizes) <= given_ + begun
    else:
        assert sum(p for p, _, _ in steps) == prompts
        assert given_ + len(requests) == sum(o for _, o in sizes)
    if reserve:
        assert not scheduler.thrown


def test_first_come_first_served_beside_those_that_decode():
    a, b, c = Request(0.0, 5, 3), Request(0.0, 6, 2), Request(0.0, 1, 1)
    steps, firsts, lasts = drain(Scheduler(2, 100, PAGE, chunk=8), [a, b, c])
    assert firsts == [a, b, c] and lasts == [a, b, c]
    # 5 and 3 of 6; a decodes while b ends its prompt; then both decode, and then c comes.
    assert steps == [(8, 0, 8), (3, 1, 6 + 5), (0, 2, 6 + 6), (1, 0, 1)]


def test_prompts_alone_stop_the_others():
    a, b = Request(0.0, 4, 4), Request(0.0, 4, 1)
    scheduler = Scheduler(2, 100, PAGE, chunk=4, mixed=False)
    steps, _, lasts = drain(scheduler, [a, b])
    assert [s[:2] for s in steps] == [(4, 0), (4, 0), (0, 1), (0, 1), (0, 1)]
    assert lasts == [b, a]


def test_the_youngest_is_thrown_out_and_computed_again():
    old, young = Request(0.0, 8, 20), Request(0.0, 8, 20)
    scheduler = Scheduler(2, 8, PAGE, chunk=64)
    steps, firsts, lasts = drain(scheduler, [old, young])
    assert (old.thrown, young.thrown) == (0, 1) and lasts == [old, young]
    assert firsts == [old, young]  # its second first token is no first
    # After eight decoding steps 2 x 16 tokens fill the pool. What it had was a prompt of 8, the
    # token of its end and eight more.
    assert sum(p for p, _, _ in steps) == 8 + 8 + 17


def test_what_never_fits_is_refused():
    with pytest.raises(ValueError, match="more than the 2 pages"):
        Scheduler(2, 2, PAGE).add(Request(0.0, 8, 1))
