"""What Orbax says, kept off the terminal, and what went wrong, in words."""

import errno
import functools
import logging
import os
import sys
import traceback
import warnings

_FREE, _OPEN = "free some and ", "make it writable and "
_CURES = {errno.ENOSPC: _FREE, errno.EDQUOT: _FREE,
          errno.EROFS: _OPEN, errno.EACCES: _OPEN, errno.EPERM: _OPEN}


def hush() -> None:
    """Drops the log lines and warnings of Orbax; every failure is told by an error of ours."""
    logging.getLogger("absl").addFilter(_not_orbax)
    logging.getLogger("asyncio").addFilter(_not_orbax_task)
    warnings.filterwarnings("ignore", module=r"orbax\.")
    sys.unraisablehook = functools.partial(_not_late, sys.unraisablehook)


def _not_orbax(record: logging.LogRecord) -> bool:
    return "/orbax/" not in record.pathname.replace(os.sep, "/")


def _not_orbax_task(record: logging.LogRecord) -> bool:
    """Of the arrays of a save that fail, Orbax hands on the first; asyncio would log the others."""
    error = record.exc_info[1] if record.exc_info else None
    frames = traceback.extract_tb(error.__traceback__) if error else ()
    places = (record.getMessage(), *(frame.filename for frame in frames))
    return not any("/orbax/" in place.replace(os.sep, "/") for place in places)


def _not_late(otherwise, unraisable) -> None:
    """Drops what threads of the array library tell, after a failed read, to a loop that ended."""
    if str(unraisable.exc_value) != "Event loop is closed":
        otherwise(unraisable)


def tell(line: str) -> None:
    """Prints one line on stderr."""
    print(line, file=sys.stderr, flush=True)


def brief(error: BaseException) -> str:
    """Returns an exception in one short line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:117] + '...' if len(text) > 120 else text}"


def cause(error: BaseException) -> tuple[str, str]:
    """Returns (what happened, what to do first or nothing) of a failed write, as phrases.

    The array library reports the system's errors only as text, so text is what is searched.
    """
    chain = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    for number, cure in _CURES.items():
        for link in chain:
            if getattr(link, "errno", None) == number or os.strerror(number) in str(link):
                return os.strerror(number).lower(), cure
    return brief(chain[0]), ""
