"""Of what is logged of tasks, only Orbax's own is dropped, by its message or its traceback."""

import logging
import sys

from lm.checkpoint import quiet


def logged(file):
    """A record of asyncio's of an error that was raised in a file."""
    space = {}
    exec(compile("def fail():\n    raise ValueError('no room')", file, "exec"), space)
    try:
        space["fail"]()
    except ValueError:
        return logging.LogRecord("asyncio", logging.ERROR, "", 0, "never retrieved", (),
                                 sys.exc_info())


def test_whose_task_it_was():
    assert not quiet._not_orbax_task(logged("/there/orbax/checkpoint/serialization.py"))
    assert quiet._not_orbax_task(logged("/there/other/checkpoint.py"))
    plain = logging.LogRecord("asyncio", logging.ERROR, "", 0, "slow callback", (), None)
    assert quiet._not_orbax_task(plain)
