"""What a process asks of its machine before its first computation."""

import ctypes
import glob
import os
import sys

import jax

from lm.base import cache

# The options of mallopt (malloc.h) and what they are set to.
_MALLOPT = ((-4, 0),    # M_MMAP_MAX: no buffer is a mapping of its own ...
            (-1, -1))   # M_TRIM_THRESHOLD: ... and what is freed stays with the process


def settle() -> None:
    """Keeps compiled programs for the next process and, on a CPU, freed memory for the next step.

    To be called before jax starts. XLA:CPU takes its large buffers from malloc, which by default
    hands each one back to the system when it is freed, so that every step takes page faults for all
    of them: 28,000 and 70 ms of 140 in configs/quickstart.py. Programs run in the thread that calls
    them, since only the main thread's arena can grow to hold such buffers.
    """
    jax.config.update("jax_compilation_cache_dir", str(cache.root() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if sys.platform == "linux" and not _accelerated():
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; other libraries lack it
        for option, value in _MALLOPT if mallopt else ():
            mallopt(option, value)


def _accelerated() -> bool:
    """Whether there is a chip to compute on: asked of the system, since jax would start to tell."""
    if os.environ.get("JAX_PLATFORMS", "").startswith("cpu"):
        return False
    return any(glob.glob(path) for path in (
        "/dev/nvidia[0-9]*", "/dev/accel[0-9]*", "/dev/vfio/[0-9]*", "/dev/kfd"))
