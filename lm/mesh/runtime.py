"""What a process asks of its machine before its first computation."""

import ctypes
import os
import pathlib
import sys

import jax

# The options of mallopt (malloc.h) and what they are set to.
_MALLOPT = ((-8, 1),    # M_ARENA_MAX: one arena, which can grow and is kept
            (-4, 0),    # M_MMAP_MAX: no buffer is a mapping of its own ...
            (-1, -1))   # M_TRIM_THRESHOLD: ... and what is freed stays with the process


def settle() -> None:
    """Keeps compiled programs for the next process and, on a CPU, freed memory for the next step.

    Programs are kept in $LM_CACHE/xla or ~/.cache/lm/xla. XLA:CPU takes its large buffers from
    malloc, which by default hands each one back to the system when it is freed, so that every step
    takes page faults for all of them: a quarter of the time of a small step, most of it in
    the kernel.
    """
    root = os.environ.get("LM_CACHE") or "~/.cache/lm"
    jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(root).expanduser() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if sys.platform == "linux" and jax.default_backend() == "cpu":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; other libraries lack it
        for option, value in _MALLOPT if mallopt else ():
            mallopt(option, value)
