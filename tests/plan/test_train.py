"""A run beside its plan: what is said before and after it, and what the next plan learns of it."""

import dataclasses
import json
import shutil

import jax
import pytest

from lm.base import options
from lm.cost import measure, utilisation
from lm.experiment import flags
from lm.mesh import devices
from lm.plan import steps, train
from lm.verbs import VERBS

STEPS = "--config.train.length=30 steps"


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """One device, and no measured runs but a test's own."""
    first = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *args: first)
    monkeypatch.setattr(train.calibration, "place", lambda path="": tmp_path / "calibration.jsonl")


@pytest.fixture
def lines(tmp_path):
    """Reads the calibration file."""
    def read():
        path = tmp_path / "calibration.jsonl"
        return list(map(json.loads, path.read_text().splitlines())) if path.exists() else []
    return read


@pytest.fixture
def written(tiny, tmp_path):
    """Writes a plan.json for the tiny config, some of its fields changed; returns its flag."""
    def write(**changes):
        e = flags.parse([tiny], VERBS["train"]).experiment
        config = options.flatten(json.loads(json.dumps(dataclasses.asdict(e))))
        config |= {"mesh.data": 1, "run": str(tmp_path / "planned")}
        config |= {name.replace("__", "."): value for name, value in changes.items()}
        spread = dict(low=0.5, likely=1.0, high=2.0)
        plan = dict(config=config, run=str(tmp_path / "planned"), choices=[dict(
            step_seconds=spread, memory_total=3 * 2**20, days=dict(low=1, likely=2, high=4),
            price=None)])
        (tmp_path / "plan.json").write_text(json.dumps(plan))
        return f"--plan={tmp_path / 'plan.json'}"
    return write


def table(out):
    """The rows of the comparison in what was printed: the head, and the others by name."""
    rows = out.splitlines()
    at = next(i for i, row in enumerate(rows) if row.split()[-1:] == ["measured"])
    end = next(i for i, row in enumerate(rows) if row.startswith("kept for the next plan"))
    return rows[at].split(), {row[:18].strip(): row for row in rows[at + 1:end]}


def test_a_run_tells_the_next_plan(lm, tiny, tmp_path, lines):
    plans = []
    for number in range(2):
        out = tmp_path / f"{number}.json"
        ended = lm("plan", tiny, "--chip=cpu", "--remats=none", "--config.train.accumulate=1",
                   f"--out={out}")
        assert ended.code == 0, ended.err
        plans.append(json.loads(out.read_text())["choices"][0])
        ended = lm("train", f"--plan={out}", f"--run={tmp_path / str(number)}", STEPS)
        assert ended.code == 0, ended.err
        assert "model.D = 16  (plan)" in ended.out and "warning" not in ended.out
        head, rows = table(ended.out)
        assert head == ["predicted", "measured"]   # another length than was planned
        assert list(rows) == ["step", "tokens/s", "utilisation (MFU)", "memory of a device"]
    first, second = lines()
    assert first["chip"] == "cpu" and first["devices"] == 1 == first["mesh"]["data"]
    assert first["config"] == second["config"] and first["processor"] == measure.processor()
    alone = first["predicted"]["uncorrected_seconds"]
    assert first["predicted"]["step_seconds"] == alone == pytest.approx(
        plans[0]["step_seconds"]["likely"])
    assert second["predicted"]["uncorrected_seconds"] == pytest.approx(alone)
    # One measured run is what the next one is predicted to be.
    took = first["measured"]["step_seconds"]
    assert second["predicted"]["step_seconds"] == pytest.approx(took, rel=0.05)
    assert plans[1]["step_seconds"]["likely"] == pytest.approx(took, rel=0.05)
    assert first["measured"]["bytes"] == second["measured"]["bytes"] > 1e5


def test_as_planned(lm, written, lines):
    """Without another flag the plan's own figures are compared."""
    ended = lm("train", written(train__length="30 steps"))
    assert ended.code == 0, ended.err
    head, rows = table(ended.out)
    took = lines()[0]["measured"]["step_seconds"]
    assert head == ["planned", "measured"]
    assert "1.00 s (500 ms to 2.00 s)" in rows["step"]
    assert "128 (64.0 to 256)" in rows["tokens/s"]
    assert "3.00 MiB" in rows["memory of a device"]
    assert "2.00 days (24.0 hours to 4.00 days)" in rows["days"]
    assert rows["days"].split()[-2:] == train.amounts.days(2 * took).split()


def test_a_run_that_goes_on(lm, tiny, tmp_path, lines):
    """What it did before does not count; after twenty steps there is something to say."""
    run = tmp_path / "run"
    command = ("train", tiny, f"--run={run}", "--config.train.length=48 steps",
               "--config.train.evaluate_every=16 steps", "--config.train.save_every=16 steps",
               "--config.train.keep=3")
    assert lm(*command).code == 0
    assert len(lines()) == 1
    for gone, expected in (("48",), 1), (("32", "48"), 2):
        for step in gone:
            shutil.rmtree(run / "checkpoints" / step)
        ended = lm(*command)
        assert "resumed at step" in ended.out and len(lines()) == expected
        assert ("measured" in ended.out) == (expected == 2)


def told(tiny, capsys, **flags_):
    """What is said before a run."""
    parsed = flags.parse([tiny, *(f"--{k}={v}" for k, v in flags_.items())], VERBS["train"])
    e = parsed.experiment
    e = dataclasses.replace(e, model=dataclasses.replace(e.model, V=256, T=e.data.T))
    with devices.use(devices.make(e.mesh)) as mesh:
        compare = train.expect(parsed, None, e, mesh)
    return capsys.readouterr().out, compare


def test_what_does_not_fit_is_said_before(tiny, capsys, monkeypatch):
    chip = measure.cpu()
    assert told(tiny, capsys)[0] == ""
    monkeypatch.setattr(measure, "cpu", lambda: dataclasses.replace(chip, hbm_bytes=1e5))
    out, compare = told(tiny, capsys)
    assert compare and len(out.splitlines()) == 1
    assert out.startswith("warning: a device is predicted to need ")
    assert " of 87.2 KiB; lm plan" in out    # 95 % of what a program may hold


def test_a_run_does_not_depend_on_its_prediction(tiny, capsys, monkeypatch):
    def fail(*args):
        raise ArithmeticError("no such thing")
    monkeypatch.setattr(steps, "case", fail)
    assert told(tiny, capsys) == ("not predicted: ArithmeticError: no such thing\n", None)
    monkeypatch.setattr(utilisation, "chip", lambda devices: None)
    assert told(tiny, capsys) == ("", None)


def test_plans_that_are_not_run(refused, written, tiny, tmp_path):
    refused("train", written(mesh__fsdp=64), says=["64 devices", "here is 1", "lm plan"])
    refused("train", written(mesh__fsdp=64), "--config.mesh.data=2",   # no more the plan's own
            says="mesh data=2 fsdp=64 does not lay out 1 device")
    refused("train", written(model__D="wide"), says=["model.D"])
    path = tmp_path / "plan.json"
    flag = written()
    refused("train", tiny, flag, says=["--config", "--plan"])
    whole = json.loads(path.read_text())
    for held in ({}, [], whole | dict(choices=[]), whole | dict(config=3),
                 {"kind": "serve", "choices": [{"chip": "v5e"}], "figures": {}}):
        path.write_text(json.dumps(held))
        refused("train", flag, says="is not the plan of a training")
    path.write_text('{"config": ')
    refused("train", flag, says="not JSON")
    path.unlink()
    refused("train", flag, says=["no plan", "lm plan"])
    refused("train", f"--plan={tmp_path}", says="no plan")
