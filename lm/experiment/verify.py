"""`lm verify`: every layout of a config against one device, in its tiny form on devices of a CPU.

Each row of the table is a few training steps. What must not differ from one device is compared;
what they cost is read from the compiled program.
"""

import dataclasses
import os
import re
import time

import jax

from lm.base.errors import UserError
from lm.base.records import write_json
from lm.experiment import flags, layouts, tiny, topology, trial
from lm.experiment.config import Experiment
from lm.mesh import devices
from lm.nn.precision import PRECISIONS

# Sums in another order differ by rounding, which grows from loss to gradient and over the steps.
TOLERANCE = trial.Differences(loss=1e-5, gradient=1e-4, weights=1e-3)

# What counts is how fast the programs compile. A later XLA ends the process at a flag that it no
# longer knows.
XLA_FLAGS = ("--xla_force_host_platform_device_count={} --xla_backend_optimization_level=0"
             + " --xla_cpu_use_fusion_emitters=false" * jax.__version__.startswith("0.10."))

HEAD, REST = "{:33s} {:15s} ", "{:>7s} {:>8s} {:>8s} {:>9s} {:>10s}  {:10s} {}"


def run(parsed: flags.Parsed) -> int:
    """Prints the table; returns 1 if a row of it disagrees, or if what is compiled does not fit."""
    e, own = parsed.experiment, parsed.flags
    if own.topology:
        return topology.run(e, own)
    places = _places(own.devices)
    found, refused = layouts.layouts(e, places, own.mesh, own.precision)
    if not found:
        raise UserError(f"no mesh of {own.devices} devices holds this config: "
                        + next(iter(refused)))
    small = tiny.tiny(e, own.devices)
    _announce(small, own)
    one = layouts.Layout(dict.fromkeys(found[0].shape, 1), "", "float32")
    starts: dict[str, trial.program.State] = {}
    reference, record = _row(one.of(small), one, places[:1], own.steps, None, starts)
    records = [record]
    for layout in found:
        try:
            records.append(_row(layout.of(small), layout, places, own.steps, reference, starts)[1])
        except UserError as error:
            refused.setdefault(str(error), []).append(str(layout))
    _foot(refused)
    if own.out:
        write_json(own.out, records)
    bad = sum(bool(r["wrong"]) for r in records)
    print(f"\n{len(records) - 1 - bad} of {len(records) - 1} rows are as one device")
    return 1 if bad else 0


def _places(count):
    """That many CPU devices, asked for before jax starts."""
    jax.config.update("jax_platforms", "cpu")
    # Each device may wait in several collectives at once, which are not in the same order on all:
    # with a thread for each device and no more, all may be waiting for one that has none.
    os.environ["NPROC"] = str(8 * count)
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {XLA_FLAGS.format(count)}".strip()
    found = jax.devices("cpu")
    if len(found) < count:
        raise UserError(f"jax had started in this process, with {len(found)} CPU devices; call "
                        f"lm verify --devices={count} in one of its own")
    return found[:count]


def _announce(e: Experiment, own):
    c = e.model
    sizes = " ".join(f"{name}={getattr(c, name)}" for name in "LDNKHF")
    print(f"tiny form: {sizes} B={e.data.B} T={e.data.T}; {own.steps} steps on {own.devices} "
          "devices of this CPU")
    print(HEAD.format("mesh", "precision") + REST.format(
        "loss", "gradient", "weights", "peak", "bubble", "verdict", "collectives of a step"))


def _row(e, layout, places, steps, reference, starts):
    """Runs and prints one row; returns (its trial, what --out keeps of it).

    starts: the first states by precision, of which a new one is added.
    """
    print(HEAD.format(str(layout), layout.precision), end="", flush=True)
    began = time.monotonic()
    try:
        with devices.use(devices.make(e.mesh, places)) as mesh:
            got = trial.run(e, mesh, steps, starts.get(layout.precision))
        idle = trial.bubble(e, mesh) if layout.schedule else None
    except UserError:
        print("skipped")
        raise
    starts[layout.precision] = got.first
    apart = trial.differences(got, reference) if reference else None
    wrong = _wrong(layout, got, apart) if reference else []
    verdict = "WRONG" if wrong else "ok" if reference else "reference"
    made = got.program
    print(REST.format(
        *([f"{x:.0e}" for x in apart] if apart else "---"), f"{made.peak / 1e6:.2f} MB",
        "{:.0%} ({:.0%})".format(*idle) if idle else "-", verdict,
        made.collectives))
    print("".join(f"    {line}\n" for line in wrong), end="", flush=True)
    return got, dict(
        mesh=layout.shape, schedule=layout.schedule, precision=layout.precision, verdict=verdict,
        wrong=wrong, losses=got.losses, differences=apart and apart._asdict(),
        bubble=idle and dict(planned=idle[0], counted=idle[1]), peak_bytes=made.peak,
        collectives=dataclasses.asdict(made.collectives), seconds=time.monotonic() - began)


def _wrong(layout, got, apart) -> list[str]:
    """All that is wrong with a row, in words."""
    bounds = TOLERANCE._asdict() if layout.precision == "float32" else dict(
        loss=PRECISIONS[layout.precision].tolerance)
    out = [f"disagrees: {name} {getattr(apart, name):.1e} is more than {bound:.0e}"
           for name, bound in bounds.items() if not getattr(apart, name) <= bound]
    return out + [f"the compiler: {_short(line)}" for line in got.program.warnings]


def _short(line):
    """The partitioner's complaint: which array, from which sharding to which."""
    found = re.search(r"(from sharding .*? to .*?) efficiently for HLO operation \S+ = (\S+)"
                      r'.*op_name="(.*?)"', line)
    return f"involuntary full rematerialization of {found[2]} {found[3]}, {found[1]}" if (
        found) else line


def _foot(refused):
    """What was left out, and how the columns read."""
    for reason, which in refused.items():
        print(f"skipped: {', '.join(which)}: {reason}")
    print(f"""
loss, gradient, weights: how far from one device in float32, of any step; in float32 at most
    {TOLERANCE.loss:.0e} of the loss, {TOLERANCE.gradient:.0e} of an array's largest gradient, \
{TOLERANCE.weights:.0e} of the weights' way;
    in other precisions the loss alone, at most """
          + ", ".join(f"{p.tolerance:.0e} {name}" for name, p in PRECISIONS.items() if p.tolerance)
          + """
peak: bytes of one device, a copy of the gradient for this comparison included
bubble: the share of the stages' time in which they idle, as planned and as counted in FLOPs
collectives: how often, and the bytes that one device puts in or gets out, whichever is more""")
