"""What the verbs put together from an Experiment: model, mesh, feed, cost."""

import contextlib
import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lm.base.errors import UserError
from lm.base.mean import Mean
from lm.cost import chips, conventions, count
from lm.data.batches import Batches, Evaluation
from lm.data.prefetch import prefetch
from lm.experiment.config import Experiment
from lm.mesh import devices, processes, rules, runtime
from lm.mesh.config import AXES
from lm.mesh.config import Config as Mesh
from lm.models.families import FAMILIES
from lm.nn.module import Declaration
from lm.nn.precision import PRECISIONS

CONVENTION = "matmul+causal"


class Model(NamedTuple):
    """A model of a family, declared."""

    config: object
    declaration: Declaration
    loss: Callable            # (model, batch, key) -> objective, means


def model(experiment: Experiment, V: int) -> Model:
    """Returns the experiment's model for a tokenizer of V ids, its -1s filled in."""
    c, T = experiment.model, experiment.data.T
    c = dataclasses.replace(c, V=V if c.V == -1 else c.V, T=T if c.T == -1 else c.T)
    if c.V < V:
        raise UserError(f"model.V = {c.V} is less than the tokenizer's {V} ids; "
                        "set model.V=-1 to take as many")
    if c.positions == "learned" and c.T < T:
        raise UserError(f"data.T = {T} is more than the model's {c.T} learned positions; "
                        "set model.T=-1 or shorten data.T")
    c = dataclasses.replace(c, precision=_precision(c))
    family = FAMILIES[c.family]
    return Model(c, family.build(c), family.loss)


def _precision(c) -> str:
    """The model's precision, or what takes its place where the chips lack the unit for it.

    A CPU counts as having all: it is where every precision is tried.
    """
    unit, kind = PRECISIONS[c.precision].unit, devices.kind()
    chip = chips.chip_of(kind)
    if (not unit or devices.platform() == "cpu" or c.precision_missing == "emulate"
            or (chip and unit in chip.flops)):
        return c.precision
    lacks = (f"model.precision = '{c.precision}' needs {unit} units, which {kind} is not known "
             "to have")
    if c.precision_missing == "refuse":
        raise UserError(f"{lacks}; set model.precision_missing to 'bfloat16', to compute in that "
                        "there, or to 'emulate', to compute the same without")
    print(f"{lacks}: computing in bfloat16")
    return "bfloat16"


@contextlib.contextmanager
def on_mesh(experiment: Experiment, planned: bool = False):
    """Gives the experiment's mesh, in use, over the devices of all processes.

    planned: whether a plan chose the mesh; UserError if it did for another number of devices.
    """
    runtime.settle()
    with processes.joined(experiment.mesh):
        asked = math.prod(getattr(experiment.mesh, axis) for axis in AXES)
        if planned and 0 < asked != (here := len(jax.devices())):
            raise UserError(f"the plan is for {asked} device{'s' * (asked > 1)}, but here "
                            f"{'is' if here == 1 else 'are'} {here}; run it where there are as "
                            "many, or let `lm plan` plan for those that are here")
        with devices.use(devices.make(experiment.mesh)) as mesh:
            yield mesh


def check(c, mesh, B: int = 0, T: int = 0, accumulate: int = 1) -> None:
    """Raises UserError if a model of config c, or a batch [B, T], does not divide over the mesh.

    accumulate: microbatches that the batch is computed in. B = T = 0: no batch is trained on.
    """
    rules.check(dict(B=B, T=T), mesh, accumulate)
    FAMILIES[c.family].check(c, mesh, B // accumulate)


def feed(source: Batches | Evaluation, start: int, ahead: int, mesh) -> Iterator[dict]:
    """Yields batches from step `start` on, on the mesh, made ahead in a thread."""
    def make(step):
        batch = rules.place(functools.partial(source.batch, step), source.B, mesh)
        if not source.packing:  # one document a row: attention needs no mask but the causal one
            del batch["segments_BT"]
        return batch
    return prefetch(make, start, ahead)


def evaluator(m: Model) -> Callable:
    """Returns (params, source, mesh) -> Means over all of an Evaluation."""
    @jax.jit
    def step(params, batch):
        return m.loss(m.declaration.bind(params), batch, None)[1]

    def evaluate(params, source: Evaluation, mesh) -> dict[str, Mean]:
        sums: dict[str, Mean] = {}
        batches = feed(source, 0, 2, mesh)
        for _ in range(len(source)):
            means = step(params, next(batches))
            sums = {k: sums[k] + v if k in sums else v for k, v in means.items()}
        batches.close()
        return sums
    return evaluate


def flops_per_token(m: Model, T: int, mesh) -> float:
    """Returns the training FLOPs per token by `CONVENTION`, whatever the mesh adds to them.

    What multiplies is counted in the traced forward pass; attention, of which the program may
    compute masked parts too, by the convention's own rule.
    """
    alone = devices.make(Mesh(data=1), [mesh.devices.flat[0]])
    return conventions.CONVENTIONS[CONVENTION](**sizes(m, T, alone))


def sizes(m: Model, T: int, alone=None) -> dict:
    """Returns what the conventions of `lm.cost.conventions` are told of a model.

    What multiplies is counted in the traced forward pass. Of experts, `params` are those that one
    token uses. alone: a mesh of one device; by default of a CPU.
    """
    c, d = dataclasses.replace(m.config, attention="dense", remat="none"), m.declaration
    dense = FAMILIES[c.family].build(c)
    shape = jax.ShapeDtypeStruct((1, T), jnp.int32)
    batch = dict.fromkeys(("tokens_BT", "targets_BT", "weights_BT", "positions_BT"), shape)
    alone = alone or devices.make(Mesh(data=1), jax.local_devices(backend="cpu")[:1])
    with devices.use(alone):  # which idles in no stage and gathers nothing
        traced = count.flops(lambda p, b: m.loss(dense.bind(p), b, None), dense.shapes, batch)
    windows = [c.windows[i % len(c.windows)] or None for i in range(c.L)]
    return dict(params=d.active(c.experts_top) if c.E else d.count, embedding=c.V * c.D,
                matmul=(traced.total - traced.under("attend")) / T / 2, L=c.L, N=c.N, H=c.H, T=T,
                D=c.D, V=c.V, window=windows)


def directory(experiment: Experiment) -> pathlib.Path:
    """Returns the run directory."""
    if not experiment.run:
        raise UserError("the run has no directory; give --run=DIR")
    return pathlib.Path(experiment.run).expanduser()
