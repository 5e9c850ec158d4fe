"""`lm bench`: an open-loop load test of a server, its table, its JSON and its picture.

One process, which takes 10 to 20 µs of a core for each event of a stream (httpx: 70); 20,000 events
a second were reached beside a server on two busy cores. It says when it was itself too late.
"""

import asyncio
import dataclasses
import gc
import math
import os
import pathlib
import sys
import time

import numpy as np

from lm.base.errors import UserError
from lm.base.records import write_json
from lm.load import drive, measure, report
from lm.load.answer import Row
from lm.load.config import Config
from lm.load.http import Client, url
from lm.load.picture import draw
from lm.load.prompts import cut, prompts
from lm.load.reply import Broken
from lm.load.server import extra, look, since
from lm.load.workload import Load, loads

try:
    import resource
except ImportError:     # of POSIX alone
    resource = None

KEY = "LM_API_KEY"
FIELDS = [field.name for field in dataclasses.fields(Row)
          if field.name not in ("times", "request")]


def run(parsed) -> int:
    """Tests the server; returns 0, 1 if no request finished, 130 if the test was interrupted."""
    c = parsed.flags
    slo, plan = checked(c), loads(c)
    out, rows = asyncio.run(bench(c, plan, slo))
    print(report.table(out), end="")
    if c.picture:
        _write(c.picture, lambda path: draw(out, rows, path))
    if c.out:
        for load, own in zip(out["loads"], rows, strict=True):
            if c.rows:
                load["rows"] = [_kept(row) for row in own]
        _write(c.out, lambda path: write_json(path, _finite(out)))
    if out["interrupted"]:
        return 130
    return 0 if any(load["counts"]["finished"] for load in out["loads"]) else 1


def checked(c: Config) -> dict[str, float]:
    """Returns the limits of --slo; refuses what would be found wrong only after the test."""
    slo = measure.limits(c.slo)
    if not c.stream and {"ttft", "tpot"} & slo.keys():
        raise UserError("slo: without --stream there are no ttft and tpot; give e2e")
    extra(c.body)
    if c.rows and not c.out:
        raise UserError("--rows are kept in the JSON; give --out")
    for name in ("out", "picture"):
        if getattr(c, name):
            path = pathlib.Path(getattr(c, name)).expanduser()
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise _unwritten(path, error) from None
            if path.is_dir() or not os.access(path.parent, os.W_OK):
                raise UserError(f"cannot write {path}; give another --{name}")
    if c.picture and pathlib.Path(c.picture).suffix.lower() != ".png":
        raise UserError(f"picture={c.picture}: it is a PNG; give a name that ends in .png")
    return slo


def _unwritten(path, error):
    return UserError(f"cannot write {error.filename or path}: {error.strerror or error}; give "
                     "another name")


def _write(text, write):
    path = pathlib.Path(text).expanduser()
    try:
        write(path)
    except OSError as error:
        raise _unwritten(path, error) from None
    print(f"\n{path}")


async def bench(c: Config, plan: list[Load],
                slo: dict[str, float]) -> tuple[dict, list[list[Row]]]:
    """Returns all that was measured, which is the JSON of --out, and the rows of each load.

    Cancelled while a load is under way, it returns what there is.
    """
    key = c.api_key or os.environ.get(KEY, "")
    if not key.isascii() or not key.isprintable():
        raise UserError("the API key has characters that no key has")
    client = Client(url(c.url), {"Authorization": f"Bearer {key}"} if key else {})
    server = await look(client, c)
    _open_files()
    whole, done, rows = True, [], []
    notes = server.notes
    try:
        for load in plan:
            try:
                own = await _rows(server, load)
            except (UserError, asyncio.CancelledError) as error:
                if not done:
                    raise
                # What was measured at the rates before is not lost.
                whole = isinstance(error, UserError)
                notes.append(f"stopped before {load.rate:.4g}/s: {error}" if whole else
                             f"interrupted before {load.rate:.4g}/s")
                if not whole:
                    asyncio.current_task().uncancel()
                break
            notes += load.notes
            rows.append(own)
            whole, summary = await _one(server, load, own, slo)
            done.append(summary)
            if not whole:
                break
    finally:
        client.close()
    asked = {name: value for name, value in dataclasses.asdict(c).items() if name != "api_key"}
    return dict(url=client.to.text, model=server.model, asked=asked, when=time.time(),
                interrupted=not whole, notes=list(dict.fromkeys(notes)), loads=done), rows


async def _rows(server, load):
    """The rows of a load with their requests, made before its clock starts."""
    c = server.config
    prompt, output, short = cut(server, load.prompt, load.output, c.shared_prefix)
    if short:
        load.notes.append(f"{short:,} of {len(prompt):,} requests were too long for the server's "
                          f"context of {server.context:,} tokens and are made shorter")
    try:
        texts = await prompts(server, prompt, c.shared_prefix, np.random.default_rng())
    except Broken as broken:
        raise UserError(f"{server.client.to.text} no longer says how many tokens a text has: "
                        f"{broken}") from None
    return [Row(float(due), int(i) + c.shared_prefix, int(o), server.request(text, int(o)))
            for due, i, o, text in zip(load.due, prompt, output, texts, strict=True)]


async def _one(server, load, rows, slo):
    """Runs a load; whether to its end, and its summary."""
    c = server.config
    tally = report.Tally(len(rows), rows[-1].due)
    before = await server.counters()
    gc.collect()
    gc.freeze()     # what was made so far is not looked through again while time is measured
    start, used = time.monotonic(), time.process_time()

    def clock():
        return time.monotonic() - start

    async def send(row):
        tally.begun += 1
        try:
            await server.ask(row, row.request, clock, c.timeout)
        finally:
            tally.end(row)

    shown = asyncio.create_task(tally.show(clock, sys.stderr)) if sys.stderr.isatty() else None
    try:
        if load.concurrency:
            whole = await drive.closed_loop(rows, send, clock, load.concurrency)
        else:
            whole = await drive.open_loop(rows, send, clock, c.drain)
    finally:
        gc.unfreeze()
        if shown:
            shown.cancel()
            await asyncio.gather(shown, return_exceptions=True)
    share = (time.process_time() - used) / max(1e-9, clock())
    out = measure.summary(rows, slo, c.warmup, load.rate, c.seed)
    return whole, out | dict(client=share, concurrency=load.concurrency,
                             server=since(before, await server.counters()))


def _open_files():
    """As many connections at a time as the system lets this process have."""
    if resource:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        except (OSError, ValueError):   # without a limit, or with one that may not be taken
            return


def _kept(row):
    fields = {name: getattr(row, name) for name in FIELDS}
    return fields | {"times": [round(t, 6) for t in row.times]}


def _finite(tree):
    """The tree with null for what JSON has no number for."""
    if isinstance(tree, dict):
        return {name: _finite(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
