"""Which devices a compiled program's collectives join, and so which mesh axes they cross."""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from lm.cost import hlo
from lm.cost.collectives import KINDS, payload


class Collective(NamedTuple):
    """One collective operation of a program."""

    kind: str
    bytes: float        # that a device puts in or gets out, whichever is more, in one turn
    groups: np.ndarray  # [groups, devices in each], places in the mesh counted along its last axis
    times: int          # that loops around it turn
    sometimes: bool     # whether a branch around it may not be taken

    def crosses(self, mesh: Mapping[str, int], axis: str) -> bool:
        """Returns whether devices that differ along `axis` take part in one."""
        at = np.unravel_index(self.groups, tuple(mesh.values()))[list(mesh).index(axis)]
        return bool((at != at[:, :1]).any())

    @property
    def sent(self) -> float:
        """Bytes that a device sends in all its turns, by ring algorithms."""
        n = self.groups.shape[1]
        share = {"all-reduce": 2 * (n - 1) / n, "collective-permute": 1}.get(self.kind, (n - 1) / n)
        return self.times * self.bytes * share


def read(text: str, devices: int) -> list[Collective]:
    """Returns the collectives of a program for so many devices, `compiled.as_text()`."""
    kinds = ((x, x.instruction.op.removesuffix("-start")) for x in hlo.once(text))
    return [Collective(kind, payload(x.instruction, x.beside), _groups(x.instruction.rest, devices),
                       x.times, x.sometimes) for x, kind in kinds if kind in KINDS]


def _groups(attributes, devices):
    """The devices of each group, in one of XLA's four notations."""
    listed = re.search(r"(?:replica_groups|source_target_pairs)=\{(\{.*?\}|)\}", attributes)
    if listed:
        groups = [_numbers(g) for g in re.findall(r"\{([\d,]+)\}", listed[1])]
        return np.array(groups or [range(devices)])
    counted = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes)
    if counted:
        return _count(counted[2], counted[3]).reshape(_numbers(counted[1]))
    sizes, order, axes = re.search(
        r"replica_groups=mesh\[(.*?)\](?:, device_ids=\((.*?)\))? \{(.*?)\}", attributes).groups()
    ids = np.arange(devices)
    if order:
        ids = _count(*re.fullmatch(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", order).groups())
    shape, joined = [], []
    for name, size in re.findall(r"'(\w+)'=(\d+)", sizes):
        # An axis may be there whole, or as 'axis':(2)4: the 4 of its parts that come after 2.
        part = re.search(rf"'{name}'(?::\((\d+)\)(\d+))?(?=,|$)", axes)
        before, among = (part[1] or 1, part[2] or size) if part else (size, 1)
        joined.append(len(shape) + 1)
        shape += [int(before), int(among), int(size) // int(before) // int(among)]
    ids = np.moveaxis(ids.reshape(shape), joined, range(-len(joined), 0))
    return ids.reshape(-1, math.prod(shape[i] for i in joined))


def _count(shape, order):
    """0, 1, 2, ... in a shape, its axes then in another order."""
    shape = _numbers(shape)
    return np.arange(math.prod(shape)).reshape(shape).transpose(order and _numbers(order))


def _numbers(text):
    return [int(x) for x in text.split(",")]
