"""A model as a server sees it: bytes of its weights and of its cache, and what fits on the devices.

Everything follows from plain numbers, so that a published model can be asked about by its shape.
"""

from dataclasses import dataclass

from lm.base.errors import UserError, pick
from lm.cost.chips import Chip, Torus
from lm.cost.figure import Figure, known, largest, total
from lm.nn.paged import LANES

# Bytes of one weight. int8 has a scale a channel, which is nothing; int4 one of 2 bytes per 128.
WEIGHTS = {"bf16": 2.0, "fp8": 1.0, "int8": 1.0, "int4": 0.5 + 2 / 128}
CACHES = {"bf16": 2.0, "fp8": 1.0, "int8": 1.0}
USABLE = 0.92   # share of the memory: SGLang's default is 0.88, vLLM's recipes for v6e say 0.98
PAGE = 128      # tokens; SGLang-JAX's recipes make it a must
_BOOK = "scaling book, inference"


@dataclass(frozen=True)
class Shape:
    """What serving asks of a model, in the alphabet of the house.

    parameters: all of them; of these `expert_parameters` in E experts of which a token visits k,
    and `lookup` in a table that is only looked up (an untied embedding). windows: tokens that a
    layer with a cache looks back, 0 for all, one for each or a pattern that repeats. cached: layers
    that keep keys and values, None for all. state: bytes of one sequence in the layers that keep a
    state instead.
    """

    name: str
    parameters: float
    L: int
    K: int
    H: int
    N: int
    D: int
    V: int
    expert_parameters: float = 0.0
    E: int = 0
    k: int = 0
    lookup: float = 0.0
    windows: tuple[int, ...] = (0,)
    cached: int | None = None
    state: float = 0.0

    @property
    def active(self) -> float:
        """Parameters that one token is multiplied with."""
        used = self.parameters - self.lookup
        return used - self.expert_parameters * (1 - self.k / self.E) if self.E else used

    def read(self, tokens):
        """Returns the parameters that a step of so many tokens reads (an array, too).

        Each expert is missed by a token with probability 1 - k/E.
        """
        used = self.parameters - self.lookup
        if not self.E:
            return used + 0.0 * tokens
        return used - self.expert_parameters * (1 - self.k / self.E) ** tokens

    def seen(self, context: float) -> float:
        """Returns the tokens of cache that one more token looks at, summed over the layers."""
        n = self.L if self.cached is None else self.cached
        sizes = [self.windows[i % len(self.windows)] for i in range(n)]
        return float(sum(min(context, w) if w else context for w in sizes))


def cache_bytes(shape: Shape, cache: str = "bf16", context: float = 0.0) -> Figure:
    """Returns bytes of cache per token, of a sequence of `context` tokens where windows matter."""
    layers = shape.seen(context) / context if context and any(shape.windows) else (
        shape.L if shape.cached is None else shape.cached)
    return (2 * known("model.layers_with_cache", layers)
            * known("model.K", shape.K) * known("model.H", shape.H)
            * known("serve.cache_width", pick(CACHES, cache, "cache format"), "B")).called(
        "serve.cache_bytes_per_token", "B", f"{_BOOK}, 2 L K H b")


def weight_bytes(shape: Shape, weights: str = "bf16") -> Figure:
    """Returns the bytes of all weights."""
    return (known("model.parameters", shape.parameters)
            * known("serve.weight_width", pick(WEIGHTS, weights, "weight format"), "B")).called(
        "serve.weight_bytes", "B")


@dataclass(frozen=True)
class Layout:
    """How one replica lies on its devices, which are chips: tensor x stage of them."""

    chip: Chip
    tensor: int = 1
    stage: int = 1
    weights: str = "bf16"
    cache: str = "bf16"

    @property
    def chips(self) -> int:
        """Returns the chips of a replica."""
        return self.tensor * self.stage

    def copies(self, K: int) -> float:
        """Returns how often each of K key-value heads is kept: shards may be more than heads.

        The jax devices of one chip are shards, too.
        """
        return max(1.0, self.tensor * self.chip.devices / K)


def refusal(shape: Shape, layout: Layout) -> str:
    """Returns why the model cannot be laid out so, "" if it can."""
    t, K = layout.tensor * layout.chip.devices, shape.K
    if shape.N % t:
        return f"{shape.N} query heads do not divide over {t} devices"
    if (K % t if t <= K else t % K):
        return f"{K} key-value heads do not divide over {t} devices, nor devices over them"
    if shape.L % layout.stage:
        return f"{shape.L} layers do not divide over stage = {layout.stage}"
    # The ragged paged attention kernel tiles a shard's heads: one of 8 bits is less than a tile.
    if isinstance(layout.chip.network, Torus) and layout.cache != "bf16" and K / t < 2:
        return (f"a cache of 8 bits needs two key-value heads on a device; {t} devices leave "
                f"{max(1, K // t)} of {K}")
    return ""


def memory(shape: Shape, layout: Layout, slots: int, chunk: int,
           usable: float = USABLE) -> dict[str, Figure]:
    """Returns bytes on one chip by category; `cache` is what is left for the pages.

    It may be negative: then nothing fits.
    """
    chips = known("serve.tensor", layout.tensor) * known("serve.stage", layout.stage)
    room = known("chip.hbm_bytes", layout.chip.hbm_bytes, "B", layout.chip.name)
    tokens = known("serve.slots", slots) + known("serve.chunk", chunk)
    parts = {
        "weights": (weight_bytes(shape, layout.weights) / chips).called(
            "serve.memory.weights", "B"),
        "activations": (tokens * known("model.D", shape.D) * 8).called(
            "serve.memory.activations", "B", "8 B a token and width"),
        "logits": (known("serve.slots", slots) * known("model.V", shape.V) * 4
                   / known("serve.tensor", layout.tensor)).called("serve.memory.logits", "B"),
        "reserve": (room * (1 - usable)).called(
            "serve.memory.reserve", "B", f"a share of {usable:g} is used"),
    }
    if shape.state:
        parts["state"] = (known("serve.slots", slots) * known("model.state", shape.state, "B")
                          / chips).called("serve.memory.state", "B")
    parts["cache"] = (room - total(parts.values())).called("serve.memory.cache", "B")
    return parts


def pages(shape: Shape, layout: Layout, parts: dict[str, Figure], context: float,
          page: int = PAGE) -> Figure:
    """Returns the pages that fit into the memory that `memory` left for them, at least 0.

    TPUs keep a head in whole rows of 128 lanes: of heads of 64, half of the cache is empty.
    """
    lanes = LANES if layout.chip.aot else 1
    each = (cache_bytes(shape, layout.cache, context)
            * known("serve.lanes", -(-shape.H // lanes) * lanes / shape.H)
            * known("serve.cache_copies", layout.copies(shape.K))
            / (known("serve.tensor", layout.tensor) * known("serve.stage", layout.stage)))
    return (largest(parts["cache"], 0) / (each * known("serve.page", page))).called(
        "serve.pages", "pages")


def smallest_home(shape: Shape, chips, weights: str = "int4", cache: str = "bf16") -> str:
    """Returns words for the fewest chips of any kind that would hold the model."""
    best = None
    for chip in chips:
        for n in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024):
            tensor = max(t for t in (1, 2, 4, 8, 16) if t <= n and not shape.N % t)
            layout = Layout(chip, tensor, n // tensor, weights, cache)
            fits = memory(shape, layout, 1, 128)["cache"].value > 0
            if fits and (best is None or n < best[0]):
                best = n, chip
            if fits:
                break
    if best is None:
        raise UserError(f"{shape.name} is too large for 1024 chips of any kind in the catalogue")
    n, chip = best
    return f"{n} x {chip.name} with {weights} weights"
