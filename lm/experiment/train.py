"""`lm train`: from a config to a run directory; the same command again goes on where it stopped."""

import contextlib
import dataclasses
import functools
import math
import signal
from collections.abc import Callable
from typing import NamedTuple

import jax

from lm.base import duration
from lm.base.errors import UserError
from lm.base.records import read_json, read_lines, write_json
from lm.checkpoint.store import Checkpoints
from lm.cost import utilisation
from lm.data import tasks
from lm.data.batches import Batches, Evaluation
from lm.experiment import curve, flags, folder, generate, parts
from lm.experiment.measured import measured
from lm.mesh import devices, processes
from lm.mesh.config import AXES
from lm.train import method, optimizers, schedules
from lm.train import step as program
from lm.train.loop import Meter, advance, due
from lm.train.report import Report


class Run(NamedTuple):
    """What a run consists of, once its config is known to be good."""

    parsed: flags.Parsed
    mesh: object
    task: tasks.Task
    model: parts.Model
    batches: Batches
    held_out: Evaluation
    every: dict[str, int]   # durations of train.Config in steps
    optimizer: object
    rate: object            # step -> learning rate
    method: method.Method   # the training step and its state


def run(parsed: flags.Parsed, expect: Callable | None = None) -> int:
    """Trains; returns 0, or 128 + the signal that ended it.

    expect: is given the experiment, its model's -1s filled in, and the mesh before anything is
    compiled; what it returns is given what was measured when the run ends, if it was long enough.
    """
    e = parsed.experiment
    where = parts.directory(e)
    folder.belongs(where, parsed)
    planned = all(parsed.sources[f"mesh.{axis}"] == "plan" for axis in AXES)
    with parts.on_mesh(e, planned) as mesh:
        print(flags.describe(parsed))
        parts.check(e.model, mesh, e.data.B, e.data.T, e.train.accumulate)
        task = processes.in_turn(lambda: tasks.prepare(e.data))
        r = _assemble(parsed, mesh, task)
        task.tokenizer.encode(e.infer.prompt)  # a character unknown to it is said now, not last
        with folder.claimed(where):
            folder.begin(where, parsed, task)
            with Checkpoints(where / "checkpoints", keep=e.train.keep) as checkpoints:
                state, status, tell = _train(r, where, checkpoints, expect)
            if not status:
                _finish(r, where, state)
            tell()
    return status


def _assemble(parsed, mesh, task):
    """Resolves durations to steps and puts the parts together."""
    e = parsed.experiment
    c, d = e.train, e.data
    m = parts.model(e, task.tokenizer.V)
    batches = Batches(task.train, d.B, d.T, e.seed, d.packing)
    known = dict(tokens_per_step=d.B * d.T, steps_per_epoch=batches.steps_per_epoch)
    length = duration.steps(c.length, run=None, **known)
    if not length:
        raise UserError("train.length is no step at all; give at least 1")
    names = ("warmup", "decay", "log_every", "evaluate_every", "save_every")
    every = {name: duration.steps(getattr(c, name), run=length, **known) for name in names}
    every["length"] = length

    def rate(peak):
        return schedules.make(c.schedule, peak, steps=length, warmup=every["warmup"],
                              final=c.final, decay=every["decay"], cycles=c.cycles)
    optimizer = optimizers.make(c, m.declaration, rate(c.lr), rate(c.hidden_lr))
    held_out = Evaluation(task.validation, d.B, d.T, d.packing)
    return Run(parsed, mesh, task, m, batches, held_out, every, optimizer, rate(c.lr),
               method.choose(c, mesh, length))


def _train(r: Run, where, checkpoints, expect):
    """Runs the loop from the newest checkpoint on.

    Returns (state, exit status, what says at the end how the run compares).
    """
    e = r.parsed.experiment
    c, until = e.train, r.every["length"]
    seed = jax.random.key(e.seed)
    declaration = r.model.declaration
    r.method.check(checkpoints.meta())
    template = r.method.abstract(declaration, r.optimizer, r.mesh)
    found = checkpoints.restore(template)
    if found:
        state, meta = found
    else:
        state = r.method.init(declaration, r.optimizer, seed, r.mesh)
        meta = dict(step=0, workers=r.method.workers)
    start = meta["step"]
    _announce(r, start)
    if start >= until or meta.get("stopped"):
        return state, 0, _nothing
    compare = expect and expect(dataclasses.replace(e, model=r.model.config), r.mesh)
    step_fn = program.compiled(r.method.make(
        declaration, r.model.loss, r.optimizer, key=jax.random.fold_in(seed, 1),
        accumulate=c.accumulate, clip=c.clip, dropout=e.model.dropout,
        loss_scale_every=c.loss_scale_every), template)
    meter = Meter(r.every["log_every"], until, max_skipped=c.max_skipped, spike=c.spike,
                  pending=meta.get("pending"))
    with folder.writing(where):
        report = Report(where if processes.first() else None, start=start, until=until,
                        tokens_per_step=e.data.B * e.data.T,
                        flops_per_token=parts.flops_per_token(r.model, e.data.T, r.mesh),
                        peak=utilisation.peak(list(r.mesh.devices.flat)),
                        convention=parts.CONVENTION, tensorboard=c.tensorboard)
    batches = parts.feed(r.batches, start, e.data.prefetch, r.mesh)
    with (folder.writing(where), contextlib.closing(report), contextlib.closing(batches),
          _signals() as signals):
        steps = _traced(advance(step_fn, state, batches, start=start, until=until),
                        c.profile if processes.first() else "", until, report, where / "profile")
        state, ended = _loop(r, steps, meter, report, checkpoints, meta, signals)
        checkpoints.wait()
    if ended and not meta.get("stopped"):
        print(f"stopped by {signal.Signals(ended).name} after a checkpoint; "
              "the same command continues")
    seen = measured(e, report, step_fn, template, r.mesh)
    tell = functools.partial(compare, seen) if compare and seen else _nothing
    return state, 128 + ended if ended else 0, tell


def _nothing():
    """Nothing to say."""


def _loop(r: Run, steps, meter, report, checkpoints, meta, signals):
    """Steps, reports, evaluates and saves; returns (state, the signal that ended it or 0)."""
    c, every, until = r.parsed.experiment.train, r.every, r.every["length"]
    evaluate, highest = parts.evaluator(r.model), processes.Highest(r.mesh)
    state, first = None, None
    for step, state, means in steps:  # noqa: B007
        first = first or step
        if step == first:
            jax.block_until_ready(means)  # compiled now
        report.tick(step)
        _report(r, meter.add(step, means), report, meter)
        loss, ended = None, highest(signals[0] if signals else 0)
        looks = due(every["evaluate_every"], step, until)
        if looks or due(every["save_every"], step, until) or ended:
            _report(r, meter.flush(), report, meter)
        if looks:
            with report.paused():
                loss = _evaluate(r, evaluate, state.params, step, report)
            _judge(meta, loss, c.patience)
        best = loss is not None and loss == meta["best"]
        stop = ended or meta.get("stopped")
        if due(every["save_every"], step, until) or best or stop:
            with report.paused():
                checkpoints.save(step, state, dict(meta, pending=meter.sums), metric=loss)
        if stop:
            if meta.get("stopped"):
                report.say(f"step {step}: no improvement in {c.patience} evaluations; stopped")
            return state, ended
        checkpoints.check()
    return state, 0


def _report(r, record, report, meter):
    """Hands on what the meter has read."""
    if meter.alarm:
        report.say(f"warning: {meter.alarm}")
        meter.alarm = ""
    if record:
        rate = float(r.rate(record["step"] - 1))
        report.train(dict(record, learning_rate=rate))


def _evaluate(r, evaluate, params, step, report):
    """Evaluates, writes and says the result; returns the loss."""
    loss = evaluate(params, r.held_out, r.mesh)["loss"].value
    bits = r.task.validation.bits_per_byte(loss)
    tokens = step * r.batches.B * r.batches.T
    report.write(dict(step=step, tokens=tokens, validation_loss=loss, bits_per_byte=bits))
    report.say(f"step {step}  validation loss {loss:.4f} nats/token  {bits:.4f} bits/byte")
    return loss


def _judge(meta, loss, patience):
    """Keeps the best loss so far, and asks to stop when it has not improved for long."""
    best = meta.setdefault("best", None)
    if math.isfinite(loss) and (best is None or loss < best):
        meta["best"], meta["worse"] = loss, 0
        return
    meta["worse"] = meta.get("worse", 0) + 1
    if patience and meta["worse"] >= patience:
        meta["stopped"] = True


def _traced(steps, span, until, report, place):
    """Yields `steps`; those after `span`'s first, up to its last, are traced into `place`."""
    first, last = map(int, span.split(":")) if span else (0, 0)
    tracing = False
    try:
        for step, state, means in steps:
            if step == first < until:
                jax.block_until_ready(state)
                jax.profiler.start_trace(str(place))
                tracing = True
            elif tracing and step == min(last, until):
                jax.block_until_ready(state)
                tracing = False
                jax.profiler.stop_trace()
                report.say(f"profile of steps {first + 1} to {step} in {place}")
            yield step, state, means
    finally:
        if tracing:
            jax.profiler.stop_trace()


@contextlib.contextmanager
def _signals():
    """Gives a list that the first SIGTERM or Ctrl-C is put into; a second one ends the process."""
    seen: list[int] = []

    def take(number, frame):
        seen.append(number)
        for n in old:
            signal.signal(n, signal.SIG_DFL)
    old = {n: signal.signal(n, take) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield seen
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _announce(r, start):
    """Says what is about to run."""
    m, e = r.model, r.parsed.experiment
    device = r.mesh.devices.flat[0]
    active = f" ({m.declaration.active(e.model.experts_top):,} active)" if e.model.E else ""
    print(f"{m.declaration.count:,} parameters{active}, {r.every['length']} steps of "
          f"{e.data.B * e.data.T:,} tokens, {r.batches.steps_per_epoch:,.0f} steps an epoch; "
          f"mesh {devices.words(r.mesh.shape)} of {device.device_kind}"
          + (f"; resumed at step {start}" if start else ""))


def _finish(r, where, state):
    """The end of a run: its result beside xz's, its curve, its samples."""
    e, step = r.parsed.experiment, int(state.step)
    processes.from_first(lambda: _conclude(r, where, step))
    if e.infer.prompt and not (e.model.dense_layers and r.mesh.shape["stage"] > 1):
        generate.show(e, state.params, r.task.tokenizer, r.mesh)


def _conclude(r, where, step):
    """Writes and says what came out."""
    # A run ends at an evaluation, so that its record has the last one.
    looks = [x for x in read_lines(where / "metrics.jsonl") if "validation_loss" in x]
    if not looks:
        raise UserError(f"{where / 'metrics.jsonl'} has no evaluation: it was changed by hand; "
                        f"for the result run lm eval --run={where}")
    loss, bits = (math.nan if looks[-1][name] is None else looks[-1][name]
                  for name in ("validation_loss", "bits_per_byte"))
    xz = tasks.xz_bits_per_byte(r.task)
    with folder.writing(where):
        path = where / "result.json"
        if not path.exists() or read_json(path)["step"] != step:
            write_json(path, dict(step=step, validation_loss=loss, bits_per_byte=bits,
                                  xz_bits_per_byte=xz))
        picture = curve.draw(where)
    print(f"step {step}: validation loss {loss:.4f} nats/token, {bits:.3f} bits/byte; "
          f"xz -9 needs {xz:.3f} on the same bytes")
    print(f"loss curve: {picture}")
