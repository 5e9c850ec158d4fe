"""The door of this room: a config becomes a tokenizer and two stores, made once and kept.

A token's way starts here: `prepare` -> `batches` -> the training loop.
"""

import collections
import contextlib
import dataclasses
import hashlib
import lzma
from collections.abc import Callable

from lm.base import cache
from lm.base.errors import UserError
from lm.base.records import read_json, write_json
from lm.data import corpora, splits, store, tokenizers
from lm.data.config import Config
from lm.data.store import Store
from lm.data.text import to_bytes

_VERSION = 2       # raise when what is stored changes: older copies are not used
_XZ_BYTES = 1 << 26


@dataclasses.dataclass(frozen=True)
class Task:
    """What there is to learn from, and the language that it is written in."""

    tokenizer: tokenizers.Tokenizer
    train: Store
    validation: Store


def prepare(config: Config, report: Callable[[str], None] = print) -> Task:
    """Returns the task of `config`, tokenised now or, if it was before, read from the cache.

    `report` gets one-line messages. Raises UserError, also where a split is under T + 1 tokens.
    """
    folder = _folder(config)
    stores = store.read(folder)
    if stores is None:
        with store.building(folder) as part:
            if part is not None:
                _build(config, part, report)
        stores = store.read(folder)
    task = Task(tokenizers.load(folder / "tokenizer"), **stores)
    for name in splits.NAMES:
        if len(stores[name].tokens) <= config.T:
            raise UserError(_too_short(config, name, stores))
    report(f"{config.corpus}: {_sizes(task)}, V = {task.tokenizer.V} ({folder})")
    return task


def xz_bits_per_byte(task: Task) -> float:
    """Returns the bits per byte that `xz -9` needs for the validation text: a floor to beat.

    Of its first 64 MiB, if it is longer. Kept beside the store.
    """
    kept = task.validation.path and task.validation.path / "xz.json"
    if kept and kept.exists():
        return read_json(kept)["bits_per_byte"]
    tokens, documents = task.validation.tokens, task.validation.documents
    packer, size, packed = lzma.LZMACompressor(preset=9), 0, 0
    for start, end in zip(documents[:-1], documents[1:], strict=True):
        data = to_bytes(task.tokenizer.decode(tokens[start:end].tolist()))[:_XZ_BYTES - size]
        packed += len(packer.compress(data))
        size += len(data)
        if size >= _XZ_BYTES:
            break
    packed += len(packer.flush())
    bits = 8 * packed / size
    if kept:
        with contextlib.suppress(OSError):  # another's cache: it only costs the time again
            write_json(kept, {"bits_per_byte": bits, "bytes": size})
    return bits


def _folder(config):
    """Returns the folder whose name depends on all that decides the tokens, and on nothing else."""
    trained = config.tokenizer in ("bpe", "unigram")
    plain = config.tokenizer in ("bytes", "characters")
    used = (_VERSION, corpora.fingerprint(config), config.split, config.validation,
            config.tokenizer if trained or plain else _given(config.tokenizer),
            config.V if trained else 0)
    key = hashlib.blake2b(repr(used).encode(), digest_size=10).hexdigest()
    return cache.root(config.cache) / key


def _given(path):
    """Returns the fingerprint of a tokenizer that is not made here; `make` has the errors."""
    return tokenizers.make(Config(tokenizer=path), lambda: iter(())).fingerprint


def _build(config, folder, report):
    def placed():
        return splits.placed(config)

    if config.tokenizer in ("bpe", "unigram"):
        report(f"{config.corpus}: training {config.V} {config.tokenizer} pieces")
    tokenizer = tokenizers.make(config, placed)
    report(f"{config.corpus}: tokenising")
    dropped = collections.Counter()
    store.write(folder, tokenizer, splits.placed(config, dropped), report,
                {"corpus": config.corpus, "tokenizer": tokenizer.fingerprint, "dropped": dropped})
    if dropped:
        reasons = ", ".join(f"{n} {reason}" for reason, n in dropped.most_common())
        report(f"{config.corpus}: left out {dropped.total()} files: {reasons}")


def _sizes(task):
    return ", ".join(
        f"{name} {len(s.tokens):,} tokens of {len(s.documents) - 1:,} documents"
        for name, s in (("train", task.train), ("validation", task.validation)))


def _too_short(config, name, stores):
    sizes = ", ".join(f"{n} {len(s.tokens)} tokens of {len(s.documents) - 1} documents"
                      for n, s in stores.items())
    if len(stores[name].tokens) == 0 and config.split == "document":
        cure = "hold out more (validation), or cut the text itself (split='tail')"
    else:
        cure = "lower T or use more text"
        if name == "validation":
            cure += ", or hold out more (validation)"
    return (f"corpus '{config.corpus}' is too short: a sequence needs T + 1 = {config.T + 1} "
            f"tokens, there are: {sizes}; {cure}")
