"""Traces of real loads: when requests came, how long they and their answers were."""

import csv
import datetime
import json
import math
import pathlib
import re

import numpy as np

from lm.base.errors import UserError, nearest
from lm.load.lengths import MOST

# Names of columns, without case and punctuation: BurstGPT, Azure, Mooncake, AIPerf, Vidur, ours.
TIME = ("time", "timestamp", "arrival", "arrivaltime", "arrivedat")
PROMPT = ("prompttokens", "requesttokens", "contexttokens", "inputlength", "inputtokens",
          "numprefilltokens", "promptlen", "promptlength")
OUTPUT = ("outputtokens", "responsetokens", "generatedtokens", "outputlength", "completiontokens",
          "numdecodetokens", "outputlen")
_COLUMNS = {"time": TIME, "prompt_tokens": PROMPT, "output_tokens": OUTPUT}


def read(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Returns times from 0 in seconds, prompt and output tokens in order of time, and how many
    rows were left out as they have no tokens (failures, in BurstGPT). Raises UserError.
    """
    path = pathlib.Path(text).expanduser()
    if not path.is_file():
        raise UserError(f"trace={text}: there is no such file")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            jsonl = path.suffix.lower() in (".jsonl", ".json", ".ndjson")
            records = list(_lines(file, text) if jsonl else csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"trace={text} cannot be read: {error}") from None
    if not records:
        raise UserError(f"trace={text} has no rows")
    names = {what: _column(records[0], what, text) for what in _COLUMNS}
    # Mooncake's times are in milliseconds; its rows have the hashes of their pages.
    scale = 1e-3 if "hash_ids" in records[0] else 1.0
    table = np.array([_row(record, names, number, text)
                      for number, record in enumerate(records, 1)])
    some = (table[:, 1] >= 1) & (table[:, 2] >= 1)
    table = table[some]
    if not len(table):
        raise UserError(f"trace={text} has no row with tokens")
    table = table[np.argsort(table[:, 0], kind="stable")]
    times = (table[:, 0] - table[0, 0]) * scale
    return times, table[:, 1].astype(int), table[:, 2].astype(int), int((~some).sum())


def _lines(file, text):
    for number, line in enumerate(file, 1):
        if line.strip():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if not isinstance(record, dict):
                raise UserError(f"trace={text}: line {number} is no JSON object")
            yield record


def _plain(name):
    return re.sub(r"[^a-z]", "", str(name).lower())


def _column(record, what, text):
    for name in record:
        if _plain(name) in _COLUMNS[what]:
            return name
    raise UserError(f"trace={text} has no column {what}{nearest(what, map(str, record))}")


def _row(record, names, number, text):
    values = (_seconds(record.get(names["time"])), _number(record.get(names["prompt_tokens"])),
              _number(record.get(names["output_tokens"])))
    for what, value in zip(names, values, strict=True):
        if not math.isfinite(value) or (what != "time" and not 0 <= value <= MOST):
            raise UserError(f"trace={text}: row {number} has {record.get(names[what])!r} for "
                            f"{what}")
    return values


def _number(value):
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _seconds(value):
    """Seconds of a number, or of a date as in 2023-11-16 18:17:03.9799600."""
    number = _number(value)
    if math.isnan(number) and isinstance(value, str):
        text = re.sub(r"(\.\d{6})\d+", r"\1", value.strip())    # no more than microseconds
        try:
            made = datetime.datetime.fromisoformat(text)
        except ValueError:
            return math.nan
        return made.replace(tzinfo=made.tzinfo or datetime.UTC).timestamp()
    return number
