"""A test as PNG: of one load how its latencies are spread, and when; of several what rates cost."""

import pathlib

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from lm.load import measure
from lm.load.answer import FAILED, FINISHED, REJECTED, UNFINISHED, Row

_INK, _SOFT, _RULE = "#1a1a1a", "#5c5c5c", "#dddddd"
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"    # Okabe & Ito 2008
_LOST = {REJECTED: ("rejected", "x", RED), FAILED: ("failed", "s", RED),
         UNFINISHED: ("unfinished", "^", ORANGE)}


def draw(out: dict, rows: list[list[Row]], path: pathlib.Path) -> pathlib.Path:
    """Writes the picture of what `bench` measured; returns its path."""
    figure = Figure(figsize=(11, 7.4), layout="constrained")    # no pyplot, no backend for all
    panels = figure.subplots(2, 2)
    if len(out["loads"]) == 1:
        _load(panels, out["loads"][0], rows[0], out["asked"])
    else:
        _sweep(panels, out["loads"])
    for axes in panels.flat:
        axes.grid(color=_RULE, lw=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_SOFT)
        axes.tick_params(which="both", color=_SOFT, labelsize=9)
        if axes.get_yscale() == "log":
            plain = FuncFormatter(lambda y, _: f"{y:g}")
            axes.yaxis.set_major_formatter(plain)
            axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
            axes.yaxis.set_minor_formatter(plain)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8.5)
    c = out["asked"]
    how = (f"closed loop of {c['concurrency']}" if c["concurrency"] else
           c["trace"] or f"open loop, {c['arrivals']}")
    figure.suptitle(f"{out['model']}, {c['endpoint']}: {how}; prompts {c['prompt_tokens']}, "
                    f"outputs {c['output_tokens']}", x=0.01, ha="left", fontsize=11,
                    fontweight="bold", color=_INK, parse_math=False)
    figure.savefig(path, dpi=130, facecolor="white")
    return path


def _load(panels, load, rows, asked):
    sent = [row for row in rows if row.due >= asked["warmup"] and row.sent >= 0]
    found = measure.latencies(sent)
    first = "ttft" if len(found["ttft"][0]) else "e2e"
    limits = load.get("goodput", {}).get("limits", {})
    for axes, key, words in ((panels[0, 0], first, {
            "ttft": "time to the first token", "e2e": "time to the end"}[first]),
                             (panels[0, 1], "tpot", "time of each token after it")):
        _shares(axes, *found[key], limits.get(key))
        axes.set(xlabel=f"{words}, s", ylabel="share of requests", ylim=(0, 1.02))
    _times(panels[1, 0], rows, asked["warmup"])
    curve = load.get("in_flight")
    axes = panels[1, 1]
    if curve:
        axes.step(curve["times"], curve["number"], where="post", color=BLUE, lw=1.4)
    axes.set(xlabel="seconds since the start", ylabel="requests under way")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)


def _shares(axes, values, at_least, limit):
    """The share of requests that took no longer; those given up never come into it."""
    if len(values):
        ended = np.sort(values[~at_least])
        axes.step(ended, np.arange(1, len(ended) + 1) / len(values), where="post", color=BLUE,
                  lw=1.8)
        for p, dashes in ((50, (0, (1, 2))), (99, (0, (4, 2)))):
            at = float(np.percentile(values, p))
            axes.axvline(at, color=_SOFT, lw=1, ls=dashes, label=f"p{p}: {at:.3g} s")
    axes.set_xlim(left=0)
    if limit:
        axes.axvline(limit, color=RED, lw=1.2, label=f"limit: {limit:g} s")


def _times(axes, rows, warmup):
    """What each request waited, over the time at which it was due."""
    done = [row for row in rows if row.status == FINISHED]
    dot = dict(ls="none", marker="o", ms=3, mew=0, alpha=0.7)
    axes.plot([row.due for row in done], [row.end - row.due for row in done], color=ORANGE,
              label="to the end", **dot)
    timed = [row for row in done if row.times]
    axes.plot([row.due for row in timed], [row.times[0] - row.due for row in timed], color=BLUE,
              label="to the first token", **dot)
    for status, (name, mark, colour) in _LOST.items():
        lost = [row for row in rows if row.status == status]
        if lost:
            axes.plot([row.due for row in lost], [row.end - row.due for row in lost], ls="none",
                      marker=mark, ms=5, color=colour, mfc="none", label=f"{name}: {len(lost):,}")
    if warmup:
        axes.axvspan(0, warmup, color=_RULE, alpha=0.5, lw=0, label="not counted")
    axes.set(xlabel="seconds at which it was due", ylabel="seconds, from then", yscale="log")


def _sweep(panels, loads):
    loads = [load for load in loads if "throughput" in load]
    rates = [load["rate"] for load in loads]
    rate = [load["throughput"]["requests"] for load in loads]
    for axes, key, words in ((panels[0, 0], "ttft", "time to the first token, s"),
                             (panels[0, 1], "tpot", "time of each token after it, s")):
        if not any(load["latency"].get(key) for load in loads):
            key, words = "e2e", "time to the end, s"
        for column, colour in (("p50", BLUE), ("p90", GREEN), ("p99", ORANGE)):
            spreads = [load["latency"].get(key) or {} for load in loads]
            each = [spread.get(column) or {} for spread in spreads]
            y = [x.get("value", np.nan) for x in each]
            low, high = ([np.nan if x.get(end) is None else x[end] for x in each]
                         for end in ("low", "high"))
            axes.plot(rate, y, color=colour, marker="o", ms=4, lw=1.5, label=column)
            axes.vlines(rate, low, high, color=colour, lw=1)
        axes.set(xlabel="requests finished a second", ylabel=words, yscale="log")
    axes = panels[1, 0]
    axes.plot(rates, rates, color=_SOFT, lw=1, ls=(0, (4, 2)), label="asked")
    axes.plot(rates, rate, color=BLUE, marker="o", ms=4, lw=1.5, label="finished")
    kept = [load.get("goodput", {}).get("requests", np.nan) for load in loads]
    if np.isfinite(kept).any():
        axes.plot(rates, kept, color=GREEN, marker="o", ms=4, lw=1.5, label="within the limits")
    axes.set(xlabel="requests a second asked", ylabel="requests a second")
    tokens = [load["throughput"]["output_tokens"] for load in loads]
    panels[1, 1].plot(rates, tokens, color=BLUE, marker="o", ms=4, lw=1.5)
    panels[1, 1].set(xlabel="requests a second asked", ylabel="output tokens a second")
    for axes in panels[1]:
        axes.set_ylim(bottom=0)
