"""The engine: the step of a model over pages as a few compiled programs, and what they change."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from lm.infer import turn as turns
from lm.infer import weights
from lm.infer.request import TOP
from lm.infer.sample import adjust, logprobs, sample
from lm.infer.shape import Shape, layers
from lm.infer.steps import Step
from lm.mesh import rules
from lm.mesh.rules import shard
from lm.nn import paged
from lm.nn.module import Declaration

WHOLE = dict(R=(), V=(), B=(), T=())


class Model(NamedTuple):
    """A model as the engine computes with it."""

    config: object            # its L, K, N, H
    declaration: Declaration
    params: dict              # as `lm.infer.weights` makes them
    scales: tuple | None = None  # of its cache, as `paged.Cache` takes them


class Flight(NamedTuple):
    """A step on its way: what it will give."""

    step: Step
    packed: turns.Packed
    token_R: jax.Array
    draft_R: jax.Array
    named: tuple              # logprob_R, ids_RJ, logprobs_RJ


class Made(NamedTuple):
    """What a step gave, by piece."""

    tokens: list[list[int]]   # accepted drafts and one more; none where nothing is sampled
    logprobs: list[list]      # (logprob, [(token, logprob)]) of each, where asked for


@partial(jax.jit, static_argnames=("declaration", "shape", "T", "V"),
         donate_argnames=("pools", "history_SC"))
def _forward(declaration, shape: Shape, T: int, V: int, params, scales, pools, history_SC, turn):
    """Computes a turn. Returns (pools, history, logits_RV)."""
    t: turns.Turn = turns.apart(turn, turns.turn_shapes(shape, T))
    at = t.slot_T, t.places.position_T
    token_T = jnp.where(t.token_T < 0, history_SC.at[at].get(mode="clip"), t.token_T)
    history_SC = history_SC.at[at].set(token_T, mode="drop")
    model = declaration.bind(params)
    cache = paged.Cache(pools, scales, t.places, Q=shape.places(T).Q, kind=shape.kind)
    x_BTD, cache = model(token_T[None], t.places.position_T[None], cache=cache)
    logits_RV = shard(model.logits(x_BTD[:, t.pick_R])[0], "RV")  # rather than gather the matrix
    pools = tuple(shard(x, _axes(shape)) for x in cache.pools)
    return pools, history_SC, shard(logits_RV, "RV", WHOLE)[:, :V]


@partial(jax.jit, donate_argnames=("history_SC",))
def _draw(logits_RV, history_SC, draw, extras):
    """Samples. Returns (history, token_R, draft_R, logprobs of them).

    draft_R: what stood in the table where the tokens sampled now stand.
    """
    R, V = logits_RV.shape
    d: turns.Draw = turns.apart(draw, turns.draw_shapes(R))
    e = turns.apart(extras, turns.extras_shapes(R, V))
    seen_RC = history_SC.at[d.slot_R].get(mode="clip")
    token_R = sample(adjust(logits_RV, e, seen_RC, d.position_R + 1), d.rows)

    def none():
        top = min(TOP, V)
        return jnp.zeros(R), jnp.zeros((R, top), jnp.int32), jnp.zeros((R, top))
    named = jax.lax.cond(d.named[0] > 0, lambda: logprobs(logits_RV, token_R, TOP), none)
    at = d.slot_R, d.position_R + 1
    draft_R = history_SC.at[at].get(mode="clip")
    history_SC = history_SC.at[at].set(token_R, mode="drop")
    return history_SC, token_R, draft_R, named


@partial(jax.jit, donate_argnames=("history_SC",))
def _put(history_SC, slot, row_C):
    return jax.lax.dynamic_update_slice(history_SC, row_C[None], (slot, 0))


class Engine:
    """A model, its pools, the table of tokens by slot and position, and the compiled steps.

    Steps are computed in the order in which they are sent. The mesh is the one in use when it is
    made; every process of the mesh sends the same steps in the same order.
    """

    def __init__(self, model: Model, shape: Shape, V: int):
        """V: ids that the tokenizer has, where the model's vocabulary was padded to more."""
        self.model, self.shape, self.V = model, shape, V
        mesh = jax.sharding.get_abstract_mesh()
        self._whole = None if mesh.empty or mesh.size == 1 else NamedSharding(
            jax.sharding.get_mesh(), PartitionSpec())
        self.pools = jax.jit(lambda: tuple(
            shard(x, _axes(shape)) for x in pools(model.config, shape)))()
        self.history_SC = self._lay(np.zeros((shape.slots, shape.context + 1), np.int32))
        self._forward, self._draw, self._nothing = {}, {}, {}  # by T, by R, by R
        self.draft = None         # a `lm.infer.draft.Draft`
        self.tell = None          # hears of every program that is run, before it is

    def nbytes(self) -> dict[str, int]:
        """Returns the bytes of one device by what they hold."""
        held = dict(weights=weights.nbytes(self.model.params), cache=weights.nbytes(self.pools))
        return held | (dict(draft=sum(self.draft.engine.nbytes().values())) if self.draft else {})

    def compile(self) -> None:
        """Compiles every program, the largest first, and runs each once on nothing.

        What is not compiled by then is when a step first needs it.
        """
        for T in reversed(self.shape.buckets):
            packed = turns.nothing(self.shape, T, self.V)
            self.run(T, packed.turn, packed.draw, packed.extras)
        self.put(0, np.zeros(self.shape.context + 1, np.int32))
        jax.block_until_ready(self.history_SC)
        if self.draft:
            self.draft.engine.compile()

    def _ready(self, T):
        """The programs of a step of T tokens, and extras that ask for nothing."""
        R = self.shape.picked(T)
        if T not in self._forward:
            m = self.model
            turn = self._lay(turns.nothing(self.shape, T, self.V).turn)
            self._forward[T] = _forward.lower(m.declaration, self.shape, T, self.V, m.params,
                                              m.scales, self.pools, self.history_SC, turn).compile()
        if R not in self._draw:
            packed = turns.nothing(self.shape, T, self.V)
            self._nothing[R] = self._lay(packed.extras)
            logits_RV = self._lay(np.zeros((R, self.V), np.float32))
            self._draw[R] = _draw.lower(logits_RV, self.history_SC, self._lay(packed.draw),
                                        self._nothing[R]).compile()
        return self._forward[T], self._draw[R], self._nothing[R]

    def put(self, slot: int, row_C: np.ndarray) -> None:
        """Enters the tokens of a slot in the table."""
        if self.tell:
            self.tell("put", slot, row_C)
        self.history_SC = _put(self.history_SC, self._lay(np.int32(slot)), self._lay(row_C))

    def send(self, step: Step) -> Flight:
        """Starts a step."""
        for s in step.admitted:
            row_C = np.zeros(self.shape.context + 1, np.int32)
            row_C[:len(s.tokens)] = s.tokens
            self.put(s.slot, row_C)
        if self.draft:
            self.history_SC = self.draft.run(step, self.history_SC)
        packed = turns.pack(step, self.shape, self.V)
        token_R, draft_R, named = self.run(packed.T, packed.turn, packed.draw, packed.extras)
        for x in (token_R, draft_R, *(named if packed.named else ())):
            x.copy_to_host_async()
        return Flight(step, packed, token_R, draft_R, named)

    def read(self, flight: Flight) -> Made:
        """Returns what a step gave, once it has."""
        tokens, drafts = flight.token_R.tolist(), flight.draft_R.tolist()
        named = [np.asarray(x) for x in flight.named] if flight.packed.named else None
        made, probs, r = [], [], 0
        for piece, k in zip(flight.step.pieces, flight.packed.sampled, strict=True):
            n = min(k, 1)
            while n < k and tokens[r + n - 1] == drafts[r + n - 1]:
                n += 1
            made.append(tokens[r:r + n])
            top = piece.sequence.request.sampling.logprobs if named and k else -1
            probs.append([_named(named, i, top) for i in range(r, r + n)] if top >= 0 else [])
            r += k
        return Made(made, probs)

    def run(self, T: int, turn: np.ndarray, draw: np.ndarray, extras: np.ndarray | None) -> list:
        """Starts the programs of a packed turn; returns (token_R, draft_R, logprobs of them)."""
        if self.tell:
            self.tell("run", T, turn, draw, extras)
        m, (forward, sampler, nothing) = self.model, self._ready(T)
        self.pools, history_SC, logits_RV = forward(m.params, m.scales, self.pools,
                                                    self.history_SC, self._lay(turn))
        self.history_SC, *out = sampler(logits_RV, history_SC, self._lay(draw),
                                        nothing if extras is None else self._lay(extras))
        return out

    def _lay(self, x):
        """x on the devices: whole on each."""
        if self._whole is None or self._whole.is_fully_addressable:
            return jax.device_put(x, self._whole)
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, self._whole, lambda index: x[index])


def _named(named, i, top):
    logprob_R, id_RJ, logprob_RJ = named
    return float(logprob_R[i]), list(zip(id_RJ[i, :top].tolist(), logprob_RJ[i, :top].tolist(),
                                         strict=True))


def _axes(shape):
    """The axes of the pools, by those that lie on the mesh."""
    return "L" * (rules.ways("stage") > 1) + paged.KINDS[shape.kind].axes


def pools(c, shape: Shape) -> tuple:
    """Returns empty pools for the mesh in use; a stack of each stage's where there are stages."""
    K, S = c.K * paged.copies(c.K, c.N), rules.ways("stage")
    make = partial(paged.KINDS[shape.kind].make, layers(c), shape.pages, shape.page, K, c.H,
                   jnp.dtype(shape.dtype))
    return make() if S == 1 else rules.over_stages(lambda _: make())(jnp.arange(S))


def lowered(model: Model, shape: Shape, T: int, V: int, mesh):
    """Returns the step of T tokens as jax hands it to the compiler, for devices that may be absent.

    model: its params are shapes, as `lm.infer.weights.shapes` gives them. The mesh is in use.
    """
    def lie(x, axes):
        where = rules.sharding(mesh, axes, x.shape, rules.COMPUTE)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
    held = [lie(x, _axes(shape)) for x in jax.eval_shape(partial(pools, model.config, shape))]
    history_SC = jax.ShapeDtypeStruct((shape.slots, shape.context + 1), jnp.int32)
    turn = jax.ShapeDtypeStruct((turns.size(turns.turn_shapes(shape, T)),), jnp.int32)
    return _forward.lower(model.declaration, shape, T, V, model.params, model.scales, tuple(held),
                          lie(history_SC, ".."), lie(turn, "."))
