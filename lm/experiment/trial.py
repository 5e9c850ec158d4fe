"""A few training steps of an experiment on one mesh, and what is seen of them."""

import contextlib
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lm.cost import compiled, count
from lm.experiment import parts, tiny
from lm.experiment.config import Experiment
from lm.mesh import devices, rules
from lm.mesh.config import Config as Mesh
from lm.models.decoder import layers
from lm.train import method, optimizers, schedules
from lm.train import step as program


class Trial(NamedTuple):
    """What came of it; trees hold arrays of numpy."""

    program: compiled.Compiled
    first: program.State    # before
    last: program.State     # after
    losses: list[float]     # of each step
    gradients: list[dict]   # of each step


def run(e: Experiment, mesh, steps: int, first: program.State | None = None) -> Trial:
    """Trains `steps` steps on the mesh, which is in use, on random tokens.

    first: the state to begin with, of numpy; by default that of the seed.
    """
    m = parts.model(e, tiny.V if e.model.V == -1 else e.model.V)
    batches = tiny.text(e, m.config.V, steps)
    optimizer, step, _ = assemble(e, m, steps, mesh, kept)
    where = program.shardings(m.declaration, optimizer, mesh)
    losses, gradients = [], []
    with compiled.uncached(), contextlib.closing(parts.feed(batches, 0, 0, mesh)) as feed:
        if first is None:
            first = jax.device_get(program.init(m.declaration, optimizer, jax.random.key(e.seed),
                                                mesh))
        state, batch = jax.device_put(first, where), next(feed)
        made = compiled.compile(step.lower(state, batch))
        for number in range(steps):
            state, means = made.run(state, batch if number == 0 else next(feed))
            losses.append(float(jax.device_get(means)["loss"].value))
            gradients.append(jax.device_get(state.optimizer[1]))
    return Trial(made, first, jax.device_get(state), losses, gradients)


def assemble(e: Experiment, m: parts.Model, steps: int, mesh, around=lambda optimizer: optimizer):
    """Returns (update rule, step, template of its state) of a run of `steps` steps.

    The update rule has been given to `around`, the step is jitted.
    """
    c = e.train

    def rate(peak):
        return schedules.make(c.schedule, peak, steps=steps, warmup=0, final=c.final,
                              decay=max(1, steps // 5), cycles=c.cycles)
    optimizer = around(optimizers.make(c, m.declaration, rate(c.lr), rate(c.hidden_lr)))
    how = method.choose(c, mesh, steps)
    step = how.make(m.declaration, m.loss, optimizer, key=jax.random.key(e.seed),
                    accumulate=c.accumulate, clip=c.clip, dropout=m.config.dropout,
                    loss_scale_every=c.loss_scale_every)
    template = how.abstract(m.declaration, optimizer, mesh)
    return optimizer, program.compiled(step, template), template


def kept(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns the update rule with a state (its own, the gradient that it was given last)."""
    def init(params):
        return optimizer.init(params), jax.tree.map(jnp.zeros_like, params)

    def update(grads, state, params=None):
        updates, own = optimizer.update(grads, state[0], params)
        return updates, (own, grads)
    return optax.GradientTransformation(init, update)


class Differences(NamedTuple):
    """How far two trials are apart, relative to the second."""

    loss: float       # the largest of any step
    gradient: float   # the largest of any element, to the largest of its array, of any step
    weights: float    # of the change of all weights over all steps, root mean square


def differences(got: Trial, one: Trial) -> Differences:
    """Returns how far `got` is from `one`; not finite is infinitely far.

    An array of gradients that are less than a thousandth of the largest of all is taken relative
    to that thousandth: it may be zero but for rounding.
    """
    loss = [abs(a - b) / abs(b) for a, b in zip(got.losses, one.losses, strict=True)]
    gradient = []
    for tree, other in zip(got.gradients, one.gradients, strict=True):
        pairs = list(zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True))
        largest = [np.abs(b).max() for _, b in pairs]
        gradient += [np.abs(a - b).max() / max(size, 1e-3 * max(largest), 1e-30)
                     for (a, b), size in zip(pairs, largest, strict=True)]
    apart = [(_wide(a) - _wide(b), _wide(b) - _wide(c)) for a, b, c in zip(
        *(jax.tree.leaves(state.params) for state in (got.last, one.last, one.first)),
        strict=True)]
    weights = (sum((a ** 2).sum() for a, _ in apart) / sum((b ** 2).sum() for _, b in apart)) ** 0.5
    found = np.max(loss), np.max(gradient), weights  # not Python's max, which may pass over NaN
    return Differences(*(float(x) if np.isfinite(x) else np.inf for x in found))


def _wide(x):
    return np.asarray(x, np.float64)


def bubble(e: Experiment, mesh) -> tuple[float, float]:
    """Returns the share of its stages' time that a pipeline idles: as planned, and as counted.

    Counted in the traced forward pass: what the stages multiply, of which the layers' own products
    are the useful part.
    """
    m = parts.model(e, tiny.V if e.model.V == -1 else e.model.V)
    with devices.use(mesh):
        plan = layers.plan(m.config, e.data.B // e.train.accumulate)

    def forward(S, L):
        c = dataclasses.replace(m.config, L=L, microbatches=plan.M)
        own = parts.model(dataclasses.replace(e, model=c), 1)
        alone = devices.make(Mesh(data=1, stage=S), list(mesh.devices.flat)[:S])
        with devices.use(alone):
            batch = abstract(e, alone)
            return count.flops(lambda params, batch: own.loss(own.declaration.bind(params), batch),
                               own.declaration.shapes, batch).total

    L = m.config.L
    once = forward(1, L)
    useful = forward(1, L + plan.L) - once
    return plan.idle, 1 - useful / (forward(plan.S, L) - (once - useful))


def abstract(e: Experiment, mesh) -> dict:
    """Returns the shapes of the experiment's batches, each with how it lies on the mesh."""
    B, T = e.data.B, e.data.T
    row = tiny.text(dataclasses.replace(e, data=dataclasses.replace(e.data, B=1)), 2, 1).batch(0)
    if not e.data.packing:
        del row["segments_BT"]
    formats = {name: x.dtype for name, x in row.items()} | dict(index_BT=np.dtype(np.int32))
    where = rules.sharding(mesh, "BT", (B, T))
    return {name: jax.ShapeDtypeStruct((B, T), dtype, sharding=where)
            for name, dtype in formats.items()}
