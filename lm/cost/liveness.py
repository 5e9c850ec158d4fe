"""Which results of a lettered program are arrays in memory: what elementwise work moves.

What a compiler does to a program decides it, so three of its habits are followed. Elementwise work
is fused into what reads its result; a result is an array in memory only where a matrix product or a
loop reads it, or several do. Such an array is made as late as it can be. And what attention makes
of every pair of tokens is in no memory where a kernel computes it.
"""

from typing import NamedTuple

from lm.cost import layout
from lm.cost.fusion import HEAVY, heavy, tokens
from lm.cost.lettered import Op, Program
from lm.mesh.rules import COMPUTE, STORAGE

_APART = {"device_put"}  # what goes to the host's memory is a part of its own
_FREE = {"convert_element_type", "broadcast_in_dim", "reshape", "squeeze", "transpose", "slice",
         "name", "stop_gradient", "copy", "sharding_constraint", "iota", "split", "concatenate",
         "pad", "rev", "expand_dims", "optimization_barrier", "copy_p"}


class Step(NamedTuple):
    """One point of a body's schedule."""

    op: Op | None
    makes: tuple[int, ...]
    reads: tuple[int, ...]   # arrays in memory
    ends: tuple[int, ...]    # arrays not needed after it
    inner: "Schedule | None"


class Schedule(NamedTuple):
    """A body's arrays in memory, in the order of work."""

    program: Program
    steps: list[Step]
    whole: frozenset[int]    # arrays of parameters' shape that are gathered over `fsdp`
    outputs: frozenset[int]


def schedule(program: Program, kernel: bool, top: bool = True) -> Schedule:
    """Returns when a program's arrays are made and let go.

    kernel: whether a kernel computes the attention. top: whether this is no loop's body.
    """
    return _Scheduler(program, kernel, top).run()


class _Scheduler:
    """Makes one body's schedule."""

    def __init__(self, program, kernel, top):
        self.p, self.kernel, self.top = program, kernel, top
        self.maker = {n: op for op in program.ops for n in op.writes}
        self.inputs = set(program.inputs)
        self.readers: dict[int, list[Op]] = {}
        for op in program.ops:
            for n in set(op.reads):
                self.readers.setdefault(n, []).append(op)
        self.outputs = set(program.outputs)
        self.kept = self._kept()
        self.roots: dict[int, frozenset[int]] = {}
        self.order, self.done = [], set()

    def run(self):
        for op in self.p.ops:
            if self._heavy(op):
                self._ready(op.reads)
                self.order.append((op, op.writes))
                self.done.update(op.writes)
        self._ready(self.p.outputs)
        last = {}
        for at, (op, makes) in enumerate(self.order):
            for n in (*makes, *(r for x in op.reads for r in self._roots(x))):
                last[n] = at
        stay = {r for n in self.p.outputs for r in self._roots(n)}
        steps = []
        for at, (op, makes) in enumerate(self.order):
            ends = tuple(n for n, when in last.items()
                         if when == at and n not in stay and n not in self.inputs)
            inner = None if op.body is None else schedule(op.body, self.kernel, False)
            reads = tuple({r for n in op.reads for r in self._roots(n)})
            steps.append(Step(op, tuple(makes), reads, ends, inner))
        return Schedule(self.p, steps, frozenset(self._whole()), frozenset(stay))

    def _heavy(self, op):
        return heavy(op) and op.name not in _APART

    def _update(self, op):
        """Whether it is elementwise work on parameters and moments, which is done in place."""
        return self.top and "jvp" not in op.scope and not any(
            tokens(self.p.shapes[n]) for n in op.writes)

    def _kept(self):
        """The results of elementwise work that are arrays in memory."""
        kept = set()
        for op in reversed(self.p.ops):
            if self._heavy(op) or self._update(op):
                continue
            for n in op.writes:
                readers = self.readers.get(n, [])
                by_product = any(r.name in HEAVY - _APART for r in readers)
                several = len(readers) > 1 and op.name not in _FREE and self._sinks(n) > 1
                if by_product or n in self.outputs or several:
                    kept.add(n)
        return kept

    def _sinks(self, number):
        """How many different arrays or sums are made of an elementwise result."""
        found, stack, seen = set(), [number], set()
        while stack:
            n = stack.pop()
            if n in seen:
                continue
            seen.add(n)
            if n in self.outputs:
                found.add(("output", n))
            for op in self.readers.get(n, []):
                if self._heavy(op):
                    found.add(op.writes)
                else:
                    stack += op.writes
        return len(found)

    def _roots(self, n):
        """The arrays in memory that a result is computed from where it is read."""
        if n in self.roots:
            return self.roots[n]
        op = self.maker.get(n)
        if op is None or n in self.kept or self._heavy(op):
            out = frozenset([n])
        else:
            out = frozenset().union(*map(self._roots, op.reads)) if op.reads else frozenset()
        self.roots[n] = out
        return out

    def _ready(self, numbers):
        """Puts into the order what is to be in memory before it is read, as late as that."""
        stack = [r for n in numbers for r in self._roots(n)]
        for n in stack:
            if n in self.done or n in self.inputs or n not in self.maker:
                continue
            op = self.maker[n]
            if self._heavy(op):
                continue
            self.done.add(n)
            self._ready(op.reads)
            self.order.append((op, (n,)))

    def _whole(self):
        """Arrays without tokens that a constraint, a product or a sum over tokens made."""
        whole = set()
        for op in self.p.ops:
            for n in op.writes:
                if self._update(op):
                    continue
                widened = (op.name == "convert_element_type" and "transpose" in op.scope
                           and self.p.shapes[n].itemsize > self.p.shapes[op.reads[0]].itemsize)
                if op.name == "sharding_constraint" or self._heavy(op) or (
                        whole & set(op.reads) and not widened):
                    whole.add(n)
        return whole


def sizes_of(schedule: Schedule, number: int, s: layout.Setting, kernel: bool, cache: dict):
    """Returns the bytes of one of a body's arrays on one device."""
    shape = schedule.program.shapes[number]
    if kernel and shape.power("t") > 1:
        return 0.0
    table = COMPUTE
    if not tokens(shape) and (shape.power("L") or number not in schedule.whole):
        table = STORAGE
    key = (shape, table is STORAGE)
    if key not in cache:
        cache[key] = layout.nbytes(shape, table, s)
    return cache[key]
