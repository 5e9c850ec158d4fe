"""What the engine says of itself: a moment's counts, and one step's."""

from dataclasses import dataclass, field


@dataclass
class Status:
    """A moment's counts; those from `preemptions` on only grow."""

    running: int = 0
    waiting: int = 0
    queued_tokens: int = 0    # of prompts, to be computed
    slots: int = 0
    pages: int = 0
    pages_used: int = 0       # by requests that run
    pages_cached: int = 0     # kept for prompts to come only
    last_step: float = 0.0    # end of the last step, time.monotonic
    compiles_after_ready: int = 0
    preemptions: int = 0
    prefix_queries: int = 0   # tokens
    prefix_hits: int = 0
    drafted: int = 0
    accepted: int = 0
    prompt_tokens: int = 0    # of requests that have got a token, those found in pages too
    generation_tokens: int = 0  # heard
    hbm: dict[str, int] = field(default_factory=dict)  # bytes of a device by kind


@dataclass(slots=True)
class StepRecord:
    """One step as it went: times of time.monotonic, in seconds, and counts as scheduler.Step's."""

    start: float
    seconds: float
    bucket: str
    prefill: int
    decode: int
    context: int
    running: int
    waiting: int
    pages_used: int
