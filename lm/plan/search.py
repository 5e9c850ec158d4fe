"""Every layout of an experiment on a slice: which cannot be, which do not fit, which is fastest."""

import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from lm.cost import steptime
from lm.cost.chips import GIB
from lm.cost.constants import constants
from lm.cost.figure import Figure
from lm.cost.slices import Slice
from lm.experiment.config import Experiment
from lm.mesh import devices
from lm.mesh.config import AXES
from lm.nn.precision import PRECISIONS
from lm.plan import steps

MARGIN = 0.95      # of a device's memory, what a plan may take: predictions are off by a little
# What the search is free to choose, unless a flag gives it; each with the field that it sets.
REMATS = ("none", "dots", "attention", "full")
LEAST = dict(tensor=128, context=128)   # hidden units, and tokens of half a part, of one device


class Space(NamedTuple):
    """What is searched besides meshes."""

    fixed: Mapping[str, object]           # fields of the experiment by name that are given
    remats: tuple[str, ...] = REMATS
    precisions: tuple[str, ...] = ()      # empty: the experiment's
    optimizers: tuple[str, ...] = ()
    offloads: tuple[str, ...] = ("none",)
    axes: tuple[str, ...] = AXES          # of the mesh that may have more than one device


class Found(NamedTuple):
    """The layouts of one slice that were counted, as arrays of one element each."""

    slice: Slice
    layouts: list[dict]                 # mesh, rows, overrides
    memory: dict[str, Figure]           # bytes of a device by category, and `memory.total`
    time: dict[str, Figure]
    order: np.ndarray                   # those that fit, the fastest first
    refused: Counter                    # how many cannot be, by kind
    why: dict[str, str]                 # of each kind an example


def search(e: Experiment, slice: Slice, space: Space, changes: Mapping[str, float] | None = None,
           source: str = "") -> Found:
    """Returns all layouts of e on a slice.

    changes: constants of the time model that measurements of one's own say, and their source.
    """
    refused, why = Counter(), {}
    groups = []
    for choice in _choices(e, space):
        own = apply(e, choice)
        unit = PRECISIONS[own.model.precision].unit
        if unit and unit not in slice.chip.flops and own.model.precision_missing == "refuse":
            refused["precision"] += 1
            why["precision"] = f"{own.model.precision} needs {unit} units, which it has not"
            continue
        found = _legal(own, slice, space, refused, why)
        for many in (False, True):  # a batch in parts is another program
            some = [x for x in found if (x[1] < e.data.B) == many]
            if some:
                groups.append(_count(own, slice, choice, *map(list, zip(*some, strict=True)),
                                     changes, source))
    if not groups:
        return Found(slice, [], {}, {}, np.array([], int), refused, why)
    layouts = [x for group in groups for x in group[0]]
    memory, time = ({name: _joined([g[i].get(name) for g in groups],
                                   [len(g[0]) for g in groups], name)
                     for name in dict.fromkeys(n for g in groups for n in g[i])} for i in (1, 2))
    limit = slice.chip.memory() * MARGIN
    fits = memory["memory.total"].value <= limit
    if slice.chip.host_bytes:
        each = memory["memory.host"].value * slice.devices / slice.hosts
        fits &= each <= slice.chip.host_bytes
    order = np.array([], int)
    if fits.any():
        order = np.argsort(np.where(fits, time["step_time"].value, np.inf),
                           kind="stable")[:int(fits.sum())]
    if not fits.all():
        refused["memory"] += int((~fits).sum())
        least = int(np.argmin(np.where(fits, np.inf, memory["memory.total"].value)))
        x = layouts[least]
        needs = memory["memory.total"].at(least)
        why["memory"] = (f"{devices.words(x['mesh'])}, remat {x['overrides']['model.remat']}, "
                         f"microbatches of {x['rows']}: needs {needs / GIB:.1f} GiB of "
                         f"{limit / GIB:.1f} GiB")
    return Found(slice, layouts, memory, time, order, refused, why)


def apply(e: Experiment, overrides: Mapping[str, object]) -> Experiment:
    """Returns e with fields replaced: `model.remat` and the like."""
    for room in {name.partition(".")[0] for name in overrides}:
        fields = {name.partition(".")[2]: value for name, value in overrides.items()
                  if name.startswith(room + ".")}
        e = dataclasses.replace(e, **{room: dataclasses.replace(getattr(e, room), **fields)})
    return e


def stores(e: Experiment, space: Space) -> list[dict]:
    """Returns the choices that differ in what is stored, as overrides of e, its own first."""
    kept = [{name: x for name, x in choice.items() if name != "model.remat"}
            for choice in _choices(e, space)]
    return sorted((dict(x) for x in {tuple(x.items()) for x in kept}), key=len)


def _choices(e, space):
    """The choices that need a program of their own, as overrides."""
    def options(field, values, own):
        return (space.fixed[field],) if field in space.fixed else values or (own,)
    names = ("model.remat", "model.precision", "train.optimizer", "train.offload")
    values = (options(names[0], space.remats, e.model.remat),
              options(names[1], space.precisions, e.model.precision),
              options(names[2], space.optimizers, e.train.optimizer),
              options(names[3], space.offloads, e.train.offload))
    own = (e.model.remat, e.model.precision, e.train.optimizer, e.train.offload)
    for chosen in itertools.product(*values):
        yield {name: value for name, value, mine in zip(names, chosen, own, strict=True)
               if value != mine or name == "model.remat"}


def _legal(e, slice, space, refused, why):
    """The meshes that hold e's model and batch, each with the rows of a microbatch."""
    found = []
    given = {axis: space.fixed[f"mesh.{axis}"] for axis in AXES
             if space.fixed.get(f"mesh.{axis}", -1) != -1}
    free = {*space.axes, *given}
    wanted = [m for m in shapes(slice.devices, bool(e.model.E)) if all(
        n == given.get(axis, n) and (n == 1 or axis in free) for axis, n in m.items())]
    if not wanted:
        refused["layout"] += 1
        why["layout"] = f"no mesh of {slice.devices} devices has {devices.words(given)}"
    for mesh in wanted:
        kind, reason = _refusal(e, slice, mesh)
        if kind:
            refused[kind] += 1
            why.setdefault(kind, f"{devices.words(mesh)}: {reason}")
            continue
        ways = mesh["data"] * mesh["fsdp"] * mesh["expert"]
        fixed = space.fixed.get("train.accumulate")
        most = e.data.B // ways
        for parts in ([fixed] if fixed else [n for n in range(1, most + 1) if most % n == 0]):
            if e.data.B % (parts * ways) == 0 and _passes(e, mesh, most // parts):
                found.append((mesh, e.data.B // parts))
    return found


def _passes(e, mesh, rows):
    """Whether so many rows of a device go through its pipeline, if there is one."""
    p = steps.plan(e, mesh, rows * mesh["data"] * mesh["fsdp"] * mesh["expert"])
    return not p or rows % p.M == 0 and (p.V == 1 or p.M >= p.S)


@functools.cache
def shapes(count: int, experts: bool) -> list[dict[str, int]]:
    """Returns every mesh of so many devices; without experts the axis `expert` is 1."""
    return [s for s in devices.shapes(count) if experts or s["expert"] == 1]


def _refusal(e, slice, mesh):
    """Why a mesh cannot be: (kind, reason), or two empty texts."""
    c, d = e.model, e.data
    ways = mesh["data"] * mesh["fsdp"] * mesh["expert"]
    uneven = [(name, size, by, ways) for name, size, by, ways in (
        ("batch B", d.B, "data*fsdp*expert", ways), ("width D", c.D, "fsdp", mesh["fsdp"]),
        ("heads N", c.N, "tensor", mesh["tensor"]), ("hidden units F", c.F, "tensor",
                                                     mesh["tensor"]),
        ("hidden units dense_F", c.dense_F * bool(c.dense_layers), "tensor", mesh["tensor"]),
        ("experts E", c.E, "expert", mesh["expert"])) if size % ways]
    if uneven:
        name, size, by, ways = uneven[0]
        return "layout", f"{name} = {size} does not divide over {by} = {ways}"
    if mesh["context"] > 1 and d.T % (2 * mesh["context"]):
        return "layout", f"length T = {d.T} does not divide over 2*context"
    if mesh["stage"] > 1:
        V = c.repeats if c.schedule == "circular" else 1
        if c.L - c.dense_layers < mesh["stage"] * V:
            return "layout", f"{c.L - c.dense_layers} layers do not fill {mesh['stage']} stages"
    if slice.count > 1 and mesh[e.mesh.across] % slice.count:
        return "layout", f"mesh.{e.mesh.across} does not divide over {slice.count} slices"
    if mesh["tensor"] > 1 and c.F // mesh["tensor"] < LEAST["tensor"]:
        return "thin", f"leaves {c.F // mesh['tensor']} hidden units to a device"
    if mesh["context"] > 1 and d.T // (2 * mesh["context"]) < LEAST["context"]:
        return "thin", f"leaves {d.T // mesh['context']} tokens of a sequence to a device"
    return "", ""


def _count(e, slice, choice, meshes, rows, changes, source):
    """What one program holds and takes on many meshes; what does not fit is not timed."""
    e = apply(e, {"train.accumulate": 2 if rows[0] < e.data.B else 1})
    c = steps.case(e, slice)
    memory = steps.memory(c, slice, meshes, rows)
    fits = memory["memory.total"].value <= slice.chip.memory() * MARGIN
    time = {}
    if fits.any():
        some = [x for x, ok in zip(meshes, fits, strict=True) if ok]
        ideal = steps.ideal(c, slice, some, np.asarray(rows)[fits], across=e.mesh.across)
        time = {name: _among(x, fits) for name, x in steptime.combine(
            ideal, constants(slice.chip, changes, source)).items()}
    layouts = [dict(mesh=mesh, rows=r, overrides=dict(
        choice, **{"train.accumulate": e.data.B // r}, **{f"mesh.{a}": n for a, n in mesh.items()}))
        for mesh, r in zip(meshes, rows, strict=True)]
    return layouts, memory, time


def _among(figure, where):
    """A figure of some layouts as one of all, infinite elsewhere."""
    out = np.full(where.shape, np.inf)
    out[where] = figure.value
    return Figure(out, figure.name, figure.unit, figure.source)


def _joined(figures, counts, name):
    """Figures of several groups of layouts as one; the formula is the first's that has one."""
    known = [x for x in figures if x is not None]
    values = [np.broadcast_to(0.0 if x is None else np.asarray(x.value, float), (n,))
              for x, n in zip(figures, counts, strict=True)]
    return Figure(np.concatenate(values), name, known[0].unit, known[0].source)
