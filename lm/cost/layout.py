"""Over how many devices each array of a lettered program lies: `lm.mesh.rules`' tables, in numbers.

Sizes and meshes may be arrays, one element for each of many plans.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lm.cost.lettered import Axis, Shape, elements
from lm.mesh import rules

# Letters of lettered programs that stand for one of the tables' under another name.
_TABLE = dict(t="T", p="T", Q="F")


class Setting(NamedTuple):
    """What a program is counted for."""

    sizes: Mapping[str, object]   # of each letter, whole over all devices
    mesh: Mapping[str, object]    # devices along each mesh axis


def letter(axis: Axis) -> str:
    """Returns the letter by which the tables know an axis; '' for one that they do not."""
    has = {x for x, power in axis.letters if power > 0}
    for one in "BVFQ":
        if one in has:
            return _TABLE.get(one, one)
    if "K" in has or "G" in has:
        return "N" if "G" in has else "K"
    for one in "Etp":
        if one in has:
            return _TABLE.get(one, one)
    return "L" if "L" in has else "D" if "D" in has else ""


def places(axes: Sequence[Axis], table: Mapping[str, tuple[str, ...]], s: Setting) -> list[dict]:
    """Returns for each axis how many devices of each mesh axis it lies over, as `rules.spec` says.
    """
    return spread([letter(axis) for axis in axes], axes, table, s)


def spread(names: Sequence[str], axes: Sequence[Axis], table, s: Setting) -> list[dict]:
    """Returns `places` of axes that are called `names`, letters of the tables."""
    free = {axis: np.asarray(n) > 1 for axis, n in s.mesh.items()}
    out = [{} for _ in axes]
    for i in sorted(range(len(names)), key=lambda i: (names[i] == "T") - (names[i] == "V")):
        if not names[i]:
            continue
        size, own = elements([axes[i]], s.sizes), np.ones(())
        wanted = table[names[i]]
        if names[i] == "B" and any(axes[i].has(x) for x in "tp"):  # tokens in one axis
            wanted = (*wanted, "context")
        for axis in wanted:
            more = own * s.mesh[axis]
            takes = free[axis]
            if names[i] in rules.UNEVEN:
                takes = takes & (np.mod(size, more) == 0)
            if np.any(takes):
                own = np.where(takes, more, own)
                out[i][axis] = np.where(takes, s.mesh[axis], 1)
                free[axis] = free[axis] & ~takes
    return out


def ways(axes: Sequence[Axis], table, s: Setting):
    """Returns over how many devices an array of such axes lies."""
    out = np.ones(())
    for place in places(axes, table, s):
        for n in place.values():
            out = out * n
    return out


def nbytes(shape: Shape, table, s: Setting):
    """Returns an array's bytes on one device."""
    return elements(shape.axes, s.sizes) * shape.itemsize / ways(shape.axes, table, s)
