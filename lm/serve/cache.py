"""Answers that would be the same again: temperature 0 or a seed, and everything else alike."""

from collections import OrderedDict
from collections.abc import Hashable

from lm.infer.request import Event
from lm.serve.stream import Flight


class Cache:
    """Finished requests up to so many bytes, the longest unused leave first; and those under way.

    Kept in the process of one model: what answers depend on besides the key cannot change.
    """

    def __init__(self, most: int):
        self.most, self.bytes = most, 0
        self.under_way: dict[Hashable, Flight] = {}
        self.done: OrderedDict[Hashable, tuple[Flight, int]] = OrderedDict()

    def find(self, key: Hashable) -> Flight | None:
        """Returns the request of that key, finished or under way."""
        if key in self.done:
            self.done.move_to_end(key)
            return self.done[key][0]
        return self.under_way.get(key)

    def begin(self, flight: Flight) -> None:
        """Has others that ask the same join it."""
        self.under_way[flight.key] = flight

    def forget(self, flight: Flight) -> None:
        """Has nobody else join it."""
        if self.under_way.get(flight.key) is flight:
            del self.under_way[flight.key]

    def end(self, flight: Flight) -> None:
        """Keeps what has come to its own end; one that was given up is forgotten."""
        self.forget(flight)
        if flight.finish not in ("stop", "length"):
            return
        flight.heard = [Event("".join(e.text for e in flight.heard), [],
                              [x for e in flight.heard for x in e.logprobs], flight.finish)]
        size = _bytes(flight)
        if size > self.most:
            return
        flight.request.mask = None   # which is large, and nobody asks it again
        self.bytes += size - self.done.pop(flight.key, (None, 0))[1]
        self.done[flight.key] = flight, size
        while self.bytes > self.most:
            self.bytes -= self.done.popitem(last=False)[1][1]


def _bytes(flight):
    """About what it takes: an int in a list has 36 bytes, a logprob 100 and its alternatives."""
    event = flight.heard[0]
    tops = sum(1 + len(x.top) for x in event.logprobs)
    return (2048 + 44 * len(flight.request.prompt) + 36 * len(flight.request.output)
            + 4 * len(event.text) + 150 * tops)
