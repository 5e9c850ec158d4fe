"""One request: when it was due, what came of it and when, as its answer is heard."""

import json
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

from lm.load.reply import Broken, Reply
from lm.load.sse import Events

REFUSED = (429, 503)    # statuses of a server that has too much to do
LIMIT = 1 << 26         # bytes of an answer in one piece
NAN = float("nan")
FINISHED, REJECTED, FAILED, UNFINISHED, UNSENT = STATUSES = (
    "finished", "rejected", "failed", "unfinished", "unsent")


@dataclass(slots=True)
class Row:
    """A request and its times, in seconds since the load began.

    status: finished; rejected (429 or 503); failed, in the way that `why` says; unfinished, given
    up when nobody waited any longer; unsent, as the test was stopped before it was due.
    """

    due: float
    prompt: int                 # tokens asked for
    output: int
    request: bytes = b""        # what is sent
    status: str = UNSENT
    why: str = ""
    words: str = ""             # what the server said of it
    started: float = NAN        # the client began on it
    sent: float = NAN           # the request was handed to the system
    end: float = NAN            # all of the answer was there, or it was given up
    times: array = field(default_factory=lambda: array("d"))   # of events that brought tokens
    prompt_tokens: int = -1     # as the server counts; -1: it did not say
    output_tokens: int = -1
    cached_tokens: int = -1
    finish: str = ""

    @property
    def tokens(self) -> int:
        """Returns output tokens: as the server counts, or else the events that brought some."""
        return self.output_tokens if self.output_tokens >= 0 else len(self.times)


class Answer:
    """Listens to the reply to one request and fills in its row."""

    def __init__(self, row: Row, clock: Callable[[], float]):
        self.row, self.clock = row, clock
        self.events = Events()
        self.whole = bytearray()
        self.ended = False      # the server said [DONE]
        self._counted = 0.0     # when a finish came without a token

    def hear(self, reply: Reply, piece: bytes) -> None:
        """Takes a piece of the body. Broken: it is no answer."""
        now = self.clock()
        if reply.status == 200 and "event-stream" in reply.headers.get("content-type", ""):
            for data in self.events.feed(piece):
                self._event(data, now)
            return
        self.whole += piece
        if len(self.whole) > LIMIT:
            raise Broken("garbage", f"an answer of more than {LIMIT >> 20} MiB")

    def _event(self, data, now):
        if data == b"[DONE]":
            self.ended = True
            return
        if not data:
            return
        tree = _read(data)
        try:
            self._take(tree, now)
        except (AttributeError, LookupError, TypeError):
            raise Broken("garbage", "an event that is no chunk of a completion") from None

    def _take(self, tree, now):
        row = self.row
        if tree.get("error"):
            raise Broken("error event", said(tree))
        choices = tree.get("choices")
        if choices:
            choice = choices[0]
            delta = choice.get("delta") or {}
            text = choice.get("text") or delta.get("content") or delta.get("tool_calls") or (
                delta.get("reasoning_content") or delta.get("reasoning"))
            finish = choice.get("finish_reason")
            # A token whose text is held back, or has none, is one; what opens or ends is not.
            if text or not (finish or "role" in delta):
                row.times.append(now)
            if finish:
                row.finish, self._counted = str(finish), now
        usage = tree.get("usage")
        if usage:
            self._usage(usage)

    def _usage(self, usage):
        row = self.row
        row.prompt_tokens = _count(usage.get("prompt_tokens"))
        row.output_tokens = _count(usage.get("completion_tokens"))
        details = usage.get("prompt_tokens_details") or {}
        row.cached_tokens = _count(details.get("cached_tokens"))

    def close(self, reply: Reply) -> None:
        """Says what became of the request, once the reply is whole."""
        row = self.row
        row.end = self.clock()
        if reply.status != 200:
            row.status = REJECTED if reply.status in REFUSED else FAILED
            row.why = str(reply.status) if reply.status in REFUSED else f"http {reply.status}"
            row.words = said(_lenient(self.whole))
            return
        if self.whole or "event-stream" not in reply.headers.get("content-type", ""):
            tree = _read(self.whole)
            try:
                if tree.get("error"):
                    raise Broken("error event", said(tree))
                row.finish = str(tree["choices"][0].get("finish_reason"))
                self._usage(tree.get("usage") or {})
            except (AttributeError, LookupError, TypeError):
                raise Broken("garbage", "an answer that is no completion") from None
        elif not (self.ended or row.finish):
            raise Broken("closed", "the stream ended before its end")
        if row.finish and self._counted and not row.times and row.output_tokens:
            row.times.append(self._counted)     # all at once, with the end
        row.status = FINISHED


def _read(data):
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise Broken("garbage", "what came is not JSON") from None


def _lenient(data):
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return bytes(data[:200]).decode(errors="replace")


def _count(value):
    return value if type(value) is int and value >= 0 else -1


def said(tree) -> str:
    """Returns what an error body says, in one line of at most 200 characters."""
    error = tree.get("error", tree) if isinstance(tree, dict) else tree
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    text = " ".join(str(error).split())
    return "".join(c for c in text if c.isprintable())[:200]
