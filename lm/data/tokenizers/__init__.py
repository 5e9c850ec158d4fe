"""Text to token ids and back: decode(encode(text)) == text, whatever the text."""

import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np

from lm.base.errors import UserError, nearest
from lm.base.records import read_json
from lm.data.config import Config
from lm.data.splits import Placed
from lm.data.tokenizers import hf, plain, sentencepiece

_SAVED = "lm_tokenizer.json"


class Tokenizer(Protocol):
    """What every tokenizer offers."""

    V: int             # ids are below V
    eos: int | None    # ends a document; None where a corpus is one document of characters
    fingerprint: str   # a digest of everything that decides the ids

    def encode(self, text: str) -> np.ndarray:
        """Returns int32 ids of `text`, without eos."""

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """Returns [encode(t) for t in texts], faster."""

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text; eos and other control ids are no text, broken UTF-8 is U+FFFD."""

    def pieces(self) -> list[bytes]:
        """Returns the bytes that each id adds to a text; none for eos and other control ids."""

    def save(self, path: pathlib.Path) -> dict:
        """Writes what is large into the folder `path`; returns what `load` needs besides."""


def make(config: Config, placed: Callable[[], Iterator[Placed]]) -> Tokenizer:
    """Returns config.tokenizer, loaded or trained here on the training split of `placed()`.

    'characters' takes its alphabet from both splits, as nanoGPT does. Raises UserError.
    """
    name = config.tokenizer
    if name in _MAKERS:
        return _MAKERS[name](config, placed)
    if os.path.exists(name):
        return load(name)
    if os.sep in name or name.endswith((".model", ".json")):
        raise UserError(f"tokenizer '{name}': no such file")
    raise UserError(f"unknown tokenizer '{name}'{nearest(name, _MAKERS)} (or a path to a "
                    "SentencePiece .model or a Hugging Face tokenizer.json)")


def save(tokenizer: Tokenizer, path) -> None:
    """Writes `tokenizer` into the folder `path`, for `load`."""
    path = pathlib.Path(path)
    path.mkdir(parents=True, exist_ok=True)
    kind = next(k for k, cls in _KINDS.items() if type(tokenizer) is cls)
    (path / _SAVED).write_text(json.dumps({"kind": kind, **tokenizer.save(path)}) + "\n")


def load(path) -> Tokenizer:
    """Returns the tokenizer of a folder that `save` wrote, a .model or a tokenizer.json."""
    path = pathlib.Path(path)
    if (path / _SAVED).exists():
        values = read_json(path / _SAVED)
        return _KINDS[values.pop("kind")].restore(path, **values)
    if path.is_dir():
        found = [path / n for n in ("tokenizer.json", "tokenizer.model") if (path / n).exists()]
        if not found:
            raise UserError(f"tokenizer folder {path} has no tokenizer.json or tokenizer.model")
        path = found[0]
    if path.suffix == ".model":
        return sentencepiece.SentencePiece.read(path)
    if path.suffix == ".json":
        return hf.HuggingFace.read(path)
    raise UserError(f"tokenizer {path} is neither a SentencePiece .model nor a tokenizer.json")


class Stream:
    """Text of ids that come one by one, for a terminal: only what later ids cannot change."""

    def __init__(self, tokenizer: Tokenizer):
        self.decode = tokenizer.decode
        self.ids: list[int] = []  # from the last text that came out, which spaces may depend on
        self.read = 0             # ids[:read] are already out
        self.limit = _HELD        # so many ids at most, before it is asked what may come out

    def feed(self, ids: Iterable[int]) -> str:
        """Returns the text that `ids` complete; characters not yet whole are held back."""
        self.ids += ids
        out, cut = self._new(), len(self.ids)
        if not out or out.endswith("\ufffd"):
            if len(self.ids) < self.limit:
                return ""
            out, cut = self._broken(out)
        if out:
            self.ids, self.read = self.ids[self.read:], cut - self.read
        self.limit = len(self.ids) + _HELD
        return out

    def end(self) -> str:
        """Returns the rest: everything returned, joined, is decode(all ids)."""
        out = self._new()
        self.ids, self.read = [], 0
        return out

    def _new(self):
        return self.decode(self.ids)[len(self.decode(self.ids[:self.read])):]

    def _broken(self, text):
        """Returns the part of `text` that no later id makes a character of, and where it ends."""
        for cut in range(len(self.ids) - 8, max(len(self.ids) - 16, self.read), -1):
            rest = self.decode(self.ids[cut:])
            if len(rest) > 3 and text.endswith(rest):  # more than are left of one character
                first = self.decode(self.ids[:cut])[len(self.decode(self.ids[:self.read])):]
                if first + rest == text:
                    return first, cut
        return "", 0


_HELD = 32

_MAKERS = {
    "bytes": lambda config, placed: plain.Bytes(),
    "characters": plain.characters,
    "bpe": sentencepiece.train,
    "unigram": sentencepiece.train,
}
_KINDS = {
    "bytes": plain.Bytes,
    "characters": plain.Characters,
    "sentencepiece": sentencepiece.SentencePiece,
    "huggingface": hf.HuggingFace,
}
