"""A run that was stopped, however it was stopped, ends as one that never was: bit for bit."""

import itertools
import json
import os
import pathlib
import random
import re
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from lm.experiment import flags, folder, parts, restore
from lm.experiment import train as verb
from lm.verbs import VERBS

# What could break it: three dropouts, microbatches, an optimizer with two kinds of state, and
# saves and evaluations that do not fall together.
HARD = ("--config.train.length=48", "--config.train.optimizer=muon", "--config.train.accumulate=2",
        "--config.train.save_every=3", "--config.train.evaluate_every=8",
        "--config.model.dropout_embedding=0.1", "--config.model.dropout_attention=0.1",
        "--config.model.dropout_residual=0.1", "--config.train.tensorboard=False")


@pytest.fixture(scope="module")
def straight(command, tiny, tmp_path_factory):
    """The hard run, never interrupted."""
    run = tmp_path_factory.mktemp("straight") / "run"
    ended = command("train", tiny, f"--run={run}", *HARD)
    assert ended.code == 0, ended.err
    return run


def weights(run) -> dict[str, np.ndarray]:
    """The parameters of a run's last checkpoint."""
    e = flags.parse([f"--run={run}", "--config.mesh.data=-1", "--config.mesh.fsdp=1"],
                    VERBS["eval"]).experiment
    with parts.on_mesh(e) as mesh:
        m = parts.model(e, folder.tokenizer(pathlib.Path(run)).V)
        params, _ = restore.params(e, m, "latest", mesh)
        return {jax.tree_util.keystr(path): np.asarray(x)
                for path, x in jax.tree_util.tree_leaves_with_path(params)}


def checksums(run) -> dict:
    """The recorded checksums of all of the last state: weights, moments, counters."""
    last = max((p for p in (pathlib.Path(run) / "checkpoints").iterdir() if p.name.isdigit()),
               key=lambda p: int(p.name))
    return json.loads((last / "meta" / "metadata").read_text())["sums"] | {"step": last.name}


def assert_same(run, other, records):
    """Both ended with the same state and the same record of every step."""
    assert records(run) == records(other)
    assert checksums(run) == checksums(other)
    ours, theirs = weights(run), weights(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].tobytes() == theirs[name].tobytes(), name
    results = [json.loads((pathlib.Path(r) / "result.json").read_text()) for r in (run, other)]
    assert results[0] == results[1]


def test_the_record_has_every_step_once(straight, records):
    steps = [r["step"] for r in records(straight) if "loss" in r]
    assert steps == list(range(1, 49))
    looks = [r["step"] for r in records(straight) if "validation_loss" in r]
    assert looks == list(range(8, 49, 8))
    losses = [r["loss"] for r in records(straight) if "loss" in r]
    assert losses[-1] < losses[0] - 0.3, "it learns nothing: resuming would prove little"
    assert len(set(losses)) == len(losses)


@pytest.mark.parametrize("number, code", [
    (signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)])
def test_stopped_by_a_signal_and_then_killed(start, until, tiny, straight, records, tmp_path,
                                             number, code):
    run, argv = tmp_path / "run", ("train", tiny, f"--run={tmp_path / 'run'}", *HARD)
    process = start(*argv)
    path = run / "metrics.jsonl"
    assert until(process, lambda: path.exists() and path.read_text().count("\n") >= 10)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert not err
    assert "the same command continues" in out.splitlines()[-1]
    stopped = json.loads(path.read_text().splitlines()[-1])["step"]
    assert stopped < 48
    assert (run / "checkpoints" / str(stopped)).is_dir(), "the step under way was not saved"
    done, out = tortured(start, until, argv, run, 1, seed=0)
    assert done["save"] == 1, done
    resumed = int(re.search(r"resumed at step (\d+)", out)[1])
    assert resumed >= stopped
    assert_same(run, straight, records)
    assert not list((run / "checkpoints").glob("*tmp*"))


def kill(process, run, how, draw, until):
    """Waits for one of the instants at which a run may die, and kills it; True if it was alive."""
    record, checkpoints = run / "metrics.jsonl", run / "checkpoints"

    def steps():
        return record.read_bytes().count(b"\n") if record.exists() else 0

    if how == "start":
        time.sleep(draw.uniform(0, 4))
    elif how == "compile":
        for line in process.stdout:
            if " parameters, " in line:
                break
        time.sleep(draw.uniform(0, 0.6))
    elif how == "step":
        before = steps()  # the start of the process cuts it to the last checkpoint
        for line in process.stdout:
            if line.startswith("step "):
                break
        more = before + draw.randint(1, 3)
        until(process, lambda: steps() >= more)
        time.sleep(draw.uniform(0, 0.03))
    else:  # the directory that a save is written to, before it gets its name
        until(process, lambda: any(checkpoints.glob("*orbax-checkpoint-tmp*")))
        time.sleep(draw.uniform(0, 0.04))
    alive = process.poll() is None
    process.kill()
    process.communicate()
    return alive


def tortured(start, until, argv, run, kills, seed):
    """Trains under `kills` SIGKILLs, then to the end.

    Returns how many each instant got, and what the last process said.
    """
    draw, done = random.Random(seed), dict(start=0, compile=0, step=0, save=0)
    hows = itertools.cycle(["save", "step", "compile", "save", "start", "step", "save"])
    while sum(done.values()) < kills:
        how = next(hows)
        process = start(*argv)
        if kill(process, run, how, draw, until):
            done[how] += 1
        elif process.returncode == 0:
            break
        assert process.returncode in (0, -signal.SIGKILL), (how, process.returncode)
    process = start(*argv)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    return done, out


@pytest.mark.slow
def test_killed_at_random_instants(start, until, tiny, straight, records, tmp_path):
    run = tmp_path / "run"
    done, _ = tortured(start, until, ("train", tiny, f"--run={run}", *HARD), run, 5, seed=2)
    assert sum(done.values()) >= 4, done
    assert done["save"] >= 1, done
    assert_same(run, straight, records)
    assert not list((run / "checkpoints").glob("*tmp*"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("every", [1, 5])
def test_killed_often(start, command, until, tiny, records, tmp_path, seed, every):
    more = (*HARD, "--config.train.length=150", f"--config.train.log_every={every}",
            "--config.model.L=2", f"--config.seed={seed}", "--config.train.save_every=4")
    ended = command("train", tiny, f"--run={tmp_path / 'whole'}", *more)
    assert ended.code == 0, ended.err
    run = tmp_path / "run"
    done, _ = tortured(start, until, ("train", tiny, f"--run={run}", *more), run, 30, seed)
    assert sum(done.values()) >= 20, done
    assert_same(run, tmp_path / "whole", records)


class Crash(Exception):
    """What a run of these tests dies of without a chance to save."""


def crash(monkeypatch, at):
    """The next run dies as it asks for the batch of step `at`."""
    whole = parts.feed

    def feed(source, start, ahead, mesh):
        for step, batch in enumerate(whole(source, start, ahead, mesh), start):
            if isinstance(source, parts.Batches) and step == at:
                raise Crash
            yield batch
    monkeypatch.setattr(parts, "feed", feed)


@pytest.mark.slow
def test_averages_over_several_steps_survive_a_crash_within_them(lm, tiny, records, tmp_path,
                                                                 monkeypatch):
    """Reports every 5 steps, checkpoints every 3 and where the loss improves at 7 and 14.

    A checkpoint holds a part of an interval; after the first crash a report comes again.
    """
    argv = ("train", tiny, "--config.train.length=20", "--config.train.log_every=5",
            "--config.train.save_every=3", "--config.train.evaluate_every=7")
    assert lm(*argv, f"--run={tmp_path / 'whole'}").code == 0
    for at in (11, 17):
        with monkeypatch.context() as patched, pytest.raises(Crash):
            crash(patched, at)
            lm(*argv, f"--run={tmp_path / 'run'}")
    assert lm(*argv, f"--run={tmp_path / 'run'}").code == 0
    whole = records(tmp_path / "whole")
    assert records(tmp_path / "run") == whole
    assert [r["step"] for r in whole if "loss" in r] == [5, 10, 15, 20]


def test_resumed_on_other_devices(lm, tiny, trained, records, tmp_path):
    """Begun on one device, ended on eight that share the parameters: close, and nothing is lost."""
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    shutil.rmtree(run / "checkpoints" / "12")   # as if it had died with step 12
    (run / "result.json").unlink()
    ended = lm("train", tiny, f"--run={run}", "--config.mesh.fsdp=4", "--config.mesh.tensor=2")
    assert ended.code == 0
    assert "mesh fsdp=4 tensor=2 of" in ended.out
    assert "resumed at step 8" in ended.out
    ours, theirs = records(run), records(trained)
    assert [r["step"] for r in ours] == [r["step"] for r in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for name in {"loss", "validation_loss"} & a.keys():
            assert a[name] == pytest.approx(b[name], rel=1e-5)


def test_early_stopping_ends_the_run_for_good(alone, lm, tiny, records, tmp_path, files):
    run = tmp_path / "run"
    argv = ("train", tiny, f"--run={run}", "--config.train.length=60", "--config.train.lr=3.0",
            "--config.train.patience=2", "--config.train.evaluate_every=3",
            "--config.train.clip=0", "--config.train.schedule=constant")
    ended = lm(*argv)
    assert ended.code == 0
    looks = [r for r in records(run) if "validation_loss" in r]
    last = looks[-1]["step"]
    assert last < 60
    assert f"step {last}: no improvement in 2 evaluations" in ended.out
    best = min(looks, key=lambda r: r["validation_loss"])
    assert best["step"] == last - 6
    kept = {p.name for p in (run / "checkpoints").iterdir()}
    assert {str(best["step"]), str(last)} <= kept
    evaluated = lm("eval", f"--run={run}")
    assert f"step {best['step']}  validation loss {best['validation_loss']:.4f}" in evaluated.out
    before = {n: d for n, d in files(run).items() if n not in ("config.json", "loss.png")}
    again = lm(*argv)
    assert again.code == 0
    assert "no improvement" not in again.out
    after = {n: d for n, d in files(run).items() if n not in ("config.json", "loss.png")}
    assert after == before


def test_a_finished_run_is_not_trained_further(lm, tiny, trained, tmp_path, records):
    before = (records(trained), checksums(trained), os.stat(trained / "result.json").st_mtime_ns)
    ended = lm("train", tiny, f"--run={trained}")
    assert ended.code == 0
    assert "resumed at step 12" in ended.out
    assert (records(trained), checksums(trained),
            os.stat(trained / "result.json").st_mtime_ns) == before


class Late(int):
    """What `due` returns: false, and a signal arrives as it is asked for the second time."""

    asked = 0

    def __bool__(self):
        self.asked += 1
        if self.asked == 2:
            signal.raise_signal(signal.SIGTERM)
        return False


def test_a_signal_between_the_checks_of_one_step_loses_no_record(alone, lm, tiny, tmp_path, records,
                                                                 monkeypatch):
    """The signal comes when it was decided that the step's record is not yet read."""
    whole = verb.due
    monkeypatch.setattr(verb, "due", lambda every, step, until: (
        Late() if step == 6 else whole(every, step, until)))
    run = tmp_path / "run"
    assert lm("train", tiny, f"--run={run}").code == 143
    monkeypatch.undo()
    assert lm("train", tiny, f"--run={run}").code == 0
    assert [r["step"] for r in records(run) if "loss" in r] == list(range(1, 13))
