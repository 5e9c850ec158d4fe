"""Rows of tokens through pages, some at a time: what a law compares with the whole forward pass."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from lm.infer.engine import pools as empty
from lm.infer.shape import Shape
from lm.nn import paged
from lm.nn.places import Sizes

PAGE = 4


def logits(declaration, params, config, tokens_BT, turns, *, Q=4, kind="blocks"):
    """Returns the logits of every token, computed in turns; None where no turn computes it.

    turns: of each step, how many tokens each row goes on by. The pages of a row lie anywhere. Q:
    tokens of a block.
    """
    B, T = tokens_BT.shape
    P = -(-T // PAGE)
    tables = np.random.default_rng(0).permutation(B * P).reshape(B, P).tolist()
    shape = Shape(slots=B, context=T, page=PAGE, pages=B * P, budget=B * T, ahead=0, queued=1,
                  queued_tokens=1, kind=kind, rows=B,
                  dtype=jnp.dtype(declaration.precision.compute).name)
    pools = jax.jit(functools.partial(empty, config, shape))()
    most = max(map(sum, turns))

    @functools.partial(jax.jit, static_argnums=4)
    def step(params, pools, tokens_BT, places, Q):
        model = declaration.bind(params)
        x, cache = model(tokens_BT, places.position_T[None],
                         cache=paged.Cache(pools, None, places, Q=Q, kind=kind))
        return model.logits(x)[0], cache.pools

    out, done = np.full((B, T, config.V), np.nan, np.float32), [0] * B
    for turn in turns:
        T = most + 3 if max(turn) > 1 else B   # some tokens that belong to nobody
        sizes = Sizes(T=T, B=B, P=P, Q=Q if max(turn) > 1 else 1, page=PAGE)
        places = sizes.fill([(tables[b], done[b], n) for b, n in enumerate(turn) if n])
        where = [(b, done[b] + i) for b, n in enumerate(turn) for i in range(n)]
        own = np.zeros((1, T), np.int32)
        own[0, :len(where)] = [tokens_BT[at] for at in where]
        found, pools = step(params, pools, own, places, sizes.Q)
        for at, row in zip(where, found, strict=False):
            out[at] = row
        done = [a + n for a, n in zip(done, turn, strict=True)]
    return out
