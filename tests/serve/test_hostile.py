"""Clients that mean harm, or are broken: an answer that names the cause, and nobody else stalls."""

import json
import re
import socket
import time

import pytest
from servers import drained, http

OK = dict(prompt="x", max_tokens=2)


def answer(data: bytes):
    """(status, body) of what came back; JSON where it is."""
    head, _, body = data.partition(b"\r\n\r\n")
    found = re.match(rb"HTTP/1.1 (\d+) ", head)
    assert found, data[:200]
    if b"chunked" in head:
        body = b"".join(re.findall(rb"[0-9a-f]+\r\n(.*?)\r\n", body, re.S))
    return int(found[1]), json.loads(body) if body else None


def refused(data, status, says=""):
    """Asserts that what came back is an error of that status in OpenAI's shape."""
    code, body = answer(data)
    assert code == status, data
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert says in body["error"]["message"]


BODIES = {
    b"": "not JSON", b"{": "not JSON", b"[]": "object", b'"x"': "object", b"null": "object",
    b'{"prompt": "x"': "not JSON", b'{"prompt": "\xff"}': "UTF-8",
    b'{"a": "\xed\xa0\x80"}': "UTF-8", b"[" * 100_000: "nested", b'{"a":' * 50_000: "nested",
    b'{"prompt": ' + b"[" * 90_000 + b"]" * 90_000 + b"}": "nested",
    b'{"temperature": NaN}': "not JSON", b'{"temperature": -Infinity}': "not JSON",
    b'{"temperature": 1e999}': "not JSON", b'{"seed": ' + b"9" * 5000 + b"}": "not JSON",
    b'{"prompt": "a", "prompt": "b"}': "twice", b'{"prompt": "\\ud800"}': "surrogate",
    b'{"\\udfff": 1}': "surrogate", b'{"\\ud800": 1, "\\ud800": 2}': "twice",
    b'\xef\xbb\xbf{"prompt": "x"}': "not JSON", b'{"prompt": "x"} x': "not JSON",
    '{"prompt": "x"}'.encode("utf-16"): "UTF-8", b'{"prompt": "\x00"}': "not JSON",
    json.dumps({"x" * 1_000_000: 1}).encode(): "unknown", b'{"": 1}': "unknown",
    json.dumps(dict(prompt="x", seed=int("9" * 4000))).encode(): "seed",
    json.dumps(dict(prompt="x", response_format=dict(type="json_schema", json_schema=dict(
        name="x", schema=json.loads('{"not":' * 90 + "{}" + "}" * 90))))).encode(): "nested",
}


@pytest.mark.parametrize("body", BODIES, ids=lambda b: str(b[:24]))
def test_bodies(server, body):
    refused(server.raw(http("/v1/completions", body)), 400, BODIES[body])


def test_control_characters_in_escapes_are_text(server):
    made = server.post(body=dict(OK, prompt="\x00\x01\u2028\U0001f389"))
    assert made.status_code == 200
    assert made.json()["usage"]["prompt_tokens"] == 2 + 3 + 4


def test_paths_and_methods(server):
    for path, method, status in (
            ("/v1/completions", "GET", 405), ("/v1/completions", "DELETE", 405),
            ("/nothing", "GET", 404), ("/v1/completion", "POST", 404), ("/v1/models", "POST", 405),
            ("/../etc/passwd", "GET", 404), ("/%00%ff", "GET", 404), ("//", "GET", 404)):
        data = server.raw(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
                          "Content-Length: 0\r\n\r\n".encode())
        refused(data, status)
        assert (b"allow: " in data.lower()) == (status == 405)


def test_kinds_of_bodies(server):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "", None, "application/json5"):
        refused(server.raw(http("/v1/completions", OK, Content_Type=kind)), 415)
    refused(server.raw(http("/v1/completions", OK, Content_Encoding="gzip")), 415)
    assert answer(server.raw(http("/v1/completions", OK,
                                  Content_Type="application/JSON; charset=utf-8")))[0] == 200


def test_lengths_that_lie(server):
    body = json.dumps(OK).encode()
    refused(server.raw(http("/v1/completions", body, Content_Length=str(1 << 40))), 413)
    refused(server.raw(http("/v1/completions", body, Content_Length="3000000",
                            Expect="100-continue")), 413)
    for length in ("-1", "x", "1e3", "9" * 40):
        refused(server.raw(http("/v1/completions", body, Content_Length=length)), 400)
    # Less than there is: the rest is no request. Two lengths: nobody knows which.
    assert answer(server.raw(http("/v1/completions", body, Content_Length="4")))[0] == 400
    for more in (dict(Transfer_Encoding="chunked"), dict(content_length="5")):
        assert answer(server.raw(http("/v1/completions", body, **more)))[0] == 400


def test_chunked_bodies(server):
    body = json.dumps(OK).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    given = http("/v1/completions", chunks, Content_Length=None, Transfer_Encoding="chunked")
    assert answer(server.raw(given))[0] == 200
    many = b"10000\r\n" + b"x" * (1 << 16) + b"\r\n"
    given = http("/v1/completions", many * 40 + b"0\r\n\r\n", Content_Length=None,
                 Transfer_Encoding="chunked")
    refused(server.raw(given), 413)


def endless(server, begin, more, most):
    """Writes until the server hangs up; asserts that it does before it has `most` bytes."""
    with server.connect() as s:
        s.sendall(begin)
        sent = 0
        try:
            while sent < most:
                sent += s.send(more)
        except (ConnectionResetError, BrokenPipeError):
            return
        drained(s)
        raise AssertionError("it took everything")


def test_what_never_ends(server):
    head = (b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Type: application/json\r\n")
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    most = 200 << 20
    before = server.responses("413")
    endless(server, chunked, b"100000\r\n" + b"x" * (1 << 20) + b"\r\n", most)
    server.until(lambda: server.responses("413") == before + 1)
    endless(server, chunked + b"1\r\nx\r\n0\r\n", b"a: b\r\n" * 10_000, most)
    endless(server, head, b"a: b\r\n" * 10_000, most)
    endless(server, head + b"a: ", b"b" * 60_000, most)
    endless(server, b"GET /", b"x" * 60_000, most)


def test_no_http(server):
    for data in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"hello\r\n\r\n", b"\x00" * 100,
                 b"GET / HTTP/9.9\r\n\r\n", b"GET /\xff\x00 HTTP/1.1\r\n\r\n",
                 b"GET / HTTP/1.1\r\nbad header\r\n\r\n"):
        refused(server.raw(data), 400)


def test_many_headers(server):
    refused(server.raw(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 14_000), 431)


def test_another_name_for_this_machine(server):
    """A page of another site may have its own name lead here; it must not get at the model."""
    for host, status in (("evil.example", 403), ("evil.example:8000", 403), ("10.0.0.1", 403),
                         ("localhost:8000", 200), ("127.0.0.1:1", 200), ("[::1]:8000", 200)):
        data = server.raw(http("/v1/completions", OK, Host=host))
        assert answer(data)[0] == status, host


def test_no_other_site_may_call(server, start):
    ask = {"Origin": "https://a.org", "Access-Control-Request-Method": "POST",
           "Access-Control-Request-Headers": "content-type"}
    found = server.http.options("/v1/completions", headers=ask)
    assert found.status_code == 405
    assert "access-control-allow-origin" not in found.headers
    with start(cors="https://a.org, https://b.org") as other:
        found = other.http.options("/v1/completions", headers=ask)
        assert found.headers["access-control-allow-origin"] == "https://a.org"
        found = other.http.options("/v1/completions", headers=ask | {"Origin": "https://c.org"})
        assert "access-control-allow-origin" not in found.headers
        made = other.http.post("/v1/completions", json=OK, headers={"Origin": "https://b.org"})
        assert made.headers["access-control-allow-origin"] == "https://b.org"


def test_slow_requests_are_ended_and_nobody_waits_for_them(start):
    with start(request_timeout=0.5) as server:
        head = http("/v1/completions", b"", Content_Length="100")
        idle, half, body = (server.connect() for _ in range(3))
        half.sendall(b"POST /v1/comp")
        body.sendall(head + b'{"pro')
        with server.client() as client:
            assert client.completions.create(model="tiny", **OK).choices
        assert drained(idle) == b""
        refused(drained(half), 408)
        refused(drained(body), 408)
        for s in (idle, half, body):
            s.close()


def test_a_second_request_on_the_connection(server):
    one = http("/v1/completions", OK, close=False)
    data = server.raw(one + one + http("/v1/completions", OK))
    assert data.count(b"HTTP/1.1 200 OK") == 3


def test_clients_that_hang_up(server):
    """At any moment, in a stream or not: what nobody waits for is not computed."""
    before = server.core.status().generation_tokens
    server.core.engine.delay = 0.005
    for stream in (False, True):
        for wait in (0, 0.001, 0.01, 0.05, 0.2):
            with server.connect() as s:
                s.sendall(http("/v1/completions", dict(prompt="x" * 100, max_tokens=400,
                                                       ignore_eos=True, n=3, stream=stream)))
                time.sleep(wait)
    server.idle()
    assert server.core.status().generation_tokens - before < 10 * 3 * 400 / 2
    assert server.post(body=OK).status_code == 200


def test_clients_that_reset(server):
    for wait in (0, 0.02):
        s = server.connect()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        s.sendall(http("/v1/completions", dict(prompt="x", max_tokens=400, stream=True)))
        time.sleep(wait)
        s.close()
    server.idle()


def test_a_reader_that_does_not_read(start):
    """It is hung up on; the others' streams go on meanwhile, and what waits for it is bounded."""
    with start(request_timeout=1.0) as server:
        server.listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        slow.connect(server.listener.getsockname())
        ask = dict(prompt="x", max_tokens=300, ignore_eos=True, stream=True, logprobs=20)
        slow.sendall(http("/v1/completions", ask))
        with server.client() as client:
            for _ in range(3):
                chunks = list(client.completions.create(model="tiny", prompt="y", max_tokens=100,
                                                        stream=True,
                                                        extra_body=dict(ignore_eos=True)))
                assert chunks[-1].choices[0].finish_reason == "length"
        server.until(lambda: not server.service.answers)
        server.idle()
        assert drained(slow)[-5:] != b"0\r\n\r\n"
        slow.close()


def test_nothing_failed(server):
    assert server.responses("400") > 20
    assert server.responses("500") == 0
    assert server.get("/livez").status_code == 200
