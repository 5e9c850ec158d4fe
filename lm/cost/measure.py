"""The peak of this machine's CPU, which nobody publishes, measured once and remembered."""

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

SECONDS = 1.2  # of measuring; compiling comes on top


@functools.cache
def cpu() -> Chip:
    """Returns this machine as a Chip named `cpu`: all its cores, however many jax devices.

    The peak is the fastest float32 matrix product seen, by XLA or by numpy's BLAS, whichever is
    faster here: the figure is to be the machine's, not that of the software being judged. Kept in
    $LM_CACHE (~/.cache/lm) for this processor, number of cores and version of jax; a machine that
    was busy then looks slower than it is, and deleting the file measures again.
    """
    folder = cache.root()
    path, key = folder / "cpu_peak.json", f"{_processor()}, {_cores()} cores, jax {jax.__version__}"
    known = {}
    with contextlib.suppress(OSError, UserError):
        known = read_json(path)
    if not isinstance(known, dict) or not isinstance(known.get(key), float):
        known = {**(known if isinstance(known, dict) else {}), key: _peak()}
        with contextlib.suppress(OSError):  # a read-only home only costs the time again
            folder.mkdir(parents=True, exist_ok=True)
            write_json(path, known)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Chip("cpu", ("cpu",), {"f32": known[key]}, memory, hbm_bandwidth=None)


def _peak() -> float:
    # A mesh of its own: that in use may be of many processes.
    alone = jax.sharding.Mesh(np.array(jax.local_devices(backend="cpu")[:1]), ("all",))
    with jax.set_mesh(alone):
        return _fastest(alone.devices[0])


def _fastest(device) -> float:
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


def _cores() -> int:
    known = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
