"""The time model fitted on published steps, and judged by steps that it was not fitted on.

    launch/local.sh python benchmarks/plan.py [--csv=FILE] [--quick] [--golden]

counts every published step (about two minutes), fits, and prints the constants for
`lm.cost.constants`, each step's prediction by constants fitted without it, the README's table, and
how the serving model does. --csv is MosaicML's table of H100s, found by itself in `shared/data`
beside the checkout. --golden keeps the counts for the tests, --quick takes those that were kept.
"""

import argparse
import os
import pathlib
import sys

import numpy as np

from lm.base.errors import UserError
from lm.cost.constants import ATTENTION, MATMUL, PLATFORMS, SPREAD
from lm.plan import fit
from lm.plan.published import rows
from lm.plan.serving import validate

ROOT = pathlib.Path(__file__).resolve().parent.parent
CSV = ROOT.parent / "shared" / "data" / "mosaic_h100_throughput.csv"
GOLDEN = ROOT / "tests" / "golden" / "steps.json"


def main():
    """Prints all of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--csv", default=str(CSV) if CSV.exists() else None)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--golden", action="store_true")
    options = parser.parse_args()
    try:
        published = rows(options.csv)
    except UserError as error:
        sys.exit(f"plan.py: {error}")
    if options.csv is None:
        print(f"MosaicML's H100s are left out: no {CSV}; give --csv=FILE")
    if options.quick:
        found, without = fit.read(GOLDEN.read_text(), published), {}
    else:
        found, without = fit.samples(published, progress)
    if options.golden:
        if options.csv is None or options.quick:
            sys.exit("plan.py: --golden keeps all counts: it needs the CSV and no --quick")
        GOLDEN.write_text(fit.kept(found))
        print(f"wrote {GOLDEN}")
    constants(fit.fit(found))
    judged = judge(found)
    table(judged)
    for name, why in without.items():
        print(f"{name:42s} left out: {why}")
    spread(judged)
    markdown(judged)
    serving()


def progress(row):
    """Shows which step is being counted, where a person looks on."""
    if sys.stderr.isatty():
        print(f"\r{row.name:50s}", end="", file=sys.stderr, flush=True)


def constants(new):
    """Prints what lm/cost/constants.py is to hold, and what it holds."""
    print("\nConstants fitted on all steps, beside the present ones\n")
    for p, own in new.platforms.items():
        for name, x in own.items():
            print(f"  {p} {name:10s} {x:6.3f} {PLATFORMS[p][name]:6.3f}")
    for chip, own in new.chips.items():
        for name, x in own.items():
            now = dict(matmul=MATMUL, attention=ATTENTION)[name].get(chip, np.nan)
            print(f"  {chip} {name:10s} {x:6.3f} {now:6.3f}")
    print("\nPLATFORMS:")
    for p, own in new.platforms.items():
        print(f'    "{p}": dict({", ".join(f"{name}={x:.3f}" for name, x in own.items())}),')
    for name in ("matmul", "attention"):
        print(f"{name.upper()}:", ", ".join(f'"{chip}": {own[name]:.3f}' for chip, own in
                                            new.chips.items() if name in own))


def judge(found):
    """Returns (sample, seconds by constants fitted without it, the same with all others) of each.

    A step to fit is left out of all such; others are predicted by constants fitted on those.
    """
    ours = [s for s in found if s.row.fit]
    without = dict(zip([s.row.name for s in ours], fit.left_out(ours), strict=True))
    by_ours = fit.predict(fit.fit(ours), found)
    return [(s, without[s.row.name] * s.row.seconds if s.row.fit else seconds,
             other * s.row.seconds)
            for s, seconds, other in zip(found, by_ours, fit.left_out(found), strict=True)]


def table(judged):
    """Prints each step, and how far off the predictions are."""
    print("\nPublished steps. `without`: by constants fitted on the listed steps (*) without it; "
          "`all`: on all steps without it.\n")
    print(f"{'':44s} {'chips':>5s} {'published':>9s} {'without':>9s} ratio {'all':>9s} ratio")
    for s, one, other in judged:
        seconds = s.row.seconds
        print(f"{'*' if s.row.fit else ' '} {s.row.name:42s} {s.row.chips:5d} {seconds:8.3f}s "
              f"{one:8.3f}s {one / seconds:5.2f} {other:8.3f}s {other / seconds:5.2f}")
    print("\n| | steps | median error | worst |\n|---|---|---|---|")
    chips = dict.fromkeys(s.row.chip for s, *_ in judged)
    some = {"the listed steps, each left out of the fit": [x for x in judged if x[0].row.fit]}
    for name, mine in some.items():
        line(name, [(s, one) for s, one, _ in mine])
        for p in ("tpu", "gpu"):
            line(f"{name}: {p}", [(s, one) for s, one, _ in mine if s.platform == p])
    line("other steps, by constants of the listed steps",
         [(s, one) for s, one, _ in judged if not s.row.fit])
    line("all steps, each left out of a fit on all", [(s, other) for s, _, other in judged])
    for chip in chips:
        line(f"of these: {chip}", [(s, x) for s, _, x in judged if s.row.chip == chip])


def line(name, some):
    """Prints the errors of (sample, predicted seconds)."""
    off = [abs(x / s.row.seconds - 1) for s, x in some]
    if off:
        print(f"| {name} | {len(off)} | {np.median(off):.1%} | {max(off):.0%} |")


def spread(judged):
    """Prints the standard deviations of what is left."""
    for p in ("tpu", "gpu"):
        off = [np.log(s.row.seconds / x) for s, _, x in judged if s.platform == p]
        print(f"SPREAD {p}: {np.std(off):.3f}, now {SPREAD[p]}")


def markdown(judged):
    """Prints the README's table: a line for each group of steps."""
    groups = {}
    for s, one, other in judged:
        groups.setdefault(group(s.row), []).append((s, one, other))
    print("\n| steps | chip | chips | steps | predicted / published, without the step | "
          "the same, from all other steps |\n|---|---|---|---|---|---|")
    for (name, chip), some in groups.items():
        counts = [s.row.chips for s, *_ in some]
        mark = " *" * all(s.row.fit for s, *_ in some)
        print(f"| {name}{mark} | {chip} | {ends(counts, 'd')} | {len(some)} | "
              f"{ends([one / s.row.seconds for s, one, _ in some], '.2f')} | "
              f"{ends([x / s.row.seconds for s, _, x in some], '.2f')} |")


def group(row):
    """The line of the README that a step is part of."""
    name = row.name.split()[0]
    if row.chip.startswith("a100"):
        return f"{name.split('-')[0]}, {row.source.split(',')[0].split(' ')[0]}", row.chip
    return name + (", several slices" if row.slices > 1 else ""), row.chip


def ends(some, form):
    """The least and the most as text."""
    low, high = format(min(some), form), format(max(some), form)
    return low if low == high else f"{low} to {high}"


def serving():
    """Prints how the serving model does on published rows, each left out of the fit."""
    found = validate.validate()
    print("\nServing, each row left out of the fit; the textbooks' roofline beside it\n\n"
          "| | rows | median error | fitted on it too | roofline |\n|---|---|---|---|---|")
    for kind in ("tokens/s", "TTFT s"):
        medians = [np.median(validate.errors(found, which, kind))
                   for which in ("left_out", "fitted", "naive")]
        print(f"| {kind} | {len(validate.errors(found, kind=kind))} | "
              + " | ".join(f"{x:.1%}" for x in medians) + " |")


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
