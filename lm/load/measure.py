"""From rows to numbers: percentiles, rates, goodput, what was under way. Pure functions."""

import collections
import math

import numpy as np

from lm.base.errors import UserError
from lm.load.answer import FINISHED, STATUSES, UNFINISHED, UNSENT, Row
from lm.load.intervals import interval

PERCENTILES = (50, 90, 95, 99)
POINTS = 400        # of the curve of what was under way
_LIMITS = ("ttft", "tpot", "e2e")


def limits(text: str) -> dict[str, float]:
    """Reads ttft=0.5,tpot=50ms,e2e=10 as seconds by name. Raises UserError."""
    out = {}
    for part in filter(None, text.replace(" ", "").split(",")):
        name, _, value = part.partition("=")
        scale = 1e-3 if value.endswith("ms") else 1.0
        try:
            seconds = float(value.removesuffix("ms").removesuffix("s")) * scale
        except ValueError:
            seconds = math.nan
        if name not in _LIMITS or name in out or not 0 < seconds < math.inf:
            raise UserError(f"slo: '{part}' is not understood; give limits in seconds, as in "
                            "ttft=0.5,tpot=0.05,e2e=10")
        out[name] = seconds
    return out


def tpot(row: Row) -> float:
    """Returns seconds a token after the first; nan of fewer than two."""
    n = row.tokens
    return (row.times[-1] - row.times[0]) / (n - 1) if n > 1 and len(row.times) > 1 else math.nan


def latencies(rows: list[Row]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns seconds in order of being due, and which of them are only known to be at least so
    long: ttft and e2e from when a request was due, tpot, and gap between events of tokens.

    A request that was given up, at its timeout or at the end, waited at least until then: left
    out, it would make a slow server look fast. Those refused or broken off are counted elsewhere.
    """
    out = {name: ([], []) for name in (*_LIMITS, "gap")}

    def add(name, value, at_least=False):
        out[name][0].append(value)
        out[name][1].append(at_least)

    streams = any(row.times for row in rows) or all(row.status != FINISHED for row in rows)
    for row in sorted(rows, key=lambda r: r.due):
        given_up = row.status == UNFINISHED or row.why == "timeout"
        if not (given_up or row.status == FINISHED):
            continue
        if row.times or given_up and streams:
            add("ttft", (row.times[0] if row.times else row.end) - row.due, not row.times)
        add("e2e", row.end - row.due, given_up)
        each = tpot(row)
        if not given_up and not math.isnan(each):
            add("tpot", each)
    gaps = [np.diff(row.times) for row in rows if len(row.times) > 1]
    found = {name: (np.array(a, float), np.array(b, bool)) for name, (a, b) in out.items()}
    if gaps:
        gaps = np.concatenate(gaps)
        found["gap"] = gaps, np.zeros(len(gaps), bool)
    return found


def spread(values: np.ndarray, at_least: np.ndarray, seed: int = 0, bounds: bool = True) -> dict:
    """Returns mean, percentiles and max, each with `value`, the ends of its 95 % interval `low`
    and `high` (None: not known), and whether it is only `at_least` so much.
    """
    if not len(values):
        return {}
    names = ["mean", *(f"p{p}" for p in PERCENTILES), "max"]
    each, worst = _statistics(values), _statistics(np.where(at_least, 1e9, values))
    ends = interval(values, _statistics, seed) if bounds else None
    out = {name: dict(value=float(each[i]), low=None, high=None,
                      at_least=bool(each[i] != worst[i])) for i, name in enumerate(names)}
    for i, name in enumerate(names[:-1] if ends is not None else []):   # a maximum has no interval
        out[name] |= dict(low=float(ends[0, i]), high=float(ends[1, i]))
    return out


def _statistics(values):
    return np.array([values.mean(), *np.percentile(values, PERCENTILES), values.max()])


def good(row: Row, slo: dict[str, float]) -> bool:
    """Returns whether a request was answered within the limits; one token has no tpot to keep."""
    if row.status != FINISHED:
        return False
    first = row.times[0] if row.times else math.inf
    each = tpot(row)
    values = {"ttft": first - row.due, "tpot": 0.0 if math.isnan(each) else each,
              "e2e": row.end - row.due}
    return all(values[name] <= limit for name, limit in slo.items())


def counts(rows: list[Row]) -> dict:
    """Returns how many there are of each status; sent = finished + rejected + failed + unfinished.

    reasons: of those rejected and failed, by why. words: what was said of the first of each.
    """
    found = collections.Counter(row.status for row in rows)
    out = {status: found[status] for status in STATUSES}
    out["sent"] = len(rows) - out[UNSENT]
    bad = [row for row in rows if row.why]
    out["reasons"] = dict(collections.Counter(row.why for row in bad).most_common())
    out["words"] = {row.why: row.words for row in reversed(bad) if row.words}
    return out


def in_flight(rows: list[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the times at which the number of requests under way changes, and it from then on."""
    live = [row for row in rows if row.status != UNSENT]
    at = np.array([t for row in live for t in (row.started, row.end)])
    change = np.tile([1, -1], len(live))
    order = np.lexsort((-change, at))   # who comes at the moment that another goes, met it
    return at[order], np.cumsum(change[order])


def summary(rows: list[Row], slo: dict[str, float], warmup: float = 0.0, rate: float = 0.0,
            seed: int = 0) -> dict:
    """Returns all numbers of a load, as JSON holds them. Seconds, and rates a second.

    Rows due before `warmup` are left out, but for what was under way. Rates are over the `seconds`
    from the `start`, `warmup` or the first that was due, to the last answer; `sending` are those to
    the last that was sent.
    """
    sent = [row for row in rows if row.due >= warmup and row.status != UNSENT]
    unsent = [row for row in rows if row.status == UNSENT]
    out = {"rate": rate, "counts": counts(sent + unsent)}
    if not sent:
        return out
    start = warmup or min(row.due for row in sent)
    out["start"], out["sending"] = start, max(row.started for row in sent) - start
    out["seconds"] = span = max(1e-9, max(row.end for row in sent) - start)
    done = [row for row in sent if row.status == FINISHED]
    made = sum(row.tokens for row in sent)
    read = sum(row.prompt_tokens if row.prompt_tokens >= 0 else row.prompt
               for row in sent if row.times or row.status == FINISHED)
    out["throughput"] = dict(requests=len(done) / span, output_tokens=made / span,
                             total_tokens=(made + read) / span)
    out["tokens"] = _tokens(done)
    out["latency"] = {name: spread(*values, seed=seed, bounds=name != "gap")
                      for name, values in latencies(sent).items()}
    if slo:
        kept = sum(good(row, slo) for row in sent)
        out["goodput"] = dict(limits=slo, requests=kept / span, share=kept / len(sent))
    lag = np.array([row.started - row.due for row in sent])
    out["lag"] = dict(p50=float(np.percentile(lag, 50)), p99=float(np.percentile(lag, 99)),
                      max=float(lag.max()))
    out["in_flight"] = _curve(rows, start, start + span)
    return out


def _tokens(done):
    """What was asked for and what came, of requests that finished."""
    said = [row for row in done if row.prompt_tokens >= 0]
    cached = [row for row in said if row.cached_tokens >= 0]
    streamed = [row for row in done if row.times]
    events = sum(len(row.times) for row in streamed)
    return dict(
        prompt_asked=_mean(row.prompt for row in said or done),
        prompt=_mean(row.prompt_tokens for row in said),
        output_asked=_mean(row.output for row in done), output=_mean(row.tokens for row in done),
        short=sum(row.tokens < row.output for row in done),
        counted=all(row.output_tokens >= 0 for row in done),
        per_event=sum(row.tokens for row in streamed) / events if events else None,
        cached=(sum(row.cached_tokens for row in cached)
                / max(1, sum(row.prompt_tokens for row in cached)) if cached else None))


def _mean(values):
    values = list(values)
    return sum(values) / len(values) if values else None


def _curve(rows, start, end):
    """What was under way: mean and most between two times, and a curve of all of it."""
    at, number = in_flight(rows)
    inside = np.clip(at, start, end)
    mean = float(np.sum(number[:-1] * np.diff(inside)) / (end - start))
    grid = np.linspace(0.0, float(at[-1]), POINTS)
    index = np.searchsorted(at, grid, "right") - 1
    first, last = np.searchsorted(at, [start, end], "right")
    return dict(mean=mean, max=int(number[max(0, first - 1):last].max(initial=0)),
                times=grid.round(4).tolist(),
                number=np.where(index < 0, 0, number[index]).tolist())

