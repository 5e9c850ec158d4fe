"""The pictures of a plan: which numbers of it go into which picture."""

import math

from lm.plan import plane, svg
from lm.plan.amounts import COMPILED, GIB, count, days, money, said, seconds, size, three
from lm.plan.report import chips, mesh, total
from lm.plan.svg import Dot, Row

SHOWN = 8  # choices in the pictures of bars


def label(x: dict) -> str:
    """Returns a choice as `1: 64 v5p 4x4x4`."""
    return f"{x.get('rank', '')}: {chips(x)}"


def memory(choices: list[dict]):
    """Returns bars of the bytes that a device holds, by category, against what it has."""
    rows = []
    for x in choices[:SHOWN]:
        limit = x.get("memory_limit")
        end = f"{three(total(x) / GIB)} of {three(limit / GIB)} GiB" if limit else size(total(x))
        rows.append(Row(label(x), {part: n / GIB for part, n in x["memory"].items()}, end,
                        limit=limit / GIB if limit else None))
    return svg.bars("memory", "Memory of a device", "One bar for each choice: bytes by category; "
                    "the dashed line is what a program has on the device.", rows, "GiB")


def step_time(choices: list[dict]):
    """Returns bars of the seconds of a step by part, and below each what is hidden of it."""
    most = max(x["step_seconds"]["high"] for x in choices[:SHOWN])
    unit, name = next(((u, n) for u, n in ((1, "s"), (1e-3, "ms")) if most >= u), (1e-6, "µs"))
    rows = []
    for x in choices[:SHOWN]:
        parts = x.get("step_time") or {}
        step = x["step_seconds"]
        rows.append(Row(
            label(x), {part: v["exposed"] / unit for part, v in parts.items()},
            seconds(step["likely"]),
            under={part: (v["seconds"] - v["exposed"]) / unit for part, v in parts.items()
                   if v["seconds"] > v["exposed"] * (1 + 1e-9)},
            band=(step["low"] / unit, step["high"] / unit)))
    return svg.bars("step-time", "Time of a step", "One bar for each choice: what each part adds "
                    "to the step; hatched below it what is hidden behind compute. The line with "
                    "two ends goes from the low to the high prediction.", rows, name,
                    "hidden behind compute")


def price_days(choices: list[dict], front: list[int]):
    """Returns price against days for the choices whose price is known; empty if there are none.

    front: the indices of those for which no other is both cheaper and sooner done.
    """
    index = [i for i, x in enumerate(choices) if x.get("price") and x.get("days")]
    if not index:
        return ""
    found = []
    for i in index:
        x = choices[i]
        d, p = x["days"], x["price"]
        found.append(plane.Point(
            d["likely"], p["likely"], label(x), x.get("chip", ""),
            f"{label(x)}, {mesh(x)}: {days(d['likely'])}, {money(p['likely'])}",
            str(x.get("rank", i + 1)), (d["low"], d["high"]), (p["low"], p["high"]),
            x.get("fits") is False))
    return plane.points("price", "Price against days", "One mark for each choice, on logarithmic "
                        "axes, with a line from its low to its high prediction; the line joins "
                        "those that no other beats in both. Hollow: does not fit.", found,
                        [index.index(i) for i in front if i in index], ("days", "price in $"))


def law(training: dict, key: str):
    """Returns what each published law says of `lr` or `batch_tokens`; empty if none does."""
    rows = [Dot(x["law"], x[key], said(key, x[key]), faint=x.get("inside") is False)
            for x in training.get("laws") or [] if x.get(key)]
    if not rows:
        return ""
    used = training.get(key)
    title = {"lr": "Learning rate", "batch_tokens": "Tokens of a batch"}[key]
    band = training.get({"lr": "lr_band", "batch_tokens": "batch_band"}[key]) or {}
    return svg.dots(key.replace("_", "-"), f"{title} by law", "One dot for each law; the shaded "
                    "range is that of the laws; the line is what the plan takes. Hollow: the law "
                    "was not fitted on trainings of this size.", rows,
                    "tokens" if key == "batch_tokens" else "",
                    (band["low"], band["high"]) if band else (),
                    (used, f"plan: {said(key, used)}") if used else None)


def compiled(best: dict, found: dict):
    """Returns the predicted memory of a device beside that of the compiled program."""
    parts = {part: found[part] / GIB for part in COMPILED[:4] if found.get(part)}
    limit = found.get("limit") or best.get("memory_limit")
    limit = limit / GIB if limit else None
    rows = [Row("predicted", {part: n / GIB for part, n in (best.get("memory") or {}).items()},
                size(total(best)), limit=limit),
            Row("compiled", parts or {"peak": (found.get("peak") or 0) / GIB},
                size(found.get("peak") or math.fsum(parts.values()) * GIB), limit=limit)]
    return svg.bars("compiled", "Memory, predicted and compiled", "The bytes of a device by "
                    "category, and below them those of the program that the compiler made; the "
                    "dashed line is what a program has on the device.", rows, "GiB")


def replicas(choices: list[dict], rate: float):
    """Returns replicas, spares included, against requests/s, a line for each choice."""
    found = {}
    for x in choices[:4]:
        each = (x.get("per_replica") or {}).get("rate_slo")
        if not each:
            continue
        spares, most = x.get("spares") or 0, 2 * rate or 4 * each
        steps = [(0.0, 1 + spares)]
        for n in range(1, min(math.ceil(most / each), 400) + 1):
            steps += [(min(n * each, most), n + spares), (min(n * each, most), n + 1 + spares)]
        found[label(x)] = steps[:-1]
    if not found:
        return ""
    return plane.curves("replicas", "Replicas against rate", "Replicas that hold the latency, with "
                        "spares, against requests per second, for the best choices.", found,
                        ("requests/s", "replicas"),
                        mark=(rate, f"{three(rate)} requests/s") if rate else None, dotted=False)


def latency(x: dict, what: str, limit: float | None):
    """Returns percentiles of `ttft` or `tpot` against requests/s of a replica; or empty.

    x: a choice; its `load` is a list of {"rate", "ttft": {"p50": ..}, "tpot": ..}, else the one
    point that was simulated is drawn.
    """
    load = x.get("load") or []
    rate = (x.get("per_replica") or {}).get("rate_slo")
    if not load and x.get("simulated") and rate:
        load = [{"rate": rate} | x["simulated"]]
    unit, name = (1, "s") if what == "ttft" else (1e-3, "ms")
    found: dict[str, list] = {}
    for point in load:
        for percentile, value in (point.get(what) or {}).items():
            if value is not None and math.isfinite(value):
                found.setdefault(percentile, []).append((point["rate"], value / unit))
    if not found:
        return ""
    words = {"ttft": "time to the first token", "tpot": "time for each further token"}[what]
    return plane.curves(what, f"{words.capitalize()} against load", f"Percentiles of the {words} "
                        "against requests per second of one replica; the dashed line is the limit "
                        "that was asked for.", found,
                        ("requests/s of one replica", f"{what.upper()}, {name}"),
                        level=(limit / unit, f"at most {seconds(limit)}") if limit else None)


def price_per_token(choices: list[dict]):
    """Returns a bar for each choice whose price per million tokens is known; or empty."""
    rows = [Row(label(x), {"price": x["price_per_million_tokens"]},
                f"{money(x['price_per_million_tokens'])}, {count(x.get('replicas', 1))} replicas")
            for x in choices[:SHOWN] if x.get("price_per_million_tokens")]
    return svg.bars("price", "Price of a million tokens", "One bar for each choice, in dollars.",
                    rows, "$") if rows else ""
