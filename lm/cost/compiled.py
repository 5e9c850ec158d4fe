"""Compiles a program and tells what the compiler makes of it: memory, collectives, warnings."""

import contextlib
import os
import sys
import tempfile
import time
from typing import NamedTuple

import jax
from jax.experimental.compilation_cache import compilation_cache

from lm.cost import collectives, heap


class Compiled(NamedTuple):
    """A program and what is known of it; bytes are of one device."""

    run: object          # the executable
    seconds: float       # that compiling took
    arguments: int
    outputs: int         # those that do not take the place of arguments
    temporaries: int
    collectives: collectives.Collectives
    warnings: list[str]  # what the partitioner complained of

    @property
    def peak(self) -> int:
        """Bytes of all that is held at once at most."""
        return self.arguments + self.outputs + self.temporaries


# The partitioner's own words (spmd_partitioner.cc), where it finds no way from one sharding to
# another but to bring the whole array to every device.
WARNING = "nvoluntary full rematerialization"


def compile(lowered, folder=None) -> Compiled:
    """Returns jax's lowered program, compiled. What the compiler raises, it raises.

    folder: where the compiler puts its reports; with them temporaries are all of the memory that it
    reserves beside arguments and outputs, as it counts itself.
    """
    began = time.monotonic()
    with uncached(), heard() as lines:
        run = lowered.compile(heap.options(folder) if folder else None)
    seconds = time.monotonic() - began
    m = run.memory_analysis()
    outputs, temporaries = (m.output_size_in_bytes - m.alias_size_in_bytes, m.temp_size_in_bytes)
    reported = heap.read(folder) if folder else None
    if reported:
        temporaries = reported.total - m.argument_size_in_bytes - outputs
    try:
        found = collectives.read(run.as_text())
    except jax.errors.JaxRuntimeError as error:  # a libtpu that writes what this jax cannot read
        found = collectives.Collectives(unknown=[
            f"jax {jax.__version__} cannot read the program: {str(error).splitlines()[0]}"])
    return Compiled(run, seconds, m.argument_size_in_bytes, outputs, temporaries, found,
                    [line for line in lines if WARNING in line])


@contextlib.contextmanager
def uncached():
    """Within the context every program is compiled anew: a stored one gives no warnings."""
    kept = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # jax asks only once whether there is one
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", kept)
        compilation_cache.reset_cache()


@contextlib.contextmanager
def heard():
    """Gives a list that after the context holds the lines that were written to descriptor 2.

    That is where XLA's log goes, past sys.stderr. If the context is left by an error, they are
    passed on.
    """
    lines: list[str] = []
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        except BaseException:
            file.seek(0)
            os.write(kept, file.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()
