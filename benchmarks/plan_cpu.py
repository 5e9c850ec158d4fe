"""The time model's constants of a CPU: fitted on steps measured here, judged by those left out.

    launch/local.sh python benchmarks/plan_cpu.py [--minutes=5] [--keep=steps.json]

Small models take turns of half a second; of each the fastest turn counts, since whatever else the
machine does only takes time away. `others` is the share of the cores that went elsewhere then.
Prints predicted over measured, by constants fitted without the step, and at the end those fitted on
all for `lm.cost.constants`. With --keep the measurements are kept, and read where they are.
"""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import time

import jax
import numpy as np
from scipy.optimize import least_squares

from lm.cost import measure, steptime
from lm.cost.chips import Chip
from lm.cost.constants import PLATFORMS
from lm.cost.slices import Slice
from lm.experiment import flags, parts, tiny, topology, trial
from lm.mesh import devices, runtime
from lm.mesh.config import AXES
from lm.mesh.config import Config as Mesh
from lm.plan import steps
from lm.train import step as program
from lm.verbs import VERBS

# What a person would guess, how far off, and the bounds; a fit may not make up for one by another.
PRIOR = dict(matmul=(0.95, 0.05, 0.3, 1.2), memory=(0.3, 0.2, 0.02, 2.0),
             attention=(0.2, 0.2, 0.02, 2.0),
             overhead=(0.002, 0.002, 0.0, 0.02))
NOISE = 0.1    # of a measured step
SHAPES = {   # name: a config, and what of it is other
    "quickstart": ("quickstart.py", {"model.V": 2048}),
    "quickstart, adamw": ("quickstart.py", {"model.V": 2048, "train.optimizer": "adamw"}),
    "quickstart, 4 microbatches": ("quickstart.py", {
        "model.V": 2048, "data.B": 32, "train.accumulate": 4}),
    "quickstart, remat full": ("quickstart.py", {"model.V": 2048, "model.remat": "full"}),
    "shakespeare gpt2": ("shakespeare_char.py:gpt2", {"model.V": 65}),
    "shakespeare ours": ("shakespeare_char.py:ours", {"model.V": 65}),
    "llama3 tiny": ("llama3.py:tiny", {}),
    "moe tiny": ("moe.py:tiny", {}),
    "8 experts of 256": ("quickstart.py", {
        "model.V": 2048, "model.E": 8, "model.F": 256, "train.optimizer": "adamw"}),
    "bytes, 2 kv heads": ("quickstart.py", {
        "model.V": 256, "model.D": 192, "model.N": 6, "model.K": 2, "data.T": 256,
        "train.optimizer": "adamw"}),
    "gpt2, 4 layers of 256": ("gpt2.py:124m", {
        "model.precision": "float32", "model.remat": "none", "train.accumulate": 1, "data.B": 4,
        "data.T": 256, "model.T": 256, "model.L": 4, "model.D": 256, "model.N": 4,
        "model.F": 1024, "model.V": 8192}),
    "8 layers of 512": ("quickstart.py", {
        "model.L": 8, "model.D": 512, "model.N": 8, "model.F": 1536, "model.V": 8192, "data.B": 8,
        "data.T": 256, "train.optimizer": "adamw"}),
    "2 layers of 1024": ("quickstart.py", {
        "model.L": 2, "model.D": 1024, "model.N": 8, "model.F": 4096, "model.V": 2048, "data.B": 4,
        "train.optimizer": "adamw"}),
    "T = 512": ("quickstart.py", {"model.V": 256, "data.T": 512, "data.B": 4}),
}


def experiment(name):
    """Returns a shape's experiment, its -1s filled in."""
    config, changes = SHAPES[name]
    words = [f"--config=configs/{config}", *(f"--config.{n}={v}" for n, v in changes.items())]
    return topology.whole(flags.parse(words, VERBS["train"]).experiment)


class Turns:
    """A compiled step, its state, and how long its turns took."""

    def __init__(self, name, mesh):
        e = experiment(name)
        m = parts.model(e, e.model.V)
        optimizer, step, _ = trial.assemble(e, m, 1000, mesh)
        self.state = program.init(m.declaration, optimizer, jax.random.key(0), mesh)
        with contextlib.closing(parts.feed(tiny.text(e, e.model.V, 1), 0, 0, mesh)) as feed:
            self.batch = next(feed)
        self.run = step.lower(self.state, self.batch).compile()
        found = self.run.memory_analysis()
        self.bytes = found.argument_size_in_bytes + found.temp_size_in_bytes
        self.turns = []

    def turn(self, seconds=0.5):
        """Runs for half a second; keeps (median seconds of a step, share that others took)."""
        times, others = [], _others()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(times) < 2:
            start = time.perf_counter()
            self.state, means = self.run(self.state, self.batch)
            means["loss"].total.block_until_ready()
            times.append(time.perf_counter() - start)
        self.turns.append((statistics.median(times), others()))


def _others():
    """Returns a function that says what share of the cores others took since."""
    def now():
        fields = list(map(int, pathlib.Path("/proc/stat").read_text().split("\n")[0].split()[1:9]))
        return sum(fields) - fields[3] - fields[4], sum(fields), sum(os.times()[:2])
    busy, total, own = now()
    tick = os.sysconf("SC_CLK_TCK")

    def since():
        b, t, o = now()
        return max(0.0, b - busy - (o - own) * tick) / max(1, t - total)
    return since


def turns(minutes):
    """Returns the fastest turn of each shape, and the machine's rates as a plan finds them."""
    runtime.settle()
    seen = [measure.rates()]
    with devices.use(devices.make(Mesh())) as mesh:
        all_ = {name: Turns(name, mesh) for name in SHAPES}
        end = time.monotonic() + 60 * minutes
        while time.monotonic() < end:
            for one in all_.values():
                one.turn()
            seen.append(measure.rates())
    middle = {name: statistics.median(x[name] for x in seen) for name in seen[0]}
    return dict(middle, steps={name: dict(
        seconds=min(one.turns)[0], others=min(one.turns)[1], bytes=one.bytes,
        turns=one.turns) for name, one in all_.items()})


def ideal(name, chip):
    """Returns what the parts of a shape's step would take at the machine's rates, in seconds."""
    e, alone = experiment(name), Slice(chip, (1,))
    found = steps.ideal(steps.case(e, alone), alone, [dict.fromkeys(AXES, 1)],
                        [e.data.B // e.train.accumulate])
    return {part: x.at(0) for part, x in found.items()}


def predict(found, constants):
    """Returns the seconds of each step."""
    names = {part for one in found for part in one}
    all_ = {part: np.array([one.get(part, 0.0) for one in found]) for part in names}
    return steptime.combine(all_, PLATFORMS["cpu"] | dict(experts=1.0) | constants)["step_time"]


def fit(found, seconds):
    """Returns the constants that predict the steps best, those that are far off weighed down."""
    guess, sd, low, high = np.array(list(PRIOR.values())).T

    def off(x):
        errors = np.log(predict(found, dict(zip(PRIOR, x, strict=True))) / seconds) / NOISE
        return np.concatenate([errors, (x - guess) / sd])
    solved = least_squares(off, guess, bounds=(low, high), x_scale=sd, loss="soft_l1")
    return dict(zip(PRIOR, solved.x, strict=True))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--keep", default="")
    args = parser.parse_args()
    kept = pathlib.Path(args.keep) if args.keep else None
    known = json.loads(kept.read_text()) if kept and kept.exists() else turns(args.minutes)
    if kept:
        kept.write_text(json.dumps(known, indent=1))
    chip = Chip("cpu", ("cpu",), {"f32": known["flops"]}, 0, known["bandwidth"])
    print(f"{measure.processor()}: {known['flops'] / 1e9:.0f} GFLOP/s, "
          f"{known['bandwidth'] / 1e9:.0f} GB/s")
    names = list(known["steps"])
    seconds = np.array([known["steps"][name]["seconds"] for name in names])
    found = [ideal(name, chip) for name in names]
    print(f"{'':28s}{'measured':>12s}{'others':>8s}{'ratio':>7s}")
    ratios = []
    for i, name in enumerate(names):
        others = fit(found[:i] + found[i + 1:], np.delete(seconds, i))
        ratios.append(predict([found[i]], others)[0] / seconds[i])
        print(f"{name:28s}{seconds[i] * 1e3:9.1f} ms{known['steps'][name]['others']:8.0%}"
              f"{ratios[-1]:7.2f}")
    off = np.abs(np.log(ratios))
    print(f"left out: median {np.median(off):.1%}, worst {off.max():.1%}, "
          f"standard deviation {np.std(np.log(ratios)):.2f}")
    print({name: round(float(x), 4) for name, x in fit(found, seconds).items()})


if __name__ == "__main__":
    main()
