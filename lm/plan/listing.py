"""Layouts as plain data: the lines of plan.json."""

import numpy as np

from lm.base import duration
from lm.cost import memory
from lm.cost.constants import SPREAD, platform
from lm.cost.figure import known
from lm.cost.slices import Slice
from lm.experiment import parts
from lm.plan import training
from lm.plan.asked import Asked
from lm.plan.search import Found


def choice(a: Asked, found: Found, i: int) -> dict:
    """One layout as plain data."""
    e, m, s, x = a.experiment, a.model, found.slice, found.layouts[i]
    step = training.spread(found.time["step_time"].at(i), SPREAD[platform(s.chip)])
    tokens = e.data.B * e.data.T / step["likely"]
    made = upkeep(a, s, step)
    mine = {name: figure.at(i) for name, figure in found.time.items()}
    parts_ = {}
    for name in mine:
        _, _, part = name.partition("step_time.")
        if not part or part == "work" or part.endswith(".exposed"):
            continue
        seconds = mine[name]
        parts_[part] = dict(seconds=seconds, exposed=mine.get(f"{name}.exposed", seconds))
    peak = s.chip.peak() * s.devices
    flops = m.flops[parts.CONVENTION] * tokens
    out = dict(
        chip=s.chip.name, slice=s.name, slices=s.count, chips=s.chips, mesh=x["mesh"],
        overrides=x["overrides"], memory={
            name.partition(".")[2]: f.at(i) for name, f in found.memory.items()
            if name.partition(".")[2] in memory.PARTS},
        memory_total=found.memory["memory.total"].at(i), memory_limit=s.chip.memory(), fits=True,
        host_memory=found.memory["memory.host"].at(i) * s.devices / s.hosts,
        step_time=parts_, step_seconds={k: float(v) for k, v in step.items()},
        tokens_per_second=tokens, tokens_per_second_per_chip=tokens / s.chips, mfu=flops / peak,
        price_note=training.price_note(s.chip.price, s.chip.price_source), why="")
    for name in ("days", "price"):
        out[name] = None if made[name] is None else dict(
            low=_plain(made[f"{name}_low"]), likely=_plain(made[name]),
            high=_plain(made[f"{name}_high"]))
    for name in ("goodput", "checkpoint_seconds", "checkpoint_every_steps", "checkpoint_bytes",
                 "evaluate_seconds", "data_bandwidth", "chip_hours"):
        out[name] = _plain(made[name])
    return out


def upkeep(a: Asked, s: Slice, step: dict) -> dict:
    """Returns days, price and checkpoints of the training on a slice: `training.run`."""
    mtbf = training.MTBF["tpu" if s.chip.aot else "gpu"]
    if a.own.mtbf:
        mtbf = known("mtbf.chip", a.own.mtbf * 3600, "s", "given")
    return training.run(a.training, step, s.chips, s.hosts, a.model.state, s.chip.price,
                        training.Upkeep(mtbf=mtbf), evaluation(a))


def evaluation(a: Asked) -> training.Evaluation:
    """Returns the config's schedule of evaluations, over the share of the data that is held out.

    Nothing is known of it without --data_tokens.
    """
    e, length = a.experiment, float(a.training.steps.value)
    if not a.own.data_tokens:
        return training.Evaluation()
    every = duration.steps(e.train.evaluate_every, run=length, tokens_per_step=e.data.B * e.data.T,
                           steps_per_epoch=a.own.data_tokens / (e.data.B * e.data.T))
    return training.Evaluation(every, a.own.data_tokens * e.data.validation)


def _plain(figure):
    return float(np.asarray(figure.value))


def rejected(s, kind, why):
    """Returns a line of what was rejected: `why` is a mesh and a reason, or a reason."""
    mesh, _, reason = why.rpartition(": ")
    return dict(chip=s.chip.name, slice=s.name, mesh=mesh, overrides={}, kind=kind, reason=reason)
