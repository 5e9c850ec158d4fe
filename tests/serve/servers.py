"""A real engine of a tiny model, and real servers over it on free ports of this machine."""

import asyncio
import contextlib
import copy
import json
import socket
import threading
import time

import httpx
import jax
import jax.numpy as jnp
import openai

from lm.base.errors import UserError
from lm.serve.serve import bind, serve, url

NAME = "tiny"
CONTEXT = 512
ENGINE = dict(slots=4, queued=24, budget=16)


class Slow:
    """A compiled engine's programs over pools of its own, as slow or as broken as a test wants."""

    def __init__(self, engine):
        self._engine = copy.copy(engine)
        self._engine.pools = jax.tree.map(jnp.copy, engine.pools)
        self._engine.history_SC = jnp.copy(engine.history_SC)
        self.delay, self.wrong, self.go = 0.0, "", threading.Event()
        self.go.set()

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def compile(self):
        """It is."""

    def send(self, step):
        """Starts a step."""
        if self.wrong:
            raise RuntimeError(self.wrong)
        time.sleep(self.delay)
        self.go.wait(60)
        return self._engine.send(step)


class Server:
    """A server in a thread of its own."""

    def __init__(self, core, config, key="", template=None, waits=True):
        """waits: until the engine is ready."""
        self.core, self.key, self.template, self.waits = core, key, template, waits
        self.config = config
        self.listener = bind(self.config.host, self.config.port)
        self.url = url(self.listener)
        self.http = httpx.Client(base_url=self.url, timeout=60, verify=False)
        self.status = None
        self.up = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        keys = [self.key] if self.key else []
        with self.listener:
            try:
                self.status = asyncio.run(serve(
                    self.core, self.config, self.listener, NAME, keys=keys,
                    template=self.template, begun=self._begun))
            except UserError as error:
                self.status = str(error)

    def _begun(self, service, drain):
        self.service, self.drain, self.loop = service, drain, asyncio.get_running_loop()
        self.up.set()

    def __enter__(self):
        self.thread.start()
        assert self.up.wait(20)
        self.until(lambda: self.core.ready or self.core.failed or not self.waits)
        return self

    def __exit__(self, *_):
        self.http.close()
        self.end()
        self.thread.join(20)
        assert not self.thread.is_alive()

    def end(self):
        """Tells it to end, as SIGTERM does."""
        with contextlib.suppress(RuntimeError):  # it has
            self.loop.call_soon_threadsafe(self.drain.begin)

    def post(self, path="/v1/completions", body=None, **fields):
        """Sends JSON; returns httpx's response."""
        return self.http.post(path, json=fields if body is None else body)

    def get(self, path):
        """Returns httpx's response."""
        return self.http.get(path)

    def client(self, **more):
        """The official client."""
        return openai.OpenAI(**dict(base_url=self.url + "/v1", api_key=self.key or "any",
                                    max_retries=0, timeout=60) | more)

    def raw(self, data: bytes, wait: float = 20) -> bytes:
        """Returns everything that comes back, until the server closes the connection."""
        with self.connect(wait) as s:
            s.sendall(data)
            return drained(s)

    def connect(self, wait: float = 20) -> socket.socket:
        """Returns a connection."""
        return socket.create_connection(self.listener.getsockname(), timeout=wait)

    def responses(self, status: str) -> float:
        """Returns how many answers had that status."""
        found = self.service.metrics.responses.collect()[0].samples
        return sum(s.value for s in found if s.labels["status"] == status
                   and s.name.endswith("_total"))

    def until(self, true, seconds=20):
        """Waits until `true()`."""
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, f"it never came true: {self.core.status()}"
            time.sleep(0.002)

    def idle(self):
        """Asserts that the engine comes to have nothing to do, and holds no page for anybody."""
        def nothing():
            s = self.core.status()
            return not (s.running or s.waiting or s.queued_tokens or s.pages_used
                        or self.service.answers or self.service.entered)
        self.until(nothing)


def drained(s: socket.socket) -> bytes:
    """Everything that comes from a socket until its other end closes it."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := s.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def http(path, body, *, close=True, **headers) -> bytes:
    """A request as it is written to a socket."""
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"Host": "127.0.0.1", "Content-Type": "application/json",
              "Content-Length": len(body)} | ({"Connection": "close"} if close else {})
    fields |= {k.replace("_", "-"): v for k, v in headers.items()}
    head = "".join(f"{k}: {v}\r\n" for k, v in fields.items() if v is not None)
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body
