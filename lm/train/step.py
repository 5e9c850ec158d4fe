"""One training step as one program: microbatches, gradient, clipping, update, skipping."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lm.base.mean import Mean
from lm.mesh.rules import shard, sharding
from lm.nn.module import Declaration


class State(NamedTuple):
    """All that training carries from step to step; the data and the keys follow from `step`."""

    step: jax.Array      # steps done, int32
    params: dict         # float32
    optimizer: object    # the update rule's moments
    skipped: jax.Array   # non-finite steps in a row until now, int32


def shardings(declaration: Declaration, optimizer: optax.GradientTransformation, mesh) -> State:
    """Returns how a State lies on the mesh: every moment as its parameter, the rest everywhere."""
    params = declaration.shardings(mesh)
    whole = sharding(mesh, "", ())
    named = jax.tree_util.tree_leaves_with_path(params)
    shapes = jax.tree.leaves(declaration.shapes)
    known = {jax.tree_util.keystr(path): (s, x.shape)
             for (path, s), x in zip(named, shapes, strict=True)}

    def of(path, leaf):
        for start in range(len(path)):  # a moment's path ends in its parameter's
            found = known.get(jax.tree_util.keystr(path[start:]))
            if found and found[1] == leaf.shape:
                return found[0]
        return whole

    moments = jax.tree.map_with_path(of, jax.eval_shape(optimizer.init, declaration.shapes))
    return State(whole, params, moments, whole)


def abstract(declaration: Declaration, optimizer: optax.GradientTransformation, mesh) -> State:
    """Returns the State's shapes with their shardings: a template to compile for, restore into."""
    scalar = jax.ShapeDtypeStruct((), jnp.int32)
    moments = jax.eval_shape(optimizer.init, declaration.shapes)
    shapes = State(scalar, declaration.shapes, moments, scalar)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
                        shapes, shardings(declaration, optimizer, mesh))


def init(declaration: Declaration, optimizer: optax.GradientTransformation, key, mesh) -> State:
    """Returns the first State, each array made where it is stored."""
    def make(key):
        params = declaration.init(key)
        zero = jnp.zeros((), jnp.int32)
        return State(zero, params, optimizer.init(params), zero)
    return jax.jit(make, out_shardings=shardings(declaration, optimizer, mesh))(key)


def make(declaration: Declaration, loss: Callable, optimizer: optax.GradientTransformation, *,
         key, accumulate: int = 1, clip: float = 0.0, dropout: bool = False) -> Callable:
    """Returns step(state, batch) -> (state, means), to be jitted with the state donated.

    loss: (model, batch, key) -> (objective Mean, reported Means). key: dropout's key of step i is
    its i-th fold, so a resumed run draws the same. The objective and its gradient are weighted by
    what each microbatch counted, so the number of microbatches does not change them. A step whose
    loss or gradient is not finite changes nothing but `skipped`.
    """
    def total(params, batch, key):
        objective, means = loss(declaration.bind(params), batch, key)
        return objective.total, (objective.count, means)

    def gradient(params, batch, key):
        (value, (count, means)), grads = jax.value_and_grad(total, has_aux=True)(params, batch, key)
        return grads, Mean(value, count), means

    def step(state: State, batch: dict):
        own = jax.random.fold_in(key, state.step) if dropout else None
        if accumulate == 1:
            grads, objective, means = gradient(state.params, batch, own)
        else:
            grads, objective, means = _accumulated(gradient, state.params, batch, own, accumulate)
        count = jnp.maximum(objective.count, 1)
        norm = optax.tree.norm(grads) / count
        scale = 1 / count
        if clip:
            scale = scale * jnp.minimum(1.0, clip / jnp.maximum(norm, 1e-12))
        grads = jax.tree.map(lambda g: g * scale, grads)
        finite = jnp.isfinite(objective.total) & jnp.isfinite(norm)
        updates, moments = optimizer.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        # Not a branch: both sides are at hand, and a branch would stop the compiler from fusing.
        params, moments = jax.tree.map(lambda new, old: jnp.where(finite, new, old),
                                       (params, moments), (state.params, state.optimizer))
        skipped = jnp.where(finite, 0, state.skipped + 1)
        one = jnp.ones((), jnp.float32)
        means = dict(means, gradient_norm=Mean(norm, one),
                     skipped=Mean(skipped.astype(jnp.float32), one))
        return State(state.step + 1, params, moments, skipped), means

    return step


def _accumulated(gradient, params, batch, key, parts):
    """Sums over `parts` microbatches, one after the other.

    Microbatch i takes rows i, i + parts, ...: each device keeps its own rows.
    """
    def split(x):
        x = x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)
        return jax.vmap(lambda row: shard(row, "BT"))(x)

    def body(sums, xs):
        index, micro = xs
        own = None if key is None else jax.random.fold_in(key, index)
        return jax.tree.map(jnp.add, sums, gradient(params, micro, own)), None

    micros = jax.tree.map(split, batch)
    first = jax.tree.map(lambda x: x[0], micros)
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype),
                        jax.eval_shape(gradient, params, first, key))
    return jax.lax.scan(body, zero, (jnp.arange(parts), micros))[0]


def compiled(step: Callable):
    """Returns `step` jitted; the state that it is given is overwritten."""
    return jax.jit(step, donate_argnums=0)
