"""What a compiled step sends, rearranges and holds, by the line of source that it comes from."""

import itertools
import math
import re
from collections.abc import Mapping, Sequence

from lm.cost import hlo, traffic
from lm.cost.collectives import KINDS, SCATTER
from lm.cost.heap import Heap
from lm.plan import source

# Hz, of the cycles that a TPU's compiler estimates: what its scheduler prints with them.
CLOCKS = {"v4": 1.05e9, "v5e": 1.5e9, "v5p": 1.75e9, "v6e": 1.75e9, "7x": 1.9e9}
SMALL = 2**20    # bytes below which moving an array is not worth a line
_LAYOUT = re.compile(r"\{([\d,]*)[:}]")


class Program:
    """A compiled program, read once: `instructions` as run, `where` each comes from."""

    def __init__(self, text: str):
        self.text = text
        self.instructions = list(hlo.executed(text))
        self.where = source.reader(text)
        self.caller = {called: x for x in self.instructions
                       if x.instruction.op in ("fusion", "async-start")
                       for called in x.instruction.calls("calls")}

    def near(self, x: hlo.Executed) -> tuple[str, str]:
        """Returns where an instruction comes from, and as what operation: its own line, or that of
        one next to it, or that of what it is a part of; ('', the compiler's name) if none is known.
        """
        ways, seen = [x.instruction], set()
        for i in ways:   # grows
            if (found := self.where(i)):
                return found, source.operation(i)
            if len(seen) > 30:
                break
            seen.add(i.name)
            users = (j for j in x.beside.values() if i.name in j.operands)
            used = (x.beside[name] for name in i.operands if name in x.beside)
            ways += [j for j in itertools.chain(users, used) if j.name not in seen]
        caller = self.caller.get(x.within)
        return self.near(caller) if caller else ("", x.instruction.op)


def collectives(p: Program, mesh: Mapping[str, int]) -> list[dict]:
    """Returns the collectives of one step, most bytes first: kind, axis, count, bytes, where.

    mesh: devices along each axis, in order. bytes: by one device, in or out, whichever is more.
    axis: the mesh axes that are crossed, joined by `+`.
    """
    rows: dict[tuple, list] = {}
    for x, c in _sends(p, math.prod(mesh.values())):
        kind = "reduce-scatter" if x.within.startswith(SCATTER) else c.kind
        key = kind, _axes(c, mesh), p.near(x)[0]
        row = rows.setdefault(key, [0, 0.0])
        row[0] += c.times
        row[1] += c.times * c.bytes
    out = [dict(kind=kind, axis="+".join(axes), count=count, bytes=total, where=where)
           for (kind, axes, where), (count, total) in rows.items() if axes]
    return sorted(out, key=lambda row: -row["bytes"])


def _sends(p, devices):
    """(instruction, what it joins) of every collective."""
    found = [x for x in hlo.once(p.text) if x.instruction.op.removesuffix("-start") in KINDS]
    return zip(found, traffic.read(p.text, devices), strict=True)


def _axes(c, mesh):
    """The mesh axes along which devices that take part in a collective differ."""
    return tuple(axis for axis, size in mesh.items() if size > 1 and c.crosses(mesh, axis))


def gathers(p: Program, mesh: Mapping[str, int], weights: Sequence[int], L: int) -> list[dict]:
    """Returns gathers over data or fsdp of what is no weight, most bytes first.

    Such an array, one of activations as a rule, was shared out over the batch and is brought whole
    to every device: seldom what was meant. weights: numbers of elements, of L layers together.
    """
    rows: dict[tuple, list] = {}
    for x, c in _sends(p, math.prod(mesh.values())):
        axes = _axes(c, mesh)
        if c.kind != "all-gather" or not {"data", "fsdp"} & set(axes) or c.bytes < SMALL:
            continue
        others = [n for axis, n in mesh.items() if axis not in axes]
        parts = {math.prod(some) for k in range(len(others) + 1)
                 for some in itertools.combinations(others, k)}
        whole = {n // part for n in weights for part in parts}
        whole |= {n // L for n in whole}
        arrays = re.findall(r"\w+\[[\d,]*\]", x.instruction.shape)
        if x.instruction.op.endswith("-start"):   # what goes in, then what comes out
            arrays = arrays[len(arrays) // 2:]
        odd = [array for array in arrays if math.prod(map(int, re.findall(
            r"\d+", array.partition("[")[2]))) not in whole]
        if odd:
            _add(rows, ("full gather", ", ".join(odd), f"over {'+'.join(axes)}", p.near(x)[0]),
                 c.times, c.bytes)
    return _sorted(rows)


def relayouts(p: Program) -> list[dict]:
    """Returns copies of large arrays to another order of axes, most bytes first.

    Those that only bring an array to another memory, or keep a loop's state, are none.
    """
    rows: dict[tuple, list] = {}
    for x in p.instructions:
        i = x.instruction
        if i.op not in ("copy", "transpose") or x.within in p.caller:
            continue
        size = hlo.size(i.shape)
        before = x.beside[i.operands[0]].shape if i.operands[0] in x.beside else ""
        first, last = (_LAYOUT.search(shape) for shape in (before, i.shape))
        if size < SMALL or not first or not last or (i.op == "copy" and first[1] == last[1]):
            continue
        _add(rows, ("relayout", i.shape.partition("{")[0], f"{{{first[1]}}} to {{{last[1]}}}",
                    p.near(x)[0]), x.times, size)
    return _sorted(rows)


def _add(rows, key, times, size):
    row = rows.setdefault(key, [0, 0.0])
    row[0] += times
    row[1] += times * size


def _sorted(rows):
    return sorted((dict(kind=kind, shape=shape, how=how, where=where, count=count, bytes=total)
                   for (kind, shape, how, where), (count, total) in rows.items()),
                  key=lambda row: -row["bytes"])


def cycles(p: Program, chip: str) -> dict | None:
    """Returns the compiler's own estimate of a step: cycles, clock in Hz, seconds; None if none.

    Without kernels written by hand, collectives and transfers, for which it has none; each
    element-wise operation is estimated up to five times too slow.
    """
    found = [(x.times, re.search(r'estimated_cycles":"(\d+)"', x.instruction.rest))
             for x in p.instructions if x.within not in p.caller]
    total = sum(times * int(m[1]) for times, m in found if m)
    if not total or chip not in CLOCKS:
        return None
    return dict(cycles=total, clock=CLOCKS[chip], seconds=total / CLOCKS[chip])


def largest(p: Program, heap: Heap, count: int = 12) -> list[dict]:
    """Returns the largest buffers at the peak: bytes, count, shape, op, where; equal ones as one.
    """
    known = {x.instruction.name: x for x in p.instructions}
    rows: dict[tuple, list] = {}
    for name, size in heap.held:
        name, _, index = name.removesuffix("}").partition("{")
        x = known.get(name)
        if x is None:
            key = "", "", name
        else:
            shape = re.sub(r"\{[^}]*\}", "", _part(x.instruction.shape, index))
            key = shape, *p.near(x)
        row = rows.setdefault(key, [0, 0])
        row[0] += 1
        row[1] += size
    out = [dict(bytes=total, count=n, shape=shape, op=op, where=where)
           for (shape, where, op), (n, total) in rows.items()]
    return sorted(out, key=lambda row: -row["bytes"])[:count]


def _part(shape, index):
    """An array's shape in a tuple's, by its place there, as `1` or `0,2`."""
    for i in filter(None, index.split(",")):
        parts, depth = [""], 0
        for letter in re.sub(r"/\*.*?\*/", "", shape)[1:-1]:
            depth += (letter in "([{") - (letter in ")]}")
            parts += [""] if letter == "," and not depth else []
            parts[-1] += "" if letter == "," and not depth else letter
        if int(i) >= len(parts):
            return shape
        shape = parts[int(i)].strip()
    return shape


def guessed(p: Program) -> bool:
    """Returns whether some loops' turns are not known, so that what is in them counts once."""
    return any(not x.known for x in p.instructions)
