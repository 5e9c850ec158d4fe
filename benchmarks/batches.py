"""How fast batches are made: Mtok/s, beside a plain loop over the same tokens.

`python benchmarks/batches.py` measures a made-up corpus and Python's standard library. The plain
loop draws nanoGPT's random windows and, for packing, walks each row token by token.
"""

import argparse
import itertools
import time
from functools import partial

import numpy as np

from lm.data.batches import Batches
from lm.data.config import Config
from lm.data.store import Store
from lm.data.tasks import prepare


def made_up(tokens: int = 20_000_000, mean: int = 700) -> Store:
    """Returns a store of random tokens in documents of `mean` length on average."""
    rng = np.random.default_rng(0)
    cuts = np.unique(rng.integers(1, tokens, tokens // mean))
    documents = np.concatenate([[0], cuts, [tokens]]).astype(np.int64)
    return Store(rng.integers(0, 8192, tokens).astype(np.uint16), documents, bytes=4 * tokens)


def plain(store: Store, B: int, T: int, packing: bool, rng, step: int) -> dict:
    """Returns a batch with the same keys the obvious way."""
    starts = rng.integers(0, len(store.tokens) - T, B)
    tokens_BT = np.stack([store.tokens[i:i + T].astype(np.int32) for i in starts])
    targets_BT = np.stack([store.tokens[i + 1:i + 1 + T].astype(np.int32) for i in starts])
    weights_BT = np.ones((B, T), np.float32)
    segments_BT, positions_BT = np.zeros((2, B, T), np.int32)
    for row, start in enumerate(starts if packing else ()):
        ends = np.searchsorted(store.documents, start, "right")
        segment = position = 0
        for t in range(T):
            if start + t == store.documents[ends]:
                segment, position, ends = segment + 1, 0, ends + 1
            segments_BT[row, t], positions_BT[row, t] = segment, position
            weights_BT[row, t] = start + t + 1 != store.documents[ends]
            position += 1
    return {"tokens_BT": tokens_BT, "targets_BT": targets_BT, "weights_BT": weights_BT,
            "segments_BT": segments_BT, "positions_BT": positions_BT}


def speed(make, tokens: int, seconds: float) -> float:
    """Returns millions of tokens per second of make(step)."""
    make(0)
    begin, step, spent = time.perf_counter(), 0, 0.0
    while spent < seconds:
        step += 1
        make(step)
        spent = time.perf_counter() - begin
    return step * tokens / spent / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="per figure")
    seconds = parser.parse_args().seconds
    stores = {"made up": made_up(), "python_stdlib": prepare(Config()).train}
    print(f"{'corpus':14} {'B':>3} {'T':>5} packing  lm Mtok/s  plain Mtok/s  ratio")
    for (name, store), (B, T), packing in itertools.product(
            stores.items(), ((16, 1024), (64, 256)), (True, False)):
        batches, rng = Batches(store, B, T, 0, packing), np.random.default_rng(0)
        ours = speed(batches.batch, B * T, seconds)
        theirs = speed(partial(plain, store, B, T, packing, rng), B * T, seconds)
        print(f"{name:14} {B:3} {T:5} {packing!s:7} {ours:10.1f} {theirs:13.2f} "
              f"{ours / theirs:6.1f}")


if __name__ == "__main__":
    main()
