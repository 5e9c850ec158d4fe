"""Who is sent when: on a clock of the test's own, whatever becomes of the others."""

import asyncio
import itertools

import pytest

from lm.load import drive
from lm.load.answer import FAILED, FINISHED, UNFINISHED, UNSENT, Row
from lm.load.reply import Broken


class Time(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to whatever is next: seconds cost nothing, and are exact."""

    def __init__(self):
        super().__init__()
        self.now = 0.0

    def time(self):
        return self.now

    def _run_once(self):
        if not self._ready and self._scheduled:
            self.now = max(self.now, self._scheduled[0]._when)
        super()._run_once()


def run(work):
    """The result of a coroutine under the clock that jumps."""
    with asyncio.Runner(loop_factory=Time) as runner:
        return runner.run(work)


def now():
    return asyncio.get_running_loop().time()


def rows(*due):
    return [Row(t, 1, 1) for t in due]


def sender(seconds, fail=None):
    """A server that takes as long as `seconds` says of the moment."""
    async def send(row):
        async def exchange():
            await asyncio.sleep(seconds(now()))
            if fail:
                raise fail
            row.status = FINISHED
        await drive.one(row, now, exchange, 100.0)
    return send


def test_each_is_sent_when_it_is_due_whatever_the_others_do():
    asked = rows(0.5, 1.0, 1.0, 7.25)
    assert run(drive.open_loop(asked, sender(lambda t: 50), now, 60.0))
    assert [r.started for r in asked] == pytest.approx([0.5, 1.0, 1.0, 7.25])
    assert [r.end for r in asked] == pytest.approx([50.5, 51.0, 51.0, 57.25])


def test_a_stall_is_seen_by_all_who_were_due():
    """The server stands still from 5 s to 6 s: an open loop sees it, a closed one once."""
    def stall(t):
        return 6 - t if 5 <= t < 6 else 0.01
    asked = rows(*(i / 20 for i in range(200)))
    run(drive.open_loop(asked, sender(stall), now, 60.0))
    waits = [r.end - r.due for r in asked]
    assert waits[100:120] == pytest.approx([1 - i / 20 for i in range(20)])
    assert sum(w > 0.015 for w in waits) == 20

    asked = rows(*[0.0] * 200)
    async def closed():
        await asyncio.sleep(4.0)
        return await drive.closed_loop(asked, sender(stall), now, 1)
    assert run(closed())
    waits = [r.end - r.due for r in asked]
    assert sum(w > 0.015 for w in waits) == 1


def test_a_closed_loop_keeps_its_number():
    asked = rows(*[0.0] * 50)
    assert run(drive.closed_loop(asked, sender(lambda t: 1 + t % 0.7), now, 4))
    ends = sorted((r.started, 1) for r in asked) + sorted((r.end, -1) for r in asked)
    live = list(itertools.accumulate(change for _, change in sorted(ends)))
    assert max(live) == 4 and [r.due for r in asked] == [r.started for r in asked]


def test_what_is_late_goes_at_once():
    """Many due at one moment are begun before the first of them is answered."""
    asked = rows(*[1.0] * 1000)
    begun = []

    async def send(row):
        begun.append(now())
        await asyncio.sleep(1)
    run(drive.open_loop(asked, send, now, 5.0))
    assert len(begun) == 1000 and max(begun) == pytest.approx(1.0)


def test_the_last_are_waited_for_and_then_given_up():
    asked = rows(0.0, 1.0)
    assert run(drive.open_loop(asked, sender(lambda t: 3 if t < 1 else 9), now, 5.0))
    assert [r.status for r in asked] == [FINISHED, UNFINISHED]
    assert [r.end for r in asked] == pytest.approx([3, 6])


@pytest.mark.parametrize("loop", ["open", "closed"])
def test_a_test_that_is_stopped_says_what_there_is(loop):
    asked = rows(0.0, 1.0, 2.0, 3.0)

    async def stopped():
        if loop == "open":
            work = drive.open_loop(asked, sender(lambda t: 0.5 if t < 1 else 9), now, 60)
        else:
            work = drive.closed_loop(asked, sender(lambda t: 0.5 if t < 1 else 9), now, 1)
        task = asyncio.create_task(work)
        await asyncio.sleep(1.5 if loop == "open" else 1.2)
        task.cancel()
        whole = await task
        assert not task.cancelling()    # what comes after can wait and be timed as ever
        return whole
    assert not run(stopped())
    if loop == "open":
        assert [r.status for r in asked] == [FINISHED, UNFINISHED, UNSENT, UNSENT]
    else:
        assert [r.status for r in asked] == [FINISHED, FINISHED, UNFINISHED, UNSENT]


def test_failures_are_named_and_mistakes_of_ours_are_not_hidden():
    row = Row(0.0, 1, 1)

    async def slow():
        await asyncio.sleep(9)

    run(drive.one(row, now, slow, 2.0))
    assert (row.status, row.why, row.end) == (FAILED, "timeout", 2.0)

    asked = rows(0.0)
    run(drive.open_loop(asked, sender(lambda t: 1, Broken("closed", "gone")), now, 5.0))
    assert (asked[0].status, asked[0].why, asked[0].words) == (FAILED, "closed", "gone")

    wrong = sender(lambda t: 1, ZeroDivisionError())
    for loop in (drive.open_loop(rows(0.0, 5.0), wrong, now, 5.0),
                 drive.closed_loop(rows(0.0, 5.0), wrong, now, 2)):
        with pytest.raises(ZeroDivisionError):
            run(loop)
