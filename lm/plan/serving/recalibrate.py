"""A server's own log of steps takes the place of the published constants.

The log is a table with a header and at least `dur` (seconds), `n_prefill` (prompt tokens),
`n_decode` (sequences) and `ctx` (tokens of cache read): t = c0 + c1 n_prefill + c2 n_decode +
c3 ctx, no coefficient below zero.
"""

import csv
import itertools
import pathlib
from dataclasses import dataclass

import numpy as np

from lm.base.errors import UserError, nearest

COLUMNS = ("n_prefill", "n_decode", "ctx")


@dataclass(frozen=True)
class Measured:
    """Coefficients in seconds, of a step, a prompt token, a sequence and a token of cache."""

    step: float
    prefill: float
    decode: float
    context: float
    rows: int
    r2: float      # share of the variance that is explained
    error: float   # median |predicted / measured - 1|

    def clock(self, step) -> float:
        """Returns seconds of a Step."""
        return (self.step + self.prefill * step.prefill + self.decode * step.decode
                + self.context * step.context)


def recalibrate(path: str) -> Measured:
    """Fits the log at `path`. Raises UserError for a missing file, column or too few rows."""
    rows = _rows(path)
    seconds, basis = rows[:, 0], np.column_stack([np.ones(len(rows)), rows[:, 1:]])
    relative = 1 / seconds  # each row counts by its relative error
    x = nonnegative(basis * relative[:, None], np.ones(len(rows)))
    predicted = basis @ x
    spread = float(((seconds - seconds.mean()) ** 2).sum())
    r2 = 1 - float(((seconds - predicted) ** 2).sum()) / spread if spread else 1.0
    return Measured(*map(float, x), len(rows), r2,
                    float(np.median(np.abs(predicted / seconds - 1))))


def nonnegative(A: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns x >= 0 that makes |A x - b| least, by trying every set of columns: few there are."""
    best, least = np.zeros(A.shape[1]), float(b @ b)
    scale = np.where((norm := np.linalg.norm(A, axis=0)) > 0, norm, 1)
    for size in range(1, A.shape[1] + 1):
        for columns in map(list, itertools.combinations(range(A.shape[1]), size)):
            y, *_ = np.linalg.lstsq(A[:, columns] / scale[columns], b, rcond=None)
            rest = float(np.sum((A[:, columns] / scale[columns] @ y - b) ** 2))
            if (y >= 0).all() and rest < least * (1 - 1e-12):
                best, least = np.zeros(A.shape[1]), rest
                best[columns] = y / scale[columns]
    return best


def _rows(path):
    try:
        text = pathlib.Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the log of steps {path} cannot be read: {error}") from None
    table = list(csv.DictReader(text.splitlines()))
    names = ("dur", *COLUMNS)
    for name in names:
        if table and name not in table[0]:
            raise UserError(f"{path} has no column '{name}'{nearest(name, list(table[0]))}")
    try:
        out = np.array([[float(row[name]) for name in names] for row in table])
    except (TypeError, ValueError):
        raise UserError(f"{path}: {', '.join(names)} must be numbers on every line") from None
    if len(out) < 20:
        raise UserError(f"{path} has {len(out)} steps; 20 are the least to fit four coefficients")
    if not np.isfinite(out).all() or (out[:, 0] <= 0).any() or (out[:, 1:] < 0).any():
        raise UserError(f"{path}: durations must be above zero and counts not below")
    return out
