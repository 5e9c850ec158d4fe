"""The table says what the numbers say, within its columns."""

import asyncio
import io

import numpy as np
import pytest

from lm.load import measure, report
from lm.load.answer import FINISHED, REJECTED, UNFINISHED, Row
from lm.load.config import Config
from lm.load.picture import draw

pytestmark = pytest.mark.usefixtures("few_draws")


@pytest.mark.parametrize("x,said", [
    (0, "0 s"), (1.5e-6, "1.50 µs"), (12.3e-6, "12.3 µs"), (999.6e-6, "1.00 ms"),
    (0.0123, "12.3 ms"),
    (0.9999, "1.00 s"), (1.234, "1.23 s"), (123.4, "123 s"), (12345, "12,345 s"), (None, "-")])
def test_seconds(x, said):
    assert report.seconds(x) == said


def outcome(n=200, slow=1.0, lost=0, client=0.1, rate=5.0, **asked):
    """What `bench` returns of n requests, some of which were never answered."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        due = i / rate
        row = Row(due, 10, 4, status=FINISHED, started=due, sent=due, prompt_tokens=10,
                  output_tokens=4, cached_tokens=5)
        row.times.extend(due + slow * x for x in np.sort(rng.uniform(0.1, 1.0, 4)))
        row.end = row.times[-1]
        if i < lost:
            row.status, row.end = UNFINISHED, due + 60
            row.times = row.times[:0]
        elif i == lost:
            row.status, row.why, row.words = REJECTED, "429", "the queue is full"
        rows.append(row)
    c = Config(slo="ttft=0.5", **asked)
    load = measure.summary(rows, measure.limits(c.slo), 0.0, rate)
    load |= dict(client=client, concurrency=c.concurrency, server={
        "prefix_cache_queries": 2000.0, "prefix_cache_hits": 500.0, "num_preemptions": 3.0})
    out = dict(url="http://h", model="m", asked=vars(c), loads=[load], notes=["one"], when=0.0,
               interrupted=False)
    return out, [rows]


def test_one_load():
    out, _ = outcome()
    text = report.table(out)
    for words in ("200 sent, 199 finished, 1 rejected (1 × 429), 0 failed, 0 unfinished",
                  "429: the queue is full", "goodput", "ttft ≤ 500 ms", "25.0 % of 2,000 prompt",
                  "3 preemptions", "note: one", "open loop: poisson, 5/s", "were not sent again"):
        assert words in text, text
    assert max(map(len, text.splitlines())) <= report.WIDTH
    ttft = out["loads"][0]["latency"]["ttft"]
    line = next(line for line in text.splitlines() if line.startswith("  TTFT  "))
    values = [report.seconds(ttft[c]["value"]) for c in ("p50", "p90", "p95", "p99", "mean", "max")]
    assert " ".join(line.split()[1:]) == " ".join(values)
    assert "≥" not in text and "warning: 1 requests were rejected" in text


def test_what_was_given_up_is_marked():
    text = report.table(outcome(lost=20)[0])
    assert "20 unfinished" in text and "≥ 60.0 s" in text and "still under way" in text


def test_a_closed_loop_says_what_it_hides():
    text = report.table(outcome(concurrency=4)[0])
    assert "closed loop of 4" in text and "is not seen" in text and "open loop" not in text


def test_a_sweep():
    out, _ = outcome()
    out["loads"].append(outcome(slow=3.0, rate=10.0)[0]["loads"][0])
    out["asked"] |= {"rates": "5:10"}
    text = report.table(out)
    assert "90 % of the requests keep the limits at up to 5/s" in text or "none of these" in text
    assert len([line for line in text.splitlines() if line.lstrip()[:2] in ("5 ", "10")]) == 2
    assert max(map(len, text.splitlines())) <= report.WIDTH


def test_warnings():
    assert not [w for w in report.warnings(outcome()[0]) if "client" in w]
    out, _ = outcome(client=0.97)
    assert any("97 % of a core" in w for w in report.warnings(out))
    out, _ = outcome()
    load = out["loads"][0]
    load["lag"]["p99"] = 0.2
    load["tokens"] |= dict(short=7, prompt=12.0, counted=False)
    load["server"]["compiles_after_ready"] = 1
    text = "\n".join(report.warnings(out))
    for words in ("the client itself was late (200 ms at p99)", "7 of 199 outputs ended before",
                  "had 12.0 tokens on average, not the 10.0", "no usage", "compiled"):
        assert words in text
    out["loads"][0] = measure.summary([], {})
    assert report.warnings(out) == ["nothing was sent that counts"]
    assert "nothing was sent" in report.table(out)


def test_the_line_while_it_runs():
    tally = report.Tally(1000, 60.0)
    assert tally.line(0.2) == "0/60 s  0 of 1,000 sent  0 under way  0 finished"
    row = Row(1.0, 1, 1, status=FINISHED)
    row.times.append(1.25)
    tally.begun = 3
    tally.end(row)
    tally.end(Row(1.0, 1, 1, status=REJECTED))
    assert tally.line(7) == ("7/60 s  3 of 1,000 sent  1 under way  1 finished  1 rejected  "
                             "TTFT p50 250 ms")
    file = io.StringIO()

    async def shown():
        task = asyncio.create_task(tally.show(lambda: 7.0, file))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    asyncio.run(shown())
    assert tally.line(7) in file.getvalue() and file.getvalue().endswith("\r\033[K")


@pytest.mark.parametrize("lost,times", [(3, 1), (199, 1), (199, 2)])
def test_pictures_of_every_outcome(lost, times, tmp_path):
    out, rows = outcome(lost=lost)
    path = draw(dict(out, loads=out["loads"] * times), rows * times, tmp_path / "o.png")
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000
