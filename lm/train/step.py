"""One training step as one program: microbatches, gradient, clipping, update, skipping."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lm.base.mean import Mean
from lm.mesh.rules import microbatches, sharding
from lm.nn.module import Declaration
from lm.train import precision
from lm.train.optimizers import Offloaded


class State(NamedTuple):
    """All that training carries from step to step; the data and the keys follow from `step`."""

    step: jax.Array      # steps done, int32
    params: dict         # in the format that the model's precision stores them in
    optimizer: object    # the update rule's moments, float32
    skipped: jax.Array   # non-finite steps in a row until now, int32
    scaling: dict = {}   # see `lm.train.precision`


def shardings(declaration: Declaration, optimizer: optax.GradientTransformation, mesh) -> State:
    """Returns how a State lies on the mesh: every moment as its parameter, the rest everywhere.

    Moments of an `Offloaded` optimizer lie in the memory of the host.
    """
    params = declaration.shardings(mesh)
    memory = "pinned_host" if isinstance(optimizer, Offloaded) else None
    whole = sharding(mesh, "", ())
    named = jax.tree_util.tree_leaves_with_path(params)
    shapes = jax.tree.leaves(declaration.shapes)
    known = {jax.tree_util.keystr(path): (s, x.shape)
             for (path, s), x in zip(named, shapes, strict=True)}

    def of(path, leaf):
        for start in range(len(path)):  # a moment's path ends in its parameter's
            found = known.get(jax.tree_util.keystr(path[start:]))
            if found and found[1] == leaf.shape:
                return found[0].with_memory_kind(memory) if memory else found[0]
        return whole

    first = _shapes(declaration, optimizer)
    moments = jax.tree.map_with_path(of, first.optimizer)
    return State(whole, params, moments, whole, jax.tree.map(lambda _: whole, first.scaling))


def abstract(declaration: Declaration, optimizer: optax.GradientTransformation, mesh) -> State:
    """Returns the State's shapes with their shardings: a template to compile for, restore into."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
                        _shapes(declaration, optimizer), shardings(declaration, optimizer, mesh))


def init(declaration: Declaration, optimizer: optax.GradientTransformation, key, mesh) -> State:
    """Returns the first State, each array made where it is stored."""
    return jax.jit(partial(_first, declaration, optimizer),
                   out_shardings=shardings(declaration, optimizer, mesh))(key)


def _first(declaration, optimizer, key):
    params = declaration.init(key)
    zero = jnp.zeros((), jnp.int32)
    moments = optimizer.init(precision.widened(params))
    return State(zero, params, moments, zero, precision.first(declaration))


def _shapes(declaration, optimizer):
    return jax.eval_shape(lambda: _first(declaration, optimizer, jax.random.key(0)))


def make(declaration: Declaration, loss: Callable, optimizer: optax.GradientTransformation, *,
         key, accumulate: int = 1, clip: float = 0.0, dropout: bool = False,
         loss_scale_every: int = 2000) -> Callable:
    """Returns step(state, batch) -> (state, means), to be jitted with the state donated.

    loss: (model, batch, key) -> (objective Mean, reported Means). key: dropout's key of step i is
    its i-th fold, so a resumed run draws the same. The objective and its gradient are weighted by
    what each microbatch counted, so the number of microbatches does not change them. A step whose
    loss or gradient is not finite changes nothing but `skipped` and halves a loss scale, which
    doubles after `loss_scale_every` finite ones. While only the scale may be to blame, the step is
    not counted in `skipped`, but in the mean `overflowed`.
    """
    gradient = _gradient(declaration, loss)
    if accumulate > 1:
        gradient = partial(_accumulated, gradient, accumulate)

    def step(state: State, batch: dict):
        own = jax.random.fold_in(key, state.step)
        scale, largest = state.scaling.get("loss"), state.scaling.get("largest")
        grads, messages, objective, means = gradient(
            (state.params, largest), scale, batch, own if dropout else None)
        count = jnp.maximum(objective.count, 1)
        norm = optax.tree.norm(grads) / count
        factor = 1 / count
        if clip:
            factor = factor * jnp.minimum(1.0, clip / jnp.maximum(norm, 1e-12))
        grads = jax.tree.map(lambda g: g * factor, grads)
        finite = jnp.isfinite(objective.total) & jnp.isfinite(norm)
        for message in jax.tree.leaves(messages):
            finite &= jnp.isfinite(message).all()
        wide, before = precision.widened(state.params), state.optimizer
        if isinstance(optimizer, Offloaded):
            before = jax.device_put(before, jax.memory.Space.Device)
        updates, moments = optimizer.update(grads, before, wide)
        params = precision.narrowed(optax.apply_updates(wide, updates), state.params, own)
        # Not a branch: both sides are at hand, and a branch would stop the compiler from fusing.
        params, moments = jax.tree.map(lambda new, old: jnp.where(finite, new, old),
                                       (params, moments), (state.params, before))
        one = jnp.ones((), jnp.float32)
        means = dict(means, gradient_norm=Mean(norm, one))
        skipped = state.skipped + 1
        if scale is not None:
            overflowed = ~finite & jnp.isfinite(objective.total) & (scale > 1)
            skipped = jnp.where(overflowed, state.skipped, skipped)
            means.update(loss_scale=Mean(scale, one),
                         overflowed=Mean(overflowed.astype(jnp.float32), one))
        skipped = jnp.where(finite, 0, skipped)
        means["skipped"] = Mean(skipped.astype(jnp.float32), one)
        scaling = precision.after(state.scaling, messages, finite, loss_scale_every)
        return State(state.step + 1, params, moments, skipped, scaling), means

    return step


def _gradient(declaration, loss):
    """(parameters and histories, loss scale, batch, key) -> sums over the batch, float32: the
    gradient, the histories' messages, the objective, the reported Means."""
    def total(variables, scale, batch, key):
        objective, means = loss(declaration.bind(*variables), batch, key)
        # The mean is scaled, not the sum, so that the scale that fits does not depend on the batch.
        scale = 1.0 if scale is None else scale / jnp.maximum(objective.count, 1)
        return objective.total * scale, (objective, means, scale)

    def gradient(variables, scale, batch, key):
        (_, (objective, means, scale)), (grads, messages) = jax.value_and_grad(
            total, has_aux=True)(variables, scale, batch, key)
        grads = jax.tree.map(lambda g: g.astype(jnp.float32) / scale, grads)
        return grads, messages, objective, means

    return gradient


def _accumulated(gradient, parts, variables, scale, batch, key):
    """What `gradient` returns, summed over `parts` microbatches, one after the other."""
    micros = jax.tree.map(lambda x: microbatches(x, parts), batch)

    def one(micro):
        return gradient(variables, scale, micro, key)

    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype),
                        jax.eval_shape(one, jax.tree.map(lambda x: x[0], micros)))
    return jax.lax.scan(lambda sums, micro: (jax.tree.map(jnp.add, sums, one(micro)), None),
                        zero, micros)[0]


def compiled(step: Callable, template=None):
    """Returns `step` jitted; the state that it is given is overwritten.

    template: as `abstract` gives it; the state keeps its shardings. Without one the compiler may
    choose others.
    """
    stored = jax.tree.map(lambda x: x.sharding, template)
    return jax.jit(step, donate_argnums=0, out_shardings=template and (stored, None))
