"""What is asked of the server and when: drawn before the load begins, so that none waits for it."""

import math
from typing import NamedTuple

import numpy as np

from lm.base.errors import UserError
from lm.load import trace
from lm.load.config import Config
from lm.load.lengths import arrivals, lengths

SECONDS = 30.0      # of a load that does not say how long
TURNS = 20          # requests of each place in a closed loop that does not say how many
MOST = 10**6        # requests of one load


class Load(NamedTuple):
    """Requests in order. due: seconds since the start, all 0 in a closed loop. rate: a second, as
    asked for; of a closed loop 0.
    """

    due: np.ndarray
    prompt: np.ndarray
    output: np.ndarray
    rate: float
    concurrency: int
    notes: list[str]


def loads(c: Config) -> list[Load]:
    """Returns what is run one after another: one load, or one of each rate. Raises UserError."""
    if c.duration and c.requests:
        raise UserError("--duration and --requests both say when to stop; give one of them")
    given = [name for name in ("rate", "rates", "concurrency") if getattr(c, name)]
    if len(given) > 1:
        raise UserError(f"--{given[0]} and --{given[1]} both say how much; give one of them")
    if c.concurrency and (c.trace or c.duration):
        other = "trace" if c.trace else "duration"
        raise UserError(f"--concurrency sends when an answer comes, so that --{other} says nothing;"
                        " give --requests, or a rate")
    return [load(c, rate) for rate in (rates(c.rates) if c.rates else [c.rate])]


def rates(text: str) -> list[float]:
    """Returns 1, 2, 4, 8, 16 of `1:16`, or the numbers of `1,2,5`. Raises UserError."""
    try:
        found = [float(x) for x in text.replace(":", ",").split(",")]
    except ValueError:
        found = []
    pair = ":" in text
    if (not found or pair and len(found) != 2 or not all(1e-6 <= x <= 1e5 for x in found)
            or sorted(set(found)) != found):
        raise UserError(f"rates={text} is not understood; give LOW:HIGH, as in 1:16, or rising "
                        "numbers, as in 1,2,5")
    if not pair:
        return found
    low, high = found
    steps = math.floor(math.log2(high / low) + 1e-9)
    doubled = [low * 2**i for i in range(steps + 1)]
    return doubled if doubled[-1] > high * 0.999 else [*doubled, high]


def load(c: Config, rate: float) -> Load:
    """Returns the requests at a rate; 0: the trace's own, or 1. The lengths of the n-th request
    depend on the seed alone, whatever the rate.
    """
    if c.trace:
        made = _traced(c, rate)
    elif c.concurrency:
        n = _bounded(c.requests or TURNS * c.concurrency)
        made = Load(np.zeros(n), *_lengths(c, n), 0.0, c.concurrency, [])
    else:
        due = _due(c, rate or 1.0)
        made = Load(due, *_lengths(c, len(due)), rate or 1.0, 0, [])
    if not c.concurrency and (not len(made.due) or made.due[-1] < c.warmup):
        raise UserError("no request is due in the time that counts; give more --duration, a higher "
                        "rate or less --warmup")
    return made


def _lengths(c, n):
    return [lengths(getattr(c, name), name).draw(np.random.default_rng([c.seed, i]), n)
            for i, name in enumerate(("prompt_tokens", "output_tokens"), 1)]


def _due(c, rate):
    """When requests are due: as many as asked for, or all of the duration."""
    def times(n):
        return arrivals(c.arrivals, rate, np.random.default_rng([c.seed, 0]), _bounded(n))
    if c.requests:
        return times(c.requests)
    until = c.duration or SECONDS
    n = math.ceil(1.2 * rate * until) + 20
    due = times(n)
    while due[-1] < until:      # bursts and lulls: a few more
        n *= 2
        due = times(n)
    return due[due < until]


def _traced(c, rate):
    due, prompt, output, thrown = trace.read(c.trace)
    notes = [f"rows of the trace without tokens are left out: {thrown:,}"] if thrown else []
    own = (len(due) - 1) / due[-1] if due[-1] > 0 else 0.0
    if rate and not own:
        raise UserError(f"trace={c.trace}: all rows have one time, which no rate stretches")
    due = due * (own / rate) if rate else due
    n = c.requests or (int(np.searchsorted(due, c.duration)) if c.duration else len(due))
    if n > len(due):
        raise UserError(f"trace={c.trace} has {len(due):,} requests, not {n:,}")
    _bounded(n)
    return Load(due[:n], prompt[:n], output[:n], rate or own, 0, notes)


def _bounded(n):
    if n > MOST:
        raise UserError(f"{n:,} requests are more than one test holds ({MOST:,}); give a lower "
                        "rate, or less --duration or --requests")
    return n
