"""SentencePiece: BPE and unigram pieces trained here so that no text is lost, and others' models.

A model trained here, and any other that changes nothing (no normalisation, no prefix, newline a
piece of its own), is read as a table of bytes: decoding joins them. Two things SentencePiece
cannot carry go around it as bytes: its own space marker U+2581, and lone surrogates.
"""

import hashlib
import heapq
import io
import itertools
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from lm.base.errors import UserError
from lm.data.config import Config
from lm.data.splits import Placed
from lm.data.text import hash64, to_bytes, to_text

_SAMPLE = {"bpe": 10 << 20, "unigram": 4 << 20}  # characters to train on: seconds, not minutes
_BLOCK = 1 << 16
_LINE = 1 << 12   # longer lines are cut for training
_MARK = "\u2581"  # SentencePiece writes a space as this
_AROUND = re.compile(f"([{_MARK}\ud800-\udfff]+)")
_PROBES = ("a", " a  b ", "\n\n x\n", "\tA\u00c5\ufb01 e\u0301\r\n", "\u65e5\u672c \U0001f389\0")


def train(config: Config, placed: Callable[[], Iterator[Placed]]) -> "SentencePiece":
    """Returns config.V pieces of kind config.tokenizer, from a sample of the training split.

    Raises UserError where the text is too small for so many pieces, or V too small for it.
    """
    import sentencepiece
    kind, model = config.tokenizer, io.BytesIO()
    texts = (p.document.text for p in placed() if p.split == "train")
    lines = [line[i:i + _LINE] for text in _sample(texts, _SAMPLE[kind])
             for line in text.split("\n") for i in range(0, len(line), _LINE)]
    lines = [line for line in lines if "\0" not in line and not _AROUND.search(line)]
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=model, model_type=kind,
            vocab_size=config.V, num_threads=2, minloglevel=2, max_sentence_length=1 << 16,
            unk_id=0, eos_id=1, bos_id=-1, pad_id=-1, user_defined_symbols=["\n"],
            byte_fallback=True, normalization_rule_name="identity", character_coverage=0.9999,
            remove_extra_whitespaces=False, add_dummy_prefix=False, split_digits=True,
            allow_whitespace_only_pieces=True)
    except RuntimeError as error:
        if "KeyboardInterrupt" in str(error):  # raised while the library asked for a line
            raise KeyboardInterrupt from None
        raise _size_error(config, str(error)) from None
    return SentencePiece(model.getvalue())


def _sample(texts, size):
    """Returns blocks of text, `size` characters in all, drawn by hash: whatever their order."""
    kept, total = [], 0
    for text in texts:
        for start in range(0, len(text), _BLOCK):
            block = text[start:start + _BLOCK]
            heapq.heappush(kept, (-hash64(block, "sample"), block))
            total += len(block)
            while total - len(kept[0][1]) >= size:
                total -= len(heapq.heappop(kept)[1])
    return [block for _, block in sorted(kept)]


def _size_error(config, message):
    most = re.search(r"set it to a value <= (\d+)", message)
    least = re.search(r"smaller than required_chars\. \d+ vs (\d+)", message)
    asked = f"tokenizer '{config.tokenizer}' with V = {config.V}"
    if most:
        return UserError(f"{asked}: the training text has only {most[1]} pieces; set V to at most "
                         f"{most[1]}, or tokenizer to 'bytes'")
    if least:
        return UserError(f"{asked}: the bytes and characters alone are {least[1]}; set V to more")
    return UserError(f"{asked} cannot be trained: {message}")


class SentencePiece:
    """A SentencePiece model; `exact` if decode(encode(text)) == text for every text."""

    def __init__(self, model: bytes):
        import sentencepiece
        try:
            self._made = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise UserError(f"not a SentencePiece model: {error}") from None
        self._model = model
        self.V = self._made.vocab_size()
        self.eos = self._made.eos_id()
        if self.eos < 0:
            raise UserError("the SentencePiece model has no eos piece to end a document with")
        self.fingerprint = hashlib.blake2b(model, digest_size=16).hexdigest()
        self._bytes = [self._bytes_of(i) for i in range(self.V)]
        single = {b[0]: i for i, b in enumerate(self._bytes) if self._made.is_byte(i)}
        self._byte_ids = np.array([single.get(b, 0) for b in range(256)], np.int32)
        self.exact = len(single) == 256 and all(
            b"".join(self._bytes[i] for i in self._made.encode(p)) == p.encode()
            for p in _PROBES) and self._made.encode("a\n\n b") == [
                *self._made.encode("a"), *self._made.encode("\n") * 2, *self._made.encode(" b")]

    @classmethod
    def read(cls, path: pathlib.Path) -> "SentencePiece":
        return cls(path.read_bytes())

    def encode(self, text: str) -> np.ndarray:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        if not self.exact:  # it may treat the start of a text in its own way: leave texts whole
            texts = [to_bytes(t).decode("utf-8", "replace") for t in texts]
            made = self._made.encode(texts, num_threads=os.cpu_count() or 1)
            return [np.array(ids, np.int32) for ids in made]
        parts = [_AROUND.split(t) if not t.isascii() else [t] for t in texts]
        plain = iter(self._plain([part for some in parts for part in some[::2]]))
        return [np.concatenate([self._byte_ids[np.frombuffer(to_bytes(part), np.uint8)]
                                if around else next(plain)
                                for part, around in zip(some, itertools.cycle((0, 1)))])
                for some in parts]

    def _plain(self, texts):
        """Encodes by line, in parallel: no piece crosses a newline, so the ids are the same."""
        lines, first = [], [0]
        for text in texts:
            *whole, rest = text.split("\n")
            lines += [line + "\n" for line in whole]
            lines.append(rest)
            first.append(len(lines))
        made = self._made.encode(lines, num_threads=os.cpu_count() or 1)
        ids = np.fromiter(itertools.chain.from_iterable(made), np.int32)
        ends = np.cumsum([0, *map(len, made)])[first]
        return [ids[start:end] for start, end in itertools.pairwise(ends)]

    def decode(self, ids: Iterable[int]) -> str:
        if self.exact:
            return to_text(b"".join([self._bytes[i] for i in ids]))
        return self._made.decode([int(i) for i in ids])

    def pieces(self) -> list[bytes]:
        return list(self._bytes)

    def _bytes_of(self, i):
        if self._made.is_control(i) or self._made.is_unknown(i) or self._made.is_unused(i):
            return b""
        piece = self._made.id_to_piece(i)
        return bytes([int(piece[1:-1], 16)]) if self._made.is_byte(i) else to_bytes(
            piece.replace(_MARK, " "))

    def save(self, path: pathlib.Path) -> dict:
        (path / "tokenizer.model").write_bytes(self._model)
        return {}

    @classmethod
    def restore(cls, path: pathlib.Path) -> "SentencePiece":
        return cls.read(path / "tokenizer.model")
