"""Server-sent events: from bytes, however they are cut, to the data of events."""

from lm.load.reply import Broken

BOM = b"\xef\xbb\xbf"
LIMIT = 1 << 24  # bytes of one event


class Events:
    """Reads a stream (WHATWG HTML, 9.2.6): fields other than `data`, and comments, are left out."""

    def __init__(self):
        self._rest = bytearray()
        self._returned = False  # the last byte was a CR, whose LF may still come
        self._began = False

    def feed(self, piece: bytes) -> list[bytes]:
        """Returns the data of the events that end in this piece. Broken: one is without end."""
        if self._returned and piece[:1] == b"\n":
            piece = piece[1:]
            self._returned = False
        if piece:
            self._returned = piece[-1:] == b"\r"
        if b"\r" in piece:
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        rest, since = self._rest, max(0, len(self._rest) - 1)
        rest += piece
        if not self._began:
            if len(rest) < 3 and BOM.startswith(bytes(rest)):
                return []
            if rest.startswith(BOM):
                del rest[:3]
            self._began, since = True, 0
        end = rest.rfind(b"\n\n", since)
        if end < 0:
            if len(rest) > LIMIT:
                raise Broken("garbage", f"an event of more than {LIMIT >> 20} MiB")
            return []
        blocks = bytes(rest[:end]).split(b"\n\n")
        del rest[:end + 2]
        found = (_data(block) for block in blocks)
        return [data for data in found if data is not None]


def _data(block: bytes) -> bytes | None:
    if block.startswith(b"data: ") and b"\n" not in block:
        return block[6:]
    lines = []
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines) if lines else None
