"""The seconds of a training step on one device, part by part, from the work that was traced.

`ideal` is what each part would take at the chip's published rates, `combine` what a step takes with
software as it is: `lm.cost.constants`. Its work is done one part after the other; messages travel
beside it. Of each mesh axis's messages a share is waited for, and all that the work is too short to
hide.
"""

from collections.abc import Mapping

import numpy as np

from lm.cost import network
from lm.cost.chips import Chip
from lm.cost.figure import Figure, known, largest, total
from lm.cost.work import Work

TRACED = "traced: the step's own operations, sizes of one device"
BOOK = "scaling book, rooflines"
BESIDE = ("fsdp", "tensor", "data", "context", "expert", "stage", "host")   # the work

_KINDS = dict(all_gather=network.all_gather, reduce_scatter=network.reduce_scatter,
              all_reduce=network.all_reduce, all_to_all=network.all_to_all,
              permute=network.permute)


def ideal(w: Work, chip: Chip, axes: Mapping[str, network.Axis], *, bandwidth: float,
          seen: float = 0.5, H: int = 128, idle=0.0, again: float = 1.0,
          host=0.0) -> dict[str, Figure]:
    """Returns the seconds of each part at the chip's rates: `ideal.matmul` and so on, and `idle`.

    axes: the network of each mesh axis. bandwidth: of a device's memory, bytes/s. seen: the share
    of all pairs of tokens that attention computes. H: its head width. idle: the share of a
    pipeline's time in which a stage waits. again: what the products that are computed again are
    multiplied by. host: bytes of a device that go to the host's memory and back.
    """
    rate = known("chip.flops", chip.peak(), "FLOP/s", f"{chip.name}: lm.cost.chips")
    wide = known("chip.hbm_bandwidth", bandwidth, "bytes/s", f"{chip.name}: lm.cost.chips")
    out = _products(w, chip, rate, wide, again)
    pairs = known("attention.flops", sum((p.flops for p in w.products if p.attention),
                                         np.zeros(())), "FLOP", TRACED)
    fill = known("attention.fill", min(1.0, H / (chip.mxu or H)), "",
                 "heads narrower than the matrix unit leave the rest of it idle")
    out["attention"] = pairs * known("attention.seen", seen, "", "causal, windows") / (rate * fill)
    out["elementwise"] = known("elementwise.bytes", w.moved, "bytes", TRACED) / wide
    out["optimizer"] = 2 * known("optimizer.bytes", w.updated, "bytes", f"{TRACED}; written once "
                                 "as they are read") / wide
    for axis in dict.fromkeys(m.axis for m in w.messages):
        if np.any(np.asarray(axes[axis].ways) > 1):
            out[axis] = _messages([m for m in w.messages if m.axis == axis], axes[axis], axis)
    if np.any(np.asarray(host) > 0):
        out["host"] = known("host.bytes", host, "bytes", TRACED) / known(
            "chip.pcie", chip.pcie, "bytes/s", f"{chip.name}: lm.cost.chips")
    out = {name: x.called(f"ideal.{name}", "s", network.RINGS if name in BESIDE else BOOK)
           for name, x in out.items()}
    joined = sum(np.log2(np.asarray(axis.groups, float)) for axis in axes.values())
    if np.any(joined > 0):
        out["joined"] = known("network.doublings", joined, "",
                              "log2 of the slices, or of the GPUs' hosts, on the slow network")
    if np.any(np.asarray(idle) > 0):
        out["idle"] = known("pipeline.idle", idle, "", "lm.nn.pipeline.Plan.idle")
    return out


def combine(ideal: Mapping, k: Mapping) -> dict:
    """Returns the parts of a step, `step_time.matmul` and so on, and `step_time` itself.

    Of what travels beside the work, `step_time.fsdp` is what it takes by itself and
    `step_time.fsdp.exposed` how much longer the step is for it.

    ideal: as `ideal` gives them, or seconds as plain arrays. k: the constants by name, likewise.
    """
    def at(name):
        return ideal.get(name, 0.0)

    def named(x, name, source=""):
        return x.called(name, "s", source) if isinstance(x, Figure) else x

    matmul = at("matmul") / k["matmul"]
    if "experts" in ideal:
        matmul = matmul + at("experts") / (k["matmul"] * k["experts"])
    if "waits" in ideal:
        matmul = matmul + at("waits")
    work = dict(
        matmul=matmul, attention=at("attention") / k["attention"],
        elementwise=at("elementwise") / k["memory"], optimizer=at("optimizer") / k["memory"])
    out = {f"step_time.{name}": named(x, f"step_time.{name}", "the part at the rate reached")
           for name, x in work.items()}
    busy = named(total(out.values()) if isinstance(matmul, Figure) else sum(out.values()),
                 "step_time.work", "one part after the other")
    step = busy + k["overhead"]
    if "idle" in ideal:
        bubble = named(busy * at("idle") / (1 - at("idle")), "step_time.bubble",
                       "Narayanan et al. 2021, section 2.2")
        out["step_time.bubble"], step = bubble, step + bubble
    for name in BESIDE:
        if name not in ideal:
            continue
        time = named(at(name), f"step_time.{name}")
        hidden = time * (1 - k[name]) - busy
        left = largest(0.0, hidden) if isinstance(time, Figure) else np.maximum(0.0, hidden)
        exposed = named(k[name] * time + left, f"step_time.{name}.exposed",
                        "what is waited for, and what the work is too short to hide")
        out |= {f"step_time.{name}": time, f"step_time.{name}.exposed": exposed}
        step = step + exposed
    if "joined" in ideal:
        lag = named(step * k["lag"] * at("joined"), "step_time.lag",
                    "whoever waits for the last of n waits longer by each doubling of n")
        out["step_time.lag"], step = lag, step + lag
    return out | {"step_time.work": busy, "step_time": named(step, "step_time")}


def _products(w, chip, rate, wide, again):
    """Matrix products at the matrix unit's rate, and what they wait for memory beyond that."""
    flops = dict(matmul=np.zeros(()), experts=np.zeros(()))
    waits = np.zeros(())
    for p in w.products:
        if p.attention:
            continue
        slower = chip.peak() / (chip.peak(_unit(p.dtype, chip)) or chip.peak())
        own = p.padded(chip.mxu or 1) * slower * (again if p.again and not p.last else 1.0)
        kind = "experts" if p.experts else "matmul"
        flops[kind] = flops[kind] + own
        waits = waits + np.maximum(0.0, p.bytes * p.times / wide.value - own / rate.value)
    out = {name: known(f"{name}.flops", x, "FLOP", f"{TRACED}, filled up to the unit's tiles")
           / rate for name, x in flops.items() if name == "matmul" or np.any(x > 0)}
    if np.any(waits > 0):
        out["waits"] = known("matmul.waits", waits, "s",
                             "operands that memory gives more slowly than they are multiplied")
    return out


def _unit(dtype, chip):
    """The rate of a product's operands, as Chip.flops names it."""
    for word, unit in (("float8", "fp8"), ("int8", "int8")):
        if word in dtype and unit in chip.flops:
            return unit
    return "tf32" if dtype == "float32" and "tf32" in chip.flops else None


def _messages(messages, axis, name):
    """All messages along one mesh axis."""
    sums, volume = np.zeros(()), np.zeros(())
    for m in messages:
        sums = sums + m.times * _KINDS[m.kind](m.bytes, axis)
        volume = volume + m.times * m.bytes
    pace = np.divide(volume, sums, out=np.full(np.shape(sums), np.inf), where=sums > 0)
    return known(f"{name}.bytes", volume, "bytes", TRACED) / known(
        f"{name}.rate", pace, "bytes/s", "lm.cost.network: the axis's links, steps, slow network")
