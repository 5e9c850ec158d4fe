"""Text: one document of a corpus, and text as bytes and back without loss."""

import codecs
import hashlib
from typing import NamedTuple


class Document(NamedTuple):
    """One document, or one `part` of a long one: parts follow each other, the last says so."""

    name: str
    text: str
    part: int = 0
    last: bool = True


def to_bytes(text: str) -> bytes:
    """Returns `text` in UTF-8; a lone surrogate becomes the three bytes of its code point."""
    return text.encode("utf-8", "surrogatepass")


def to_text(data: bytes) -> str:
    """Returns the text of `data`: to_text(to_bytes(text)) == text for every str.

    Bytes that are no UTF-8, as an untrained model writes them, become U+FFFD.
    """
    return data.decode("utf-8", "lm.surrogates")


def hash64(text: str, purpose: str) -> int:
    """Returns 64 bits that depend on all of `text`; independent for each purpose."""
    person = purpose.encode()
    return int.from_bytes(hashlib.blake2b(to_bytes(text), digest_size=8, person=person).digest())


def _surrogates(error):
    code = error.object[error.start:error.start + 3]
    if len(code) == 3 and code[0] == 0xED and 0xA0 <= code[1] < 0xC0 and 0x80 <= code[2] < 0xC0:
        return chr(0xD000 | (code[1] & 0x3F) << 6 | code[2] & 0x3F), error.start + 3
    return "\ufffd", error.end


codecs.register_error("lm.surrogates", _surrogates)
