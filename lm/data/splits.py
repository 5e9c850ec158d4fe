"""What is held out: each document goes to `train` or `validation`, and never moves between them."""

import collections
from collections.abc import Iterator
from typing import NamedTuple

from lm.data.config import Config
from lm.data.corpora import documents
from lm.data.text import Document, hash64

NAMES = ("train", "validation")


class Placed(NamedTuple):
    """A document, its split, and where it stands in it: documents are stored by rising `key`."""

    document: Document
    split: str
    key: int


def split_of(document: Document, share: float) -> str:
    """Returns 'train' or 'validation' by a hash of the text, whatever the name, seed or order.

    Raising `share` only moves documents from train to validation.
    """
    return NAMES[hash64(document.text, "split") < share * 2**64]


def placed(config: Config, dropped: collections.Counter | None = None) -> Iterator[Placed]:
    """Yields every document with its split; the parts of a long one go where its first goes."""
    return _PLACING[config.split](config, dropped)


def _by_document(config, dropped):
    split, key = NAMES[0], 0
    for document in documents(config, dropped):
        if document.part == 0:
            split = split_of(document, config.validation)
            key = hash64(document.text, "order") >> 1  # a signed 64-bit integer
        yield Placed(document, split, key)


def _by_tail(config, dropped):
    """The last share of all characters is held out; a document across the cut becomes two."""
    cut = int(sum(len(d.text) for d in documents(config)) * (1 - config.validation))
    seen = 0
    for number, document in enumerate(documents(config, dropped)):
        left, seen = cut - seen, seen + len(document.text)
        if left >= len(document.text):
            yield Placed(document, NAMES[0], number)
        elif left < 0:
            yield Placed(document, NAMES[1], number)
        else:
            text = document.text
            if left:  # else the cut is where this part of a document begins
                yield Placed(document._replace(text=text[:left], last=False), NAMES[0], number)
            yield Placed(document._replace(text=text[left:], part=0), NAMES[1], number)


_PLACING = {"document": _by_document, "tail": _by_tail}
