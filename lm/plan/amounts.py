"""Quantities as a person would say them: three digits, and a unit that fits their size."""

import math

GIB = 2**30
_LARGE = ((1e12, "T"), (1e9, "B"), (1e6, "M"))
_BYTES = ((2**40, "TiB"), (GIB, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
NONE = "not known"
COMPILED = ("arguments", "outputs", "temporaries", "code", "alias", "peak", "limit")  # bytes


def three(x) -> str:
    """Returns a number with three digits; powers of ten beyond a million and below 0.001."""
    if x is None or isinstance(x, float) and math.isnan(x):
        return NONE
    if x == 0:
        return "0"
    if math.isinf(x):
        return "without end" if x > 0 else "-inf"
    power = math.floor(math.log10(abs(x)))
    rounded = round(x, 2 - power)
    if power >= 6 or power < -3:
        return f"{x:.2e}".replace("e+0", "e").replace("e+", "e").replace("e-0", "e-")
    power = math.floor(math.log10(abs(rounded)))  # 9.999 has become 10.0
    return f"{rounded:,.{max(0, 2 - power)}f}"


def short(x) -> str:
    """Returns a number with at most three digits: without zeros that end a fraction."""
    text = three(x)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def count(x) -> str:
    """Returns a number of parameters, tokens, steps: `8.03B`, `4.19M`, `12,288`, `4.8e22`."""
    if x is None or not math.isfinite(x) or abs(x) >= 1e15:
        return three(x)
    if abs(x) < 1e6:
        return f"{x:,.0f}" if float(x).is_integer() else short(x)
    for size, letter in _LARGE:
        if abs(x) >= size * 0.9995:
            return short(x / size) + letter
    return f"{x:,.0f}"


def size(x) -> str:
    """Returns bytes in GiB, or in the unit that fits."""
    if x is None or not math.isfinite(x):
        return three(x)
    for unit, word in _BYTES:
        if abs(x) >= unit * 0.9995:
            return f"{three(x / unit)} {word}"
    return f"{short(x)} B"


def seconds(x) -> str:
    """Returns a time: from µs to days."""
    if x is None or not math.isfinite(x):
        return three(x)
    for unit, word in ((86400, "days"), (3600, "hours"), (60, "min"), (1, "s"), (1e-3, "ms")):
        # People say 90 s and 36 hours.
        if abs(x) >= unit * (2 if unit > 1 else 0.9995):
            return f"{three(x / unit)} {word}"
    return f"{three(x * 1e6)} µs" if x else "0 s"


def days(x) -> str:
    """Returns days, hours where it is less than two."""
    return three(x) if x is None or not math.isfinite(x) else seconds(86400 * x)


def money(x) -> str:
    """Returns dollars: `$0.42`, `$1,230`, `$401,000`, `$1.23M`."""
    if x is None or not math.isfinite(x):
        return three(x)
    if abs(x) >= 999.5e3:
        return f"${count(x)}"
    if 0 < abs(x) < 0.1:
        return f"${three(x)}"
    return f"${three(x)}" if abs(x) >= 999.5 else f"${x:,.2f}" if abs(x) < 99.5 else f"${x:,.0f}"


def percent(x) -> str:
    """Returns a share as whole percents, with one more digit below ten."""
    if x is None or not math.isfinite(x):
        return three(x)
    return f"{100 * x:.1f}%" if abs(x) < 0.0995 and x else f"{100 * x:.0f}%"


def band(x, say=three) -> str:
    """Returns low-likely-high, each as `say` says it; a plain number as it is."""
    if isinstance(x, dict):
        return "-".join(say(x.get(part)) for part in ("low", "likely", "high"))
    return say(x)


def said(name: str, value) -> str:
    """Returns a value of a plan as text, in the unit that its name tells."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        if {"low", "likely", "high"} <= value.keys():
            return " - ".join(said(name, value[part]) for part in ("low", "likely", "high"))
        return ", ".join(f"{key}: {said(f'{name} {key}', inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(said(name, inner) for inner in value)
    if not isinstance(value, int | float):
        return str(value)
    for words, say in _BY_NAME:
        if any(word in name.lower() for word in words):
            return say(value)
    return count(value) if isinstance(value, int) else three(value)


# The first whose words are part of the name.
_BY_NAME = (
    (("bandwidth",), lambda x: f"{size(x)}/s"),
    (("penalty",), lambda x: f"{short(x)} nats/token"),
    (("per_second", "per_parameter"), three),
    (("price", "budget", "cost"), money),
    (("bytes", "memory", *(f"compiled {part}" for part in COMPILED)), size),
    (("second", "ttft", "tpot", "mtbf", "interval"), seconds),
    (("days",), days),
    (("goodput", "share", "mfu", "hfu", "kv_use", "utilisation"), percent),
    (("tokens", "parameters", "flops", "steps", "epochs", "batch"), count),
)
