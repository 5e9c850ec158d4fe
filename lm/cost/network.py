"""The time of collectives along one mesh axis, from where jax lays that axis on the network.

    found = axes(slice, {"fsdp": 16, "tensor": 4})
    seconds = all_gather(total_bytes, found["fsdp"])

Sources: the scaling book, chapters `sharding` (collectives on a torus) and `gpus` (a hierarchy of
switches). A collective that crosses the slow network works on both networks at once, so the slower
of the two tells: it is hierarchical and in many pieces.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

from lm.base.errors import UserError, nearest
from lm.cost import tiling
from lm.cost.chips import Torus
from lm.cost.figure import Figure, known, largest, smallest
from lm.cost.slices import Slice
from lm.mesh.config import AXES

RINGS = "scaling book, sharded matrices: max(V / (W n_axes), T_min hops / 2); V (n-1)/n / W in line"
EXCHANGE = "scaling book, sharded matrices: AllToAll = AllGather / 4 in a ring, / 2 in a line"
SHORT = 370 / 150 - 1  # by what a short message seems longer on GPUs: lm.cost.chips.Switch
_ALONE = (1, math.inf, math.inf, 0, 0.0, 0.0, math.inf, 0.0, 1, math.inf)


class Axis(NamedTuple):
    """What the network gives one mesh axis; numbers, or arrays of one element for each mesh.

    A closed ring's `part` is 1, as in the book, which leaves (n-1)/n out for it.
    """

    ways: int          # devices along it
    rate: float        # bytes/s that a device receives in an all-gather, over all of its links
    link: float        # bytes/s to a neighbour along the axis, one way
    hops: float        # steps of an all-gather, each of at least `latency`
    latency: float     # seconds
    part: float        # of all bytes, what a device receives in an all-gather
    exchange: float    # all the bytes of an all-to-all / its seconds
    ramp: float        # bytes by which a message seems longer
    groups: int        # slices, or GPUs' hosts, that it spans
    slow_rate: float   # bytes/s of one device, one way, between them


def axes(slice: Slice, mesh: dict[str, int], across: str = "data") -> dict[str, Axis]:
    """Returns each mesh axis as jax lays it on the network; UserError if the mesh does not fit.

    mesh: devices by axis, those of 1 may lack. across: the axis that is laid across slices.
    """
    sizes = tuple([mesh.get(axis, 1) for axis in AXES])
    for axis in mesh:
        if axis not in AXES:
            raise UserError(f"unknown mesh axis '{axis}'{nearest(axis, AXES)}")
    return dict(zip(AXES, _axes(slice, sizes, across), strict=True))


def stacked(found: list[dict[str, Axis]]) -> dict[str, Axis]:
    """Returns for each mesh axis one Axis of arrays, with an element for each of many meshes."""
    return {axis: Axis(*np.array([one[axis] for one in found], float).T) for axis in AXES}


@functools.lru_cache(1 << 16)
def _axes(slice, sizes, across):
    """The axes of a mesh, in the order of AXES."""
    if math.prod(sizes) != slice.devices:
        raise UserError(f"a mesh of {math.prod(sizes)} devices does not lie on {slice.name} of "
                        f"{slice.chip.name}, which has {slice.devices}")
    if slice.devices == 1:
        return tuple(Axis(*_ALONE) for _ in sizes)
    outer = AXES.index(across)
    inner = list(sizes)
    torus = isinstance(slice.chip.network, Torus)
    if torus:
        if sizes[outer] % slice.count:
            raise UserError(f"mesh.{across} = {sizes[outer]} does not divide over {slice.count} "
                            f"slices of {slice.chip.name}")
        inner[outer] //= slice.count
    layout = _rings if torus else _switched
    laid = iter(layout(slice, tuple([n for n in inner if n > 1])))
    out = [next(laid) if n > 1 else Axis(*_ALONE) for n in inner]
    if torus and slice.count > 1:
        out[outer] = out[outer]._replace(ways=sizes[outer], groups=slice.count,
                                         slow_rate=_slow(slice.chip))
    return tuple(out)


def _slow(chip):
    """The bytes/s of one device beyond the chips' own network."""
    if chip.nic is None:
        raise UserError(f"the rate at which slices of {chip.name} are joined is not known; give "
                        "its bytes/s per chip: nic=...")
    return chip.nic / chip.devices


@functools.lru_cache(1 << 14)
def _rings(slice, sizes):
    """The axes, none of 1, of a mesh on one torus."""
    chip, network = slice.chip, slice.chip.network
    order = tiling.ring(chip.aot, slice.shape)
    if order is not None and len(sizes) > 1:
        return tuple(_uneven(chip, n, *cost) for n, cost in
                     zip(sizes, tiling.cuts(slice.shape, chip.devices, order, sizes), strict=True))
    shape = slice.shape + (1,) * (3 - len(slice.shape)) + (chip.devices,) * (chip.devices > 1)
    closed = slice.wraps + (False,) * (len(shape) - len(slice.shape))
    out = []
    for n, lines in zip(sizes, tiling.lines(shape, sizes), strict=True):
        # The devices of a chip share its links, unless they lie along this axis together.
        pair = next((line.ways for line in lines if line.along == 3), 1)
        share = network.link * pair / chip.devices
        lines = [(line, closed[line.along] and line.ways * line.stride == shape[line.along])
                 for line in lines if line.along < 3]
        out.append(_torus(network, n, n // pair, share, lines))
    return tuple(out)


def _torus(network, ways, chips, link, lines):
    """One axis. lines: its parts along the torus's axes, each with whether it is a closed ring."""
    if not lines:  # the devices of one chip
        return _pair(network, ways)
    rates = [(2 if ring else 1) * link / line.stride for line, ring in lines]
    # A ring's message goes both ways and so half around; in a line, from one end to the other.
    hops = sum(line.stride * (line.ways / 2 if ring else line.ways - 1) for line, ring in lines)
    whole = all(ring and line.stride == 1 for line, ring in lines)
    part = 1.0 if whole else (ways - 1) / ways
    # All bytes but a line's own share must enter each place of the line, at whichever of the chips
    # that are there: links shared by many groups may so be slower than a chip's links in all.
    rate = min(sum(rates), *(part * own * chips / (line.ways - 1)
                             for own, (line, _) in zip(rates, lines, strict=True)))
    # All bytes cross each line at once: of a chip's share, one of n ways moves n times as much.
    busiest = max(line.stride * (line.ways / 8 if ring else (line.ways - 1) / 2)
                  for line, ring in lines) / chips / link
    return Axis(ways, rate, link / max(line.stride for line, _ in lines), hops, network.hop, part,
                1 / busiest, 0.0, 1, math.inf)


def _pair(network, ways):
    """An axis of the devices of one chip."""
    return Axis(ways, network.pair, network.pair, 1, network.hop, (ways - 1) / ways,
                2 * ways / (ways - 1) * network.pair, 0.0, 1, math.inf)


def _uneven(chip, ways, gather, exchange, hops):
    """An axis of a small slice whose devices are in an order of their own: lm.cost.tiling.cuts."""
    network = chip.network
    if hops == 0:
        return _pair(network, ways)
    part = (ways - 1) / ways
    return Axis(ways, part * network.link / gather, network.link / hops, hops, network.hop, part,
                network.link / max(exchange, gather / 2), 0.0, 1, math.inf)


@functools.lru_cache(1 << 14)
def _switched(slice, sizes):
    """The axes, none of 1, of a mesh on GPUs: the devices in their order, host by host.

    In an all-to-all, too, bytes for another host first go to the GPU that has the place there.
    """
    chip, network = slice.chip, slice.chip.network
    rate, domain = network.link * network.reached, min(slice.shape[1], network.domain)
    out, stride = [], math.prod(sizes)
    for ways in sizes:
        stride //= ways
        groups = len({i * stride // domain for i in range(ways)})
        inside = ways / groups  # of each host
        out.append(Axis(
            ways, rate if inside > 1 else math.inf, rate if inside > 1 else math.inf, 1,
            network.hop * (1 + (groups > 1 and inside > 1)), (inside - 1) / inside,
            rate * ways / (inside - 1) * inside if inside > 1 else math.inf, network.ramp, groups,
            _slow(chip) if groups > 1 else math.inf))
    return tuple(out)


def all_gather(total, axis: Axis, name: str = "all_gather"):
    """Returns the seconds until each device along the axis has all `total` bytes.

    A ring's every step sends a new piece, and a step lasts as long as the piece or as the latency,
    whichever is more: so the larger, not the sum. total: a Figure, or bytes as numbers; so is what
    is returned. name: of the Figure.
    """
    size = _figure(total, f"{name}.bytes")
    part, rate = known(f"{name}.part", axis.part), _known(f"{name}.rate", axis.rate)
    seems = size
    if np.any(np.asarray(axis.ramp) > 0):
        seems = size + smallest(SHORT * size, known(f"{name}.ramp", axis.ramp, "bytes", "Switch"))
    times = [seems * part / rate, _steps(axis, name)]
    if np.any(np.asarray(axis.groups) > 1):
        groups = known(f"{name}.groups", axis.groups)
        times.append(size * (groups - 1) / (axis.ways * _known(f"{name}.slow", axis.slow_rate)))
    return _answer(total, largest(*times).called(name, "s", RINGS))


def reduce_scatter(total, axis: Axis, name: str = "reduce_scatter"):
    """Returns the seconds until each device has its part of the sum of all arrays of `total` bytes.

    It is an all-gather run backwards.
    """
    return all_gather(total, axis, name)


def all_reduce(total, axis: Axis, name: str = "all_reduce"):
    """Returns the seconds until each device has the sum of all arrays of `total` bytes."""
    size = _figure(total, f"{name}.bytes")
    both = (reduce_scatter(size, axis, f"{name}.reduce_scatter")
            + all_gather(size, axis, f"{name}.all_gather"))
    return _answer(total, both.called(name, "s", RINGS))


def all_to_all(total, axis: Axis, name: str = "all_to_all"):
    """Returns the seconds to move the sharding of an array of `total` bytes to another of its axes.

    On several axes of a torus the longest tells: V max(A, B, C) / (4 N W) of a device's W.
    """
    size = _figure(total, f"{name}.bytes")
    times = [size / _known(f"{name}.exchange", axis.exchange), _steps(axis, name)]
    if np.any(np.asarray(axis.groups) > 1):
        groups = known(f"{name}.groups", axis.groups)
        times.append(size * (groups - 1)
                     / (groups * axis.ways * _known(f"{name}.slow", axis.slow_rate)))
    return _answer(total, largest(*times).called(name, "s", EXCHANGE))


def permute(size, axis: Axis, name: str = "permute"):
    """Returns the seconds until each device has sent `size` bytes to its neighbour on the axis.

    One message: the last byte leaves when all before it have, and then takes the latency; the sum.
    """
    sent = _figure(size, f"{name}.bytes")
    times = [sent / _known(f"{name}.link", axis.link)]
    if np.any(np.asarray(axis.groups) > 1):
        times.append(sent / _known(f"{name}.slow", axis.slow_rate))
    latency = known(f"{name}.latency", axis.latency, "s", "Torus.hop, Switch.hop")
    return _answer(size, (largest(*times) + latency).called(name, "s", RINGS))


def point_to_point(size, rate: float, hops: float, latency: float = 1e-6,
                   name: str = "point_to_point"):
    """Returns the seconds to send `size` bytes over `hops` links at `rate` bytes/s; see permute."""
    sent = _figure(size, f"{name}.bytes")
    first = known(f"{name}.hops", hops) * known(f"{name}.latency", latency, "s")
    return _answer(size, (sent / _known(f"{name}.rate", rate) + first).called(
        name, "s", "scaling book, TPUs, question 5"))


def _steps(axis, name):
    """The least time of an all-gather."""
    return (known(f"{name}.hops", axis.hops)
            * known(f"{name}.latency", axis.latency, "s", "Torus.hop, Switch.hop"))


def _known(name, rate):
    return known(name, rate, "bytes/s", "lm.cost.chips; lm.cost.network.axes")


def _figure(x, name):
    return x if isinstance(x, Figure) else known(name, x, "bytes")


def _answer(asked, figure):
    """The figure, or its value if the question was a number."""
    return figure if isinstance(asked, Figure) else figure.value
