"""Processes that meet, as threads: who is missed, who is refused, and what ends them all."""

import contextlib
import queue
import socket
import threading
import time

import pytest

from lm.base.errors import Lost, UserError
from lm.mesh.cluster import Cluster
from lm.mesh.rendezvous import Rendezvous, server


@pytest.fixture
def port():
    with socket.create_server(("", 0)) as taken:
        return taken.getsockname()[1]


class Process(threading.Thread):
    """One of those that meet: what it became, and what its alarm said."""

    def __init__(self, port, index, count, wait=20.0):
        super().__init__(daemon=True)
        self.cluster = Cluster(index, count, f"localhost:{port}", "test")
        self.wait, self.alarms = wait, queue.Queue()
        self.here = self.error = None
        self.start()

    def run(self):
        try:
            self.here = Rendezvous(self.cluster, self.wait, lambda *said: self.alarms.put(said))
        except UserError as error:
            self.error = error

    def end(self):
        self.join(20)
        assert not self.is_alive()
        return self

    def die(self):
        """As the system does it: without a word."""
        self.here.failed.set()
        for line in self.here._lines.values():
            line.close()


def met(port, count):
    return [p.end() for p in [Process(port, i, count) for i in reversed(range(count))]][::-1]


def test_all_arrive_and_hear_the_first(port):
    late = Process(port, 1, 3)
    time.sleep(0.3)  # it comes before there is anybody to come to
    first, third = Process(port, 0, 3), Process(port, 2, 3)
    processes = [p.end().here for p in (first, late, third)]
    for value in (7, {"a": [1, None]}):
        processes[0].tell(value)
        assert processes[1].hear() == value == processes[2].hear()
    for p in processes:
        assert socket.gethostname() in p.cluster.name(2)


def test_one_that_never_arrives_is_named_to_all_that_did(port):
    first, second = Process(port, 0, 4, wait=1.0), Process(port, 1, 4, wait=1.0)
    start = time.monotonic()
    for p in (first, second):
        p.end()
        assert isinstance(p.error, Lost)
        assert "process 2 of 4" in str(p.error)
        assert "process 3 of 4" in str(p.error)
        assert "within 1 s" in str(p.error)
    assert time.monotonic() - start < 5


def test_the_first_never_arrives(port):
    p = Process(port, 1, 2, wait=0.5).end()
    assert isinstance(p.error, Lost)
    assert "process 0 of 2 has not arrived" in str(p.error)
    assert f"localhost:{port}" in str(p.error)


def test_a_stranger_is_no_process(port):
    first = Process(port, 0, 2)
    for words in (b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b""):
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(
                ("localhost", port)) as stranger:
            stranger.sendall(words)
    assert Process(port, 1, 2).end().here
    assert first.end().here


@pytest.mark.parametrize("others, says", [
    ([(1, 3)], "process 1 of 3, and process 0 that there are 4"),
    ([(1, 4), (1, 4)], "two are process 1 of 4"),
])
def test_processes_that_were_told_different_things(port, others, says):
    everybody = [Process(port, 0, 4), *(Process(port, *other) for other in others)]
    for p in everybody:
        assert says in str(p.end().error)
        assert p.error.status == 2


def test_the_port_is_taken(port):
    with server(f"localhost:{port}"):
        assert "mesh.coordinator another port" in str(Process(port, 0, 2).end().error)


@pytest.mark.parametrize("victim", [0, 1])
def test_one_that_dies_ends_all_others(port, victim):
    processes = met(port, 3)
    processes[victim].die()
    for p in reversed(processes):  # the first waits for the others
        if p is not processes[victim]:
            text, status = p.alarms.get(timeout=10)
            assert text.startswith(f"process {victim} of 3 (")
            assert text.endswith("died")
            assert status == 1
            p.die()  # as its alarm is there to do
    assert all(p.alarms.empty() for p in processes if p is not processes[victim])


@pytest.mark.parametrize("victim", [0, 2])
def test_one_that_fails_says_why(port, victim):
    processes = met(port, 3)
    threading.Thread(target=processes[victim].here.close, args=["ended: no room", 2]).start()
    for p in reversed(processes):
        if p is not processes[victim]:
            text, status = p.alarms.get(timeout=10)
            assert text.startswith(f"process {victim} of 3 (")
            assert "ended: no room" in text
            assert status == 2
            p.die()


def test_a_goodbye_is_no_alarm(port):
    processes = met(port, 3)
    for p in processes:
        p.here.close()
    time.sleep(0.3)
    assert all(p.alarms.empty() for p in processes)
