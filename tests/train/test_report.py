"""What a run says to a pipe, to its record and to TensorBoard; and that a terminal gets a bar."""

import io
import json
import struct

import pytest
from rich.console import Console
from tensorboardX.crc32c import crc32c
from tensorboardX.proto import event_pb2

from lm.train import report as module
from lm.train.report import Report

COMMON = dict(start=0, until=100, tokens_per_step=50, flops_per_token=1000.0, peak=1e6,
              convention="matmul+causal", tensorboard=False)


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    class Clock:
        now = 1000.0

        def perf_counter(self):
            return self.now

        def time(self):
            return 1e9 + self.now
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def record(step, **more):
    return dict(step=step, loss=2.5, gradient_norm=1.0, skipped=0) | more


def told(tmp_path, clock, terminal=False, **choices):
    """What is printed and written by a run of a few reports; 10 steps take 2 s."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=120, highlight=False)
    report = Report(tmp_path, console=console, **(COMMON | choices))
    report.tick(1)
    clock.now += 2
    report.train(record(11))
    with report.paused():
        clock.now += 500
        report.write(dict(step=11, validation_loss=2.25))
        report.say("step 11  validation loss [bold]")
    clock.now += 2
    report.train(record(21, skipped=3))
    report.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    return out.getvalue(), [json.loads(line) for line in lines]


def test_plain_lines_in_a_pipe(tmp_path, clock):
    text, _ = told(tmp_path, clock)
    assert text == (
        "step 11/100  loss 2.5000  250 tok/s  utilisation 25.0% (matmul+causal)  left 0m18s\n"
        "step 11  validation loss [bold]\n"
        "step 21/100  loss 2.5000  250 tok/s  utilisation 25.0% (matmul+causal)  left 0m16s"
        "  skipped 3\n")


def test_unknown_peak(tmp_path, clock):
    text, records = told(tmp_path, clock, peak=None)
    assert text.count("utilisation - (matmul+causal)") == 2
    assert not any("utilisation" in r for r in records)


def test_a_bar_on_a_terminal(tmp_path, clock):
    text, _ = told(tmp_path, clock, terminal=True)
    assert "\x1b[" in text and "━" in text and "validation loss [bold]" in text
    assert "step 21/100  loss 2.5000  250 tok/s" in text


def test_the_record(tmp_path, clock):
    """Averages, tokens so far, speed without what was paused, and the wall clock."""
    _, records = told(tmp_path, clock)
    assert records == [
        record(11, tokens=550, tokens_per_second=250.0, utilisation=0.25, time=1000001002.0),
        dict(step=11, validation_loss=2.25, time=1000001502.0),
        record(21, skipped=3, tokens=1050, tokens_per_second=250.0, utilisation=0.25,
               time=1000001504.0)]


def test_going_on_drops_what_will_be_made_again(tmp_path, clock):
    told(tmp_path, clock)
    report = Report(tmp_path, **(COMMON | dict(start=11)), console=Console(file=io.StringIO()))
    report.train(record(12))
    report.close()
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").open()]
    assert steps == [11, 11, 12]


def test_the_first_report_has_no_speed(tmp_path, clock):
    """Nothing is known before a step after the one that compiled."""
    out = io.StringIO()
    report = Report(tmp_path, console=Console(file=out, width=120), **COMMON)
    report.tick(1)
    clock.now += 100
    report.train(record(1))
    report.close()
    assert out.getvalue() == "step 1/100  loss 2.5000\n"


def test_an_interval_without_a_finite_step(tmp_path, clock):
    out = io.StringIO()
    report = Report(tmp_path, console=Console(file=out, width=120), **COMMON)
    report.train(dict(step=2, skipped=2))
    report.close()
    assert "step 2/100  loss nan  skipped 2" in out.getvalue()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail)["skipped"] == 2  # strict JSON: no NaN


def events(path):
    """The events of a TensorBoard file by its framing: length, its crc, data, its crc."""
    assert crc32c(b"123456789") == 0xE3069283  # the check value of the standard

    def masked(data):
        crc = crc32c(data)
        return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    data, at = path.read_bytes(), 0
    while at < len(data):
        length, check = struct.unpack_from("<QI", data, at)
        assert check == masked(data[at:at + 8])
        body = data[at + 12:at + 12 + length]
        assert struct.unpack_from("<I", data, at + 12 + length)[0] == masked(body)
        yield event_pb2.Event.FromString(body)
        at += 16 + length


def test_tensorboard(tmp_path, clock):
    """Every number of the record is a scalar at its step, in files that TensorBoard reads."""
    _, records = told(tmp_path, clock, tensorboard=True)
    (path,) = (tmp_path / "tensorboard").iterdir()
    seen = {}
    for event in events(path):
        for value in event.summary.value:
            seen[value.tag, event.step] = value.simple_value
    for one in records:
        for name, value in one.items():
            if name not in ("step", "time"):
                assert seen.pop((name, one["step"])) == pytest.approx(value)
    assert not seen


def test_a_resumed_run_purges_later_events(tmp_path, clock):
    told(tmp_path, clock, tensorboard=True)
    Report(tmp_path, **(COMMON | dict(start=11, tensorboard=True)),
           console=Console(file=io.StringIO())).close()
    purges = [event.step for path in (tmp_path / "tensorboard").iterdir() for event in events(path)
              if event.HasField("session_log")]
    assert purges == [11 + 1]  # TensorBoard drops what it has of this step and later ones


def test_what_each_step_took(tmp_path, clock):
    """Without the first, which compiles, and without what was paused."""
    report = Report(tmp_path, console=Console(file=io.StringIO()), **COMMON)
    for step, seconds, pause in ((1, 90, 5), (2, 2, 0), (3, 3, 700), (4, 4, 0)):
        clock.now += seconds
        report.tick(step)
        with report.paused():
            clock.now += pause
    report.close()
    assert list(report.seconds) == [2, 3, 4]
