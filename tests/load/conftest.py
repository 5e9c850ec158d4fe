"""A server of our own over real sockets, in a thread, whose answers are a script."""

import asyncio
import contextlib
import json
import threading
import time

import pytest

from lm.load import intervals


class Exchange:
    """One request as the server sees it, and the means to answer it."""

    DONE = b"data: [DONE]\n\n"

    @staticmethod
    def event(tree) -> bytes:
        """One server-sent event."""
        return b"data: " + json.dumps(tree).encode() + b"\n\n"

    @classmethod
    def chunk(cls, text="x", finish=None) -> bytes:
        """The event of a completion's token."""
        return cls.event({"choices": [{"index": 0, "text": text, "finish_reason": finish}]})

    @classmethod
    def usage(cls, prompt, output, **more) -> bytes:
        """The event with the counts."""
        return cls.event({"choices": [], "usage": {
            "prompt_tokens": prompt, "completion_tokens": output, **more}})

    def __init__(self, server, body, headers, writer):
        self.server, self.body, self.headers, self.writer = server, body, headers, writer
        self.came = time.monotonic()
        self.wrote = []     # when each piece was about to be written

    @property
    def prompt(self):
        """Tokens of the prompt."""
        if "messages" in self.body:
            return len(self.server.tokenize(self.body["messages"][0]["content"])) + 5
        prompt = self.body["prompt"]
        return len(prompt if isinstance(prompt, list) else self.server.tokenize(prompt))

    async def write(self, data):
        """Writes bytes of the body as one chunk."""
        self.wrote.append(time.monotonic())
        self.raw(b"%x\r\n%s\r\n" % (len(data), data))
        await self.writer.drain()

    def raw(self, data):
        """Writes bytes as they are."""
        self.writer.write(data)

    def stream(self):
        """Begins a stream."""
        self.raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                 b"Transfer-Encoding: chunked\r\n\r\n")

    def whole(self, tree, status=200, text=None):
        """Answers in one piece."""
        data = json.dumps(tree).encode() if text is None else text.encode()
        self.raw(b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                 % (status, len(data), data))

    def refuse(self, status, message, **more):
        """Answers with an error body as OpenAI's."""
        self.whole({"error": {"message": message, "type": "x", "param": None, "code": None,
                              **more}}, status)

    async def tokens(self, first=0.0, gap=0.0, count=None):
        """Answers with as many tokens as asked for."""
        count = count or self.body["max_tokens"]
        if not self.body["stream"]:
            await asyncio.sleep(first + gap * (count - 1))
            self.wrote.append(time.monotonic())
            self.whole({"choices": [{"text": "x" * count, "finish_reason": "length"}], "usage": {
                "prompt_tokens": self.prompt, "completion_tokens": count}})
            return
        self.stream()
        for i in range(count):
            await asyncio.sleep(gap if i else first)
            await self.write(self.chunk())
        await self.write(self.chunk("", "length"))
        if "stream_options" in self.body:
            await self.write(self.usage(self.prompt, count))
        await self.write(self.DONE)
        self.raw(b"0\r\n\r\n")


class Server:
    """`script(exchange)` answers each completion; `asked` are those that came, in order."""

    def __init__(self, script, tokenize=lambda text: list(text.encode()), model="tiny",
                 paths=None, ssl=None):
        self.script, self.tokenize, self.model, self.ssl = script, tokenize, model, ssl
        self.paths = paths or {}    # (status, JSON) by path, in place of what is there
        self.asked: list[Exchange] = []
        self.connections = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self._thread.start()
        assert self._ready.wait(60)

    @property
    def url(self):
        """Where it is."""
        where = "https://localhost" if self.ssl else "http://127.0.0.1"
        return f"{where}:{self.port}"

    async def _main(self):
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.state = {}     # of the script
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.ssl)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def close(self):
        """Ends it and all that it does."""
        with contextlib.suppress(RuntimeError):     # it has ended by itself
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)

    async def _serve(self, reader, writer):
        self.connections += 1
        try:
            while True:
                first = await reader.readexactly(1)
                if first == b"\x16":    # one that begins to encrypt
                    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    return
                head = (first + await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
                data = await reader.readexactly(int(headers.get("content-length", 0)))
                path = head[0].split()[1]
                body = json.loads(data or b"{}")
                exchange = Exchange(self, body, headers, writer)
                if path in self.paths:
                    exchange.whole(self.paths[path][1], self.paths[path][0])
                elif path == "/v1/models":
                    exchange.whole({"data": [{"id": self.model}, {"id": "other"}]})
                elif path == "/tokenize":
                    found = self.tokenize(body["prompt"])
                    exchange.whole({"tokens": found, "count": len(found)})
                elif path in ("/v1/completions", "/v1/chat/completions"):
                    self.asked.append(exchange)
                    await self.script(exchange)
                else:
                    exchange.refuse(404, "no such path")
                await writer.drain()
        except (asyncio.CancelledError, asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


@pytest.fixture
def serve():
    """Starts servers, and ends them after the test."""
    started = []

    def start(script=Exchange.tokens, **how):
        started.append(Server(script, **how))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture(scope="module")
def few_draws():
    """Intervals of few draws: they have their own tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "DRAWS", 20)
        yield
