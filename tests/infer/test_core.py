"""The thread in which the engine runs: what comes from outside, at any moment."""

import itertools
import random
import threading
import time

import pytest
from tiny import GREEDY, model, prompts

from lm.base.errors import UserError
from lm.infer.request import Full, Request, Sampling

_ids = itertools.count()


@pytest.fixture(scope="module")
def core():
    core = model("llama").core(pages=40, queued=400)
    core.start()
    core.wait()
    yield core
    core.stop()


class Heard:
    """A request and what its owner hears."""

    def __init__(self, prompt, sampling=GREEDY):
        self.events, self.ended = [], threading.Event()
        self.request = Request(f"r{next(_ids)}", prompt, sampling, self.hear, time.monotonic())

    def hear(self, event):
        self.events.append(event)
        if event.finish:
            self.ended.set()

    @property
    def finishes(self):
        return [event.finish for event in self.events if event.finish]


def settle(core):
    """Waits until it has nothing to do."""
    end = time.monotonic() + 60
    while (core.status().running or core.status().waiting) and time.monotonic() < end:
        time.sleep(0.005)
    time.sleep(0.02)


def test_five_hundred_aborts_leave_nothing(core):
    """At any state, by two threads, some twice, some of ids that are none."""
    rng = random.Random(0)
    rows = prompts(0, *(rng.randrange(1, 50) for _ in range(500)))
    all_, chosen = [], []
    for i, row in enumerate(rows):
        heard = Heard(row, Sampling(max_tokens=rng.randrange(1, 14), temperature=1.0, seed=i,
                                    ignore_eos=True))
        all_.append(heard)
        while True:
            try:
                core.submit(heard.request)
                break
            except Full:
                time.sleep(0.01)
        for _ in range(rng.randrange(3)):
            chosen.append(rng.choice(all_[-8:]))
            threading.Thread(target=core.abort, args=[chosen[-1].request.id]).start()
        core.abort("none")
        if rng.random() < 0.1:
            time.sleep(rng.random() * 0.02)
    for heard in all_:
        assert heard.ended.wait(60)
    settle(core)
    assert [heard.finishes for heard in all_] == [
        [heard.events[-1].finish] for heard in all_]        # one end, and nothing after it
    ends = [heard.finishes[0] for heard in all_]
    assert set(ends) == {"abort", "length"} and min(map(ends.count, set(ends))) > 20
    core.scheduler.check()
    assert core.status().pages_used == core.status().running == core.status().queued_tokens == 0
    assert core.status().compiles_after_ready == 0
    assert not core._texts


def test_what_is_heard_is_the_text(core):
    m = model("llama")
    heard = [Heard(row, Sampling(max_tokens=12, temperature=0.0, ignore_eos=True))
             for row in prompts(1, 4, 9, 30)]
    right = [m.text(tuple(h.request.prompt), 12) for h in heard]
    for h in heard:
        core.submit(h.request)
    for h, tokens in zip(heard, right, strict=True):
        assert h.ended.wait(60)
        assert [t for event in h.events for t in event.tokens] == tokens == h.request.output
        r = h.request
        assert r.arrival <= r.scheduled < r.first <= r.last <= r.finished and r.finish == "length"


def test_a_full_queue_says_when_to_come_again():
    core = model("llama").core(queued=2, slots=1, budget=8)
    core.start()
    core.wait()
    heard, retry = [], 0
    try:
        for row in prompts(2, *[40] * 30):
            one = Heard(row, Sampling(max_tokens=20, ignore_eos=True))
            try:
                core.submit(one.request)
                heard.append(one)
            except Full as full:
                retry = full.retry
        assert 2 <= len(heard) < 30 and retry >= 1
        assert all(one.ended.wait(60) for one in heard)
    finally:
        core.stop()


def test_the_end_is_heard_by_all():
    core = model("llama").core()
    core.start()
    core.wait()
    heard = [Heard(row, Sampling(max_tokens=50, ignore_eos=True)) for row in prompts(3, *[5] * 9)]
    for one in heard:
        core.submit(one.request)
    core.stop()
    assert all(one.ended.wait(5) for one in heard)
    assert {one.finishes[0] for one in heard} == {"abort"} and not core.alive
    with pytest.raises(Full):
        core.submit(heard[0].request)


def test_a_failure_is_heard_by_all(monkeypatch, capsys):
    """An error on the device ends the thread, in words, and nobody waits for ever."""
    core = model("llama").core()
    core.start()
    core.wait()
    monkeypatch.setattr(core.engine, "read", lambda flight: 1 / 0)
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    heard = [Heard(row) for row in prompts(4, 5, 6)]
    for one in heard:
        core.submit(one.request)
    assert all(one.ended.wait(30) for one in heard)
    assert {one.finishes[0] for one in heard} == {"error"}
    assert "ZeroDivisionError" in heard[0].events[-1].error and core.failed
    with pytest.raises(Full, match="ZeroDivisionError"):
        core.submit(Heard([1]).request)


def test_an_engine_that_cannot_be_made_says_why():
    core = model("llama").core(context=65)
    core.start()
    with pytest.raises(UserError, match="context = 65 is more than the 64 tokens"):
        core.wait()
