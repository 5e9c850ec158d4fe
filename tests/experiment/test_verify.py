"""`lm verify`: rows that agree and that do not, what cannot be laid out, what is asked wrongly."""

import contextlib
import dataclasses
import importlib.util
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.base.errors import UserError
from lm.cost import compiled
from lm.experiment import flags, layouts, tiny, topology, trial, verify
from lm.mesh import devices, rules
from lm.nn.precision import PRECISIONS
from lm.verbs import VERBS

TINY = "--config=configs/llama3.py:tiny"


def experiment(config="llama3.py:tiny", **model):
    e = flags.parse([f"--config=configs/{config}"], VERBS["train"]).experiment
    return dataclasses.replace(e, model=dataclasses.replace(e.model, **model))


@pytest.fixture
def record(lm, tmp_path):
    """Runs the verb with --out; returns (what ended, its rows)."""
    def run(*argv):
        ended = lm("verify", *argv, f"--out={tmp_path / 'table.json'}")
        assert not ended.err
        return ended, json.loads((tmp_path / "table.json").read_text())
    return run


def test_one_mesh(record):
    ended, (one, row) = record(TINY, "--mesh=fsdp=4 tensor=-1", "--precision=float32", "--steps=2")
    assert ended.code == 0, ended.out
    assert (one["verdict"], row["verdict"]) == ("reference", "ok")
    assert row["mesh"] == dict(stage=1, data=1, fsdp=4, expert=1, context=1, tensor=2)
    assert len(row["losses"]) == 2
    assert row["losses"] == pytest.approx(one["losses"], rel=1e-5)
    assert row["losses"] != one["losses"], "another order of sums rounds otherwise"
    assert 0 < row["differences"]["gradient"] < 1e-4
    assert 0 < row["differences"]["weights"] < 1e-4
    assert row["peak_bytes"] < one["peak_bytes"]
    assert row["collectives"]["count"]["all-gather"] > 9 and not one["collectives"]["count"]
    line = next(line for line in ended.out.splitlines() if line.startswith("fsdp=4 tensor=2 "))
    assert re.search(r" ok +all-\w+ \d+x \d", line)
    assert "1 of 1 rows are as one device" in ended.out


@pytest.mark.slow
def test_precisions_are_held_to_their_own_tolerance(record, monkeypatch):
    bad = dict(PRECISIONS, fp8=dataclasses.replace(PRECISIONS["fp8"], tolerance=1e-9))
    monkeypatch.setattr(verify, "PRECISIONS", bad)
    some = dict(list(bad.items())[:2], fp8=bad["fp8"])
    monkeypatch.setattr(layouts, "PRECISIONS", some)
    ended, rows = record(TINY, "--mesh=data=2 fsdp=2 tensor=2", "--steps=2")
    assert ended.code == 1
    assert [(r["precision"], r["verdict"]) for r in rows[1:]] == [
        ("float32", "ok"), ("bfloat16", "ok"), ("fp8", "WRONG")]
    assert "    disagrees: loss" in ended.out
    assert "2 of 3 rows are as one device" in ended.out


def test_an_error_of_the_layout_and_a_warning_of_the_compiler_are_found(record, monkeypatch):
    """On several devices the model is asked for what it has just read."""
    place, heard = rules.place, compiled.heard

    def twisted(read, B, mesh):
        batch = place(read, B, mesh)
        if mesh.size > 1:
            batch["targets_BT"] = batch["tokens_BT"]
        return batch

    @contextlib.contextmanager
    def warned():
        with heard() as lines:
            lines.append(f"W spmd: I{compiled.WARNING}. of it all")
            yield lines
    monkeypatch.setattr(rules, "place", twisted)
    monkeypatch.setattr(compiled, "heard", warned)
    ended, rows = record(TINY, "--mesh=fsdp=8", "--precision=float32", "--steps=1")
    assert ended.code == 1
    assert rows[1]["verdict"] == "WRONG"
    *wrong, warning = rows[1]["wrong"]
    assert [line.split()[1] for line in wrong] == ["loss", "gradient", "weights"]
    assert warning == "the compiler: W spmd: Involuntary full rematerialization. of it all"


def test_a_pipeline_says_its_bubble():
    """Four stages, eight microbatches: 3 of 11 ticks; layers that fill no stage add to it."""
    small = tiny.tiny(experiment(schedule="gpipe"))
    mesh = layouts.Layout(layouts.read("stage=4 data=2", 8), "gpipe", "float32").of(small).mesh
    planned, counted = trial.bubble(small, devices.make(mesh))
    assert planned == pytest.approx(3 / 11)
    assert counted == pytest.approx(planned, rel=1e-6)
    uneven = dataclasses.replace(small, model=dataclasses.replace(small.model, L=5))
    planned, counted = trial.bubble(uneven, devices.make(mesh))
    assert planned == pytest.approx(1 - 8 * 5 / (11 * 4 * 2))
    assert counted == pytest.approx(planned, rel=1e-6)


def test_which_layouts():
    found, refused = layouts.layouts(experiment(), jax.devices(), "", "all")
    names = [str(layout) for layout in found]
    assert names[:3] == ["fsdp=8", "data=8", "data=2 fsdp=4"]
    assert not any("expert" in name for name in names), "there are none"
    assert {"stage=2 fsdp=4 gpipe", "stage=2 fsdp=4 1f1b", "stage=2 fsdp=4 circular"} <= {*names}
    assert sum(name.startswith("stage=2 data=2 fsdp=2") for name in names) == 1
    assert refused["4 layers do not fill 8 stages; set mesh.stage to at most 4"] == [
        "stage=8 gpipe", "stage=8 1f1b"]
    low = [layout for layout in found if layout.precision != "float32"]
    assert [layout.precision for layout in low] == [*PRECISIONS][1:]
    assert {sum(n > 1 for n in layout.shape.values()) for layout in low} == {3}
    assert len(set(names)) == len(names) - len(low)


def test_what_the_config_cannot_be_laid_on_is_skipped():
    _, refused = layouts.layouts(experiment("shakespeare_char.py:ours"), jax.devices(), "", "all")
    assert any("batch B = 6 does not divide over data*fsdp = 4" in reason for reason in refused)
    assert any("hidden units F = 341" in reason for reason in refused)


@pytest.mark.parametrize("config", ["llama3.py:8b", "llama3.py:70b", "gpt2.py:124m", "gpt2.py:1.5b",
                                    "shakespeare_char.py:ours", "quickstart.py", "lm1b.py",
                                    "moe.py:mixtral", "moe.py:qwen3", "moe.py:deepseek"])
def test_the_tiny_form_is_laid_out_as_the_config_is(config):
    """Any mesh of 8 that holds the one holds the other, and keeps its choices."""
    e = experiment(config)
    small = tiny.tiny(e)
    for shape in devices.shapes(8):
        layout = layouts.Layout(shape, e.model.schedule, "float32")

        def holds(e, layout=layout):
            try:
                layouts.legal(layout.of(e), jax.devices())
            except UserError as error:
                return str(error)
            return ""
        if not holds(e):
            assert not holds(small)
    c, s = e.model, small.model
    assert (c.K < c.N, c.K == 1, c.tied, c.norm) == (s.K < s.N, s.K == 1, s.tied, s.norm)
    assert bool(c.E) == bool(s.E) and (not c.E or s.experts_top < s.E)
    assert s.D <= c.D and s.L <= c.L and small.data.B <= e.data.B
    assert s.D * s.F * s.L < 64 * 96 * 20


def test_windows_stay_parts_of_the_sequence():
    e = experiment("llama3.py:8b", windows=(4096, 0, 9999))
    assert tiny.tiny(e).model.windows == (16, 0, 9999)


def test_random_batches():
    e = tiny.tiny(experiment())
    batch = tiny.text(e, 64, 2).batch(0)
    assert batch["tokens_BT"].shape == (e.data.B, e.data.T)
    assert batch["segments_BT"].max() > 1 and (batch["weights_BT"] == 0).any()
    for name, x in tiny.text(e, 64, 2).batch(0).items():
        np.testing.assert_array_equal(x, batch[name])
    assert (tiny.text(e, 64, 2).batch(1)["tokens_BT"] != batch["tokens_BT"]).any()


def test_differences():
    def state(*values):
        return trial.program.State(None, dict(a=jnp.array(values)), None, None)

    def made(last, loss, *gradient):
        return trial.Trial(None, state(0.0, 0.0), state(*last), [1.0, loss],
                           [dict(a=np.array(gradient), b=np.zeros(2))])
    one = made((3.0, 4.0), 2.0, 1.0, -4.0)
    assert trial.differences(one, one) == (0, 0, 0)
    assert trial.differences(made((3.0, 4.5), 1.9, 1.0, -3.0), one) == pytest.approx(
        (0.05, 0.25, 0.1))
    assert trial.differences(made((3.0, np.nan), np.nan, 1.0, np.inf), one) == (np.inf,) * 3
    tiny_one = one._replace(gradients=[dict(a=np.array([1.0, -4.0]), b=np.full(2, 1e-9))])
    assert trial.differences(tiny_one, one).gradient < 1e-6, "zero but for rounding"


@pytest.mark.parametrize("argv, says", [
    (["--devices=0"], "at least 1"), (["--devices=65"], "at most 64"),
    (["--devices=two"], "--devices must be an integer, got 'two'"),
    (["--devices=16"], ["jax had started", "8 CPU devices"]),
    (["--mesh=fdsp=8"], "did you mean 'fsdp'"), (["--mesh=fsdp"], "fsdp needs a number"),
    (["--mesh=fsdp=3"], ["fsdp=3 does not lay out 8 devices", "legal:"]),
    (["--mesh=stage=8"], "4 layers do not fill 8 stages"),
    (["--precision=fp7"], "did you mean 'fp8'"), (["--steps=0"], "at least 1"),
    (["--topology=target", "--precision=fp8"], "--config.model.precision=fp8"),
    (["--topology=v5x:2x2"], "did you mean 'v5p'"), (["--topology=v5p:2x2"], "3 axes"),
    (["--topology=v5e:2x"], "2 axes; e.g. v5e:4x4"),
    (["--topology=v5e:99x99"], "largest slice of v5e has 256"),
    (["--topology=target", "--config.mesh.target="], "give --topology=TYPE:SHAPE"),
])
def test_what_is_asked_wrongly(refused, argv, says):
    refused("verify", TINY, *argv, says=says)


def test_without_the_compiler_for_tpus(refused, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    refused("verify", TINY, "--topology=v5e:2x2", says=["pip install libtpu", "LM_EXTRAS=dev,tpu"])


def test_a_refusal_of_the_compiler_in_one_line():
    chip = topology.CHIPS["v5e"]
    for text in ("RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the "
                 "total memory required for HLO temporaries (30.67G) exceeds available HBM "
                 "(15.75G)",
                 "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory "
                 "space hbm. Used 30.67G of 15.75G hbm. Exceeded"):
        assert topology.refused(text, chip) == (
            "a device needs 30.67 GiB of the 15.75 GiB that a program has on v5e")
    assert topology.refused("INTERNAL: so it is", chip) == "INTERNAL: so it is"


def test_it_asks_for_its_devices_itself(command):
    """In a process of its own, which has one device until then."""
    ended = command("verify", TINY, "--devices=4", "--mesh=fsdp=4", "--precision=float32",
                    "--steps=1")
    assert ended.code == 0, ended.err
    assert re.search(r"^fsdp=4 .* ok ", ended.out, re.M)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["llama3.py:tiny", "llama3.py:8b", "gpt2.py:124m", "lm1b.py",
                                    "quickstart.py", "shakespeare_char.py:ours", "moe.py:tiny"])
def test_every_layout_of_every_config(config, start):
    process = start("verify", f"--config=configs/{config}")
    out, err = process.communicate(timeout=3600)
    assert process.returncode == 0, out + err
