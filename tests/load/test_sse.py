"""Events are the same wherever the stream is cut, and those of the specification."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lm.load import sse
from lm.load.reply import Broken


def specification(stream: bytes) -> list[bytes]:
    """WHATWG HTML, 9.2.6, word for word, over the whole stream."""
    stream = stream.removeprefix(b"\xef\xbb\xbf")
    lines = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")[:-1]
    out, buffer = [], b""
    for line in lines:
        if not line:
            if buffer:
                out.append(buffer.removesuffix(b"\n"))
            buffer = b""
        elif not line.startswith(b":"):
            field, _, value = line.partition(b":")
            if field == b"data":
                buffer += value.removeprefix(b" ") + b"\n"
    return out


PARTS = st.sampled_from([b"data", b"data: ", b"data:", b":", b" ", b"\n", b"\r", b"\r\n", b"\n\n",
                         b"x", b"{}", b"event: y", b"id: 1", b": ping", b"\xef\xbb\xbf", b"\xc3"])


@given(st.lists(PARTS, max_size=30).map(b"".join), st.lists(st.integers(0, 90), max_size=20))
@example(b"data: a\r\rdata: b\r\n\r\n", [8, 9, 18, 19])
@example(b"data: a\r\ndata: b\r\n\r\n", [8])      # one event of two lines
@example(b"\xef\xbb\xbfdata: a\n\n", [1, 2])
def test_any_cut_gives_what_the_specification_gives(stream, cuts):
    cuts = sorted({min(c, len(stream)) for c in cuts} | {0, len(stream)})
    events = sse.Events()
    found = [event for a, b in itertools.pairwise(cuts) for event in events.feed(stream[a:b])]
    assert found == specification(stream)


def test_an_event_is_there_with_its_last_byte():
    events = sse.Events()
    assert events.feed(b"data: a\n") == []
    assert events.feed(b"\n") == [b"a"]
    assert events.feed(b"data: b\r\r") == [b"b"]     # whose LF may still come, and does
    assert events.feed(b"\ndata: c\n\n") == [b"c"]


def test_an_event_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(sse, "LIMIT", 1000)
    events = sse.Events()
    with pytest.raises(Broken, match="an event of more than"):
        for _ in range(100):
            events.feed(b"data: " + b"x" * 50)
