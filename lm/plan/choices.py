"""The answer to a question about training: the best layouts of the best slices, as plan.json."""

import dataclasses
import json
from typing import NamedTuple

from lm.base import duration, options
from lm.cost import steptime
from lm.cost.chips import Chip
from lm.cost.constants import SPREAD, constants, platform
from lm.cost.figure import Figure, explain, known, named
from lm.cost.slices import Slice
from lm.experiment import parts
from lm.experiment.config import Experiment
from lm.mesh.config import AXES
from lm.plan import calibration, search, steps, sweep, training, wanted
from lm.plan.asked import Asked, model
from lm.plan.config import Config
from lm.plan.listing import upkeep
from lm.plan.search import Space


class Answer(NamedTuple):
    """A plan, and what of it is more than plain data."""

    plan: dict
    figures: dict[str, Figure]   # of the best choice, by name
    experiment: Experiment       # with that choice's fields
    slice: Slice


def answer(e: Experiment, own: Config, chips: dict[str, Chip], space: Space) -> Answer:
    """Returns the plan; UserError says what would fit where nothing does."""
    slices = wanted.wanted(own, e, chips)
    m = model(e, [steps.case(search.apply(e, x), slices[0]) for x in search.stores(e, space)])
    tokens = own.tokens or (0.0 if own.epochs else _length(e))
    t = training.train(
        training.Size(m.count, m.active, m.body, m.flops[parts.CONVENTION]), T=e.data.T,
        V=e.model.V, tokens=tokens, epochs=own.epochs, batch=e.data.B * e.data.T,
        data=own.data_tokens or None)
    a = Asked(e, own, chips, space, m, t, calibration.read(own.calibration))
    listed, found, rejected, counts = sweep.sweep(a, slices)
    listed.sort(key=sweep.cost(a))
    for rank, x in enumerate(listed, 1):
        x["rank"] = rank
    best = listed[0]
    best["why"] = _why(own, found)
    chosen = search.apply(e, best["overrides"])
    slice = found[best["chip"], best["slice"]].slice
    figures = formulas(a, chosen, slice)
    plan = dict(
        version=1, question={name: getattr(own, name) for name in (
            "chip", "chips", "slice", "tokens", "days", "budget")},
        model=dict(parameters=m.count, active=m.active, flops_per_token=m.flops),
        training=t.facts(), choices=listed, pareto=_pareto(listed), rejected=rejected,
        rejected_count=dict(counts), figures=stored(figures), compiled=None,
        config=options.flatten(dataclasses.asdict(_runnable(
            search.apply(chosen, {"train.length": f"{int(t.steps.value)} steps"}), slice))))
    return Answer(json.loads(json.dumps(plan, default=float)), figures, chosen, slice)


def _length(e):
    """The tokens of the config's own length; 0 where it is in epochs of data that is not read."""
    amount, unit = duration.parse(e.train.length)
    return amount * {"tokens": 1, "steps": e.data.B * e.data.T}.get(unit, 0)


def _why(own, found):
    fit = sum(len(one.order) for one in found.values())
    limits = [f"ends within {own.days:g} days" if own.days else "",
              f"costs at most ${own.budget:,.0f}" if own.budget else ""]
    limits = " and ".join(filter(None, limits))
    if len(found) == 1:
        return f"the fastest of {fit:,} layouts that fit" + (f", and it {limits}" if limits else "")
    first = "least chip-time" if own.chips or own.slice else "cheapest"
    return (f"the {first} of the best layouts of {len(found)} slices"
            + (f" that {limits}" if limits else ""))


def _pareto(choices):
    """The choices that no other is both faster and cheaper than."""
    priced = [(i, x["days"]["likely"], x["price"]["likely"]) for i, x in enumerate(choices)
              if x["price"]]
    return [i for i, days, price in priced if not any(
        d <= days and p <= price and (d, p) != (days, price) for _, d, p in priced)]


def formulas(a: Asked, e: Experiment, slice: Slice) -> dict[str, Figure]:
    """Returns the named figures of one choice, with their formulas."""
    t, c = a.training, steps.case(e, slice)
    mesh = [{axis: getattr(e.mesh, axis) for axis in AXES}]
    rows = [e.data.B // e.train.accumulate]
    time = steptime.combine(steps.ideal(c, slice, mesh, rows, across=e.mesh.across),
                            constants(slice.chip, *calibration.correction(a.ledger, slice.chip)))
    step = training.spread(time["step_time"].at(0), SPREAD[platform(slice.chip)])
    made = upkeep(a, slice, step)
    flops = known("model.flops_per_token", a.model.flops[parts.CONVENTION], "FLOP",
                  parts.CONVENTION)
    per = (known("batch.tokens", e.data.B * e.data.T, "tokens", "data.B * data.T")
           / time["step_time"] / known("chips", slice.chips)).called(
        "tokens_per_second_per_chip", "tokens/s")
    mfu = (per * flops / known("chip.flops", slice.chip.peak() * slice.chip.devices, "FLOP/s",
                               f"{slice.chip.name}: lm.cost.chips")).called("mfu")
    limit = known("memory.limit", slice.chip.memory(), "bytes", "lm.cost.chips: usable")
    memory = steps.memory(c, slice, mesh, rows)
    top = [*time.values(), *memory.values(), limit, mfu, t.batch, t.data_bytes, t.epochs, t.lr,
           t.warmup, t.steps, t.tokens_per_parameter, *made.values()]
    top = [x for x in top if x is not None]
    return {x.name: x for one in top for x in named(one)}


def _runnable(e: Experiment, slice: Slice) -> Experiment:
    """The experiment as `lm train` takes it on such a slice."""
    target = f"{slice.chip.aot}:{'x'.join(map(str, slice.shape))}" if slice.chip.aot else ""
    mesh = dataclasses.replace(e.mesh, slices=slice.count if slice.count > 1 else 0, target=target)
    return dataclasses.replace(e, mesh=mesh)


def stored(figures: dict[str, Figure]) -> dict:
    """Returns figures as plain data: value, unit, formula, the same with values, source, inputs."""
    out = {}
    for name, x in figures.items():
        lines = explain(x, 0, 0).split("\n")
        out[name] = dict(
            value=x.at(0), unit=x.unit, source=x.source or ("" if x.op else "given"),
            formula=lines[0].partition(" = ")[2] if x.op else "",
            values=lines[1].strip().removeprefix("= ") if x.op else "",
            inputs=[y.name for y in named(x)][1:] if x.op else [])
    return out
