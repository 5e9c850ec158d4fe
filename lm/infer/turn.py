"""A step as arrays: what goes to the device in one piece, and is taken apart there.

Everything is 32 bits wide and lies in one vector, so that a step costs one transfer, and a process
that follows another needs nothing but these bytes. R counts the tokens that are sampled.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm.infer.request import BIASES, Sampling
from lm.infer.sample import Extras, Rows
from lm.infer.shape import Shape
from lm.infer.steps import Step
from lm.nn.places import Places


class Turn(NamedTuple):
    """A step's tokens, where they belong, and which of them are sampled."""

    token_T: np.ndarray      # -1: the one that the table has at its place
    slot_T: np.ndarray       # past the end: none
    pick_R: np.ndarray       # index in T of what is sampled
    places: Places


class Draw(NamedTuple):
    """How the rows that a step samples are drawn."""

    slot_R: np.ndarray       # past the end: none
    position_R: np.ndarray   # of what is sampled; the token drawn is the next one's
    named: np.ndarray        # [1]: whether logprobs are asked for
    rows: Rows


def turn_shapes(shape: Shape, T: int) -> Turn:
    """Returns (shape, dtype) of every array of a turn of T tokens."""
    s, i = shape.places(T), np.int32
    places = Places(*(((n,) if isinstance(n, int) else n, i) for n in (
        s.T, s.T, s.T, (s.B, s.P), s.B, s.B + 1, 1, s.M, s.M, s.M, s.T, s.T)))
    return Turn(((T,), i), ((T,), i), ((shape.picked(T),), i), places)


def draw_shapes(R: int) -> Draw:
    """Returns (shape, dtype) of every array of how R rows are drawn."""
    i, f, u = np.int32, np.float32, np.uint32
    rows = Rows(((R,), u), ((R,), i), ((R,), f), ((R,), i), ((R,), f), ((R,), f))
    return Draw(((R,), i), ((R,), i), ((1,), i), rows)


def extras_shapes(R: int, V: int) -> Extras:
    """Returns (shape, dtype) of every array of what else R rows ask for."""
    i, f = np.int32, np.float32
    return Extras(((R,), f), ((R,), f), ((R,), f), ((R,), i), ((R, BIASES), i), ((R, BIASES), f),
                  ((R, -(-V // 32)), np.uint32))


def _leaf(x):
    return isinstance(x, tuple) and len(x) == 2 and isinstance(x[0], tuple)


def size(shapes) -> int:
    """Returns the number of 32-bit words of such arrays."""
    return sum(math.prod(s) for s, _ in jax.tree.leaves(shapes, is_leaf=_leaf))


def views(flat: np.ndarray, shapes):
    """Returns arrays of these shapes that are parts of a vector of 32-bit words."""
    leaves, tree = jax.tree.flatten(shapes, is_leaf=_leaf)
    at, out = 0, []
    for s, dtype in leaves:
        n = math.prod(s)
        out.append(flat[at:at + n].view(dtype).reshape(s))
        at += n
    return jax.tree.unflatten(tree, out)


def apart(flat: jax.Array, shapes):
    """Returns the arrays of `views` on the device."""
    leaves, tree = jax.tree.flatten(shapes, is_leaf=_leaf)
    at, out = 0, []
    for s, dtype in leaves:
        n = math.prod(s)
        x = flat[at:at + n]
        x = x if dtype == np.int32 else jax.lax.bitcast_convert_type(x, jnp.dtype(dtype))
        out.append(x.reshape(s))
        at += n
    return jax.tree.unflatten(tree, out)


class Packed(NamedTuple):
    """A turn as it is sent."""

    T: int
    turn: np.ndarray
    draw: np.ndarray
    extras: np.ndarray | None   # None: no row asks for more than Rows has
    sampled: list[int]          # of each piece, how many of the rows are its own
    named: bool                 # whether logprobs are read


def pack(step: Step, shape: Shape, V: int) -> Packed:
    """Returns the arrays of a step in the smallest bucket that holds its tokens."""
    count = sum(piece.count for piece in step.pieces)
    T = next(T for T in shape.buckets if count <= T)
    (flat, turn), (drawn, draw) = _blank(shape, T)
    places = shape.places(T).fill([(p.sequence.pages, p.start, p.count) for p in step.pieces])
    for view, values in zip(turn.places, places, strict=True):
        view[...] = values
    t = r = 0
    asked, named = [], False
    for piece in step.pieces:
        s, n, k = piece.sequence, piece.count, piece.sample
        own = n - len(piece.drafts)
        known = s.tokens[piece.start:piece.start + own]
        turn.token_T[t:t + n] = known + [-1] * (own - len(known)) + piece.drafts
        turn.slot_T[t:t + n] = s.slot
        if k:
            sampling: Sampling = s.request.sampling
            own = slice(r, r + k)
            position = np.arange(piece.start + n - k, piece.start + n)
            turn.pick_R[own] = np.arange(t + n - k, t + n)
            draw.slot_R[own], draw.position_R[own] = s.slot, position
            draw.rows.seed_R[own] = sampling.seed
            draw.rows.index_R[own] = position + 1 - s.prompt
            draw.rows.temperature_R[own] = sampling.temperature
            draw.rows.top_k_R[own] = min(sampling.top_k, V)
            draw.rows.top_p_R[own], draw.rows.min_p_R[own] = sampling.top_p, sampling.min_p
            if not sampling.plain or s.request.mask is not None:
                asked.append((own, s))
                named |= sampling.logprobs >= 0
        t, r = t + n, r + k
    draw.named[0] = named
    extras = _extras(asked, shape.picked(T), V) if asked else None
    return Packed(T, flat, drawn, extras, [piece.sample for piece in step.pieces], named)


def nothing(shape: Shape, T: int, V: int) -> Packed:
    """Returns a turn of T tokens that are none, with extras that ask for nothing."""
    (flat, _), (drawn, _) = _blank(shape, T)
    return Packed(T, flat, drawn, _extras([], shape.picked(T), V), [], False)


def _blank(shape, T):
    """A turn of nothing and its draw, each as a vector and as its parts."""
    turn: Turn
    draw: Draw
    flat, turn = _vector(turn_shapes(shape, T))
    drawn, draw = _vector(draw_shapes(shape.picked(T)))
    turn.slot_T[:] = draw.slot_R[:] = shape.slots
    turn.places.page_T[:] = 2**30
    draw.rows.top_p_R[:] = 1
    return (flat, turn), (drawn, draw)


def _vector(shapes):
    flat = np.zeros(size(shapes), np.int32)
    return flat, views(flat, shapes)


def _extras(asked, R, V):
    e: Extras
    flat, e = _vector(extras_shapes(R, V))
    e.repetition_R[:], e.bias_id_RJ[:], e.mask_RW[:] = 1, -1, 2**32 - 1
    for own, s in asked:
        c = s.request.sampling
        e.repetition_R[own], e.presence_R[own] = c.repetition_penalty, c.presence_penalty
        e.frequency_R[own], e.prompt_R[own] = c.frequency_penalty, s.prompt
        for j, (token, bias) in enumerate(c.logit_bias):
            e.bias_id_RJ[own, j], e.bias_RJ[own, j] = token, bias
        if s.request.mask is not None:
            e.mask_RW[own] = s.request.mask.bits()
    return flat
