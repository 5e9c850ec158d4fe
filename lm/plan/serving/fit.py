"""Fits the constants of the step to the published rows, and says how well rows left out come out.

A run of a closed loop of clients is a sequence of steps that does not depend on how long they take.
So it is scheduled once; what was measured is then linear in the constants. They are fitted in
logarithms: one value for all serving stacks and, for each stack, a deviation that is held small
(a ridge), so that a stack with few rows borrows from the others.
"""

import itertools
from dataclasses import dataclass

import numpy as np

from lm.cost.chips import CHIPS
from lm.plan.serving.model import Layout, memory, pages
from lm.plan.serving.published import SHAPES, Row
from lm.plan.serving.schedule import Request, Scheduler
from lm.plan.serving.step import TERMS, Constants, terms

PRIOR = Constants(3e-3, 4e-5, 2.0, 2.5, 1.3, 1.3)  # where the search starts; held by WEAK only
WEAK, RIDGE, ROBUST = 0.1, 0.5, 0.2  # weights of prior and deviations; errors beyond count less


@dataclass(frozen=True)
class Run:
    """A row and what it measured as linear functions of the constants, in seconds.

    ideal[kind] @ constants + hops[kind] is what `measured[kind]` was: `total` for all requests, or
    the mean `ttft` or `tpot`. each: ideal terms of every step, with the sequences that decode in it
    and the time of its hops.
    """

    row: Row
    measured: dict
    ideal: dict
    hops: dict
    decode: np.ndarray
    each: np.ndarray
    hop: float

    def predict(self, constants: np.ndarray, kind: str) -> float:
        """Returns seconds."""
        return float(self.ideal[kind] @ constants + self.hops[kind])

    def itl(self, constants: np.ndarray) -> float:
        """Returns the median time between tokens, in seconds."""
        mine = self.decode > 0
        seconds = (constants @ self.each + self.hop)[mine]
        order = np.argsort(seconds)
        share = np.cumsum(self.decode[mine][order])
        return float(seconds[order][np.searchsorted(share, share[-1] / 2)])


def run(row: Row) -> Run:
    """Schedules the run of a row; lengths that were drawn are drawn again from a fixed seed."""
    rng = np.random.default_rng(0)
    n = -(-(row.requests or 3 * row.clients) // row.replicas)

    def lengths(x):
        return rng.integers(max(1, int(row.spread * x)), x + 1, n)

    requests = [Request(0.0, int(i), int(o)) for i, o in
                zip(lengths(row.prompt), lengths(row.output), strict=True)]
    scheduler = _scheduler(row)
    steps = _closed(scheduler, requests, max(1, row.clients // row.replicas))
    prefill, decode, context, attended = np.array(steps, float).T
    if row.dense:
        context = np.where(decode > 0, scheduler.slots * row.dense, context)
    layout = Layout(CHIPS[row.chip], row.tensor, 1, row.weights, row.cache)
    each, hop = terms(SHAPES[row.model], layout, prefill, decode, context, attended)
    shares = {"total": np.ones(len(steps)),
              "ttft": _within(requests, "arrival", "first", len(steps)),
              "tpot": _within(requests, "first", "finish", len(steps))}
    total = row.throughput and row.replicas * sum(r.output for r in requests) / row.throughput
    measured = {k: v for k, v in (("total", total), ("ttft", row.ttft), ("tpot", row.tpot)) if v}
    return Run(row, measured, {k: each @ shares[k] for k in measured},
               {k: hop * float(shares[k].sum()) for k in measured}, decode, each, hop)


def _within(requests, start, end, steps):
    """For each step, of how many requests it is a part of the time from `start` to `end`.

    Divided by their number; and, for the time after the first token, by their other tokens.
    """
    share = np.zeros(steps + 1)
    for r in requests:
        tokens = 1 if end == "first" else max(1, r.output - 1)
        share[int(getattr(r, start))] += 1 / tokens
        share[int(getattr(r, end))] -= 1 / tokens
    return np.cumsum(share)[:-1] / len(requests)


def _scheduler(row):
    slots = max(1, row.slots // row.replicas)
    room = 10**9
    if not row.dense:
        layout = Layout(CHIPS[row.chip], row.tensor, 1, row.weights, row.cache)
        shape = SHAPES[row.model]
        parts = memory(shape, layout, slots, row.chunk, row.usable)
        room = int(pages(shape, layout, parts, row.prompt + row.output / 2).value)
    return Scheduler(slots, room, chunk=row.chunk, mixed=row.mixed)


def _closed(scheduler, requests, clients):
    """The steps of a closed loop; the times of its requests are numbers of steps."""
    left = iter(requests)
    for request in itertools.islice(left, clients):
        scheduler.add(request)
    steps = []
    while step := scheduler.plan():
        steps.append((step.prefill, step.decode, step.context, step.attended))
        done = scheduler.commit(step)
        for request in done.first:
            request.first = len(steps)
        for request in done.finished:
            request.finish = len(steps)
            for new in itertools.islice(left, 1):
                new.arrival = len(steps)
                scheduler.add(new)
    return steps


def fitted(one: Run) -> list[str]:
    """Returns what of a run is fitted: its whole time, and TTFT where prompts were all there was.

    The other latencies are checks: under load they depend on how clients fell into step.
    """
    return [k for k in one.measured if k == "total" or one.row.output == 1]


def fit(runs: list[Run]) -> tuple[dict[str, np.ndarray], float]:
    """Returns the constants of each stack, of `""` for any other, and how many they amount to.

    By Gauss-Newton on the logarithms: the derivative of log t by that of a constant is the share
    of its term. The effective number of constants is the trace of the hat matrix.
    """
    stacks = ["", *sorted({r.row.stack for r in runs})]
    observed = [(r, kind) for r in runs for kind in fitted(r)]
    n = len(TERMS)
    prior = np.concatenate([np.log(PRIOR.vector()), np.zeros(n * (len(stacks) - 1))])
    hold = np.repeat([WEAK, *[RIDGE] * (len(stacks) - 1)], n) ** 2
    x = prior.copy()

    def constants(stack):
        k = stacks.index(stack)
        return np.exp(x[:n] + (x[n * k:n * k + n] if k else 0))

    for _ in range(200):
        jacobian, residual = np.zeros((len(observed), len(x))), np.zeros(len(observed))
        for i, (one, kind) in enumerate(observed):
            k = stacks.index(one.row.stack)
            parts = one.ideal[kind] * constants(one.row.stack)
            seconds = parts.sum() + one.hops[kind]
            residual[i] = np.log(seconds / one.measured[kind])
            jacobian[i, :n] = jacobian[i, n * k:n * k + n] = parts / seconds
        weight = 1 / np.sqrt(1 + (residual / ROBUST) ** 2)
        normal = jacobian.T @ (weight[:, None] * jacobian)
        gradient = jacobian.T @ (weight * residual) + hold * (x - prior)
        move = np.clip(np.linalg.solve(normal + np.diag(hold), gradient), -0.5, 0.5)
        x = x - move
        if np.abs(move).max() < 1e-6:
            break
    size = float(np.trace(np.linalg.solve(normal + np.diag(hold), normal)))
    return {stack: constants(stack) for stack in stacks}, size
