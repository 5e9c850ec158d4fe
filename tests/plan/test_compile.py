"""The compile check: its process, its cache, and, with libtpu, what the real compiler says."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from lm.base import options
from lm.base.errors import UserError
from lm.cost.chips import CHIPS, GIB
from lm.experiment.config import Experiment
from lm.plan import compile as check
from lm.plan import gpu

E = options.build(Experiment, dict(
    data=dict(B=8, T=128), mesh=dict(data=1, fsdp=-1),
    model=dict(L=2, D=256, N=2, K=1, H=128, F=512, V=512, T=128, precision="bfloat16")))
# Stands for the worker, with the folder in `folder`.
HEAD = """
import json, os, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
job = json.loads((folder / "job.json").read_text())
print("on its way", os.getpid(), flush=True)
"""
REPORT = """
(folder / "dump").mkdir()
(folder / "dump" / "x.after_optimizations-memory-usage-report.txt").write_text(
    "Memory Space: default (color=0)\\nTotal bytes: %d (1B)\\n")
(folder / "mesh.json").write_text('{"data": 1, "fsdp": 4, "tensor": 1}')
"""
FOUND = dict(fits=False, peak=20 * GIB, limit=15.75 * GIB, mesh=dict(data=1, fsdp=4, tensor=1),
             error="too much")


@pytest.fixture
def worker(monkeypatch, tmp_path):
    """Puts a program in the worker's place; gives (check with its lines, those lines)."""
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: True)
    lines = []

    def run(program, e=E, target="v5e:2x2", **more):
        monkeypatch.setattr(check, "WORKER", (sys.executable, "-c", HEAD + program))
        return check.check(e, target, cache=tmp_path, **(dict(progress=lines.append) | more))
    return run, lines


def result(**changes):
    return f'(folder / "result.json").write_text({json.dumps(FOUND | changes)!r})'


def test_what_was_found_is_kept(worker, tmp_path):
    run, lines = worker
    first = run(result())
    assert lines[0].startswith("on its way") and first["error"] == "too much"
    assert len(list((tmp_path / "compiled").iterdir())) == 1
    assert run("1 / 0") == first
    assert "compiled before" in lines[-1]
    # Another step, another target, another version: none of them known.
    other = options.build(Experiment, dict(data=dict(B=16, T=128), model=E.model, mesh=E.mesh))
    assert "ZeroDivision" in run("1 / 0", e=other)["error"]
    assert "ZeroDivision" in run("1 / 0", target="v5p:2x2x1")["error"]


def test_where_a_run_lies_does_not_make_another_step(worker):
    run, lines = worker
    run(result())
    other = options.build(Experiment, dict(
        run="elsewhere", data=dict(B=8, T=128, corpus="other"), model=E.model, mesh=E.mesh))
    run("1 / 0", e=other)
    assert "compiled before" in lines[-1]


def test_another_version_compiles_again(worker, monkeypatch):
    run, _ = worker
    run(result())
    monkeypatch.setattr(check, "versions", lambda: dict(jax="99"))
    assert "ZeroDivision" in run("1 / 0")["error"]


def test_fixes_are_those_of_the_prediction(worker):
    run, _ = worker
    found = run(result(), predict=lambda changes: 5.0 if "data.B" in changes else 10.0)
    assert [row["overrides"] for row in found["fixes"]] == [{"data.B": 4}]
    assert run(result())["fixes"][0]["bytes"] is None
    assert run(result(fits=True), e=options.build(Experiment, dict(
        data=dict(B=4, T=128), model=E.model, mesh=E.mesh)))["fixes"] == []


def test_a_compiler_that_dies_is_told_of_and_not_kept(worker, tmp_path):
    run, _ = worker
    found = run("os.kill(os.getpid(), 9)")
    assert found["fits"] is None and "SIGKILL" in found["error"]
    assert "on its way" in found["notes"][0]
    assert not (tmp_path / "compiled").exists()


@pytest.mark.parametrize("size, fits", [(4, True), (17, False)])
def test_the_memory_verdict_outlives_a_time_limit(worker, tmp_path, size, fits):
    run, _ = worker
    found = run(REPORT % (size * GIB) + "time.sleep(600)", limit=1)
    assert found["fits"] is fits and found["peak"] == size * GIB
    assert "stopped after 1 s" in found["error"]
    assert bool(found["fixes"]) is not fits
    assert not (tmp_path / "compiled").exists()


def test_ctrl_c_ends_the_compiler(worker):
    run, _ = worker
    began = []

    def stop(line):
        began.append(int(line.split()[-1]))
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        run("time.sleep(600)", progress=stop)
    with pytest.raises(ProcessLookupError):
        os.kill(began[0], 0)


def test_a_mistake_is_answered_in_words(worker, monkeypatch):
    run, _ = worker
    with pytest.raises(UserError, match="batch 7"):
        run('(folder / "result.json").write_text(json.dumps(dict(mistake="batch 7 does not")))')
    with pytest.raises(UserError, match="did you mean 'v5"):
        run("", target="v5f:2x2")
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install libtpu, or LM_EXTRAS=dev,tpu"):
        run("")
    monkeypatch.setattr(check, "versions", lambda: dict(jax="1"))
    with pytest.raises(UserError, match="CUDA plugin.*pip install"):
        run("", target="h100:8")


def test_it_needs_no_jax_here():
    program = "import sys, lm.plan.compile; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True,
                   env=os.environ | dict(PYTHONPATH=str(check._LM.parent)))


def test_gpus_by_count():
    assert gpu.parse("h100:64") == (CHIPS["h100"], 64)
    assert gpu.parse("h100:4") == (CHIPS["h100"], 4)
    assert gpu.parse("v5e:4x4") is None
    for target, words in (("h100:12", "whole hosts of 8"), ("h100:2x4", "h100:64"),
                          ("h800:8", "not known")):
        with pytest.raises(UserError, match=words):
            gpu.parse(target)


def compiler(present, how):
    return pytest.mark.skipif(not present, reason=how)


needs_tpu = compiler(importlib.util.find_spec("libtpu"),
                     "no libtpu: pip install the one that jax[tpu] pins to compile for TPUs")
needs_cuda = compiler(gpu.version(), "no CUDA plugin: pip install 'jax[cuda12]'")


@needs_tpu
@pytest.mark.slow
def test_a_step_that_fits(tmp_path):
    lines = []
    found = check.check(E, "v5e:2x2", cache=tmp_path, progress=lines.append)
    assert found["fits"] and not found["error"] and not found["fixes"]
    assert found["peak"] == found["arguments"] + found["temporaries"] <= found["limit"]
    assert found["arguments"] == found["memory_analysis"]["argument_size_in_bytes"]
    assert found["live"] <= found["peak"]
    assert found["limit"] == CHIPS["v5e"].memory()
    assert any(": fits: a device needs" in line for line in lines)
    gathers = [row for row in found["collectives"] if row["kind"] == "all-gather"]
    assert gathers and {row["axis"] for row in gathers} == {"fsdp"}
    assert any(row["where"].startswith("lm/models/decoder/layers.py:") for row in gathers)
    assert not any(row["kind"] == "full gather" for row in found["relayouts"])
    assert found["cycles"]["seconds"] > 0
    again = check.check(E, "v5e:2x2", cache=tmp_path, progress=lines.append)
    assert again == found and "compiled before" in lines[-1]


@needs_tpu
@pytest.mark.slow
def test_a_step_that_does_not_fit(tmp_path):
    e = options.build(Experiment, dict(data=dict(B=65536, T=128), model=E.model, mesh=E.mesh))
    found = check.check(e, "v5e:1x1", cache=tmp_path)
    assert found["fits"] is False and found["peak"] > found["limit"] > 15 * GIB
    assert "GiB that a program has on v5e" in found["error"]
    assert found["largest"][0]["where"].startswith("lm/")
    assert sum(row["bytes"] for row in found["largest"]) <= found["live"] <= found["peak"]
    assert {"train.accumulate": 2} in [row["overrides"] for row in found["fixes"]]


@needs_tpu
@pytest.mark.slow
@pytest.mark.parametrize("target, tensor, weights", [
    ("v5e:1x1", 1, "bfloat16"), ("v6e:1x1", 1, "int8"), ("v5e:2x2", 4, "bfloat16"),
    ("v6e:2x2", 4, "int4")])
def test_the_engines_step(target, tensor, weights, tmp_path):
    """With the ragged kernel, and no second copy of the cache or of any matrix."""
    e = options.build(Experiment, dict(
        data=dict(T=512), mesh=dict(data=1, tensor=tensor),
        model=dict(L=4, D=1024, N=8, K=4, H=128, F=2048, V=8192, T=512, precision="bfloat16")))
    found = check.check_serving(e, target, slots=8, context=512, chunk=504, weights=weights,
                                cache=tmp_path)
    c = e.model
    cache = 2 * c.L * 8 * 512 * c.K // tensor * c.H * 2
    for step in ("prefill", "decode"):
        assert found[step]["fits"], found[step]["error"]
        assert cache < found[step]["arguments"] < found[step]["peak"]
    assert found["decode"]["temporaries"] < cache / 4
    assert found["decode"]["cycles"]["cycles"] < found["prefill"]["cycles"]["cycles"]


@needs_cuda
@pytest.mark.slow
def test_a_step_for_gpus(tmp_path):
    found = check.check(E, "h100:8", cache=tmp_path)
    assert found["fits"] and found["limit"] == CHIPS["h100"].memory()
    assert {row["axis"] for row in found["collectives"]} == {"fsdp"}
