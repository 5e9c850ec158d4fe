"""From start to end: when the server takes requests, when it counts as alive, how it leaves."""

import asyncio
import importlib
import json
import re
import socket
import sys
import threading
import time

import httpx
import openai
import pytest
from servers import drained, http

from lm.base.errors import UserError
from lm.serve.config import Config
from lm.serve.health import Progress
from lm.serve.serve import api_keys, bind, serve

LONG = dict(model="tiny", prompt="x", max_tokens=100, extra_body=dict(ignore_eos=True), seed=1)


def probes(server):
    return [server.get(path).status_code for path in ("/startupz", "/readyz", "/livez", "/health",
                                                      "/ping")]


def held(server):
    """Has the engine not be made before the event that is returned."""
    go, make = threading.Event(), server.core._make
    server.core._make = lambda: go.wait(20) and make()
    return go


def test_told_while_it_starts(start, monkeypatch):
    """What compiles cannot be told to end, and nothing waits for it."""
    monkeypatch.setattr("lm.serve.serve.LEAVE", 0.2)
    server = start(waits=False)
    go = held(server)
    with server:
        pass
    assert server.status == 0
    assert server.core.alive
    go.set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_that_cannot_be_made(start):
    with start(waits=False, fails="no such weights") as server:
        server.thread.join(20)
    assert "no such weights" in server.status


def test_it_answers_before_the_engine_is_ready(start):
    server = start(waits=False)
    go = held(server)
    with server:
        assert probes(server) == [503, 503, 200, 200, 200]
        refused = server.post(prompt="x")
        assert refused.status_code == 503
        assert refused.headers["connection"] == "close"
        assert int(refused.headers["retry-after"]) > 0
        assert refused.json()["error"]["code"] == "unavailable"
        assert server.post("/tokenize", prompt="x").status_code == 200
        assert server.get("/metrics").status_code == 200
        go.set()
        server.until(lambda: server.get("/readyz").status_code == 200)
        assert probes(server) == [200] * 5
        assert server.post(prompt="x").status_code == 200


def streams(server, count, results, **more):
    """Threads that read a stream each, into results: (texts, finish or error)."""
    def read(i):
        texts, end = [], None
        with server.client() as client:
            try:
                for chunk in client.completions.create(**LONG | more, stream=True):
                    texts.append(chunk.choices[0].text)
                    end = chunk.choices[0].finish_reason or end
            except openai.APIError as error:
                end = error
        results[i] = "".join(texts), end
    made = [threading.Thread(target=read, args=(i,)) for i in range(count)]
    for thread in made:
        thread.start()
    server.until(lambda: len(server.service.answers) == count)
    return made


def test_drained(start):
    """What is under way ends whole; nothing else is taken in; then it is gone."""
    with start() as server:
        with server.client() as client:
            whole = client.completions.create(**LONG).choices[0].text
        server.core.engine.delay = 0.003
        results = {}
        reading = streams(server, 6, results)
        server.end()
        server.until(lambda: server.service.draining)
        found = server.get("/readyz")
        assert (found.status_code, found.json()["status"]) == (503, "draining")
        assert found.headers["connection"] == "close"
        assert server.get("/livez").status_code == 200
        assert re.search(r"lm:draining\{.*\} 1", server.get("/metrics").text)
        refused = server.post(prompt="x")
        assert refused.status_code == 503
        assert refused.headers["connection"] == "close"
        for thread in reading:
            thread.join(20)
        server.thread.join(20)
        assert server.status == 0
        assert not server.core.alive
    assert [results[i] for i in range(6)] == [(whole, "length")] * 6
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url + "/livez")


def test_cut_when_the_time_is_over(start):
    with start(shutdown_timeout=0.2) as server:
        server.core.engine.delay = 0.02
        results = {}
        reading = streams(server, 3, results)
        with server.connect() as s:
            s.sendall(http("/v1/completions", dict(prompt="x", max_tokens=400, ignore_eos=True)))
            server.until(lambda: len(server.service.answers) == 4)
            server.end()
            data = drained(s)
        for thread in reading:
            thread.join(20)
        server.thread.join(20)
        assert server.status == 0
    assert data.startswith(b"HTTP/1.1 503 ")
    assert b"shutting down" in data
    for text, end in results.values():
        assert isinstance(end, openai.APIError)
        assert "shutting down" in str(end)
        assert len(text) < 100


def test_told_twice(start):
    with start(shutdown_timeout=600.0) as server:
        server.core.engine.delay = 0.02
        results = {}
        reading = streams(server, 2, results)
        server.end()
        server.end()
        for thread in reading:
            thread.join(20)
        server.thread.join(20)
        assert server.status == 1
    assert all(isinstance(end, openai.APIError) for _, end in results.values())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_within_a_stream_is_an_event(start):
    with start() as server:
        server.core.engine.delay = 0.01
        with server.connect() as s:
            s.sendall(http("/v1/completions", dict(prompt="x", max_tokens=400, stream=True,
                                                   ignore_eos=True)))
            server.until(lambda: server.core.status().running)
            time.sleep(0.1)
            server.core.engine.wrong = "the chip is on fire"
            data = drained(s)
        server.thread.join(20)
        assert server.status == 1
    assert data.startswith(b"HTTP/1.1 200 OK")
    assert data.endswith(b"0\r\n\r\n")
    last = json.loads(re.findall(rb"data: (.*)\n\n", data)[-1])
    assert "the chip is on fire" in last["error"]["message"]
    assert last["error"]["type"] == "server_error"
    assert b"[DONE]" not in data


def test_a_stalled_engine_is_dead_until_it_goes_on(start, capfd):
    with start(stall=0.2) as server:
        assert probes(server) == [200] * 5
        time.sleep(0.5)
        assert probes(server) == [200] * 5   # it has nothing to do
        server.core.engine.go.clear()
        results = {}
        reading = streams(server, 1, results, max_tokens=2)
        server.until(lambda: server.get("/livez").status_code == 503)
        assert server.get("/livez").json()["status"] == "stalled"
        assert probes(server) == [200, 503, 503, 503, 503]
        server.until(lambda: server.service.progress.told)
        server.core.engine.go.set()
        server.until(lambda: server.get("/livez").status_code == 200)
        reading[0].join(20)
    assert "no step for 0.2 s" in capfd.readouterr().err


class Engine:
    """What is asked of one that does nothing."""

    ready, running, waiting, last_step, context, tokenizer = True, 0, 0, 5.0, 16, None

    def status(self):
        return self


def test_progress_is_counted_from_when_there_was_work():
    engine = Engine()
    progress = Progress(engine, 10.0)
    assert not progress.look(1000.0)
    engine.running = 1
    assert not progress.look(2000.0)     # the last step was long ago: there was nothing to do
    assert not progress.look(2010.0)
    assert progress.look(2010.1)
    engine.last_step = 2010.2
    assert not progress.look(2010.3)
    assert progress.look(2020.4)
    engine.running, engine.waiting = 0, 1
    assert progress.look(2020.5)
    engine.waiting = 0
    assert not progress.look(2020.6)
    engine.waiting = 1
    assert not progress.look(3000.0)


def test_a_stream_that_waits_shows_that_it_lives(start, monkeypatch):
    monkeypatch.setattr("lm.serve.stream.HEARTBEAT", 0.05)
    with start() as server:
        server.core.engine.go.clear()
        with server.connect() as s:
            s.sendall(http("/v1/completions", dict(prompt="x", max_tokens=1, stream=True)))
            data = b""
            while b": ping" not in data:
                data += s.recv(1000)
            server.core.engine.go.set()
            data += drained(s)
    assert data.startswith(b"HTTP/1.1 200 OK")
    assert b"\n: ping\n\n" in data
    assert data.index(b": ping") < data.index(b"data: {") < data.index(b"data: [DONE]")


def test_flags_that_are_wrong(start):
    for flags, says in ((dict(cors="a.org"), "--cors"), (dict(metrics="a b"), "--metrics"),
                        (dict(access_log="/no/where"), "access_log")):
        with pytest.raises(UserError, match=says):
            asyncio.run(serve(Engine(), Config(**flags), None, ""))


def test_a_port_that_is_taken():
    with bind("127.0.0.1", 0) as one:
        port = one.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port}.*another --port"):
            bind("127.0.0.1", port)
        one.close()
    bind("127.0.0.1", port).close()
    with pytest.raises(UserError, match="--host=no.such.host.invalid"):
        bind("no.such.host.invalid", 0)
    with pytest.raises(UserError, match="give a --host"):
        bind("203.0.113.1", 0)
    if socket.has_ipv6:
        bind("::1", 0).close()


def test_a_package_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "lm.serve.serve")
    with pytest.raises(UserError, match=r"needs uvicorn; pip install 'lm\[serve\]'"):
        importlib.import_module("lm.serve.serve")


def test_api_keys(tmp_path, monkeypatch):
    monkeypatch.delenv("LM_API_KEY", raising=False)
    assert api_keys("") == []
    assert api_keys("a-key") == ["a-key"]
    (tmp_path / "keys").write_text("one\n\n two \n")
    assert api_keys(f"@{tmp_path}/keys") == ["one", "two"]
    monkeypatch.setenv("LM_API_KEY", "from-env")
    assert api_keys("") == ["from-env"]
    assert api_keys("flag") == ["flag"]
    (tmp_path / "keys").write_text("\n")
    for given in (f"@{tmp_path}/keys", f"@{tmp_path}/none", " ", "ä", "a b"):
        with pytest.raises(UserError, match="--api_key"):
            api_keys(given)
