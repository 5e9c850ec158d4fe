"""How jax's mesh_utils lays a logical mesh on a torus: which devices share which links.

`lines` follows create_device_mesh(allow_split_physical_axes=True): whole axes of the torus to an
axis of the mesh where that works out, else parts of them, of which those of the mesh's later axes
are neighbours. `ring` and `cuts` are for the small slices whose devices it puts in another order.
"""

import functools
import itertools
import math
from typing import NamedTuple

import numpy as np

_TRAYS = {  # by lm.cost.chips.Chip.aot and slice: jax._src.mesh_utils.device_kind_handler_dict
    ("v5e", (2, 2)): (0, 1, 3, 2), ("v5e", (2, 4)): (0, 1, 2, 3, 7, 6, 5, 4),
    ("v6e", (2, 2)): (0, 1, 3, 2), ("v6e", (2, 4)): (0, 1, 2, 3, 7, 6, 5, 4),
    **{("tpu7x", (2, 2, n)): tuple(8 * i + j for i in range(n) for j in (0, 1, 2, 3, 6, 7, 4, 5))
       for n in (1, 2, 4)},
}


class Line(NamedTuple):
    """A part of a mesh axis: `ways` devices along an axis of the torus, each `stride` apart."""

    along: int
    ways: int
    stride: int


def lines(torus: tuple[int, ...], sizes: tuple[int, ...]) -> list[list[Line]]:
    """Returns for each size of the mesh the lines that its axis consists of."""
    parts = whole(torus, sizes) or split(torus, sizes)
    out = []
    for i, part in enumerate(parts):
        out.append([Line(a, n, math.prod(later[a] for later in parts[i + 1:]))
                    for a, n in enumerate(part) if n > 1])
    return out


def whole(torus, sizes):
    """Returns the length along each axis of the torus for each size, of whole axes; None if none.

    As _create_device_mesh_for_nd_torus: the last size first, and the most axes for each.
    """
    left, out = list(torus), []
    for size in reversed(sizes):
        part = [1] * len(torus)
        if size > 1:
            taken = next((axes for count in range(len(torus), 0, -1)
                          for axes in itertools.combinations(range(len(torus)), count)
                          if math.prod(left[a] for a in axes) == size), None)
            if taken is None:
                return None
            for a in taken:
                part[a], left[a] = torus[a], 0
        out.append(tuple(part))
    return out[::-1]


def split(torus, sizes):
    """Returns the same of parts of axes, as _create_device_mesh_for_nd_torus_splitting_axes."""
    used, out = (1,) * len(torus), []
    for size in reversed(sizes):
        free = tuple(extent // taken for extent, taken in zip(torus, used, strict=True))
        best = max(_parts(free, size), key=functools.partial(_rank, torus, used))
        used = tuple(a * b for a, b in zip(used, best, strict=True))
        out.append(best)
    return out[::-1]


def _rank(torus, used, part):
    """What of two ways to split is the larger, is preferred: _prefer_first_logical_axis_assignment.

    Most devices on whole axes; the most whole axes; most on axes that others are on already.
    """
    full = [n for n, extent in zip(part, torus, strict=True) if n == extent]
    shared = math.prod(n for n, taken in zip(part, used, strict=True) if taken > 1)
    return math.prod(full), sum(n > 1 for n in full), shared, part


@functools.lru_cache(1 << 14)
def _parts(free, size):
    """All tuples whose product is `size` and whose elements divide those of `free`."""
    if not free:
        return [()] if size == 1 else []
    return [(n, *rest) for n in range(1, min(free[0], size) + 1)
            if free[0] % n == 0 and size % n == 0 for rest in _parts(free[1:], size // n)]


def ring(kind: str | None, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Returns the order of devices that jax prefers on a small slice; None: as they lie."""
    return _TRAYS.get((kind, shape))


def cuts(shape, devices, order, sizes) -> list[tuple[float, float, int]]:
    """Returns for each mesh axis of devices in any order on an open torus what limits collectives.

    devices: of one chip. A cut through the torus, or around one chip, lets through one link's rate
    times its links: the slowest gives the seconds per byte in all, times that rate, of an
    all-gather and of an all-to-all. The last number: hops between the farthest of a group, 0 if
    they are of one chip.
    """
    shape = shape + (1,) * (3 - len(shape))
    number = np.arange(math.prod(shape))
    place = np.stack([number % shape[0], number // shape[0] % shape[1],
                      number // (shape[0] * shape[1])], 1)  # of a chip: x runs fastest
    grid = np.array(order).reshape(sizes) // devices
    out = []
    for i, ways in enumerate(sizes):
        groups = place[np.moveaxis(grid, i, -1).reshape(-1, ways)]
        gather, exchange = [0.0], [0.0]
        for a, extent in enumerate(shape):
            links = math.prod(shape) / extent
            for at in range(1, extent):
                below = (groups[..., a] < at).sum(-1) / ways
                cross = below * (below < 1)
                gather += [cross.sum() / links, ((1 - below) * (below > 0)).sum() / links]
                exchange.append((below * (1 - below)).sum() / links)
        for chip in place:
            links = sum((chip[a] > 0) + (chip[a] < extent - 1) for a, extent in enumerate(shape))
            here = (groups == chip).all(-1).sum(-1) / ways
            outside = (1 - here) * (here > 0)
            gather.append(outside.sum() / links)
            exchange.append((here * outside).sum() / links)
        hops = np.abs(groups[:, :, None] - groups[:, None]).sum(-1).max()
        out.append((float(max(gather)), float(max(exchange)), int(hops)))
    return out
