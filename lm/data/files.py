"""Text files: .txt, .md and .py are one document each, .jsonl one per line; also .gz and .zst."""

import codecs
import collections
import glob
import gzip
import hashlib
import itertools
import json
import os
import pathlib
import zlib
from collections.abc import Iterator

from lm.base.errors import UserError
from lm.data.config import Config
from lm.data.text import Document

_PART = 1 << 24             # bytes read at a time: a longer document comes in parts
_READ_FOR_FINGERPRINT = 1 << 26  # a corpus up to this many bytes is known by what it says
_SUFFIXES = (".txt", ".md", ".py", ".jsonl")


def documents(config: Config, dropped: collections.Counter) -> Iterator[Document]:
    """Yields the documents of the files that config.corpus matches, sorted by path, unchanged."""
    for path in _paths(config):
        if path.suffixes and ".jsonl" in path.suffixes[-2:]:
            yield from _lines(path, config.text_field)
        else:
            yield from _parts(path)


def fingerprint(config: Config):
    """Returns what tells this corpus from another: its content, or large files' size and time."""
    return config.text_field, digest(_paths(config))


def digest(paths: list[pathlib.Path]) -> str:
    """Returns a digest of the files: of suffixes and bytes if cheap, else of path, size, time."""
    known = hashlib.blake2b(digest_size=16)
    if sum(p.stat().st_size for p in paths) <= _READ_FOR_FINGERPRINT:
        for path in paths:
            data = path.read_bytes()
            known.update(f"{''.join(path.suffixes[-2:])} {len(data)}\n".encode() + data)
    else:
        for path in paths:
            stat = path.stat()
            known.update(f"{path} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return known.hexdigest()


def _paths(config):
    pattern = os.path.expanduser(config.corpus)
    found = sorted(p for p in map(pathlib.Path, glob.glob(pattern, recursive=True)) if p.is_file())
    if not found:
        cure = (f"; it is a folder: write '{pattern.rstrip('/')}/**/*.txt'"
                if os.path.isdir(pattern) else
                "; give 'python_stdlib', a glob of text files or 'tfds:NAME'")
        raise UserError(f"corpus '{config.corpus}' matches no file{cure}")
    for path in found:
        name = path.name.removesuffix(".gz").removesuffix(".zst")
        if not name.endswith(_SUFFIXES):
            raise UserError(f"corpus file {path} is not one of {' '.join(_SUFFIXES)} "
                            "(each also .gz or .zst)")
    return found


def _chunks(path):
    """Yields the bytes of `path`, decompressed, piece by piece; damage becomes a UserError."""
    try:
        with path.open("rb") as raw:
            if path.suffix == ".zst":
                yield from _zstandard(raw, path)
            else:
                with gzip.open(raw) if path.suffix == ".gz" else raw as file:
                    while data := file.read(_PART):
                        yield data
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"corpus file {path} cannot be read: {error}") from None


def _zstandard(raw, path):
    """Decompresses frames one after another: the package's own reader takes half a file for all."""
    try:
        import zstandard
    except ImportError:
        raise UserError(f"{path} needs a package: pip install zstandard") from None
    frame = None
    while data := raw.read(_PART):
        while data:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            try:
                yield frame.decompress(data)
            except zstandard.ZstdError as error:
                raise UserError(f"corpus file {path} cannot be read: {error}") from None
            data = frame.unused_data
            frame = None if frame.eof else frame
    if frame:
        raise UserError(f"corpus file {path} cannot be read: it is cut short")


def _parts(path):
    """Yields a text file as one document; one longer than _PART in parts cut after a newline."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    text, part = "", 0
    for data in itertools.chain(_chunks(path), [b""]):
        try:
            text += decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise _no_text(path, f"a byte is 0x{error.object[error.start]:02x}") from None
        if b"\0" in data:
            raise _no_text(path, "it has NULs")
        if len(text) >= _PART and (cut := text.rfind("\n") + 1 or len(text)) < len(text):
            yield Document(str(path), text[:cut], part, last=False)
            text, part = text[cut:], part + 1
    if text:
        yield Document(str(path), text, part)


def _no_text(path, why):
    return UserError(f"corpus file {path} is not UTF-8 text ({why}); leave it out or convert it")


def _lines(path, field):
    """Yields one document per line of a .jsonl file: the text in `field`."""
    for number, line in enumerate(_split(_chunks(path)), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path} line {number} is not JSON: {error}") from None
        if not isinstance(record, dict) or not isinstance(record.get(field), str):
            has = ", ".join(record) if isinstance(record, dict) else type(record).__name__
            raise UserError(f"{path} line {number} has no text in field '{field}'; it has: "
                            f"{has}; set text_field")
        if record[field]:
            yield Document(f"{path}:{number}", record[field])


def _split(chunks):
    """Yields the lines of a stream of bytes."""
    rest = b""
    for data in chunks:
        *lines, rest = (rest + data).split(b"\n")
        yield from lines
    if rest:
        yield rest
