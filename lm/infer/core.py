"""The engine's loop: requests come in from any thread, steps run in one, news go out.

A server starts the thread; whoever has all requests at hand calls `begin` and then `advance`, which
depends on no clock but for drafts, so that several processes of one mesh do the same.
"""

import collections
import itertools
import math
import queue
import threading
import time
from collections.abc import Callable

from lm.base.errors import UserError
from lm.infer import compiles, follow
from lm.infer.config import Engine as Config
from lm.infer.engine import Engine, Flight
from lm.infer.request import Event, Full, Logprob, Request
from lm.infer.scheduler import Scheduler
from lm.infer.speculate import Gate, Lookup
from lm.infer.status import Status, StepRecord
from lm.infer.steps import Limits
from lm.infer.text import Text
from lm.mesh import devices, processes

SPEED = 0.9   # weight of what is known of the prompt tokens per second when a step has come


class Core:
    """Owns a scheduler and an engine, and the thread in which both run.

    observe is called after every step and ended when a request has ended, its times filled in;
    both in the engine's thread, as each request's `hear` is.
    """

    def __init__(self, make: Callable[[], Engine], c: Config, tokenizer, *, mesh, context: int):
        """make: the engine, called in its thread, where `mesh` is in use."""
        self.config, self.tokenizer, self.context, self._mesh = c, tokenizer, context, mesh
        self._make = make
        self.engine: Engine | None = None
        self.scheduler: Scheduler | None = None
        self.observe: Callable[[StepRecord], None] | None = None
        self.ended: Callable[[Request], None] | None = None
        self.ready, self.failed = False, ""
        self._inbox: queue.SimpleQueue = queue.SimpleQueue()
        self._door, self._open = threading.Lock(), True   # who has passed it is answered
        self._coming = 0          # prompt tokens in the inbox
        self._texts: dict[str, Text] = {}
        self._rate = 0.0          # prompt tokens a second, as lately
        self._status = Status()
        self._flights: collections.deque[tuple[Flight, float]] = collections.deque()
        self._free = 0.0          # end of the last step
        self._busy = False        # whether there was more to do then
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Starts the thread; `ready` once every program is compiled and has been run."""
        self._thread.start()

    def wait(self) -> None:
        """Waits until it is ready. Raises UserError if the engine cannot be made."""
        while not self.ready and not self.failed and self.alive:
            self._thread.join(0.02)
        if self.failed:
            raise UserError(self.failed)

    def join(self) -> None:
        """Waits for the thread's end. Raises UserError if that was a failure."""
        self._thread.join()
        if self.failed:
            raise UserError(self.failed)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def submit(self, request: Request) -> None:
        """Takes a request, from any thread.

        Raises UserError if it can never be computed, and Full if too many wait already.
        """
        if self.scheduler is None or self.failed:
            raise Full(self.failed or "the engine is not ready yet", 5.0)
        n, V = len(request.prompt), self.tokenizer.V
        self.scheduler.limits.check(n, request.sampling.max_tokens)
        for token in itertools.chain(request.prompt, request.sampling.stop_ids,
                                     (token for token, _ in request.sampling.logit_bias)):
            if not 0 <= token < V:
                raise UserError(f"token {token} is not one of the tokenizer's {V} ids")
        if self.scheduler.full(n, self._coming, self._inbox.qsize()):
            raise Full(f"{len(self.scheduler.waiting)} requests wait already, with "
                       f"{self.scheduler.queued_tokens} tokens of prompts; ask again later",
                       max(1.0, math.ceil(self.scheduler.queued_tokens / self._rate)
                           if self._rate else 1.0))
        with self._door:
            if not self._open:
                raise Full("the engine has ended", 5.0)
            self._coming += n
            self._inbox.put(request)

    def abort(self, id: str) -> None:
        """Ends a request, from any thread and whatever its state; ids that it has not are ignored.

        What it made until then has been heard; it hears finish = "abort".
        """
        self._inbox.put(id)

    def stop(self) -> None:
        """Ends the thread; requests still here hear finish = "abort"."""
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def status(self) -> Status:
        """Returns the counts of now."""
        s, now = self.scheduler, self._status
        if s is None:
            return now
        now.running, now.waiting = len(s.running), len(s.waiting) + self._inbox.qsize()
        now.queued_tokens = s.queued_tokens + self._coming
        now.pages_used, now.pages_cached = s.pages.used, len(s.pages.idle)
        now.preemptions, now.drafted, now.accepted = s.thrown, s.drafted, s.accepted
        now.prefix_queries, now.prefix_hits = s.queries, s.hits
        now.compiles_after_ready = compiles.count() - self._compiled if self.ready else 0
        return now

    def _run(self):
        try:
            self.begin()
            if follow.many():
                follow.lead(self.engine) if processes.first() else follow.follow(self.engine)
            while processes.first() and self.advance():
                pass
        except UserError as error:
            self.failed = str(error)
        except Exception as error:
            self.failed = f"the engine has stopped: {type(error).__name__}: {error}".split("\n")[0]
            raise
        finally:
            self.ready = False
            if follow.many() and processes.first():
                follow.end()
            self._leave()

    def begin(self, compile: bool = True) -> None:
        """Makes the engine; in the thread that advances it.

        compile: every program that it may run; else each when it is first needed.
        """
        with devices.use(self._mesh):
            self.engine = self._make()
        c, shape = self.config, self.engine.shape
        limits = Limits(slots=shape.slots, pages=shape.pages, page=shape.page, budget=shape.budget,
                        context=shape.context, queued=shape.queued,
                        queued_tokens=shape.queued_tokens, prefix=c.prefix_cache,
                        reserve=c.reserve, spare=0 if c.reserve else shape.pages // 100)
        drafter = self.engine.draft or (Lookup(c.drafts) if c.speculate == "lookup" else None)
        self._gate = Gate(c.drafts, shape.budget) if drafter else None
        self.scheduler = Scheduler(limits, drafter, self._gate)
        self._status.slots, self._status.pages = shape.slots, shape.pages
        self._status.hbm = self.engine.nbytes()
        if compile:
            with devices.use(self._mesh):
                self.engine.compile()
        self._compiled = compiles.count()
        self.ready = True

    def advance(self, wait: bool = True) -> bool:
        """Sends a step, or enters the oldest on its way; False after `stop`.

        wait: for a request, where there is nothing to do.
        """
        flights = self._flights
        if not self.receive(wait and not flights and not len(self.scheduler)):
            while flights:
                self.engine.read(flights.popleft()[0])
            return False
        step = self.scheduler.plan()
        if step is not None:
            now = time.monotonic()
            for sequence in step.admitted:
                sequence.request.scheduled = sequence.request.scheduled or now
            with devices.use(self._mesh):
                flights.append((self.engine.send(step), now))
        if flights and (step is None or len(flights) > self.engine.shape.ahead):
            flight, sent = flights.popleft()
            made = self.engine.read(flight)
            now = time.monotonic()
            # The time since the last step ended counts, if there was work to do in it.
            start, self._free = self._free if self._busy else sent, now
            self._commit(flight, made, start, now)
            self._busy = bool(len(self.scheduler))
        return True

    def receive(self, wait: bool = False) -> bool:
        """Takes what has come in, after waiting for something if asked to; False after `stop`."""
        while wait or not self._inbox.empty():
            news = self._inbox.get()
            wait = False
            if news is None:
                return False
            if isinstance(news, str):
                request = self.scheduler.abort(news)
                if request is not None:
                    self._finish(request, Event(finish="abort"))
                continue
            with self._door:
                self._coming -= len(news.prompt)
            self._texts[news.id] = Text(self.tokenizer, news.sampling, self.tokenizer.eos)
            self.scheduler.add(news)
        return True

    def _commit(self, flight, made, start, now):
        """Enters what a step made, and tells."""
        step, heard, ended = flight.step, [], []
        drafted = accepted = 0
        for i, piece in enumerate(step.pieces):
            if not piece.live or not made.tokens[i]:
                continue
            drafted, accepted = drafted + len(piece.drafts), accepted + len(made.tokens[i]) - 1
            event, kept = self._event(piece.sequence.request, made.tokens[i], made.logprobs[i])
            made.tokens[i] = made.tokens[i][:kept]
            heard.append((piece.sequence.request, event))
            if event.finish:
                ended.append(piece.sequence)
        done = self.scheduler.commit(step, made.tokens, ended)
        finished = {id(request) for request in done.finished}
        for request, event in heard:
            if not request.first:
                request.first = now
                self._status.prompt_tokens += len(request.prompt)
            request.last = now
            self._status.generation_tokens += len(event.tokens)
            request.output += event.tokens
            if id(request) in finished:
                self._finish(request, event)
            else:
                request.hear(event)
        self._record(flight, start, now, drafted, accepted)

    def _event(self, request, tokens, logprobs):
        """(the event of new tokens, how many of them count)."""
        kept, shown, finish = self._texts[request.id].feed(tokens)
        if request.mask is not None:
            for token in tokens[:kept]:
                request.mask.take(token)
            if request.mask.ended and not finish:
                finish = "stop"
            if finish and request.mask.error:
                return Event(shown, tokens[:kept], [], "error", request.mask.error), kept
        probs = [Logprob(token, *p) for token, p in zip(tokens, logprobs, strict=False)][:kept]
        return Event(shown, tokens[:kept], probs, finish), kept

    def _finish(self, request, event):
        text = self._texts.pop(request.id)
        if event.finish != "abort":
            event.text += text.end()
            event.finish = event.finish or text.finish or "length"
        request.finish, request.finished = event.finish, time.monotonic()
        request.hear(event)
        if self.ended:
            self.ended(request)

    def _record(self, flight, start, now, drafted, accepted):
        step, seconds, status, s = flight.step, now - start, self._status, self.scheduler
        status.last_step = now
        if step.prefill:
            rate = step.prefill / max(seconds, 1e-6)
            self._rate = SPEED * self._rate + (1 - SPEED) * rate if self._rate else rate
        elif self._gate is not None and not (self.engine.draft and self.engine.draft.behind):
            self._gate.observe(seconds, step.decode, drafted, accepted)
        if self.observe:
            self.observe(StepRecord(start, seconds, str(flight.packed.T), step.prefill,
                                    step.decode, step.context, len(s.running), len(s.waiting),
                                    s.pages.used))

    def _leave(self):
        """Tells all that are here that nothing more comes."""
        with self._door:
            self._open = False
        left = []
        if self.scheduler is not None:
            left = [s.request for s in itertools.chain(self.scheduler.running,
                                                       self.scheduler.waiting)]
        while not self._inbox.empty():
            news = self._inbox.get()
            if isinstance(news, Request):
                self._texts[news.id] = Text(self.tokenizer, news.sampling, None)
                left.append(news)
        for request in left:
            event = Event(finish="error", error=self.failed) if self.failed else Event(
                finish="abort")
            request.finish, request.finished = event.finish, time.monotonic()
            request.hear(event)
            if self.ended:
                self.ended(request)
        self._texts.clear()
