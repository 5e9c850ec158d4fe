"""What a server is asked: how long prompts and outputs are, and when they come."""

import math
import pathlib
from dataclasses import dataclass

import numpy as np

from lm.base.errors import UserError, nearest

MOST = 10**7  # tokens that a length may have
SIGMA = 0.8  # of a lognormal that does not say; public traces of chat lie between 0.7 and 1.2
_FORMS = "lognormal:MEAN[:SIGMA], constant:N, uniform:LOW:HIGH or a file with a number on each line"


@dataclass(frozen=True)
class Lengths:
    """A distribution of token counts, all at least 1."""

    kind: str
    a: float = 0.0
    b: float = 0.0
    values: tuple[int, ...] = ()

    @property
    def mean(self) -> float:
        """Returns the mean in tokens."""
        if self.kind == "uniform":
            return (self.a + self.b) / 2
        return float(np.mean(self.values)) if self.values else self.a

    def draw(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Returns n whole lengths."""
        if self.kind == "constant":
            out = np.full(n, self.a)
        elif self.kind == "uniform":
            return rng.integers(int(self.a), int(self.b) + 1, n)
        elif self.kind == "lognormal":
            out = np.exp(rng.normal(math.log(self.a) - self.b**2 / 2, self.b, n))
        else:
            out = rng.choice(np.array(self.values), n)
        return np.rint(np.clip(out, 1, MOST)).astype(int)


def lengths(text: str, name: str = "lengths") -> Lengths:
    """Reads a distribution. Raises UserError that names the flag and the forms there are."""
    kind, _, rest = text.partition(":")
    counts = {"lognormal": (1, 2), "constant": (1, 1), "uniform": (2, 2)}
    if kind not in counts:
        path = pathlib.Path(text)
        if path.is_file():
            values = tuple(int(x) for x in _numbers(path, name))
            if min(values) < 1 or max(values) > MOST:
                raise UserError(f"{name}: {text} has a length below 1 or above {MOST:,}")
            return Lengths("file", values=values)
        raise UserError(f"{name}={text}: neither a file nor a distribution"
                        f"{nearest(kind, counts)}; give {_FORMS}")
    try:
        numbers = [float(x) for x in rest.split(":")]
    except ValueError:
        numbers = []
    low, high = counts[kind]
    if not (low <= len(numbers) <= high) or not all(math.isfinite(x) for x in numbers):
        raise UserError(f"{name}={text} is not understood; give {_FORMS}")
    a, b = numbers[0], numbers[1] if len(numbers) > 1 else SIGMA if kind == "lognormal" else 0.0
    if not 1 <= a <= MOST or (kind == "uniform" and not a <= b <= MOST) or b < 0:
        raise UserError(f"{name}={text}: lengths are at least 1 and at most {MOST:,}, the high end "
                        "at least the low end, SIGMA at least 0")
    return Lengths(kind, a, b)


def arrivals(text: str, rate: float, rng: np.random.Generator, n: int) -> np.ndarray:
    """Returns n times of arrival, in seconds, at `rate` a second.

    text: poisson, gamma:CV with the coefficient of variation of the gaps, constant, or a file of
    times, whose gaps are drawn in their order and stretched to the rate.
    """
    kind, _, rest = text.partition(":")
    if kind == "poisson" and not rest:
        gaps = rng.exponential(1 / rate, n)
    elif kind == "constant" and not rest:
        gaps = np.full(n, 1 / rate)
    elif kind == "gamma":
        try:
            cv = float(rest)
        except ValueError:
            cv = -1.0
        if not 0 < cv < 100:
            raise UserError(f"arrivals={text}: gamma:CV takes a number above 0, as in gamma:2")
        gaps = rng.gamma(1 / cv**2, cv**2 / rate, n)
    elif pathlib.Path(text).is_file():
        times = np.sort(_numbers(pathlib.Path(text), "arrivals"))
        gaps = np.diff(times)
        if len(gaps) < 1 or gaps.sum() <= 0:
            raise UserError(f"arrivals: {text} needs two different times or more")
        gaps = np.resize(np.roll(gaps, -int(rng.integers(len(gaps)))), n)
        gaps = gaps / (gaps.mean() * rate)
    else:
        raise UserError(f"arrivals={text} is not understood; give poisson, constant, gamma:CV or "
                        "a file with a time on each line")
    return np.cumsum(gaps)


def _numbers(path, name):
    try:
        out = np.array(path.read_text().split(), float)
    except (ValueError, UnicodeDecodeError):
        out = np.array([])
    if not len(out) or not np.isfinite(out).all():
        raise UserError(f"{name}: {path} must hold one number on each line and nothing else")
    return out
