"""Measured runs, which correct the plans that follow: a line of JSON for each, in one file.

A line says what was predicted of a run and what was measured:

    {"date", "chip", "processor", "devices", "mesh", "config",
     "predicted": {"uncorrected_seconds", "step_seconds", "bytes"},
     "measured": {"step_seconds", "bytes"}}

`uncorrected_seconds` is the prediction without such lines; `processor` is empty but for a CPU, and
`config` is a digest of the experiment.
"""

import json
import math
import pathlib

import numpy as np

from lm.base import cache
from lm.base.records import read_lines
from lm.cost import measure
from lm.cost.chips import Chip
from lm.cost.constants import constants

LATEST = 10   # runs of a chip that still count


def place(path: str = "") -> pathlib.Path:
    """Returns the file: the given one, or that of this user."""
    return pathlib.Path(path).expanduser() if path else cache.root() / "calibration.jsonl"


def read(path: str = "") -> list[dict]:
    """Returns the lines of the file, the oldest first; none if there is no file."""
    return [line for line in read_lines(place(path)) if _ratio(line)]


def append(line: dict, path: str = "") -> pathlib.Path:
    """Writes a line at the end of the file; returns where. OSError if it cannot be."""
    file = place(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as out:
        out.write(json.dumps(line) + "\n")   # in one piece: others may write too
    return file


def processor(chip: Chip) -> str:
    """Returns what else than its name tells a chip: of the CPU which it is; of others nothing."""
    return measure.processor() if chip.name == "cpu" else ""


def correction(lines: list[dict], chip: Chip) -> tuple[dict[str, float], str]:
    """Returns the constants of the time model as runs on a chip correct them, and their source.

    The work of a step is taken to be as much slower or faster as the median of the latest runs was.
    """
    own = processor(chip)
    mine = [_ratio(line) for line in lines
            if line["chip"] == chip.name and line.get("processor", "") == own][-LATEST:]
    if not mine:
        return {}, ""
    factor = float(np.median(mine))
    known = constants(chip)
    changes = {name: known[name].value / factor for name in ("matmul", "attention", "memory")}
    changes["overhead"] = known["overhead"].value * factor
    return changes, (f"measured: {len(mine)} run{'s' * (len(mine) > 1)} on "
                     f"{own or chip.name} took {factor:.2f} of what was predicted")


def _ratio(line):
    """Measured by predicted seconds of a line; 0 of one that is none."""
    try:
        ratio = line["measured"]["step_seconds"] / line["predicted"]["uncorrected_seconds"]
        return ratio if line["chip"] and 0 < ratio < math.inf else 0.0
    except (AttributeError, KeyError, TypeError, ZeroDivisionError):
        return 0.0
