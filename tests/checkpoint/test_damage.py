"""Nothing that can happen to a disk or a process makes a run resume from a wrong state."""

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from states import here, reader, same, saved, state

from lm.base.errors import UserError
from lm.checkpoint import quiet
from lm.checkpoint.store import Checkpoints

# What failed reads leave behind is collected at any time.
pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")


def array_files(path):
    """Returns the files of array data under `path`, the largest first."""
    return sorted(path.rglob("d/*"), key=lambda f: f.stat().st_size, reverse=True)


def test_every_flipped_bit_is_seen(tmp_path):
    saved(tmp_path / "good", [1, 2]).close()
    for seed in range(12):
        copy = tmp_path / f"copy{seed}"
        shutil.copytree(tmp_path / "good", copy)
        path, choose = array_files(copy / "2")[0], np.random.default_rng(seed)
        raw = bytearray(path.read_bytes())
        raw[choose.integers(1000, len(raw) - 1000)] ^= 1 << choose.integers(8)
        path.write_bytes(raw)
        store, lines = reader(copy)
        got, meta = store.restore(here(state()))
        assert meta["seed"] == 1 and same(got, state(1))
        assert len(lines) == 1 and str(copy / "2") in lines[0] and "damaged" in lines[0]


def cut(path):
    for file in array_files(path):
        os.truncate(file, file.stat().st_size // 2)


def empty(path):
    shutil.rmtree(path)
    path.mkdir()


def edit_meta(path):
    file = path / "meta" / "metadata"
    file.write_text(file.read_text().replace('"seed": 2', '"seed": 3'))


DAMAGES = {
    "truncated": cut,
    "empty": empty,
    "no record": lambda path: (path / "meta" / "metadata").unlink(),
    "no meta": lambda path: shutil.rmtree(path / "meta"),
    "changed meta": edit_meta,
    "no arrays": lambda path: [f.unlink() for f in array_files(path)],
    "no state": lambda path: shutil.rmtree(path / "state"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_and_moved_away(tmp_path, damage):
    saved(tmp_path).close()
    DAMAGES[damage](tmp_path / "2")
    store, lines = reader(tmp_path)
    got, meta = store.restore(here(state()))
    assert meta["seed"] == 1 and same(got, state(1)) and len(lines) == 1
    assert store.steps == [1, 2]  # reading changes nothing
    with pytest.raises(UserError, match="is damaged .step 2: "):
        store.restore(here(state()), step=2)
    assert store.save(2, state(9), {"seed": 9})
    store.close()
    assert store.steps == [1, 2] and (tmp_path / "2.damaged").is_dir()
    assert reader(tmp_path)[0].restore(here(state()))[1]["seed"] == 9


def test_what_can_do_without_a_file_is_still_checked(tmp_path):
    saved(tmp_path).close()
    (tmp_path / "2" / "state" / "_METADATA").unlink()
    got, meta = reader(tmp_path)[0].restore(here(state()))
    assert same(got, state(meta["seed"]))


def test_steps_before_a_damaged_one_can_be_saved(tmp_path):
    saved(tmp_path, [1, 20]).close()
    cut(tmp_path / "20")
    store, _ = reader(tmp_path)
    store.restore(here(state()))
    assert store.save(10, state(10), {})
    store.close()
    assert store.steps == [1, 10]


def test_all_damaged(tmp_path):
    saved(tmp_path).close()
    cut(tmp_path / "1")
    empty(tmp_path / "2")
    store, lines = reader(tmp_path)
    with pytest.raises(UserError, match="every checkpoint in .* is damaged .step 2: its record is "
                                        "missing; step 1: "):
        store.restore(here(state()))
    assert len(lines) == 2


def test_leftovers_of_an_interrupted_save(tmp_path):
    saved(tmp_path, [1]).close()
    half = tmp_path / "2.orbax-checkpoint-tmp-123"
    shutil.copytree(tmp_path / "1", half)
    store, lines = reader(tmp_path)
    assert store.restore(here(state()))[1]["seed"] == 1 and lines == [] and half.exists()
    store.save(2, state(2), {})
    store.close()
    assert store.steps == [1, 2] and not half.exists()


CHILD = """
import os, random, signal, sys, time
import jax, jax.numpy as jnp
from lm.checkpoint.store import Checkpoints
from jax.sharding import SingleDeviceSharding

def child(directory):
    with Checkpoints(directory, keep=2) as store:
        base = jax.random.normal(jax.random.key(0), (8, 128, 1024))
        found = store.restore({"params": base, "step": jnp.int32(0)})
        step = found[1]["step"] if found else 0
        while True:
            step += 1
            store.save(step, {"params": base + step, "step": jnp.int32(step)}, {"double": 2 * step})

for i, instant in enumerate(map(float, sys.argv[2:])):
    pid = os.fork()  # before any backend starts: the imports are paid for once
    if pid == 0:
        child(sys.argv[1])
    before = set(os.listdir(sys.argv[1]))
    while not set(os.listdir(sys.argv[1])) - before:
        time.sleep(0.002)
    time.sleep(instant)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    print(" ".join(os.listdir(sys.argv[1])), flush=True)
"""


def test_kill_while_saving(tmp_path):
    choose = np.random.default_rng(int(time.time()))
    instants = [f"{t:.3f}" for t in choose.uniform(0.0, 0.6, 5)]
    run = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path), *instants],
                         capture_output=True, text=True, timeout=300)
    assert run.returncode == 0 and run.stderr == "", (instants, run.stderr)
    assert "orbax-checkpoint-tmp" in run.stdout  # some of the kills came in the middle
    store, lines = reader(tmp_path)
    base = jax.random.normal(jax.random.key(0), (8, 128, 1024))
    got, meta = store.restore(here({"params": base, "step": jnp.int32(0)}))
    step = meta["step"]
    assert lines == [] and step == store.latest and meta["double"] == 2 * step, instants
    assert same(got, {"params": base + step, "step": jnp.int32(step)})


@pytest.fixture
def disk(tmp_path):
    """A disk of 2 MB of its own."""
    path = tmp_path / "disk"
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", path],
                          capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    yield path
    subprocess.run(["umount", path], check=True)


def test_full_disk(disk, caplog):
    small, big = {"x": jnp.ones((8, 8))}, {"x": jax.random.normal(jax.random.key(0), (1024, 2048))}
    store = Checkpoints(disk / "run")
    store.save(1, small, {})
    store.wait()
    store.save(2, big, {})
    with pytest.raises(UserError, match="could not save step 2 in .*: no space left on device; "
                                        "free some and run the same command: .* from step 1"):
        store.wait()
    assert store.steps == [1] and os.listdir(disk / "run") == ["1"]
    assert same(store.restore(here(small))[0], small)
    store.save(2, big, {})
    with pytest.raises(UserError, match="no space left"):  # the next call of any kind tells
        for _ in range(500):
            store.check()
            time.sleep(0.01)
    with pytest.raises(UserError, match="no space left"), Checkpoints(disk / "run") as again:
        again.save(2, big, {})
    assert store.save(2, small, {})  # and the run may go on
    store.close()
    assert store.steps == [1, 2]
    assert not [r for r in caplog.records if "orbax" in r.pathname]  # nor does Orbax tell more


def test_read_only_disk(disk):
    saved(disk / "run", [1]).close()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    store = Checkpoints(disk / "run")
    assert store.restore(here(state()))[1]["seed"] == 1
    with pytest.raises(UserError, match="could not save step 2 in .*: read-only file system; make "
                                        "it writable"):
        store.save(2, state(2), {})
        store.wait()
    with pytest.raises(UserError, match="read-only.*training continues from the beginning"):
        Checkpoints(disk / "other").save(1, state(1), {})
    stuck = [t for t in threading.enumerate() if type(t).__module__.startswith("orbax")]
    assert not stuck  # they would hold up the exit of the process
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    assert store.save(2, state(2), {})  # the same store goes on, and still tells
    store.wait()
    assert store.steps == [1, 2]
    store.save(3, {"x": jax.random.normal(jax.random.key(0), (1024, 2048))}, {})
    with pytest.raises(UserError, match="no space left"):
        for _ in range(500):
            store.check()
            time.sleep(0.01)


def test_an_error_is_not_hidden_by_the_failing_save(disk):
    big = {"x": jax.random.normal(jax.random.key(0), (1024, 2048))}
    with pytest.raises(ZeroDivisionError), Checkpoints(disk / "run") as store:
        store.save(1, big, {})
        raise ZeroDivisionError


def test_causes_in_words():
    inner = ValueError("Error writing \"d/ab\": [OS error 28: ENOSPC No space left on device]")
    outer = RuntimeError("task failed")
    outer.__cause__ = inner
    assert quiet.cause(outer) == ("no space left on device", "free some and ")
    assert quiet.cause(OSError(errno.EACCES, "nope"))[1] == "make it writable and "
    assert quiet.cause(RuntimeError("a\nb")) == ("RuntimeError: a b", "")


def test_late_complaints_of_failed_reads_are_dropped():
    told = []
    for text in ("Event loop is closed", "a real one"):
        quiet._not_late(told.append, SimpleNamespace(exc_value=RuntimeError(text)))
    assert [str(u.exc_value) for u in told] == ["a real one"]
