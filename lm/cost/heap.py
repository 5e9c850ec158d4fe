"""How the compiler lays a program out in a device's memory, as it reports when asked to.

`memory_analysis()` sums temporaries as if few of them shared memory (1.3 to 1.45 times what a TPU's
compiler reserves); the total of the report below is what that compiler holds against its limit. The
report is written before code is made, and for programs that are refused as well.
"""

import itertools
import pathlib
import re
from typing import NamedTuple


class Heap(NamedTuple):
    """Bytes of the main memory of one device."""

    total: int       # that the program takes
    arguments: int
    outputs: int     # those that do not take the place of arguments
    live: int        # held at once at most (peak_memory_in_bytes); the rest of the total is gaps
    held: list[tuple[str, int]]   # what is held then, by the names of the program, largest first


_AFTER = "*after_optimizations"
_TOTAL = re.compile(r"\(color=0\)\nTotal bytes: (\d+)")
_PLACE = re.compile(r"^allocation (\d+): size (\d+), (?:page \d+, )?(?!.*\bcolor )(.*)\n"
                    r"((?: value: .*\n)*)", re.M)
_NAME = r"(\S+?)(?:\{\})?"
_VALUE = re.compile(rf"^ value: <\d+ {_NAME}(?: \(phi\))? @0> \(size=(\d+),offset=(\d+)\)", re.M)
_RANGE = re.compile(rf"^    {_NAME}:(\d+)-(\d+)$", re.M)


def options(folder) -> dict:
    """Returns the compiler options with which the reports are written into a folder."""
    return dict(xla_dump_to=str(folder), xla_dump_hlo_as_text=True)


def read(folder) -> Heap | None:
    """Returns what the reports in a folder say; None if there is none yet.

    As soon as there is a total; the rest, which is written a little later, is empty until then.
    """
    found = [(int(m[1]), path) for path in pathlib.Path(folder).glob(_AFTER + "-memory-usage-*.txt")
             if (m := _TOTAL.search(path.read_text(errors="replace")))]
    if not found:
        return None
    total, path = max(found)
    places = [place for place in _PLACE.findall(_beside(path, "buffer-assignment"))
              if not place[2].startswith(("thread-local", "constant"))]
    inside = [int(size) for _, size, what, _ in places if what.startswith("parameter")]
    outside = [int(size) for _, size, what, _ in places
               if "maybe-live-out" in what and not what.startswith("parameter")]
    held = _held(places, _beside(path, "live-range"))
    return Heap(total, sum(inside), sum(outside), sum(size for _, size in held), held)


def _held(places, report):
    """The arrays, with their bytes, at the time at which they take most.

    The compiler's own list of them leaves out the padding of tiles, and has another peak for it.
    """
    ranges = {name: (int(first), int(last)) for name, first, last in _RANGE.findall(report)}
    if not ranges:
        return []
    fixed, spans = [], []   # (name, bytes); (first, last, bytes, name)
    for _, size, what, values in places:
        found = _VALUE.findall(values)
        if not what.startswith("preallocated-temp"):
            fixed += [(name, int(size)) for name, *_ in found[:1]]
            continue
        shared: dict[str, list] = {}   # by offset: what aliases another lies where it does
        for name, bytes_, offset in found:
            if name in ranges:
                shared.setdefault(offset, []).append((*ranges[name], int(bytes_), name))
        for own in shared.values():
            spans += _joined(sorted(own))
    change = {0: 0}
    for first, last, size, _ in spans:
        change[first] = change.get(first, 0) + size
        change[last + 1] = change.get(last + 1, 0) - size
    times = sorted(change)
    sums = list(itertools.accumulate(change[t] for t in times))
    peak = times[sums.index(max(sums))]
    held = fixed + [(name, size) for first, last, size, name in spans if first <= peak <= last]
    return sorted(held, key=lambda pair: -pair[1])


def _joined(spans):
    """Spans of time in order, those that overlap made one."""
    out = [spans[0]]
    for first, last, size, name in spans[1:]:
        start, end, most, old = out[-1]
        if first <= end:
            out[-1] = (start, max(end, last), max(most, size), old if most >= size else name)
        else:
            out.append((first, last, size, name))
    return out


def program(folder) -> str:
    """Returns the compiled program of a folder as text, as far as it came; '' if there is none."""
    for ending in ("*after_codegen.txt", _AFTER + ".txt"):  # only the first has cycles
        found = sorted(pathlib.Path(folder).glob(ending), key=lambda path: path.stat().st_size)
        if found:
            return found[-1].read_text(errors="replace")
    return ""


def _beside(path, kind):
    """Another report on the same program; '' if it is not there."""
    other = path.with_name(path.name.replace("memory-usage-report", kind))
    return other.read_text(errors="replace") if other.exists() else ""
