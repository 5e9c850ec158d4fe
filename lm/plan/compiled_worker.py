"""Compiles one step in a process of its own: `python -m lm.plan.compiled_worker FOLDER`.

`lm.plan.compile` starts it with a folder that holds job.json. It prints a line as it gets on, puts
the compiler's reports into FOLDER/dump and what is found into FOLDER/result.json. It ends with the
process that started it, which holds its standard input open.
"""

import dataclasses
import os
import pathlib
import sys
import threading
import time

import jax

from lm.base import options
from lm.base.errors import UserError
from lm.base.records import read_json, write_json
from lm.cost import compiled, heap
from lm.cost.chips import GIB, Chip
from lm.experiment import llm, parts, topology
from lm.experiment.config import Experiment
from lm.infer import engine
from lm.infer import shape as shapes
from lm.infer import weights as formats
from lm.infer.config import Engine
from lm.mesh import devices
from lm.plan import gpu, inventory

BEAT = 15.0   # seconds between two signs of life


def main(folder: str) -> None:
    """Does the job of a folder."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    job = read_json(pathlib.Path(folder) / "job.json")
    try:
        result = work(job, pathlib.Path(folder))
    except UserError as error:
        result = dict(mistake=str(error))
    write_json(pathlib.Path(folder) / "result.json", result)


def _end_with_parent():
    os.read(0, 1)   # nothing is ever written to it
    os._exit(1)


def work(job: dict, folder: pathlib.Path) -> dict:
    """Returns what the compiler makes of a job; UserError for one that cannot be."""
    began, dump = time.monotonic(), folder / "dump"

    def say(text):
        print(f"{time.monotonic() - began:.0f} s: {text}", flush=True)

    e, target = options.build(Experiment, job["config"]), job["target"]
    chip, places = (gpu if gpu.parse(target) else topology).chips(target)
    e = topology.whole(e)
    mesh = devices.make(e.mesh, places)
    write_json(folder / "mesh.json", dict(mesh.shape))   # for who has to do without the rest
    what = job.get("serve")
    step = f"the engine's step of {what['tokens']} tokens" if what else "the training step"
    say(f"tracing {step} for {len(places)} devices of {chip.name}, {devices.words(mesh.shape)}")
    lowered = serving(e, mesh, **what) if what else topology.lower(e, mesh)
    say("compiling")
    done = threading.Event()
    watch = threading.Thread(target=_watch, args=(dump, chip, say, done), daemon=True)
    watch.start()
    try:
        with devices.use(mesh):
            made = compiled.compile(lowered, dump)
    except jax.errors.JaxRuntimeError as error:
        made, refusal = None, error
    else:
        refusal = None
    finally:
        done.set()
        watch.join()
    seconds, verdict = time.monotonic() - began, _verdict(chip, made, refusal, heap.read(dump))
    say(f"reading what the compiler reports{verdict['error'] and ': '}{verdict['error']}")
    return (verdict | dict(target=target, seconds=seconds, versions=job["versions"],
                           mesh=dict(mesh.shape))
            | _program(made, dump, e, mesh, chip))


def _watch(dump, chip, say, done):
    """Says what the memory report says as soon as it is there, and that the work goes on."""
    found, beat = None, time.monotonic()
    while not done.wait(0.5):
        if found is None and (found := heap.read(dump)):
            fits = found.total <= chip.memory()
            say(f"{'fits' if fits else 'does not fit'}: a device needs {found.total / GIB:.2f} of "
                f"{chip.memory() / GIB:.2f} GiB{'; making the code' * fits}")
        if time.monotonic() - beat > BEAT:
            beat = time.monotonic()
            say("still compiling")


def serving(e: Experiment, mesh, tokens: int, slots: int, context: int, weights: str):
    """Returns the engine's step of so many tokens as jax hands it to the compiler.

    slots: sequences of `context` tokens each, of which the cache holds all. weights: their format.
    """
    with devices.use(mesh):
        parts.check(e.model, mesh)
        m = llm.model(e, e.model.V)
        c = Engine(slots=slots, context=context, budget=tokens, weights=weights, prefix_cache=False)
        shape = shapes.shape(c, m.config, context, 0)
        shape = dataclasses.replace(shape, pages=slots * -(-context // shape.page))
        model = engine.Model(m.config, m.declaration,
                             formats.shapes(m.declaration, mesh, weights))
        return engine.lowered(model, shape, max(tokens, slots), m.config.V, mesh)


def _verdict(chip: Chip, made, refusal, found: heap.Heap | None) -> dict:
    """Whether a program fits, and where its memory goes; None where that is not known."""
    limit, sizes = chip.memory(), refusal and topology.sizes(refusal)
    peak = found.total if found else sizes[0] if sizes else made.peak if made else None
    if sizes:
        fits, limit = False, sizes[1]
    elif refusal:      # for another reason than the device's memory
        fits = False if peak and peak > limit else None
    else:              # a TPU's compiler has said so itself; that for GPUs does not refuse
        fits = chip.aot is not None or peak <= limit
    arguments = made.arguments if made else found.arguments if found else None
    m = made.run.memory_analysis() if made else None
    error = topology.refused(refusal, chip) if refusal else "" if fits else (
        f"a device needs {peak / GIB:.2f} of the {limit / GIB:.2f} GiB that a program has on "
        f"{chip.name}")
    return dict(
        fits=fits, limit=limit, peak=peak, arguments=arguments,
        temporaries=None if peak is None or arguments is None else peak - arguments,
        outputs=made.outputs if made else found.outputs if found else None,
        live=found.live if found else None, code=m and m.generated_code_size_in_bytes, error=error,
        memory_analysis=m and {name: getattr(m, name) for name in sorted(dir(m))
                               if name.endswith("_in_bytes")})


def _program(made, dump, e, mesh, chip) -> dict:
    """What the program itself shows; empty lists where it was not got to."""
    out = dict(collectives=[], relayouts=[], largest=[], cycles=None, notes=[])
    text, found = heap.program(dump), heap.read(dump)
    if not text:
        return out
    p = inventory.Program(text)
    out["largest"] = inventory.largest(p, found) if found else []
    if made:
        shape = dict(mesh.shape)
        with devices.use(mesh):
            shapes = jax.tree.leaves(parts.model(e, e.model.V).declaration.shapes)
        weights = [x.size for x in shapes]
        out["collectives"] = inventory.collectives(p, shape)
        out["relayouts"] = (
            [dict(kind="warning", shape="", how=line, where="", count=1, bytes=None)
             for line in made.warnings]
            + inventory.gathers(p, shape, weights, e.model.L) + inventory.relayouts(p))
        out["cycles"] = inventory.cycles(p, chip.name)
        if inventory.guessed(p):
            out["notes"].append("what is in loops of unknown length is counted once")
    return out


if __name__ == "__main__":
    main(sys.argv[1])
