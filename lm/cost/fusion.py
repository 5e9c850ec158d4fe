"""Which results of a lettered program are arrays in memory: a compiler fuses the others away.

What XLA was seen to do for TPUs, each with its reason:

- What only changes an array's shape, or widens its numbers on the way to a product, is no array.
- Elementwise work before a product is done as the product reads it, anew for each product; after
  one, as it is written: the array is the last before several readers.
- Elementwise work of several large arrays that several products read is an array: doing it anew
  would read more than it saves.
- Attention's kernel has arrays of its own layout, and nothing of every pair of tokens is in memory.
- A gradient of turned queries or keys is an array in two halves.
- A matrix that a loop wants the other way round is turned first."""

from fractions import Fraction

from lm.cost.lettered import Op, Program, Shape

HEAVY = {"dot_general", "ragged_dot_general", "ragged_dot", "conv_general_dilated", "scan",
          "while", "cond", "gather", "scatter", "scatter-add", "sort", "top_k", "cumsum",
          "pallas_call", "dynamic_update_slice", "argsort", "custom_call", "all_gather",
          "all_to_all", "ppermute", "reduce_scatter", "psum", "device_put"}
_SAME = {"name", "stop_gradient", "reshape", "squeeze", "expand_dims", "copy", "transpose",
         "optimization_barrier", "copy_p", "reduce_precision"}
_CHEAP = {"convert_element_type", "broadcast_in_dim", "slice", "iota", "split", "pad", "rev",
          "concatenate"}
_HALF = Fraction(1, 2)


def tokens(shape: Shape) -> bool:
    """Whether an array has an axis of tokens or rows."""
    return any(axis.has(x) for axis in shape.axes for x in "Btp")


def heads(shape: Shape) -> bool:
    """Whether an array has the elements of heads, for tokens."""
    return tokens(shape) and any(axis.has("H") for axis in shape.axes)


def heavy(op: Op) -> bool:
    """Whether an operation's result is an array in memory whoever reads it."""
    return op.name in HEAVY or op.name.startswith(("reduce_", "arg"))


def count(shape: Shape) -> tuple:
    """Returns the number of elements in letters, for comparison."""
    powers: dict[str, int] = {}
    factor = Fraction(1)
    for axis in shape.axes:
        factor *= axis.factor
        for letter, power in axis.letters:
            powers[letter] = powers.get(letter, 0) + power
    return factor, tuple(sorted(powers.items()))


class Group:
    """The operations between attention's projections, forward or backward: one kernel's."""

    def __init__(self, ops: list[Op], forward: bool):
        self.ops, self.forward = ops, forward
        self.operands: list[int] = []
        self.results: list[int] = []


class Body:
    """One body of a program: who reads what, and which numbers are arrays in memory.

    Numbers that are the same array have one number: `find` gives it.
    """

    def __init__(self, p: Program, kernel: bool, again: bool, top: bool):
        """kernel: whether a kernel computes attention; else a library does products, which reads
        and writes arrays. again: whether work of several arrays is never done anew.
        """
        self.p, self.top, self.again, self.library = p, top, again, not kernel
        self.shapes = list(p.shapes)
        self.maker = {n: op for op in p.ops for n in op.writes}
        self.place = {n: i for i, op in enumerate(p.ops) for n in op.writes}
        self.inputs = set(p.inputs)
        self.same: dict[int, int] = {}
        self.whole: set[int] = set()      # without tokens and not as they are stored
        self.turned: set[int] = set()     # copies the other way round, of what a loop made
        self.turning: set[int] = set()    # the same of what is gathered, for loops to read
        self.stored: set[int] = set()
        self.fused: dict[int, int] = {}   # a product's result -> the array that is written
        self.halves: set[int] = set()
        self._twins: dict[tuple, int] = {}
        self.apart: set[int] = set()      # made before what they are made of is let go
        for op in p.ops:
            if op.reads and not self.update(op):
                self._alias(op)
        self.outputs = [self.find(n) for n in p.outputs]
        self.readers: dict[int, list[Op]] = {}
        for op in p.ops:
            if not self.alias(op):
                for n in {self.find(x) for x in op.reads}:
                    self.readers.setdefault(n, []).append(op)
        self.groups, self.inside = self._attention() if kernel else ([], {})
        self._store()
        self._known: dict[int, frozenset[int]] = {}

    def product(self, op: Op) -> bool:
        """Whether elementwise work is fused into an operation, before and after it."""
        return op.name == "dot_general" and not self.library

    def find(self, n: int) -> int:
        """The number of the array that a number stands for."""
        while n in self.same:
            n = self.same[n]
        return n

    def alias(self, op: Op) -> bool:
        """Whether an operation makes no array of its own."""
        return len(op.writes) == 1 and op.writes[0] in self.same

    def update(self, op: Op) -> bool:
        """Whether it is elementwise work on parameters and moments, which is done in place."""
        return self.top and "jvp" not in op.scope and not any(
            tokens(self.shapes[n]) for n in op.writes)

    def _alias(self, op):
        w, r = op.writes[0], op.reads[0]
        new, data = self.shapes[w], tokens(self.shapes[w])
        known = self.find(r) in self.whole
        if op.name in ("sharding_constraint", "convert_element_type") and not data:
            twin = self._twins.setdefault((op.name, self.find(r), new), w)
            if twin != w:  # of a table that is the output matrix too
                self.same[w] = twin
                return
        source = self._source(r) if op.name == "transpose" and known and len(new.axes) > 1 else None
        if source is not None and not data and source.body is not None:
            self.turned.add(w)
            self.whole.add(w)
            self.shapes[w] = new._replace(itemsize=max(new.itemsize, 4.0))
        elif op.name in _SAME or op.name == "sharding_constraint" and (data or known):
            if source is not None and not data and source.product is None:
                self.turning.add(w)
            self.same[w] = r
        elif op.name == "convert_element_type" and not data and (
                new.itemsize >= self.shapes[self.find(r)].itemsize):
            self.same[w] = r
        elif op.name == "sharding_constraint":
            self.whole.add(w)
        elif heavy(op):
            self.whole.update(n for n in op.writes if not tokens(self.shapes[n]))
        elif not data and {self.find(x) for x in op.reads} & self.whole:
            self.whole.add(w)

    def _source(self, n):
        """The operation that made a matrix, conversions aside."""
        op = self.maker.get(self.find(n))
        while op is not None and op.name == "convert_element_type":
            op = self.maker.get(self.find(op.reads[0]))
        return op

    def turns(self, n: int) -> bool:
        """Whether a gathered matrix is turned on its way to a reader."""
        while n in self.maker and n not in self.turning:
            op = self.maker[n]
            if op.name not in ("convert_element_type", "sharding_constraint", *_SAME):
                return False
            n = op.reads[0]
        return n in self.turning

    def _attention(self):
        ops = [op for op in self.p.ops if "attend" in op.scope.split("/") and not self.alias(op)]
        back = any("transpose" in op.scope for op in self.p.ops if op.product and not op.again)
        parts = ([op for op in ops if op.again or not back],
                 [op for op in ops if back and not op.again])
        groups, inside = [], {}
        for part, forward in zip(parts, (True, False), strict=True):
            if not any(op.product for op in part):
                continue
            group = Group(part, forward)
            groups.append(group)
            inside.update((id(op), group) for op in part)
            own = {n for op in part for n in op.writes}
            for n in dict.fromkeys(self.find(n) for op in part for n in (*op.reads, *op.writes)):
                shape = self.shapes[n]
                if not heads(shape) or shape.power("t") > 1:
                    continue
                if n not in own:
                    group.operands.append(n)
                elif n in self.outputs or any(inside.get(id(r)) is not group
                                              for r in self.readers.get(n, ())):
                    group.results.append(n)
        return groups, inside

    def _store(self):
        operands = {n for g in self.groups for n in g.operands}
        for op in self.p.ops:
            if self.alias(op) or self.update(op) or id(op) in self.inside:
                continue
            for w in map(self.find, op.writes):
                if self.product(op):
                    self.fused[w] = self._after(w)
                    self.stored.add(self.fused[w])
                elif heavy(op) or w in self.outputs or w in operands or w in self.turned:
                    self.stored.add(w)
                elif any(heavy(r) and not self.product(r) and not r.name.startswith("reduce_")
                         and id(r) not in self.inside for r in self.readers.get(w, ())):
                    if self._trace(w):
                        self.stored.add(w)
                elif tokens(self.shapes[w]) and self._several(w):
                    self.stored.add(w)
                    self.apart.add(w)
        self.stored |= operands | {n for g in self.groups for n in g.results}
        self.apart |= self.turned

    def _after(self, n):
        """The array that is written where a product's result is only worked on further."""
        chain, size = [n], count(self.shapes[n])
        while chain[-1] not in self.outputs and len(self.readers.get(chain[-1], ())) == 1:
            reader, = self.readers[chain[-1]]
            made = self.find(reader.writes[0])
            if heavy(reader) or id(reader) in self.inside or count(self.shapes[made]) != size:
                break
            others = {r for x in reader.reads if self.find(x) != chain[-1] for r in self._trace(x)}
            if any(self.place.get(r, -1) > self.place[n] for r in others):
                break
            chain.append(made)
        if chain[-1] in self.outputs:
            return chain[-1]
        least = min(self.shapes[x].itemsize for x in chain)
        return [x for x in chain if self.shapes[x].itemsize == least][-1]

    def _trace(self, n):
        """What is heavy or comes in, of which a result is made; arrays that are known, too."""
        found, stack, seen = set(), [self.find(n)], set()
        while stack:
            n = stack.pop()
            op = self.maker.get(n)
            if op is None or n in self.inputs or heavy(op) or n in self.stored:
                if self.shapes[n].axes:
                    found.add(self.fused.get(n, n))
            elif n not in seen:
                stack += map(self.find, op.reads)
            seen.add(n)
        return found

    def _several(self, n):
        """Whether elementwise work for several products is done once."""
        readers = self.readers.get(n, ())
        if self.library:  # nothing is done anew but what only looks like work
            return len(readers) > 1 and self.maker[n].name not in _CHEAP
        if sum(map(self.product, readers)) < 2:
            return False
        shape = self.shapes[n]
        if self.groups and heads(shape) and all(map(self.product, readers)) and self.rotates(n):
            self.halves.add(n)
            return True
        size = count(shape)
        large = [r for r in self._trace(n) if count(self.shapes[r]) == size]
        return len(large) > 1 and (self.again or self._sums(n, n))

    def _sums(self, n, first):
        """Whether a sum over an axis is on the way to a result."""
        op = self.maker.get(n)
        if op is None or n in self.inputs or n in self.stored and n != first and (
                not op.name.startswith("reduce_")):
            return False
        return op.name.startswith("reduce_") or not heavy(op) and any(
            self._sums(self.find(x), first) for x in op.reads)

    def rotates(self, n: int, first: bool = True) -> bool:
        """Whether the work that makes a result turns pairs of a head's elements."""
        op = self.maker.get(n)
        if op is None or n in self.inputs or heavy(op) or id(op) in self.inside or (
                n in self.stored and not first):
            return False
        shape = self.shapes[n]
        if len(shape.axes) > 3 and any(a.has("H") and a.factor == _HALF for a in shape.axes):
            return True
        return any(self.rotates(self.find(x), False) for x in op.reads)

    def roots(self, n: int) -> frozenset[int]:
        """The arrays in memory that a result is computed from where it is read."""
        n = self.find(n)
        if n not in self._known:
            op = self.maker.get(n)
            if op is None or n in self.inputs or n in self.stored:
                out = frozenset([n])
            elif n in self.fused:
                out = frozenset([self.fused[n]])
            elif id(op) in self.inside:
                out = frozenset()
            elif heavy(op):
                out = frozenset([n])
            else:
                out = frozenset().union(*map(self.roots, op.reads))
            self._known[n] = out
        return self._known[n]

    def between(self, n: int) -> set[int]:
        """What the work after a product reads beside its result, up to what is written."""
        out, last = set(), self.fused.get(n, n)
        while n != last:
            reader, = self.readers[n]
            out |= {self.find(x) for x in reader.reads} - {n}
            n = self.find(reader.writes[0])
        return out
