"""From a load and its limits to replicas, spares, prices and thresholds (levels 2 and 3)."""

import datetime
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np

from lm.base.errors import UserError, nearest
from lm.cost.chips import Chip
from lm.cost.figure import explain, named
from lm.load.lengths import lengths
from lm.plan.serving.advice import advise, prices
from lm.plan.serving.candidates import Candidate, candidates
from lm.plan.serving.model import PAGE, Shape, pages
from lm.plan.serving.question import Question
from lm.plan.serving.simulate import Workload, measure, repeat, simulate

SAFE = 0.8      # share of the largest rate at which more replicas are asked for
POOL = 4        # replicas simulated together; more are as these
LOAD = 1e9      # bytes/s and chip at which weights come from storage, if nothing else is said


@dataclass(frozen=True)
class Sized:
    """A candidate with the largest rate that meets the limits, and the pool that it needs."""

    candidate: Candidate
    rate: float             # requests/s of one replica
    replicas: int           # that the load needs
    headroom: int           # more, for growth while new ones start
    numbers: dict           # of the pool under the load: mean and half width


def serve_plan(shape: Shape, question: Question, chips: Mapping[str, Chip] | Iterable[Chip],
               command: str = "", source: str = "") -> dict:
    """Returns the plan, as plain numbers and words: see `lm plan --serve`.

    Raises UserError where nothing fits or nothing is fast enough, with the nearest that would.
    """
    for name in ("prompt_tokens", "output_tokens"):
        lengths(getattr(question, name), name)
    known = {c.name: c for c in (chips.values() if isinstance(chips, Mapping) else chips)}
    if question.chip and question.chip not in known:
        raise UserError(f"unknown chip '{question.chip}'{nearest(question.chip, known)}")
    chosen = [known[question.chip]] if question.chip else list(known.values())
    found, rejected = candidates(shape, question, chosen)
    sized = [x for x in (size(c, question) for c in finalists(found, question.finalists)) if x]
    if not sized:
        raise UserError(_slow(found[0], question))
    sized.sort(key=lambda s: (math.inf if s.candidate.price is None else _chips(s, question)
                              * s.candidate.price, _chips(s, question)))
    best = sized[0]
    figures = {}
    c = best.candidate
    seen = lengths(question.prompt_tokens).mean + lengths(question.output_tokens).mean / 2
    for figure in (c.tpot, c.ttft, *c.parts.values(), *_prices(best, question),
                   pages(shape, c.layout, c.parts, seen)):
        figures |= _figures(figure)
    kinds = [x["kind"] for x in rejected]
    return _plain({"version": 1, "kind": "serve", "made": datetime.date.today().isoformat(),
            "source": source or shape.name, "command": command,
            "question": asdict(question), "model": {
                "name": shape.name, "parameters": shape.parameters,
                "active": shape.active + shape.lookup},
            "choices": [choice(s, question, i + 1) for i, s in enumerate(sized)],
            "rejected": rejected[:200], "rejected_count": {k: kinds.count(k) for k in set(kinds)},
            "advice": advise(best, question), "figures": figures})


def finalists(found: list[Candidate], count: int) -> list[Candidate]:
    """Returns the best of each kind of chip, then the best of the rest, `count` in all."""
    firsts = list({c.layout.chip.name: c for c in reversed(found)}.values())
    firsts.sort(key=found.index)
    rest = [c for c in found if c not in firsts]
    return (firsts + rest)[:max(count, 1)]


def size(candidate: Candidate, question: Question) -> Sized | None:
    """Sizes a pool of replicas for the load; None if no rate meets the limits."""
    low = _bisect(candidate, question)
    for _ in range(20):  # it saw one seed; the mean of all must do, too
        if not low or _many(candidate, question, low, 1)[0]:
            break
        low *= 0.97
    else:
        return None
    if not low:
        return None
    replicas = math.ceil(question.rate / low)
    fine, numbers = _many(candidate, question, question.rate, replicas)
    while not fine:  # pools differ from one replica by chance only
        replicas += max(1, replicas // 20)
        fine, numbers = _many(candidate, question, question.rate, replicas)
    for _ in range(4):  # a pool rides out bursts that one replica does not
        less = replicas - max(1, replicas // 20)
        fine, fewer = _many(candidate, question, question.rate, less) if less else (False, {})
        if not fine:
            break
        replicas, numbers = less, fewer
    growth = question.growth * start_seconds(candidate, question)
    return Sized(candidate, max(low, question.rate / replicas), replicas,
                 math.ceil(growth / low), numbers)


def _good(numbers, question):
    p = f"_p{question.percentile:g}"
    return numbers["ttft" + p] <= question.ttft and numbers["tpot" + p] <= question.tpot


def _bisect(candidate, question):
    """The largest rate of one replica within the limits, by one seed; 0 if there is none."""
    low, high = 0.0, candidate.most.rate * 1.2
    for _ in range(9):
        rate = (low + high) / 2
        fine = _good(_single(candidate, question, rate, (question.percentile,)), question)
        low, high = (rate, high) if fine else (low, rate)
    return low


def _many(candidate, question, rate, replicas):
    """Whether a pool under `rate` in all meets the limits, and its numbers of all seeds."""
    n = min(replicas, POOL)
    load = replace(_workload(question), rate=rate * n / replicas)
    numbers = repeat(load, candidate.scheduler, candidate.clock, n, question.routing,
                     _enough(question, load.rate) * (1 + (n > 1)), range(question.seeds),
                     ttft=question.ttft, tpot=question.tpot, percentiles=_percentiles(question))
    return _good({k: v[0] for k, v in numbers.items()}, question), numbers


def _single(candidate, question, rate, percentiles):
    """What one replica does under `rate`, of one seed."""
    rng = np.random.default_rng(0)
    load = replace(_workload(question), rate=rate)
    run = simulate(load.draw(rng, _enough(question, rate)), candidate.scheduler, candidate.clock)
    return measure(run, percentiles=percentiles)


def _enough(question, rate):
    """Requests of a simulation: several times as many as are there at once at the limits."""
    stay = question.ttft + lengths(question.output_tokens).mean * question.tpot
    return int(min(20 * question.requests, max(question.requests, 8 * rate * stay)))


def _percentiles(question):
    return tuple(sorted({50, 95, 99, question.percentile}))


def start_seconds(candidate: Candidate, question: Question) -> float:
    """Returns seconds from the wish for a replica to its first answer."""
    load = question.load_seconds or candidate.parts["weights"].value / LOAD
    return question.provision + load + question.compile_seconds


def choice(sized: Sized, question: Question, rank: int) -> dict:
    """Returns one row of the plan."""
    c, layout, numbers = sized.candidate, sized.candidate.layout, sized.numbers
    all_ = sized.replicas + sized.headroom + question.spares
    price = _prices(sized, question)
    mean = {k: v[0] for k, v in numbers.items()}
    held = mean["batch"] * (lengths(question.prompt_tokens).mean
                            + lengths(question.output_tokens).mean / 2)

    def spread(name, part=0):
        return {f"p{p:g}": numbers[f"{name}_p{p:g}"][part] for p in _percentiles(question)}

    names = ("ttft", "tpot", "itl", "e2e")
    share = question.rate / (sized.replicas * c.capacity)
    outstanding = mean["outstanding"] / min(sized.replicas, POOL)
    return {
        "rank": rank, "chip": layout.chip.name, "chips": layout.chips,
        "chips_total": all_ * layout.chips, "tensor": layout.tensor, "stage": layout.stage,
        "weights": layout.weights, "cache": layout.cache, "slots": c.slots, "chunk": c.chunk,
        "pages": c.pages, "memory": {k: v.value for k, v in c.parts.items()},
        "memory_limit": layout.chip.hbm_bytes, "fits": True,
        "per_replica": {"rate_max": c.capacity, "rate_slo": sized.rate, "tpot": c.most.tpot,
                        "ttft": c.ttft.value},
        "replicas": sized.replicas, "headroom": sized.headroom, "spares": question.spares,
        "autoscale": {
            # What is there at the rate that one replica may carry, less some.
            "outstanding_per_replica": max(1, round(
                SAFE * outstanding * sized.rate * sized.replicas / question.rate)),
            "min_replicas": sized.replicas + question.spares, "max_replicas": 2 * all_,
            "start_seconds": start_seconds(c, question)},
        "price_per_hour": price[0].value if price else None,
        "price_per_million_tokens": price[1].value if price else None,
        "price_note": ("as given" if question.price else layout.chip.price_source) if price
        else "price not known: give --price",
        "simulated": {**{n: spread(n) for n in names},
                      "half_width": {n: spread(n, 1) for n in names},
                      "kv_use": held / (c.pages * PAGE), "utilisation": share,
                      "busy": mean["busy"], "goodput": mean["goodput"], "batch": mean["batch"]},
        "load": _loads(sized, question) if rank == 1 else [],
        "constants": question.step_log or c.constants.source}


def _loads(sized, question):
    """What users see of one replica as its load grows past what it may carry."""
    out = []
    for share in (0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25):
        rate = share * sized.rate
        x = _single(sized.candidate, question, rate, (50, 95, 99))
        out.append({"rate": rate, "utilisation": rate / sized.candidate.capacity} | {
            n: {p: x[f"{n}_{p}"] for p in ("p50", "p95", "p99")} for n in ("ttft", "tpot")})
    return out


def _plain(x):
    """x with Python's own numbers, as JSON wants them."""
    if isinstance(x, dict):
        return {k: _plain(v) for k, v in x.items()}
    if isinstance(x, list):
        return [_plain(v) for v in x]
    return x.item() if isinstance(x, np.generic) else x


def _workload(question):
    return Workload(question.rate, lengths(question.prompt_tokens),
                    lengths(question.output_tokens), question.arrivals)


def _chips(sized, question):
    """All chips that are paid for."""
    replicas = sized.replicas + sized.headroom + question.spares
    return replicas * sized.candidate.layout.chips


def _slow(candidate, question):
    numbers = _single(candidate, question, 0.01 * candidate.most.rate, (question.percentile,))
    p = f"p{question.percentile:g}"
    return (f"no plan keeps ttft={question.ttft:g} and tpot={question.tpot:g} for "
            f"{question.percentile:g} % of requests: nearly idle, {candidate.layout.chip.name} x "
            f"{candidate.layout.chips} reaches ttft={numbers['ttft_' + p]:.3g} and "
            f"tpot={numbers['tpot_' + p]:.3g}")


def _prices(sized, question):
    """$ an hour of all replicas, and $ per million tokens of output; empty if not known."""
    from_ = sized.candidate
    if from_.price is None:
        return ()
    return prices(sized.replicas + sized.headroom + question.spares, from_.layout.chips,
                  from_.price, question, from_.layout.chip.price_source)


def _figures(figure):
    """A figure and what it follows from, by name."""
    out = {}
    for x in named(figure):
        lines = [line.strip() for line in explain(x, depth=0).splitlines()]
        out[x.name] = {
            "value": x.at(0), "unit": x.unit, "source": x.source,
            "formula": lines[0].split(" = ", 1)[1] if x.op else "",
            "values": lines[1].removeprefix("= ") if x.op else "",
            "inputs": sorted({y.name for y in _inputs(x)})}
    return out


def _inputs(x):
    for y in x.inputs:
        if y.name:
            yield y
        else:
            yield from _inputs(y)
