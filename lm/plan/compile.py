"""`lm plan --compile`: what the real compiler makes of the real step, for chips that are not here.

It runs in a process of its own, `lm.plan.compiled_worker`, so that neither libtpu nor its reports
nor its environment touch this one, and which a time limit or Ctrl-C ends. No jax here.
"""

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable

from lm.base.errors import UserError, pick
from lm.base.records import read_json, write_json
from lm.cost import heap
from lm.cost.chips import CHIPS, GIB
from lm.experiment.config import Experiment
from lm.plan import fixes

WORKER = (sys.executable, "-m", "lm.plan.compiled_worker")
PACKAGES = ("jax", "jaxlib", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin")
_LM = pathlib.Path(__file__).parent.parent
# What makes the step, or reads what the compiler says of it.
_SOURCES = ("mesh/*", "nn/*", "models/**/*", "train/*", "infer/*", "cost/*", "experiment/parts",
            "experiment/tiny", "experiment/topology", "experiment/trial", "plan/compiled_worker",
            "plan/gpu", "plan/inventory", "plan/source")
# Shapes follow from these fields alone; where a run lies and what it reads decide nothing.
_DATA = ("B", "T", "packing")


def check(e: Experiment, target: str, *, cache: pathlib.Path,
          progress: Callable[[str], object] = print, limit: float | None = None,
          predict: Callable[[dict], float] | None = None) -> dict:
    """Returns what the compiler says of e's training step on `target`: the plan's `compiled`.

    target: TYPE:SHAPE of a TPU as for `lm verify --topology`, or TYPE:COUNT of GPUs. cache: folder
    for what is known already, `lm.base.cache.root()`. progress: gets a line now and then. limit:
    seconds, after which the compiler is stopped; a verdict on memory is kept. predict: bytes of a
    device for overrides of e, by which `fixes` are ranked where the step does not fit.

    Bytes are of one device: `peak` all that the compiler reserves, `live` what is held at once, the
    rest of the peak is gaps. `fits` is None where the compiler failed for another reason than
    memory, which `error` gives. UserError: no such target, a config that cannot be, or no compiler.
    """
    out = _checked(e, target, None, cache, progress, limit)
    out["fixes"] = []
    if out["fits"] is False and out["peak"]:
        out["fixes"] = fixes.ranked(e, out["mesh"], out["peak"], out["limit"], predict)
    return out


def check_serving(e: Experiment, target: str, *, slots: int, context: int, chunk: int,
                  weights: str, cache: pathlib.Path, progress: Callable[[str], object] = print,
                  limit: float | None = None) -> dict[str, dict]:
    """Returns the same of the engine's steps: `decode`, and `prefill` with it.

    slots: sequences that decode, of `context` tokens each in the cache. chunk: tokens of prompts
    beside them. weights: their format, of lm.infer.config.WEIGHTS.
    """
    return {step: _checked(e, target, dict(tokens=tokens, slots=slots, context=context,
                                           weights=weights), cache, progress, limit)
            for step, tokens in (("prefill", slots + chunk), ("decode", slots))}


def _checked(e, target, serve, cache, progress, limit):
    """The compiler's answer, from the cache or from the compiler."""
    _installed(target)
    job = dict(config=_config(e), target=target, serve=serve, versions=versions())
    path = pathlib.Path(cache).expanduser() / "compiled" / f"{_key(job)}.json"
    if path.exists():
        progress(f"compiled before, with the same versions: {path}")
        return read_json(path)
    with tempfile.TemporaryDirectory(prefix="lm-") as folder:
        out, whole = _run(job, pathlib.Path(folder), progress, limit)
    if whole:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, out)
    return out


def versions() -> dict[str, str]:
    """Returns the versions of what compiles, of the packages that are installed."""
    out = {}
    for name in PACKAGES:
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return out


def _chip(target):
    """The chip of a target."""
    return pick({c.aot or name: c for name, c in CHIPS.items()}, target.partition(":")[0], "target")


def _installed(target):
    """Says what is missing before a process is started for it."""
    gpu = not _chip(target).aot
    if gpu and not any("cuda" in name for name in versions()):
        raise UserError("compiling for GPUs needs jax's CUDA plugin, but no GPU: "
                        "pip install 'jax[cuda12]'")
    if not gpu and importlib.util.find_spec("libtpu") is None:
        raise UserError("compiling for TPUs needs their compiler: pip install libtpu, or "
                        "LM_EXTRAS=dev,tpu launch/local.sh")


def _config(e):
    """The fields of e that its step follows from."""
    tree = dataclasses.asdict(e)
    mesh = {k: v for k, v in tree["mesh"].items()
            if k not in ("target", "coordinator", "processes", "process", "wait")}
    return dict(data={name: tree["data"][name] for name in _DATA}, model=tree["model"], mesh=mesh,
                train=tree["train"])


def _key(job):
    """A name for a job: of its config, target and versions, of the source and of XLA's flags."""
    sources = {str(path.relative_to(_LM)): path.read_bytes() for pattern in _SOURCES
               for path in _LM.glob(f"{pattern}.py")}
    flags = "LIBTPU_INIT_ARGS" if _chip(job["target"]).aot else "XLA_FLAGS"
    made = hashlib.sha256(json.dumps([job, os.environ.get(flags, "")], sort_keys=True).encode())
    for name in sorted(sources):
        made.update(name.encode() + b"\0" + sources[name])
    return made.hexdigest()[:32]


def _run(job, folder, progress, limit):
    """(what a worker found, whether that is all there is to find)."""
    write_json(folder / "job.json", job)
    paths = [str(_LM.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | dict(JAX_PLATFORMS="cpu", PYTHONPATH=os.pathsep.join(paths),
                            TPU_LOG_DIR=str(folder / "log"))
    if _chip(job["target"]).aot:
        env.pop("XLA_FLAGS", None)   # of this machine's CPU
    said: list[str] = []
    late = threading.Event()
    with (folder / "errors").open("w+") as errors, subprocess.Popen(
            [*WORKER, str(folder)], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=errors, text=True, start_new_session=True) as worker:
        timer = threading.Timer(limit or threading.TIMEOUT_MAX, lambda: (late.set(), worker.kill()))
        timer.daemon = True
        timer.start()
        try:
            for line in worker.stdout:
                said.append(line.rstrip())
                progress(said[-1])
            worker.wait()
        finally:   # Ctrl-C as well
            timer.cancel()
            worker.kill()
        errors.seek(0)
        tail = errors.read().strip().splitlines()[-3:]
    if (folder / "result.json").exists():
        out = read_json(folder / "result.json")
        if "mistake" in out:
            raise UserError(out["mistake"])
        return out, True
    why = (f"stopped after {limit:.0f} s" if late.is_set() else
           _ended(worker.returncode, tail))
    return _half(job, folder, why, said), False


def _ended(code: int, tail: Iterable[str]) -> str:
    """Why a process ended without a result."""
    if code < 0:
        name = signal.Signals(-code).name
        return (f"the compiler was ended by {name}"
                + (", as when the machine's own memory is short" if name == "SIGKILL" else ""))
    return f"the compiler ended with {code}: {' '.join(tail)[-400:]}"


def _half(job, folder, why, said):
    """The answer where only the memory report was got, or not even that."""
    chip, mesh = _chip(job["target"]), folder / "mesh.json"
    found = heap.read(folder / "dump")
    fits = found.total <= chip.memory() if found else None
    if fits is False:
        why = (f"a device needs {found.total / GIB:.2f} of the {chip.memory() / GIB:.2f} GiB that "
               f"a program has on {chip.name}; {why}")
    return dict(
        target=job["target"], fits=fits, limit=chip.memory(), peak=found and found.total,
        arguments=found and found.arguments, outputs=found and found.outputs,
        temporaries=found and found.total - found.arguments, live=found and found.live, code=None,
        memory_analysis=None, seconds=None, versions=job["versions"],
        mesh=read_json(mesh) if mesh.exists() else None,
        collectives=[], relayouts=[], largest=[], cycles=None, error=why,
        notes=[f"last heard: {said[-1]}"] if said else [])
