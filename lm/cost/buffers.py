"""The arrays that a lettered program holds on one device from step to step of its work.

A compiler orders work so that an array is made as late as it can be. What it does beside what the
program says is in the schedule as arrays without an operation: weights of all layers in the format
that they are computed in, what is brought together over `tensor`, copies that kernels ask for.
"""

from typing import NamedTuple

from lm.cost.beside import converted, experts, kinds, made, outputs, spread
from lm.cost.fusion import Body, count, heads, heavy, tokens
from lm.cost.lettered import Op, Program, Shape, elements

LANES, LINES = 128, 8  # a tile of a TPU's memory: elements of a row, rows


class Habits(NamedTuple):
    """What the compiler does for one generation of chips and not for another."""

    again: bool = True  # stores elementwise work of several arrays for several products
    sums: bool = True   # leaves the softmax's sums as the kernel gives them until they are read
    rows: bool = True   # converts experts' weights of all layers as their products' kernel has them


class Step(NamedTuple):
    """One step of a body's work."""

    op: Op
    makes: tuple[int, ...]
    reads: tuple[int, ...]   # arrays in memory
    ends: tuple[int, ...]    # arrays not needed after it
    inner: "Schedule | None"
    beside: tuple[int, ...]  # held while it runs
    early: tuple[int, ...]   # of `ends`, those whose place what it makes can take
    late: tuple[int, ...]    # of `makes`, those that a loop hands out at its end


class Schedule(NamedTuple):
    """A body's steps, and of its arrays: what they are and how they lie."""

    program: Program         # with the shapes of all arrays
    steps: list[Step]
    start: tuple[int, ...]   # arrays that come in and are let go inside
    whole: frozenset[int]    # not spread over what parameters are stored over
    lies: dict[int, str]     # arrays that lie otherwise than the tables say: see `nbytes`
    kinds: dict[int, str]    # of `beside.KINDS`
    outputs: dict[int, str]  # which outputs lie otherwise, or are on the `host`


def schedule(program: Program, kernel: bool, habits: Habits | None = None,
             top: bool = True) -> Schedule:
    """Returns when a program's arrays are made and let go.

    kernel: whether a kernel computes the attention. top: whether this is no loop's body.
    """
    return _Scheduler(program, kernel, habits or Habits(), top).run()


class _Scheduler:
    """Makes one body's schedule."""

    def __init__(self, p, kernel, habits, top):
        self.p, self.kernel, self.habits, self.top = p, kernel, habits, top
        self.b = Body(p, kernel, habits.again, top)
        self.shapes, self.lies = self.b.shapes, {}
        self.order: list[tuple] = []     # (op, makes, values read, beside, in place)
        self.done: set[int] = set()
        self.until: dict[int, int] = {}  # arrays without readers -> the step after which they go
        self.follow: dict[int, int] = {}  # or the array with which they go
        self.together: dict[int, int] = {}
        self.cast = {}                   # stacked weights -> the same as they are computed with
        self.angles: dict[tuple, list[int]] = {}  # of a rotation, by the size of what is turned
        self.held: dict[int, list[int]] = {}  # arrays without readers, by the step of their making
        self.sums = None
        self.extra: dict[int, str] = {}  # kinds of arrays without an operation

    def new(self, shape, lies="", kind="working", whole=False):
        """An array without an operation."""
        self.shapes.append(shape)
        n = len(self.shapes) - 1
        self.extra[n] = kind
        if lies:
            self.lies[n] = lies
        if whole:
            self.b.whole.add(n)
        return n

    def run(self):
        b, p = self.b, self.p
        self.inner = {id(op): schedule(op.body, self.kernel, self.habits, False)
                      for op in p.ops if op.body is not None}
        self.unrolled = self._unrolled()
        last = {id(g): g.ops[-1] for g in b.groups}
        # What only a report needs, as the loss's own loop, is done when all else is.
        late = [op for op in p.ops if op.body is not None
                and not any(self.shapes[w].axes for w in op.writes)]
        for op in [op for op in p.ops if op not in late] + late:
            group = b.inside.get(id(op))
            if b.alias(op):
                continue
            if group is not None:
                if last[id(group)] is op:
                    self._kernel(op, group)
            elif heavy(op):
                self._heavy(op)
        self._ready(p.outputs)
        return self._steps()

    def _add(self, op, makes, reads, beside=(), inplace=False):
        more = self.held.pop(len(self.order), ())
        makes = tuple(dict.fromkeys(n for n in (*makes, *more) if n not in self.done))
        self.done.update(makes)
        self.order.append((op, makes, tuple(reads), tuple(beside), inplace))

    def _kernel(self, op, group):
        """The step of a kernel, whose arrays have rows of H filled up."""
        self._ready(group.operands)
        beside = [self.new(self.shapes[n], "lanes") for n in group.operands if n in self.b.inputs]
        self.lies.update(dict.fromkeys((*group.operands, *group.results), "lanes"))
        makes = list(group.results)
        if group.forward and group.operands:
            most = max(group.operands, key=lambda n: elements(self.shapes[n].axes, _MANY))
            rows = tuple(a for a in self.shapes[most].axes if not a.has("H"))
            sums = self.new(Shape(rows, 4.0), "sums")
            if self.habits.sums and len(self.b.groups) > 1:
                self.sums = [sums, 3]
                makes.append(sums)
            else:
                beside.append(sums)
        self._add(op, makes, group.operands, beside)

    def _heavy(self, op):
        b, beside = self.b, []
        reads, makes = list(op.reads), [b.fused.get(b.find(w), b.find(w)) for w in op.writes]
        self._ready(op.reads)
        if b.product(op):
            more = b.between(b.find(op.writes[0]))
            self._ready(more)
            together, beside = self._tensor(op)
            makes += together
            reads += [*more, *together]
            if self.sums and not op.again:  # read for the last time with the layer's last products
                self.sums[1] -= 1
                if not self.sums[1]:
                    self.until[self.sums[0]] = len(self.order)
                    self.sums = None
        elif op.name.startswith("ragged"):
            beside = [self.new(shape, lies, whole=not lies)
                      for shape, lies in experts(self.b, op)]
        elif op.name.startswith("scatter") and makes[0] in b.whole:
            added = self.new(self.shapes[makes[0]], "added", "gradients", True)
            self.follow[added] = makes[0]
            makes.append(added)
        elif op.body is not None:
            beside = [self.new(self.shapes[b.find(n)], whole=True) for n in op.reads if b.turns(n)]
            cast = self._cast(op)
            makes += [*cast, *self.unrolled.get(id(op), ())]
            reads += [*cast, *self.unrolled.get(id(op), ())]
            self._stacks(op, makes)
        self._add(op, makes, reads, beside)

    def _ready(self, numbers):
        """Puts into the order what is to be in memory before it is read, as late as that."""
        b = self.b
        for n in sorted({r for x in numbers for r in b.roots(x)}, key=lambda r: b.place.get(r, -1)):
            op = b.maker.get(n)
            if (n in self.done or n in b.inputs or op is None or heavy(op) or id(op) in b.inside
                    or n in b.fused.values()):
                continue
            self.done.add(n)
            self._ready(op.reads)
            self.done.discard(n)
            self._add(op, (n,), op.reads, self._wide(n), n not in b.apart)

    def _wide(self, n):
        """What elementwise work holds beside: float32 copies that are laid out anew."""
        shape = self.shapes[n]
        wide = shape._replace(itemsize=4.0)
        if self.b.groups and heads(shape) and self.b.rotates(n):
            angles = self.angles.setdefault(count(shape), [])
            if not angles:  # made for every head where heads are spread, and used both ways
                angles += [self.new(wide, "angles"), self.new(wide, "angles")]
                self.held[len(self.order)] = angles
            else:
                self.until.update(dict.fromkeys(angles, len(self.order)))
            if n in self.b.halves:
                self.lies[n] = "halves"
                return [self.new(wide, "lanes")]
            return [self.new(wide, "lanes"), self.new(wide, "lanes")]
        choices = any(str(axis) == "k" for axis in shape.axes[:-1])
        if choices and len(shape.axes) == 3 and "transpose" in self.b.maker[n].scope:
            return [self.new(wide)]
        return []

    def _tensor(self, op):
        """(tokens brought together over `tensor` for a product, what scattering its result holds).
        """
        reads, scatters = spread(self.b, op)
        for n in reads:
            if n not in self.together:
                self.together[n] = self.new(self.shapes[n], "together")
        made = self.shapes[self.b.find(op.writes[0])]
        return [self.together[n] for n in reads], [self.new(made, "ring")] if scatters else []

    def _cast(self, op):
        """Weights that a loop's body converts, converted for all its turns before the first."""
        out = []
        for at, itemsize in converted(op):
            n = self.b.find(op.reads[at])
            if n not in self.cast:
                shape = self.shapes[n]._replace(itemsize=itemsize)
                self.cast[n] = self.new(shape, "", "gathered")
            out.append(self.cast[n])
        return out

    def _stacks(self, op, makes):
        """How what a loop makes of all its turns lies."""
        for n in makes:
            shape = self.shapes[n]
            if shape.power("L") and shape.power("E") and len(shape.axes) > 3 and (
                    self.habits.rows or n not in self.cast.values()):
                self.lies[n] = "rows"  # for the kernel of experts' products
        for at, lies in self.inner[id(op)].outputs.items():
            n = self.b.find(op.writes[at])
            if lies == "host":
                self.extra[n] = lies
            elif lies == "kernel":  # and as the kernel gave it, with the softmax's sums
                shape = self.shapes[n]
                rows = tuple(a for a in shape.axes if not a.has("H"))
                kept = [self.new(shape, "lanes", "activations"),
                        self.new(Shape(rows, 4.0), "", "activations")]
                self.follow.update(dict.fromkeys(kept, n))
                makes += kept
            else:
                self.lies[n] = lies

    def _unrolled(self):
        """What a loop of one turn keeps: it is none, so that nothing in it is done again."""
        one = [op for op in self.p.ops if op.name == "scan" and not op.times.letters
               and op.times.factor == 1 and any(o.product for o in op.body.ops)]
        back = [op for op in one if any(o.again for o in op.body.ops)]
        out = {}
        for f, g in zip([op for op in one if op not in back], reversed(back), strict=False):
            first, again = self.inner[id(f)], self.inner[id(g)]
            have = {made(first, n) for step in first.steps for n in (*step.makes, *step.beside)}
            kept: list[int] = []
            for step in again.steps:
                if step.op.product is not None and not step.op.again:
                    break
                kept = [n for n in (*kept, *step.makes) if n not in step.ends]
            out[id(f)] = out[id(g)] = [
                self.new(again.program.shapes[n], again.lies.get(n, ""), "activations")
                for n in kept if tokens(again.program.shapes[n]) and made(again, n) in have]
        return out

    def _steps(self):
        b, p = self.b, self.p
        carried = p.inputs[p.constants:p.constants + p.carried]
        start = () if self.top else tuple(n for n in carried if tokens(self.shapes[n]))
        stay = {r for n in p.outputs for r in b.roots(n)}
        inplace = set() if self.top else {b.find(n) for n, old in zip(
            p.outputs, carried, strict=False) if self._takes(b.find(n), old)}
        reads = [{r for x in values for r in b.roots(x)} for _, _, values, _, _ in self.order]
        last = dict.fromkeys(start, 0)
        for at, (_, makes, *_) in enumerate(self.order):
            last.update(dict.fromkeys((*makes, *reads[at]), at))
        if not self.top and any(op.body is not None for op in p.ops):
            # Whatever turn it is, matrices that are brought together are: before the first, then.
            last.update({n: len(self.order) - 1 for n in last if n in b.whole and n in b.maker
                         and b.maker[n].name == "sharding_constraint"
                         and "transpose" not in b.maker[n].scope})
        last.update(self.until)
        last.update({n: last[other] for n, other in self.follow.items()})
        ends: dict[int, list[int]] = {}
        for n, at in last.items():
            if n not in stay and (n not in b.inputs or n in start):
                ends.setdefault(at, []).append(n)
        steps = []
        for at, (op, makes, _, beside, same) in enumerate(self.order):
            gone = tuple(ends.get(at, ()))
            early, late = (tuple(n for n in gone if n not in makes) if same else ()), ()
            if op.body is not None:
                first, count_ = op.body.constants, op.body.carried
                handed = {r for x in op.reads[first:first + count_] for r in b.roots(x)
                          if tokens(self.shapes[r])}
                early = tuple(handed & set(gone))
                late = tuple(n for n in map(b.find, op.writes[:count_]) if tokens(self.shapes[n]))
            steps.append(Step(op, tuple(n for n in makes if n not in inplace), tuple(reads[at]),
                              gone, self.inner.get(id(op)), beside, early, late))
        return Schedule(p._replace(shapes=self.shapes), steps, start, frozenset(b.whole),
                        self.lies, kinds(b, self.extra), outputs(b))

    def _takes(self, n, old):
        """Whether what a turn hands on is worked out in the place of what it was handed."""
        op = self.b.maker.get(n)
        return n == old or op is not None and not heavy(op) and not tokens(self.shapes[n]) and (
            old in map(self.b.find, op.reads))

_MANY = dict.fromkeys("BtpDKGHFVkELMCQ", 7.0)
