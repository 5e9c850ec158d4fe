"""One reply over HTTP/1.1, read from bytes however they are cut."""

import re
from collections.abc import Callable

HEAD = 1 << 16      # bytes of a reply's head at most
_STATUS = re.compile(rb"HTTP/1\.([01]) (\d{3})(?: .*)?")
_SIZE = re.compile(rb"[0-9a-fA-F]{1,15}")


class Broken(Exception):
    """An exchange that came to nothing. kind: connect, closed, garbage or error event."""

    def __init__(self, kind: str, words: str):
        super().__init__(words)
        self.kind = kind


class Reply:
    """Reads one reply to its end, however its bytes are cut."""

    def __init__(self, body: Callable[["Reply", bytes], None]):
        """body: is called with each piece of the body; what it raises ends the exchange."""
        self.body = body
        self.status = 0
        self.headers: dict[str, str] = {}
        self.begun = self.done = False
        self.keep = True        # whether the connection can be used again
        self._rest = bytearray()
        self._left: int | None = None   # bytes of the body or chunk; None: not known
        self._read = self._head

    def feed(self, data: bytes) -> None:
        """Takes the next bytes. Broken: they are no HTTP."""
        self.begun = True
        self._rest += data
        while self._rest and not self.done and self._read():
            pass
        if self._rest and self.done:  # more than was asked for
            self.keep = False

    def eof(self) -> None:
        """Takes the end of the connection. Broken: the reply was not at its end."""
        self.keep = False
        if self._read == self._until_eof:
            self.done = True
        if not self.done:
            raise Broken("closed", "the connection closed before the end of the reply"
                         if self.begun else "the connection closed without a reply")

    def _head(self):
        end = self._rest.find(b"\r\n\r\n")
        if end < 0:
            if len(self._rest) > HEAD or not b"HTTP/1.".startswith(bytes(self._rest[:7])):
                raise Broken("garbage", "the reply is not HTTP/1")
            return False
        status, *lines = bytes(self._rest[:end]).split(b"\r\n")
        del self._rest[:end + 4]
        match = _STATUS.fullmatch(status)
        if not match:
            raise Broken("garbage", "the reply is not HTTP/1")
        self.status = int(match[2])
        if 100 <= self.status < 200:
            return True
        self.headers = {}
        for line in lines:
            name, colon, value = line.decode("latin1").partition(":")
            if not colon:
                raise Broken("garbage", "the head of the reply has a line without a colon")
            self.headers[name.strip().lower()] = value.strip()
        connection = self.headers.get("connection", "").lower()
        self.keep = match[1] == b"1" and "close" not in connection or "keep-alive" in connection
        self._framing()
        return True

    def _framing(self):
        if self.status in (204, 304):
            self.done = True
        elif "chunked" in self.headers.get("transfer-encoding", "").lower():
            self._read = self._chunk
        elif "content-length" in self.headers:
            if not re.fullmatch(r"\d{1,18}", self.headers["content-length"]):
                raise Broken("garbage", "the reply has no length that can be read")
            self._left = int(self.headers["content-length"])
            self._read, self.done = self._until_length, self._left == 0
        else:
            self._read = self._until_eof

    def _until_eof(self):
        piece = bytes(self._rest)
        self._rest.clear()
        self.body(self, piece)
        return False

    def _until_length(self):
        piece = bytes(self._rest[:self._left])
        del self._rest[:len(piece)]
        self._left -= len(piece)
        self.body(self, piece)
        self.done = self._left == 0
        return False

    def _chunk(self):
        if self._left is None:
            end = self._rest.find(b"\r\n")
            size = bytes(self._rest[:end if end >= 0 else 1024]).partition(b";")[0].strip()
            if end < 0 and len(self._rest) < 1024:
                return False
            if end < 0 or not _SIZE.fullmatch(size):
                raise Broken("garbage", "the reply has a chunk without a length")
            del self._rest[:end + 2]
            self._left = int(size, 16)
            if self._left == 0:
                self._read = self._trailer
            return True
        if self._left > 0:
            piece = bytes(self._rest[:self._left])
            del self._rest[:len(piece)]
            self._left -= len(piece)
            self.body(self, piece)
            return True
        if len(self._rest) < 2:
            return False
        if self._rest[:2] != b"\r\n":
            raise Broken("garbage", "the reply has a chunk longer than it says")
        del self._rest[:2]
        self._left = None
        return True

    def _trailer(self):
        end = self._rest.find(b"\r\n")
        if end < 0 and len(self._rest) > HEAD:
            raise Broken("garbage", "the reply ends in a trailer without end")
        if end >= 0:
            self.done = end == 0
            del self._rest[:end + 2]
        return end > 0
