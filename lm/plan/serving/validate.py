"""Predicted against published, each row left out of the fit that predicts it.

    python -m lm.plan.serving.validate

prints the table. Beside it stands the roofline of the textbooks: 40 % of peak for prompts, all of
the bandwidth for decoding, no fixed cost, and cache for as many as come.
"""

import numpy as np

from lm.cost.chips import CHIPS
from lm.plan.serving.fit import Run, fit, fitted, run
from lm.plan.serving.model import Layout
from lm.plan.serving.published import SHAPES, Row, published
from lm.plan.serving.step import IDEAL, terms

NAMES = {"total": "tokens/s", "ttft": "TTFT s", "tpot": "TPOT s"}


def naive(row: Row) -> float:
    """Returns output tokens/s of B slots by B O / (O t_dec + B t_pre), with no limit of memory."""
    batch = max(1, min(row.clients, row.slots) // row.replicas)
    scale = (row.spread + 1) / 2
    prompt, output = row.prompt * scale, max(1.0, row.output * scale)
    shape = SHAPES[row.model]
    layout = Layout(CHIPS[row.chip], row.tensor, 1, row.weights, row.cache)
    context = row.dense or prompt + output / 2

    def seconds(prefill, decode, context):
        ideal, _ = terms(shape, layout, prefill, decode, context, 0.0)
        _, _, compute, _, weights, cache = IDEAL.vector() * ideal
        return max(compute, weights + cache)

    decode = seconds(0.0, float(batch), batch * context)
    return row.replicas * batch * output / (
        output * decode + batch * seconds(prompt, 0.0, 0.0))


def validate(rows: list[Row] | None = None) -> list[dict]:
    """Returns for each measured number: the row's name, `measured`, `fitted`, `left_out`, `naive`.

    Throughputs, and TTFT of prompts without output, take part in fits; `check` marks those numbers
    that never do.
    """
    runs = [run(row) for row in rows or published()]
    constants, _ = fit(runs)
    out = []
    for i, one in enumerate(runs):
        without, _ = fit(runs[:i] + runs[i + 1:])
        stack = one.row.stack
        for kind, measured in one.measured.items():
            inside = _number(one, constants[stack], kind)
            left = _number(one, without.get(stack, without[""]), kind)
            simple = naive(one.row) if kind == "total" else (
                one.row.clients / naive(one.row) if one.row.output == 1 else None)
            out.append({"row": one.row.name, "stack": stack, "kind": NAMES[kind],
                        "measured": one.row.throughput if kind == "total" else measured,
                        "fitted": inside, "left_out": left, "naive": simple,
                        "check": kind not in fitted(one), "assumed": one.row.assumed})
    return out


def _number(one: Run, constants, kind) -> float:
    seconds = one.predict(constants, kind)
    return one.row.throughput * one.measured["total"] / seconds if kind == "total" else seconds


def errors(table: list[dict], which: str = "left_out", kind: str = "tokens/s") -> np.ndarray:
    """Returns |predicted / measured - 1| of all numbers of one kind that may be fitted."""
    return np.array([abs(x[which] / x["measured"] - 1) for x in table
                     if x["kind"] == kind and not x["check"]])


def main() -> None:
    """Prints the table and the medians."""
    table = validate()
    for x in table:
        simple = f"{x['naive'] / x['measured']:7.2f}" if x["naive"] else 7 * " "
        print(f"{x['row']:72s} {x['kind']:9s} {x['measured']:10.4g} {x['left_out']:10.4g} "
              f"{x['left_out'] / x['measured']:6.2f} {simple} {'check' if x['check'] else ''}")
    _, size = fit([run(row) for row in published()])
    for kind in ("tokens/s", "TTFT s"):
        print(f"{kind}: {len(errors(table, kind=kind))} rows, median error "
              f"{np.median(errors(table, kind=kind)):.1%} left out, "
              f"{np.median(errors(table, 'fitted', kind)):.1%} fitted, "
              f"{np.median(errors(table, 'naive', kind)):.0%} roofline")
    print(f"constants: {size:.1f}, counted by the trace of the hat matrix")


if __name__ == "__main__":
    main()
