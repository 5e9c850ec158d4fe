"""Requests, replicas and schedulers on a virtual clock; what users would see of it.

Only the clock is modelled. Which request is computed when is decided by the scheduler, by the
interface of `lm.plan.serving.schedule`; that of a real engine takes its place unchanged.
"""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lm.load.lengths import Lengths, arrivals
from lm.plan.serving.schedule import Request

KEPT = 0.2, 0.9  # of the requests: the first found an empty server, the last leave one
_T95 = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}  # Student's t


@dataclass(frozen=True)
class Workload:
    """A rate, how requests come, and how long they are."""

    rate: float
    prompt: Lengths
    output: Lengths
    arrivals: str = "poisson"

    def draw(self, rng: np.random.Generator, n: int) -> list[Request]:
        """Returns n requests in order of arrival."""
        return [Request(float(t), int(i), int(o)) for t, i, o in zip(
            arrivals(self.arrivals, self.rate, rng, n), self.prompt.draw(rng, n),
            self.output.draw(rng, n), strict=True)]


@dataclass(frozen=True)
class Run:
    """A simulation that has ended. Steps: start, seconds, prompt tokens, sequences that decode."""

    requests: list[Request]
    steps: np.ndarray   # [steps, 4]
    gaps: np.ndarray    # [steps], seconds since the last step that decoded
    replicas: int
    thrown: int


def simulate(requests: list[Request], make: Callable, clock: Callable, replicas: int = 1,
             routing: str = "least", rng: np.random.Generator | None = None) -> Run:
    """Runs requests, in order of arrival, to their end; fills in their times.

    make: returns a scheduler. clock: from a Step to its seconds. routing: `least` requests
    outstanding, or `random`.
    """
    servers = [make() for _ in range(replicas)]
    running = [None] * replicas
    since = [0.0] * replicas
    ends, steps, gaps = [], [], []
    rng = rng or np.random.default_rng(0)
    random = iter(rng.integers(replicas, size=len(requests)).tolist())

    def start(i, now):
        step = running[i] = servers[i].plan()
        if step is None:
            since[i] = 0.0
            return
        seconds = clock(step)
        heapq.heappush(ends, (now + seconds, i))
        for sequence, _ in step.chunks:
            if sequence.request.scheduled < 0:
                sequence.request.scheduled = now
        steps.append((now, seconds, step.prefill, step.decode))
        since[i] += seconds
        gaps.append(since[i])
        if step.decode:
            since[i] = 0.0

    def until(time):
        while ends and ends[0][0] <= time:
            now, i = heapq.heappop(ends)
            done = servers[i].commit(running[i])
            for request in done.first:
                request.first = now
            for request in done.finished:
                request.finish = now
            start(i, now)

    for request in requests:
        until(request.arrival)
        i = next(random)
        if routing == "least" and replicas > 1:
            i = min(range(replicas), key=lambda k: len(servers[k]))
        servers[i].add(request)
        if running[i] is None:
            start(i, request.arrival)
    until(math.inf)
    return Run(requests, np.array(steps).reshape(-1, 4), np.array(gaps), replicas,
               sum(s.thrown for s in servers))


def kept(run: Run) -> list[Request]:
    """Returns the requests that count: those that met the load, neither first nor last."""
    n = len(run.requests)
    return run.requests[int(KEPT[0] * n):max(1, int(KEPT[1] * n))]


def latencies(requests: list[Request]) -> dict[str, np.ndarray]:
    """Returns seconds of `ttft`, `e2e` and, of those with more than one token, `tpot`."""
    arrival, first, finish, output = np.array(
        [(r.arrival, r.first, r.finish, r.output) for r in requests]).T
    more = output > 1
    return {"ttft": first - arrival, "e2e": finish - arrival,
            "tpot": ((finish - first)[more]) / (output[more] - 1)}


def measure(run: Run, ttft: float = math.inf, tpot: float = math.inf,
            percentiles: tuple[float, ...] = (50, 95, 99)) -> dict[str, float]:
    """Returns numbers like `ttft_p95`, in seconds, and shares and rates.

    goodput: share of requests within both limits. busy: share of time in which a replica computes.
    batch: sequences that decode, mean of the steps that do, by time. tokens: output tokens/s over
    the whole run. outstanding: requests in the house, by Little's law.
    """
    late = kept(run)
    seconds = latencies(late)
    out = {}
    for name, values in seconds.items():
        out[f"{name}_mean"] = float(values.mean()) if len(values) else 0.0
        for p in percentiles:
            out[f"{name}_p{p:g}"] = float(np.percentile(values, p)) if len(values) else 0.0
    start, each, _, decode = run.steps.T
    busy = decode > 0
    if busy.any():
        order = np.argsort(run.gaps[busy])
        share = np.cumsum(decode[busy][order])
        for p in percentiles:
            at = min(np.searchsorted(share, share[-1] * p / 100), len(order) - 1)
            out[f"itl_p{p:g}"] = float(run.gaps[busy][order][at])
    good = [r.first - r.arrival <= ttft
            and (r.output == 1 or (r.finish - r.first) / (r.output - 1) <= tpot) for r in late]
    last = max(r.finish for r in run.requests)
    span = run.requests[-1].arrival - run.requests[0].arrival
    out["goodput"] = float(np.mean(good))
    out["busy"] = float(each[start < run.requests[-1].arrival].sum()
                               / (span * run.replicas)) if span else 1.0
    out["batch"] = float((each * decode)[busy].sum() / max(1e-12, each[busy].sum()))
    out["tokens"] = sum(r.output for r in run.requests) / last if last else 0.0
    out["outstanding"] = out["e2e_mean"] * len(run.requests) / span if span else 0.0
    return out


def repeat(workload: Workload, make: Callable, clock: Callable, replicas: int = 1,
           routing: str = "least", requests: int = 1500, seeds=range(3),
           **limits) -> dict[str, tuple[float, float]]:
    """Returns mean and half width of the 95 % interval of every number of `measure`."""
    all_ = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        all_.append(measure(simulate(workload.draw(rng, requests), make, clock, replicas, routing,
                                     rng), **limits))
    n = len(all_)
    out = {}
    for name in set.intersection(*(set(x) for x in all_)):
        values = np.array([x[name] for x in all_])
        half = _T95.get(n, 2.0) * values.std(ddof=1) / math.sqrt(n) if n > 1 else math.inf
        out[name] = float(values.mean()), float(half)
    return out
