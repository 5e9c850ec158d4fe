"""The loop: a generator of steps, and a prefetching reader of what they measured."""

import math
from collections.abc import Callable, Iterator

from lm.base.errors import UserError
from lm.base.mean import Mean
from lm.train.step import State


def advance(step_fn: Callable, state: State, batches: Iterator, *, start: int,
            until: int) -> Iterator[tuple[int, State, dict[str, Mean]]]:
    """Yields (step, state, means) of each of steps start+1 .. until, as soon as it is dispatched.

    The arrays may still be in the making: whoever reads one waits for the device. A state is valid
    until the next one is asked for.
    """
    for step in range(start + 1, until + 1):
        state, means = step_fn(state, next(batches))
        yield step, state, means


def due(every: int, step: int, until: int) -> bool:
    """Returns whether something done every so many steps, and at the end, is due."""
    return step == until or (every > 0 and step % every == 0)


class Meter:
    """Adds up the means of the steps between two reports, reading each one step late.

    While the host reads the means of a step, the device works on the next.
    """

    def __init__(self, every: int, until: int, *, max_skipped: int, spike: float, pending=None):
        """pending: `sums` of a checkpoint, to go on within an interval."""
        self.every, self.until, self.max_skipped, self.spike = every, until, max_skipped, spike
        self.late: tuple[int, dict] | None = None
        self.sums = {name: Mean(*pair) for name, pair in (pending or {}).items()}
        self.seen, self.centre, self.spread = 0, 0.0, 0.0
        self.alarm = ""

    def add(self, step: int, means: dict[str, Mean]) -> dict | None:
        """Takes the means of `step`, reads those of the step before; returns `read`'s result."""
        late, self.late = self.late, (step, means)
        return self._read(*late) if late else None

    def flush(self) -> dict | None:
        """Reads the last step's means, waiting for the device; returns `read`'s result."""
        late, self.late = self.late, None
        return self._read(*late) if late else None

    def _read(self, step, means):
        """The averages since the last report when `step` is due for one; raises on divergence."""
        means = {name: Mean(float(m.total), float(m.count)) for name, m in means.items()}
        skipped = int(means["skipped"].total)
        if skipped >= self.max_skipped:
            raise UserError(
                f"step {step}: {skipped} steps in a row had a loss or gradient that is not finite; "
                "lower train.lr, lengthen train.warmup or look at the data, and train into another "
                "--run; the checkpoints until then are kept")
        overflowed = means.pop("overflowed", Mean(0.0, 1.0)).total > 0
        means["skipped"] = Mean(float(skipped > 0 or overflowed), 1.0)
        for name, mean in means.items():
            if math.isfinite(mean.total):
                self.sums[name] = self.sums[name] + mean if name in self.sums else mean
        self._watch(step, means["loss"].value, skipped)
        if not due(self.every, step, self.until):
            return None
        record = dict(step=step, **{name: mean.value for name, mean in self.sums.items()})
        record["skipped"] = round(self.sums["skipped"].total)  # a number of steps, not a mean
        self.sums = {}
        return record

    def _watch(self, step, loss, skipped):
        """Sets the alarm when the step was skipped or the loss leaps out of its recent range."""
        if skipped or not math.isfinite(loss):
            self.alarm = f"step {step}: the loss or its gradient is not finite; step skipped"
            return
        gap = loss - self.centre
        if (self.spike and self.seen > 50 and gap > self.spike * math.sqrt(self.spread)
                and gap > 0.1 * abs(self.centre)):
            self.alarm = (f"step {step}: loss {loss:.3f} leapt from a recent mean of "
                          f"{self.centre:.3f}")
        share = max(0.05, 1 / (self.seen + 1))
        self.centre += share * gap
        self.spread = (1 - share) * (self.spread + share * gap * gap)
        self.seen += 1
