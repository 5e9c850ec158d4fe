"""How much the engine holds and computes at once, where the flags leave it to the machine."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from lm.base.errors import UserError
from lm.infer.config import Engine
from lm.mesh import rules
from lm.mesh.devices import platform
from lm.nn import paged, pipeline
from lm.nn.places import Sizes
from lm.nn.precision import PRECISIONS
from lm.nn.scores import copies

HOST = 4 << 30    # bytes of cache on a CPU at most, where nobody says more
LANES = 16        # tokens of a block where a step has more tokens than sequences
RESERVE = 64 << 20  # bytes of a device that the step itself is left


@dataclass(frozen=True)
class Shape:
    """Sizes that are compiled in."""

    slots: int
    context: int      # tokens of a sequence
    page: int         # tokens of a page
    pages: int
    budget: int       # tokens of a step
    ahead: int        # steps on their way before one is read
    queued: int
    queued_tokens: int
    kind: str         # of lm.nn.paged.KINDS
    dtype: str        # of keys and values
    rows: int         # tokens that a step samples at most

    @property
    def buckets(self) -> tuple[int, ...]:
        """Tokens of the steps that are compiled: few, four times as many each."""
        least = LANES if self.kind == "kernel" else 1
        out = [min(least, self.budget)]
        while out[-1] < self.budget:
            out.append(min(4 * out[-1], self.budget))
        return tuple(out)

    def places(self, T: int) -> Sizes:
        """Returns the sizes of the places of a step of T tokens."""
        few = T <= LANES or self.kind == "kernel"
        return Sizes(T=T, B=min(T, self.slots), P=math.ceil(self.context / self.page),
                     Q=1 if few else LANES, page=self.page)

    def picked(self, T: int) -> int:
        """Returns how many rows are sampled after a step of T tokens: one of three numbers."""
        return next(R for R in (1, min(LANES, self.rows), self.rows) if min(T, self.rows) <= R)


def shape(c: Engine, model, context: int, weights: int, drafts=None) -> Shape:
    """Returns the sizes of an engine for a model of config `model` on the mesh in use.

    context: tokens of a sequence at most. weights: their bytes on one device. drafts: the config
    of a draft model, whose keys are kept in pages of the same numbers.
    """
    where = platform()
    kind = dict(tpu="kernel", gpu="splits").get(where, "blocks")
    if c.context > context:
        raise UserError(f"context = {c.context} is more than the {context} tokens that the run's "
                        "data.T or learned positions have; give as many at most")
    context = c.context or context
    page = c.page or (128 if where == "tpu" else 16)
    budget = max(c.budget or (128 if where == "cpu" else 512), c.slots)
    dtype = _dtype(c.cache, model)
    uneven = [m.K for m in (model, drafts) if m and not _tiled(m, dtype)]
    if kind == "kernel" and uneven:
        if jnp.dtype(dtype).itemsize == 1:
            raise UserError(f"cache = '{c.cache}' needs 2, 4, 8 or a multiple of 16 kv heads on "
                            f"each TPU, of K = {uneven[0]} over mesh.tensor = "
                            f"{rules.ways('tensor')}; change mesh.tensor, or set cache='auto'")
        kind = "blocks"
        print(f"K = {uneven[0]} kv heads over mesh.tensor = {rules.ways('tensor')} do not fill the "
              "registers of a TPU, as 1, 2, 4 or a multiple of 8 would: attention goes without "
              "its kernel, and is slower")
    each = sum(page_bytes(m, page, dtype, kind) for m in (model, drafts) if m)
    one, room = math.ceil(context / page), _room(c, weights)
    if (c.pages or one) * each > room:
        raise UserError(
            f"{c.pages or one} pages of {each / 2**20:.1f} MiB do not fit beside weights of "
            f"{weights / 2**30:.2f} GiB: {room / 2**30:.2f} GiB are left for the cache; share the "
            "model over more devices, lower context or pages, or take smaller weights or cache")
    pages = c.pages or min(max(one, 2 * c.slots * one), room // each)
    return Shape(
        slots=c.slots, context=context, page=page, pages=pages, budget=budget,
        ahead=c.ahead if c.ahead >= 0 else int(where != "cpu"), queued=c.queued,
        queued_tokens=c.queued_tokens or 8 * c.slots * context, kind=kind, dtype=dtype,
        rows=c.slots * (1 + c.drafts * (c.speculate != "off")))


def _dtype(asked: str, model) -> str:
    names = dict(auto=PRECISIONS[model.precision].compute, fp8="float8_e4m3fn")
    return names.get(asked, asked)


def _tiled(model, dtype) -> bool:
    """Whether the kernel can lay one device's keys and values of a token out in its registers."""
    K = model.K * copies(model.K, model.N) / rules.ways("tensor")
    words = 2 * K * jnp.dtype(dtype).itemsize / 4
    return words in (1, 2, 4) or words % 8 == 0


def layers(model) -> int:
    """Returns the layers that a device of the mesh in use keeps pages for."""
    S = rules.ways("stage")
    return model.L if S == 1 else pipeline.layout(
        model.L, S, V=1, M=1, cycle=len(model.windows)).layers


def page_bytes(model, page: int, dtype, kind: str) -> int:
    """Returns the bytes of a page of the cache on one device."""
    K = model.K * copies(model.K, model.N)
    held = jax.eval_shape(lambda: paged.KINDS[kind].make(layers(model), 1, page, K, model.H, dtype))
    ways = rules.ways("tensor") if K % rules.ways("tensor") == 0 else 1
    return sum(x.size * x.dtype.itemsize for x in held) // ways


def _room(c, weights):
    """Bytes of a device that the cache may have."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() if device.platform == platform() != "cpu" else None
    limit = (stats or {}).get("bytes_limit")
    if limit is None:  # a CPU, or a device that is not here
        return HOST if not c.pages else math.inf
    return max(0, int(limit * c.memory) - weights - RESERVE)
