"""A tiny corpus of the data tests: forty short texts, one of them awkward, made in a second."""

import pathlib
import random

import numpy as np
import pytest

from lm.data.config import Config
from lm.data.store import Store
from lm.data.tasks import prepare

WORDS = ["the", "a", "model", "reads", "one", "token", "then", "next", "of", "text", "with", "loss"]


@pytest.fixture(scope="session")
def synthetic():
    """Returns a store of documents of these lengths; its tokens, any eos too, are all different."""
    def make(lengths, seed=0, ends=False) -> Store:
        tokens = np.random.default_rng(seed).permutation(2 * sum(lengths))[:sum(lengths)]
        documents = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return Store(tokens.astype(np.uint32), documents, bytes=4 * len(tokens), ends=ends)
    return make


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> pathlib.Path:
    """Forty text files."""
    folder = tmp_path_factory.mktemp("corpus")
    draw = random.Random(0)
    for number in range(40):
        lines = [" ".join(draw.choices(WORDS, k=8)) for _ in range(draw.randint(3, 30))]
        (folder / f"{number:02}.txt").write_text(f"text {number}\n" + "\n".join(lines) + "\n")
    (folder / "40.txt").write_text("café ▁ naïve 日本語 🎉\n\n\ttabs  and   spaces \n" * 9)
    return folder


@pytest.fixture
def config(folder, tmp_path):
    """Returns a Config of the forty texts, in a cache of this test; keywords change fields."""
    def make(**changes):
        return Config(**{"corpus": f"{folder}/*.txt", "cache": str(tmp_path / "cache"),
                         "tokenizer": "bytes", "T": 32, "B": 4, "validation": 0.2, **changes})
    return make


@pytest.fixture(scope="session")
def bpe(folder, tmp_path_factory):
    """A tokenizer of a few hundred pieces trained on the forty texts."""
    return prepare(Config(corpus=f"{folder}/*.txt", tokenizer="bpe", V=340, T=32, validation=0.2,
                          cache=str(tmp_path_factory.mktemp("bpe"))), report=str).tokenizer
