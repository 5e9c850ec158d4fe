"""`lm` as a person calls it: in this process, or, where it is signalled or killed, in its own."""

import json
import os
import pathlib
import random
import subprocess
import sys
import time
from typing import NamedTuple

import jax
import pytest

from lm.__main__ import main

SENTENCE = "the a model reads one token then next of text with loss café\n"

TINY = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict(dict(
        data=dict(corpus={corpus!r}, tokenizer="bytes", T=16, B=8, split="tail", validation=0.1),
        model=dict(L=1, D=16, N=2, F=32),
        train=dict(length="12 steps", warmup="0", lr=1e-2, log_every="1", evaluate_every="4",
                   save_every="4"),
    ))
"""


class Ended(NamedTuple):
    """What a command left: its exit status and what it said."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> pathlib.Path:
    """A folder with a text of 11 kB, text.txt, and a config for it, tiny.py."""
    folder = tmp_path_factory.mktemp("tiny")
    draw = random.Random(0)
    (folder / "text.txt").write_text(" ".join(draw.choices(SENTENCE.split(" "), k=2200)))
    (folder / "tiny.py").write_text(TINY.format(corpus=str(folder / "text.txt")))
    return folder


@pytest.fixture(scope="session")
def tiny(place) -> str:
    """The flag that names the tiny config."""
    return f"--config={place / 'tiny.py'}"


@pytest.fixture
def lm(capfd):
    """Runs a command in this process, on its eight devices."""
    def run(*argv) -> Ended:
        capfd.readouterr()
        code = main([str(word) for word in argv])
        return Ended(code, *capfd.readouterr())
    return run


@pytest.fixture
def alone(monkeypatch):
    """This process has one device, for which programs compile faster."""
    own = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: own)


@pytest.fixture
def refused(lm):
    """Asserts that a command is answered by one line that holds each of `says`, and status 2."""
    def check(*argv, says) -> str:
        ended = lm(*argv)
        lines = ended.err.splitlines()
        assert ended.code == 2, ended
        assert len(lines) == 1, f"not one line: {ended.err}"
        assert lines[0].startswith("lm: ")
        assert "Traceback" not in ended.err + ended.out
        for part in [says] if isinstance(says, str) else says:
            assert part in lines[0]
        return lines[0]
    return check


@pytest.fixture(scope="session")
def start():
    """Starts a command in a process of its own, on `devices` devices."""
    def begin(*argv, devices=1, **options) -> subprocess.Popen:
        flags = os.environ["XLA_FLAGS"].replace("count=8", f"count={devices}")
        return subprocess.Popen(
            [sys.executable, "-m", "lm", *map(str, argv)], text=True,
            env=dict(os.environ, XLA_FLAGS=flags, COLUMNS="80"),
            **dict(dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE), **options))
    return begin


@pytest.fixture(scope="session")
def command(start):
    """Runs a command in a process of its own to its end."""
    def run(*argv, **options) -> Ended:
        process = start(*argv, **options)
        out, err = process.communicate(timeout=300)
        return Ended(process.returncode, out, err)
    return run


@pytest.fixture(scope="session")
def records():
    """Reads what a run recorded, without what depends on the clock."""
    def read(run) -> list[dict]:
        lines = (pathlib.Path(run) / "metrics.jsonl").read_text().splitlines()
        clock = ("time", "tokens_per_second", "utilisation")
        return [{k: v for k, v in json.loads(line).items() if k not in clock} for line in lines]
    return read


@pytest.fixture(scope="session")
def until():
    """Waits until `true()`, or until the process ends; returns whether it came true."""
    def wait(process, true, seconds=120) -> bool:
        end = time.monotonic() + seconds
        while process.poll() is None:
            if true():
                return True
            assert time.monotonic() < end, "it never came true"
            time.sleep(0.002)
        return False
    return wait


@pytest.fixture(scope="session")
def files():
    """Everything in a folder: names and contents."""
    def read(folder) -> dict[str, bytes]:
        folder = pathlib.Path(folder)
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*"))
                if p.is_file()}
    return read


@pytest.fixture(scope="session")
def trained(command, tiny, tmp_path_factory) -> pathlib.Path:
    """A finished run of the tiny config, on one device; not to be changed."""
    run = tmp_path_factory.mktemp("trained") / "run"
    ended = command("train", tiny, f"--run={run}")
    assert ended.code == 0, ended.err
    return run
