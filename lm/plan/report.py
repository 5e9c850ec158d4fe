"""A plan in the terminal: what was asked, the ranked choices, why, and what was rejected."""

import math
import re
import textwrap

from lm.plan.amounts import GIB, band, count, days, money, percent, said, seconds, short, three

WIDTH = 100
SHOWN = 10      # choices in the table
COMPARED = 5    # of those, set against the best in words


def table(plan: dict) -> str:
    """Returns the plan, as plan.json holds it, as plain text of at most 100 columns."""
    serve = plan.get("kind") == "serve"
    choices = plan["choices"][:SHOWN]
    lines = [part for line in header(plan) for part in _wrapped(line)] + [""]
    if choices:
        lines += _columns(_SERVE if serve else _TRAIN, choices, serving if serve else settings)
        if len(plan["choices"]) > len(choices):
            lines.append(f"and {len(plan['choices']) - len(choices)} more in plan.json")
        lines.append("")
    else:
        lines += ["nothing that was tried fits what was asked", ""]
    for title, said_ in (("why", reasons(plan)), ("rejected", _rejected(plan)),
                         ("warnings", warnings(plan)), ("advice", plan.get("advice") or [])):
        if said_:
            lines += [f"{title}:", *(part for line in said_ for part in _wrapped(line, "  ")), ""]
    return "\n".join(lines).rstrip() + "\n"


def header(plan: dict) -> list[str]:
    """Returns in two lines what is planned and what was asked."""
    model, tokens = plan.get("model") or {}, tokens_of(plan)
    about = []
    if model.get("parameters"):
        active = model.get("active") or model["parameters"]
        about.append(f"{count(model['parameters'])} parameters"
                     + (f" ({count(active)} active)" if active != model["parameters"] else ""))
    if tokens:
        about.append(f"{count(tokens)} tokens")
    for name, flops in list((model.get("flops_per_token") or {}).items())[:1]:
        about.append((f"{count(flops * tokens)} FLOPs, " if tokens else "")
                     + f"{short(flops / 1e9)} GFLOP a token ({name})")
    first = f"{plan.get('source', 'plan')}: " + ", ".join(about) if about else plan.get("source")
    return [first or "plan", "asked: " + asked(plan)]


def tokens_of(plan: dict) -> float:
    """Returns the tokens to train on; 0 if there are none, as to serve."""
    return (plan.get("training") or {}).get("tokens") or plan.get("question", {}).get("tokens") or 0


def asked(plan: dict) -> str:
    """Returns the question in words."""
    q = {name: value for name, value in plan.get("question", {}).items() if value}
    words = [" ".join(str(part) for part in (q.pop("chips", ""), q.pop("chip", ""), q.pop(
        "slice", "")) if part) or "any chip"]
    for name, value in q.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        form = _ASKED.get(name)
        if form and (is_number or "{}" in form[0]):
            words.append(form[0].format(form[1](value) if is_number else value))
        else:
            words.append(f"{name.replace('_', ' ')} {said(name, value)}")
    return ", ".join(words)


_ASKED = {
    "tokens": ("{} tokens", count), "days": ("at most {} days", short),
    "budget": ("at most {}", money), "rate": ("{} requests/s", short),
    "prompt_tokens": ("prompts of {} tokens", count), "ttft": ("TTFT at most {}", seconds),
    "output_tokens": ("outputs of {} tokens", count), "tpot": ("TPOT at most {}", seconds)}


def chips(x: dict) -> str:
    """Returns the chips of a choice or of what was rejected, as `64 v5p 4x4x4`."""
    shape, slices = x.get("slice") or "", x.get("slices") or 1
    if slices > 1 and "(" not in shape:
        shape = f"{slices} x {shape}"
    return " ".join(str(part) for part in (x.get("chips", ""), x.get("chip", ""), shape) if part)


def mesh(x: dict) -> str:
    """Returns the axes with more than one device, as `lm.mesh.devices.words`, which needs jax."""
    shape = x.get("mesh")
    if shape is None:  # of a serving plan
        shape = {axis: x.get(axis) or 1 for axis in ("stage", "tensor")}
    if isinstance(shape, str):
        return shape
    return " ".join(f"{axis}={n}" for axis, n in shape.items() if n != 1) or "one device"


def settings(x: dict) -> str:
    """Returns mesh, microbatches, remat and whatever else a choice sets, in words."""
    words = [mesh(x)]
    for name, value in (x.get("overrides") or {}).items():
        if name in _SETTINGS:
            words.append(_SETTINGS[name](value))
        elif not name.startswith("mesh."):
            words.append(f"{name.rsplit('.', 1)[-1]} {said(name, value)}")
    words += ["does not fit"] * (x.get("fits") is False)
    return ", ".join(word for word in words if word)


_SETTINGS = {
    "model.remat": lambda x: "no remat" if x == "none" else f"remat {x}",
    "model.precision": str,
    "train.accumulate": lambda x: f"{x} microbatch{'es' * (x != 1)}",
    "train.offload": lambda x: "" if x == "none" else f"{x} in host memory"}


def serving(x: dict) -> str:
    """Returns the layout of a serving choice in words."""
    words = [mesh(x)] + [f"{x[name]} {word}" for name, word in (
        ("weights", "weights"), ("cache", "cache"), ("slots", "slots")) if x.get(name)]
    used = (x.get("simulated") or {}).get("utilisation")
    return ", ".join(words + [f"chunk {x['chunk']}"] * bool(x.get("chunk"))
                     + [f"{percent(used)} busy"] * (used is not None))


def price(x: dict, name: str = "price") -> str:
    """Returns the likely price, or `not known`."""
    found = x.get(name)
    return money(found.get("likely") if isinstance(found, dict) else found)


def total(x: dict) -> float:
    """Returns the bytes that a device of a choice holds."""
    return x.get("memory_total") or math.fsum((x.get("memory") or {}).values())


def _memory(x):
    limit = x.get("memory_limit")
    mark = "!" * (x.get("fits") is False)
    return f"{three(total(x) / GIB)}/{three(limit / GIB) if limit else '?'}{mark}"


def _percentiles(x, name, scale=1):
    found = (x.get("simulated") or {}).get(name)
    if not isinstance(found, dict):
        found = {"": (x.get("per_replica") or {}).get(name)}
    return "/".join("?" if v is None else short(v * scale) for v in found.values())


def _replicas(x):
    return str(x.get("replicas", "?")) + (f"+{x['spares']}" if x.get("spares") else "")


def _days(x):
    """Low-likely-high; of less than a tenth of a day the likely time alone."""
    found = x.get("days")
    short = isinstance(found, dict) and found["likely"] < 0.1
    return days(found["likely"]) if short else band(found)


_TRAIN = {
    "chips": chips, "GiB/limit": _memory, "step, s": lambda x: band(x["step_seconds"]),
    "token/s/chip": lambda x: three(x.get("tokens_per_second_per_chip")),
    "MFU": lambda x: percent(x.get("mfu")), "days": _days, "price": price}
_SERVE = {
    "chips": chips, "GiB/limit": _memory, "replicas": _replicas,
    "req/s each": lambda x: three((x.get("per_replica") or {}).get("rate_slo")),
    "TTFT, s": lambda x: _percentiles(x, "ttft"),
    "TPOT, ms": lambda x: _percentiles(x, "tpot", 1e3),
    "$/hour": lambda x: price(x, "price_per_hour"),
    "$/M tokens": lambda x: price(x, "price_per_million_tokens")}


def _columns(columns, choices, below):
    """The table: each choice on one line, how it is laid out on the next."""
    rows = [["", *columns], *([str(x.get("rank", i)), *(say(x) for say in columns.values())]
                              for i, x in enumerate(choices, 1))]
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    wide[1] = min(wide[1], WIDTH - 2 * (len(wide) - 1) - sum(wide) + wide[1])
    lines = []
    for i, row in enumerate(rows):
        row[1] = row[1] if len(row[1]) <= wide[1] else row[1][:wide[1] - 3] + "..."
        lines.append("  ".join(cell.ljust(w) if j == 1 else cell.rjust(w) for j, (cell, w) in
                               enumerate(zip(row, wide, strict=True))).rstrip()[:WIDTH])
        if i:
            lines += _wrapped(below(choices[i - 1]), " " * (wide[0] + 2))
    return lines


def reasons(plan: dict) -> list[str]:
    """Returns why the best is the best, and how each of the next differs from it."""
    best, *others = plan["choices"][:COMPARED] or [{}]
    lines = [f"1: {best['why']}"] if best.get("why") else []
    for i, x in enumerate(others, 2):
        words = _serve_difference(best, x) if plan.get("kind") == "serve" else _difference(best, x)
        lines.append(f"{x.get('rank', i)}: " + "; ".join(filter(None, [words, x.get("why")])))
    notes = {}
    for x in plan["choices"]:
        if x.get("price_note"):
            notes.setdefault((x["price_note"], x.get("price", x.get("price_per_hour")) is None),
                             set()).add(x.get("chip", "?"))
    for (note, unknown), names in notes.items():
        words = note if note.startswith("price") or not unknown else f"price not known: {note}"
        lines.append(f"{', '.join(sorted(names))}: {words}")
    if not notes and any(x.get("price", x.get("price_per_hour")) is None for x in plan["choices"]):
        lines.append("price not known where none is shown: give --price")
    return lines


def _difference(best, x):
    """How x differs from the best: what is set otherwise, and what of the step is longer."""
    words = [f"{chips(x)} instead of {chips(best)}"] * (chips(x) != chips(best))
    old = set(settings(best).split(", "))
    words += [word for word in settings(x).split(", ") if word not in old]
    ratio = x["step_seconds"]["likely"] / best["step_seconds"]["likely"]
    costs = [_ratio(ratio, "longer", "shorter", "step")]
    grown = {part: v["exposed"] - best.get("step_time", {}).get(part, {}).get("exposed", 0)
             for part, v in x.get("step_time", {}).items()}
    part = max(grown, key=grown.get, default="")
    if ratio > 1.005 and part and grown[part] > 0:
        costs[0] += f" ({part} +{seconds(grown[part])})"
    if chips(x) != chips(best) and x.get("days") and best.get("days"):
        costs.append(_ratio(x["days"]["likely"] / best["days"]["likely"], "more days",
                            "fewer days"))
    if x.get("price") and best.get("price"):
        costs.append(_ratio(x["price"]["likely"] / best["price"]["likely"], "dearer", "cheaper"))
    saved = (total(best) - total(x)) / GIB
    if abs(saved) > 0.1:
        costs.append(f"{three(abs(saved))} GiB {'less' if saved > 0 else 'more'} a device")
    return ", ".join(words) + ": " + ", ".join(filter(None, costs))


def _serve_difference(best, x):
    words = [f"{chips(x)} instead of {chips(best)}"] * (chips(x) != chips(best))
    old = set(serving(best).split(", "))
    words += [word for word in serving(x).split(", ") if word not in old and "busy" not in word]
    a, b = (y.get("price_per_million_tokens") for y in (best, x))
    return ", ".join(words) + (f": {_ratio(b / a, 'dearer', 'cheaper')}" if a and b else "")


def _ratio(ratio, more, less, what=""):
    """The step 8% longer; a factor from two on."""
    if abs(ratio - 1) < 0.005:
        return f"{what} as long" if what == "step" else ""
    if ratio >= 2:
        return f"{what} {short(ratio)} times as {_TIMES.get(more, more)}".strip()
    return f"{what} {percent(abs(ratio - 1))} {more if ratio > 1 else less}".strip()


_TIMES = {"longer": "long", "dearer": "dear", "more days": "many days"}


def rejected_by_kind(plan: dict) -> dict[str, tuple[int, list[dict]]]:
    """Returns for each kind how many layouts were rejected and those listed, nearest miss first."""
    listed = {}
    for x in plan.get("rejected") or []:
        listed.setdefault(x.get("kind", "other"), []).append(x)
    counts = {kind: len(found) for kind, found in listed.items()} | (
        plan.get("rejected_count") or {})
    return {kind: (n, sorted(listed.get(kind, []), key=_miss))
            for kind, n in sorted(counts.items(), key=lambda item: -item[1]) if n}


def _miss(x):
    """By what factor it misses: `needs 34 GiB of 16 GiB` misses by 34 / 16."""
    found = re.search(r"([\d.,]*\d)\s*\S*\s+of\s+\$?([\d.,]*\d)", x.get("reason", ""))
    need, limit = (float(n.replace(",", "")) for n in found.groups()) if found else (math.inf, 1)
    return max(need, limit) / min(need, limit) if need and limit else math.inf


def _rejected(plan):
    lines = []
    for kind, (n, listed) in rejected_by_kind(plan).items():
        line = f"{n:,} for {kind}"
        if listed:
            near = listed[0]
            word = "nearest" if math.isfinite(_miss(near)) else "as"
            line += f"; {word}: {chips(near)}, {settings(near)}: {near.get('reason', '')}"
        lines.append(line)
    return lines


def warnings(plan: dict) -> list[str]:
    """Returns what the plan, its best choice and the compiler warn of."""
    best = plan["choices"][0] if plan["choices"] else {}
    lines = [*(plan.get("warnings") or []), *(best.get("warnings") or []),
             *((plan.get("training") or {}).get("notes") or [])]
    if best.get("fits") is False:
        lines.append(f"the best does not fit: a device needs {three(total(best) / GIB)} GiB of "
                     f"{three(best['memory_limit'] / GIB)} GiB")
    if (plan.get("compiled") or {}).get("fits") is False:
        lines.append("the compiler says that the best does not fit")
    return lines


def _wrapped(line, pad=""):
    lines = textwrap.wrap(line, WIDTH, initial_indent=pad, subsequent_indent=pad + "  ")
    return lines or [pad.rstrip()]
