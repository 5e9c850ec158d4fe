"""What stands between HTTP and the engine: takes requests in, follows them, lets go of them."""

import asyncio
import hmac
import random
import threading
import time
import uuid
from collections.abc import Callable

from lm.base.errors import UserError
from lm.infer.grammar import Grammars
from lm.infer.request import Event, Full, Request
from lm.serve import parameters, stream
from lm.serve.cache import Cache
from lm.serve.config import Config
from lm.serve.health import Progress
from lm.serve.log import Log
from lm.serve.metrics import Metrics
from lm.serve.parameters import Asked, refuse
from lm.serve.shapes import Spelling
from lm.serve.stream import Answer, Choice, Flight, Post
from lm.serve.wire import Refused, show


class Service:
    """The engine as the routes see it. All of it runs in the loop but `_hear`."""

    def __init__(self, core, config: Config, name: str, *, keys: list[str] = (),
                 template: Callable | None = None):
        """core: lm.infer.core.Core, not started. To be made where the loop runs."""
        self.core, self.config, self.name = core, config, name
        self.keys = [key.encode() for key in keys]
        self.template = template
        self.created = int(time.time())
        self.draining, self.served = False, False
        self.entered = 0        # requests that were admitted and are not yet answered
        self.answers: set[Answer] = set()
        self.post = Post(asyncio.get_running_loop())
        self.metrics = Metrics(core, name, config.metrics, lambda: self.draining)
        self.log = Log(config.access_log)
        self.cache = Cache(config.response_cache) if config.response_cache else None
        self.progress = Progress(core, config.stall)
        self.spelling = Spelling(core.tokenizer)
        self.grammars, self.making = None, threading.Lock()
        self.random = random.Random(config.seed or None)
        core.observe, core.ended = self._stepped, self._ended

    # In the engine's thread.

    def _stepped(self, record):
        self.post.put(self.metrics.step, record)
        self.post.ring()

    def _ended(self, request):
        self.post.put(self.metrics.end, request)
        self.post.ring()

    def _hear(self, flight: Flight, event: Event):
        r = flight.request
        self.post.put(self._news, flight, event, r.last, r.cached)
        if event.finish:  # of some, no step follows that would ring
            self.post.ring()

    # In the loop.

    def _news(self, flight, event, last, cached):
        if event.tokens:
            first = not flight.made
            self.metrics.token(last, last - (flight.request.arrival if first else flight.moved),
                               len(event.tokens), first)
            flight.moved = last
        flight.made += len(event.tokens)
        flight.cached = cached
        flight.news(event)
        if flight.finish and flight.key is not None:
            self.cache.end(flight)

    def admits(self) -> None:
        """Raises Refused where no request is taken in at present."""
        why = ("the engine has failed" if self.core.failed else
               "the model is being loaded" if not self.core.ready else
               "the server is shutting down" if self.draining else "")
        if why:
            self.metrics.count(self.metrics.rejected, "failed" if self.core.failed else
                               "starting" if not self.core.ready else "draining")
            raise Refused(503, f"{why}; try again, or another replica", None, "unavailable",
                          {"Retry-After": "5", "Connection": "close"})

    def allows(self, authorization: bytes) -> None:
        """Raises Refused for a header without one of the keys, in a time that tells none."""
        scheme, _, given = authorization.partition(b" ")
        good = [hmac.compare_digest(given.strip(), key) for key in self.keys]
        if self.keys and not (scheme.lower() == b"bearer" and any(good)):
            raise Refused(401, "the API key is missing or wrong; send it as 'Authorization: "
                          "Bearer KEY'", None, "invalid_api_key",
                          {"WWW-Authenticate": "Bearer"})

    def knows(self, model: str | None) -> None:
        """Raises Refused for a model that is not the one here."""
        if model not in (None, self.name):
            raise Refused(404, f"there is no model {show(model)} here; there is "
                          f"'{self.name}'", "model", "model_not_found")

    @property
    def room(self) -> int:
        """Tokens that one sequence may have, prompt and output: those of the context, or of the
        cache where that is smaller; the last one made takes no place there."""
        if self.core.scheduler is None:
            return self.core.context
        limits = self.core.scheduler.limits
        return min(self.core.context, limits.pages * limits.page + 1)

    def fits(self, asked: Asked, prompt: list[int], param: str) -> int:
        """Returns how many tokens may be made of a prompt; Refused where it is too long."""
        n, room = len(prompt), self.room
        most = asked.values.get("max_tokens")
        if n + (most or 1) > room:
            what = "model" if room == self.core.context else "cache"
            cure = "shorten the prompt" if n >= room else f"ask for at most {room - n}"
            wants = f" and {most} are to be made" if most else ""
            raise refuse(param if n >= room else "max_tokens", f"the {what} takes {room} tokens, "
                         f"prompt and output; the prompt has {n}{wants}: {cure}",
                         "context_length_exceeded")
        return room - n

    async def make(self, asked: Asked, prompts: list[list[int]], rest: Callable[[int], int],
                   request, param: str, prefix: str) -> Answer:
        """Returns the answer that the engine has begun to make: each prompt's n choices.

        rest: of the tokens that fit, how many are made where the request does not say. param: what
        holds the prompts. prefix: of the answer's id. Raises Refused; then nothing of it runs.
        """
        answer = Answer(prefix + uuid.uuid4().hex, int(time.time()), asked.stream)
        if len(prompts) * asked.n > parameters.CHOICES:
            raise refuse(param, f"{len(prompts)} prompts with {asked.n} choices each are more than "
                         f"{parameters.CHOICES} choices; send several requests")
        masks = await self._masks(asked, len(prompts) * asked.n)
        if "logprobs" in asked.values:
            await asyncio.to_thread(lambda: self.spelling.pieces)
        fits = [rest(self.fits(asked, prompt, param)) for prompt in prompts]
        answer.choices = [Choice(answer, i * asked.n + j, prompt)
                          for i, prompt in enumerate(prompts) for j in range(asked.n)]
        answer.open = len(answer.choices)
        seed = (asked.seed if asked.seed is not None else
                0 if asked.certain else self.random.getrandbits(32))
        answer.hit = True
        try:
            for choice in answer.choices:
                i, j = divmod(choice.index, asked.n)
                own = seed + j * (asked.seed is not None or not asked.certain)
                self._begin(choice, asked, asked.sampling(fits[i], own), masks[choice.index],
                            request.state.arrival, param)
        except BaseException:
            self.leave(answer)
            raise
        self.answers.add(answer)
        return answer

    async def _masks(self, asked, count):
        """What each choice's tokens are kept to."""
        if asked.schema is None:
            return [None] * count

        def make():
            with self.making:  # once, by whoever is first
                self.grammars = self.grammars or Grammars(self.core.tokenizer)
            return [self.grammars.schema({"type": "object"} if asked.schema == "json"
                                         else asked.schema) for _ in range(count)]
        try:
            return await asyncio.to_thread(make)
        except UserError as wrong:
            raise refuse("response_format", str(wrong)) from None

    def _begin(self, choice, asked, sampling, mask, arrival, param):
        key = None
        if self.cache and asked.certain:
            key = parameters.key(asked, choice.prompt, sampling)
            self.metrics.asked.inc()
            if flight := self.cache.find(key):
                self.metrics.kept.inc()
                flight.join(choice)
                return
        choice.answer.hit = False
        request = Request(uuid.uuid4().hex, choice.prompt, sampling, lambda event: None, arrival,
                          mask)
        flight = Flight(request, key)
        request.hear = lambda event: self._hear(flight, event)
        flight.join(choice)
        try:
            self.core.submit(request)
        except Full as full:
            self.admits()  # what has failed is not full
            self.metrics.count(self.metrics.rejected, "full")
            raise Refused(429, f"{full}; try again in {full.retry:.0f} s", None, "overloaded",
                          {"Retry-After": str(max(1, round(full.retry)))}) from None
        except UserError as wrong:
            raise refuse(param, str(wrong)) from None
        if key is not None:
            self.cache.begin(flight)

    def leave(self, answer: Answer) -> None:
        """Lets go of an answer: what nobody else waits for is given up."""
        self.answers.discard(answer)
        for choice in answer.choices:
            flight = choice.flight
            if flight and choice in flight.choices:
                flight.choices.remove(choice)
                if not flight.choices:
                    if flight.key is not None:
                        self.cache.forget(flight)
                    self.core.abort(flight.request.id)

    def tick(self, now: float) -> None:
        """To be called now and then: signs of life, clients that take nothing, and the engine's."""
        self.progress.tell(now)
        for answer in self.answers:
            if answer.streams and now - answer.wrote > stream.HEARTBEAT:
                answer.wake.set()
            if answer.writing and now - answer.writing > self.config.request_timeout:
                answer.drop()
