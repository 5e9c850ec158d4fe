"""Where many processes meet before jax starts, and how each learns that another is gone.

jax ends a process that waits in vain with a stack trace that names nobody, and takes a hundred
seconds to miss one that has died. A connection between process 0 and each other one knows better:
the system closes it in the instant in which a process ends, however it ends.
"""

import contextlib
import json
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator

from lm.base.errors import Lost, UserError
from lm.mesh.cluster import Cluster

# A host that lost its power or its network closes nothing. The systems at both ends ask each other,
# however busy the processes are, and give up after 20 s.
_KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 20_000}


class Rendezvous:
    """The connections of one process, open until `close`; what others say, process 0 passes on."""

    def __init__(self, cluster: Cluster, wait: float, alarm: Callable[[str, int], None]):
        """Returns when all have arrived; raises Lost, that names one, if not within `wait` s.

        alarm: called once, from a thread, when another process has failed: with what happened and
        an exit status. It should end this process.
        """
        self.cluster, self._alarm = cluster, alarm
        self.failed = threading.Event()     # another process, or this one
        self._lock = threading.Lock()
        self._told: queue.Queue = queue.Queue()
        self._lines: dict[int, _Line] = {}  # by process: of process 0 all others, else it alone
        (self._go if cluster.index else self._gather)(wait)
        for index in self._lines:
            threading.Thread(target=self._listen, args=[index], daemon=True).start()

    def tell(self, value) -> None:
        """As process 0, gives all others a value of JSON, for their `hear`."""
        self._send(dict(told=value))

    def hear(self):
        """Returns what process 0 tells next, whenever that is."""
        return self._told.get()

    def close(self, text: str = "", status: int = 0) -> None:
        """Says goodbye. text, status: how this process failed; then all others end too."""
        self.failed.set()
        self._send(dict(ended=self.cluster.index, text=text, status=status))
        if text:
            self._outlive()
        for line in self._lines.values():
            line.close()

    def _gather(self, wait):
        """As process 0, waits for all others."""
        c, end = self.cluster, time.monotonic() + wait
        with server(c.coordinator) as door:
            while len(self._lines) < c.count - 1:
                door.settimeout(max(end - time.monotonic(), 0.01))
                try:
                    line = _Line(door.accept()[0])
                except TimeoutError:
                    self._refuse(_absent(c, self._lines, wait))
                try:
                    hello = line.first(5)
                    index, count, line.host = (hello[k] for k in ("index", "count", "host"))
                except (OSError, ValueError, KeyError, TypeError):
                    continue  # somebody else's program
                self._admit(line, index, count)
        hosts = (socket.gethostname(), *(self._lines[i].host for i in range(1, c.count)))
        self.cluster = c._replace(hosts=hosts)
        self.tell(hosts)

    def _admit(self, line, index, count):
        """Takes a process that has arrived, unless it cannot be one of these."""
        c, known = self.cluster, self._lines.get(index)
        self._lines[index] = line
        if count != c.count or not 0 < index < c.count:
            self._refuse(UserError(f"{line.host} was told that it is process {index} of {count}, "
                                   f"and process 0 that there are {c.count}; tell all the same"))
        if known:
            self._lines[-1] = known  # it has to hear of it too
            self._refuse(UserError(f"two are process {index} of {c.count}, on {known.host} and on "
                                   f"{line.host}; give each a number of its own"))

    def _refuse(self, error):
        self._send(dict(refused=str(error), status=error.status))
        raise error

    def _go(self, wait):
        """As another process, goes to where process 0 waits."""
        c = self.cluster
        connection = reach(c.coordinator, wait)
        if connection is None:
            raise Lost(f"{c.name(0)} has not arrived: nobody answered at {c.coordinator} within "
                       f"{wait:g} s; start it, or correct mesh.coordinator")
        line = self._lines[0] = _Line(connection)
        try:
            line.write(dict(index=c.index, count=c.count, host=socket.gethostname()))
            heard = line.first(wait + 5)  # process 0 may have begun to wait just now
        except OSError:
            raise Lost(f"{c.name(0)} ended before all had arrived; see what it said") from None
        if "refused" in heard:
            kind = Lost if heard["status"] == Lost.status else UserError
            raise kind(heard["refused"])
        self.cluster = c._replace(hosts=tuple(heard["told"]))

    def _listen(self, index):
        """Hears what comes from one process until it ends."""
        for message in self._lines[index].messages():
            if "told" in message:
                self._told.put(message["told"])
                continue
            if message["ended"] == index:
                self._lines[index].open = False
            if message["text"]:
                self._fail(message)
            return
        self._fail(dict(ended=index, text="died", status=Lost.status))

    def _fail(self, message):
        """Passes the first bad news on and sounds the alarm."""
        with self._lock:
            if self.failed.is_set():
                return
            self.failed.set()
        if self.cluster.index == 0:
            self._send(message)
            self._outlive()
        self._alarm(f"{self.cluster.name(message['ended'])} {message['text']}", message["status"])

    def _outlive(self):
        """As process 0, lets the others end first.

        It holds what their jax is connected to: without that they end before they can say why.
        """
        end = time.monotonic() + 3
        while self.cluster.index == 0 and time.monotonic() < end and any(
                line.open for line in self._lines.values()):
            time.sleep(0.02)

    def _send(self, message):
        for line in self._lines.values():
            with contextlib.suppress(OSError):
                line.write(message)


class _Line:
    """A connection on which each message is a line of JSON."""

    def __init__(self, connection: socket.socket):
        self.host, self.open = "", True
        self._socket, self._file = connection, connection.makefile("r", encoding="utf-8")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):  # not every system can be told
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def write(self, message: dict) -> None:
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def first(self, wait: float) -> dict:
        """Returns the first message; raises OSError where none comes within `wait` s."""
        self._socket.settimeout(wait)
        line = self._file.readline()
        self._socket.settimeout(None)
        if not line:
            raise ConnectionError("closed")
        return json.loads(line)

    def messages(self) -> Iterator[dict]:
        """Yields messages until the other end is gone."""
        with contextlib.suppress(OSError):
            for line in self._file:
                yield json.loads(line)
        self.open = False

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


def reach(address: str, wait: float) -> socket.socket | None:
    """Returns a connection to HOST:PORT, tried for `wait` s; None if nobody answers."""
    host, port = address.rsplit(":", 1)
    end = time.monotonic() + wait
    while (left := end - time.monotonic()) > 0:
        try:
            return socket.create_connection((host.strip("[]"), int(port)), timeout=left)
        except OSError:  # nobody there yet, or the name of a host that is not known yet
            time.sleep(min(0.2, left))
    return None


def server(address: str) -> socket.socket:
    """Returns a socket that listens on the port of HOST:PORT, on all of this host's addresses."""
    port = int(address.rsplit(":", 1)[1])
    try:
        both = socket.has_dualstack_ipv6()
        return socket.create_server(("", port), dualstack_ipv6=both, backlog=1024,
                                    family=socket.AF_INET6 if both else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise UserError(f"process 0 cannot wait for the others on port {port}: {error}; give "
                        "mesh.coordinator another port") from None


def _absent(c, arrived, wait):
    missing = [i for i in range(1, c.count) if i not in arrived]
    names = ", ".join(c.name(i) for i in missing[:8]) + (", ..." if len(missing) > 8 else "")
    return Lost(f"{names} {'has' if len(missing) == 1 else 'have'} not arrived within {wait:g} s; "
                "look there, or start all again with as many as there are")
