"""The tiny form of an experiment: its choices, at sizes that compile in seconds. No jax here."""

import dataclasses
import math

import numpy as np

from lm.data.batches import Batches
from lm.data.store import Store
from lm.experiment.config import Experiment

V = 64  # of a model whose vocabulary is its tokenizer's


def tiny(e: Experiment, ways: int = 8) -> Experiment:
    """Returns the experiment with sizes as small as they can be and still be laid out as it can.

    A mesh of `ways` devices that holds the experiment holds its tiny form: what divides over a
    number of devices still does, few kv heads stay few, windows stay parts of the sequence.
    """
    c, d = e.model, e.data
    N, K = _heads(c.N, c.K, ways)
    T = like(d.T, 2 * ways, 32)
    H = next((H for H in (8, 16, 32, 64) if int(H * c.rotary_share) % 2 == 0), c.H)
    E = like(c.E, ways, ways) if c.E else 0
    model = dataclasses.replace(
        c, L=like(c.L - c.dense_layers, ways, 2 * ways) + c.dense_layers, D=like(c.D, ways, 32),
        N=N, K=K, H=H, F=like(c.F, ways, 64), E=E, experts_top=min(c.experts_top, max(1, E // 2)),
        dense_F=like(c.dense_F, ways, 64), V=c.V if c.V == -1 else like(c.V, ways, V), T=-1,
        windows=tuple(max(1, w * T // d.T) if 0 < w < d.T else w for w in c.windows),
        # Kernels are their chips' own. Layers in a loop compile fastest.
        attention=c.attention if c.attention in ("dense", "blocks") else "auto", unroll=1,
        precision_missing="emulate")
    accumulate = e.train.accumulate * max(1, c.microbatches)
    data = dataclasses.replace(d, T=T, B=like(d.B, ways * accumulate, 16))
    # Some gradients are zero but for rounding (of keys' biases, say); Adam divides them by their
    # own size, and devices that add up in another order would seem to disagree.
    # One device takes every step together with itself.
    train = dataclasses.replace(e.train, warmup="0", eps=max(e.train.eps, 1e-4), local_steps=0,
                                staleness=0)
    return dataclasses.replace(e, model=model, data=data, train=train)


def like(size: int, ways: int, least: int) -> int:
    """Returns the smallest number from `least` on that shares with `ways` what `size` does.

    It is never more than `size`.
    """
    return next(n for n in range(min(size, least), size + 1)
                if math.gcd(n, ways) == math.gcd(size, ways))


def _heads(N, K, ways):
    """Few heads N and kv heads K, shared by as many devices as N and K, K fewer if K is."""
    for n in range(min(N, 4), N + 1):
        if math.gcd(n, ways) == math.gcd(N, ways):
            for k in range(1, n + 1):
                if (n % k == 0 and math.gcd(k, ways) == math.gcd(K, ways)
                        and (k == n) == (K == N) and (k == 1) == (K == 1)):
                    return n, k
    return N, K


def text(e: Experiment, V: int, steps: int) -> Batches:
    """Returns batches of random tokens in documents of random lengths, for `steps` steps."""
    rng = np.random.default_rng(e.seed)
    count = (steps + 2) * e.data.B * e.data.T + 1
    lengths = rng.integers(1, e.data.T, size=count)
    ends = np.cumsum(lengths)
    documents = np.concatenate([[0], ends[ends < count], [count]])
    tokens = rng.integers(0, V, size=count).astype(np.uint32)
    return Batches(Store(tokens, documents, count), e.data.B, e.data.T, e.seed, e.data.packing)
