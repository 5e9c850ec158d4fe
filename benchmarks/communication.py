"""Workers that talk less, or late: what it saves on the network, what it costs in loss.

    launch/local.sh python benchmarks/communication.py input.txt

Trains configs/shakespeare_char.py on four workers, CPU devices of this machine, by `lm train`:
every run sees the same tokens in the same number of steps. Prints a line for each: the validation
loss at the end, its distance to that of synchronous training, and the bytes that a worker sends to
others in a step, on average, as the compiled program says. A quarter of an hour of CPU time.
"""

import contextlib
import io
import json
import os
import pathlib
import sys
import tempfile

WORKERS, STEPS = 4, 640

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={WORKERS}"
# A thread of XLA:CPU's pool that waits for another device's does no work: with one thread a core
# all of them wait for ever where devices are more than cores.
os.environ["PJRT_NPROC"] = str(4 * WORKERS)

from lm.__main__ import main  # noqa: E402
from lm.cost import traffic  # noqa: E402
from lm.experiment import flags, folder, parts, trial  # noqa: E402
from lm.verbs import VERBS  # noqa: E402

AVERAGE = dict(outer_lr=1.0, outer_momentum=0.0)
RUNS = {
    "synchronous": {},
    "DiLoCo, H = 1": dict(local_steps=1),
    "DiLoCo, H = 8": dict(local_steps=8),
    "DiLoCo, H = 32": dict(local_steps=32),
    "mean of workers, H = 1": dict(local_steps=1, **AVERAGE),
    "mean of workers, H = 8": dict(local_steps=8, **AVERAGE),
    "mean of workers, H = 32": dict(local_steps=32, **AVERAGE),
    "late by up to 1": dict(staleness=1),
    "late by up to 4": dict(staleness=4),
    "late by up to 16": dict(staleness=16),
}


def train(corpus, run, changes):
    """Returns the run's flags and its last validation loss."""
    fields = dict(corpus=("data", corpus), data=("mesh", WORKERS), prompt=("infer", ""),
                  tensorboard=("train", False))
    fields |= dict.fromkeys(("length", "evaluate_every", "save_every"), ("train", STEPS))
    fields |= {name: ("train", value) for name, value in changes.items()}
    argv = ["--config=configs/shakespeare_char.py:gpt2", f"--run={run}",
            *(f"--config.{room}.{name}={value}" for name, (room, value) in fields.items())]
    with contextlib.redirect_stdout(io.StringIO()):
        if main(["train", *argv]):
            raise SystemExit(1)
    return argv, json.loads((run / "result.json").read_text())["validation_loss"]


def sent(argv, run):
    """Returns the bytes that a device sends along `data` in a step."""
    e = flags.parse(argv, VERBS["train"]).experiment
    with parts.on_mesh(e) as mesh:
        m = parts.model(e, folder.tokenizer(run).V)
        _, step, template = trial.assemble(e, m, STEPS, mesh)
        text = step.lower(template, trial.abstract(e, mesh)).compile().as_text()
        return sum(c.sent / (e.train.local_steps if c.sometimes else 1)
                   for c in traffic.read(text, mesh.size) if c.crosses(mesh.shape, "data"))


def compare(corpus):
    """Prints the table."""
    print(f"{WORKERS} workers, {STEPS} steps")
    print(f"{'':26s}{'validation loss':>16s}{'difference':>12s}{'kB sent a step':>16s}")
    first = None
    for name, changes in RUNS.items():
        with tempfile.TemporaryDirectory() as place:
            run = pathlib.Path(place) / "run"
            argv, loss = train(corpus, run, changes)
            first = first or loss
            print(f"{name:26s}{loss:16.4f}{loss - first:12.4f}{sent(argv, run) / 1e3:16.1f}",
                  flush=True)


if __name__ == "__main__":
    compare(*sys.argv[1:])
