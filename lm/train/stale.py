"""Stale gradients: what asynchronous training costs in convergence, step by step and repeatable.

A model of data parallelism with a parameter server and bounded staleness (Ho et al. 2013): a
gradient is computed at the parameters of some updates ago, never of more than `tau`. Worker w of n,
one place along the mesh axis `data`, is always w tau / (n-1) updates behind, rounded: the first is
never late, the last always by tau, and so is a worker alone. What is not modelled: that a
gradient is late by chance, that each is applied by itself, and that nobody waits: a step is as long
as a synchronous one.
"""

from collections import namedtuple
from collections.abc import Callable
from types import SimpleNamespace

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from lm.train import precision
from lm.train import step as program

# `lm.train.step.State`, and what the parameters were before each of the last `tau` updates: an axis
# in front of each, in which those that have seen n updates are at n % tau.
State = namedtuple("State", [*program.State._fields, "past"])


def shardings(tau: int, declaration, optimizer, mesh) -> State:
    """Returns how a State lies on the mesh."""
    now = program.shardings(declaration, optimizer, mesh)
    return State(*now, past=jax.tree.map(
        lambda s: NamedSharding(mesh, PartitionSpec(None, *s.spec)), now.params))


def abstract(tau: int, declaration, optimizer, mesh) -> State:
    """Returns the State's shapes with their shardings."""
    shapes = jax.eval_shape(lambda now: begin(tau, now),
                            program.abstract(declaration, optimizer, mesh))
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
                        shapes, shardings(tau, declaration, optimizer, mesh))


def init(tau: int, declaration, optimizer, key, mesh) -> State:
    """Returns the first State."""
    return jax.jit(lambda now: begin(tau, now),
                   out_shardings=shardings(tau, declaration, optimizer, mesh))(
        program.init(declaration, optimizer, key, mesh))


def begin(tau: int, now: program.State) -> State:
    """Returns the State at the start of training: its past is as its present."""
    return State(*now, past=jax.tree.map(
        lambda x: jnp.broadcast_to(x, (tau, *x.shape)), now.params))


def delay(worker, workers: int, tau: int):
    """Returns how many updates a worker is behind."""
    if workers == 1:
        return worker + tau
    return (2 * worker * tau + workers - 1) // (2 * (workers - 1))


def make(tau: int, declaration, loss: Callable, optimizer, *, key, **choices) -> Callable:
    """Returns step(state, batch) -> (state, means), to be jitted with the state donated.

    It is `lm.train.step.make(..., **choices)` of another objective: each worker's share of it is
    taken where the parameters were, its gradient as if it were that of the parameters now.
    """
    def step(state: State, batch: dict):
        late = _late(tau, declaration, loss, state.past, state.step)
        # Parameters are bound to the model where it is known which ones a worker has.
        bare = SimpleNamespace(bind=lambda *variables: variables)
        now, means = program.make(bare, late, optimizer, key=key, **choices)(
            program.State(*state[:-1]), batch)
        past = jax.tree.map(
            lambda ring, x: jax.lax.dynamic_update_index_in_dim(ring, x, state.step % tau, 0),
            state.past, state.params)
        return State(*now, past=past), means
    return step


def _late(tau, declaration, loss, past, step):
    """The loss of (params, histories), each worker's of its own past's."""
    def worker(zero, now, past, step, histories, key, batch):
        behind = delay(jax.lax.axis_index("data"), jax.lax.axis_size("data"), tau)

        def then(zero, x, ring):
            old = jax.lax.dynamic_index_in_dim(ring, (step - behind) % tau, 0, keepdims=False)
            return jnp.where(behind == 0, x, old) + zero.astype(x.dtype)
        params = jax.tree.map(then, zero, now, past)
        out = loss(declaration.bind(params, *histories), batch, key)
        return jax.tree.map(lambda x: jnp.asarray(x)[None], out)

    def total(variables, batch, key):
        now, *histories = variables
        # A zero that has the parameters' gradient, in float32 since it is summed over workers.
        zero = jax.tree.map(lambda x: x - jax.lax.stop_gradient(x), precision.widened(now))
        now = jax.lax.stop_gradient(now)
        whole = PartitionSpec()
        out = jax.shard_map(worker, in_specs=(*[whole] * 6, PartitionSpec("data")),
                            out_specs=PartitionSpec("data"), axis_names={"data"}, check_vma=False)(
            zero, now, past, step, histories, key, batch)
        return jax.tree.map(lambda x: x.sum(0), out)
    return total
