"""The text of a compiled program (HLO): its instructions, and how often each is run.

It is the program of one device. GPUs and CPUs note how often a loop turns; for TPUs that follows
from the loop's counter, its limit and its step.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    shape: str            # of an array, or of several in parentheses
    op: str
    operands: list[str]   # names; of a constant its value
    rest: str             # attributes
    root: bool            # whether it is what the computation returns

    def calls(self, key: str) -> list[str]:
        """Returns the computations that it names as `key`."""
        found = re.search(rf"\b{key}=(\{{[^}}]*\}}|%?[^\s,}}]+)", self.rest)
        return re.findall(r"[^\s,%{}]+", found[1]) if found else []


class Executed(NamedTuple):
    """An instruction where it is run."""

    instruction: Instruction
    within: str           # the computation that it is in
    beside: dict[str, Instruction]   # all of that computation, by name
    times: int            # that loops around it turn
    sometimes: bool       # whether a branch around it may not be taken
    known: bool           # whether all of those loops' turns are; the others count once


_HEAD = re.compile(r"^(ENTRY )?%?([^\s(]+) .*->.*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%?(\S+) = (.*)$")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
_BRANCHES = ("branch_computations", "true_computation", "false_computation")


def executed(text: str) -> Iterator[Executed]:
    """Yields every instruction that `compiled.as_text()` runs, with those that others call."""
    module, entry = _parse(text)

    def walk(name, times, sometimes, known):
        own = module[name]
        for i in own.values():
            yield Executed(i, name, own, times, sometimes, known)
            if i.op == "while":
                turns = _turns(module, own, i)
                yield from walk(i.calls("body")[0], times * (1 if turns is None else turns),
                                sometimes, known and turns is not None)
            elif i.op == "conditional":
                for called in sum(map(i.calls, _BRANCHES), []):
                    yield from walk(called, times, True, known)
            elif not i.op.endswith(("-done", "-update")):  # what those name has run from its start
                for called in i.calls("calls") + i.calls("to_apply"):
                    yield from walk(called, times, sometimes, known)
    return walk(entry, 1, False, True)


def once(text: str) -> list[Executed]:
    """Returns what `executed` yields, a message between devices once.

    Where a matrix product carries a gather along, the same one stands in the fusions that start,
    carry and end it: by its channel, and where these are called, it is one.
    """
    all_ = list(executed(text))
    caller = {called: x.within for x in all_ if x.instruction.op in ("fusion", "async-start")
              for called in x.instruction.calls("calls")}
    seen, out = set(), []
    for x in all_:
        channel = re.search(r"channel_id=(\d+)", x.instruction.rest)
        key = channel and x.within in caller and (channel[1], caller[x.within])
        if not key or key not in seen:
            out.append(x)
        seen.add(key)
    return out


def size(shape: str) -> float:
    """Returns the bytes of an array, or of all in a tuple."""
    return sum(int(bits or 8) / 8 * math.prod(int(n) for n in sizes.split(",") if n)
               for _, bits, sizes in _ARRAY.findall(shape))


def _parse(text):
    """(computations by name, each its instructions by name; the name of the entry)."""
    module, entry, current = {}, None, {}
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head:
            current = module[head[2]] = {}
            entry = head[2] if head[1] else entry
            continue
        found = _LINE.match(line)
        if found:
            shape, rest = _split(found[3])
            op, _, rest = rest.partition("(")
            end = _closes("(" + rest) - 1
            inside, rest = rest[:end], rest[end + 1:]
            operands = [inside] if op == "constant" else re.findall(r"%([^\s,()]+)", inside)
            current[found[2]] = Instruction(found[2], shape, op, operands, rest, bool(found[1]))
    return module, entry


def _split(text):
    """A shape and what follows it."""
    end = _closes(text) + 1 if text[0] == "(" else text.index(" ")
    return text[:end], text[end:].lstrip()


def _closes(text):
    """Where the bracket that opens `text` is closed."""
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return i
    return len(text)


def _turns(module, own, loop) -> int | None:
    """How often a loop turns; None if that cannot be told."""
    noted = re.search(r'known_trip_count"?:\{"?n"?:"(\d+)"', loop.rest)
    if noted:
        return int(noted[1])
    condition, body = (module[loop.calls(key)[0]] for key in ("condition", "body"))
    test = _root(condition)
    if test.op == "fusion":  # a comparison of what it is given
        test = _root(module[test.calls("calls")[0]])._replace(operands=test.operands)
    start = _through(own, loop.operands[0])
    if test.op != "compare" or start is None or start.op != "tuple":
        return None

    def value(where, name):
        """A constant, or what a part of the loop's state is at first."""
        found, place = _number(where, name), _place(where, name)
        return _number(own, start.operands[place]) if found is None and place is not None else found

    place = _place(condition, test.operands[0])
    low, high = value(condition, test.operands[0]), value(condition, test.operands[1])
    step = None if place is None else _step(module, body, place, value)
    if low is None or high is None or not step:
        return None
    inclusive = re.search(r"direction=(\w\w)", test.rest)[1] in ("LE", "GE")
    return max(0, (high - low) // step + 1 if inclusive else -(-(high - low) // step))


def _step(module, body, place, value):
    """What a turn adds to a part of the loop's state; None if that cannot be told."""
    result = _root(body)
    update = _through(body, result.operands[place]) if result.op == "tuple" else None
    if update is not None and update.op == "fusion":
        body = module[update.calls("calls")[0]]
        update = _root(body)
        value = _number   # its parameters are not the loop's state
    if update is None or update.op != "add":
        return None
    found = [value(body, name) for name in update.operands if _place(body, name) != place
             or _place(body, name) is None]
    found = [n for n in found if n is not None]
    return found[0] if found else None


def _through(own, name):
    """The instruction behind copies; None for a name of elsewhere."""
    i = own.get(name)
    while i is not None and i.op in ("copy", "bitcast", "convert", "copy-done", "copy-start",
                                     "reshape"):
        i = own.get(i.operands[0])
    return i


def _number(own, name):
    i = _through(own, name)
    if i is None or i.op != "constant" or not re.fullmatch(r"-?\d+", i.operands[0]):
        return None
    return int(i.operands[0])


def _place(own, name):
    """Which part of the loop's state a name stands for."""
    i = _through(own, name)
    found = re.search(r"index=(\d+)", i.rest) if i and i.op == "get-tuple-element" else None
    return int(found[1]) if found else None


def _root(computation):
    return next(i for i in computation.values() if i.root)
