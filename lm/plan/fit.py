"""Fits the time model's constants on published steps, and judges them by rows left out."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares

from lm.base.errors import UserError
from lm.cost import liveness, slices, steptime
from lm.cost.chips import CHIPS
from lm.cost.constants import PRIOR, platform
from lm.data.config import Config as Data
from lm.experiment.config import Experiment
from lm.mesh.config import AXES
from lm.models.decoder.config import Config as Decoder
from lm.plan import steps
from lm.plan.published.row import Row
from lm.train.config import Config as Train

NOISE = 0.08   # of a published step: two runs of one program were 17 % apart
MANY = 10      # rows of one chip, beyond which more of them count as so many
OWN = dict(tpu=("matmul",), gpu=("matmul", "attention"))           # of each chip
LEAST = dict(attention=0.1, memory=0.1, experts=0.1, matmul=0.2)   # else 0
MOST = dict(memory=2.5, data=20.0)                                 # else 1
# Before kernels kept attention's scores out of memory.
SCORES = ("Narayanan et al. 2021", "Korthikanti et al. 2022")
UNLIKE = ("int8",)   # theirs computes the backward pass in 8 bits too, ours does not: only judged
EDGE = 1e-6    # of a constant, what the fit changes to see which way to go


class Sample(NamedTuple):
    """A published step and what its parts would take at the chip's rates, in seconds."""

    row: Row
    ideal: dict[str, float]

    @property
    def platform(self) -> str:
        return platform(CHIPS[self.row.chip])


class Fit(NamedTuple):
    """Constants by platform, and those of single chips by chip."""

    platforms: dict[str, dict[str, float]]
    chips: dict[str, dict[str, float]]


def sample(row: Row) -> Sample:
    """Returns a published step, traced and counted on its machine; UserError where it cannot be."""
    e = experiment(row)
    slice = slices.parse(CHIPS[row.chip], row.slice, row.slices)
    mesh = dict.fromkeys(AXES, 1) | row.mesh
    mesh["data"] *= slice.devices // math.prod(mesh.values())
    c = steps.case(e, slice)
    if row.source.startswith(SCORES):
        c = c._replace(schedule=liveness.schedule(c.schedule.program, False), kernel=False)
    ideal = steps.ideal(c, slice, [mesh], [row.B / e.train.accumulate], host=row.host_bytes,
                        again=1.0 if row.recompute is None else steps.again(c, row.recompute))
    if e.train.accumulate > 1 and "data" in ideal:  # the published programs add up before they send
        ideal["data"] = ideal["data"] / e.train.accumulate
    return Sample(row, {name: x.at(0) for name, x in ideal.items()})


def experiment(row: Row) -> Experiment:
    """Returns a published step as an experiment of ours."""
    model = Decoder(**dict(row.model, T=-1), precision=row.precision, remat=row.remat)
    stages = row.mesh.get("stage", 1)
    if stages > 1:  # what it calls microbatches are the pipeline's
        model = dataclasses.replace(model, microbatches=row.accumulate)
    return Experiment(data=Data(T=row.T, B=row.B, packing=False), model=model,
                      train=Train(accumulate=1 if stages > 1 else row.accumulate,
                                  optimizer=row.optimizer))


def samples(rows: Sequence[Row], progress=lambda row: None) -> tuple[list[Sample], dict[str, str]]:
    """Returns the rows that can be counted, and why not of the others, by name."""
    found, without = [], {}
    for row in rows:
        progress(row)
        try:
            found.append(sample(row))
        except UserError as e:
            without[row.name] = str(e)
    return found, without


def kept(found: Sequence[Sample]) -> str:
    """Returns the counts of samples as text, without what was measured: a line each."""
    lines = [json.dumps(s.row.name) + ": " + json.dumps(
        {name: float(f"{x:.5g}") for name, x in s.ideal.items()}) for s in found]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read(text: str, rows: Sequence[Row]) -> list[Sample]:
    """Returns samples of the counts that `kept` gave, for those of the rows that are among them."""
    counts = json.loads(text)
    return [Sample(row, counts[row.name]) for row in rows if row.name in counts]


def predict(fit: Fit, found: Sequence[Sample]) -> np.ndarray:
    """Returns the seconds of each step by the constants."""
    out = np.zeros(len(found))
    for p in {s.platform for s in found}:
        mine = [i for i, s in enumerate(found) if s.platform == p]
        own = [fit.platforms[p] | fit.chips.get(found[i].row.chip, {}) for i in mine]
        out[mine] = _seconds(_columns([found[i] for i in mine]),
                             {name: np.array([k[name] for k in own]) for name in PRIOR})
    return out


def fit(found: Sequence[Sample], start: Fit | None = None) -> Fit:
    """Returns the constants that predict the samples best, near the prior where these tell little.

    Least squares of log(predicted / published), outliers weighed down; a chip with many rows counts
    as MANY. Those of precisions UNLIKE ours tell nothing. start: constants that are near.
    """
    out = Fit({}, {})
    for p in sorted({s.platform for s in found}):
        mine = [s for s in found if s.platform == p and s.row.precision not in UNLIKE]
        chips = sorted({s.row.chip for s in mine})
        names = [(None, name) for name in PRIOR if name not in OWN[p]]
        names += [(chip, name) for name in OWN[p] for chip in chips]
        first = start and [(start.platforms[p] | start.chips.get(chip, {}))[name]
                           for chip, name in names]
        found_here = dict(zip(names, _solve(mine, names, first), strict=True))
        out.platforms[p] = {name: _mean([x for (_, own), x in found_here.items() if own == name])
                            for name in PRIOR}
        for chip in chips:
            out.chips[chip] = {name: found_here[chip, name] for name in OWN[p]}
    return out


def left_out(found: Sequence[Sample]) -> np.ndarray:
    """Returns predicted / published of each sample, by constants fitted on all others."""
    out = np.zeros(len(found))
    for p in {s.platform for s in found}:
        mine = [i for i, s in enumerate(found) if s.platform == p]
        every = fit([found[i] for i in mine])
        for i in mine:
            others = fit([found[j] for j in mine if j != i], every)
            out[i] = predict(others, [found[i]])[0] / found[i].row.seconds
    return out


def _solve(found, names, first) -> list[float]:
    """The constants of one platform's samples; names: (chip or None, name) of each."""
    of = np.array([s.row.chip for s in found])
    many = np.array([np.sum(of == chip) for chip in of])
    weights = np.minimum(1.0, (MANY / many) ** 0.5) / NOISE
    published = np.log([s.row.seconds for s in found])
    ideal = _columns(found)
    prior, sd = np.array([PRIOR[name] for _, name in names]).T
    takes = {name: np.array([[own == name and chip in (None, at) for at in of]
                             for chip, own in names], float) for name in PRIOR}

    def residuals(x):  # of one vector, or of many
        k = {name: x @ which for name, which in takes.items()}
        off = (np.log(_seconds(ideal, k)) - published) * weights
        return np.concatenate([off, (x - prior) / sd], axis=-1)

    def slopes(x):
        away = residuals(x + EDGE * np.eye(len(x)))
        return (away - residuals(x)).T / EDGE

    low, high = (np.array([some.get(name, other) for _, name in names], float)
                 for some, other in ((LEAST, 0.0), (MOST, 1.0)))
    x = np.clip(prior if first is None else first, low + 1e-4, high - 1e-4)
    return least_squares(residuals, x, slopes, bounds=(low, high), loss="soft_l1",
                         ftol=1e-7, xtol=1e-7).x.tolist()


def _mean(some) -> float:
    return math.exp(np.mean(np.log(np.maximum(some, 1e-9)))) if len(some) > 1 else some[0]


def _columns(found) -> dict[str, np.ndarray]:
    """The parts' seconds of all samples, by part."""
    names = {name for s in found for name in s.ideal}
    return {name: np.array([s.ideal.get(name, 0.0) for s in found]) for name in names}


def _seconds(ideal: Mapping, k: Mapping) -> np.ndarray:
    """The seconds of each step."""
    return np.asarray(steptime.combine(ideal, k | dict(overhead=0.0))["step_time"], float)
