"""Processes that follow the first one's schedule."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest
from tiny import model, prompts

HERE = pathlib.Path(__file__).parent


@pytest.mark.slow
def test_two_processes_serve_one_model():
    """Heads shared by two processes, drafts too: text as by one."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port = str(door.getsockname()[1])
    env = dict(os.environ, XLA_FLAGS="--xla_force_host_platform_device_count=1",
               PYTHONPATH=os.pathsep.join([str(HERE), str(HERE.parent / "laws"),
                                           str(HERE.parent.parent)]))
    both = [subprocess.Popen([sys.executable, str(HERE / "follower.py"), port, str(i)], env=env,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for i in range(2)]
    try:
        (out, said), (_, other) = [one.communicate(timeout=240) for one in both]
    finally:
        for one in both:
            one.kill()
    assert [one.returncode for one in both] == [0, 0], said + other
    m = model("llama")
    assert json.loads(out.splitlines()[-1]) == [
        m.text(tuple(row), 6) for row in prompts(4, 3, 21, 9, 30)]
