"""Python's own standard library as a corpus: about 11 MB of code and prose, on every machine.

Left out: tests (not installed everywhere, and repetitive), installed packages, what the build of
this interpreter wrote, and the files that `_flaw` names. Line ends become '\\n'.
"""

import collections
import os
import pathlib
import re
import sysconfig
from collections.abc import Iterator

from lm.data import files
from lm.data.config import Config
from lm.data.text import Document, hash64

_CLEANING = 1  # raise when the rules change: tokenised copies made by older rules are not used
_FOLDERS = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"}


def documents(config: Config, dropped: collections.Counter) -> Iterator[Document]:
    """Yields the files by path; `dropped` counts those left out, by reason."""
    root, seen = _root(), set()
    for path in _paths(root):
        data = path.read_bytes()
        try:
            text = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError:
            dropped["not UTF-8"] += 1
            continue
        if flaw := _flaw(text, seen):
            dropped[flaw] += 1
        else:
            yield Document(path.relative_to(root).as_posix(), text)


def fingerprint(config: Config):
    """Returns what tells this library from another: the cleaning rules and the files' content."""
    return "python_stdlib", _CLEANING, files.digest(_paths(_root()))


def _root():
    return pathlib.Path(sysconfig.get_paths()["stdlib"])


def _paths(root):
    found = []
    for folder, inner, names in os.walk(root):
        inner[:] = [n for n in inner if n not in _FOLDERS and not n.startswith("config-")]
        found += [pathlib.Path(folder, n) for n in names
                  if n.endswith((".py", ".txt", ".rst")) and not n.startswith("_sysconfigdata")]
    return sorted(found, key=lambda p: p.relative_to(root).as_posix())


def _flaw(text, seen):
    """Returns why `text` is of no use to a language model, '' if it is; notes it in `seen`."""
    if "\0" in text:
        return "binary"
    if len(text) < 200:
        return "shorter than 200 characters"
    if max(map(len, text.split("\n"))) > 1000:
        return "a line over 1000 characters"
    # Character maps and the like: in code and prose about half of all characters are in words.
    if sum(map(len, re.findall("[a-z]{3,}", text))) < 0.2 * len(text):
        return "tables"
    known = hash64(text, "duplicate")
    if known in seen:
        return "duplicates"
    seen.add(known)
    return ""
