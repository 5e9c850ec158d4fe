"""Addresses, and connections to a server over real sockets: kept, lost, made again, encrypted."""

import asyncio
import shutil
import ssl
import subprocess

import pytest

from lm.base.errors import UserError
from lm.load.http import Client, url
from lm.load.reply import Broken, Reply


@pytest.mark.parametrize("text,host,port,path,said", [
    ("http://127.0.0.1:8000", "127.0.0.1", 8000, "", "http://127.0.0.1:8000"),
    ("https://x.org/", "x.org", 443, "", "https://x.org"),
    ("http://x/v1", "x", 80, "", "http://x"), ("http://x:80/a/v1/", "x", 80, "/a", "http://x/a"),
    ("http://[::1]:9/", "::1", 9, "", "http://[::1]:9")])
def test_urls(text, host, port, path, said):
    found = url(text)
    assert (found.host, found.port, found.path, found.text) == (host, port, path, said)


@pytest.mark.parametrize("text", [
    "127.0.0.1:8000", "localhost:8000", "ftp://x", "http://", "http://x:port", "http://x:99999",
    "http://x?a=b", "http://x#y", "http://user:secret@x", "http://x y", "http://[::1", "", "http://ö"])
def test_bad_urls(text):
    with pytest.raises(UserError, match="http://127.0.0.1:8000"):
        url(text)


def get(server, times=1, together=False, path="/v1/models", **how):
    """Replies to some requests, and their bodies."""
    async def work():
        client = Client(url(server.url), how)
        await client.find()

        async def once():
            body = []
            reply = Reply(lambda _, piece: body.append(piece))
            await client.send(client.request("GET", path), reply)
            return reply, b"".join(body)
        try:
            if together:
                return await asyncio.gather(*(once() for _ in range(times)))
            return [await once() for _ in range(times)]
        finally:
            client.close()
    return asyncio.run(work())


def test_a_connection_is_used_again(serve):
    server = serve()
    replies = get(server, 20)
    assert {reply.status for reply, _ in replies} == {200} and server.connections == 1
    assert all(b"tiny" in body for _, body in replies)
    assert get(server, 20, together=True)[0][0].status == 200
    assert server.connections > 2


def test_a_connection_that_was_closed_meanwhile_is_made_again(serve):
    """As a server does that waited long enough for a next request, or that says so."""
    async def rude(exchange):
        exchange.whole({"n": len(exchange.server.asked)})
        await exchange.writer.drain()
        exchange.writer.transport.close()

    server = serve(rude)
    replies = get(server, 5, path="/v1/completions")
    assert [reply.status for reply, _ in replies] == [200] * 5
    assert server.connections >= 5

    async def polite(exchange):
        exchange.raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")

    server = serve(polite)
    assert get(server, 3, path="/v1/completions")[2][0].status == 200 and server.connections == 3


def test_a_server_that_closes_without_a_word_is_not_asked_for_ever(serve):
    async def mute(exchange):
        exchange.writer.close()

    server = serve(mute)
    with pytest.raises(Broken, match="without a reply") as error:
        get(server, path="/v1/completions")
    assert error.value.kind == "closed" and len(server.asked) <= 2


def test_nobody_there():
    async def find(text):
        await Client(url(text), {}).find()
    with pytest.raises(Broken, match="refused") as error:
        asyncio.run(find("http://127.0.0.1:1"))
    assert error.value.kind == "connect"
    with pytest.raises(Broken):
        asyncio.run(find("http://no-such-host.invalid"))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for localhost that nobody has signed, and its key."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("certificate")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-nodes", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        cwd=folder, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context, folder / "cert.pem"


def test_https(serve, certificate, monkeypatch):
    context, file = certificate
    server = serve(ssl=context)
    with pytest.raises(Broken, match="certificate is not trusted.*SSL_CERT_FILE"):
        get(server)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    assert [reply.status for reply, _ in get(server, 3)] == [200] * 3
    server.ssl = None   # its port asked without encryption
    with pytest.raises(Broken):
        get(server)


def test_https_where_there_is_none(serve):
    server = serve()
    server.ssl = True
    with pytest.raises(Broken, match="is it http, not https"):
        get(server)


def test_headers_go_with_every_request(serve):
    async def look(exchange):
        exchange.whole(exchange.headers)

    [(_, body)] = get(serve(look), path="/v1/completions", Authorization="Bearer k")
    assert b'"authorization": "bearer k"' in body
