"""What one device holds in a training step, by category, and the most of it at once.

Sizes and meshes may be arrays, one element for each of many plans; so then are all results.
"""

import itertools
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from lm.cost import layout
from lm.cost.beside import KINDS
from lm.cost.buffers import LANES, LINES, Habits, Schedule, schedule
from lm.cost.chips import Chip
from lm.cost.fusion import tokens
from lm.cost.layout import Setting
from lm.cost.lettered import Axis, Program, Shape, elements, walk
from lm.mesh.rules import COMPUTE, STORAGE

# What the compiler was seen to do otherwise for a generation of chips.
HABITS = {"v5e": Habits(again=False, sums=False), "v6e": Habits(rows=False)}
CODE = 40 * 2**20  # bytes of a training step's program on a TPU: 37 to 45 MiB were seen

# On a CPU layers are no loop, and what they keep is beside what it is a part of. The mean of seven
# variants of configs/quickstart.py, from 1.22 to 1.63; leaving any out gives 1.42 to 1.49.
UNROLLED = 1.45

PARTS = ("parameters", "optimizer", "gradients", "activations", "gathered", "logits", "working")


class Leaf(NamedTuple):
    """An array of the state that training carries from step to step."""

    part: str                # parameters or optimizer
    axes: str                # its letters; '' for one that is whole on every device
    shape: tuple[int, ...]
    itemsize: float


class Pipe(NamedTuple):
    """How batches pass through stages. Numbers, or arrays of one for each plan."""

    parts: object            # of a batch
    ticks: object            # turns in which stages work, forward
    stash: object            # inputs that a stage keeps in place of its layers' (1f1b); 0: none


class Peak(NamedTuple):
    """Bytes that are held at once at most, and by kind."""

    total: object     # on the device
    kinds: tuple      # in the order of KINDS


def plan(program: Program, chip: Chip | None) -> Schedule:
    """Returns what a program's memory is counted by, on a chip; None: on a CPU."""
    return schedule(program, chip is not None, HABITS.get(chip.name) if chip else None)


def predict(plan: Schedule, s: Setting, chip: Chip | None, state: Iterable[Leaf],
            pipe: Pipe | None = None, offloaded: bool = False) -> dict[str, object]:
    """Returns the bytes of one device by category, and those of the host that are its own.

    The sum of PARTS is what a compiler compares with `Chip.memory`; `code` and `reserve` are what
    that leaves free of the device's whole memory. chip: None is a CPU. state: of the real sizes.
    offloaded: whether moments are kept in the host's memory between steps.
    """
    on = device(chip)
    within = s if pipe is None else Setting(dict(s.sizes, B=s.sizes["B"] / pipe.parts), s.mesh)
    most = peak(plan, within, on)
    out = dict(zip(KINDS, most.kinds, strict=True))
    if pipe is not None:
        _passing(out, plan, within, pipe)
    if not on.kernel:
        out["activations"] = out["activations"] * UNROLLED
    p = plan.program
    out["working"] = out["working"] + sum(layout.nbytes(p.shapes[n], STORAGE, s)
                                          for n in p.inputs if tokens(p.shapes[n]))  # the batch
    for part in ("parameters", "optimizer"):
        out[part] = sum((stored(leaf, s.mesh, on.tiled) for leaf in state if leaf.part == part),
                        np.zeros(()))
    if offloaded:
        out["host"] = out["host"] + out["optimizer"]
    out["code"] = np.asarray(CODE if chip and chip.aot else 0.0)
    whole = chip.hbm_bytes / chip.devices - chip.memory() if chip else 0.0
    out["reserve"] = np.maximum(whole - out["code"], 0.0)
    return {name: out[name] for name in (*PARTS, "code", "reserve", "host")}


def total(parts: Mapping[str, object]):
    """Returns what is to be compared with `Chip.memory`, of what `predict` gave."""
    return sum(parts[name] for name in PARTS)


def stored(leaf: Leaf, mesh: Mapping[str, object], tiled: bool = False):
    """Returns the bytes of an array of the state on one device, exactly."""
    sizes = [np.asarray(float(n)) for n in leaf.shape]
    if leaf.axes:
        axes = [Axis(Fraction(n), ()) for n in leaf.shape]
        for i, place in enumerate(layout.spread(leaf.axes, axes, STORAGE, Setting({}, mesh))):
            for n in place.values():
                sizes[i] = sizes[i] / n
    size = np.asarray(leaf.itemsize)
    for n in sizes:
        size = size * n
    return size * _tiles(sizes) if tiled else size


def _passing(out, plan, within, pipe):
    """Adds what a pipeline keeps to what one of a batch's parts does, in place.

    Each turn keeps its layers' inputs and what leaves the last stage; 1f1b only some inputs of
    stages. All parts go in, and come out or back; GPipe's loss has them once more. A turn has its
    own gradients, and its own copy of what its layers kept.
    """
    one = layout.nbytes(_tokens(plan), COMPUTE, within)
    early = np.asarray(pipe.stash) > 0
    stack = out["activations"]
    out["activations"] = stack + np.where(early, (pipe.stash + 2 * pipe.parts) * one,
                                          pipe.ticks * stack + (pipe.ticks + 3 * pipe.parts) * one)
    out["gradients"] = out["gradients"] + sum(
        layout.nbytes(plan.program.shapes[n], STORAGE, within) for step in plan.steps
        for n in step.makes if plan.kinds[n] == "gradients" and plan.program.shapes[n].power("L"))


def _tokens(plan: Schedule) -> Shape:
    """The residual stream: what the first loop that has weights hands from layer to layer."""
    return next(shapes[n] for op, shapes, _ in walk(plan.program) if op.body is not None
                for n in op.writes if tokens(shapes[n]) and shapes[n].power("D"))


class Device(NamedTuple):
    """What of a device decides how arrays lie."""

    kernel: bool   # whether a kernel computes the attention
    tiled: bool    # whether memory is in tiles, whose rows are filled up


def device(chip: Chip | None) -> Device:
    """Returns what decides on a chip, or on a CPU if it is None."""
    return Device(chip is not None, chip is not None and chip.aot is not None)


def peak(plan: Schedule, s: Setting, on: Device, cache: dict | None = None,
         held: list | None = None) -> Peak:
    """Returns the most that a program holds at once on one device, without its own inputs.

    At the top, outputs take the place of inputs and count nothing. held: gets, for settings of one
    plan, what is held then, as (bytes, shape, name of the operation).
    """
    cache = {} if cache is None else cache
    now = {n: nbytes(plan, n, s, on, cache) for n in plan.start}
    sums = [np.zeros(()) for _ in KINDS]
    names = dict.fromkeys(now, "carried")
    for n in now:
        sums[KINDS.index(plan.kinds[n])] = sums[KINDS.index(plan.kinds[n])] + now[n]
    best = Peak(np.zeros(()), tuple(sums))

    def take(n, op):
        if n not in now:
            now[n], names[n], k = nbytes(plan, n, s, on, cache), op.name, plan.kinds[n]
            sums[KINDS.index(k)] = sums[KINDS.index(k)] + now[n]

    def drop(n):
        if n in now:
            k = KINDS.index(plan.kinds[n])
            sums[k] = sums[k] - now.pop(n)

    for step in plan.steps:
        for n in step.early:
            drop(n)
        for n in step.makes:
            if n not in step.late:
                take(n, step.op)
        most, below = list(sums), []
        for n in step.beside:
            k = KINDS.index(plan.kinds[n])
            most[k] = most[k] + nbytes(plan, n, s, on, cache)
        if step.inner is not None:
            inside = peak(step.inner, s, on, cache, below if held is not None else None)
            most = [a + b for a, b in zip(most, inside.kinds, strict=True)]
        if held is not None and np.any(sum(most[:-1]) > best.total):
            held[:] = below + [(float(b), plan.program.shapes[n], names[n])
                               for n, b in now.items()]
            held += [(float(nbytes(plan, n, s, on, cache)), plan.program.shapes[n],
                      step.op.name) for n in step.beside]
        best = _higher(best, most)
        for n in step.late:
            take(n, step.op)
        best = _higher(best, sums)
        for n in step.ends:
            drop(n)
    return best


def _higher(best, kinds):
    """The higher of a peak and what is held now, each plan by itself."""
    total = sum(kinds[:-1])
    if total.ndim == 0 and best.total.ndim == 0:
        return Peak(total, tuple(kinds)) if total > best.total else best
    more = total > best.total
    return Peak(np.where(more, total, best.total),
                tuple(np.where(more, a, b) for a, b in zip(kinds, best.kinds, strict=True)))


def nbytes(plan: Schedule, n: int, s: Setting, on: Device, cache: dict):
    """Returns the bytes of one of a body's arrays on one device."""
    shape, lies = plan.program.shapes[n], plan.lies.get(n, "")
    if on.kernel and shape.power("t") > 1:
        return np.zeros(())
    stored = not tokens(shape) and (shape.power("L") or n not in plan.whole)
    key = (shape, stored, lies)
    if key not in cache:
        cache[key] = _lying(shape, STORAGE if stored else COMPUTE, lies, s, on.tiled)
    return cache[key]


def _lying(shape: Shape, table, lies: str, s: Setting, tiled: bool):
    """The bytes of an array that lies as the table says, but for what `lies` names."""
    tensor = np.asarray(s.mesh["tensor"])
    if shape.power("k") and not shape.power("C") and any(a.has("B") and a.has("t")
                                                         for a in shape.axes):
        size = _rows(shape, table, s)
    else:
        size = np.asarray(layout.nbytes(shape, table, s))
    if lies == "lanes" and tiled:  # rows of a head's elements are filled up
        return size * _filled(s.sizes["H"])
    if lies == "halves" and tiled:
        return size * _filled(np.asarray(s.sizes["H"]) / 2)
    if lies == "rows" and tiled:
        return size * _filled(_local(shape, table, s)[-1])
    if lies in ("sums", "mask"):  # one number in a row of its own, where there are tiles
        return size * (LANES if tiled else float(lies == "sums"))
    if lies in ("together", "ring"):
        whole = layout.nbytes(shape, table, Setting(s.sizes, dict(s.mesh, tensor=1)))
        # A ring of products: pieces are on their way in and out both ways round, while the result
        # is there and half of it is being made anew.
        return (1.5 * whole + 4 * size if lies == "ring" else whole) * (tensor > 1)
    if lies == "angles":
        fill = _filled(np.asarray(s.sizes["H"]) / 2) if tiled else 1.0
        return size / 2 * fill * (tensor > 1)
    if lies == "added":  # a sum over devices is no sum of parts where these would be narrow
        return size * (np.asarray(s.mesh["fsdp"]) > 4)
    return size * _tiles(_local(shape, table, s)) if tiled and not tokens(shape) else size


def _local(shape, table, s):
    """The sizes of an array's axes on one device."""
    out = []
    for axis, place in zip(shape.axes, layout.places(shape.axes, table, s), strict=True):
        n = np.asarray(elements([axis], s.sizes), float)
        for ways in place.values():
            n = n / ways
        out.append(n)
    return out


def _tiles(sizes):
    """By how much an array grows whose last two axes, whichever fit best, are filled up."""
    if len(sizes) < 2:
        return 1.0
    rows, lines = ([np.ceil(n / to) * to / n for n in sizes] for to in (LANES, LINES))
    best = np.asarray(np.inf)
    for i, j in itertools.permutations(range(len(sizes)), 2):
        best = np.minimum(best, rows[i] * lines[j])
    return best


def _rows(shape, table, s):
    """The bytes of rows on their way to experts and back: those of all devices along `expert`.

    Each token has as many as there are experts here for it to choose.
    """
    table = dict(table, B=tuple(a for a in table["B"] if a != "expert"))
    size = np.asarray(layout.nbytes(shape, table, s))
    if any(a.has("k") and a.has("B") for a in shape.axes):
        k, here = (np.asarray(x, float) for x in (
            s.sizes["k"], s.sizes["E"] / np.asarray(s.mesh["expert"])))
        size = size * np.minimum(k, here) / k
    return size


def _filled(n):
    """By how much rows of n elements grow that are filled up to LANES."""
    n = np.asarray(n, float)
    return np.ceil(n / LANES) * LANES / n
