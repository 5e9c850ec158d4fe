"""The folder of what is made once per machine: tokenised corpora, compiled programs, CPU peaks."""

import os
import pathlib


def root(given: str = "") -> pathlib.Path:
    """Returns `given`, else $LM_CACHE, else ~/.cache/lm."""
    return pathlib.Path(given or os.environ.get("LM_CACHE") or "~/.cache/lm").expanduser()
