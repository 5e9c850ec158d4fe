"""Pages of the cache: which are free, who uses which, and which are kept for prompts to come.

A page holds the keys and values of so many successive tokens, in all layers. They depend on those
tokens and all before them, so a full page is named by a digest of both: a prompt that begins with
the same tokens finds it by name and shares it. Pages that nobody uses keep their names until the
room is needed, the least recently used first.
"""

from array import array
from collections.abc import Iterable
from hashlib import blake2b


def digest(before: bytes, tokens: list[int]) -> bytes:
    """Returns the name of a page of `tokens` that follows a page named `before`, or b""."""
    return blake2b(before + array("i", tokens).tobytes(), digest_size=16).digest()


class Pages:
    """The pages 0..n - 1 of one pool."""

    def __init__(self, n: int):
        self.n = n
        self.uses = [0] * n
        self.free = list(range(n))[::-1]     # without a name
        self.idle: dict[int, None] = {}      # with one, and not in use; least recently used first
        self._names: list[bytes | None] = [None] * n
        self._named: dict[bytes, int] = {}

    @property
    def available(self) -> int:
        """Pages that `take` has left to give."""
        return len(self.free) + len(self.idle)

    @property
    def used(self) -> int:
        """Pages in use."""
        return self.n - len(self.free) - len(self.idle)

    def take(self) -> int:
        """Returns a page to write to, in use once. One must be available."""
        if self.free:
            page = self.free.pop()
        else:
            page = next(iter(self.idle))
            del self.idle[page]
            del self._named[self._names[page]]
            self._names[page] = None
        self.uses[page] = 1
        return page

    def share(self, page: int) -> None:
        """Enters one more use of a page that has a name."""
        self.uses[page] += 1
        self.idle.pop(page, None)

    def drop(self, pages: list[int]) -> None:
        """Ends one use of each page, in their order in a sequence.

        The last is forgotten first: without those before it, it could not be found.
        """
        for page in reversed(pages):
            self.uses[page] -= 1
            if not self.uses[page]:
                if self._names[page] is None:
                    self.free.append(page)
                else:
                    self.idle[page] = None

    def name(self, page: int, name: bytes) -> None:
        """Names a page in use, so that others find it; where one has that name, nothing changes."""
        if name not in self._named and self._names[page] is None:
            self._named[name] = page
            self._names[page] = name

    def find(self, name: bytes) -> int | None:
        """Returns the page of that name."""
        return self._named.get(name)

    def check(self, used: Iterable[int]) -> None:
        """Asserts that the pages `used`, each as often as it is, and no other are in use."""
        uses = [0] * self.n
        for page in used:
            uses[page] += 1
        assert uses == self.uses, "uses are not those of the sequences"
        rest = self.free + list(self.idle)
        assert len(rest) == len(set(rest)), "a page is free twice"
        assert {page for page in range(self.n) if not uses[page]} == set(rest), "a page is lost"
        assert all(self._names[page] is None for page in self.free), "a free page has a name"
        named = {page: name for page, name in enumerate(self._names) if name is not None}
        assert {name: page for page, name in named.items()} == self._named
        assert self.idle.keys() <= named.keys(), "a page is kept that nobody can find"
