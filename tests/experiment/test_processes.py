"""Many processes train as one: real ones, which find each other on this machine."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from lm.__main__ import main
from lm.base.errors import UserError
from lm.experiment import folder

ROOT = pathlib.Path(__file__).parents[2]
LONG = ("--config.train.length=48", "--config.train.save_every=4",
        "--config.train.evaluate_every=24", "--config.train.tensorboard=False")


def free_ports():
    """A port that is free, as the next one is."""
    while True:
        with socket.create_server(("", 0)) as one:
            port = one.getsockname()[1]
            try:
                socket.create_server(("", port + 1)).close()
            except OSError:
                continue
            return port


@pytest.fixture(scope="module")
def together(start):
    """Starts a command as processes `which` of `count`; what is left of them ends with the file."""
    begun = []

    def begin(count, *argv, which=None, **options):
        port = free_ports()
        here = [start(*argv, f"--config.mesh.coordinator=localhost:{port}",
                      f"--config.mesh.processes={count}", f"--config.mesh.process={i}", **options)
                for i in which or range(count)]
        begun.extend(here)
        return here
    yield begin
    for process in begun:
        process.kill()
        process.communicate()


def ends(processes, seconds=120):
    """What each said: (status, out, err without what gloo writes)."""
    out = []
    for process in processes:
        said, err = process.communicate(timeout=seconds)
        out.append((process.returncode, said,
                    "".join(x for x in err.splitlines(True) if "[Gloo]" not in x)))
    return out


def same_losses(ours, theirs, rel=1e-5):
    """Every step is there once, and its losses are close."""
    assert [r["step"] for r in ours] == [r["step"] for r in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for name in {"loss", "validation_loss", "gradient_norm"} & a.keys():
            assert a[name] == pytest.approx(b[name], rel=rel), (name, a["step"])


@pytest.mark.slow
def test_two_train_as_one_and_four_go_on_from_it(together, lm, tiny, trained, records,
                                                         tmp_path):
    """Each holds half of every parameter, so that neither could write the checkpoint alone."""
    run = tmp_path / "run"
    first, second = ends(together(2, "train", tiny, f"--run={run}", "--config.mesh.data=1",
                                  "--config.mesh.fsdp=2"))
    assert (first[0], first[2]) == (0, "")
    assert second == (0, "", ""), "the second has nothing to say"
    assert first[1].splitlines()[0].startswith("process 0 of 2 (flags); coordinator localhost:")
    assert "mesh fsdp=2 of cpu" in first[1]
    same_losses(records(run), records(trained))
    kept = {str(p.relative_to(run)) for p in run.rglob("*")}
    assert {f"checkpoints/12/state/ocdbt.process_{i}" for i in (0, 1)} <= kept
    assert len([name for name in kept if "tfevents" in name]) == 1
    stored = json.loads((run / "config.json").read_text())["config"]["mesh"]
    assert "fsdp" in stored
    assert not {"process", "processes", "coordinator"} & stored.keys()

    asked = (f"--run={run}", "--prompt=the ", "--max_tokens=8", "--num_samples=2",
             "--checkpoint=latest", "--temperature=0")
    alone = lm("generate", *asked, "--config.mesh.data=-1", "--config.mesh.fsdp=1")
    four = ends(together(4, "generate", *asked, "--config.mesh.data=2"))
    assert four[0] == (0, four[0][1], "")
    assert four[0][1].partition("\n")[2] == alone.out
    assert four[1:] == [(0, "", "")] * 3


def test_one_that_never_arrives_is_named(together, tiny, tmp_path):
    begun = time.monotonic()
    processes = together(3, "train", tiny, f"--run={tmp_path / 'run'}", "--config.mesh.wait=5",
                         which=(0, 2))
    for code, _, err in ends(processes):
        assert code == 1
        assert re.fullmatch(r"lm: process 1 of 3 has not arrived within 5 s; .*\n", err)
    assert time.monotonic() - begun < 60
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_killed_ends_the_others(together, until, tiny, tmp_path):
    run = tmp_path / "run"
    first, second = together(2, "train", tiny, f"--run={run}", "--config.train.length=100000")
    assert until(first, lambda: steps(run) > 5)
    first.kill()
    code, _, err = ends([second])[0]
    assert code == 1
    assert re.fullmatch(r"lm: process 0 of 2 \(\S+\) died; .*same command again",
                        err.splitlines()[-1])
    assert "Traceback" not in err


def test_a_mistake_is_said_once_by_each(together, tiny, tmp_path):
    both = ends(together(2, "train", tiny, f"--run={tmp_path / 'run'}", "--config.mesh.data=3"))
    for code, _, err in both:
        assert code == 2
        assert len(err.splitlines()) == 1
        assert "mesh data=3 does not lay out 2 devices" in err


@pytest.fixture(scope="module")
def stopped(together, until, tiny, records, tmp_path_factory):
    """A run of two, of which one got SIGTERM, ended on eight devices by this process.

    Returns it, what the two said, the step at which they stopped and whether it was saved.
    """
    run = tmp_path_factory.mktemp("stopped") / "run"
    processes = together(2, "train", tiny, f"--run={run}", *LONG)
    assert until(processes[0], lambda: steps(run) > 5)
    processes[1].send_signal(signal.SIGTERM)
    said, step = ends(processes), records(run)[-1]["step"]
    saved = (run / "checkpoints" / str(step)).is_dir()
    assert main(["train", tiny, f"--run={run}", *LONG, "--config.mesh.fsdp=2"]) == 0
    return run, said, step, saved


def test_a_signal_to_one_stops_all_at_one_step(stopped, records):
    run, (first, second), step, saved = stopped
    assert (first[0], first[2]) == (143, "")
    assert second == (143, "", "")
    assert "the same command continues" in first[1].splitlines()[-1]
    assert step < 48 and saved
    assert [r["step"] for r in records(run) if "loss" in r] == list(range(1, 49))


def test_a_directory_that_is_not_shared(tmp_path):
    with pytest.raises(UserError, match="a file system that all processes share"):
        folder._see(tmp_path / "config.json", 1, wait=0.2)


def steps(run):
    """How many losses a run has recorded."""
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b'"loss"') if path.exists() else 0


# Elastic: one of some processes is killed in a step, and the run goes on with others.

@pytest.fixture
def supervised(tiny, tmp_path):
    """Starts launch/supervise.sh with as many processes as tmp_path / 'count' says each time."""
    (tmp_path / "member").write_text('echo $$ "${!#}" >> "$(dirname "$0")/members"\nexec "$@"\n')
    begun = []

    def begin(run, count):
        (tmp_path / "count").write_text(str(count))
        flags = os.environ["XLA_FLAGS"].replace("count=8", "count=1")
        begun.append(subprocess.Popen(
            [ROOT / "launch" / "supervise.sh", "3", "bash", tmp_path / "member", sys.executable,
             "-m", "lm", "train", tiny, f"--run={run}", *LONG],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(
                os.environ, XLA_FLAGS=flags, LM_PAUSE="0.1",
                LM_PROCESSES=f"cat {tmp_path / 'count'}")))
        return begun[-1]
    yield begin
    for process in begun:
        process.terminate()
        process.communicate(timeout=60)


def elastic(counts, victim, supervised, until, whole, records, tmp_path):
    """Trains on counts[0] processes, then counts[1] ..., each until number `victim` is killed."""
    run = tmp_path / "run"
    process = supervised(run, counts[0])
    for number, following in enumerate(counts[1:]):
        seen = steps(run)
        # What a checkpoint does not cover is cut off and comes again.
        assert until(process, lambda n=number: len(members(tmp_path)) == sum(counts[:n + 1]))
        before = min(seen, latest(run))
        assert until(process, lambda b=before: latest(run) > b and steps(run) % 4 == 2)
        (tmp_path / "count").write_text(str(following))
        *_, pid = (pid for pid, word in members(tmp_path) if word.endswith(f"process={victim}"))
        os.kill(int(pid), signal.SIGKILL)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert "Traceback" not in out
    for count, following in zip(counts, counts[1:], strict=False):
        if count > 1 and following:
            assert re.search(rf"process \d of {count} \(\S+\) died", out)
    assert out.count("; resumed at step ") == len(counts) - 1
    same_losses(records(run), records(whole))
    for count in counts:
        assert ("mesh one device of" if count == 1 else f"mesh data={count} of") in out


def members(tmp_path):
    """The processes that began, each its id and last word."""
    path = tmp_path / "members"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def latest(run):
    """The newest checkpoint of a run; 0 without."""
    return max((int(p.name) for p in (run / "checkpoints").glob("*") if p.name.isdigit()),
               default=0)


def test_elastic(supervised, until, stopped, records, tmp_path):
    """As the run that stopped in order. Process 0 is the hardest to lose.

    It holds what the jax of the others is connected to.
    """
    elastic([2, 1], 0, supervised, until, stopped[0], records, tmp_path)


@pytest.mark.slow
def test_elastic_four_two_four(supervised, until, command, tiny, records, tmp_path):
    whole = tmp_path / "whole"
    ended = command("train", tiny, f"--run={whole}", *LONG)
    assert ended.code == 0, ended.err
    elastic([4, 2, 4], 1, supervised, until, whole, records, tmp_path)
