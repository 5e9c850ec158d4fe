"""What a run shows of its own speed and memory when it ends."""

from typing import NamedTuple

from lm.experiment import trial
from lm.experiment.config import Experiment
from lm.train.report import Report

STEADY = 20   # steps from which on there is something to say


class Measured(NamedTuple):
    """What was seen of a run's steps."""

    seconds: list[float]   # of each of the latest; without compiling, evaluating and saving
    least: float | None    # seconds of a step at the chips' peak; None where that is not known
    bytes: int             # that a device of this process held at most


def measured(e: Experiment, report: Report, step_fn, template, mesh) -> Measured | None:
    """Returns what was measured; None of a run that was too short.

    step_fn: the jitted step, template: its state's.
    """
    if len(report.seconds) < STEADY:
        return None
    stats = [device.memory_stats() for device in mesh.local_devices]
    if all(stats):
        held = max(one["peak_bytes_in_use"] for one in stats)
    else:  # a CPU keeps no such count; as it was compiled for the run, this compiles nothing
        m = step_fn.lower(template, trial.abstract(e, mesh)).compile().memory_analysis()
        held = (m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes
                + m.temp_size_in_bytes)
    least = report.flops_per_token * report.tokens_per_step / report.peak if report.peak else None
    return Measured(list(report.seconds), least, held)
