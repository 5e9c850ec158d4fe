"""The scripts of launch/, with stand-ins for what they call."""

import os
import pathlib
import signal
import subprocess

import pytest
import yaml

LAUNCH = pathlib.Path(__file__).parent.parent / "launch"
SCRIPTS = sorted(path.name for path in LAUNCH.glob("*.sh"))


def run(script, *argv, timeout=60, **environ):
    return subprocess.run([LAUNCH / script, *map(str, argv)], capture_output=True, text=True,
                          env=dict(os.environ, LM_PAUSE="0", **environ), timeout=timeout)


@pytest.mark.parametrize("script", SCRIPTS)
def test_called_without_a_command_it_says_how(script):
    ended = run(script)
    assert ended.returncode == 2
    assert ended.stderr.startswith("usage: ")
    assert f"launch/{script}" in ended.stderr


@pytest.mark.parametrize("code, times", [(0, 1), (1, 3), (137, 3), (2, 1), (130, 1), (143, 1)])
def test_supervised_what_cannot_help_is_not_tried_again(tmp_path, code, times):
    ended = run("supervise.sh", 3, "bash", "-c", f"echo x >> {tmp_path}/times; exit {code}")
    assert ended.returncode == code
    assert (tmp_path / "times").read_text().count("x") == times


def test_supervised_a_new_checkpoint_is_a_new_chance(tmp_path):
    """It fails five times: before step 1, 2 and 3 are saved, and twice after."""
    script = (f"cd {tmp_path}; n=$(ls checkpoints | wc -l); echo x >> times; "
              "[ $n -ge 3 ] || mkdir checkpoints/$((n + 1)); exit 1")
    (tmp_path / "checkpoints").mkdir()
    ended = run("supervise.sh", 2, "bash", "-c", script, "x", f"--run={tmp_path}")
    assert ended.returncode == 1
    assert (tmp_path / "times").read_text().count("x") == 4


def test_supervised_the_number_of_processes_is_asked_for_each_time(tmp_path):
    (tmp_path / "count").write_text("3")
    script = (f"echo \"$*\" >> {tmp_path}/said; echo 2 > {tmp_path}/count; "
              "[[ $* == *processes=2* ]] || exit 1")
    ended = run("supervise.sh", 3, "bash", "-c", script, "x", "word",
                LM_PROCESSES=f"cat {tmp_path}/count")
    assert ended.returncode == 0
    said = [line.split() for line in (tmp_path / "said").read_text().splitlines()]
    assert all(words[0] == "word" for words in said)
    told = sorted((words[2], words[3], words[1]) for words in said)
    assert [t[:2] for t in told] == [
        (f"--config.mesh.processes={n}", f"--config.mesh.process={i}")
        for n in (2, 3) for i in range(n)]
    assert len({t[2] for t in told}) == 2, "each start has a port of its own"


def test_supervised_one_that_outlives_a_failure_is_ended(tmp_path):
    script = "[[ $* == *process=1* ]] && exit 5; sleep 600"
    ended = run("supervise.sh", 1, "bash", "-c", script, "x", LM_PROCESSES="2", LM_GRACE="1")
    assert ended.returncode == 5


@pytest.mark.parametrize("number", ["TERM", "INT"])
def test_supervised_a_signal_is_passed_on(tmp_path, number):
    script = (f"trap 'exit 143' TERM; trap 'exit 130' INT; touch {tmp_path}/up$1; "
              "while true; do sleep 0.05; done")
    # A shell that was told to ignore Ctrl-C, as one in the background is, cannot trap it.
    hear = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    process = subprocess.Popen(
        [LAUNCH / "supervise.sh", "3", "bash", "-c", script], stderr=subprocess.DEVNULL,
        env=dict(os.environ, LM_PROCESSES="2"), preexec_fn=hear)
    while len(list(tmp_path.glob("up*"))) < 1:
        assert process.poll() is None
    subprocess.run(["kill", f"-{number}", str(process.pid)], check=True)
    assert process.wait(timeout=30) == {"TERM": 143, "INT": 130}[number]


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Makes a program that notes its arguments."""
    def make(name):
        (tmp_path / name).write_text('#!/bin/sh\nfor word in "$@" ---; do echo "$word"; done >> '
                                     f"{tmp_path}/{name}.said\n")
        (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        return lambda: [call.split("\n")[:-1] for call in
                        (tmp_path / f"{name}.said").read_text().split("---\n")[:-1]]
    return make


def test_slurm(stand_in):
    said = stand_in("srun")
    assert run("slurm.sh", "lm", "train", "--run=a b", LM_SRUN="-n 8").returncode == 0
    first, second = said()
    assert first[-2:] == [str(LAUNCH / "local.sh"), "true"]
    assert second[-5:] == ["8", str(LAUNCH / "local.sh"), "lm", "train", "--run=a b"]


def test_tpu_vm(stand_in):
    said = stand_in("gcloud")
    assert run("tpu_vm.sh", "lm", "train", "--run=a b", TPU="t", ZONE="z").returncode == 0
    copy, command = said()
    assert copy[-3:] == ["t:lm.tar.gz", "--zone=z", "--worker=all"]
    assert "launch/local.sh lm train --run=a\\ b" in command[-3]


def test_gke():
    ended = run("gke.sh", "lm", "train", '--prompt=a "b"', IMAGE="i", PODS="4", CLAIM="c",
                SELECT="x/y=1x1 z=b", CHIPS="google.com/tpu=4", KUBECTL="cat")
    jobset = yaml.safe_load(ended.stdout)
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    assert job["parallelism"] == job["completions"] == 4
    assert pod["nodeSelector"] == {"x/y": "1x1", "z": "b"}
    container = pod["containers"][0]
    assert container["command"] == ["launch/local.sh", "lm", "train", '--prompt=a "b"']
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    environ = {e["name"]: e["value"] for e in container["env"]}
    assert environ["JOBSET_NAME"] == jobset["metadata"]["name"]
    assert environ["JAX_PROCESS_COUNT"] == "4"
