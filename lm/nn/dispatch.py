"""Tokens on their way to the experts they chose, and back.

Of letters, R counts a token's choices and C slots, the places at the experts where choices go.
`choice` is what a slot holds, numbered T*R + R, and `slot` is where a choice lies; a number past
the end is none. These functions run on one device, or on each in a shard_map.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lm.mesh.devices import platform
from lm.mesh.rules import ways
from lm.nn.mlp import ACTIVATIONS


class Places(NamedTuple):
    """The mesh axes over which the tokens in hand are a part: of B and of T, major first."""

    rows: tuple[str, ...]
    cols: tuple[str, ...]


ALONE = Places((), ())


def dropless(p: Places, x_BTD, share_BTR, expert_BTR, ws, activation: str):
    """Returns y_BTD, each choice passed by its expert however many chose it.

    All tokens of the devices along `expert` go to each of them, and their sums come back by a
    reduce-scatter. With n devices that is n-1 rows received for one of one's own, where k(n-1)/n
    would do on average if each went to its experts alone. But shapes are fixed before it is known
    where the tokens go, and an all-to-all with room for all of them moves min(k, E/n) times as
    much. For n <= k nothing could move less; where n is large, `limited` does.
    """
    E, dtype = ws[0].shape[0], x_BTD.dtype
    rows, cols = (tuple(a for a in own if a in names)
                  for own, names in ((("expert",), p.rows), (("tensor",), p.cols)))
    x_BTD, share_BTR, expert_BTR = (_gather(_gather(a, rows, 0), cols, 1)
                                    for a in (x_BTD, share_BTR, expert_BTR))
    (B, T, D), R = x_BTD.shape, share_BTR.shape[-1]
    expert = expert_BTR.reshape(-1) - _number(("expert",)) * E
    expert = jnp.where((expert >= 0) & (expert < E), expert, E)  # E: of another device
    order = jnp.argsort(expert)
    load_E = (expert[:, None] == jnp.arange(E)).sum(0, dtype=jnp.int32)
    full, C = load_E.sum(), B * T * min(R, E)  # a token chooses an expert once at most
    held_C = jnp.arange(C) < full
    choice_C = jnp.where(held_C, order[:C], order.size)
    slot = jnp.argsort(order)
    slot_TR = jnp.where(slot < full, slot, C).reshape(B * T, R)
    # What is in rows past the last group is nowhere promised: zeros let no NaN into gradients.
    y_CD = _feed(_send(x_BTD.reshape(B * T, D), slot_TR, choice_C), ws, activation,
                 lambda x, w, _: jnp.where(held_C[:, None], _grouped(x, w, load_E), 0))
    y_TD = _combine(y_CD, share_BTR.reshape(B * T, R), slot_TR, choice_C)
    y_BTD = y_TD.astype(dtype).reshape(B, T, D)
    return _sum(_sum(y_BTD, ("tensor",), cols, 1), ("expert",), rows, 0)


def limited(p: Places, x_BTD, share_BTR, expert_BTR, index_BT, ws, capacity: float,
            activation: str):
    """Returns (y_BTD, the share dropped_BT of a token's choices that no expert passes).

    An expert has ceil(T k / E * capacity) slots for each row. Rows do not compete, so what is
    dropped is the same on every mesh and in every microbatch. In a row earlier tokens come first,
    whatever the rank of their choice: GShard (Lepikhin et al. 2020, algorithm 1) fills slots with
    all first choices before any second, by which a token can push out an earlier one, and the loss
    would look ahead.

    Rows come together over `context` and `tensor`, each device fills its part of their slots, and
    an all-to-all over `expert` gives the slots of all experts for those of all rows.
    """
    dtype, columns = x_BTD.dtype, x_BTD.shape[1]
    x_BTD, share_BTR, expert_BTR, index_BT = (
        _gather(a, p.cols, 1) for a in (x_BTD, share_BTR, expert_BTR, index_BT))
    (B, T, D), R, E = x_BTD.shape, share_BTR.shape[-1], ws[0].shape[0] * ways("expert")
    over = tuple(a for a in ("context", "tensor") if ways(a) > 1)
    C = min(T, math.ceil(T * R / E * capacity))
    own = -(-C // math.prod(map(ways, over)))  # slots past C stay empty
    queue = jax.vmap(lambda e, i: _queue(e, i, E, C, own, _number(over) * own))
    slot_BTR, choice_BC, dropped_BT = queue(expert_BTR, index_BT)
    x_BECD = jax.vmap(_send)(x_BTD, slot_BTR, choice_BC).reshape(B, E, own, D)
    tensor = over[-1:] if "tensor" in over else ()
    x_BECD = _gather(_exchange(x_BECD, 1, 0), tensor, 2)
    y_BECD = _feed(x_BECD, ws, activation, lambda x, w, axes: jnp.einsum(
        f"BEC{axes[0]},E{axes}->BEC{axes[1]}", x, w))
    y_BECD = _exchange(_sum(y_BECD, tensor, tensor, 2), 0, 1)
    y_BTD = jax.vmap(_combine)(y_BECD.reshape(B, E * own, D), share_BTR, slot_BTR, choice_BC)
    dropped_BT = jax.lax.dynamic_slice_in_dim(dropped_BT, _number(p.cols) * columns, columns, 1)
    return _sum(y_BTD.astype(dtype), over, p.cols, 1), dropped_BT


def _queue(expert_TR, index_T, E, C, own, first):
    """The slots of one row of tokens, in each expert C, of which `own` after `first` are at hand.

    Returns (slot_TR and choice_C among those at hand, the share dropped_T of all choices).
    """
    T, R = expert_TR.shape
    expert, index = expert_TR.reshape(-1), jnp.repeat(index_T, R)
    order = jnp.lexsort((index, expert))
    load_E = (expert[:, None] == jnp.arange(E)).sum(0)
    start_E = jnp.cumsum(load_E) - load_E
    back = first + jnp.arange(own)
    choice_EC = order[jnp.minimum(start_E[:, None] + back, T * R - 1)]
    choice_EC = jnp.where(back < jnp.minimum(load_E, C)[:, None], choice_EC, T * R)
    back = jnp.argsort(order) - start_E[expert]
    late = back - first
    slot = jnp.where((back < C) & (late >= 0) & (late < own), expert * own + late, E * own)
    return slot.reshape(T, R), choice_EC.reshape(-1), (back >= C).reshape(T, R).mean(-1)


def _feed(x, ws, activation, product):
    """down(act(gate(x)) * up(x)), or without the gate, by product(slots, weights, their axes)."""
    act, gated = ACTIVATIONS[activation]
    up, down, *gate = ws
    h = product(x, up, "DF")
    h = act(product(x, gate[0], "DF")) * h if gated else act(h)
    return product(h, down, "FD")


def _each(f):
    """f whose vmap is a loop: XLA:TPU compiles no ragged product with a batch axis."""
    f = jax.custom_batching.custom_vmap(f)

    @f.def_vmap
    def loop(size, batched, *args):
        outs = [f(*(a[i] if of else a for a, of in zip(args, batched, strict=True)))
                for i in range(size)]
        return jax.tree.map(lambda *a: jnp.stack(a), *outs), jax.tree.map(lambda _: True, outs[0])
    return f


@jax.custom_vjp
def _grouped(x_CI, w_EIO, load_E):
    """y_CO: the first load_E[0] rows of x times w_EIO[0], the next load_E[1] times w_EIO[1], ..."""
    return _each(jax.lax.ragged_dot)(x_CI, w_EIO, load_E)


def _grouped_back(saved, dy_CO):
    def back(x_CI, w_EIO, load_E, dy_CO):
        by_x = jax.linear_transpose(lambda x: jax.lax.ragged_dot(x, w_EIO, load_E), x_CI)
        by_w = jax.linear_transpose(lambda w: jax.lax.ragged_dot(x_CI, w, load_E), w_EIO)
        return *by_x(dy_CO), *by_w(dy_CO)
    return *_each(back)(*saved, dy_CO), None


_grouped.defvjp(lambda *args: (_grouped(*args), args), _grouped_back)


def _combine(y_CD, share_TR, slot_TR, choice_C):
    """Each token's float32 sum over its choices, by its shares."""
    return (_collect(y_CD, slot_TR, choice_C) * share_TR[..., None]).sum(1)


# Both ways are gathers, and so are their gradients, as each side knows where the other lies;
# what jax derives from a gather is a scatter, one row after the other on a chip.

@jax.custom_vjp
def _send(x_TD, slot_TR, choice_C):
    """x_CD: each slot's token, zeros in empty ones."""
    return x_TD.at[choice_C // slot_TR.shape[1]].get(mode="fill", fill_value=0)


@jax.custom_vjp
def _collect(y_CD, slot_TR, choice_C):
    """y_TRD: what each choice's slot holds, zeros for those without one."""
    return y_CD.at[slot_TR].get(mode="fill", fill_value=0)


def _send_back(places, dx_CD):
    dx_TD = _collect(dx_CD, *places).sum(1, dtype=jnp.float32)
    return dx_TD.astype(dx_CD.dtype), None, None


def _collect_back(places, dy_TRD):
    flat = dy_TRD.reshape(-1, dy_TRD.shape[-1])
    return flat.at[places[1]].get(mode="fill", fill_value=0), None, None


_send.defvjp(lambda x, *places: (_send(x, *places), places), _send_back)
_collect.defvjp(lambda y, *places: (_collect(y, *places), places), _collect_back)


def wire(x):
    """Returns x as it is added up over devices.

    XLA:CPU aborts at sums of bfloat16 where only some axes of the mesh are manual.
    """
    return x.astype(jnp.float32) if platform() == "cpu" and x.dtype == jnp.bfloat16 else x


def _number(axes):
    """This device's number along mesh axes, major first."""
    axes = tuple(a for a in axes if ways(a) > 1)
    return jax.lax.axis_index(axes) if axes else 0


def _gather(x, axes, axis):
    """The parts of x that the devices along mesh axes hold, put together along its axis."""
    if not axes:
        return x
    return jax.lax.all_gather(wire(x), axes, axis=axis, tiled=True).astype(x.dtype)


def _sum(x, over, along, axis):
    """x added up over mesh axes, for those `along` its axis each device with its part of it."""
    rest = tuple(a for a in over if a not in along and ways(a) > 1)
    y = jax.lax.psum(wire(x), rest) if rest else wire(x)
    if along:
        y = jax.lax.psum_scatter(y, along, scatter_dimension=axis, tiled=True)
    return y.astype(x.dtype)


def _exchange(x, split, join):
    """x with one axis cut into parts for the devices along `expert`, theirs joined at another."""
    if ways("expert") == 1:
        return x
    return jax.lax.all_to_all(x, "expert", split, join, tiled=True)
