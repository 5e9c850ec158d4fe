"""How long one step of a server takes: a few ideal times, each with a factor measured elsewhere.

    t = fixed + layer L + compute 2 P_active T / (n F) + attention 4 L N H pairs / (n F)
        + weights P_read b / (n W) + cache context kv / (n W) + 4 L hops hop

of T tokens on n chips of F FLOP/s and W bytes/s. A sum, not a maximum: what overlaps is in the
factors, which stand for whole serving stacks. Without `fixed` and `layer` small models on fast
chips come out several times too fast.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lm.base.errors import UserError
from lm.cost.chips import Chip, Switch, Torus
from lm.cost.figure import Figure, ceil, known
from lm.plan.serving.model import WEIGHTS, Layout, Shape, cache_bytes

TERMS = ("fixed", "layer", "compute", "attention", "weights", "cache")
HOP = 1e-6  # seconds; four of them a layer and hop of the ring (scaling book, inference appendix C)


@dataclass(frozen=True)
class Constants:
    """Seconds of a step and of a layer, and how many times the ideal the other terms take."""

    fixed: float
    layer: float
    compute: float
    attention: float
    weights: float
    cache: float
    source: str = ""

    def vector(self) -> np.ndarray:
        """Returns the constants in the order of TERMS."""
        return np.array([getattr(self, name) for name in TERMS])


IDEAL = Constants(0.0, 0.0, 2.5, 0.0, 1.0, 1.0, "roofline: 40 % of peak, all of the bandwidth")
_FIT = "fitted to the published rows of lm.plan.serving.published: "

# By serving stack; "" is what the stacks have in common, for a chip that none of them was measured
# on. `fit` makes this table: its test prints what to put here when rows are added.
STACKS = {
    "": Constants(0.004648, 1.517e-05, 1.956, 8.003, 1.21, 1.847,
                  _FIT + "all stacks"),
    "jetstream-pytorch": Constants(0.003662, 1.477e-05, 1.734, 7.988, 1.157, 1.023,
                                   _FIT + "JetStream-PyTorch on v5e"),
    "nim": Constants(0.00454, 1.512e-05, 1.375, 6.884, 1.14, 1.614,
                     _FIT + "NVIDIA NIM 1.8 on H100"),
    "sglang-jax": Constants(0.004487, 1.509e-05, 2.584, 8.241, 1.07, 2.005,
                            _FIT + "SGLang-JAX 0.1 on v6e"),
    "vllm-tpu": Constants(0.007342, 1.542e-05, 2.711, 9.185, 1.367, 4.329,
                          _FIT + "vLLM of 2025-09 on v6e"),
    "vllm-tpu-7x": Constants(0.004031, 1.489e-05, 1.713, 8.263, 1.342, 1.521,
                             _FIT + "vLLM of 2026-03 on TPU7x"),
}
_GPU = ("h100", "h200", "h800", "b200", "gb200", "a100-40", "a100-80")
STACK_OF = {"v5e": "jetstream-pytorch", "v6e": "sglang-jax", "7x": "vllm-tpu-7x",
            **dict.fromkeys(_GPU, "nim")}


def constants_of(chip: Chip) -> Constants:
    """Returns the constants of the stack that was measured on such a chip, or of all stacks."""
    return STACKS[STACK_OF.get(chip.name, "nim" if isinstance(chip.network, Switch) else "")]


def hops(layout: Layout) -> int:
    """Returns the links that an all-reduce over `tensor` crosses: a square as near as there is."""
    n = layout.tensor
    if n == 1:
        return 0
    if not isinstance(layout.chip.network, Torus):
        return 1
    side = max(a for a in range(1, int(n**0.5) + 1) if n % a == 0)
    return (side - 1) + (n // side - 1)


def rate(layout: Layout) -> float:
    """Returns FLOP/s of one chip for matrices: 8-bit floats multiply as such where they can.

    Integer weights are multiplied as bfloat16: only what is stored is smaller.
    """
    flops = layout.chip.flops
    return flops.get("fp8", flops["bf16"]) if layout.weights == "fp8" else flops["bf16"]


def terms(shape: Shape, layout: Layout, prefill, decode, context, attended):
    """Returns ideal seconds of a step [TERMS, ...], its counts numbers or arrays, and the hops'.

    Stages divide computing and cache among their chips; every stage reads its weights once for
    each of its microbatches, of which there are as many as stages.
    """
    chip, tokens = layout.chip, prefill + decode
    if not chip.hbm_bandwidth:
        raise UserError(f"the memory bandwidth of {chip.name} is not known")
    n, W = layout.chips, chip.hbm_bandwidth
    cached = shape.L if shape.cached is None else shape.cached
    kv = cache_bytes(shape, layout.cache).value * layout.copies(shape.K)
    state = 2 * shape.state * decode            # read and written
    one = np.ones_like(tokens, float)
    return np.stack([
        one * layout.stage, one * shape.L,
        2 * shape.active * tokens / (n * rate(layout)),
        4 * cached * shape.N * shape.H * attended / (n * chip.flops["bf16"]),
        one * shape.read(tokens / layout.stage) * WEIGHTS[layout.weights] / (layout.tensor * W),
        (context * kv + state) / (n * W)]), 4 * shape.L * hops(layout) * HOP


def clock(shape: Shape, layout: Layout, constants: Constants) -> Callable:
    """Returns the function from a Step's counts to its seconds, for a simulation."""
    basis, hop = terms(shape, layout, np.array([0, 1, 0, 0]), np.array([1, 0, 1, 1]),
                       np.array([0, 0, 1, 0]), np.array([0, 0, 0, 1]))
    decode, prefill, context, pairs = (constants.vector() * basis.T)
    compute, attention, reading = prefill[2], pairs[3], float(context[5] - decode[5])
    still = float(decode[0] + decode[1] + hop)
    state, weigh = float(decode[5]), constants.weights * WEIGHTS[layout.weights] / (
        layout.tensor * layout.chip.hbm_bandwidth)

    def seconds(step) -> float:
        tokens = step.prefill + step.decode
        return (still + compute * tokens + attention * step.attended + reading * step.context
                + state * step.decode + weigh * shape.read(tokens / layout.stage))

    return seconds


def _pieces(shape, layout, constants):
    """The constants and rates of a layout as figures, by which formulas are written."""
    chip = layout.chip
    out = {name: known(f"serve.{name}_factor", getattr(constants, name), "", constants.source)
           for name in ("compute", "attention", "weights", "cache")}
    out["chips"] = known("serve.tensor", layout.tensor) * known("serve.stage", layout.stage)
    out["bandwidth"] = known("chip.hbm_bandwidth", chip.hbm_bandwidth, "B/s", chip.name)
    out["rate"] = known("chip.flops", rate(layout), "FLOP/s", chip.name)
    out["still"] = (known("serve.fixed_seconds", constants.fixed, "s", constants.source)
                    * known("serve.stage", layout.stage)
                    + known("serve.layer_seconds", constants.layer, "s", constants.source)
                    * known("model.L", shape.L)
                    + 4 * known("model.L", shape.L) * known("serve.hops", hops(layout))
                    * known("chip.hop", HOP, "s")).called("serve.still", "s")
    return out


def _read(shape, layout, p, tokens):
    return (p["weights"] * known("serve.parameters_read", float(shape.read(tokens / layout.stage)))
            * known("serve.weight_width", WEIGHTS[layout.weights], "B")
            / (known("serve.tensor", layout.tensor) * p["bandwidth"]))


def _cached(shape, layout, p, tokens):
    copies = known("serve.cache_copies", layout.copies(shape.K))
    return (p["cache"] * tokens * cache_bytes(shape, layout.cache) * copies
            / (p["chips"] * p["bandwidth"]))


def tpot(shape: Shape, layout: Layout, constants: Constants, batch: float,
         context: float) -> Figure:
    """Returns the time of a step that gives each of `batch` sequences one token."""
    p = _pieces(shape, layout, constants)
    B, S = known("serve.batch", batch), known("serve.context", context, "tokens")
    state = p["cache"] * 2 * known("model.state", shape.state, "B") * B / (
        p["chips"] * p["bandwidth"])
    compute = p["compute"] * 2 * known("model.active", shape.active) * B / (
        p["chips"] * p["rate"])
    return (p["still"] + compute.called("serve.decode.compute", "s")
            + _read(shape, layout, p, batch).called("serve.decode.weights", "s")
            + (_cached(shape, layout, p, B * S) + state).called("serve.decode.cache", "s")).called(
        "serve.tpot", "s", "scaling book, inference; factors measured")


def ttft(shape: Shape, layout: Layout, constants: Constants, prompt: int, chunk: int) -> Figure:
    """Returns the time to the first token of a prompt on an idle server."""
    p = _pieces(shape, layout, constants)
    I, C = known("serve.prompt", prompt, "tokens"), known("serve.chunk", chunk, "tokens")
    steps = ceil(I / C)
    full, rest = divmod(prompt, chunk)
    parts = [chunk] * full + [rest] * (rest > 0)
    reads = [_read(shape, layout, p, n).value for n in parts]
    weights = known("serve.prefill.weights", sum(reads), "s", "parameters read, chunk by chunk")
    met = known("serve.prefill.context", sum(chunk * i + n for i, n in enumerate(parts)), "tokens")
    compute = p["compute"] * 2 * known("model.active", shape.active) * I / (p["chips"] * p["rate"])
    pairs = I * (I + 1) / 2
    layers = known("model.layers_with_cache", shape.L if shape.cached is None else shape.cached)
    peak = known("chip.flops_bf16", layout.chip.flops["bf16"], "FLOP/s", layout.chip.name)
    attention = (p["attention"] * 4 * layers * known("model.N", shape.N)
                 * known("model.H", shape.H) * pairs / (p["chips"] * peak))
    return (steps * p["still"] + compute.called("serve.prefill.compute", "s")
            + attention.called("serve.prefill.attention", "s") + weights
            + _cached(shape, layout, p, met).called("serve.prefill.cache", "s")).called(
        "serve.ttft", "s", "an idle server; scaling book, inference; factors measured")
