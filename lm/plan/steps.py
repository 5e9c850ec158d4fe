"""An experiment's step on many meshes of one slice at once: what it holds and how long it takes."""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from lm.cost import layout, liveness, network, steptime, work
from lm.cost import memory as held
from lm.cost.constants import platform
from lm.cost.figure import Figure, known, total
from lm.cost.slices import Slice
from lm.experiment.config import Experiment
from lm.mesh.config import AXES
from lm.mesh.config import Config as Mesh
from lm.nn import pipeline
from lm.plan import trace

PEAK = "traced: held when most is held at once, by the compiler's habits"
SOURCES = dict(parameters="declared; lm.mesh.rules.STORAGE", code="seen in reports of libtpu",
               optimizer="the update rule's state, as its parameters lie",
               reserve="the chip's memory less what a program may hold")


class Case(NamedTuple):
    """A step, traced: for one choice of what is computed again, one precision, one optimizer."""

    experiment: Experiment
    schedule: liveness.Schedule
    kernel: bool      # whether a kernel computes the attention
    traced: tuple     # what the program depends on: arguments of `_program`

    @property
    def platform(self) -> str:
        """What it was traced for."""
        return self.traced[1]


def case(e: Experiment, slice: Slice, sharded: bool = True) -> Case:
    """Returns the step of e as a program for the slice's chips.

    sharded: whether its parameters are stored over `fsdp`.
    """
    kind = platform(slice.chip)
    # What the program in letters does not depend on; rates, not programs, differ where units lack.
    same = dataclasses.replace(
        e, run="", seed=0, mesh=Mesh(), data=dataclasses.replace(e.data, B=e.train.accumulate),
        model=dataclasses.replace(e.model, precision_missing="emulate"))
    traced = same, kind, sharded, trace.sizes(e, slice.devices)["p"] > 1
    return Case(e, _schedule(*traced), kind != "cpu", traced)


@functools.lru_cache(64)
def _program(e, platform, sharded, chunked):
    return trace.trace(e, platform, "", sharded, chunked)[0]


@functools.lru_cache(64)
def _schedule(*traced):
    return liveness.schedule(_program(*traced), traced[1] != "cpu")


@functools.lru_cache(64)
def _buffers(chip, *traced):
    return held.plan(_program(*traced), chip)


@functools.lru_cache(64)
def _state(e, platform):
    return trace.state(e, platform, "")


def state(c: Case) -> int:
    """Returns the bytes of parameters and moments, on all devices together."""
    s, p = setting(c, None, [dict.fromkeys(AXES, 1)], [1.0]), c.schedule.program
    return int(sum(layout.nbytes(p.shapes[n], liveness.STORAGE, s).item() for n in p.inputs
                   if not liveness.tokens(p.shapes[n])))


def setting(c: Case, slice: Slice | None, meshes: list[dict[str, int]], rows) -> layout.Setting:
    """Returns sizes and meshes for counting; rows: of a microbatch, one for each mesh."""
    e, rows = c.experiment, np.asarray(rows, float)
    some = np.unique(rows)
    each = [trace.sizes(dataclasses.replace(e, data=dataclasses.replace(e.data, B=int(n)),
                                            train=dataclasses.replace(e.train, accumulate=1)),
                        slice.devices if slice else 1) for n in some]
    at = np.searchsorted(some, rows)
    sizes = {x: np.array([n[x] for n in each])[at] for x in each[0]} | dict(
        B=rows, M=e.data.B / rows)
    mesh = {axis: np.array([m[axis] for m in meshes], float) for axis in AXES}
    return layout.Setting(sizes, mesh)


def ideal(c: Case, slice: Slice, meshes: list[dict[str, int]], rows, *, again: float = 1.0,
          host: float | None = None, across: str = "data") -> dict[str, Figure]:
    """Returns what the parts of the step take at the chip's rates: `lm.cost.steptime.ideal`.

    rows: of a microbatch. again, host: see there; host for each token and layer, in bytes; None:
    what e keeps there.
    """
    s, e = setting(c, slice, meshes, rows), c.experiment
    axes = network.stacked([network.axes(slice, m, across) for m in meshes])
    plans = [plan(e, m, int(n)) for m, n in zip(meshes, np.broadcast_to(rows, len(meshes)),
                                                strict=True)]
    ticks = np.array([float(p.ticks) if p else 1.0 for p in plans])
    w = work.count(c.schedule, s, c.kernel, ticks)
    if np.any(s.mesh["stage"] > 1):
        m = np.array([float(p.M) if p else 1.0 for p in plans])
        size = s.sizes["B"] * e.data.T * e.model.D * 2 / m / (
            s.mesh["data"] * s.mesh["fsdp"] * s.mesh["expert"] * s.mesh["context"])
        w.messages.append(work.Message("stage", "permute", size, 2 * ticks * s.sizes["M"],
                                       "activations"))
    idle = np.array([p.idle if p else 0.0 for p in plans])
    tokens = e.data.B * e.data.T / slice.devices
    cpu = platform(slice.chip) == "cpu"
    if cpu and not e.model.experts_capacity:
        w = _every(w, e.model.E)
    wide = slice.chip.hbm_bandwidth / slice.chip.devices
    if host is None:  # layers' inputs, in 16 bits
        host = 2 * e.model.D if e.model.remat == "offload" else 0
    away = 2 * host * tokens * e.model.L
    if e.train.offload == "optimizer":
        away = away + 2 * sum(held.stored(x, s.mesh) for x in _state(c.traced[0], c.platform)
                              if x.part == "optimizer")
    out = steptime.ideal(
        w, slice.chip, axes, bandwidth=wide, seen=seen(e), H=e.model.H, idle=idle, again=again,
        host=away)
    return out | (dict(attention=_pairs(w, e.model.H, wide)) if cpu else {})


def _every(w, E):
    """The work where every expert multiplies all rows, and its own are picked, as XLA:CPU does."""
    experts = [p for p in w.products if p.experts]
    return w._replace(
        products=[p._replace(times=p.times * E) if p.experts else p for p in w.products],
        moved=w.moved + sum((E * p.bytes * p.times for p in experts), np.zeros(())))


def _pairs(w, H, wide):
    """What attention without a kernel takes beside its products: each makes or reads the pairs."""
    flops = sum((p.flops for p in w.products if "attend" in p.scope.split("/")), np.zeros(()))
    return (known("attention.bytes", 4 * flops / (2 * H), "bytes", steptime.TRACED)
            / known("chip.hbm_bandwidth", wide, "bytes/s")).called("ideal.attention", "s")


def again(c: Case, share: float) -> float:
    """Returns what to multiply the products that c computes again by, so that they are a share.

    share: of the layers' forward products.
    """
    p = work.count(c.schedule, setting(c, None, [dict.fromkeys(AXES, 1)], [1.0]), c.kernel).products
    layers = [x for x in p if not x.attention and not x.last]
    forward = sum(x.flops for x in layers if not x.again and "transpose" not in x.scope)
    repeated = sum(x.flops for x in layers if x.again)
    return (share * forward / repeated).item() if np.any(repeated) else 1.0


def plan(e: Experiment, mesh: dict[str, int], rows: int) -> pipeline.Plan | None:
    """Returns how the layers lie in stages, for microbatches of so many rows; None without."""
    S, c = mesh["stage"], e.model
    if S == 1:
        return None
    own = rows // (mesh["data"] * mesh["fsdp"] * mesh["expert"])
    M = c.microbatches or max((m for m in range(1, 4 * S + 1) if own % m == 0), default=1)
    V = c.repeats if c.schedule == "circular" else 1
    return pipeline.layout(c.L - c.dense_layers, S, V=V, M=M, cycle=len(c.windows))


def seen(e: Experiment) -> float:
    """Returns the share of all pairs of tokens that causal attention computes."""
    T = e.data.T
    share = [(w - w * w / (2 * T)) / T for w in (min(w or T, T) for w in e.model.windows)]
    return float(np.mean(share))


def memory(c: Case, slice: Slice, meshes: list[dict[str, int]], rows) -> dict[str, Figure]:
    """Returns the bytes of a device by category on each mesh, `memory.total`, and `memory.host`.

    The total is what a compiler compares with the chip's memory; `memory.code`, `memory.reserve`
    and the host's are not of it.
    """
    rows, staged = np.asarray(rows, float), np.array([m["stage"] > 1 for m in meshes])
    found: dict[str, np.ndarray] = {}
    for many in (False, True):
        some = np.flatnonzero(staged == many)
        if len(some):
            own = _held(c, slice, [meshes[i] for i in some], rows[some])
            for name, x in own.items():
                found.setdefault(name, np.zeros(len(meshes)))[some] = x
    out = {f"memory.{name}": known(f"memory.{name}", x, "bytes", SOURCES.get(name, PEAK))
           for name, x in found.items()}
    whole = total(out[f"memory.{name}"] for name in held.PARTS)
    return out | {"memory.total": whole.called("memory.total", "bytes", "lm.cost.memory")}


def _held(c, slice, meshes, rows):
    """The bytes by category on meshes that all have stages, or all have none."""
    e, chip, pipe = c.experiment, slice.chip if c.kernel else None, None
    plans = [plan(e, m, int(n)) for m, n in zip(meshes, rows, strict=True)]
    if all(plans):
        early = e.model.schedule == "1f1b"
        pipe = held.Pipe(*(np.array(column, float) for column in zip(*(
            (p.M, p.ticks, early * (2 * p.S - 1)) for p in plans), strict=True)))
    return held.predict(_buffers(chip, *c.traced), setting(c, slice, meshes, rows), chip,
                        _state(c.traced[0], c.platform), pipe, e.train.offload == "optimizer")
