"""Many processes as one: they meet, compute together, and end together.

What only one of them is to do, the first does, and what it prints is what a person sees.
"""

import contextlib
import ctypes
import glob
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lm.base.errors import Lost, UserError, say
from lm.mesh.cluster import find, metadata
from lm.mesh.config import Config
from lm.mesh.rendezvous import Rendezvous, reach, server

_meeting: Rendezvous | None = None  # one for a process, as jax has one such state for a process


@contextlib.contextmanager
def joined(config: Config) -> Iterator[None]:
    """Makes this process one of those that `find` finds; to be entered before jax starts.

    Raises UserError if they do not all arrive. From then on, one that fails or dies ends them all:
    each says which it was, and none gets out of the context alive.
    """
    global _meeting
    chips = glob.glob("/dev/accel[0-9]*") + glob.glob("/dev/vfio/[0-9]*")
    cluster = find(config, os.environ, metadata if chips else None)
    if cluster is None:
        yield
        return
    _divert(cluster.index == 0)
    print(f"process {cluster.index} of {cluster.count} ({cluster.source}); coordinator "
          f"{cluster.coordinator}", flush=True)
    _meeting = Rendezvous(cluster, config.wait, _alarm)
    try:
        _start(_meeting.cluster)
        yield
        jax.distributed.shutdown()
        _meeting.close()
    except BaseException as error:
        _end(error)
    finally:
        _meeting = None


def first() -> bool:
    """Whether this process is the one that writes and prints; true for one that is alone."""
    return _meeting is None or _meeting.cluster.index == 0


def name() -> str:
    """Returns e.g. `process 1 of 4 (host1)`."""
    return _meeting.cluster.name(_meeting.cluster.index) if _meeting else "this process"


def from_first(make: Callable):
    """Returns what `make` returns on the first process, the only one that calls it; plain JSON.

    The others wait for it, however long it takes. All processes call this in the same order.
    """
    if not first():
        return _meeting.hear()
    value = make()
    if _meeting:
        _meeting.tell(value)
    return value


def in_turn(make: Callable):
    """Returns what `make` returns here; the others call it when the first process has."""
    value = make() if first() else None
    from_first(lambda: None)
    return value if first() else make()


class Highest:
    """Gives all processes the highest of the numbers that they give, in the same step.

    Nobody waits for it: with many processes the answer is that of the call before, which was
    computed with the step before.
    """

    def __init__(self, mesh: Mesh):
        self._mesh, self._late = mesh, None
        whole = NamedSharding(mesh, PartitionSpec())
        self._each = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._max = jax.jit(jnp.max, out_shardings=whole)

    def __call__(self, number: int) -> int:
        """Takes this process's number >= 0; to be called by all, step for step."""
        if _meeting is None:
            return number
        numbers = jax.make_array_from_callback(
            (self._mesh.size,), self._each, lambda index: np.full(1, number, np.int32))
        late, self._late = self._late, self._max(numbers)
        return 0 if late is None else int(late)


def _divert(first):
    """Keeps for the first process's words what was the standard output.

    Libraries write there too, gloo for one; that comes with the errors.
    """
    kept = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sys.stdout = open(kept if first else os.devnull, "w",  # noqa: SIM115 (open to the end)
                      buffering=1 if os.isatty(kept) else -1, encoding=sys.stdout.encoding)


def _start(cluster):
    """Starts jax's own service on process 0, at the port after the rendezvous', and joins it."""
    host, port = cluster.coordinator.rsplit(":", 1)
    address = f"{host}:{int(port) + 1}"
    if cluster.index == 0:
        server(address).close()  # jax does not say that a port is taken
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM away
    # When process 0 dies, jax aborts the others in the instant in which `_alarm` is called. The
    # signal's number, 6, is how many seconds that gets for it.
    libc = ctypes.CDLL(None)
    libc.signal(signal.SIGABRT, ctypes.cast(libc.sleep, ctypes.c_void_p))
    if cluster.index:
        opened = reach(address, 30)
        if opened is None:
            raise Lost(f"{cluster.coordinator} can be reached, {address} cannot: both ports have "
                       "to be open between the hosts")
        opened.close()
    jax.distributed.initialize(
        address, cluster.count, cluster.index, cluster_detection_method="deactivate",
        local_device_ids=None if cluster.local is None else [cluster.local])


def _alarm(text, status):
    """Ends this process because of another."""
    # What jax has to say of it, in pages, may come at the same time; the last word is to be this.
    kept, nowhere = os.dup(sys.stderr.fileno()), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stderr.fileno())
    sys.stderr = open(kept, "w", encoding=sys.stderr.encoding)  # noqa: SIM115 (open to the end)
    say(f"{text}; this process ends too" + (
        "; run the same command again" if status == Lost.status else ""))
    _exit(status)


def _end(error):
    """Ends this process, and with it all others, because of what was raised here."""
    text, status = "interrupted", 130
    if not isinstance(error, KeyboardInterrupt):
        if _meeting.failed.wait(2):  # it is the consequence of another's end: `_alarm` speaks
            time.sleep(30)
        status = error.status if isinstance(error, UserError) else Lost.status
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        if not isinstance(error, UserError):
            traceback.print_exception(error)
    say(text)
    _meeting.close(f"ended: {text}", status)
    _exit(status)


def _exit(status):
    """Ends the process now: jax, at its usual end, would wait for those that are gone."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(status)
