"""The end of a server: first no new requests, then no old ones, then no server."""

import asyncio
import time

from lm.base.errors import say


class Drain:
    """Told to end, the server answers readyz with 503 and takes nothing in; what is under way has
    so many seconds, and is then cut with an error. Told again, it is cut at once."""

    def __init__(self, service, seconds: float):
        self.service, self.seconds = service, seconds
        self.begun, self.hurried = asyncio.Event(), False

    def begin(self) -> None:
        """Begins, or hurries what has begun."""
        if self.begun.is_set():
            self.hurried = True
            return
        self.service.draining = True
        self.begun.set()
        if self.service.entered:
            say(f"ending: requests under way ({self.service.entered}) have {self.seconds:g} s; "
                "once more ends them now")

    async def finish(self) -> None:
        """Returns once no request is under way."""
        end, core = time.monotonic() + self.seconds, self.service.core
        while (self.service.entered and not self.hurried and not core.failed
               and time.monotonic() < end):
            await asyncio.sleep(0.01)
        for answer in list(self.service.answers):
            answer.end("the server is shutting down")
        end = time.monotonic() + 1   # in which each writes that
        while self.service.entered and time.monotonic() < end:
            await asyncio.sleep(0.01)
        for answer in list(self.service.answers):
            answer.drop()
