"""Where in the source an instruction of a compiled program comes from."""

import re
from collections.abc import Callable

from lm.cost.hlo import Instruction

_TABLE = re.compile(r"^(FileNames|FunctionNames|FileLocations|StackFrames)\n((?:\d.*\n)*)", re.M)
_OURS = re.compile(r"(?:^|/)(lm/(?:\w+/)*\w+\.py)$")
# Every array passes through these; who calls them tells more.
_THROUGH = ("lm/mesh/rules.py", "lm/nn/module.py", "lm/nn/precision.py")


def reader(text: str) -> Callable[[Instruction], str]:
    """Returns a function that names an instruction's line, its function and what it is part of.

    As `lm/nn/mlp.py:31 Mlp.__call__ (backward)`; the innermost line of this package, else of any;
    of an argument its name; '' for what the compiler made without saying from what. text: the
    program, with XLA's tables of stack frames or with `source_file` at each instruction.
    """
    tables = {name: dict(line.split(" ", 1) for line in lines.splitlines())
              for name, lines in _TABLE.findall(text)}
    frames = {number: _frame(line, tables)
              for number, line in tables.get("StackFrames", {}).items()}
    # Some versions write a frame's parent one too high: the first has none.
    first = next(iter(frames.values()), ("", "", 0))
    shift = first[2]

    def lines(number):
        while number in frames:
            file, line, parent = frames[number]
            yield file, line
            up = str(parent - shift)
            number = up if parent - shift < int(number) else ""

    def where(i: Instruction) -> str:
        op = re.search(r'op_name="([^"]*)"', i.rest)
        if i.op == "parameter":
            return op[1].replace("\\", "") if op else ""
        frame = re.search(r"stack_frame_id=(\d+)", i.rest)
        file = re.search(r'source_file="([^"]*)" source_line=(\d+)', i.rest)
        stack = list(lines(frame[1])) if frame else [(file[1], file[2])] if file else []
        if not stack:
            return ""
        ours = [(m[1], line) for file, line in stack if (m := _OURS.search(file))]
        inner = [x for x in ours if x[0] not in _THROUGH] or ours
        name, line = inner[0] if inner else (stack[0][0].partition("site-packages/")[2]
                                             or stack[0][0], stack[0][1])
        return f"{name}:{line}{_part(op[1] if op else '')}"
    return where


def operation(i: Instruction) -> str:
    """Returns jax's name of the operation that an instruction comes from, else the compiler's."""
    op = re.search(r'op_name="([^"]*)"', i.rest)
    last = op[1].rsplit("/", 1)[-1] if op and i.op != "parameter" else ""
    return last if re.fullmatch(r"[\w-]+", last) else i.op


def _frame(text, tables):
    """A stack frame as (file, line and function, number of its parent)."""
    place, parent = (re.search(rf"{key}=(\d+)", text) for key in ("location_id", "parent_frame_id"))
    at = tables["FileLocations"].get(place[1], "") if place else ""
    file, function, line = (re.search(rf"\b{key}=(\d+)", at) for key in
                            ("file_name_id", "function_name_id", "line"))
    name = tables["FunctionNames"].get(function[1], "").strip('"') if function else ""
    return (tables["FileNames"].get(file[1], "").strip('"') if file else "",
            f"{line[1] if line else '?'} {name.replace('.<locals>', '')}".strip(),
            int(parent[1]) if parent else 0)


def _part(op):
    """Which part of the step it is, by jax's name of an operation."""
    if "rematted_computation" in op:
        return " (computed again)"
    return " (backward)" if "transpose(" in op else ""
