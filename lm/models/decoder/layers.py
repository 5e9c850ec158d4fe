"""The layers of a decoder in turn: in one loop, or in stages of a pipeline."""

from functools import partial

import jax
import jax.numpy as jnp

from lm.mesh import rules
from lm.mesh.devices import platform
from lm.models.decoder.config import Config
from lm.nn import pipeline, remat
from lm.nn.module import axes, compute


def run(c: Config, first, blocks, x_BTD, cache, key, places):
    """Returns (x_BTD, cache, aux) after `first`, a stack of blocks or None, and `blocks`.

    cache: of all layers, or None. key: dropout's, or None. places: what `Block` is told of the
    tokens, a dict of [B, ...] or None. aux: sums over tokens and layers.
    """
    x, after = begin(c, first, x_BTD, cache, key, places)
    cache = jax.tree.map(lambda a: a[c.dense_layers:], cache)
    if rules.ways("stage") == 1:
        x, cache, aux = _loop(c, blocks, x, cache, key, places, c.dense_layers)
    elif cache is not None:
        x, cache = _in_turn(c, blocks, x, cache, key, places)
        aux = {}
    else:
        p = plan(c, x_BTD.shape[0])
        micro = jax.tree.map(lambda a: rules.microbatches(a, p.M), (x, places))
        y_MBTD, aux = pipeline.pipeline(stage(c, key, p), arrange(c, blocks, p), *micro, p)
        x = rules.together(y_MBTD)
    if first is not None and cache is not None:
        cache = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), after, cache)
    return x, cache, aux


def begin(c: Config, first, x_BTD, cache, key, places):
    """Returns (x_BTD, their cache) after the layers that come before those with experts, if any.

    They are in no stage: every stage's devices compute them for the whole batch.
    """
    if first is None:
        return x_BTD, None
    cache = jax.tree.map(lambda a: a[:c.dense_layers], cache)
    return _loop(c, first, x_BTD, cache, key, places, 0)[:2]


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
        x, _, aux = _loop(c, blocks, x, None, key, places, c.dense_layers + first,
                          spare=p.S * p.V * p.layers > p.L)
        return x, aux
    return remat.stage(run, c.remat)


def _in_turn(c, blocks, x_BTD, cache, key, places):
    """The stages one after the other, each with its part of the cache."""
    S = rules.ways("stage")
    p = plan(c, 0)
    weights = arrange(c, blocks, p)
    held = pipeline.arrange(cache, jax.tree.map(lambda _: "LBSKH", cache), p)
    held = jax.tree.map(lambda a: a[:, 0], held)

    def stage(blocks, x, cache, number):
        x, cache, _ = _loop(c, blocks, x, cache, key, places, c.dense_layers + number * p.layers,
                            spare=S * p.layers > p.L)
        return x, cache

    x, held = pipeline.in_turn(stage, weights, x_BTD, held, S)
    return x, jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:p.L], held)


def _loop(c, blocks, x, cache, key, places, first, spare=False):
    """A stack of layers in a loop whose body is one cycle of window sizes.

    first: the number of the stack's first layer. spare: whether numbers from c.L on occur, which do
    nothing.
    """
    def apply(window, x, block, cache, index):
        own = None if key is None else jax.random.fold_in(key, index)
        y, cache, aux = compute(block, x.dtype)(x, cache, own, window=window, **places)
        if spare:
            y = jnp.where(index < c.L, y, x)
            aux = jax.tree.map(lambda a: jnp.where(index < c.L, a, 0), aux)
        return y, cache, aux

    turns = [remat.layer(partial(apply, window), c.remat) for window in c.windows]

    def body(x, xs):
        if len(turns) == 1:
            x, *out = turns[0](x, *xs)
            return x, out
        outs = []
        for i, turn in enumerate(turns):
            x, *out = turn(x, *jax.tree.map(lambda a: a[i], xs))  # noqa: B023
            outs.append(out)
        return x, jax.tree.map(lambda *a: jnp.stack(a), *outs)

    L = jax.tree.leaves(blocks)[0].shape[0]
    xs = (blocks, cache, first + jnp.arange(L))
    cycle = len(turns)
    whole = L // cycle
    if cycle == 1:
        x, (cache, aux) = jax.lax.scan(body, x, xs, unroll=_unroll(c, whole))
        return x, cache, _sums(aux)
    cycles = jax.tree.map(lambda a: a[:whole * cycle].reshape(whole, cycle, *a.shape[1:]), xs)
    x, out = jax.lax.scan(body, x, cycles, unroll=_unroll(c, whole))
    out = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), out)
    rest = []
    for i in range(whole * cycle, L):
        x, *last = turns[i % cycle](x, *jax.tree.map(lambda a: a[i], xs))  # noqa: B023
        rest.append(last)
    cache, aux = jax.tree.map(lambda a, *b: jnp.concatenate([a, jnp.stack(b)]) if b else a,
                              out, *rest)
    return x, cache, _sums(aux)


def _unroll(c, turns: int) -> int:
    """Layers per turn of the loop.

    XLA:CPU copies stacked weights and what the backward pass needs in and out of a loop, and
    runs its body one operation at a time; chips do neither, and compile a loop once.
    """
    asked = c.unroll or (12 if platform() == "cpu" else 1)
    return max(1, min(asked, turns))


def _sums(aux):
    return jax.tree.map(lambda a: a.sum(0), aux)
