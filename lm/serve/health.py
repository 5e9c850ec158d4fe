"""Whether the server has started, takes requests, and gets on with them."""

import faulthandler
import sys
import time

from lm.base.errors import say


class Progress:
    """Whether the engine makes steps while it has work; asked now and then, on one clock."""

    def __init__(self, core, stall: float):
        self.core, self.stall = core, stall
        self.seen: float | None = None   # the last step, when `since` was set
        self.since = 0.0                 # since when it has been the last, while there was work
        self.told = False

    def look(self, now: float) -> bool:
        """Returns whether the engine has stalled by `now`."""
        s = self.core.status()
        if not self.core.ready or not s.running + s.waiting:
            self.seen = None
        elif self.seen != s.last_step:
            self.seen, self.since = s.last_step, now
        return self.stalled(now)

    def stalled(self, now: float) -> bool:
        """Returns the same by what was last seen."""
        return self.seen is not None and now - self.since > self.stall

    def tell(self, now: float) -> None:
        """Says once what each thread is at, if the engine has stalled."""
        if self.look(now) and not self.told:
            say(f"no step for {self.stall:g} s although there is work; every thread's stack:")
            faulthandler.dump_traceback(sys.__stderr__)
        self.told = self.stalled(now)


def probe(service, which: str) -> tuple[int, str]:
    """Returns the status and the word that startupz, readyz or livez answers."""
    core, stalled = service.core, service.progress.look(time.monotonic())
    if core.failed:
        return 503, f"failed: {core.failed}"
    if stalled:
        return (200 if which == "startupz" else 503), "stalled"
    if which == "livez":
        return 200, "alive"
    if not core.ready:
        return 503, "starting"
    if which == "readyz" and service.draining:
        return 503, "draining"
    return 200, "ready" if which == "readyz" else "started"
