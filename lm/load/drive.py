"""The clock of a load: who is sent when, whatever becomes of the others."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

from lm.load.answer import FAILED, UNFINISHED, Row
from lm.load.reply import Broken

TOGETHER = 64   # requests begun at most before what came in the meantime is heard

Send = Callable[[Row], Awaitable[None]]
Clock = Callable[[], float]


async def open_loop(rows: list[Row], send: Send, clock: Clock, drain: float) -> bool:
    """Sends each row when it is due and waits, at most `drain` seconds, for the last.

    Returns whether it ran to its end: when cancelled it gives up what is under way and says no.
    """
    tasks: set[asyncio.Task] = set()
    broken: list[BaseException] = []

    def ended(task):
        tasks.discard(task)
        if not task.cancelled() and task.exception():
            broken.append(task.exception())

    async def all_of_them():
        for number, row in enumerate(rows):
            early = row.due - clock()
            # Those that are late go together: one for each turn of the loop would be later still.
            if early > 0 or number % TOGETHER == 0:
                await asyncio.sleep(max(0.0, early))
            if broken:
                return
            task = asyncio.create_task(send(row))
            tasks.add(task)
            task.add_done_callback(ended)
        if tasks:
            await asyncio.wait(tasks, timeout=drain)

    whole = await _unless_cancelled(all_of_them(), tasks)
    if broken:
        raise broken[0]
    return whole


async def closed_loop(rows: list[Row], send: Send, clock: Clock, concurrency: int) -> bool:
    """Sends a row whenever one of `concurrency` has ended; due is when it is sent."""
    left: Iterator[Row] = iter(rows)

    async def place():
        for row in left:
            row.due = clock()
            await send(row)

    tasks = {asyncio.create_task(place()) for _ in range(concurrency)}
    return await _unless_cancelled(asyncio.gather(*tasks), tasks)


async def _unless_cancelled(work, tasks):
    try:
        await work
        return True
    except asyncio.CancelledError:
        asyncio.current_task().uncancel()
        return False
    finally:
        left = list(tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def one(row: Row, clock: Clock, exchange: Callable[[], Awaitable[None]],
              timeout: float) -> None:
    """Runs one exchange, which fills in the row, and says how it failed if it did."""
    row.started = clock()
    try:
        async with asyncio.timeout(timeout):
            await exchange()
    except TimeoutError:
        row.status, row.why = FAILED, "timeout"
    except Broken as broken:
        row.status, row.why, row.words = FAILED, broken.kind, str(broken)
    except asyncio.CancelledError:
        row.status = UNFINISHED
        raise
    finally:
        if not row.end >= 0:
            row.end = clock()
