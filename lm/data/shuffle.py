"""A random order of any number of things, computed place by place: no list is kept.

The arithmetic is spelled out because the stream of a training run must not change with numpy's.
"""

import numpy as np

_ROUNDS = np.arange(1, 7, dtype=np.uint64)


def permute(index: np.ndarray, n: int, seed: int, epoch: np.ndarray) -> np.ndarray:
    """Returns where each of `index`, in [0, n), goes in the order of its epoch: a bijection.

    index, epoch: int64 of one length. A Feistel network over the least power of two not below n
    (Luby and Rackoff 1988), walked until it is back below n: under two turns on average.
    """
    bits = max(int(n - 1).bit_length(), 1)
    keys = random_bits(seed, epoch, _ROUNDS[:, None])
    out = _feistel(index.astype(np.uint64), bits, keys)
    while len(outside := np.flatnonzero(out >= n)):
        out[outside] = _feistel(out[outside], bits, keys[:, outside])
    return out.astype(np.int64)


def random_bits(seed: int, epoch: np.ndarray, purpose) -> np.ndarray:
    """Returns 64 random bits per epoch, a function of the arguments alone; `permute` uses
    purposes 1 to 6."""
    base = _mix(np.full(1, seed % 2**64, np.uint64)) + np.asarray(purpose, np.uint64)
    return _mix(_mix(base) ^ np.asarray(epoch).astype(np.uint64))


def _feistel(x, bits, keys):
    """Mixes the lower half of the bits into the upper and back, a key [*, len(x)] at a time."""
    low = np.uint64(bits // 2)
    upper, lower = x >> low, x & _mask(bits // 2)
    for even, odd in zip(keys[::2], keys[1::2], strict=True):
        upper = upper ^ _mix(lower ^ even) & _mask(bits - bits // 2)
        lower = lower ^ _mix(upper ^ odd) & _mask(bits // 2)
    return upper << low | lower


def _mask(bits):
    return np.uint64((1 << bits) - 1)


def _mix(x):
    """splitmix64 (Steele, Lea and Flood 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)
