"""HTTP/1.1 over asyncio, as much as a load test needs: what comes is handed on as it comes.

Protocols rather than streams: bytes are stamped where they arrive, no task has to wake first.
"""

import asyncio
import os
import re
import ssl
import urllib.parse
from collections.abc import Callable
from typing import NamedTuple

from lm.base.errors import UserError
from lm.load.reply import Broken, Reply

HANDSHAKE = 15.0    # seconds


class Url(NamedTuple):
    """Where a server is. path: what stands before /v1."""

    secure: bool
    host: str
    port: int
    path: str

    @property
    def text(self) -> str:
        """Returns it as it is written."""
        return f"http{'s' * self.secure}://{self.authority}{self.path}"

    @property
    def authority(self) -> str:
        """Returns host and port, as the header Host has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"


def url(text: str) -> Url:
    """Reads http[s]://HOST[:PORT][/PATH][/v1]. Raises UserError."""
    example = "give one like http://127.0.0.1:8000"
    try:
        parts = urllib.parse.urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise UserError(f"url={text}: {error}; {example}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not text.isascii():
        raise UserError(f"url={text} is no address of a server; {example}")
    if parts.query or parts.fragment or parts.username is not None or re.search(r"\s", text):
        raise UserError(f"url={text} says more than scheme, host, port and path; {example}")
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    secure = parts.scheme == "https"
    return Url(secure, parts.hostname, port or (443 if secure else 80), path)


class Connection(asyncio.Protocol):
    """One connection, with one exchange at a time."""

    def __init__(self):
        self.reply: Reply | None = None
        self.open = True
        self._ended: asyncio.Future | None = None

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if self.reply is None:  # bytes that nobody asked for
            self.close()
            return
        try:
            self.reply.feed(data)
        except Exception as error:  # also a mistake of ours: who waits shall hear of it
            self._end(error)
        else:
            if self.reply.done:
                self._end(None)

    def connection_lost(self, error):
        self.open = False
        if self.reply is not None:
            try:
                self.reply.eof()
            except Broken as broken:
                self._end(broken)
            else:
                self._end(None)

    def _end(self, error):
        reply, self.reply = self.reply, None
        if error is not None or not reply.keep:
            self.close()
        if self._ended.done():
            return
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)

    def close(self) -> None:
        """Ends the connection, whatever is under way."""
        self.open = False
        self.transport.abort()

    def exchange(self, request: bytes, reply: Reply) -> asyncio.Future:
        """Sends a request. The future is done when `reply` is whole; Broken: it will not be."""
        self.reply = reply
        self._ended = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._ended


class Client:
    """Connections to one server, which are used again."""

    def __init__(self, to: Url, headers: dict[str, str]):
        """headers: of every request. Call `find` before the first."""
        self.to = to
        self._head = "".join(f"{name}: {value}\r\n" for name, value in {
            "Host": to.authority, "User-Agent": "lm-bench", **headers}.items())
        self._secure = ssl.create_default_context() if to.secure else None
        self._idle: list[Connection] = []
        self._address: tuple = ()

    async def find(self) -> None:
        """Looks the server's name up, once for all, and connects. Broken: nobody is there."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(self.to.host, self.to.port, type=1)
        except (OSError, UnicodeError) as error:
            raise Broken("connect", getattr(error, "strerror", "") or str(error)) from None
        addresses = list(dict.fromkeys(entry[4][:2] for entry in found))
        for address in addresses:
            self._address = address
            try:
                self._idle.append(await self._connect())
                return
            except Broken:
                if address == addresses[-1]:
                    raise

    def request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Returns the bytes of a request, to be sent as often as one likes."""
        more = "" if body is None else ("Content-Type: application/json\r\n"
                                        f"Content-Length: {len(body)}\r\n")
        return (f"{method} {self.to.path}{path} HTTP/1.1\r\n{self._head}{more}\r\n".encode("latin1")
                + (body or b""))

    async def send(self, request: bytes, reply: Reply,
                   sent: Callable[[], None] = lambda: None) -> None:
        """Returns when `reply` is whole; calls `sent` when the request is handed to the system.

        A connection that the server closed while it was idle is no answer: another is made.
        """
        while True:
            used = bool(self._idle)
            connection = self._idle.pop() if used else await self._connect()
            if not connection.open:
                continue
            try:
                ended = connection.exchange(request, reply)
                sent()
                await ended
            except asyncio.CancelledError:
                connection.close()
                raise
            except Broken as broken:
                if used and broken.kind == "closed" and not reply.begun:
                    continue
                raise
            if connection.open:
                self._idle.append(connection)
            return

    async def _connect(self):
        loop = asyncio.get_running_loop()
        host, port = self._address
        secured = dict(ssl=self._secure, server_hostname=self.to.host,
                       ssl_handshake_timeout=HANDSHAKE) if self._secure else {}
        try:
            return (await loop.create_connection(Connection, host, port, **secured))[1]
        except ssl.SSLCertVerificationError as error:
            raise Broken("connect", f"its certificate is not trusted: {error.verify_message}; "
                         "SSL_CERT_FILE names a file of authorities") from None
        except OSError as error:
            words = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
            if isinstance(error, ssl.SSLError):
                words = f"{error.reason or error}: is it http, not https?"
            raise Broken("connect", words or type(error).__name__) from None

    def close(self) -> None:
        """Closes the connections that nobody uses."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()
