"""From the engine's thread into the loop: what each answer under way has made so far."""

import asyncio
import codecs
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable
from dataclasses import dataclass, field

from lm.infer.request import Event, Logprob, Request

HEARTBEAT = 15.0   # seconds after which a stream that has nothing to say shows that it lives


class Post:
    """Carries news into the loop. However much a step makes, the loop is woken for it once."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self.loop = loop
        self.letters: deque[tuple[Callable, tuple]] = deque()
        self.rung = False

    def put(self, function: Callable, *args) -> None:
        """Has the loop call function(*args) once `ring` was called; from any thread."""
        self.letters.append((function, args))

    def ring(self) -> None:
        """Wakes the loop, unless it is about to look."""
        if self.letters and not self.rung:
            self.rung = True
            with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody listens
                self.loop.call_soon_threadsafe(self._open)

    def _open(self):
        self.rung = False  # first: what is put from now on rings again
        while self.letters:
            function, args = self.letters.popleft()
            try:
                function(*args)
            except Exception as error:  # what follows is somebody else's
                self.loop.call_exception_handler(dict(message="news was lost", exception=error))


@dataclass(slots=True)
class Piece:
    """What a choice has made since it was last looked at."""

    text: str = ""
    logprobs: list[Logprob] = field(default_factory=list)
    finish: str | None = None
    error: str = ""


class Choice:
    """One of the texts that a request asked for, as far as it has come.

    What is not yet taken waits as one piece, which is never more than the engine may make of one
    request: a reader that is slow makes no queue grow.
    """

    def __init__(self, answer: "Answer", index: int, prompt: list[int]):
        self.answer, self.index, self.prompt = answer, index, prompt
        self.flight: Flight | None = None
        self.pending: list[Event] = []
        self.begun = False     # whether anything of it was written
        self.offset = 0        # characters of the tokens whose logprobs were
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")   # of those tokens

    def hear(self, event: Event) -> None:
        """Takes in news."""
        self.pending.append(event)
        answer = self.answer
        if event.tokens and not answer.first:
            answer.first = time.monotonic()
        if event.finish:
            answer.open -= 1
        if not answer.open or answer.streams and (event.text or event.logprobs or event.finish):
            answer.wake.set()

    def take(self) -> Piece | None:
        """Returns what there is to show and forgets it; None where there is nothing."""
        if not self.pending:
            return None
        events, self.pending = self.pending, []
        piece = Piece("".join(e.text for e in events), [x for e in events for x in e.logprobs],
                      events[-1].finish, events[-1].error)
        return piece if piece.text or piece.logprobs or piece.finish else None


class Flight:
    """One request of the engine, and the choices that are made from what it gives.

    Those that ask the same at the same time share one; it is given up when none is left.
    """

    def __init__(self, request: Request, key: Hashable | None):
        """key: what those that may share it have in common; None: nobody may."""
        self.request, self.key = request, key
        self.heard: list[Event] | None = None if key is None else []   # for those that join later
        self.choices: list[Choice] = []
        self.finish: str | None = None
        self.moved = 0.0       # when its last tokens came
        self.made = 0          # how many did
        self.cached = 0        # tokens of its prompt that the prefix cache held

    def join(self, choice: Choice) -> None:
        """Gives the choice all that came so far, and what will come."""
        choice.flight = self
        if not self.finish:
            self.choices.append(choice)
        for event in self.heard or ():
            choice.hear(event)

    def news(self, event: Event) -> None:
        """Tells every choice."""
        if self.heard is not None:
            self.heard.append(event)
        self.finish = event.finish
        for choice in self.choices:
            choice.hear(event)
        if self.finish:
            self.choices = []


class Answer:
    """The choices of one HTTP request, and whether anybody still wants them."""

    def __init__(self, id: str, created: int, streams: bool):
        self.id, self.created, self.streams = id, created, streams
        self.choices: list[Choice] = []
        self.open = 0                # choices that have not ended
        self.wake = asyncio.Event()  # there is something to take
        self.gone = False            # the client has hung up
        self.cut = ""                # why the server ends it before its time
        self.hit = False             # nothing has to be computed for it
        self.first = 0.0             # when its first text came
        self.wrote = time.monotonic()   # when something was last written
        self.writing = 0.0           # since when a write waits for the client; 0: none does
        self.connection = None       # what it is written to

    async def pieces(self) -> AsyncIterator[list[tuple[Choice, Piece]]]:
        """Yields what is new, until all has come; nothing new where a sign of life is due."""
        while not self.gone:
            await self.wake.wait()
            self.wake.clear()
            new = [(c, piece) for c in self.choices if (piece := c.take())]
            if new or self.cut or time.monotonic() - self.wrote > HEARTBEAT:
                yield new
            if self.cut or not self.open and not any(c.pending for c in self.choices):
                return

    async def whole(self) -> list[Piece]:
        """Returns all of every choice; those that the client hung up on are short."""
        while self.open and not self.gone and not self.cut:
            await self.wake.wait()
            self.wake.clear()
        return [c.take() or Piece() for c in self.choices]

    def end(self, why: str) -> None:
        """Ends it now, by an error of these words."""
        self.cut = self.cut or why
        self.wake.set()

    def drop(self) -> None:
        """Hangs up on a client that takes nothing."""
        if self.connection:
            self.connection.transport.abort()
        self.hang_up()

    def hang_up(self) -> None:
        """Notes that nobody listens."""
        self.gone = True
        self.wake.set()
