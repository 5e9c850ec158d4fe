"""A replica under a steady load in closed form: Little's law and the time of a mean step.

In steady state a step of t seconds carries the requests that arrive in t: rate t prompts and, of
each, its other tokens. So t = T(prefill = rate I t, decode = 1 + rate (O - 1) t), where the 1 is
the sequence that looks, and the sequences that decode are B = rate (O - 1) t.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from lm.plan.serving.schedule import Step

LONG = 1e4  # seconds; a step that takes longer has no end


@dataclass(frozen=True)
class Steady:
    """What a replica settles at; `stable` is false if it does not, and says what runs out."""

    rate: float
    tpot: float      # seconds, mean
    batch: float     # sequences that decode
    held: float      # tokens of cache that they hold
    stable: bool
    limit: str = ""


def steady(clock: Callable, rate: float, prompt: float, output: float, slots: float,
           tokens: float, chunk: float) -> Steady:
    """Returns the steady state of one replica at `rate` requests a second.

    clock: from a Step to seconds. slots, tokens: what there is of sequences and of cache. The
    tokens must also hold the swings of the load: B + 3 sqrt(B) sequences (Poisson).
    """
    seen = prompt + output / 2

    def mean(t):
        decode, prefill = 1 + rate * (output - 1) * t, rate * prompt * t
        # A chunk reads the cache of the chunks before it.
        again = prefill * max(0.0, prompt / min(chunk, prompt) - 1) / 2
        return clock(Step(prefill=prefill, decode=decode,
                          context=decode * seen + prefill + again,
                          attended=prefill * (prompt + 1) / 2))

    still = t = mean(0.0)
    for _ in range(100):  # along the chord from t = 0, which a dense model's T follows
        slope = (mean(t) - still) / t
        new = still / (1 - slope) if slope < 1 else 2 * t
        if abs(new - t) < 1e-9 * t or new > LONG:
            break
        t = new
    batch = rate * (output - 1) * t
    held = (batch + 3 * math.sqrt(batch)) * seen
    limit = ("time" if new > LONG or abs(mean(t) - t) > 1e-4 * t else
             "prompts" if rate * prompt * t > chunk else
             "slots" if batch > slots else "cache" if held > tokens else "")
    return Steady(rate, t, batch, held, not limit, limit)


def largest_rate(clock: Callable, prompt: float, output: float, slots: float, tokens: float,
                 chunk: float, tpot: float = math.inf) -> Steady:
    """Returns the steady state at the largest rate that is stable and keeps the mean TPOT."""
    def at(rate):
        return steady(clock, rate, prompt, output, slots, tokens, chunk)

    def good(state):
        return state.stable and state.tpot <= tpot

    low = at(1e-6)
    if not good(low):
        return low
    high = 1e-3
    while good(at(high)) and high < 1e7:
        high *= 2
    bottom = high / 2 if high > 1e-3 else 1e-6
    for _ in range(40):
        middle = (bottom + high) / 2
        bottom, high = (middle, high) if good(at(middle)) else (bottom, middle)
    return at(bottom)


def separate(decode: float, prefill: float, output: float, batch: float) -> float:
    """Returns requests/s of `batch` slots whose prompts are computed on their own.

    batch / (output decode + batch prefill): a closed loop.
    """
    return batch / (output * decode + batch * prefill)
