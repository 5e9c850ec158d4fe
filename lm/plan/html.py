"""A plan as one HTML file that needs nothing beside it: pictures, tables, and formulas.

Whatever is shown is read from the dict of plan.json.
"""

import math

from lm.plan import pictures
from lm.plan.amounts import GIB, band, count, days, money, percent, said, seconds, size, three
from lm.plan.markup import Html, anchor, fold, grid, join, tag, text
from lm.plan.report import (
    chips,
    header,
    mesh,
    price,
    reasons,
    rejected_by_kind,
    serving,
    settings,
    total,
    warnings,
)
from lm.plan.style import STYLE


def page(plan: dict) -> str:
    """Returns the HTML page of a plan, of training or of serving."""
    serve, choices = plan.get("kind") == "serve", plan["choices"]
    first, asked = header(plan)
    title = f"Plan: {plan.get('source') or first}"
    sections = [_warnings(plan)]
    if choices:
        sections += [_serve_choices(plan) if serve else _choices(plan), _why(plan),
                     _memory(plan), *(_serving(plan) if serve else [_step(plan), _price(plan)])]
    else:
        sections.append(tag("p", "Nothing that was tried fits what was asked."))
    sections += [_rejected(plan), _training(plan), _compiled(plan),
                 *(_rest(plan, name) for name in ("measured", "calibration")), _figures(plan)]
    body = tag("main", tag("h1", title), tag("p", first), tag("p", asked), *filter(None, sections),
               tag("footer", " · ".join(filter(None, (plan.get("made"), plan.get("command"))))))
    return join((Html("<!doctype html>\n"), tag(
        "html", tag("head", tag("meta", charset="utf-8"), tag(
            "meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("title", title), tag("style", Html(STYLE))), tag("body", body), lang="en"))) + "\n"


def _section(title, *inside, name=None):
    inside = list(filter(None, inside))
    return tag("section", tag("h2", title), *inside,
               id=name or anchor(title.lower())) if inside else ""


def _warnings(plan):
    said_ = warnings(plan)
    return tag("ul", *(tag("li", line) for line in said_), class_="warnings") if said_ else ""


def _link(plan, name, words):
    """The words, linked to the figure of that name if there is one: those are of the best."""
    known = {anchor(figure) for figure in plan.get("figures") or {}}
    return tag("a", words, href=f"#{anchor(name)}") if anchor(name) in known else text(words)


def _choices(plan):
    head = ("rank", "chips", "layout", "memory", "step", "tokens/s/chip", "MFU", "days", "price")
    rows = []
    for i, x in enumerate(plan["choices"], 1):
        limit = x.get("memory_limit")
        cells = [
            _two(f"{three(total(x) / GIB)} GiB", f"of {three(limit / GIB)}" if limit else ""),
            _ranged(x["step_seconds"], seconds), three(x.get("tokens_per_second_per_chip")),
            percent(x.get("mfu")), _ranged(x.get("days"), days),
            _ranged(x["price"], money) if x.get("price") else "price not known"]
        if i == 1:
            names = ("memory.total", "step_time", "tokens_per_second_per_chip", "mfu", "train.days",
                     "price.total")
            cells = [_link(plan, *both) for both in zip(names, cells, strict=True)]
        rows.append((x.get("rank", i), _whole(chips(x)), settings(x), *cells))
    return _section("Choices", grid(head, rows, 3), tag(
        "p", "Small: from the low to the high prediction.", class_="note"))


def _two(first, second):
    """A cell with a second line."""
    return join((first, tag("small", second)))


def _ranged(x, say):
    if not isinstance(x, dict):
        return say(x)
    return _two(say(x["likely"]), f"{say(x['low'])} to {say(x['high'])}".replace(" days to", " to"))


def _whole(words):
    """What is not broken into lines."""
    return tag("span", words, class_="whole")


def _serve_choices(plan):
    head = ("rank", "chips", "layout", "memory", "replicas", "req/s each", "TTFT",
            "TPOT", "cache in use", "$/hour", "$/M tokens")
    rows = []
    for i, x in enumerate(plan["choices"], 1):
        each, found = x.get("per_replica") or {}, x.get("simulated") or {}
        rows.append((
            x.get("rank", i), _whole(chips(x)), serving(x),
            _two(size(total(x)), f"of {size(x['memory_limit'])}" if x.get("memory_limit") else ""),
            _two(x.get("replicas", "?"), f"and {x.get('spares') or 0} spare"),
            _two(three(each.get("rate_slo")), f"at most {three(each.get('rate_max'))}"),
            *(_percentiles(found.get(name, each.get(name))) for name in ("ttft", "tpot")),
            percent(found.get("kv_use")), price(x, "price_per_hour"),
            price(x, "price_per_million_tokens")))
    return _section("Choices", grid(head, rows, 3))


def _percentiles(x):
    if not isinstance(x, dict):
        return seconds(x)
    return join(tag("small", f"{name} {seconds(value)}") for name, value in x.items())


def _why(plan):
    lines = [*reasons(plan), *(plan.get("advice") or [])]
    return _section("Why", tag("ul", *(tag("li", line) for line in lines)) if lines else "")


def _numbers(head, rows):
    return fold("the numbers", grid(head, rows))


def _memory(plan):
    choices = [x for x in plan["choices"] if x.get("memory")]
    if not choices:
        return ""
    parts = list(dict.fromkeys(part for x in choices for part in x["memory"]))
    rows = [(pictures.label(x), *(_link(plan, f"memory.{part}", size(x["memory"].get(part, 0)))
                                  if x is plan["choices"][0] else size(x["memory"].get(part, 0))
                                  for part in parts),
             size(total(x)), size(x.get("memory_limit")), size(x.get("host_memory")))
            for x in choices]
    return _section("Memory of a device", pictures.memory(choices), _numbers(
        ("choice", *parts, "total", "limit", "on the host"), rows), name="memory")


def _step(plan):
    choices = [x for x in plan["choices"] if x.get("step_time")]
    if not choices:
        return ""
    parts = list(dict.fromkeys(part for x in choices for part in x["step_time"]))
    rows = []
    for x in choices:
        cells = []
        for part in parts:
            v = x["step_time"].get(part, {"seconds": 0, "exposed": 0})
            words = seconds(v["exposed"])
            if v["seconds"] > v["exposed"] * (1 + 1e-9):
                words += f" of {seconds(v['seconds'])}"
            first = x is plan["choices"][0]
            cells.append(_link(plan, f"step_time.{part}", words) if first else words)
        rows.append((pictures.label(x), *cells, f"{band(x['step_seconds'])} s"))
    return _section("Time of a step", pictures.step_time(choices), fold(
        "the numbers", tag("p", "Of a part that is partly hidden: what it adds to the step, of "
                           "what it takes by itself.", class_="note"),
        grid(("choice", *parts, "step"), rows)), name="step-time")


def _price(plan):
    choices = plan["choices"]
    unknown = [x for x in choices if not x.get("price")]
    front = [choices[i] for i in plan.get("pareto") or [] if choices[i].get("price")]
    listed = tag("ul", *(tag("li", f"{pictures.label(x)}: {band(x.get('days'))} days, "
                             f"{x.get('price_note') or 'price not known'}") for x in unknown))
    return _section(
        "Price against days", pictures.price_days(choices, plan.get("pareto") or []),
        tag("p", "No other is both cheaper and sooner done: " + "; ".join(
            f"{pictures.label(x)} ({days(x['days']['likely'])}, {money(x['price']['likely'])})"
            for x in front)) if front else "",
        join((tag("p", "Price not known:"), listed)) if unknown else "", name="price-days")


def _serving(plan):
    """The sections of a serving plan: replicas, latencies of the best, prices."""
    choices, q = plan["choices"], plan.get("question") or {}
    limits = {what: q.get(what) if isinstance(q.get(what), int | float) else None
              for what in ("ttft", "tpot")}
    priced = pictures.price_per_token(choices)
    unknown = [x for x in choices if not x.get("price_per_million_tokens")]
    rate = q.get("rate") if isinstance(q.get("rate"), int | float) else 0
    yield _section("Replicas", pictures.replicas(choices, rate))
    yield _section("Latency of the best", *(pictures.latency(choices[0], what, limit)
                                            for what, limit in limits.items()))
    yield _section("Price", priced, tag("p", "Price not known: " + "; ".join(
        map(pictures.label, unknown))) if unknown else "")


def _rejected(plan):
    folds = []
    for kind, (n, listed) in rejected_by_kind(plan).items():
        rows = [(chips(x), mesh(x), settings({**x, "mesh": ""}), x.get("reason", ""))
                for x in listed]
        more = f"{n:,} for {kind}" + (f", {len(rows):,} listed" if 0 < len(rows) < n else "")
        if rows:
            more += f"; first: {chips(listed[0])}, {mesh(listed[0])}: {rows[0][-1]}"
        folds.append(fold(more, grid(("chips", "mesh", "settings", "reason"), rows, 4)
                          if rows else tag("p", "None is listed.")))
    return _section("Rejected", *folds)


def _training(plan):
    training = plan.get("training") or {}
    best = plan["choices"][0] if plan["choices"] else {}
    facts = {name: value for name, value in training.items() if name not in ("laws", "notes")}
    facts |= {name: best[name] for name in (
        "goodput", "mtbf", "checkpoint_seconds", "checkpoint_every_steps", "checkpoint_interval",
        "checkpoint_bytes", "evaluate_seconds", "data_bandwidth") if best.get(name) is not None}
    if plan.get("kind") == "serve" or not training and len(facts) < 2:
        return ""
    rows = [(name.replace("_", " "), _link(plan, f"train.{name}", said(name, value)))
            for name, value in facts.items() if value is not None and value != {}]
    laws = [(x["law"], three(x.get("lr")), count(x.get("batch_tokens")), x.get("valid", ""),
             x.get("source", "")) for x in training.get("laws") or []]
    return _section(
        "Training", grid(("", "for the best choice"), rows), *(
            join((tag("h3", title), drawn)) for title, drawn in (
                ("Learning rate by law", pictures.law(training, "lr")),
                ("Batch by law", pictures.law(training, "batch_tokens"))) if drawn), _numbers(
            ("law", "learning rate", "batch, tokens", "fitted on", "source"), laws) if laws else "")


def _compiled(plan):
    found = plan.get("compiled")
    if not found or not plan["choices"]:
        return ""
    has_bars = any(isinstance(found.get(name), int | float) for name in
                   ("peak", "arguments", "temporaries"))
    return _section("Compiled", pictures.compiled(plan["choices"][0], found) if has_bars else "",
                    _anything("compiled", found), name="compiled-check")


def _rest(plan, name):
    return _section(name.capitalize(), _anything(name, plan[name])) if plan.get(name) else ""


def _anything(name, value):
    """A value of any shape: dicts and lists of dicts as tables, the rest as it is said."""
    if isinstance(value, dict) and any(isinstance(v, dict | list) for v in value.values()) or (
            isinstance(value, dict) and len(value) > 3):
        return grid(("", ""), [(key.replace("_", " "), _anything(f"{name} {key}", v))
                               for key, v in value.items() if v not in ([], {}, "", None)], 2)
    if isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
        head = list(dict.fromkeys(key for v in value for key in v))
        return grid([key.replace("_", " ") for key in head],
                    [[_anything(key, v[key]) if key in v else "" for key in head] for v in value])
    if isinstance(value, list) and any(isinstance(v, str) for v in value):
        return tag("ul", *(tag("li", str(v)) for v in value))
    return text(said(name, value))


def _figures(plan):
    """Every figure with its formula, values and source, each the target of a link."""
    folds = []
    for name, x in (plan.get("figures") or {}).items():
        value = x.get("value")
        words = f"{value:.6g}" if isinstance(value, float) and math.isfinite(value) else (
            f"{value:,}" if isinstance(value, int) else str(value))
        rows = [("formula", x.get("formula")), ("with values", x.get("values")),
                ("source", x.get("source"))]
        inside = [(key, tag("code", v) if key != "source" else v) for key, v in rows if v]
        if x.get("inputs"):
            inside.append(("from", join((_link(plan, i, i) for i in x["inputs"]), ", ")))
        folds.append(fold(join((tag("b", name), f" = {words} {x.get('unit') or ''}")), tag(
            "dl", *(join((tag("dt", key), tag("dd", v))) for key, v in inside), ""),
            id=anchor(name)))
    note = tag("p", "Of the best choice. ", tag("code", "lm plan --explain NAME"),
               " prints the same.", class_="note")
    return _section("Where the numbers are from", note, *folds, name="figures") if folds else ""
