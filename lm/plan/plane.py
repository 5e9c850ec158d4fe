"""Pictures of two quantities: points on logarithmic axes with a front, and curves with a limit."""

import math
from typing import NamedTuple

from lm.plan.markup import tag
from lm.plan.svg import (
    COLOURS,
    DASHES,
    SIZE,
    WIDTH,
    line,
    logs,
    picture,
    steps,
    tick_words,
    wide,
    words,
)

LEFT, RIGHT, HIGH = 80, 30, 340  # of a plane


class Point(NamedTuple):
    """x, y > 0; kind decides colour and shape. hollow: one that cannot be had."""

    x: float
    y: float
    label: str
    kind: str
    said: str
    name: str = ""
    x_band: tuple[float, float] | None = None
    y_band: tuple[float, float] | None = None
    hollow: bool = False


def points(name: str, title: str, desc: str, found: list[Point], front: list[int], axes: tuple):
    """Returns the points on logarithmic axes; a line joins those of the front.

    front: indices into found. axes: (what x is, what y is).
    """
    kinds = list(dict.fromkeys(point.kind for point in found))
    x_low, x_high, x_ticks = logs([x for p in found for x in (p.x, *(p.x_band or ()))])
    y_low, y_high, y_ticks = logs([y for p in found for y in (p.y, *(p.y_band or ()))])
    top = 30 + 18 * ((len(kinds) + 5) // 6)
    end = top + HIGH

    def at(x, y):
        return (LEFT + (WIDTH - LEFT - RIGHT) * math.log(x / x_low) / math.log(x_high / x_low),
                end - HIGH * math.log(y / y_low) / math.log(y_high / y_low))

    inside = _frame(top, end, [(at(x, y_low)[0], tick_words(x)) for x in x_ticks],
                    [(at(x_low, y)[1], tick_words(y)) for y in y_ticks], axes)
    order = sorted(front, key=lambda i: found[i].x)
    inside.append(tag("polyline", points=" ".join("{:.1f},{:.1f}".format(*at(
        found[i].x, found[i].y)) for i in order), class_="front"))
    for i, kind in enumerate(kinds):
        x, y = LEFT + 125 * (i % 6), 12 + 18 * (i // 6)
        inside += [_shape(x, y, i, kind, "key"), words(x + 12, y + 4, kind)]
    lines: list[tuple] = []
    marks = []
    for i, p in enumerate(found):
        x, y = at(p.x, p.y)
        if p.x_band:
            lines.append((*at(p.x_band[0], p.y), *at(p.x_band[1], p.y)))
        if p.y_band:
            lines.append((*at(p.x, p.y_band[0]), *at(p.x, p.y_band[1])))
        marks.append(_shape(x, y, kinds.index(p.kind), p.said, "point", data_name=p.name,
                            data_front="yes" if i in front else None,
                            fill_opacity=0.0 if p.hollow else None))
    inside += [line(*ends, "whisker") for ends in lines] + marks
    spots = [(*at(p.x, p.y), p.label, p.name) for p in found]
    first = sorted(range(len(spots)), key=lambda i: (i not in front, i))
    way = [at(found[i].x, found[i].y) for i in order]
    inside += [words(x, y, text, class_="label") for x, y, text in
               place([spots[i] for i in first], (LEFT, top, WIDTH, end), lines + [
                   (*a, *b) for a, b in zip(way, way[1:], strict=False)])]
    return picture(name, title, desc, end + 40, *inside)


def place(spots, room, lines=()):
    """Yields (x, y, text) for the label of each spot where it covers no spot, line or label.

    spots: (x, y, label, shorter label); the first are placed first. Where not even the shorter
    one finds a place there is none. room, lines: (x1, y1, x2, y2).
    """
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y, _, _ in spots]
    for x1, y1, x2, y2 in lines:
        n = math.ceil(math.hypot(x2 - x1, y2 - y1) / 6) + 1
        taken += [(x - 1, y - 1, x + 1, y + 1) for x, y in (
            (x1 + (x2 - x1) * i / n, y1 + (y2 - y1) * i / n) for i in range(n + 1))]
    for x, y, label, short in spots:
        for text in filter(None, (label, short)):
            w = wide(text)
            found = next((box for box in _around(x, y, w) if room[0] <= box[0]
                          and room[1] <= box[1] and box[2] <= room[2] and box[3] <= room[3]
                          and not any(_meet(box, other) for other in taken)), None)
            if found:
                taken.append(found)
                yield found[0] + 1, found[3] - 3, text
                break


def _around(x, y, w):
    """Boxes for a label of width w: beside its point, above, below, and the same further off."""
    for off in (8, 16, 26):
        for dx, dy in ((off, -7), (-off - w, -7), (off, -off - 8), (-off - w, -off - 8),
                       (off, off - 6), (-off - w, off - 6), (-w / 2, -off - 14), (-w / 2, off)):
            yield x + dx, y + dy, x + dx + w, y + dy + SIZE + 2


def _meet(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _shape(x, y, i, said, class_, **attributes):
    """A mark with the colour and the shape of the i-th kind: circle, square, triangle, diamond."""
    attributes |= dict(fill=COLOURS[i % len(COLOURS)], class_=class_)
    title = tag("title", said)
    if i % 4 == 0:
        return tag("circle", title, cx=float(x), cy=float(y), r=5.5, **attributes)
    corners = {1: ((-5, -5), (5, -5), (5, 5), (-5, 5)), 2: ((-6, 5), (6, 5), (0, -6)),
               3: ((0, -7), (7, 0), (0, 7), (-7, 0))}[i % 4]
    return tag("polygon", title, **attributes,
               points=" ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners))


def curves(name: str, title: str, desc: str, found: dict[str, list], axes: tuple, *,
           level=None, mark=None, dotted: bool = True):
    """Returns lines through points (x, y), from 0 on both axes, each with its name at its end.

    level: (y, words) of a limit; mark: (x, words) of where one stands. dotted: the points are seen.
    """
    every = [p for line_ in found.values() for p in line_]
    xs = steps(max([p[0] for p in every] + [mark[0] if mark else 0]) or 1)
    ys = steps(max([p[1] for p in every] + [level[0] if level else 0]) or 1)
    top, right = 24, WIDTH - RIGHT - 150
    end = top + HIGH - 60

    def at(x, y):
        return LEFT + (right - LEFT) * x / xs[-1], end - (end - top) * y / ys[-1]

    inside = _frame(top, end, [(at(x, 0)[0], tick_words(x)) for x in xs],
                    [(at(0, y)[1], tick_words(y)) for y in ys], axes, right)
    if level:
        y = at(0, level[0])[1]
        inside += [line(LEFT, y, right, y, "limit"), words(LEFT + 6, y - 5, level[1])]
    if mark:
        x = at(mark[0], 0)[0]
        inside += [line(x, top, x, end, "limit"), words(x, top - 7, mark[1], "middle")]
    last = []
    for i, (label, line_) in enumerate(found.items()):
        dots = [at(*p) for p in sorted(line_, key=lambda p: p[0])]
        colour = COLOURS[i % len(COLOURS)]
        inside.append(tag("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in dots),
                          class_="curve", stroke=colour, stroke_dasharray=DASHES[i % len(DASHES)]))
        inside += [_shape(x, y, i, f"{label}: {tick_words(px)}, {tick_words(py)}", "key")
                   for (x, y), (px, py) in zip(dots, sorted(line_), strict=True) if dotted]
        last.append([dots[-1][1], dots[-1][0], label])
    below = -math.inf
    for y, x, label in sorted(last):
        below = max(y + 4, below + SIZE + 3)
        inside.append(words(min(x + 12, right + 12), below, label, class_="label"))
    return picture(name, title, desc, max(end + 40, below + 6), *inside)


def _frame(top, end, x_ticks, y_ticks, axes, right=WIDTH - RIGHT):
    inside = []
    for x, said in x_ticks:
        inside += [line(x, top, x, end), words(x, end + 15, said, "middle")]
    for y, said in y_ticks:
        inside += [line(LEFT, y, right, y), words(LEFT - 7, y + 4, said, "end")]
    return [*inside, words((LEFT + right) / 2, end + 33, axes[0], "middle"),
            tag("text", axes[1], transform=f"translate(16 {(top + end) / 2:.0f}) rotate(-90)",
                text_anchor="middle", font_size=SIZE)]
