"""Work done ahead in a thread, so that a step does not wait for its batch."""

import itertools
import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

X = TypeVar("X")


def prefetch(make: Callable[[int], X], start: int, ahead: int) -> Iterator[X]:
    """Yields make(start), make(start + 1), ...: up to `ahead` are made before they are asked for.

    What `make` raises is raised here, in its turn. Close the iterator (or drop it) to stop the
    thread; that waits for the one call under way.
    """
    if ahead == 0:
        yield from map(make, itertools.count(start))
        return
    ready: queue.Queue = queue.Queue()
    room = threading.Semaphore(ahead)
    stopped = threading.Event()

    def work():
        for step in itertools.count(start):
            room.acquire()
            if stopped.is_set():
                return
            try:
                ready.put((make(step), None))
            except BaseException as error:  # the consumer's to handle, not this thread's
                ready.put((None, error))
                return

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            made, error = ready.get()
            if error is not None:
                raise error
            room.release()
            yield made
    finally:
        stopped.set()
        room.release()
        thread.join()
