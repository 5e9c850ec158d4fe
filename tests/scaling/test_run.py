"""A ladder trained by processes of its own: stopped, gone on with, failed."""

import json
import os
import pathlib
import signal
import threading

import pytest

from lm.scaling import ladder
from lm.scaling import run as running


@pytest.fixture
def small(lm, tiny, tmp_path):
    """A ladder of two runs of about a hundred steps."""
    ended = lm("scaling", "design", tiny, "--budget=3e8,4e8", "--sizes=1", "--ratio=3",
               f"--out={tmp_path / 'ladder'}", "--config.train.tensorboard=false",
               "--config.train.evaluate_every=50", "--config.train.save_every=20")
    assert ended.code == 0, ended.err
    return tmp_path / "ladder"


def test_stopped_it_goes_on_and_done_it_does_nothing(small, start, lm, until, monkeypatch):
    first, second = ladder.read(small).rungs
    process = start("scaling", "run", small)
    until(process, lambda: (small / first.run / "metrics.jsonl").exists())
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, (out, err)
    assert f"the same command continues: lm scaling run {small}" in out
    assert "Traceback" not in err
    assert not (small / second.run).exists()
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"].replace("count=8", "count=1"))
    ended = lm("scaling", "run", small)
    assert ended.code == 0, ended
    for rung in (first, second):
        result = json.loads((small / rung.run / "result.json").read_text())
        assert result["step"] == rung.steps
        assert f"{rung.run:24s}  loss {result['validation_loss']:.4f}" in ended.out
    assert f"all 2 runs are there; next: lm scaling fit {small}" in ended.out
    again = lm("scaling", "run", small)
    assert again.out.startswith("2 of 2 runs are there")


@pytest.mark.slow
def test_a_run_that_fails_is_named_and_the_others_are_trained(small, lm):
    first, second = ladder.read(small).rungs
    (small / f"{first.run}.py").write_text("mistaken")
    ended = lm("scaling", "run", small, "--jobs=2")
    assert ended.code == 2
    assert ended.err == (f"lm: {first.run} failed: see the end of {small / first.run}.log; mend it "
                         "and give the same command\n")
    assert (small / second.run / "result.json").exists()
    assert "does not make a config" in (small / f"{first.run}.log").read_text()


def test_no_ladder(refused, tmp_path):
    refused("scaling", "run", tmp_path, says=["holds no ladder", "lm scaling design"])
    refused("scaling", "run", says="LADDER is missing")


class Child:
    """A training that ends at so many signals, and does something as it is started and is told."""

    most, began, told = 1, staticmethod(lambda: None), staticmethod(lambda: None)

    def __init__(self, *_, **__):
        self.seen, self.ended = [], threading.Event()
        type(self).last = self
        self.began()

    def send_signal(self, number):
        self.seen.append(number)
        if len(self.seen) == self.most:
            self.ended.set()
        self.told()

    def wait(self):
        return 130 if self.ended.wait(5) else 0


@pytest.fixture
def child(monkeypatch):
    """The class that takes the place of processes; signals are as they were when it goes."""
    numbers = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
    old = [signal.getsignal(n) for n in numbers]
    signal.signal(signal.SIGHUP, signal.default_int_handler)   # were it not handled: still no death
    own = type("Own", (Child,), {})
    monkeypatch.setattr(running.subprocess, "Popen", own)
    yield own
    for number, handler in zip(numbers, old, strict=True):
        signal.signal(number, handler)


def soon(number):
    """Sends this process a signal after a moment."""
    threading.Timer(0.2, os.kill, (os.getpid(), number)).start()


def test_a_terminal_that_goes_stops_it(small, lm, child, monkeypatch):
    asked = {}
    monkeypatch.setattr(running.signal, "signal", lambda n, f: asked.update({n: f}))
    child.began = staticmethod(lambda: soon(signal.SIGHUP))
    ended = lm("scaling", "run", small)
    assert ended.code == 130
    assert child.last.seen == [signal.SIGINT]
    assert asked[signal.SIGHUP] is asked[signal.SIGTERM] is signal.default_int_handler
    asked.clear()
    monkeypatch.setattr(running.signal, "getsignal", lambda n: signal.SIG_IGN)   # by nohup
    lm("scaling", "run", small)
    assert signal.SIGHUP not in asked


def test_a_second_signal_is_passed_on(small, lm, child):
    child.most, first = 2, []
    child.began = staticmethod(lambda: soon(signal.SIGINT))
    child.told = staticmethod(lambda: first or first.append(soon(signal.SIGINT)))
    ended = lm("scaling", "run", small)
    assert ended.code == 130
    assert child.last.seen == [signal.SIGINT] * 2
    assert "the same command continues" in ended.out


def test_a_run_that_is_just_starting_is_stopped_too(tmp_path, child):
    rung = ladder.Rung("a", 1.0, False, 1, 1, 1, 1.0, 1.0, 1, 1, {})
    trained = running.Trained(pathlib.Path(tmp_path), ladder.Ladder("6N", [rung]), [rung])
    stopping = threading.Thread(target=trained.stop)

    def began():
        stopping.start()
        stopping.join(0.2)
    child.began = staticmethod(began)
    assert trained(rung) == 130
    assert child.last.seen == [signal.SIGINT]
    assert trained(rung) == 0   # no more are started
