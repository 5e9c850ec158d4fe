"""Numbers that know where they come from: arithmetic that keeps its formula, for one or for many.

    links = known("fsdp.links", 2, source="a closed ring of a torus")
    time = (size / (links * rate)).called("step_time.fsdp", "s", "scaling book, sharded matrices")

`time.value` is what was computed; `explain(time)` prints the formula, with the values put in, and
its source, and so on for what went in. A value is a number or an array of numpy, of one element for
each of many plans: the formula is kept once, whatever their number.
"""

from collections.abc import Iterator

import numpy as np

_RANKS = {"+": 1, "-": 1, "*": 2, "/": 2, "**": 3}


class Figure:
    """A value, its unit, and the formula that gave it."""

    __slots__ = ("value", "name", "unit", "source", "op", "inputs")
    __array_ufunc__ = None  # so that `array * figure` is a Figure

    def __init__(self, value, name: str = "", unit: str = "", source: str = "", op: str = "",
                 inputs: tuple = ()):
        self.value, self.name, self.unit, self.source = value, name, unit, source
        self.op, self.inputs = op, inputs

    def called(self, name: str, unit: str = "", source: str = "") -> "Figure":
        """Returns the figure under a name, by which formulas that it enters refer to it.

        name: words joined by dots. source: paper and equation, a page, `measured`, or `traced`.
        """
        if self.name:  # a name of its own already: the new one equals it
            return Figure(self.value, name, unit, source, "=", (self,))
        return Figure(self.value, name, unit, source, self.op, self.inputs)

    def at(self, index: int):
        """Returns the value of one of many plans."""
        value = np.asarray(self.value)
        return (value if value.ndim == 0 else value[index]).item()

    def __add__(self, other):
        return _make("+", np.add, self, other)

    def __radd__(self, other):
        return _make("+", np.add, other, self)

    def __sub__(self, other):
        return _make("-", np.subtract, self, other)

    def __rsub__(self, other):
        return _make("-", np.subtract, other, self)

    def __mul__(self, other):
        return _make("*", np.multiply, self, other)

    def __rmul__(self, other):
        return _make("*", np.multiply, other, self)

    def __truediv__(self, other):
        return _make("/", np.true_divide, self, other)

    def __rtruediv__(self, other):
        return _make("/", np.true_divide, other, self)

    def __pow__(self, other):
        return _make("**", np.power, self, other)


def known(name: str, value, unit: str = "", source: str = "") -> Figure:
    """Returns a figure that follows from no other: an input, a constant, what was counted."""
    return Figure(value, name, unit, source)


def largest(first, *others) -> Figure:
    """Returns the largest, element by element."""
    return _call("max", np.maximum, first, *others)


def smallest(first, *others) -> Figure:
    """Returns the smallest, element by element."""
    return _call("min", np.minimum, first, *others)


def ceil(x) -> Figure:
    """Returns x rounded up."""
    x = _figure(x)
    return Figure(np.ceil(x.value), op="ceil", inputs=(x,))


def sqrt(x) -> Figure:
    """Returns the square root of x."""
    x = _figure(x)
    return Figure(np.sqrt(x.value), op="sqrt", inputs=(x,))


def total(figures) -> Figure:
    """Returns the sum of one or more."""
    first, *rest = figures
    out = _figure(first)
    for x in rest:
        out = out + x
    return out


def value(x):
    """Returns the value of a figure, and a number as it is."""
    return x.value if isinstance(x, Figure) else x


def named(figure: Figure) -> Iterator[Figure]:
    """Yields the figure and all named ones that it follows from, each once."""
    seen, stack = set(), [figure]
    while stack:
        x = stack.pop()
        if id(x) in seen:
            continue
        seen.add(id(x))
        if x.name:
            yield x
        stack += reversed(x.inputs)


def explain(figure: Figure, index: int = 0, depth: int = 1) -> str:
    """Returns the formula of a figure, the same with its values, its result and its source.

    index: which of many plans. depth: how many steps of what went in follow, each further indented.
    """
    lines, said = [], set()

    def show(x, indent, left):
        if id(x) in said:
            return
        said.add(id(x))
        pad = "  " * indent
        lines.append(f"{pad}{x.name} = {_text(x, index, None) if x.op else words(x, index)}")
        if x.op:
            lines.append(f"{pad}  = {_text(x, index, words)}")
            lines.append(f"{pad}  = {words(x, index)}")
        if x.source:
            lines.append(f"{pad}  [{x.source}]")
        if left:
            for inner in _next(x):
                show(inner, indent + 1, left - 1)

    show(figure, 0, depth)
    return "\n".join(lines)


def words(x: Figure, index: int = 0) -> str:
    """Returns a figure's value and unit as text, in powers of ten where it is large or small."""
    v = x.at(index)
    if isinstance(v, float) and not v.is_integer() or abs(v) >= 1e7:
        text = f"{v:.4g}"
    else:
        text = f"{int(v):d}"
    return f"{text} {x.unit}" if x.unit else text


def _next(x):
    """The named figures nearest to x in its formula."""
    for inner in x.inputs:
        if inner.name:
            yield inner
        else:
            yield from _next(inner)


def _text(x, index, show):
    """The formula of x: with the names of what goes in, or, by `show`, their values."""
    def part(inner, rank, last):
        if inner.name:
            return show(inner, index) if show else inner.name
        if not inner.op:
            return words(inner, index)
        text = _text(inner, index, show)
        own = _RANKS.get(inner.op, 9)
        return f"({text})" if own < rank or own == rank and last and x.op in "-/" else text

    rank = _RANKS.get(x.op)
    if rank:
        first, second = x.inputs
        return f"{part(first, rank, False)} {x.op} {part(second, rank, True)}"
    inside = ", ".join(part(inner, 0, False) for inner in x.inputs)
    return inside if x.op == "=" else f"{x.op}({inside})"


def _figure(x) -> Figure:
    return x if isinstance(x, Figure) else Figure(x)


def _make(op, function, a, b):
    a, b = _figure(a), _figure(b)
    with np.errstate(divide="ignore", invalid="ignore"):
        return Figure(function(a.value, b.value), op=op, inputs=(a, b))


def _call(op, function, *inputs):
    inputs = tuple(map(_figure, inputs))
    out = inputs[0].value
    for x in inputs[1:]:
        out = function(out, x.value)
    return Figure(out, op=op, inputs=inputs)
