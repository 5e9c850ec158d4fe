import errno
import itertools
import multiprocessing
import os
import signal

import numpy as np
import pytest

from lm.base.errors import UserError
from lm.data import files, store, tasks, tokenizers
from lm.data.config import Config
from lm.data.splits import placed


def silent(message):
    """A `report` that keeps quiet."""


def texts_of(task, split):
    """The documents of a split, decoded."""
    held = getattr(task, split)
    return [task.tokenizer.decode(held.tokens[a:b]) for a, b in
            itertools.pairwise(held.documents.tolist())]


def test_parts_are_one_document(config, monkeypatch):
    whole = tasks.prepare(config(), silent)
    monkeypatch.setattr(files, "_PART", 100)
    monkeypatch.setattr(store, "_CHUNK", 500)
    parts = tasks.prepare(config(cache=f"{whole.train.path}/other"), silent)
    assert len(parts.train.documents) + len(parts.validation.documents) == 43
    assert len(parts.train.tokens) + len(parts.validation.tokens) == len(
        whole.train.tokens) + len(whole.validation.tokens)  # one eos each
    assert sorted(texts_of(parts, "train") + texts_of(parts, "validation")) == sorted(
        texts_of(whole, "train") + texts_of(whole, "validation"))


def test_wide_ids(tmp_path):
    class Wide(tokenizers.plain.Bytes):
        V = 70000
    (tmp_path / "a.txt").write_text("text")
    writer = store._Writer(tmp_path, "train", Wide())
    writer.add(next(iter(placed(Config(corpus=f"{tmp_path}/a.txt")))), np.array([69999, 3]))
    assert writer.close()["dtype"] == "uint32"
    assert np.fromfile(tmp_path / "train.tokens", np.uint32).tolist() == [69999, 3, 255]


def test_bits_per_byte(synthetic):
    held = synthetic([10, 6])
    assert held.bits_per_byte(np.log(2)) == pytest.approx(16 / 64)
    assert held.predictable(True) == 14 and held.predictable(False) == 15
    held = synthetic([10, 6], ends=True)
    assert held.predictable(True) == held.predictable(False) == 15


def killed(config, module, name):
    def last_act(*args):
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(module, name, last_act)  # this process has no after
    tasks.prepare(config, silent)


@pytest.mark.parametrize("module,name", [(store, "write"), (store, "write_json"), (os, "rename")])
def test_what_a_killed_process_left_does_not_count(config, module, name):
    config = config()
    process = multiprocessing.get_context("fork").Process(
        target=killed, args=(config, module, name))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    folder = tasks._folder(config)
    left = list(folder.parent.glob("*.part-*"))
    assert len(left) == 1 and not folder.exists()
    assert len(tasks.prepare(config, silent).train.tokens) > 1000
    assert not left[0].exists() and folder.exists()


@pytest.mark.parametrize("name", ["store.json", "train.tokens", "validation.documents.npy"])
def test_damaged_stores_are_made_again(config, name):
    known = tasks.prepare(config(), silent).train.fingerprint
    path = tasks._folder(config()) / name
    path.write_bytes(path.read_bytes()[:-8])
    heard = []
    assert tasks.prepare(config(), heard.append).train.fingerprint == known
    assert any("tokenising" in m for m in heard)


def prepare_in_turn(config, queue):
    tasks.prepare(config, queue.put)


def test_processes_at_once_build_one_store(config):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=prepare_in_turn, args=(config(), queue)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [p.exitcode for p in processes] == [0] * 4
    heard = [queue.get(timeout=5) for _ in range(5)]
    assert sum(m.endswith("tokenising") for m in heard) == 1
    assert sum("train" in m for m in heard) == 4


def test_cache_that_cannot_be_written(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written: Not a directory; set LM_CACHE"):
        tasks.prepare(config(cache=f"{tmp_path}/file/cache"), silent)


def test_a_full_disk(config, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "write_json", full)
    with pytest.raises(UserError, match="cannot be written: No space left on device; set LM_CACHE"):
        tasks.prepare(config(), silent)
    assert [p.suffix for p in tasks._folder(config()).parent.iterdir()] == [".lock"]
