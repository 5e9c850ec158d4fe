"""How sure a percentile is. Waiting times follow one another: a bootstrap of single requests, as
if they did not, gives intervals that are several times too narrow in a queue.
"""

import math
from collections.abc import Callable

import numpy as np

DRAWS = 1000
WORK = 2 * 10**7    # values that are drawn at most, over all draws
BLOCKS = 5          # that a series must have, for its intervals to mean anything


def block(values: np.ndarray) -> int:
    """Returns the length of the blocks for a series, from how it follows itself.

    The length that is best for the mean of an AR(1) series of the same correlation between
    neighbours: Carlstein 1986, eq. 7; of ranks, which a few long waits do not decide.
    """
    n = len(values)
    _, index, ties = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(ties) - ties / 2)[index] - n / 2
    total = float(ranks @ ranks)
    r = min(max(float(ranks[1:] @ ranks[:-1]) / total, 0.0), 0.99) if total else 0.0
    return max(1, round((math.sqrt(6) * r / (1 - r * r)) ** (2 / 3) * n ** (1 / 3)))


def interval(values: np.ndarray, of: Callable[[np.ndarray], np.ndarray], seed: int = 0,
             level: float = 0.95) -> np.ndarray | None:
    """Returns [2, statistics]: the ends of the interval of each of the statistics `of` values.

    values: in order of time. A circular block bootstrap (Politis & Romano 1992). None where the
    series is too short to say anything.
    """
    n = len(values)
    size = block(values) if n > 1 else 1
    if n < BLOCKS * max(2, size):
        return None
    rng = np.random.default_rng(seed)
    count = -(-n // size)
    found = []
    for _ in range(int(np.clip(WORK / n, 100, DRAWS))):
        starts = rng.integers(n, size=count)
        found.append(of(values[((starts[:, None] + np.arange(size)) % n).ravel()[:n]]))
    return np.quantile(found, [(1 - level) / 2, (1 + level) / 2], axis=0)
