"""Ways to lay a replica out, and those of them that closed forms do not rule out (levels 0 and 1).
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from lm.base.errors import UserError
from lm.cost.chips import Chip, Switch
from lm.cost.figure import Figure, known
from lm.load.lengths import lengths
from lm.plan.serving import closed
from lm.plan.serving.model import PAGE, Layout, Shape, memory, pages, refusal, smallest_home
from lm.plan.serving.question import Question
from lm.plan.serving.recalibrate import recalibrate
from lm.plan.serving.schedule import Scheduler, Step
from lm.plan.serving.step import Constants, clock, constants_of, tpot, ttft

GIB = 2**30
BUSY = 0.85   # share of the largest rate that one replica carries, before it is simulated
CHUNKS, SLOTS, STAGES = (128, 256, 512, 1024, 2048), (512, 256, 128, 64, 32, 16, 8, 4, 2, 1), (
    1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Candidate:
    """A replica that might do: its layout and limits, its clock, what it settles at."""

    shape: Shape
    layout: Layout
    slots: int
    chunk: int
    pages: int
    parts: dict[str, Figure]
    constants: Constants
    clock: Callable
    capacity: float              # requests/s, the largest that is stable
    most: closed.Steady          # at the largest rate that also keeps the mean TPOT
    tpot: Figure                 # of that batch
    ttft: Figure                 # of a mean prompt on an idle server
    price: float | None          # $ a chip-hour

    def scheduler(self) -> Scheduler:
        """Returns a new scheduler for one replica."""
        return Scheduler(self.slots, self.pages, PAGE, self.chunk)


def candidates(shape: Shape, question: Question,
               chips: Iterable[Chip]) -> tuple[list[Candidate], list[dict]]:
    """Returns what may do, cheapest first, and what does not: chip, tensor ..., reason, kind."""
    prompt, output = (lengths(x) for x in (question.prompt_tokens, question.output_tokens))
    rng = np.random.default_rng(0)
    longest = int((prompt.draw(rng, 20000) + output.draw(rng, 20000)).max())
    found, rejected, homes = [], [], False
    chips = list(chips)
    for layout in layouts(shape, question, chips):
        one = _one(shape, question, layout, (prompt.mean, output.mean, longest))
        if isinstance(one, Candidate):
            found.append(one)
        else:
            reason, kind = one
            homes |= kind == "time"
            rejected.append({
                "chip": layout.chip.name, "tensor": layout.tensor, "stage": layout.stage,
                "weights": layout.weights, "cache": layout.cache, "reason": reason, "kind": kind})
    if not found:
        raise UserError(_nothing(shape, question, chips, rejected, homes))
    return sorted(found, key=lambda c: _cost(c, question)), rejected


def _cost(c, question):
    """What orders candidates: $ an hour at BUSY of the largest rate; without prices, bandwidth."""
    replicas = math.ceil(question.rate / (BUSY * c.most.rate)) + question.spares
    chips = replicas * c.layout.chips
    return (math.inf if c.price is None else chips * c.price, chips * c.layout.chip.hbm_bandwidth)


def layouts(shape: Shape, question: Question, chips: Iterable[Chip]) -> Iterable[Layout]:
    """Yields the layouts to look at; more stages only where fewer do not hold the weights."""
    for chip in chips:
        if not chip.hbm_bandwidth:
            continue
        domain = chip.network.domain if isinstance(chip.network, Switch) else 64
        tensors = [question.tensor] if question.tensor else [
            t for t in (1, 2, 4, 8, 16, 32, 64) if t <= domain and not shape.N % t]
        eight = "fp8" if chip.flops.get("fp8", 0) > chip.flops["bf16"] else "int8"
        for weights in [question.weights] if question.weights else ("bf16", eight):
            for tensor in tensors:
                stages = [question.stage] if question.stage else [
                    s for s in STAGES if not shape.L % s]
                fitting = [s for s in stages if memory(
                    shape, Layout(chip, tensor, s, weights), 1, 128)["cache"].value > 0]
                for stage in fitting[:1] or stages[-1:]:
                    for cache in [question.cache] if question.cache else ("bf16", eight):
                        yield Layout(chip, tensor, stage, weights, cache)


def _one(shape, question, layout, sizes):
    """A candidate, or why there is none and of what kind the reason is."""
    prompt, output, longest = sizes
    if why := refusal(shape, layout):
        return why, "layout"
    seen = prompt + output / 2
    for slots in [question.slots] if question.slots else SLOTS:
        parts = memory(shape, layout, slots, question.chunk or CHUNKS[-1])
        room = int(pages(shape, layout, parts, seen).value)
        if room * PAGE >= max(longest, slots * seen):
            break
    if room * PAGE < longest:
        short = sum(x.value for n, x in parts.items() if n != "cache")
        if parts["cache"].value <= 0:
            return (f"needs {short / GIB:.1f} GiB of {layout.chip.hbm_bytes / GIB:.1f} GiB before "
                    "any cache"), "memory"
        return (f"its cache holds {room * PAGE} tokens, the longest request has "
                f"{longest}"), "memory"
    constants = constants_of(layout.chip)
    measured = recalibrate(question.step_log) if question.step_log else None
    ticking = measured.clock if measured else clock(shape, layout, constants)
    best = None
    for chunk in [question.chunk] if question.chunk else CHUNKS:
        most = closed.largest_rate(ticking, prompt, output, slots, room * PAGE, chunk,
                                   question.tpot)
        first = (_idle(measured, question, prompt, chunk) if measured else
                 ttft(shape, layout, constants, max(1, round(prompt)), chunk))
        good = most.stable and most.tpot <= question.tpot and first.value <= question.ttft
        if good and (best is None or most.rate > 1.02 * best[1].rate):
            best = chunk, most, first
    if best is None:
        return (f"at best {first.value:.3g} s to the first token and {most.tpot:.3g} s for each "
                "after it, on an idle server"), "time"
    chunk, most, first = best
    capacity = closed.largest_rate(ticking, prompt, output, slots, room * PAGE, chunk).rate
    each = (known("serve.tpot", most.tpot, "s", question.step_log) if measured else
            tpot(shape, layout, constants, max(1.0, most.batch), seen))
    return Candidate(shape, layout, slots, chunk, room, parts, constants, ticking, capacity,
                     most, each, first, question.price or layout.chip.price)


def _idle(measured, question, prompt, chunk):
    """TTFT of an idle server by its own log: chunk by chunk."""
    sizes = [min(chunk, round(prompt) - at) for at in range(0, max(1, round(prompt)), chunk)]
    seconds = sum(measured.clock(Step(prefill=n, context=chunk * i + n))
                  for i, n in enumerate(sizes))
    return known("serve.ttft", seconds, "s", question.step_log)


def _nothing(shape, question, chips, rejected, homes):
    """One line that says why nothing will do, and what would."""
    if not homes:
        layout = [x for x in rejected if x["kind"] == "layout"]
        if layout and len(layout) == len(rejected):
            return f"{shape.name}: {layout[0]['reason']}; give another tensor or cache"
        return (f"{shape.name} does not fit: {rejected[0]['reason']} "
                f"({rejected[0]['chip']} x {rejected[0]['tensor'] * rejected[0]['stage']}); the "
                f"smallest that would hold it: {smallest_home(shape, chips)}")
    best = min((x for x in rejected if x["kind"] == "time"), key=_distance(question))
    return (f"no plan answers within ttft={question.ttft:g} and tpot={question.tpot:g}; the "
            f"nearest is {best['chip']} with tensor={best['tensor']}, stage={best['stage']} and "
            f"{best['weights']} weights: {best['reason']}")


def _distance(question):
    def far(x):
        words = x["reason"].split()
        return max(float(words[2]) / question.ttft, float(words[9]) / question.tpot)
    return far
