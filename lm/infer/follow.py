"""Many processes, one engine: the first schedules, the others run the same programs after it.

A step is a few thousand bytes: what the first sends to its devices, it sends to the others too, who
have compiled the same and hold the same. No device is asked what comes next.
"""

import base64
import zlib

import jax
import numpy as np

from lm.infer.engine import Engine
from lm.mesh import processes


def lead(engine: Engine) -> None:
    """From now on, tells the other processes all that this one's engine does."""
    for number, one in enumerate(_engines(engine)):
        one.tell = lambda name, *values, number=number: processes.from_first(
            lambda: [number, name, *map(_pack, values)])


def end() -> None:
    """Tells them that nothing more comes."""
    processes.from_first(lambda: None)


def follow(engine: Engine) -> None:
    """Does what the first process' engine does, until its end."""
    engines = _engines(engine)
    while (told := processes.from_first(lambda: None)) is not None:
        number, name, *values = told
        if number:
            engines[1].history_SC = engine.history_SC
        getattr(engines[number], name)(*map(_unpack, values))
        if number:
            engine.history_SC = engines[1].history_SC


def many() -> bool:
    """Returns whether other processes compute with this one."""
    return jax.process_count() > 1


def _engines(engine):
    return [engine] + ([engine.draft.engine] if engine.draft else [])


def _pack(value):
    if not isinstance(value, np.ndarray):
        return value
    return [str(value.dtype), base64.b85encode(zlib.compress(value.tobytes(), 1)).decode()]


def _unpack(value):
    if not isinstance(value, list):
        return value
    return np.frombuffer(zlib.decompress(base64.b85decode(value[1])), value[0])
