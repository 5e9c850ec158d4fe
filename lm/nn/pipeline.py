"""Pipeline parallelism: the layers in stages, a batch's parts passing through them in turn.

The stages are an array axis that lies on the mesh axis `stage`; one tick of the loop below is every
stage at work on its own microbatch, after which each hands on what it made (a collective permute).
Everything else in a layer is left to the partitioner, so other axes combine with this one freely.

A batch of M microbatches takes M V + S - 1 ticks through S stages that each hold V groups of
layers: V = 1 is GPipe (Huang et al. 2019), V > 1 circular (Narayanan et al. 2021, interleaved).
`one_forward_one_backward` (Narayanan et al. 2019) computes the gradient too, keeping 2 S - 1 stage
inputs instead of M.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm.base.errors import UserError
from lm.mesh import rules


class Plan(NamedTuple):
    """How L layers lie in stages."""

    L: int        # layers
    S: int        # stages
    V: int        # groups of layers that each stage holds, a round of the pipeline apart
    M: int        # microbatches
    layers: int   # layers of a group; those beyond L do nothing

    @property
    def ticks(self) -> int:
        """Turns of the loop, forward."""
        return self.M * self.V + self.S - 1

    @property
    def idle(self) -> float:
        """The share of the stages' time in which they do no layer's work: the bubble.

        (S-1) / ticks, and more where groups are not full.
        """
        return 1 - self.M * self.L / (self.ticks * self.S * self.layers)


def plan(L: int, S: int, *, V: int, M: int, B: int, cycle: int = 1) -> Plan:
    """Returns the plan for a batch of B rows; UserError if a stage is empty or M cannot be.

    M: 0 takes the most microbatches up to 4 S. cycle: layers after which their kinds repeat.
    """
    rows = B // rules.sharers(rules.STORAGE["B"])
    M = M or max(m for m in range(1, 4 * S + 1) if rows % m == 0)
    if rows == 0 or rows % M:
        raise UserError(f"model.microbatches = {M} does not divide the {rows} rows that each "
                        f"device has of B = {B}; give a divisor, or 0 to have one chosen")
    if V > 1 and M < S:
        raise UserError(f"the circular schedule needs as many microbatches as stages, {S}, and has "
                        f"{M}; raise data.B or set model.schedule='gpipe'")
    return layout(L, S, V=V, M=M, cycle=cycle)


def layout(L: int, S: int, *, V: int, M: int, cycle: int = 1) -> Plan:
    """Returns `plan` for M microbatches, whatever their rows."""
    if L < S * V:
        raise UserError(f"{L} layers do not fill {S} stages" + f" of {V} groups" * (V > 1)
                        + f"; set mesh.stage to at most {max(1, L // V)}")
    layers = -(-L // (S * V))
    return Plan(L, S, V, M, -(-layers // cycle) * cycle)


def arrange(tree, axes, p: Plan):
    """Returns stacked layers [L, ...] as [S, V, layers, ...], each stage's own on its devices.

    axes: a tree of each leaf's letters. Where L is stored over `stage` and every stage has one run
    of layers, nothing moves. Else one exchange of each device's own share: of each layer, D is
    then (or is first) spread over `stage`, and every piece goes to where its layer is at work.
    """
    whole = p.S * p.V * p.layers

    def one(x, letters):
        inner = letters[1:]
        if p.V > 1 or whole != p.L:
            x = rules.shard(x, "." + inner, rules.STORAGE)
        if whole != p.L:
            x = jnp.pad(x, [(0, whole - p.L)] + [(0, 0)] * (x.ndim - 1))
        x = x.reshape(p.V, p.S, p.layers, *x.shape[1:]).swapaxes(0, 1)
        return rules.shard(x, "L.." + inner, rules.STORAGE)

    return jax.tree.map(one, tree, axes)


def pipeline(stage: Callable, weights, x_MBTD, places, p: Plan):
    """Returns (y_MBTD, aux): the microbatches after all layers, and sums over all of them.

    stage: (weights of one group, x_BTD, place, first layer's number) -> (y_BTD, aux). places: what
    belongs to the tokens of each microbatch, a tree of [M, ...].
    """
    S, V, M = p.S, p.V, p.M
    stages = jnp.arange(S)
    work = rules.over_stages(stage)

    def tick(carry, t):
        arriving, parked, sums = carry
        if V > 1:  # what has left the last stage waits for its next round
            parked = parked.at[(t - S) % M].set(arriving[0])
        item = t - stages
        group, micro = jnp.clip(item // M, 0, V - 1), item % M
        entering = jnp.where(t < M, x_MBTD[t % M], parked[t % M]) if V > 1 else (
            x_MBTD[jnp.minimum(t, M - 1)])
        x = _spread(arriving.at[0].set(entering))
        own = jax.tree.map(lambda w: _pick(w, group), weights) if V > 1 else (
            jax.tree.map(lambda w: w[:, 0], weights))
        place = jax.tree.map(lambda a: a[micro], places)
        y, aux = work(own, x, place, (group * S + stages) * p.layers)
        valid = (item >= 0) & (item < M * V)
        sums = jax.tree.map(lambda s, a: s + _masked(valid, a).sum(0), sums, aux)
        return (_spread(jnp.roll(y, 1, 0)), parked, sums), _take(y, -1)

    first = _spread(jnp.zeros((S, *x_MBTD.shape[1:]), x_MBTD.dtype))
    aux = jax.eval_shape(lambda: work(
        jax.tree.map(lambda w: w[:, 0], weights), first,
        jax.tree.map(lambda a: a[stages * 0], places), stages)[1])
    zero = jax.tree.map(lambda a: jnp.zeros(a.shape[1:], a.dtype), aux)
    parked = jnp.zeros_like(x_MBTD) if V > 1 else None
    (_, _, sums), ys = jax.lax.scan(tick, (first, parked, zero), jnp.arange(p.ticks))
    return rules.shard(ys[-M:], ".BTD"), sums


def in_turn(stage: Callable, weights, x_BTD, memory, S: int):
    """Returns (y_BTD, memory): one batch through the stages, for inference (layer parallelism).

    stage: (weights, x, memory, stage's number, whether it is its turn) -> (y, memory). memory: a
    tree of [S, ...], what each stage keeps (a cache) and changes in its turn alone.
    """
    stages = jnp.arange(S)
    weights = jax.tree.map(lambda w: w[:, 0], weights)

    def tick(carry, t):
        x, memory = carry
        y, memory = rules.over_stages(stage)(weights, x, memory, stages, stages == t)
        return (_spread(jnp.roll(y, 1, 0)), memory), None

    x = _spread(jnp.broadcast_to(x_BTD, (S, *x_BTD.shape)))
    (x, memory), _ = jax.lax.scan(tick, (x, memory), jnp.arange(S))
    return x[0], memory


def one_forward_one_backward(stage: Callable, head: Callable, p: Plan):
    """Returns run(weights, rest, x_MBTD, places) -> (objective, means), differentiable.

    stage: (weights, x, place, first layer) -> (y, aux), aux["objective"], if any, a part of the
    objective.
    head: (rest, y_BTD, place) -> (objective, means). The objective is the sum over microbatches, of
    both; only it may be differentiated: its gradient is made on the way, each microbatch's as soon
    as it has passed the last stage.
    """
    def total(weights, rest, x_MBTD, places):
        y_MBTD, aux = pipeline(stage, weights, x_MBTD, places, p)

        def add(sums, one):
            return jax.tree.map(jnp.add, sums, head(rest, *one)), None
        zero = _zeros(jax.eval_shape(
            lambda: head(rest, y_MBTD[0], jax.tree.map(lambda a: a[0], places))))
        (objective, means), _ = jax.lax.scan(add, zero, (y_MBTD, places))
        return objective + aux.get("objective", 0.0), (means, aux)

    run = jax.custom_vjp(total)

    def forward(weights, rest, x_MBTD, places):
        value, means, grads = _gradients(stage, head, weights, rest, x_MBTD, places, p)
        return (value, means), (grads, places)

    def backward(saved, cotangent):
        grads, places = saved
        grads = jax.tree.map(lambda g: (g * cotangent[0]).astype(g.dtype), grads)
        return *grads, jax.tree.map(_no_gradient, places)

    run.defvjp(forward, backward)
    return run


def _gradients(stage, head, weights, rest, x_MBTD, places, p):
    """(objective, means, gradients by weights, rest and x) by three loops over ticks.

    Stage s has microbatch f = t - s in hand forwards and b = t - 2 (S - 1) + s backwards. In the
    first S - 1 ticks nothing goes back yet, in the last S - 1 nothing goes forward any more.
    """
    S, M = p.S, p.M
    slots, stages = 2 * S - 1, jnp.arange(S)
    own = jax.tree.map(lambda w: w[:, 0], weights)
    work = rules.over_stages(stage)

    def of(items):
        return jax.tree.map(lambda a: a[jnp.clip(items, 0, M - 1)], places)

    def ahead(c, t):
        f = t - stages
        valid = (f >= 0) & (f < M)
        x = _spread(c["arriving"].at[0].set(_take(x_MBTD, jnp.minimum(t, M - 1))))
        stash = jax.vmap(lambda s, i, x, ok: s.at[i].set(jnp.where(ok, x, s[i])))(
            c["stash"], f % slots, x, valid)
        y, aux = work(own, x, of(f), stages * p.layers)
        aux = jax.tree.map(lambda s, a: s + _masked(valid, a).sum(0), c["aux"], aux)
        c = dict(c, arriving=_spread(jnp.roll(y, 1, 0)), stash=stash, aux=aux)
        return c, _take(y, -1)

    def back(c, t, dy):
        b = t - 2 * (S - 1) + stages
        valid = (b >= 0) & (b < M)
        dy = _spread(c["returning"] if dy is None else c["returning"].at[-1].set(dy))
        x = jax.vmap(lambda s, i: s[i])(c["stash"], b % slots)
        (_, aux), pull = jax.vjp(lambda w, x: work(w, x, of(b), stages * p.layers), own, x)
        share = {name: jnp.full_like(a, name == "objective") for name, a in aux.items()}
        dw, dx = pull((dy, share))
        grads = jax.tree.map(lambda g, d: g + _masked(valid, d), c["grads"], dw)
        dxs = _put(c["dx"], jnp.clip(b[0], 0, M - 1), dx[0], valid[0])
        return dict(c, returning=_spread(jnp.roll(dx, -1, 0)), grads=grads, dx=dxs)

    def both(c, t):
        c, y = ahead(c, t)
        place = jax.tree.map(lambda a: a[t - (S - 1)], places)
        (value, means), (drest, dy) = jax.value_and_grad(
            lambda rest, y: head(rest, y, place), (0, 1), has_aux=True)(rest, y)
        c = dict(c, drest=jax.tree.map(jnp.add, c["drest"], drest),
                 head=jax.tree.map(jnp.add, c["head"], (value, means)))
        return back(c, t, dy), None

    empty = _spread(jnp.zeros((S, *x_MBTD.shape[1:]), x_MBTD.dtype))
    aux = jax.eval_shape(lambda: work(own, empty, of(stages), stages)[1])
    c = dict(arriving=empty, returning=empty, grads=_zeros(own), drest=_zeros(rest),
             dx=rules.shard(jnp.zeros_like(x_MBTD), ".BTD"),
             aux=jax.tree.map(lambda a: jnp.zeros(a.shape[1:], a.dtype), aux),
             stash=_spread(jnp.zeros((S, slots, *x_MBTD.shape[1:]), x_MBTD.dtype)),
             head=_zeros(jax.eval_shape(lambda: head(rest, x_MBTD[0], of(jnp.array(0))))))
    c, _ = jax.lax.scan(lambda c, t: (ahead(c, t)[0], None), c, jnp.arange(S - 1))
    c, _ = jax.lax.scan(both, c, jnp.arange(S - 1, M + S - 1))
    late = jnp.arange(M + S - 1, M + 2 * (S - 1))
    c, _ = jax.lax.scan(lambda c, t: (back(c, t, None), None), c, late)
    value, means = c["head"]
    grads = jax.tree.map(lambda g: g[:, None], c["grads"])
    return value + c["aux"].get("objective", 0.0), (means, c["aux"]), (grads, c["drest"], c["dx"])


def _spread(x):
    """x [S, ...], each stage's own on its devices."""
    return rules.shard(x, "LBTD" if x.ndim == 4 else "L.BTD")


# Arrays of one microbatch are told where they lie: the partitioner would bring all of its rows, and
# those of their gradients, to every device in every turn.

def _take(x_MBTD, at):
    """One microbatch, or one stage's."""
    return rules.shard(x_MBTD[at], "BTD")


def _put(x_MBTD, at, x_BTD, ok):
    """All microbatches with another in its place, if `ok`."""
    new = jnp.where(ok, rules.shard(x_BTD, "BTD"), _take(x_MBTD, at))
    return rules.shard(x_MBTD.at[at].set(new), ".BTD")


def _pick(w, group):
    """Each stage's own group of its weights."""
    return jax.vmap(lambda w, g: jax.lax.dynamic_index_in_dim(w, g, 0, keepdims=False))(w, group)


def _zeros(tree):
    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), tree)


def _where(ok, a, b):
    return jnp.where(ok.reshape(-1, *[1] * (a.ndim - 1)), a, b)


def _masked(ok, a):
    return _where(ok, a, jnp.zeros((), a.dtype))


def _no_gradient(x):
    if jnp.issubdtype(x.dtype, jnp.inexact):
        return jnp.zeros_like(x)
    return np.zeros(x.shape, jax.dtypes.float0)
