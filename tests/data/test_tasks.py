import itertools
import json
import lzma
import subprocess
import sys

import numpy as np
import pytest

from lm.base.errors import UserError
from lm.data import store, tasks
from lm.data.config import Config
from lm.data.corpora import documents
from lm.data.splits import split_of


def silent(message):
    """A `report` that keeps quiet."""


def texts_of(task, split):
    """The documents of a split, decoded."""
    held = getattr(task, split)
    return [task.tokenizer.decode(held.tokens[a:b]) for a, b in
            itertools.pairwise(held.documents.tolist())]


@pytest.mark.parametrize("tokenizer", ["bytes", "characters", "bpe"])
def test_store_is_the_corpus(config, tokenizer):
    config = config(tokenizer=tokenizer, V=340)
    task = tasks.prepare(config, silent)
    corpus = list(documents(config))
    for name in ("train", "validation"):
        held = getattr(task, name)
        want = [d.text for d in corpus if split_of(d, config.validation) == name]
        assert sorted(texts_of(task, name)) == sorted(want) and want
        assert texts_of(task, name) != want  # stored in another order
        assert held.bytes == sum(len(t.encode()) for t in want)
        assert held.tokens.dtype == np.uint16
        assert held.ends
        assert (held.tokens[held.documents[1:] - 1] == task.tokenizer.eos).all()
        assert (held.tokens == task.tokenizer.eos).sum() == len(want)


def test_second_time_reads_the_cache(config, monkeypatch):
    heard = []
    first = tasks.prepare(config(), heard.append)
    monkeypatch.setattr(store, "write", None)
    second = tasks.prepare(config(T=8, B=2, packing=False, prefetch=0, V=9), heard.append)
    assert [m.split(": ")[1].split(",")[0] for m in heard].count("tokenising") == 1
    assert all("\n" not in m for m in heard)
    assert first.train.fingerprint == second.train.fingerprint
    np.testing.assert_array_equal(first.train.tokens, second.train.tokens)


def test_cache_depends_on_what_decides_the_tokens(config, folder, tmp_path):
    made = [config(), config(tokenizer="characters"), config(split="tail"), config(limit=9000),
            config(validation=0.3), config(tokenizer="bpe", V=330), config(tokenizer="bpe", V=340),
            config(corpus=f"{folder}/[12]*.txt")]
    prints = {tasks.prepare(c, silent).train.fingerprint for c in made}
    assert len(prints) == len(made) == len([p for p in (tmp_path / "cache").iterdir()
                                            if p.is_dir()])


def test_renaming_changes_nothing(config, folder, tmp_path):
    known = tasks.prepare(config(), silent)
    other = tmp_path / "renamed"
    other.mkdir()
    for path in folder.iterdir():
        (other / f"x{99 - int(path.stem)}.txt").write_bytes(path.read_bytes())
    again = tasks.prepare(config(corpus=f"{other}/*"), silent)
    assert again.train.fingerprint == known.train.fingerprint
    assert again.validation.fingerprint == known.validation.fingerprint


def test_cache_folder_of_the_environment(config, tmp_path, monkeypatch):
    monkeypatch.setenv("LM_CACHE", str(tmp_path / "elsewhere"))
    assert tasks.prepare(config(cache=""), silent).train.path.parent == tmp_path / "elsewhere"


def test_tail_of_one_file_as_nanogpt_cuts_it(shared, tmp_path):
    path = shared / "tinyshakespeare.txt"
    task = tasks.prepare(Config(
        corpus=str(path), tokenizer="characters", split="tail", validation=0.1,
        cache=str(tmp_path)), silent)
    assert task.tokenizer.V == 65 and task.tokenizer.eos is None
    assert not task.train.ends and not task.validation.ends
    assert (len(task.train.tokens), len(task.validation.tokens)) == (1003854, 111540)
    text = path.read_text()
    assert task.tokenizer.decode(task.train.tokens) == text[:1003854]
    assert task.tokenizer.decode(task.validation.tokens) == text[1003854:]
    packed = lzma.compress(text[1003854:].encode(), preset=9)
    assert tasks.xz_bits_per_byte(task) == pytest.approx(8 * len(packed) / 111540, rel=1e-3)


def test_xz_of_the_validation_text(config):
    task = tasks.prepare(config(), silent)
    text = "".join(texts_of(task, "validation")).encode()
    bits = tasks.xz_bits_per_byte(task)
    assert bits == pytest.approx(8 * len(lzma.compress(text, preset=9)) / len(text), rel=1e-6)
    kept = task.validation.path / "xz.json"
    kept.write_text(json.dumps({"bits_per_byte": 1.5}))
    assert tasks.xz_bits_per_byte(task) == 1.5


@pytest.mark.parametrize("changes,says", [
    ({"T": 10**6}, r"needs T \+ 1 = 1000001 tokens, there are: train \d+ tokens of \d+ documents, "
                   r"validation \d+ tokens of \d+ documents; lower T or use more text"),
    ({"T": 9000}, "lower T or use more text, or hold out more"),
    ({"validation": 0.0}, "validation 0 tokens of 0 documents; hold out more"),
    ({"limit": 50}, "split='tail'"),
    ({"split": "tail", "validation": 0.0}, "hold out more"),
])
def test_too_short(config, changes, says):
    with pytest.raises(UserError, match=says):
        tasks.prepare(config(**changes), silent)


def test_import_loads_nothing_large():
    code = ("import sys, lm.data.tasks, lm.data.batches, lm.data.prefetch; "
            "print({'jax', 'tensorflow', 'tensorflow_datasets', 'sentencepiece', 'tokenizers', "
            "'zstandard', 'grain', 'absl'} & set(sys.modules))")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True,
                          text=True, check=True).stdout == "set()\n"
