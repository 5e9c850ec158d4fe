"""The real training step of a config, compiled ahead of time for TPUs that are not here."""

import dataclasses
import importlib.util
import math
import os
import re
import tempfile
import time

import jax
from jax.experimental import topologies

from lm.base.errors import UserError, nearest
from lm.base.records import write_json
from lm.cost import compiled
from lm.cost.chips import CHIPS, GIB, Chip
from lm.experiment import layouts, parts, trial
from lm.experiment.config import Experiment
from lm.mesh import devices

TARGETS = {chip.aot: chip for chip in CHIPS.values() if chip.aot}
V = 32768     # of a model whose vocabulary is its tokenizer's, which is not read
STEPS = 1000  # or rounds of them, of the run that the learning rate is made for


def run(e: Experiment, own) -> int:
    """Compiles and says what comes of it; returns 1 if it does not fit, or the compiler complains.

    own: the flags of `lm verify`.
    """
    if own.precision != "all":
        raise UserError("--topology compiles the config's own precision; set "
                        f"--config.model.precision={own.precision}")
    target = e.mesh.target if own.topology == "target" else own.topology
    if not target:
        raise UserError("the config has no mesh.target; give --topology=TYPE:SHAPE, as v5p:4x4x4")
    chip, places = chips(target)
    if own.mesh:
        shape = layouts.read(own.mesh, len(places))
        e = dataclasses.replace(e, mesh=dataclasses.replace(e.mesh, **shape))
    if e.model.V == -1:
        print(f"no tokenizer is read: V = {V}")
    e = whole(e)
    mesh = devices.make(e.mesh, places)
    print(f"{target}: {len(places)} devices of {chip.name}, {devices.words(mesh.shape)}; "
          f"B={e.data.B} T={e.data.T} {e.model.precision}", flush=True)
    began = time.monotonic()
    try:
        made = step(e, mesh)
    except jax.errors.JaxRuntimeError as error:
        record = dict(target=target, error=refused(error, chip), seconds=time.monotonic() - began)
        print(f"does not fit: {record['error']}")
    else:
        record = _report(target, chip, made)
    if own.out:
        write_json(own.out, record)
    return 1 if record.get("error") or record["warnings"] else 0


def whole(e: Experiment) -> Experiment:
    """Returns e with what follows from data and a tokenizer, which are not read."""
    c = e.model
    return dataclasses.replace(e, model=dataclasses.replace(
        c, V=V if c.V == -1 else c.V, T=e.data.T if c.T == -1 else c.T))


def parse(target: str) -> tuple[Chip, int]:
    """Returns the chip and the number of jax devices of `TYPE:SHAPE`; UserError if it is none."""
    name, _, shape = target.partition(":")
    if name not in TARGETS:
        raise UserError(f"topology '{target}': unknown type '{name}'{nearest(name, TARGETS)}")
    chip = TARGETS[name]
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape) or (
            shape.count("x") + 1 != chip.network.axes):
        axes = "x".join("4" * chip.network.axes)
        raise UserError(f"topology '{target}': chips of {name} lie in {chip.network.axes} axes; "
                        f"e.g. {name}:{axes}")
    count = math.prod(map(int, shape.split("x")))
    if count > chip.network.largest:
        raise UserError(f"topology '{target}' has {count} chips; the largest slice of {name} has "
                        f"{chip.network.largest}")
    return chip, count * chip.devices


def chips(target: str) -> tuple[Chip, list]:
    """Returns the chip and the devices, to compile for only, of `TYPE:SHAPE`."""
    chip, _ = parse(target)
    shape = list(map(int, target.partition(":")[2].split("x")))
    options = dict(chip.aot_options)
    if any(n % 2 for n in shape[:2]):  # hosts of 2 x 2 chips do not fill it
        options["chips_per_host_bounds"] = [2 - n % 2 for n in shape[:2]] + [1]
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("compiling for TPUs needs their compiler: pip install libtpu, or "
                        "LM_EXTRAS=dev,tpu launch/local.sh")
    # Asked for by name, so neither a TPU nor the description of one is looked for; and another
    # process may compile as well.
    jax.config.update("jax_platforms", "cpu")
    os.environ.update(ALLOW_MULTIPLE_LIBTPU_LOAD="1", TPU_SKIP_MDS_QUERY="1",
                      TPU_ACCELERATOR_TYPE="v5litepod-16", TPU_WORKER_HOSTNAMES="localhost",
                      TPU_WORKER_ID="0")
    try:
        with compiled.heard():
            found = topologies.get_topology_desc(platform="tpu", topology_name=target,
                                                 **options)
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        raise UserError(f"topology '{target}': {str(error).splitlines()[0]}") from None
    return chip, list(found.devices)


def step(e: Experiment, mesh) -> compiled.Compiled:
    """Returns the training step of e, compiled for the mesh. Nothing is computed."""
    lowered = lower(e, mesh)
    with tempfile.TemporaryDirectory(prefix="lm-") as folder, devices.use(mesh):
        return compiled.compile(lowered, folder)


def lower(e: Experiment, mesh):
    """Returns the training step of e for the mesh as jax hands it to the compiler."""
    # What is executed, such as a key, is so outside of the mesh, whose devices cannot.
    with devices.use(mesh):
        parts.check(e.model, mesh, e.data.B, e.data.T, e.train.accumulate)
        m = parts.model(e, e.model.V)
    _, run, state = trial.assemble(e, m, STEPS * max(1, e.train.local_steps), mesh)
    batch = trial.abstract(e, mesh)
    with devices.use(mesh):
        return run.lower(state, batch)


def sizes(error) -> tuple[float, float] | None:
    """Returns (bytes that a program takes, bytes that it may) of a refusal; None of another error.
    """
    text = " ".join(str(error).split())
    found = (re.search(r"HLO temporaries \(([\d.]+)G\) exceeds available HBM \(([\d.]+)G\)", text)
             or re.search(r"Used ([\d.]+)G of ([\d.]+)G hbm", text))
    if "RESOURCE_EXHAUSTED" not in text or not found:
        return None
    return float(found[1]) * GIB, float(found[2]) * GIB


def refused(error, chip: Chip) -> str:
    """Returns the compiler's error in a line; if memory is short, how much it takes of how much."""
    found = sizes(error)
    if found:
        return (f"a device needs {found[0] / GIB:.2f} GiB of the {found[1] / GIB:.2f} GiB that a "
                f"program has on {chip.name}")
    return " ".join(str(error).split())[:500]


def _report(target, chip, made):
    """Prints what the compiler says of a program that fits; returns it."""
    limit = chip.memory()
    fits = made.peak <= limit  # not every version of the compiler refuses what does not
    print(f"compiled in {made.seconds:.0f} s; {'' if fits else 'does not fit: '}a device holds "
          f"{made.peak / GIB:.2f} of {limit / GIB:.2f} GiB: arguments "
          f"{made.arguments / GIB:.2f}, outputs {made.outputs / GIB:.2f}, "
          f"temporaries {made.temporaries / GIB:.2f}")
    print(f"collectives of a step: {made.collectives}")
    for line in made.warnings:
        print(f"the compiler: {line}")
    error = "" if fits else f"a device needs {made.peak / GIB:.2f} of {limit / GIB:.2f} GiB"
    return dict(target=target, error=error, seconds=made.seconds, limit=limit, peak=made.peak,
                arguments=made.arguments, outputs=made.outputs, temporaries=made.temporaries,
                warnings=made.warnings, collectives=dataclasses.asdict(made.collectives))
