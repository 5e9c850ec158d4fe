"""The rates of this machine's CPU, which nobody publishes, measured once and remembered."""

import contextlib
import functools
import os
import pathlib
import platform
import time

import jax
import numpy as np

from lm.base import cache
from lm.base.errors import UserError
from lm.base.records import read_json, write_json
from lm.cost.chips import Chip

SECONDS = 1.2  # of measuring products, and half of it sums; compiling comes on top
LONG = 2**25   # elements of the arrays that are added: more than caches hold
ARRAYS = 6     # pairs of them


@functools.cache
def cpu() -> Chip:
    """Returns this machine as a Chip named `cpu`: all its cores, however many jax devices.

    The peak is the fastest float32 matrix product seen, by XLA or by numpy's BLAS, whichever is
    faster here: the figure is to be the machine's, not that of the software being judged; and so is
    the bandwidth, bytes read and written, that of the fastest sum of long arrays. Kept in $LM_CACHE
    (~/.cache/lm) for this processor, number of cores and version of jax; a machine that was busy
    then looks slower than it is, and deleting the file measures again.
    """
    folder = cache.root()
    path, key = folder / "cpu_peak.json", f"{processor()}, jax {jax.__version__}"
    known = {}
    with contextlib.suppress(OSError, UserError):
        known = read_json(path)
    known = known if isinstance(known, dict) else {}
    if not _whole(known.get(key)):
        known[key] = rates()
        with contextlib.suppress(OSError):  # a read-only home only costs the time again
            folder.mkdir(parents=True, exist_ok=True)
            write_json(path, known)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Chip("cpu", ("cpu",), {"f32": known[key]["flops"]}, memory, known[key]["bandwidth"])


def processor() -> str:
    """Returns what this machine computes with, as `AMD EPYC, 2 cores`."""
    known = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return f"{_model()}, {cores} cores"


def rates() -> dict[str, float]:
    """Measures `flops`, FLOP/s in float32, and `bandwidth`, bytes/s: the fastest seen just now."""
    # A mesh of its own: that in use may be of many processes.
    mesh = jax.sharding.Mesh(np.array(jax.local_devices(backend="cpu")[:1]), ("all",))
    with jax.set_mesh(mesh):
        device = mesh.devices[0]
        return dict(flops=_peak(device), bandwidth=_bandwidth(device))


def _whole(known):
    return isinstance(known, dict) and all(isinstance(known.get(name), float)
                                           for name in ("flops", "bandwidth"))


def _peak(device) -> float:
    product = jax.jit(lambda x: x @ x)
    trials = []
    for n in (512, 1024):
        a = np.random.default_rng(0).standard_normal((n, n), np.float32)
        x = jax.device_put(a, device)
        trials.append((lambda x=x: product(x).block_until_ready(), 2 * n**3))
    trials.append((lambda: a @ a, 2 * n**3))
    for run, _ in trials:  # compile, and start the threads
        run()
    best, end = 0.0, time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        for run, flops in trials:
            start = time.perf_counter()
            run()
            best = max(best, flops / (time.perf_counter() - start))
    return best


def _bandwidth(device) -> float:
    # In place, since making room for a result takes longer than writing it.
    add = jax.jit(lambda x, y: x + y, donate_argnums=0)
    best = 0.0
    for _ in range(ARRAYS):   # how fast pages are depends on where they happen to lie
        x, y = (jax.device_put(np.ones(LONG, np.float32), device) for _ in range(2))
        x = add(x, y).block_until_ready()
        end = time.perf_counter() + SECONDS / 2 / ARRAYS
        while time.perf_counter() < end:
            start = time.perf_counter()
            x = add(x, y).block_until_ready()
            best = max(best, 3 * x.nbytes / (time.perf_counter() - start))
    return best


def _model() -> str:
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
