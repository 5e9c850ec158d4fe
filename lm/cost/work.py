"""What one device multiplies, moves and sends in a lettered program, on any mesh.

Sizes and meshes may be arrays, one element for each of many plans; so then are all results.
"""

from typing import NamedTuple

import numpy as np

from lm.cost import layout, liveness
from lm.cost.layout import Setting
from lm.cost.lettered import Op, Program, Shape, elements
from lm.cost.liveness import Schedule, tokens
from lm.mesh.rules import COMPUTE, STORAGE


class Product(NamedTuple):
    """A matrix product as one device computes it, `times` in a step."""

    scope: str
    dtype: str
    rows: object      # sizes of the matrices, those of a batch apart
    depth: object
    columns: object
    batch: object
    times: object
    bytes: object     # read and written
    again: bool       # whether it is computed again for the backward pass
    attention: bool   # whether a kernel computes it
    last: bool        # whether it makes logits
    experts: bool     # whether it is of experts, each of which has rows of its own

    @property
    def flops(self):
        """FLOPs of all its times."""
        return 2 * self.rows * self.depth * self.columns * self.batch * self.times

    def padded(self, tile: int):
        """Returns the FLOPs with rows and columns of matrices filled up to a matrix unit's tile."""
        def up(n, to):
            return np.ceil(n / to) * to
        return (2 * up(self.rows, 8) * up(self.depth, tile) * up(self.columns, tile) * self.batch
                * self.times)


class Message(NamedTuple):
    """A collective of one device, `times` in a step."""

    axis: str     # the mesh axis
    kind: str     # all_gather, reduce_scatter, all_reduce
    bytes: object  # of the whole array that it is about, as one device of the axis would hold it
    times: object
    what: str     # weights, gradients, activations


class Work(NamedTuple):
    """The work of a step on one device."""

    products: list[Product]
    messages: list[Message]
    moved: object    # bytes read and written by elementwise work, in the device's memory
    updated: object  # bytes of parameters and moments that the update reads


def count(plan: Schedule, s: Setting, kernel: bool, ticks=1.0) -> Work:
    """Returns the work of a program of which `plan` tells what is an array in memory.

    kernel: whether a kernel computes the attention. ticks: of a pipeline, in each of which the
    weights of a stage are gathered again.
    """
    out = Work([], [], np.zeros(()), np.zeros(()))
    moved = _Counter(s, kernel, ticks, out, {}).body(plan, np.ones(()), np.ones(()))
    p = plan.program
    updated = sum((layout.nbytes(p.shapes[n], STORAGE, s) for op in p.ops if "jvp" not in op.scope
                   for n in op.reads if n in p.inputs and not tokens(p.shapes[n])), np.zeros(()))
    return out._replace(moved=moved, updated=updated)


class _Counter(NamedTuple):
    """Counts bodies into `out`."""

    s: Setting
    kernel: bool
    ticks: object
    out: Work
    cache: dict

    def body(self, plan, times, rounds, ticks=1.0, given=None):
        """Counts one body; returns the bytes that elementwise work moves in it.

        times: how often it is run. rounds: how often as far as parameters are gathered, in as many
        ticks of a pipeline. given: of inputs that are the same array, for each the first.
        """
        p, s, moved, seen, read = plan.program, self.s, np.zeros(()), set(), set()
        same, sums, placed = _same(p, given or {}), {}, set()
        for op in p.ops:
            if op.product is not None:
                x = self.product(op, p, times)
                self.out.products.append(x)
                if x.attention:
                    self.keys(op, p, times)
                elif x.experts:
                    self.experts(op, p, times, seen)
                if not x.attention:
                    self.tensor(op, p, times, seen, same, sums)
            elif op.name == "sharding_constraint":
                if op.reads[0] not in placed:  # a constraint of a constraint moves nothing
                    self.weights(op, p, rounds, ticks)
                placed.update(op.writes)
            elif op.name == "add_any":
                # XLA for TPUs was seen to add up first, but not through a change of dtype.
                parts = [sums.pop(n) for n in op.reads if n in sums]
                if parts:
                    sums[op.writes[0]] = parts[0]
        for message in sums.values():
            self.send(*message)
        for step in plan.steps:
            if step.inner is not None:
                turns, more = elements([step.op.times], s.sizes), 1.0
                if step.op.times.has("L"):
                    turns, more = turns / s.mesh["stage"], self.ticks
                moved = moved + self.body(step.inner, times * turns, rounds * turns * more,
                                          ticks * more, _shared(step, same))
            elif step.op.product is None:
                # What reads the same array is fused: it is read once.
                fresh = [n for n in step.reads if n not in read]
                read.update(fresh)
                moved = moved + times * sum(liveness.sizes_of(plan, n, s, self.kernel, self.cache)
                                            for n in (*step.makes, *fresh))
        return moved

    def product(self, op: Op, p: Program, times) -> Product:
        """A product with the sizes of one device's part."""
        flat = [axis for side in op.product for axis in side]
        spread = layout.places(flat, COMPUTE, self.s)
        sizes, at = [], 0
        for side in op.product:
            n = np.ones(())
            for axis, place in zip(side, spread[at:at + len(side)], strict=True):
                n = n * elements([axis], self.s.sizes)
                for devices in place.values():
                    n = n / devices
            sizes.append(n)
            at += len(side)
        held = sum(layout.nbytes(p.shapes[n], COMPUTE, self.s)
                   for n in (*op.reads[:2], *op.writes))
        experts = op.name.startswith("ragged") or any(axis.has("E") for axis in op.product[3])
        return Product(op.scope, op.dtype, *sizes, times, held, op.again,
                       self.kernel and "attend" in op.scope.split("/"),
                       any(axis.has("V") for axis in flat), experts)

    def send(self, axis, kind, size, times, what):
        if np.any(np.asarray(self.s.mesh[axis]) > 1):
            self.out.messages.append(Message(axis, kind, size, times, what))

    def tensor(self, op, p, times, seen, same, sums):
        """What a product over heads or hidden units gathers of tokens, and scatters after.

        sums: gets, for results that are sums of parts on several devices, what scatters them.
        """
        flat = [axis for side in op.product for axis in side]
        spread = layout.places(flat, COMPUTE, self.s)
        over = [i for i, place in enumerate(spread) if "tensor" in place
                and layout.letter(flat[i]) not in ("T", "B")]
        if not over:
            return
        split, on = flat[over[0]], spread[over[0]]["tensor"] > 1
        for number in op.reads[:2]:
            shape = p.shapes[number]
            if tokens(shape) and split not in shape.axes and same.get(number, number) not in seen:
                seen.add(same.get(number, number))
                self.send("tensor", "all_gather", self.whole(shape, "tensor"), times * on,
                          "activations")
        made = p.shapes[op.writes[0]]
        if split not in made.axes and tokens(made):
            sums[op.writes[0]] = ("tensor", "reduce_scatter", self.whole(made, "tensor"),
                                  times * on, "activations")

    def keys(self, op, p, times):
        """Each product of attention has the keys or values of all of a sequence, or gives them."""
        pair = [p.shapes[n] for n in (*op.reads[:2], *op.writes)]
        keys = [x for x in pair if x.power("t") == 1 and not x.power("G")] or [
            x for x in pair if x.power("t") == 1]
        if keys:
            self.send("context", "all_gather", self.whole(keys[0], "context"), times, "keys")

    def experts(self, op, p, times, seen):
        """Tokens go to the devices of their experts, and what these make of them comes back."""
        for number, comes in (*((n, False) for n in op.reads[:2]), (op.writes[0], True)):
            shape = p.shapes[number]
            if not tokens(shape) or any(axis.has("F") for axis in shape.axes) or number in seen:
                continue
            seen.add(number)
            size = self.whole(shape, "expert")
            if shape.power("C"):
                self.send("expert", "all_to_all", size, times, "tokens")
            else:
                kind = "reduce_scatter" if comes else "all_gather"
                self.send("expert", kind, size / self.s.sizes["k"], times, "tokens")

    def weights(self, op, p, times, ticks):
        """What is gathered of a parameter before it is used, and scattered of its gradient."""
        shape = p.shapes[op.writes[0]]
        if tokens(shape) or shape.power("L") or len(shape.axes) < 2:
            return
        whole = layout.nbytes(shape, COMPUTE, self.s)
        if "transpose" not in op.scope or op.again:
            self.send("fsdp", "all_gather", whole, times, "weights")
            return
        self.send("fsdp", "reduce_scatter", whole, times, "gradients")
        times = times / ticks  # a pipeline's gradients add up before they go further
        for axis in ("data", "context", "expert"):
            if axis != "expert" or not shape.power("E"):
                self.send(axis, "all_reduce", whole / self.s.mesh["fsdp"], times, "gradients")

    def whole(self, shape: Shape, axis: str):
        """The bytes of an array that is not spread over a mesh axis."""
        return layout.nbytes(shape, COMPUTE, Setting(self.s.sizes, dict(self.s.mesh, **{axis: 1})))


def _same(p, given):
    """For each result of elementwise work the first that is the same: a compiler makes it once."""
    made = {n for op in p.ops for n in op.writes} | set(p.inputs)
    out, found = dict(given), {}
    for op in p.ops:
        if op.product is None and op.body is None:
            reads = tuple(out.get(n, n) if n in made else p.shapes[n] for n in op.reads)
            for i, n in enumerate(op.writes):
                out[n] = found.setdefault((op.name, reads, i, p.shapes[n]), n)
    return out


def _shared(step, same):
    """For each array that a loop's turns share the first that is the same."""
    inner, first = step.inner.program, {}
    inputs = inner.inputs[len(inner.inputs) - len(step.op.reads):]
    return {n: first.setdefault(same.get(outer, outer), n) for n, outer in
            zip(inputs[:inner.constants], step.op.reads, strict=False)}
