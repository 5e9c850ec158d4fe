"""`lm train`: a run, with what a plan says of it before and what was measured beside it after."""

import dataclasses
import datetime
import functools
import hashlib
import json
import math
import pathlib
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax

from lm.base.errors import UserError
from lm.base.records import read_json
from lm.cost import slices, steptime, utilisation
from lm.cost.chips import Chip
from lm.cost.constants import SPREAD, constants, platform
from lm.cost.slices import Slice
from lm.experiment import train
from lm.experiment.config import Experiment
from lm.experiment.flags import Parsed
from lm.experiment.measured import Measured
from lm.mesh import processes
from lm.mesh.config import AXES
from lm.plan import amounts, calibration, search, steps, training


class Predicted(NamedTuple):
    """What is expected of a step on the devices that are here."""

    chip: Chip
    uncorrected: float | None   # seconds by the published constants alone
    seconds: float | None       # by those that measured runs correct; None where it is not known
    bytes: float                # of a device
    limit: float                # bytes of a device that a plan may take


def run(parsed: Parsed) -> int:
    """Trains; returns 0, or 128 + the signal that ended it."""
    plan = _first_choice(parsed.flags.plan) if parsed.flags.plan else None
    return train.run(parsed, functools.partial(expect, parsed, plan))


def _first_choice(path):
    """The layout that a plan.json ranks first."""
    try:
        choice = read_json(pathlib.Path(path).expanduser())["choices"][0]
        bands = [choice[name] for name in ("step_seconds", "days", "price") if choice[name]]
        if choice["memory_total"] > 0 and all(
                band[end] > 0 for band in bands for end in ("low", "likely", "high")):
            return choice
    except (IndexError, KeyError, TypeError):
        pass
    raise UserError(f"{path} is not the plan of a training; `lm plan` writes one")


def expect(parsed: Parsed, plan: dict | None, e: Experiment,
           mesh) -> Callable[[Measured], None] | None:
    """Warns if e will not fit; returns what compares what was expected with what is measured.

    plan: the choice that e is from. None, and not a word, where nothing can be predicted.
    """
    if not processes.first():
        return None
    lines = calibration.read(parsed.flags.calibration)
    try:
        with ThreadPoolExecutor(1) as aside:   # where no mesh is in use: steps are traced in others
            expected = aside.submit(predict, e, mesh, lines).result()
    except UserError:
        return None
    except Exception as error:   # a run does not depend on what can be said of it
        print(f"not predicted: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
        return None
    if expected is None:
        return None
    if expected.bytes > expected.limit:
        print(f"warning: a device is predicted to need {amounts.size(expected.bytes)} of "
              f"{amounts.size(expected.limit)}; {_command()} says what fits", flush=True)
    return functools.partial(compare, parsed, plan, e, mesh, expected)


def _command():
    """The command that plans what this process trains."""
    words = [word for word in sys.argv[1:] if word.startswith("--config=")]
    return " ".join(["lm plan", *words[:1]])


def predict(e: Experiment, mesh, lines: list[dict]) -> Predicted | None:
    """Returns what a step of e, its model's -1s filled in, holds and takes on the mesh.

    lines: of measured runs. None where the chip is not known, or where the copies of the model do
    not step together.
    """
    chip = utilisation.chip(list(mesh.devices.flat))
    if chip is None or e.train.local_steps or e.train.staleness:
        return None
    if chip.name == "cpu":
        if jax.process_count() > 1:   # on how many machines is not known
            return None
        chip = dataclasses.replace(chip, devices=mesh.size)   # they share the machine
        place = Slice(chip, (1,))
    else:
        place = _place(chip, e.mesh, mesh.size // chip.devices)
    c = steps.case(e, place)
    shape, rows = [{axis: mesh.shape[axis] for axis in AXES}], [e.data.B // e.train.accumulate]
    held = steps.memory(c, place, shape, rows)["memory.total"].at(0)
    seconds = None, None
    if mesh.size == 1 or chip.network:
        ideal = steps.ideal(c, place, shape, rows, across=e.mesh.across)
        seconds = (steptime.combine(ideal, constants(chip, *change))["step_time"].at(0)
                   for change in ((), calibration.correction(lines, chip)))
    return Predicted(chip, *seconds, held, chip.memory() * search.MARGIN)


def _place(chip: Chip, config, count: int) -> Slice:
    """The slices that so many chips are: as the config says, or the most usual."""
    groups = config.slices or 1
    name, _, shape = config.target.partition(":")
    if name == chip.aot and shape and count == groups * math.prod(map(int, shape.split("x"))):
        return slices.parse(chip, shape, groups)
    return slices.parse(chip, str(count // groups), groups)


def compare(parsed: Parsed, plan: dict | None, e: Experiment, mesh, expected: Predicted,
            measured: Measured) -> None:
    """Prints what was expected beside what was measured, and keeps both for the next plan."""
    took = statistics.median(measured.seconds)
    print("\n".join(table(_unchanged(parsed) and plan or None, e, expected, measured)))
    if expected.seconds is None:
        return
    line = dict(
        date=datetime.date.today().isoformat(), chip=expected.chip.name,
        processor=calibration.processor(expected.chip), devices=mesh.size,
        mesh={axis: mesh.shape[axis] for axis in AXES}, config=digest(e),
        predicted=dict(uncorrected_seconds=expected.uncorrected, step_seconds=expected.seconds,
                       bytes=expected.bytes),
        measured=dict(step_seconds=took, bytes=measured.bytes))
    try:
        file = calibration.append(line, parsed.flags.calibration)
    except OSError as error:
        print(f"not kept for the next plan: {error.filename}: {error.strerror}")
    else:
        print(f"kept for the next plan: {file}")


def digest(e: Experiment) -> str:
    """Returns a short name of all that an experiment is, but for its directory."""
    text = json.dumps(dataclasses.asdict(e) | dict(run=""), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _unchanged(parsed):
    """Whether no flag has changed what a plan chose."""
    return not any(source == "flag" and name != "run" and not name.startswith("infer.")
                   for name, source in parsed.sources.items())


def table(plan: dict | None, e: Experiment, expected: Predicted, measured: Measured) -> list[str]:
    """Returns lines: what the plan, or without one the prediction, says, and what was measured."""
    took = statistics.median(measured.seconds)
    if plan:
        step, held = plan["step_seconds"], plan["memory_total"]
    else:
        known = expected.seconds is not None
        step = training.spread(expected.seconds, SPREAD[platform(expected.chip)]) if known else None
        held = expected.bytes
    least, tokens = measured.least or math.nan, e.data.B * e.data.T
    rows = [] if step is None else [
        ("step", _band(step, amounts.seconds), amounts.seconds(took)),
        ("tokens/s", _band(_over(tokens, step), amounts.three), amounts.three(tokens / took)),
        ("utilisation (MFU)", _band(_over(least, step), amounts.percent),
         amounts.percent(least / took))]
    rows += [("memory of a device", amounts.size(held), amounts.size(measured.bytes))]
    for name, say in (("days", amounts.days), ("price", amounts.money)):
        if plan and plan.get(name):
            ratio = took / plan["step_seconds"]["likely"]
            rows.append((name, _band(plan[name], say), say(plan[name]["likely"] * ratio)))
    head = ("", "planned" if plan else "predicted", "measured")
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(3)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (head, *rows)]


def _over(x, step):
    """What is x in each second of a step."""
    return dict(low=x / step["high"], likely=x / step["likely"], high=x / step["low"])


def _band(x, say):
    """The likely value with the range that it is in."""
    return f"{say(float(x['likely']))} ({say(float(x['low']))} to {say(float(x['high']))})"
