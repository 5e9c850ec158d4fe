"""Prefill, then one token of every row at a time, through the model's one forward pass."""

import dataclasses
from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from lm.base.errors import UserError
from lm.infer.config import Config
from lm.infer.sample import sample
from lm.mesh.rules import shard
from lm.nn.module import Declaration


@partial(jax.jit, static_argnames=("declaration", "c", "V"), donate_argnames=("cache",))
def _forward(declaration, params, tokens_BT, offset_B, last_B, cache, seed_B, index, c, V):
    """Runs tokens_BT from each row's offset on; returns the token drawn after last_B, the cache."""
    model = declaration.bind(params)
    positions_BT = offset_B[:, None] + jnp.arange(tokens_BT.shape[1])
    x_BTD, cache = model(tokens_BT, positions_BT, cache=cache, offset_B=offset_B)
    x_B1D = jnp.take_along_axis(x_BTD, last_B[:, None, None], axis=1)
    token_B = sample(model.logits(x_B1D)[:, 0, :V], seed_B, index, c)
    return shard(token_B, "B", dict(B=())), cache  # whole: each process reads all of it


def generate(declaration: Declaration, params: dict, new_cache, prompts: list[list[int]],
             c: Config, *, context: int, eos: int | None = None,
             V: int | None = None) -> Iterator[list[int | None]]:
    """Yields the next token of every row, None for rows that have ended; prompts: a row each.

    new_cache: (rows, slots) -> an empty cache. context: slots of a row. A row that has outgrown
    its context goes on from the last half of it. Row i draws with seed c.seed + i. V: ids that the
    tokenizer has, where the model's vocabulary was padded to more.
    """
    if not prompts or not all(prompts):
        raise UserError("the prompt is empty and the tokenizer has no end token to start from; "
                        "give --prompt")
    rows = [list(p) for p in prompts]
    seed_B = jnp.asarray([(c.seed + i) % 2**32 for i in range(len(rows))], jnp.uint32)
    # What is compiled in is the filters; other prompts and seeds use the same program.
    c, limit = dataclasses.replace(c, prompt="", seed=0, max_tokens=1, num_samples=1), c.max_tokens
    slots = min(context, _round_up(max(map(len, rows)) + limit))
    ended = [False] * len(rows)
    token_B = cache = offset_B = None
    for index in range(limit):
        full = offset_B is not None and offset_B.max() >= slots
        if cache is None or full:
            token_B, cache, offset_B = _prefill(declaration, params, new_cache, rows, slots,
                                                seed_B, index, c, V)
        else:
            token_B, cache = _forward(declaration, params, token_B[:, None], offset_B,
                                      np.zeros_like(offset_B), cache, seed_B, index, c, V)
            offset_B = offset_B + 1
        out = []
        for i, token in enumerate(np.asarray(token_B).tolist()):
            rows[i].append(token)
            ended[i] |= token == eos
            out.append(None if ended[i] else token)
        if all(ended):
            return
        yield out


def _prefill(declaration, params, new_cache, rows, slots, seed_B, index, c, V):
    """Runs what each row holds into an empty cache; rows too long for it keep their last half."""
    for row in rows:
        if len(row) > slots:  # a row that just fits is left to the step at which it is full alone
            del row[:len(row) - max(slots // 2, 1)]
    length_B = np.asarray([len(row) for row in rows], np.int32)
    tokens_BT = np.zeros((len(rows), min(slots, _round_up(length_B.max()))), np.int32)
    for i, row in enumerate(rows):
        tokens_BT[i, :len(row)] = row
    token_B, cache = _forward(declaration, params, tokens_BT, np.zeros_like(length_B),
                              length_B - 1, new_cache(len(rows), slots), seed_B, index, c, V)
    return token_B, cache, length_B


def _round_up(n: int) -> int:
    """The next power of two, 16 at least: few shapes, so few compilations."""
    return max(16, 1 << (int(n) - 1).bit_length())
