"""Programs compiled once per machine, not once per process."""

import os
import pathlib

import jax


def keep() -> None:
    """Turns on the persistent compilation cache, in $LM_CACHE/xla or ~/.cache/lm/xla."""
    root = os.environ.get("LM_CACHE") or "~/.cache/lm"
    jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(root).expanduser() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
