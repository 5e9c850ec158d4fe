"""Where text comes from: Python's standard library, files named by a glob, a TFDS dataset.

A corpus is read in one order, always the same, and never held in memory whole. What it says is
settled here; `splits` decides what is held out and `tokenizers` what a token is.
"""

import collections
import hashlib
from collections.abc import Iterator

from lm.base.errors import UserError
from lm.data import files, stdlib, tfds
from lm.data.config import Config
from lm.data.text import Document, to_bytes


def documents(config: Config, dropped: collections.Counter | None = None) -> Iterator[Document]:
    """Yields the corpus in a fixed order; `dropped` counts what was left out, by reason.

    Raises UserError where the corpus does not exist, cannot be read as text, or is empty.
    """
    dropped = collections.Counter() if dropped is None else dropped
    made = False
    for document in _limited(_source(config).documents(config, dropped), config.limit):
        made = True
        yield document
    if not made:
        raise UserError(f"corpus '{config.corpus}' holds no text")


def fingerprint(config: Config) -> str:
    """Returns a digest that changes whenever `documents` would yield other text."""
    used = repr((config.limit, _source(config).fingerprint(config)))
    return hashlib.blake2b(used.encode(), digest_size=16).hexdigest()


def _source(config):
    """Returns the module that reads this corpus; each has `documents` and `fingerprint`."""
    if config.corpus == "python_stdlib":
        return stdlib
    return tfds if config.corpus.startswith("tfds:") else files


def _limited(corpus, limit):
    """Yields at most `limit` bytes of text (0 = all); the document across the limit is cut."""
    left = limit
    for document in corpus:
        size = len(to_bytes(document.text)) if limit else 0
        if size <= left or not limit:
            left -= size
            yield document
            continue
        text = to_bytes(document.text)[:left].decode("utf-8", "ignore")
        if text:
            yield document._replace(text=text, last=True)
        return
