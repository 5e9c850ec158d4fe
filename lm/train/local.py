"""DiLoCo: workers that train by themselves, and meet every so many steps (Douillard et al. 2023).

A worker is one place along the mesh axis `data`, with its own parameters, moments and rows of the
batch; what it is made of may be sharded over the other axes. Between two meetings no array crosses
`data`: only the sums of the means that are reported do, some bytes a step.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from lm.base.mean import Mean
from lm.train import precision
from lm.train import step as program


class State(NamedTuple):
    """All that training carries from step to step, as `lm.train.step.State`.

    A device holds its part of `params` and of the outer momentum besides its part of a worker.
    """

    step: jax.Array         # steps done, int32
    params: dict            # of the last meeting: what is evaluated
    outer: object           # the outer update rule's momentum, float32
    workers: program.State  # of each: an axis of workers in front of every array, over `data`


def shardings(outer: optax.GradientTransformation, declaration, optimizer, mesh) -> State:
    """Returns how a State lies on the mesh."""
    own = program.shardings(declaration, optimizer, mesh)
    workers = jax.tree.map(lambda s: NamedSharding(mesh, PartitionSpec("data", *s.spec)), own)
    return State(own.step, own.params, program.shardings(declaration, outer, mesh).optimizer,
                 workers)


def abstract(outer: optax.GradientTransformation, declaration, optimizer, mesh) -> State:
    """Returns the State's shapes with their shardings."""
    shapes = jax.eval_shape(lambda own: _spread(outer, mesh, own),
                            program.abstract(declaration, optimizer, mesh))
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
                        shapes, shardings(outer, declaration, optimizer, mesh))


def init(outer: optax.GradientTransformation, declaration, optimizer, key, mesh) -> State:
    """Returns the first State: that of synchronous training, in every worker."""
    return jax.jit(lambda own: _spread(outer, mesh, own),
                   out_shardings=shardings(outer, declaration, optimizer, mesh))(
        program.init(declaration, optimizer, key, mesh))


def _spread(outer, mesh, own):
    workers = jax.tree.map(lambda x: jnp.broadcast_to(x, (mesh.shape["data"], *x.shape)), own)
    return State(own.step, own.params, outer.init(precision.widened(own.params)), workers)


def make(outer: optax.GradientTransformation, every: int, declaration, loss: Callable, optimizer,
         *, key, **choices) -> Callable:
    """Returns step(state, batch) -> (state, means), to be jitted with the state donated.

    Each worker takes a step of `lm.train.step.make(..., **choices)` on its own rows: it clips its
    own gradient, and skips its own bad ones. After every `every` of them, the way from the workers'
    mean parameters back to where they last met is the gradient that the outer rule takes a step on,
    and all go on from there, each with its own moments (algorithm 1). `skipped` is that of the
    worker that has skipped most.
    """
    inner = program.make(declaration, loss, optimizer, key=key, **choices)
    rounding = jax.random.fold_in(key, 2**32 - 1)  # no step's own
    whole = PartitionSpec()
    specs = State(whole, whole, whole, PartitionSpec("data"))

    def meet(params, momentum, own, step):
        wide = precision.widened(params)
        # In float32 whatever is stored: it is the sum over workers that must not round.
        mean = jax.lax.pmean(precision.widened(own), "data")
        updates, momentum = outer.update(jax.tree.map(jnp.subtract, wide, mean), momentum, wide)
        params = precision.narrowed(optax.apply_updates(wide, updates), params,
                                    jax.random.fold_in(rounding, step))
        return params, momentum, params

    def worker(state, batch):
        own, means = inner(jax.tree.map(lambda x: x[0], state.workers), batch)
        params, momentum, start = jax.lax.cond(
            own.step % every == 0, meet, lambda *same: same[:3],
            state.params, state.outer, own.params, own.step)
        workers = jax.tree.map(lambda x: x[None], own._replace(params=start))
        return State(own.step, params, momentum, workers), _summed(means)

    def step(state: State, batch: dict):
        # The other mesh axes are left to the partitioner, as in every other step.
        return jax.shard_map(worker, in_specs=(specs, PartitionSpec("data")),
                             out_specs=(specs, whole), axis_names={"data"},
                             check_vma=False)(state, batch)
    return step


def _summed(means):
    """The workers' means as one, by one message between them."""
    leaves, tree = jax.tree.flatten(means)
    leaves = jnp.stack([jnp.asarray(x, jnp.float32) for x in leaves])
    every = tree.unflatten(list(jax.lax.all_gather(leaves, "data", axis=1)))
    sums = jax.tree.map(jnp.sum, every)
    return dict(sums, skipped=Mean(every["skipped"].total.max(), jnp.ones(())))
