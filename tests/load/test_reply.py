"""A reply is the same wherever its bytes are cut; what is none is refused in words."""

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.load.reply import Broken, Reply

HEAD = b"HTTP/1.1 200 OK\r\nServer: x\r\n"


def read(data, cuts=(), eof=False):
    """The reply read from data in pieces, and its body."""
    body = []
    reply = Reply(lambda _, piece: body.append(piece))
    ends = sorted({min(c, len(data)) for c in cuts} | {0, len(data)})
    for a, b in itertools.pairwise(ends):
        reply.feed(data[a:b])
    if eof:
        reply.eof()
    return reply, b"".join(body)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8),
       st.lists(st.integers(0, 400), max_size=30), st.booleans(), st.booleans())
def test_any_cut_gives_the_same_body(pieces, cuts, trailer, close):
    body = b"".join(pieces)
    head = HEAD + b"Connection: close\r\n" * close
    chunks = b"".join(b"%X;a=b\r\n%s\r\n" % (len(p), p) for p in pieces)
    data = (b"HTTP/1.1 100 Continue\r\n\r\n" + head + b"transfer-encoding: Chunked\r\n\r\n" + chunks
            + b"0\r\n" + b"X-Sum: 1\r\n" * trailer + b"\r\n")
    reply, heard = read(data, cuts)
    assert (heard, reply.done, reply.keep, reply.status) == (body, True, not close, 200)
    assert reply.headers["server"] == "x"

    reply, heard = read(head + b"Content-Length: %d\r\n\r\n" % len(body) + body, cuts)
    assert (heard, reply.done, reply.keep) == (body, True, not close)

    reply, heard = read(head + b"\r\n" + body, cuts, eof=True)
    assert (heard, reply.done, reply.keep) == (body, True, False)


@given(st.lists(st.one_of(st.binary(max_size=20), st.sampled_from([
    HEAD, b"\r\n", b"\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n", b"Content-Length: ", b"5",
    b"-1", b"0\r\n\r\n", b"fffffffffffffff\r\n"])), max_size=12).map(b"".join),
    st.lists(st.integers(0, 200), max_size=6))
def test_no_bytes_do_more_than_break(data, cuts):
    with contextlib.suppress(Broken):
        read(data, cuts, eof=True)


@pytest.mark.parametrize("data,words", [
    (b"SSH-2.0-OpenSSH_9.2\r\n", "not HTTP"), (b"\x15\x03\x01\x00\x02\x02", "not HTTP"),
    (b"HTTP/1.1 twohundred\r\n\r\n", "not HTTP"), (HEAD + b"no colon\r\n\r\n", "without a colon"),
    (HEAD + b"X: " + b"x" * 70_000, "not HTTP"),
    (HEAD + b"Content-Length: many\r\n\r\n", "no length"),
    (HEAD + b"Content-Length: -5\r\n\r\n", "no length"),
    (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "chunk without a length"),
    (HEAD + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n", "chunk without a length"),
    (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * 2000, "chunk without a length"),
    (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n", "longer than it says"),
    (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"x" * 70_000, "trailer without end")])
def test_what_is_no_reply_is_refused(data, words):
    with pytest.raises(Broken, match=words) as error:
        read(data)
    assert error.value.kind == "garbage"


@pytest.mark.parametrize("data", [
    b"", HEAD, HEAD + b"Content-Length: 5\r\n\r\nabc", HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n"])
def test_a_reply_cut_short_is_none(data):
    with pytest.raises(Broken, match="closed") as error:
        read(data, eof=True)
    assert error.value.kind == "closed"


def test_bytes_behind_a_reply_spoil_the_connection():
    reply, body = read(HEAD + b"Content-Length: 2\r\n\r\nabHTTP/1.1 200")
    assert body == b"ab" and reply.done and not reply.keep
    assert not read(b"HTTP/1.0 204 No Content\r\n\r\n")[0].keep
    assert read(b"HTTP/1.1 204 No Content\r\n\r\n")[0].done
