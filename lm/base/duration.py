"""Lengths of time in a run: steps, tokens, epochs or a share of the run, one unit each."""

import math
import re

from lm.base.errors import UserError, nearest

_UNITS = {"step": "steps", "steps": "steps", "token": "tokens", "tokens": "tokens",
          "epoch": "epochs", "epochs": "epochs", "%": "%"}


def parse(text: str) -> tuple[float, str]:
    """Returns (amount, unit) of `2000 steps`, `1.5e9 tokens`, `3 epochs`, `5%` or `2000` (steps).

    Raises UserError on anything else, two units in one text included.
    """
    match = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([a-z]+|%)?\s*", text)
    cure = "write e.g. '2000 steps', '1e9 tokens', '3 epochs' or '5%'"
    if not match:
        raise UserError(f"'{text}' is not one duration; {cure}")
    unit = match[2] or "steps"
    if unit not in _UNITS:
        raise UserError(f"'{text}': unknown unit '{unit}'{nearest(unit, _UNITS)}")
    try:
        amount = float(match[1])
    except ValueError:
        amount = math.inf
    if math.isinf(amount):
        raise UserError(f"'{text}' is not one duration; {cure}")
    return amount, _UNITS[unit]


def steps(text: str, *, tokens_per_step: float, steps_per_epoch: float, run: int | None) -> int:
    """Returns `text` in whole steps, rounded to the nearest, at least 1 unless it is zero.

    `run`: the run's length in steps, for shares of it; None where a share means nothing.
    """
    amount, unit = parse(text)
    if unit == "%":
        if run is None:
            raise UserError(f"'{text}': a run's own length cannot be a share of itself; "
                            "give steps, tokens or epochs")
        exact = amount / 100 * run
    else:
        exact = amount * {"steps": 1, "tokens": 1 / tokens_per_step,
                          "epochs": steps_per_epoch}[unit]
    return max(round(exact), 1) if exact > 0 else 0
