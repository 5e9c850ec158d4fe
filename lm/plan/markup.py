"""HTML and SVG as text: whatever is not markup already is escaped."""

import html


class Html(str):
    """Text that is markup already, and is not escaped again."""

    __slots__ = ()


def text(x) -> Html:
    """Returns x as markup: escaped, if it is none yet."""
    return x if isinstance(x, Html) else Html(html.escape(str(x)))


def join(parts, between: str = "") -> Html:
    """Returns the parts one after the other, each escaped if it is not markup."""
    return Html(text(between).join(text(part) for part in parts))


def tag(element: str, /, *inside, **attributes) -> Html:
    """Returns an element; `class_` stands for class, `stroke_width` for stroke-width, None is none.

    Numbers are written with two decimals.
    """
    said = "".join(f' {key.rstrip("_").replace("_", "-")}="{text(_short(value))}"'
                   for key, value in attributes.items() if value is not None)
    if not inside:
        return Html(f"<{element}{said}/>")
    return Html(f"<{element}{said}>{join(inside)}</{element}>")


def grid(head, rows, numbers: int = 1) -> Html:
    """Returns a table of rows of cells. numbers: the first column that is set to the right."""
    def line(cells, kind):
        return tag("tr", *(tag(kind, cell, class_="number" if i >= numbers else None)
                           for i, cell in enumerate(cells)))
    body = join(line(row, "td") for row in rows)
    table = tag("table", tag("thead", line(head, "th")), tag("tbody", body))
    return tag("div", table, class_="wide")


def fold(summary, *inside, **attributes) -> Html:
    """Returns what is folded away under its summary."""
    return tag("details", tag("summary", summary), *inside, **attributes)


def anchor(name: str) -> str:
    """Returns the id of what has a name: ids have no spaces."""
    return "_".join(name.split())


def _short(value):
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
