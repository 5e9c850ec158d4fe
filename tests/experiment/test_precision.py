"""The precision that a model gets on the chips at hand, and what a run in float16 says."""

import dataclasses

import pytest

from lm.base.errors import UserError
from lm.base.records import read_lines
from lm.experiment import parts
from lm.experiment.config import Experiment
from lm.mesh import devices
from lm.models.decoder.config import Config


def model(**choices):
    e = Experiment(model=Config(L=1, D=16, N=2, F=32, **choices))
    return parts.model(e, 64)


@pytest.mark.parametrize(("kind", "precision"), [
    ("TPU v5 lite", "fp8"), ("TPU v5 lite", "fp8_current"), ("NVIDIA A100-SXM4-40GB", "fp8"),
    ("a chip that nobody has listed", "int8")])
def test_a_missing_unit(kind, precision, monkeypatch, capsys):
    """Refused in words, replaced with a line, or done without, as the config says."""
    monkeypatch.setattr(devices, "kind", lambda: kind)
    monkeypatch.setattr(devices, "platform", lambda: "gpu")
    with pytest.raises(UserError, match=f"{kind} is not known to have.*precision_missing"):
        model(precision=precision)
    m = model(precision=precision, precision_missing="bfloat16")
    assert m.config.precision == "bfloat16" and not m.declaration.carried
    assert f"{kind} is not known to have: computing in bfloat16" in capsys.readouterr().out
    assert model(precision=precision, precision_missing="emulate").config.precision == precision
    assert not capsys.readouterr().out


@pytest.mark.parametrize(("kind", "precision"), [
    ("NVIDIA H200", "fp8"), ("TPU v6 lite", "fp8_current"), ("TPU v5 lite", "int8"),
    ("a chip that nobody has listed", "bfloat16_stored"), ("cpu", "fp8")])
def test_a_unit_that_is_there(kind, precision, monkeypatch, capsys):
    monkeypatch.setattr(devices, "kind", lambda: kind)
    monkeypatch.setattr(devices, "platform", lambda: "cpu" if kind == "cpu" else "gpu")
    m = model(precision=precision)
    assert m.config == dataclasses.replace(m.config, precision=precision)
    assert not capsys.readouterr().out


def test_a_run_in_float16_reports_its_loss_scale(alone, lm, tiny, tmp_path):
    """Doubled after every four good steps."""
    flags = [tiny, f"--run={tmp_path}", "--config.model.precision=float16",
             "--config.train.loss_scale_every=4"]
    ended = lm("train", *flags)
    assert ended.code == 0, ended.err
    assert "loss scale 32768" in ended.out and "loss scale 65536" in ended.out
    scales = [r["loss_scale"] for r in read_lines(tmp_path / "metrics.jsonl") if "loss" in r]
    assert scales == [2.0 ** (15 + i // 4) for i in range(12)]


def test_a_run_in_fp8_is_evaluated(lm, tiny, tmp_path):
    ended = lm("train", tiny, f"--run={tmp_path}", "--config.model.precision=fp8",
               "--config.mesh.fsdp=2", "--config.mesh.data=4")
    assert ended.code == 0, ended.err
    ended = lm("eval", f"--run={tmp_path}")
    assert ended.code == 0 and "validation loss" in ended.out
