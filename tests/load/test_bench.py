"""The whole test against a server over real sockets: what a user runs, sees and gets."""

import asyncio
import io
import json
import os
import signal
import sys
import time

import pytest

from lm.base.errors import UserError
from lm.experiment.flags import Verb, parse
from lm.load import bench, measure
from lm.load.config import Config
from lm.load.workload import loads

VERB = Verb("lm.load.bench", "load test", Config, config=False)
pytestmark = pytest.mark.usefixtures("few_draws")
SMALL = dict(prompt_tokens="constant:8", output_tokens="constant:3", arrivals="constant")


def measured(server, **asked):
    """The only load of a test, and its rows."""
    c = Config(url=server.url, **{**SMALL, **asked})
    out, [rows] = asyncio.run(bench.bench(c, loads(c), bench.checked(c)))
    [load] = out["loads"]
    return load, rows


def test_what_a_user_sees_and_gets(serve, tmp_path, capsys):
    async def script(exchange):
        assert exchange.headers["authorization"] == "bearer sesame"
        await exchange.tokens(0.01, 0.002)

    server = serve(script)
    argv = [f"--url={server.url}/v1", "--rate=80", "--duration=0.5", "--prompt_tokens=lognormal:40",
            "--output_tokens=lognormal:6", "--slo=ttft=30,tpot=30", "--rows",
            "--api_key=Sesame",
            f"--out={tmp_path / 'a/o.json'}", f"--picture={tmp_path / 'o.png'}"]
    assert bench.run(parse(argv, VERB)) == 0
    text, err = capsys.readouterr()
    assert not err
    for words in ("tiny", "open loop: poisson, 80/s", "TTFT", "TPOT", "E2E", "p99", " sent, ",
                  "0 rejected, 0 failed, 0 unfinished", "100.0 % of those sent", "o.png"):
        assert words in text
    assert max(map(len, text.splitlines()[:-3])) <= 100
    out = json.loads((tmp_path / "a/o.json").read_text(), parse_constant=pytest.fail)
    [load] = out["loads"]
    assert "sesame" not in json.dumps(out).lower() and out["model"] == "tiny"
    assert len(load["rows"]) == load["counts"]["sent"] == len(server.asked) - 1     # the probe
    for row, exchange in zip(load["rows"], server.asked[1:], strict=True):
        assert row["status"] == "finished" and row["prompt_tokens"] == row["prompt"]
        assert row["output_tokens"] == row["output"] == len(row["times"])
        assert len(exchange.body["prompt"]) in {r["prompt"] for r in load["rows"]}
    assert (tmp_path / "o.png").read_bytes().startswith(b"\x89PNG")


def test_a_stall_is_in_the_latencies_of_all_who_were_due(serve):
    """A server that stands still for a second: a closed loop asks it once in that time, and finds
    it fast; who came in that second waited."""
    async def stalls(exchange):
        state = exchange.server.state
        if len(exchange.server.asked) == 11:
            state["until"] = time.monotonic() + 1.0
        await asyncio.sleep(max(0.0, state.get("until", 0.0) - time.monotonic()))
        await exchange.tokens(count=1)

    load, rows = measured(serve(stalls), rate=40.0, duration=1.5)
    waited = [row.times[0] - row.due for row in rows]
    # 20 were due in the first half of the stall, each of which waited for its second half.
    assert sum(w >= 0.5 for w in waited) >= 19
    assert load["latency"]["ttft"]["p90"]["value"] > 0.4
    assert load["in_flight"]["max"] >= 30

    load, rows = measured(serve(stalls), concurrency=1, requests=len(rows))
    assert load["latency"]["ttft"]["p90"]["value"] < 0.4
    assert sum(row.times[0] - row.due >= 0.5 for row in rows) <= 3


def test_more_than_a_server_can_do(serve):
    """One at a time, three that wait: what is more is rejected, and all is accounted for."""
    async def small(exchange):
        state = exchange.server.state
        one = state.setdefault("one", asyncio.Semaphore(1))
        if state.get("here", 0) >= 4:
            exchange.refuse(429, "the queue is full")
            return
        state["here"] = state.get("here", 0) + 1
        try:
            async with one:
                await exchange.tokens(0.2)
        finally:
            state["here"] -= 1

    server = serve(small)
    load, rows = measured(server, rate=30.0, duration=1.5, drain=0.1)
    n = load["counts"]
    assert n["sent"] + n["unsent"] == len(rows) == 44
    assert n["sent"] == n["finished"] + n["rejected"] + n["failed"] + n["unfinished"]
    assert n["finished"] >= 1 and n["rejected"] >= 10 and n["unfinished"] >= 1
    assert n["reasons"] == {"429": n["rejected"]} and n["words"] == {"429": "the queue is full"}
    assert len(server.asked) <= n["sent"] + 1     # nothing is sent again
    assert load["latency"]["ttft"]["max"]["at_least"]
    # Capacity is what it is: no more than one in 0.2 s.
    assert load["throughput"]["requests"] <= 1 / 0.2


class Terminal(io.StringIO):
    """Where a line may be written over."""

    def isatty(self):
        return True


def test_a_sweep_of_rates(serve, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr", Terminal())
    argv = [f"--url={serve().url}", "--rates=100:200", "--requests=20", "--slo=e2e=30",
            "--prompt_tokens=constant:9", "--output_tokens=constant:3", "--warmup=0.1",
            f"--out={tmp_path / 'o.json'}"]
    assert bench.run(parse(argv, VERB)) == 0
    text = capsys.readouterr().out
    assert "100 to 200/s" in text and "90 % of the requests keep the limits at up to 200/s" in text
    assert "the first 0.1 s are not counted" in text
    shown = sys.stderr.getvalue()
    assert "of 20 sent" in shown and "under way" in shown and shown.endswith("\r\033[K")
    out = json.loads((tmp_path / "o.json").read_text())
    assert [load["rate"] for load in out["loads"]] == [100, 200]
    assert all(load["counts"]["sent"] < 20 for load in out["loads"])    # without the warm-up


@pytest.fixture
def interrupts():
    """SIGINT as a terminal has it, also where what began this process ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_one_that_is_interrupted_reports_what_there_is(serve, interrupts, tmp_path, capsys):
    async def script(exchange):
        number = len(exchange.server.asked)
        if number == 10:
            os.kill(os.getpid(), signal.SIGINT)
        await exchange.tokens(0.0 if number < 8 else 60.0)

    argv = [f"--url={serve(script).url}", "--rate=50", "--duration=20",
            "--output_tokens=constant:2", f"--out={tmp_path / 'o.json'}"]
    assert bench.run(parse(argv, VERB)) == 130
    out = json.loads((tmp_path / "o.json").read_text())
    [load] = out["loads"]
    n = load["counts"]
    assert out["interrupted"] and n["unfinished"] >= 1 and n["unsent"] > 500
    assert n["sent"] == n["finished"] + n["unfinished"] >= 9 and n["finished"] <= 6
    text = capsys.readouterr().out
    assert "not sent any more" in text and "≥" in text


def test_a_sweep_that_ends_early_keeps_what_it_has(serve):
    """The server goes, or the person stops it, between two rates."""
    async def script(exchange):
        if len(exchange.server.asked) == 5:     # the second load's first
            if exchange.server.state.get("stop"):
                exchange.server.state["stop"]()
            exchange.refuse(503, "draining")
        else:
            await exchange.tokens()

    async def stopped(server, c):
        task = asyncio.create_task(bench.bench(c, loads(c), {}))
        loop = asyncio.get_running_loop()
        if server.stops:
            server.state["stop"] = lambda: loop.call_soon_threadsafe(task.cancel)
        return await task

    for stops in (False, True):
        server = serve(script)
        server.stops = stops
        c = Config(url=server.url, rates="100:200", requests=3, **SMALL)
        out, rows = asyncio.run(stopped(server, c))
        assert len(out["loads"]) == len(rows) == 1 and out["loads"][0]["counts"]["finished"] == 3
        assert out["interrupted"] == stops or "draining" in out["notes"][-1]
        assert "before 200/s" in out["notes"][-1]


def test_a_server_that_stops_counting(serve):
    def tokenize(text):
        return list(text.encode()) if len(text) < 9 else "no more"

    with pytest.raises(UserError, match="no longer says how many tokens a text has"):
        measured(serve(tokenize=tokenize))


def test_two_tests_of_one_seed_ask_alike_and_say_other_things(serve):
    server = serve()
    for _ in range(2):
        measured(server, rate=200.0, requests=5, prompt_tokens="lognormal:60")
    first, second = ([exchange.body for exchange in server.asked[i + 1:i + 6]] for i in (0, 6))
    assert [len(b["prompt"]) for b in first] == [len(b["prompt"]) for b in second]
    assert all(a["prompt"] != b["prompt"] for a, b in zip(first, second, strict=True))


def test_without_streaming_there_is_an_end_alone(serve, tmp_path):
    load, rows = measured(serve(lambda exchange: exchange.tokens(0.01)), rate=50.0, requests=10,
                          stream=False, picture=str(tmp_path / "a.png"), slo="e2e=30")
    assert load["counts"]["finished"] == 10 and not load["latency"]["ttft"]
    assert load["latency"]["e2e"]["p50"]["value"] >= 0.01 and load["goodput"]["share"] == 1
    assert load["throughput"]["output_tokens"] > 0


def test_chat_and_a_shared_prefix(serve, monkeypatch):
    monkeypatch.setenv("LM_API_KEY", "sesame")
    server = serve()
    load, rows = measured(server, rate=100.0, requests=10, endpoint="chat", shared_prefix=30,
                          prompt_tokens="constant:40")
    assert load["tokens"]["prompt"] == load["tokens"]["prompt_asked"] == 70
    asked = [exchange.body["messages"][0]["content"] for exchange in server.asked[1:]]
    assert {exchange.headers["authorization"] for exchange in server.asked} == {"bearer sesame"}
    assert len({text[:25] for text in asked}) == 1 and len({text[:60] for text in asked}) == 10


def test_metrics_of_the_server(serve):
    server = serve(paths={"/metrics": (200, "x")})
    assert measured(server, rate=100.0, requests=2)[0]["server"] == {}


def test_no_request_finished(serve, capsys):
    async def script(exchange):
        if len(exchange.server.asked) == 1:
            await exchange.tokens()
        else:
            exchange.refuse(500, "oh")

    assert bench.run(parse([f"--url={serve(script).url}", "--requests=3", "--rate=50"], VERB)) == 1
    text = capsys.readouterr().out
    assert "3 failed (3 × http 500)" in text and "http 500: oh" in text


@pytest.mark.parametrize("flag,words", [
    ("--slo=ttfb=1", "slo: 'ttfb=1'"), ("--body=x", "body=x"), ("--picture=a.jpg", "ends in .png"),
    ("--out=/proc/no/o.json", "cannot write"), ("--prompt_tokens=gauss:3", "prompt_tokens=gauss"),
    ("--rate=-1", "too small"), ("--endpoint=chats", "did you mean 'chat'"),
    ("--api_key=é", "characters that no key has"), ("--url=x", "no address of a server"),
    ("--rows", "give --out"), ("--rates=9:1", "LOW:HIGH"),
    ("--rat=1", "did you mean 'rat"), ("--trace=none.csv", "no such")])
def test_mistakes_are_answered_before_anything_is_sent(serve, flag, words):
    server = serve()
    argv = [flag] if flag.startswith("--url") else [f"--url={server.url}", flag]
    with pytest.raises(UserError, match=words) as error:
        bench.run(parse(argv, VERB))
    assert "\n" not in str(error.value) and not server.asked
    with pytest.raises(UserError, match="give e2e"):
        bench.checked(Config(slo="ttft=1", stream=False))


def test_a_server_that_goes_away(serve):
    """Its requests fail, and are counted as that."""
    async def script(exchange):
        if len(exchange.server.asked) == 6:
            exchange.server._stop.set()
        await exchange.tokens(0.0 if len(exchange.server.asked) < 6 else 60.0)

    load, rows = measured(serve(script), rate=50.0, requests=30)
    n = load["counts"]
    assert n["finished"] >= 4 and n["failed"] >= 20 and n["sent"] == 30
    assert set(n["reasons"]) <= {"closed", "connect"} and measure.counts(rows)["sent"] == 30
