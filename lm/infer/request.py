"""What a request asks of the engine, and what it hears back. No jax here."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Protocol

from lm.base.errors import UserError
from lm.base.options import option

STOPS = 16      # stop strings, and stop ids, that one request may have
BIASES = 300    # tokens whose logits it may shift
TOP = 20        # alternatives of each token whose logprobs it may ask for


@dataclass(frozen=True)
class Sampling:
    """How one request's tokens are drawn.

    In this order: penalties, bias, mask, temperature, top_k, top_p, min_p. Penalties are those of
    Keskar et al. 2019 (repetition, over prompt and output) and of the OpenAI API (presence and
    frequency, over the output).
    """

    max_tokens: int = option(16, "tokens to make at most", low=1)
    temperature: float = option(1.0, "logits are divided by it; 0: always the likeliest", low=0.0,
                                high=100.0)
    top_k: int = option(0, "keep the k likeliest tokens; 0: all", low=0)
    top_p: float = option(1.0, "keep the likeliest tokens that hold this share", low=0.0, high=1.0)
    min_p: float = option(0.0, "keep tokens at least this likely relative to the likeliest",
                          low=0.0, high=1.0)
    repetition_penalty: float = option(1.0, "positive logits of tokens seen are divided by it, "
                                       "negative ones multiplied", low=0.01, high=100.0)
    presence_penalty: float = option(0.0, "taken off the logits of tokens made before", low=-2.0,
                                     high=2.0)
    frequency_penalty: float = option(0.0, "the same for each time that it was made", low=-2.0,
                                      high=2.0)
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token, what is added to its logit)
    seed: int = option(0, "its tokens are a function of prompt and seed, whatever runs beside",
                       low=0, high=2**32 - 1)
    logprobs: int = option(-1, "logprobs of each token and of so many of the likeliest; -1: none",
                           low=-1, high=TOP)
    stop: tuple[str, ...] = ()       # texts that end the output, which does not hold them
    stop_ids: tuple[int, ...] = ()   # tokens that do
    ignore_eos: bool = option(False, "the end token is one as any other")

    def __post_init__(self):
        """Refuses what the declared bounds refuse, and lists that are too long."""
        for f in fields(self):
            low, high = f.metadata.get("low"), f.metadata.get("high")
            value = getattr(self, f.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{f.name} = {value} is not a finite number")
            if low is not None and value < low or high is not None and value > high:
                bounds = f"between {low} and {high}" if high is not None else f"at least {low}"
                raise UserError(f"{f.name} = {value} must be {bounds}")
        for name, most in (("stop", STOPS), ("stop_ids", STOPS), ("logit_bias", BIASES)):
            if len(getattr(self, name)) > most:
                raise UserError(f"{name} has {len(getattr(self, name))} entries; give at most "
                                f"{most}")
        if "" in self.stop:
            raise UserError("stop holds an empty text; leave it out")

    @property
    def plain(self) -> bool:
        """Whether temperature, top_k, top_p and min_p are all that it asks for."""
        return (self.repetition_penalty == 1 and not self.presence_penalty
                and not self.frequency_penalty and not self.logit_bias and self.logprobs < 0)


class Mask(Protocol):
    """Which tokens may come next, for output that keeps to a grammar. State of one request."""

    def bits(self):
        """Returns uint32 [ceil(V / 32)]: bit i of word w allows token 32 w + i."""

    def take(self, token: int) -> None:
        """Goes on by the token that was drawn."""

    @property
    def ended(self) -> bool:
        """Whether nothing may follow."""

    @property
    def error(self) -> str:
        """One line, if it ended before what it allows was whole; else empty."""


@dataclass(slots=True)
class Logprob:
    """The logprob of a token and of the likeliest in its place, by the model's own distribution."""

    token: int
    logprob: float
    top: list[tuple[int, float]]  # likeliest first


@dataclass(slots=True)
class Event:
    """News of one request: what came since the last news, or how it ended.

    tokens are those that the text comes from and those held back until it is clear whether a stop
    text begins; joined, the texts are what the request returns.
    """

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[Logprob] = field(default_factory=list)  # one a token, where asked for
    finish: str | None = None   # stop, length, abort or error: the last event
    error: str = ""             # one line, with finish = error


@dataclass(slots=True, eq=False)
class Request:
    """One sequence to make; what is filled in on the way is at the end, times of time.monotonic."""

    id: str
    prompt: list[int]
    sampling: Sampling
    hear: Callable[[Event], None]   # called in the engine's thread; must not block
    arrival: float = 0.0            # when it came to the door
    mask: Mask | None = None
    cached: int = 0                 # tokens of the prompt that the prefix cache held
    scheduled: float = 0.0          # start of its first step
    first: float = 0.0              # when its first token was there
    last: float = 0.0               # when its latest one was
    finished: float = 0.0
    finish: str = ""
    output: list[int] = field(default_factory=list)
    preempted: int = 0              # times that its pages were taken from it


class Full(Exception):
    """The queue is as long as it may be. retry: seconds after which to ask again."""

    def __init__(self, words: str, retry: float):
        super().__init__(words)
        self.retry = retry
