"""A Hugging Face tokenizer.json, as other people's models bring it."""

import hashlib
import json
import pathlib
import re
from collections.abc import Iterable

import numpy as np

from lm.base.errors import UserError
from lm.base.records import read_json

_EOS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "<|im_end|>", "[SEP]")


class HuggingFace:
    """As exact as its tokenizer.json: byte-level ones lose nothing but lone surrogates (U+FFFD).

    Special tokens written out in the text are encoded as the text they are.
    """

    def __init__(self, source: str, eos: str):
        """source: the text of tokenizer.json. eos: the token that ends a document."""
        try:
            import tokenizers
        except ImportError:
            raise UserError("a tokenizer.json needs a package: pip install tokenizers") from None
        try:
            self._made = tokenizers.Tokenizer.from_str(source)
        except Exception as error:  # the package raises nothing more specific
            raise UserError(f"not a Hugging Face tokenizer.json: {error}") from None
        self._made.encode_special_tokens = True
        self._made.no_padding()
        self._made.no_truncation()
        self._source, self._eos_name = source, eos
        self.eos = self._made.token_to_id(eos)
        if self.eos is None:
            raise UserError(f"the tokenizer has no token '{eos}' to end a document with")
        self.V = max(self._made.get_vocab(with_added_tokens=True).values()) + 1
        self.fingerprint = hashlib.blake2b(f"{eos} {source}".encode(), digest_size=16).hexdigest()

    @classmethod
    def read(cls, path: pathlib.Path) -> "HuggingFace":
        """Returns the tokenizer of a tokenizer.json; eos from the tokenizer_config.json beside."""
        tree = read_json(path)
        special = [t["content"] for t in tree.get("added_tokens", ()) if t.get("special")]
        eos = next((t for t in _EOS if t in special), None)
        beside = path.with_name("tokenizer_config.json")
        if beside.exists():
            named = read_json(beside).get("eos_token") or eos
            eos = named["content"] if isinstance(named, dict) else named
        if eos is None:
            raise UserError(f"tokenizer {path} does not say which token ends a document; put a "
                            'tokenizer_config.json with {"eos_token": "..."} beside it')
        return cls(path.read_text(encoding="utf-8"), eos)

    def encode(self, text: str) -> np.ndarray:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        texts = [t.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for t in texts]
        made = self._made.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(m.ids, np.int32) for m in made]

    def decode(self, ids: Iterable[int]) -> str:
        return self._made.decode([int(i) for i in ids], skip_special_tokens=True)

    def pieces(self) -> list[bytes]:
        made = self._made
        names = [made.id_to_token(i) for i in range(self.V)]
        none = {self.eos, *(i for i, name in enumerate(names) if name is None), *(
            i for i, added in made.get_added_tokens_decoder().items() if added.special)}
        decoder = json.loads(self._source).get("decoder") or {}
        kinds = {part["type"] for part in [decoder, *decoder.get("decoders", ())] if part}
        if "ByteLevel" in kinds:
            return [b"" if i in none else _by_letters(name) for i, name in enumerate(names)]
        # Of a text's first token some decoders change the text: what follows itself is not first.
        once, twice = (made.decode_batch([[i] * n for i in range(self.V)]) for n in (1, 2))
        out = [pair[len(one):].encode() for one, pair in zip(once, twice, strict=True)]
        for i, name in enumerate(names):
            if i in none:
                out[i] = b""
            elif "ByteFallback" in kinds and (byte := re.fullmatch("<0x([0-9A-F]{2})>", name)):
                out[i] = bytes.fromhex(byte[1])
        return out

    def save(self, path: pathlib.Path) -> dict:
        (path / "tokenizer.json").write_text(self._source, encoding="utf-8")
        return {"eos": self._eos_name}

    @classmethod
    def restore(cls, path: pathlib.Path, eos: str) -> "HuggingFace":
        return cls((path / "tokenizer.json").read_text(encoding="utf-8"), eos)


# GPT-2's letters for bytes: themselves where they can be seen, else those from U+0100 on.
_SEEN = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_BYTES = {chr(b): b for b in _SEEN} | {
    chr(0x100 + i): b for i, b in enumerate(sorted({*range(0x100)} - {*_SEEN}))}


def _by_letters(name):
    """The bytes of a byte-level token; one that is none, as added tokens may be, is its text."""
    try:
        return bytes([_BYTES[letter] for letter in name])
    except KeyError:
        return name.encode()
