"""Tokenised text on disk: made once, whole or not at all, and mapped into memory."""

import array
import contextlib
import dataclasses
import errno
import hashlib
import itertools
import json
import math
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from lm.base.errors import UserError
from lm.base.records import write_json
from lm.data import tokenizers
from lm.data.splits import NAMES, Placed
from lm.data.text import to_bytes

_CHUNK = 1 << 22  # characters tokenised at a time


@dataclasses.dataclass(frozen=True)
class Store:
    """The tokens of one split, documents one after another, each with its eos if there is one.

    tokens: flat uint16 or uint32. documents: int64, where each begins, and the end of the last.
    bytes: of the text, in UTF-8. fingerprint: of tokens and documents. path: its folder, if any.
    ends: whether documents end with eos (the last may be cut short, and have none).
    """

    tokens: np.ndarray
    documents: np.ndarray
    bytes: int
    fingerprint: str = ""
    path: pathlib.Path | None = None
    ends: bool = False

    def bits_per_byte(self, loss: float) -> float:
        """Returns bits per byte of text where `loss` is nats per token."""
        return loss / math.log(2) * len(self.tokens) / self.bytes

    def predictable(self, packing: bool) -> int:
        """Returns how many tokens have something before them that they can be predicted from.

        All but the first; with packing and without eos, all but the first of each document.
        """
        alone = packing and not self.ends
        return len(self.tokens) - (len(self.documents) - 1 if alone else 1)


class _Writer:
    """Takes the documents of one split as they come and stores them by rising key."""

    def __init__(self, folder: pathlib.Path, name: str, tokenizer):
        self.folder, self.name, self.eos = folder, name, tokenizer.eos
        self.dtype = np.dtype(np.uint16 if tokenizer.V <= 1 << 16 else np.uint32)
        self.raw = (folder / f"{name}.raw").open("w+b")
        self.starts, self.keys = array.array("q"), array.array("q")
        self.length = self.bytes = 0

    def add(self, placed: Placed, ids: np.ndarray) -> None:
        """Appends one part of a document: the first opens it, the last ends it with eos."""
        if placed.document.part == 0:
            self.starts.append(self.length)
            self.keys.append(placed.key)
        if placed.document.last and self.eos is not None:
            ids = np.append(ids, self.eos)
        ids.astype(self.dtype).tofile(self.raw)
        self.length += len(ids)
        self.bytes += len(to_bytes(placed.document.text))

    def close(self) -> dict:
        """Writes the split's files; returns what is known about it."""
        self.raw.flush()
        raw = np.memmap(self.raw, self.dtype, "r") if self.length else np.empty(0, self.dtype)
        bounds = np.append(np.frombuffer(self.starts, np.int64), self.length)
        order = np.argsort(np.frombuffer(self.keys, np.int64), kind="stable")
        digest = hashlib.blake2b(digest_size=16)
        with (self.folder / f"{self.name}.tokens").open("wb") as file:
            for i in order:
                data = raw[bounds[i]:bounds[i + 1]].tobytes()
                digest.update(data)
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        documents = np.concatenate([[0], np.cumsum(np.diff(bounds)[order])]).astype(np.int64)
        digest.update(documents.tobytes())
        np.save(self.folder / f"{self.name}.documents.npy", documents)
        self.raw.close()
        (self.folder / f"{self.name}.raw").unlink()
        return {"tokens": self.length, "documents": len(order), "bytes": self.bytes,
                "dtype": self.dtype.name, "ends": self.eos is not None,
                "fingerprint": digest.hexdigest()}


def write(folder: pathlib.Path, tokenizer, corpus: Iterable[Placed],
          report: Callable[[str], None], facts: dict) -> None:
    """Tokenises `corpus` into `folder`; store.json, with `facts`, comes last and makes it whole."""
    writers = {name: _Writer(folder, name, tokenizer) for name in NAMES}
    done, told = 0, time.monotonic()
    for chunk in _chunks(corpus):
        texts = [placed.document.text for placed in chunk]
        for placed, ids in zip(chunk, tokenizer.encode_batch(texts), strict=True):
            writers[placed.split].add(placed, ids)
        done += sum(map(len, texts))
        if time.monotonic() - told > 10:
            told = time.monotonic()
            report(f"tokenised {done / 1e6:,.0f} M characters")
    tokenizers.save(tokenizer, folder / "tokenizer")
    splits = {name: writer.close() for name, writer in writers.items()}
    write_json(folder / "store.json", {"splits": splits, **facts})


def read(folder: pathlib.Path) -> dict[str, Store] | None:
    """Returns the stores by split; None where `folder` holds no whole one."""
    try:
        known = json.loads((folder / "store.json").read_text())["splits"]
        return {name: _read_split(folder, name, known[name]) for name in NAMES}
    except (OSError, ValueError, KeyError):
        return None


def _read_split(folder, name, known):
    path, dtype = folder / f"{name}.tokens", np.dtype(known["dtype"])
    if path.stat().st_size != known["tokens"] * dtype.itemsize:
        raise ValueError("cut short")
    tokens = np.asarray(np.memmap(path, dtype, "r")) if known["tokens"] else np.empty(0, dtype)
    documents = np.asarray(np.load(folder / f"{name}.documents.npy", mmap_mode="r"))
    if len(documents) != known["documents"] + 1 or documents[-1] != known["tokens"]:
        raise ValueError("another split's documents")
    return Store(tokens, documents, known["bytes"], known["fingerprint"], folder,
                 known["ends"])


def _chunks(corpus):
    """Yields lists of about _CHUNK characters."""
    chunk, size = [], 0
    for placed in corpus:
        chunk.append(placed)
        size += len(placed.document.text)
        if size >= _CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


@contextlib.contextmanager
def building(folder: pathlib.Path) -> Iterator[pathlib.Path | None]:
    """Gives an empty folder that becomes `folder` if the block ends well; None if that is whole.

    One process builds at a time; the others wait, then find it done. What a killed one left is
    removed. Raises UserError where the cache cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = folder.with_name(f"{folder.name}.lock").open("w")
    except OSError as error:
        raise _unwritable(folder, error) from None
    with lock:
        _wait_for(lock)
        if read(folder) is not None:
            yield None
            return
        for left in itertools.chain([folder], folder.parent.glob(f"{folder.name}.part-*")):
            shutil.rmtree(left, ignore_errors=True)
        part = folder.with_name(f"{folder.name}.part-{os.getpid()}")
        try:
            part.mkdir()
            yield part
            os.rename(part, folder)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise _unwritable(folder, error) from None
            if read(folder) is None:  # else, without locks, another process was faster
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _unwritable(folder, error):
    return UserError(f"the cache {folder.parent} cannot be written: {error.strerror}; set LM_CACHE "
                     "or the data config's cache to a folder with room")


def _wait_for(file):
    """Takes a lock that the system gives back when the process ends, however it ends."""
    try:
        import fcntl
        fcntl.flock(file, fcntl.LOCK_EX)
    except (ImportError, OSError):
        pass  # no such locks here: each process builds a store of its own, the first one stays
