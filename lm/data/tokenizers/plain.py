"""Tokenizers without training: the bytes of UTF-8, and the characters of a corpus."""

import hashlib
import pathlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from lm.base.errors import UserError
from lm.data.config import Config
from lm.data.splits import Placed
from lm.data.text import to_bytes, to_text


class Bytes:
    """One id per byte. V is 256: eos is 255, a byte that UTF-8 never has."""

    V = 256
    eos = 255
    fingerprint = "bytes-1"

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(to_bytes(text), np.uint8).astype(np.int32)

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        return to_text(np.asarray(ids, np.uint8).tobytes().replace(b"\xff", b""))

    def pieces(self) -> list[bytes]:
        return [*(bytes([i]) for i in range(self.eos)), b""]

    def save(self, path: pathlib.Path) -> dict:
        return {}

    @classmethod
    def restore(cls, path: pathlib.Path) -> "Bytes":
        return cls()


class Characters:
    """One id per character, by rising code point as in nanoGPT; eos, if any, is the last id.

    V stays the size of the alphabet (65 for tinyshakespeare), so there is no room for other
    characters: encoding one is a UserError.
    """

    def __init__(self, alphabet: str, eos: bool):
        self.alphabet = alphabet
        self.eos = len(alphabet) if eos else None
        self.V = len(alphabet) + eos
        self.fingerprint = hashlib.blake2b(
            to_bytes(f"characters {eos} {alphabet}"), digest_size=16).hexdigest()
        self._codes = _code_points(alphabet)
        self._ids = np.full(int(self._codes.max()) + 1, -1, np.int32)
        self._ids[self._codes] = np.arange(len(alphabet))

    def encode(self, text: str) -> np.ndarray:
        codes = _code_points(text)
        ids = self._ids[np.minimum(codes, len(self._ids) - 1)]
        unknown = (ids < 0) | (codes >= len(self._ids))
        if unknown.any():
            code = int(codes[unknown.argmax()])
            raise UserError(f"character {chr(code)!r} (U+{code:04X}) is not among the "
                            f"{len(self.alphabet)} that this tokenizer was made from; "
                            "'bytes' and 'bpe' encode any text")
        return ids

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        ids = np.asarray(ids, np.int64)
        codes = self._codes[ids[ids != self.eos]] if self.eos is not None else self._codes[ids]
        return codes.tobytes().decode("utf-32-le", "surrogatepass")

    def pieces(self) -> list[bytes]:
        return [to_bytes(c) for c in self.alphabet] + [b""] * (self.eos is not None)

    def save(self, path: pathlib.Path) -> dict:
        # Numbers: JSON would read two surrogates side by side as one character.
        return {"alphabet": self._codes.tolist(), "eos": self.eos is not None}

    @classmethod
    def restore(cls, path: pathlib.Path, alphabet: list[int], eos: bool) -> "Characters":
        return cls("".join(map(chr, alphabet)), eos)


def characters(config: Config, placed: Callable[[], Iterator[Placed]]) -> Characters:
    """Returns the tokenizer of all characters of a corpus; eos if it has several documents."""
    alphabet, names = set(), set()
    for document, _, _ in placed():
        alphabet.update(document.text)
        if len(names) < 2:
            names.add(document.name)
    return Characters("".join(sorted(alphabet)), eos=len(names) > 1)


def _code_points(text):
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
