"""A mistake of the person is answered in one line that names the cause and the cure."""

import difflib
import sys
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. `lm` prints it as one line and exits with 2; it never shows a traceback."""

    status = 2


class Lost(UserError):
    """Another process or its host has failed: nothing to correct, but to be tried again."""

    status = 1


def say(text: str) -> None:
    """Prints what went wrong, in one line."""
    print(f"lm: {' '.join(text.split())}", file=sys.stderr, flush=True)


def nearest(name: str, names: Iterable[str]) -> str:
    """Returns `; did you mean 'x'?` for the name closest to `name`, or a list of all `names`."""
    names = sorted(names)
    close = difflib.get_close_matches(name, names, 1, 0.6)
    if not close and "." not in name:  # a field given without its room
        close = [n for n in names if n.rsplit(".", 1)[-1] == name][:1]
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; one of: {', '.join(names)}" if len(names) <= 40 else ""


def pick(choices: dict, name: str, what: str):
    """Returns choices[name]; an unknown name is an error that lists the known ones."""
    if name not in choices:
        raise UserError(f"unknown {what} '{name}'{nearest(name, choices)}")
    return choices[name]
