"""Batches as a pure function of (seed, step): nothing to save, nothing to replay, any host count.

A batch is a dict of arrays over [B, T], always with these keys: `tokens_BT`, `targets_BT` (the
tokens that follow) and `segments_BT`, `positions_BT` are int32; `weights_BT` is float32, 0 where a
target does not count. With packing, segments number the documents of a row and positions start
again with each; without, all segments are 0. Where documents end with eos, that of the document
before opens a segment, as it stands before a generated text, so it is the last target of one
document and predicts the first token of the next. Where they do not, a segment opens at the
document's first token, which nothing predicts.
"""

import dataclasses

import numpy as np

from lm.data import shuffle
from lm.data.store import Store


@dataclasses.dataclass(frozen=True)
class Batches:
    """Endless training batches of `store`, shuffled anew in every epoch.

    An epoch cuts the tokens, from an offset of its own, into windows of T + 1 that share their
    ends, and takes each window once; what it leaves at either end, under 2T in all, other epochs
    take. Row b of step s is window s * B + b of the epochs.
    """

    store: Store
    B: int
    T: int
    seed: int
    packing: bool = True

    @property
    def windows(self) -> int:
        """Rows per epoch."""
        return max((len(self.store.tokens) - self.T) // self.T, 1)

    @property
    def steps_per_epoch(self) -> float:
        return self.windows / self.B

    def batch(self, step: int, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        """Returns the batch of `step`, or only `rows` of its B: what one process feeds."""
        number = step * self.B + np.arange(self.B, dtype=np.int64)[rows]
        epoch, index = np.divmod(number, self.windows)
        window = shuffle.permute(index, self.windows, self.seed, epoch)
        room = len(self.store.tokens) - self.windows * self.T
        offset = (shuffle.random_bits(self.seed, epoch, 0) % np.uint64(room)).astype(np.int64)
        return _rows(self.store, offset + window * self.T, self.T, self.packing)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """All of `store`, once and in order, in batches; what is missing in the last has weight 0.

    The weights add up to store.predictable(packing).
    """

    store: Store
    B: int
    T: int
    packing: bool = True

    def __len__(self) -> int:
        return -(-(len(self.store.tokens) - 1) // (self.B * self.T))

    def batch(self, number: int, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        """Returns batch `number` < len(self), or only `rows` of its B."""
        index = number * self.B + np.arange(self.B, dtype=np.int64)[rows]
        return _rows(self.store, index * self.T, self.T, self.packing)


def _rows(store, starts, T, packing):
    """Returns the batch whose rows start at `starts`; past the end, tokens are 0 with weight 0."""
    n = len(store.tokens)
    window = np.zeros((len(starts), T + 1), np.int32)
    for row, start in zip(window, starts, strict=True):
        some = store.tokens[start:start + T + 1]
        row[:len(some)] = some
    weights = np.ones((len(starts), T), np.float32)
    over = np.flatnonzero(starts + T >= n)
    weights[over] = starts[over, None] + 1 + np.arange(T) < n
    segments = np.zeros((len(starts), T), np.int32)
    positions = np.broadcast_to(np.arange(T, dtype=np.int32), segments.shape)
    if packing:
        opens = _opens(store, starts, T)
        if not store.ends:
            weights[opens[:, 1:]] = 0
        np.cumsum(opens[:, :T], axis=1, out=segments)
        begins = np.where(opens[:, :T], positions, np.int32(0))
        positions = positions - np.maximum.accumulate(begins, axis=1)
    return {"tokens_BT": window[:, :T], "targets_BT": window[:, 1:], "weights_BT": weights,
            "segments_BT": segments, "positions_BT": positions}


def _opens(store, starts, T):
    """Returns a mask [rows, T + 1]: where, after its start, a row has a token that opens a segment.

    That is a document's first token or, where documents end with eos, the eos before it.
    """
    documents, starts = store.documents, starts + int(store.ends)
    low = np.searchsorted(documents, starts, "right")
    count = np.searchsorted(documents, starts + T, "right") - low
    row = np.repeat(np.arange(len(starts)), count)
    which = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count) + low[row]
    opens = np.zeros((len(starts), T + 1), bool)
    opens[row, documents[which] - starts[row]] = True
    return opens
