"""What a run says: `metrics.jsonl` is the record, TensorBoard beside it, a bar or lines to see."""

import collections
import contextlib
import pathlib
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from lm.base.records import Lines
from lm.train.events import Events

LATEST = 1000   # steps whose own time is kept


class Terminal(Console):
    """Where a run is shown; if its reader goes away, the run goes on in silence."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class Report:
    """Writes records as they come; on a terminal it shows a live bar, in a pipe plain lines."""

    def __init__(self, directory: pathlib.Path | None, *, start: int, until: int,
                 tokens_per_step: int, flops_per_token: float, peak: float | None, convention: str,
                 tensorboard: bool, console: Console | None = None):
        """directory: None to keep nothing, as all processes but the first do.

        peak: FLOP/s of all devices together or None. convention: how FLOPs are counted.
        """
        self.until, self.tokens_per_step, self.peak = until, tokens_per_step, peak
        self.flops_per_token, self.convention = flops_per_token, convention
        self.lines = Lines(directory / "metrics.jsonl", keep_until=start) if directory else None
        self.events = (Events(directory / "tensorboard", start)
                       if directory and tensorboard else None)
        self.console = console or Terminal(highlight=False)
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"),
            console=self.console, disable=not self.console.is_terminal, refresh_per_second=4)
        self.task = self.bar.add_task("train", total=until, completed=start, text="compiling")
        self.bar.start()
        self.began: tuple[float, int] | None = None
        self.pauses = 0.0
        self.last = 0.0
        self.seconds: collections.deque[float] = collections.deque(maxlen=LATEST)

    def tick(self, step: int) -> None:
        """Keeps how long a step took; the first, which compiles, starts the clock."""
        now = time.perf_counter()
        if self.began is None:
            self.began = (now, step)
        else:
            self.seconds.append(now - self.last)
        self.last = now

    @contextlib.contextmanager
    def paused(self):
        """What is done within is not counted as training time."""
        start = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - start
            self.pauses += took
            self.last += took

    def train(self, record: dict) -> None:
        """Writes and shows the averages of an interval of steps, with its speed."""
        step = record["step"]
        speed = self._speed(step)
        record = dict(record, tokens=step * self.tokens_per_step)
        if speed:
            record["tokens_per_second"] = speed
            if self.peak:
                record["utilisation"] = speed * self.flops_per_token / self.peak
        self.write(record)
        text = self._text(record)
        self.bar.update(self.task, completed=step, text=text)
        if self.bar.disable:
            self.console.print(text, soft_wrap=True)

    def _speed(self, step):
        now = time.perf_counter()
        if self.began is None or step <= self.began[1]:
            return None
        seconds = now - self.began[0] - self.pauses
        speed = (step - self.began[1]) * self.tokens_per_step / max(seconds, 1e-9)
        self.began, self.pauses = (now, step), 0.0
        return speed

    def _text(self, record):
        step, speed = record["step"], record.get("tokens_per_second")
        loss = record.get("loss", float("nan"))  # absent where no step since the last was finite
        text = f"step {step}/{self.until}  loss {loss:.4f}"
        if speed:
            left = (self.until - step) * self.tokens_per_step / speed
            used = record.get("utilisation")
            share = f"{used:.1%}" if used is not None else "-"
            text += (f"  {_short(speed)} tok/s  utilisation {share} ({self.convention})"
                     f"  left {_clock(left)}")
        if "loss_scale" in record:
            text += f"  loss scale {record['loss_scale']:.0f}"
        if record["skipped"]:
            text += f"  skipped {record['skipped']}"
        return text

    def write(self, record: dict) -> None:
        """Appends a record to metrics.jsonl and TensorBoard."""
        if self.lines:
            self.lines.write(dict(record, time=round(time.time(), 3)))
        if self.events:
            self.events.write(record)

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        self.console.print(text, soft_wrap=True, markup=False)

    def close(self) -> None:
        self.bar.stop()
        if self.lines:
            self.lines.close()
        if self.events:
            self.events.close()


def _short(number):
    return f"{number / 1e6:.2f}M" if number >= 1e6 else (
        f"{number / 1e3:.1f}k" if number >= 1e3 else f"{number:.0f}")


def _clock(seconds):
    seconds = round(seconds)
    hours, minutes = seconds // 3600, seconds // 60 % 60
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds % 60:02d}s"
