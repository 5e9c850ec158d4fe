"""A server over real sockets: what came when, and one line about one that is none."""

import asyncio
import statistics
import time

import pytest

from lm.base.errors import UserError
from lm.load.answer import FAILED, FINISHED, REJECTED, Row
from lm.load.config import Config
from lm.load.http import Client, url
from lm.load.server import counters, extra, look, probe, since


def ask(server, rows, timeout=60.0, prompt="abc", **asked):
    """The rows of requests that are sent together; times are those of time.monotonic()."""
    async def work():
        c = Config(url=server.url, **asked)
        client = Client(url(c.url), {})
        try:
            found = await look(client, c)
            await asyncio.gather(*(
                found.ask(row, found.request(prompt, row.output), time.monotonic, timeout)
                for row in rows))
        finally:
            client.close()
        return rows
    return asyncio.run(work())


def rows(n, output=5):
    return [Row(time.monotonic(), 3, output) for _ in range(n)]


def test_times_are_those_at_which_the_server_wrote(serve):
    server = serve(lambda exchange: exchange.tokens(0.1, 0.02))
    heard = ask(server, rows(8))
    assert {row.status for row in heard} == {FINISHED} and {row.tokens for row in heard} == {5}
    by_first = {exchange.wrote[0]: exchange for exchange in server.asked}
    assert len(by_first) == 8
    wrote = sorted(exchange.wrote[0] for exchange in server.asked)
    first = sorted(row.times[0] for row in heard)
    late = [b - a for a, b in zip(wrote, first, strict=True)]
    assert min(late) >= 0 and statistics.median(late) < 0.25
    for row in heard:
        assert row.due <= row.started <= row.sent <= row.times[0] <= row.end
        assert row.times[0] - row.sent >= 0.1 and row.end - row.sent >= 0.1 + 4 * 0.02
        assert len(row.times) == 5
    tpot = min((row.times[-1] - row.times[0]) / 4 for row in heard)
    assert 0.015 <= tpot < 0.1


def test_events_that_come_in_pieces(serve):
    """Each byte by itself, and all at once."""
    async def bytewise(exchange):
        exchange.stream()
        data = exchange.chunk("é") + exchange.chunk("", "length") + exchange.usage(3, 1)
        for byte in data + exchange.DONE:
            exchange.raw(b"1\r\n%c\r\n" % byte)
            if byte == 10:
                await asyncio.sleep(0.001)
        exchange.raw(b"0\r\n\r\n")

    [row] = ask(serve(bytewise), rows(1, 1))
    assert (row.status, row.tokens, len(row.times), row.prompt_tokens) == (FINISHED, 1, 1, 3)


async def closes(exchange):
    exchange.stream()
    await exchange.write(exchange.chunk())
    exchange.writer.close()


async def garbage(exchange):
    exchange.raw(b"\x00\x01 what is this?\r\n\r\n")


async def garbled(exchange):
    exchange.stream()
    await exchange.write(b"data: {not json}\n\n")


async def mute(exchange):
    await asyncio.sleep(600)


async def stuck(exchange):
    exchange.stream()
    await exchange.write(exchange.chunk())
    await asyncio.sleep(600)


async def short(exchange):
    exchange.stream()
    await exchange.write(exchange.chunk())
    exchange.raw(b"0\r\n\r\n")


async def full(exchange):
    exchange.raw(b"HTTP/1.1 429 X\r\nRetry-After: 0\r\nContent-Length: 2\r\n\r\n{}")


async def breaks(exchange):
    exchange.stream()
    await exchange.write(exchange.chunk() + exchange.event({"error": {"message": "device lost"}}))
    exchange.raw(b"0\r\n\r\n")


async def crashes(exchange):
    exchange.refuse(500, "oh")


@pytest.mark.parametrize("script,status,why,words", [
    (closes, FAILED, "closed", "before the end"), (garbage, FAILED, "garbage", "not HTTP"),
    (garbled, FAILED, "garbage", "not JSON"), (mute, FAILED, "timeout", ""),
    (stuck, FAILED, "timeout", ""), (short, FAILED, "closed", "ended before"),
    (full, REJECTED, "429", ""), (breaks, FAILED, "error event", "device lost"),
    (crashes, FAILED, "http 500", "oh")], ids=lambda x: getattr(x, "__name__", ""))
def test_hostile_servers(serve, script, status, why, words):
    server = serve(script)
    heard = ask(server, rows(3), timeout=0.5)
    for row in heard:
        assert (row.status, row.why) == (status, why) and words in row.words
        assert row.end >= row.started
    assert len(server.asked) <= 6   # a closed connection is made again once, a refusal is not
    if script is not closes:
        assert len(server.asked) == 3


def seen(server, prompt="abc", **asked):
    """The server as it is found, and the row of the probe."""
    async def work():
        c = Config(url=server if isinstance(server, str) else server.url, **asked)
        client = Client(url(c.url), {})
        try:
            found = await look(client, c)
            return found, await probe(found, prompt, "abc")
        finally:
            client.close()
    return asyncio.run(work())


def test_what_a_server_refuses_is_left_out_and_said(serve):
    def picky(*unknown, named=True):
        async def script(exchange):
            bad = [name for name in unknown if name in exchange.body]
            if "ids" in unknown and isinstance(exchange.body["prompt"], list):
                bad.append("ids")
            if bad:
                exchange.refuse(400, f"unknown field {bad[0]}" if named else "bad request")
            else:
                await exchange.tokens()
        return script

    found, row = seen(serve(picky()))
    assert not found.notes and row.prompt_tokens == 3 and all(found.takes.values())
    found, row = seen(serve(picky("stream_options")))
    assert found.takes == {"ignore_eos": True, "stream_options": False, "ids": True}
    assert row.status == FINISHED and "tokens are counted by events" in found.notes[0]
    server = serve(picky("ignore_eos", "ids"))
    found, row = seen(server, [1, 2, 3])
    assert found.takes == {"ignore_eos": False, "stream_options": True, "ids": False}
    assert len(server.asked) == 3 and server.asked[-1].body["prompt"] == "abc"
    found, _ = seen(serve(picky("stream_options", named=False)))    # found out by trying
    assert not found.takes["stream_options"]
    with pytest.raises(UserError, match=r"does not answer a request for two tokens \(http 400\)"):
        seen(serve(picky("max_tokens", named=False)))


def models(status, tree):
    return {"/v1/models": (status, tree)}


@pytest.mark.parametrize("how,asked,words", [
    (dict(paths=models(401, {"error": {"message": "wrong"}})), {}, "asks for a key.*wrong.*--api_"),
    (dict(paths=models(404, {})), {}, "is no OpenAI-compatible server: GET /v1/models gives 404"),
    (dict(paths=models(200, {"data": []})), {}, "is no OpenAI-compatible server"),
    (dict(paths=models(200, {"data": [{"id": [1]}]})), {}, "is no OpenAI-compatible server"),
    (dict(paths=models(200, "hello")), {}, "is no OpenAI-compatible server"),
    (dict(paths=models(503, {"detail": "loading"})), {}, "takes no requests now.*loading"),
    (dict(paths=models(302, {})), {}, "sends elsewhere"),
    ({}, dict(model="tinny"), "has no model 'tinny'; did you mean 'tiny'"),
    (dict(script=garbage), {}, "does not answer a request for two tokens .garbage.: .*not HTTP"),
    (dict(script=crashes), {}, "does not answer a request for two tokens .http 500.: oh"),
    (dict(script=full), {}, "takes no requests now .429"),
    (dict(script=mute), dict(timeout=0.2), "does not answer a request for two tokens .timeout")])
def test_one_line_about_what_is_no_server(serve, how, asked, words):
    with pytest.raises(UserError, match=words) as error:
        seen(serve(**how), **asked)
    assert "\n" not in str(error.value)


def test_one_line_where_nobody_is():
    with pytest.raises(UserError, match="no server at http://127.0.0.1:1: .*refused; start one"):
        seen("http://127.0.0.1:1")


def test_a_server_that_does_not_stream_is_found_out(serve):
    async def whole(exchange):
        exchange.whole({"choices": [{"text": "ab", "finish_reason": "length"}]})

    with pytest.raises(UserError, match="does not stream; give --stream=false"):
        seen(serve(whole))
    assert seen(serve(whole), stream=False)[1].status == FINISHED


def test_the_context_is_read(serve):
    listed = models(200, {"data": [{"id": "m", "max_model_len": 99}]})
    assert seen(serve(paths=listed))[0].context == 99
    told = {"/tokenize": (200, {"tokens": [1, 2], "max_model_len": 77})}
    assert seen(serve(paths=told))[0].context == 77
    for bad in ({"tokens": "x"}, {"tokens": [1.5]}, [], {"tokens": [1], "max_model_len": "x"}):
        found = seen(serve(paths={"/tokenize": (200, bad)}))[0]
        assert found.context == 0 and found.tokenizes == (bad == {"tokens": [1],
                                                                  "max_model_len": "x"})


def test_counters():
    text = """# HELP vllm:prefix_cache_hits_total hits
vllm:prefix_cache_hits_total{model="a b{"} 3
vllm:prefix_cache_hits_total{model="c"} 4.5 1700000000
vllm:num_preemptions_total 0
lm:compiles_after_ready_total{} 1e1
vllm:kv_cache_usage_perc 0.3
vllm:prefix_cache_queries_total NaN
vllm:prompt_tokens_total junk
vllm:request_prompt_tokens_sum 7
}{ 3
"""
    found = counters(text)
    assert found == {"prefix_cache_hits": 7.5, "num_preemptions": 0, "compiles_after_ready": 10}
    later = {"prefix_cache_hits": 9.5, "num_preemptions": 2, "compiles_after_ready": 1,
             "prompt_tokens": 5}
    assert since(found, later) == {"prefix_cache_hits": 2, "num_preemptions": 2, "prompt_tokens": 5}


def test_more_fields(serve):
    assert extra("") == {} and extra('{"temperature": 0}') == {"temperature": 0}
    for text in ("[]", "{", "x", '{"model": "y"}', '{"n": 2}'):
        with pytest.raises(UserError, match="body"):
            extra(text)
    server = serve()
    ask(server, rows(1), body='{"temperature": 0, "ignore_eos": false}', endpoint="chat")
    sent = server.asked[0].body
    assert sent["temperature"] == 0 and sent["ignore_eos"] is False
    assert sent["messages"] == [{"role": "user", "content": "abc"}] and sent["max_tokens"] == 5
    assert sent["stream_options"] == {"include_usage": True} and sent["model"] == "tiny"
