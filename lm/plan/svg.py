"""Pictures as SVG text: stacked bars, dots on a line, points in a plane, curves.

Each takes a name that is its own in the page, from which the ids within it are made, a title and a
description for those who cannot see it. Colours of the text and lines are the page's variables.
"""

import math
from typing import NamedTuple

from lm.plan.amounts import count, three
from lm.plan.markup import join, tag

# Okabe and Ito, told apart by the colour-blind; their black is no colour on a dark page: grey.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
_DARK = {"#0072B2"}  # on which text is white
WIDTH, LEFT, RIGHT = 860, 170, 150
SIZE = 12  # of text
DASHES = (None, "7 4", "2 3", "9 3 2 3")


class Row(NamedTuple):
    """A stacked bar. under: what is drawn hatched, in a thin bar below it."""

    label: str
    parts: dict[str, float]
    end: str = ""                            # written where the bar ends
    under: dict[str, float] | None = None
    limit: float | None = None
    band: tuple[float, float] | None = None  # within which the total is likely


class Dot(NamedTuple):
    """A value on a line. faint: one that counts less."""

    label: str
    value: float
    end: str = ""
    faint: bool = False


def wide(words: str) -> float:
    """Returns about the width of a text, rather too much."""
    return 0.6 * SIZE * len(words)


def picture(name: str, title: str, desc: str, height: float, *inside):
    """Returns the SVG element around what is inside, and its description below it."""
    drawn = tag("svg", tag("title", title, id=f"{name}-title"),
                tag("desc", desc, id=f"{name}-desc"), *inside, role="img", id=f"picture-{name}",
                viewBox=f"0 0 {WIDTH} {math.ceil(height)}",
                aria_labelledby=f"{name}-title {name}-desc")
    return join((tag("div", drawn, class_="wide"), tag("p", desc, class_="note")))


def words(x, y, text, anchor="start", class_=None, fill=None):
    """Returns a line of text, its baseline at y."""
    return tag("text", text, x=float(x), y=float(y), text_anchor=anchor, class_=class_,
               font_size=SIZE, style=f"fill:{fill}" if fill else None)


def line(x1, y1, x2, y2, class_="rule", **attributes):
    """Returns a straight line."""
    return tag("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=class_,
               **attributes)


def clip(label: str, room: float) -> str:
    """Returns the label, or as much of it as there is room for."""
    fits = int(room / (0.6 * SIZE))
    return label if len(label) <= fits else label[:fits - 1] + "…"


def steps(top: float) -> list[float]:
    """Returns four to eight round numbers from 0 to at least `top`."""
    power = 10.0 ** math.floor(math.log10(top))
    step, n = min(((m * power, math.ceil(top / (m * power) - 1e-9)) for m in (.1, .2, .25, .5, 1, 2)
                   if 4 <= math.ceil(top / (m * power) - 1e-9) <= 8), key=math.prod)
    return [i * step for i in range(n + 1)]


def logs(values) -> tuple[float, float, list[float]]:
    """Returns the ends of a logarithmic axis around the values, and its round numbers."""
    low, high = min(values), max(values)
    pad = max((high / low) ** 0.08, 1.15)
    low, high = low / pad, high * pad
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7),
                    (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8), [1 + i / 20 for i in range(180)]):
        ticks = [f * 10.0**p for p in powers for f in factors if low <= f * 10.0**p <= high]
        if len(ticks) >= 3:
            break
    return low, high, ticks if len(ticks) <= 9 else ticks[::math.ceil(len(ticks) / 9)]


def legend(fills: dict, top: float, hatched: str = ""):
    """Returns the names beside their colours, in lines from `top`, and where they end.

    hatched: what a hatched part means; empty if there is none.
    """
    inside, x, y = [], LEFT, top
    keys = [(name, solid) for name, (solid, *_) in fills.items()]
    if hatched and fills:
        keys.append((hatched, next(iter(fills.values()))[1]))
    for name, fill in keys:
        room = 24 + wide(name)
        if x > LEFT and x + room > WIDTH:
            x, y = LEFT, y + 18
        inside += [tag("rect", x=float(x), y=float(y), width=12, height=12, fill=fill,
                       class_="key"), words(x + 17, y + 10.5, name)]
        x += room
    return join(inside), y + 26


def paints(name: str, parts: list[str]):
    """Returns definitions, and for each part what fills it: solid, hatched, and the text on it.

    The ninth part and on have the colours of the first with dots on them.
    """
    defs, fills = [], {}
    for i, part in enumerate(parts):
        colour, again = COLOURS[i % len(COLOURS)], i >= len(COLOURS)
        hatch = f"{name}-hatch-{i}"
        defs.append(tag("pattern", tag("rect", width=2.2, height=6, fill=colour), id=hatch, width=6,
                        height=6, patternUnits="userSpaceOnUse",
                        patternTransform=f"rotate({-45 if again else 45})"))
        solid = colour
        if again:
            defs.append(tag("pattern", tag("rect", width=6, height=6, fill=colour),
                            tag("circle", cx=3, cy=3, r=1.4, fill="#fff"), id=f"{name}-dots-{i}",
                            width=6, height=6, patternUnits="userSpaceOnUse"))
            solid = f"url(#{name}-dots-{i})"
        # Text on dots cannot be read.
        ink = None if again else "#fff" if colour in _DARK else "#000"
        fills[part] = solid, f"url(#{hatch})", ink
    return tag("defs", *defs), fills


def bars(name: str, title: str, desc: str, rows: list[Row], unit: str, hatched: str = ""):
    """Returns stacked bars, one below the other, on one scale from 0 in `unit`."""
    parts = list(dict.fromkeys(part for row in rows for stack in (row.parts, row.under or {})
                               for part, value in stack.items() if value > 0))
    defs, fills = paints(name, parts)
    top = max([1e-12] + [x for row in rows for x in (
        sum(row.parts.values()), sum((row.under or {}).values()), row.limit or 0,
        *(row.band or ()))])
    ticks = steps(top)
    scale = (WIDTH - LEFT - RIGHT) / ticks[-1]
    high = 46 if any(row.under for row in rows) else 34
    keys, y = "", 8
    if len(parts) > 1:
        keys, y = legend(fills, 4, hatched if any(row.under for row in rows) else "")
    else:  # the title says what it is
        fills = {part: (*fill[:2], None) for part, fill in fills.items()}
    end = y + high * len(rows)
    inside = [defs, keys]
    for tick in ticks:
        x = LEFT + tick * scale
        inside += [line(x, y - 4, x, end), words(x, end + 15, tick_words(tick), "middle")]
    inside.append(words(WIDTH - RIGHT + 26, end + 15, unit))
    for row in rows:
        inside.append(_bar(row, y, scale, fills, unit))
        y += high
    return picture(name, title, desc, end + 22, *inside)


def _bar(row, y, scale, fills, unit):
    """One stacked bar with its label, limit and band."""
    inside = [words(LEFT - 8, y + 15, clip(row.label, LEFT - 10), "end")]
    ends = [LEFT]
    lines = [ends for ends in (row.band, row.limit and (row.limit, row.limit)) if ends]
    for stack, top, tall, kind in ((row.parts, y, 22, "part"),
                                   (row.under or {}, y + 25, 9, "under")):
        x = LEFT
        for part, value in stack.items():
            if value <= 0:
                continue
            solid, hatch, ink = fills[part]
            said = f"{row.label}: {part} {three(value)} {unit}"
            inside.append(tag("rect", tag("title", said), x=float(x), y=float(top),
                              width=f"{value * scale:.3f}", height=tall, class_=kind,
                              fill=solid if kind == "part" else hatch, data_part=part,
                              data_value=repr(value)))
            crossed = any(low * scale - wide(part) - 4 < x - LEFT < high * scale
                          for low, high in lines)
            if ink and kind == "part" and not crossed and wide(part) + 6 < value * scale:
                inside.append(words(x + 4, top + 15, part, class_="inside", fill=ink))
            x += value * scale
        ends.append(x if kind == "part" else LEFT)
    if row.limit:
        x = LEFT + row.limit * scale
        inside.append(line(x, y - 4, x, y + 26, "limit"))
        ends.append(x)
    if row.band:
        low, high = (LEFT + x * scale for x in row.band)
        inside += [line(low, y + 11, high, y + 11, "band"), line(low, y + 6, low, y + 16, "band"),
                   line(high, y + 6, high, y + 16, "band")]
        ends.append(high)
    inside.append(words(max(ends) + 7, y + 15, row.end))
    return tag("g", *inside, class_="row")


def dots(name: str, title: str, desc: str, rows: list[Dot], unit: str, band=(), chosen=None):
    """Returns values on a logarithmic axis, one line each.

    band: (low, high) of a shaded range. chosen: (value, words) of what is used.
    """
    low, high, ticks = logs([*(row.value for row in rows), *band, *(chosen or ())[:1]])
    left = LEFT + 60

    def at(value):
        return left + (WIDTH - left - RIGHT) * math.log(value / low) / math.log(high / low)

    top, end = (24 if chosen else 8), (24 if chosen else 8) + 26 * len(rows)
    inside = [tag("rect", x=at(band[0]), y=float(top), height=float(end - top), class_="range",
                  width=max(2.0, at(band[1]) - at(band[0])))] if band else []
    for tick in ticks:
        inside += [line(at(tick), top, at(tick), end), words(at(tick), end + 15, tick_words(tick),
                                                            "middle")]
    if unit:
        inside.append(words(WIDTH - RIGHT + 26, end + 15, unit))
    if chosen:
        inside += [line(at(chosen[0]), top - 4, at(chosen[0]), end, "limit"),
                   words(at(chosen[0]), top - 9, chosen[1], "middle")]
    for i, row in enumerate(rows):
        y = top + 26 * i + 13
        inside.append(tag("g", words(left - 10, y + 4, clip(row.label, left - 12), "end"),
                          line(left, y, WIDTH - RIGHT, y),
                          tag("circle", tag("title", f"{row.label}: {three(row.value)} {unit}"),
                              cx=at(row.value), cy=float(y), r=6, fill=COLOURS[0],
                              class_="faint" if row.faint else "dot"),
                          words(WIDTH - RIGHT + 8, y + 4, row.end)))
    return picture(name, title, desc, end + 22, *inside)


def tick_words(value) -> str:
    """Returns a number of an axis: short, and without exponent where it can be."""
    if 0 < value < 1e-3:
        return f"{value:.3g}".replace("e-0", "e-")
    return f"{value:,.4g}" if value < 1e4 else count(value)
