"""What a process asks of its machine before its first computation."""

import ctypes
import sys

import jax

from lm.base import cache

# The options of mallopt (malloc.h) and what they are set to.
_MALLOPT = ((-8, 1),    # M_ARENA_MAX: one arena, which can grow and is kept
            (-4, 0),    # M_MMAP_MAX: no buffer is a mapping of its own ...
            (-1, -1))   # M_TRIM_THRESHOLD: ... and what is freed stays with the process


def settle() -> None:
    """Keeps compiled programs for the next process and, on a CPU, freed memory for the next step.

    XLA:CPU takes its large buffers from malloc, which by default hands each one back to the system
    when it is freed, so that every step takes page faults for all of them: 13,000 in the small
    shape of benchmarks/train_step.py, whose step took 48 ms so and 34 ms without.
    """
    jax.config.update("jax_compilation_cache_dir", str(cache.root() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if sys.platform == "linux" and jax.default_backend() == "cpu":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; other libraries lack it
        for option, value in _MALLOPT if mallopt else ():
            mallopt(option, value)
