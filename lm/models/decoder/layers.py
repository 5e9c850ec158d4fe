"""The layers of a decoder in turn: in one loop, or in stages of a pipeline."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp

from lm.mesh import rules
from lm.mesh.devices import platform
from lm.models.decoder.config import Config
from lm.nn import pipeline, remat
from lm.nn.module import axes, compute, layer
from lm.nn.paged import Cache


def run(c: Config, first, blocks, x_BTD, key, places):
    """Returns (x_BTD, aux) after `first`, a stack of blocks or None, and `blocks`.

    key: dropout's, or None. places: what `Block` is told of the tokens, a dict of [B, ...] or None.
    aux: sums over tokens and layers.
    """
    x = begin(c, first, x_BTD, key, places)
    if rules.ways("stage") == 1:
        return _loop(c, blocks, x, key, places, c.dense_layers)
    p = plan(c, x_BTD.shape[0])
    micro = jax.tree.map(lambda a: rules.microbatches(a, p.M), (x, places))
    y_MBTD, aux = pipeline.pipeline(stage(c, key, p), arrange(c, blocks, p), *micro, p)
    return rules.together(y_MBTD), aux


def begin(c: Config, first, x_BTD, key, places):
    """Returns x_BTD after the layers that come before those with experts, if any.

    They are in no stage: every stage's devices compute them for the whole batch.
    """
    return x_BTD if first is None else _loop(c, first, x_BTD, key, places, 0)[0]


def paged(c: Config, first, blocks, x_BTD, cache: Cache, places):
    """Returns (x_BTD, cache) after all layers, for B = 1 row of a step's tokens.

    In stages the pools are stacks of each stage's, and no layers stand before them.
    """
    x = x_BTD
    if first is not None:
        x, cache = _carry(c, first, x, cache, places, 0, c.dense_layers)
    if rules.ways("stage") == 1:
        return _carry(c, blocks, x, cache, places, c.dense_layers, c.L)
    p = plan(c, 0)

    def stage(blocks, x, pools, number, active):
        first = c.dense_layers + number * p.layers
        own = replace(cache, pools=pools, first=first, active=active)
        x, own = _carry(c, blocks, x, own, places, first, c.L, held=p.layers)
        return x, own.pools
    x, pools = pipeline.in_turn(stage, arrange(c, blocks, p), x, cache.pools, p.S)
    return x, replace(cache, pools=pools)


def plan(c: Config, B: int) -> pipeline.Plan:
    """Returns how the layers lie on the mesh in use, for batches of B rows; 0: one at a time."""
    S, L, cycle = rules.ways("stage"), c.L - c.dense_layers, len(c.windows)
    if not B:
        return pipeline.layout(L, S, V=1, M=1, cycle=cycle)
    V = c.repeats if c.schedule == "circular" else 1
    return pipeline.plan(L, S, V=V, M=c.microbatches, B=B, cycle=cycle)


def arrange(c: Config, blocks, p: pipeline.Plan):
    """Returns `blocks` as `pipeline.arrange` lays them."""
    return pipeline.arrange(blocks, axes(blocks), p)


def stage(c: Config, key, p: pipeline.Plan):
    """Returns the function of one group of layers, as `lm.nn.pipeline` calls it."""
    def run(blocks, x, places, first):
        return _loop(c, blocks, x, key, places, c.dense_layers + first,
                     spare=p.S * p.V * p.layers > p.L)
    return remat.stage(run, c.remat)


def _carry(c, blocks, x, cache, places, first, end, held=0):
    """(x, cache) after a stack of blocks, layers `first` to `end`, through which both are carried.

    The cache is changed in place, and each layer's weights are read where they lie. held: layers of
    the stack where some may be past the end, which do nothing.
    """
    cycle = len(c.windows)

    def turn(i, window, x, pools):
        own = replace(cache, pools=pools, layer=first + i)
        if held:
            own = replace(own, active=cache.active & (first + i < end))
        block = compute(layer(blocks, i), x.dtype)
        y, own, _ = block(x, own, None, window=window, **places)
        return jnp.where(first + i < end, y, x) if held else y, own.pools

    def cycles(k, carry):
        for j, window in enumerate(c.windows):
            carry = turn(k * cycle + j, window, *carry)
        return carry

    L = held or end - first
    carry, whole = (x, cache.pools), L // cycle
    if platform() == "cpu":  # see `_unroll`
        for k in range(whole):
            carry = cycles(k, carry)
    else:
        carry = jax.lax.fori_loop(0, whole, cycles, carry)
    for i in range(whole * cycle, L):
        carry = turn(i, c.windows[i % cycle], *carry)
    x, pools = carry
    return x, replace(cache, pools=pools)


def _loop(c, blocks, x, key, places, first, spare=False):
    """A stack of layers in a loop whose body is one cycle of window sizes.

    first: the number of the stack's first layer. spare: whether numbers from c.L on occur, which do
    nothing.
    """
    def apply(window, x, block, index):
        own = None if key is None else jax.random.fold_in(key, index)
        y, _, aux = compute(block, x.dtype)(x, None, own, window=window, **places)
        if spare:
            y = jnp.where(index < c.L, y, x)
            aux = jax.tree.map(lambda a: jnp.where(index < c.L, a, 0), aux)
        return y, aux

    turns = [remat.layer(partial(apply, window), c.remat) for window in c.windows]

    def body(x, xs):
        if len(turns) == 1:
            return turns[0](x, *xs)
        outs = []
        for i, turn in enumerate(turns):
            x, out = turn(x, *jax.tree.map(lambda a: a[i], xs))  # noqa: B023
            outs.append(out)
        return x, jax.tree.map(lambda *a: jnp.stack(a), *outs)

    L = jax.tree.leaves(blocks)[0].shape[0]
    xs = (blocks, first + jnp.arange(L))
    cycle = len(turns)
    whole = L // cycle
    if cycle == 1:
        x, aux = jax.lax.scan(body, x, xs, unroll=_unroll(c, whole))
        return x, _sums(aux)
    cycles = jax.tree.map(lambda a: a[:whole * cycle].reshape(whole, cycle, *a.shape[1:]), xs)
    x, out = jax.lax.scan(body, x, cycles, unroll=_unroll(c, whole))
    out = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), out)
    rest = []
    for i in range(whole * cycle, L):
        x, last = turns[i % cycle](x, *jax.tree.map(lambda a: a[i], xs))  # noqa: B023
        rest.append(last)
    aux = jax.tree.map(lambda a, *b: jnp.concatenate([a, jnp.stack(b)]) if b else a, out, *rest)
    return x, _sums(aux)


def _unroll(c, turns: int) -> int:
    """Layers per turn of the loop.

    XLA:CPU copies stacked weights and what the backward pass needs in and out of a loop, and
    runs its body one operation at a time; chips do neither, and compile a loop once.
    """
    asked = c.unroll or (12 if platform() == "cpu" else 1)
    return max(1, min(asked, turns))


def _sums(aux):
    return jax.tree.map(lambda a: a.sum(0), aux)
