"""What was measured, as a table of 100 columns, and the line that stands while it is measured."""

import asyncio
import collections
import textwrap
from collections.abc import Callable
from typing import TextIO

import numpy as np

from lm.load.answer import FAILED, FINISHED, REJECTED, Row
from lm.load.measure import PERCENTILES

WIDTH = 100
REFRESH = 0.5       # seconds between two states of the line
LATEST = 200        # requests whose median it shows
LATE = 0.005, 0.1   # a client that sends later than this, or this share of the TTFT, is too slow
BUSY = 0.85         # of a core, from which on the client may be what is slow
HELD = 0.9          # share of requests that keep the limits, for a rate to be one that holds
_NAMES = {"ttft": "TTFT", "tpot": "TPOT", "gap": "gaps", "e2e": "E2E"}
_COLUMNS = [*(f"p{p}" for p in PERCENTILES), "mean", "max"]


def seconds(x: float | None) -> str:
    """Returns 812 µs, 12.3 ms, 1.23 s, 123 s."""
    if x is None:
        return "-"
    for unit, word in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if abs(x) >= 0.9995 * unit:
            return f"{three(x / unit)} {word}"
    return "0 s" if x == 0 else f"{three(x * 1e6)} µs"


def three(x: float) -> str:
    """Returns a number with three digits, and all of those before the point."""
    digits = 2 if abs(x) < 9.995 else 1 if abs(x) < 99.95 else 0
    return f"{x:,.{digits}f}"


def table(out: dict) -> str:
    """Returns a whole test, as `bench` measures it, as text."""
    loads = out["loads"]
    blocks = [_head(out)]
    if len(loads) == 1:
        blocks += [_body(loads[0], out), _latency(loads[0])]
    else:
        blocks.append(_sweep(loads, bool(out["asked"]["slo"])))
    notes = [f"note: {note}" for note in out["notes"]]
    notes += [f"warning: {text}" for text in warnings(out)]
    blocks.append([part for note in notes for part in _wrapped(note, "      ")])
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _wrapped(text, indent):
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False)


def _head(out):
    c, loads = out["asked"], out["loads"]
    where = f"{out['url']}  {out['model']}  {c['endpoint']}"
    lengths = (f"lengths and times of {c['trace']}" if c["trace"] else
               f"prompts {c['prompt_tokens']}, outputs {c['output_tokens']}")
    if c["shared_prefix"]:
        lengths += f", {c['shared_prefix']:,} tokens shared by all prompts"
    if c["concurrency"]:
        how = (f"closed loop of {c['concurrency']}: a slow server is asked less, so that what its "
               "users would wait for it is not seen")
    else:
        how = "" if c["trace"] else c["arrivals"] + ", "
        given = [load["rate"] for load in loads]
        how = "open loop: " + how + (
            f"{given[0]:.4g}/s" if len(given) == 1 else f"{given[0]:.4g} to {given[-1]:.4g}/s")
    counted = f"; the first {c['warmup']:g} s are not counted" if c["warmup"] else ""
    return [where, *_wrapped(how, "  "), *_wrapped(f"{lengths}, seed {c['seed']}{counted}", "  ")]


def _body(load, out):
    n = load["counts"]
    rows = [("requests", _counted(n))]
    for kind, words in n["words"].items():
        rows.append(("", f"{kind}: {words}"))
    if "throughput" in load:
        t, k, flying = load["throughput"], load["tokens"], load["in_flight"]
        sent = f"{n['sent'] / load['sending']:.3g}/s" if load["sending"] else f"{n['sent']}"
        rows.append(("rate", f"{sent} sent in {seconds(load['sending'])}, "
                     f"{three(t['requests'])}/s finished in the {seconds(load['seconds'])} to the "
                     "last answer"))
        rows.append(("under way", f"{three(flying['mean'])} on average, {flying['max']:,} at most"))
        size = [f"{three(k[x])} {x}" for x in ("prompt", "output") if k[x] is not None]
        rows.append(("tokens", f"{three(t['output_tokens'])}/s output, {three(t['total_tokens'])}"
                     f"/s with prompts" + f"; {' + '.join(size)} a request" * bool(size)))
    if "goodput" in load:
        g = load["goodput"]
        asked = ", ".join(f"{name} ≤ {seconds(x)}" for name, x in g["limits"].items())
        rows.append(("goodput", f"{three(g['requests'])}/s, {100 * g['share']:.1f} % of those sent,"
                     f" within {asked}"))
    if load.get("server"):
        rows.append(("server", _server(load)))
    if "lag" in load:
        rows.append(("client", f"sent {seconds(load['lag']['p50'])} late at p50, "
                     f"{seconds(load['lag']['p99'])} at p99; {100 * load['client']:.0f} % of a "
                     "core"))
    return [line for name, text in rows for line in _wrapped(f"  {name:10s}{text}", " " * 12)]


def _counted(n):
    out = [f"{n['sent']:,} sent", f"{n['finished']:,} finished"]
    for status in ("rejected", "failed"):
        why = [f"{number:,} × {kind}" for kind, number in n["reasons"].items()
               if kind.isdigit() == (status == "rejected")]
        out.append(f"{n[status]:,} {status}" + f" ({', '.join(why)})" * bool(why))
    out.append(f"{n['unfinished']:,} unfinished")
    return ", ".join(out) + f"; {n['unsent']:,} not sent any more" * bool(n["unsent"])


def _server(load):
    s = load["server"]
    out = []
    asked = s.get("prefix_cache_queries", 0)
    if asked:
        out.append(f"{100 * s.get('prefix_cache_hits', 0) / asked:.1f} % of {asked:,.0f} prompt "
                   "tokens from its prefix cache")
    drafted = s.get("spec_decode_num_draft_tokens", 0)
    if drafted:
        accepted = s.get("spec_decode_num_accepted_tokens", 0)
        out.append(f"{100 * accepted / drafted:.1f} % of {drafted:,.0f} drafted tokens accepted")
    for name, words in (("num_preemptions", "preemptions"),
                        ("compiles_after_ready", "compilations")):
        if name in s:
            out.append(f"{s[name]:,.0f} {words}")
    return ", ".join(out) or "its metrics have none of the counters looked for"


def _latency(load):
    found = [(name, load["latency"][key]) for key, name in _NAMES.items()
             if load.get("latency", {}).get(key)]
    if not found:
        return []
    lines = ["  " + " " * 8 + "".join(f"{name:>14s}" for name in _COLUMNS)]
    for name, spread in found:
        each = [spread[column] for column in _COLUMNS]
        lines.append(f"  {name:8s}" + "".join(f"{_value(x):>14s}" for x in each))
        if each[0]["low"] is not None:
            lines.append(" " * 10 + "".join(f"{_ends(x):>14s}" for x in each).rstrip())
    if not any(spread["mean"]["low"] is not None for _, spread in found):
        lines += ["", "  too few requests, or too much like the one before, for intervals"]
    lines += ["", *_wrapped(
        "  TTFT and E2E are from when a request was due; TPOT is (last - first) / (tokens - 1), "
        "gaps lie between events. Under each: its 95 % interval, by a block bootstrap.",
        "  ")]
    return lines


def _value(x):
    return "≥ " * x["at_least"] + seconds(x["value"])


def _ends(x):
    """Both ends of an interval, in the unit of its middle."""
    if x["low"] is None:
        return ""
    unit = next((u for u in (1, 1e-3, 1e-6) if abs(x["value"]) >= 0.9995 * u), 1e-6)
    return f"{three(x['low'] / unit)}-{three(x['high'] / unit)}"


def _sweep(loads, slo):
    head = ["rate/s", "sent", "finished/s", "not", "output tok/s", "TTFT p50", "p99", "TPOT p50",
            "p99", "E2E p99"] + ["good"] * slo
    rows = [head]
    for load in loads:
        n, t = load["counts"], load.get("throughput", {})
        row = [f"{load['rate']:.4g}", f"{n['sent']:,}", three(t.get("requests", 0.0)),
               f"{n['sent'] - n['finished']:,}", three(t.get("output_tokens", 0.0))]
        for key, column in (("ttft", "p50"), ("ttft", "p99"), ("tpot", "p50"), ("tpot", "p99"),
                            ("e2e", "p99")):
            spread = load.get("latency", {}).get(key)
            row.append(_value(spread[column]) if spread else "-")
        if slo:
            row.append(f"{100 * load['goodput']['share']:.1f} %" if "goodput" in load else "-")
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  " + "  ".join(x.rjust(w) for x, w in zip(row, widths, strict=True))
             for row in rows]
    held = [load["rate"] for load in loads if load.get("goodput", {}).get("share", 0) >= HELD]
    if slo:
        lines += ["", f"  {100 * HELD:.0f} % of the requests keep the limits at up to "
                  f"{max(held):.4g}/s" if held else
                  f"  at none of these rates {100 * HELD:.0f} % of the requests keep the limits"]
    return lines


def warnings(out: dict) -> list[str]:
    """Returns what makes the numbers doubtful, each in a sentence."""
    found = _own(out["loads"])
    for load in out["loads"]:
        at = f"at {load['rate']:.4g}/s " if len(out["loads"]) > 1 else ""
        if "lag" not in load:
            found.append(f"{at}nothing was sent that counts")
            continue
        n, k = load["counts"], load["tokens"]
        if n["rejected"]:
            found.append(f"{at}{n['rejected']:,} requests were rejected; they were not sent again, "
                         "and no latency is theirs")
        if n["unfinished"]:
            found.append(f"{at}{n['unfinished']:,} requests were still under way when nobody waited"
                         " any longer; they count as at least that long (≥)")
        if k["short"]:
            found.append(f"{at}{k['short']:,} of {n['finished']:,} outputs ended before the length "
                         "asked for")
        if k["prompt"] is not None and abs(k["prompt"] - k["prompt_asked"]) > max(
                0.5, 0.01 * k["prompt_asked"]):
            found.append(f"{at}prompts had {three(k['prompt'])} tokens on average, not the "
                         f"{three(k['prompt_asked'])} asked for")
        if not k["counted"] and n["finished"]:
            found.append(f"{at}the server gave no usage: output tokens are counted by events")
        if load.get("server", {}).get("compiles_after_ready"):
            found.append(f"{at}the server compiled while it was under load")
    return list(dict.fromkeys(found))


def _own(loads):
    """Whether the client itself was slow, at its worst."""
    late, busy = [], []
    for load in loads:
        if "lag" not in load:
            continue
        at = f" at {load['rate']:.4g}/s" * (len(loads) > 1)
        ttft = load["latency"].get("ttft")
        if load["lag"]["p99"] > max(LATE[0], LATE[1] * ttft["p50"]["value"] if ttft else 0.0):
            late.append((load["lag"]["p99"], at))
        elif load["client"] > BUSY:
            busy.append((load["client"], at))
    said = []
    if late:
        lag, at = max(late)
        said.append(f"the client itself was late ({seconds(lag)} at p99{at}): part of the latencies"
                    " is its own; give it a core of its own, or share the rate among several")
    if busy:
        share, at = max(busy)
        said.append(f"the client used {100 * share:.0f} % of a core{at}: part of the latencies may "
                    "be its own")
    return said


class Tally:
    """What is seen of a load while it is under way."""

    def __init__(self, rows: int, until: float):
        """rows: how many there are to send. until: seconds at which the last is due, or 0."""
        self.rows, self.until = rows, until
        self.begun = 0
        self.ended: collections.Counter[str] = collections.Counter()
        self.first: collections.deque[float] = collections.deque(maxlen=LATEST)

    def end(self, row: Row) -> None:
        """Takes note of a row that has ended."""
        self.ended[row.status] += 1
        if row.times:
            self.first.append(row.times[0] - row.due)

    def line(self, now: float) -> str:
        """Returns the state of the load after `now` seconds, in one line."""
        ended = self.ended
        text = f"{now:.0f}" + f"/{self.until:.0f}" * (self.until > 0)
        text += f" s  {self.begun:,} of {self.rows:,} sent"
        text += f"  {self.begun - ended.total():,} under way  {ended[FINISHED]:,} finished"
        for status in (REJECTED, FAILED):
            text += f"  {ended[status]:,} {status}" * bool(ended[status])
        if self.first:
            text += f"  TTFT p50 {seconds(float(np.median(self.first)))}"
        return text[:WIDTH - 1]

    async def show(self, clock: Callable[[], float], file: TextIO) -> None:
        """Keeps the line up to date until it is cancelled; then clears it."""
        try:
            while True:
                file.write(f"\r\033[K{self.line(clock())}")
                file.flush()
                await asyncio.sleep(REFRESH)
        finally:
            file.write("\r\033[K")
            file.flush()
