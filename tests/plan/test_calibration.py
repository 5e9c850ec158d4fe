"""What measured runs do to the plans that follow."""

import json

import numpy as np
import pytest

from lm.cost import measure
from lm.cost.chips import CHIPS, Chip
from lm.cost.constants import constants
from lm.cost.steptime import combine
from lm.plan import calibration

CPU = Chip("cpu", ("cpu",), {"f32": 1e11}, 8e9, 5e10)


def line(predicted, took, chip="v5e", **more):
    return dict(chip=chip, predicted=dict(uncorrected_seconds=predicted, step_seconds=1.0),
                measured=dict(step_seconds=took)) | more


def test_exact_predictions_change_nothing():
    changes, source = calibration.correction([line(x, x) for x in (0.1, 3.0, 7.0)], CHIPS["v5e"])
    own = constants(CHIPS["v5e"])
    assert {name: pytest.approx(own[name].value) for name in changes} == changes
    assert "3 runs on v5e took 1.00" in source
    assert calibration.correction([], CHIPS["v5e"]) == ({}, "")


@pytest.mark.parametrize("chip", [CHIPS["v5e"], CHIPS["h100"], CPU], ids=lambda c: c.name)
def test_a_step_of_one_device_takes_as_much_longer_as_runs_did(chip, monkeypatch):
    monkeypatch.setattr(measure, "processor", lambda: "")
    ideal = dict(matmul=0.3, attention=0.1, elementwise=0.05, optimizer=0.01)
    before = combine(ideal, {k: x.value for k, x in constants(chip).items()})["step_time"]
    changes, source = calibration.correction([line(2.0, 3.0, chip.name)], chip)
    after = combine(ideal, {k: x.value for k, x in constants(chip, changes, source).items()})
    assert after["step_time"] == pytest.approx(1.5 * before)
    assert constants(chip, changes, source)["matmul"].source == source


def test_the_median_of_the_latest_runs_of_the_chip_counts():
    own = constants(CHIPS["v5e"])["matmul"].value
    old = [line(1.0, 9.0)] * 30
    new = [line(1.0, x) for x in (2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 50.0)]
    others = [line(1.0, 4.0, "v5p")] * 20
    changes, _ = calibration.correction(old + new + others, CHIPS["v5e"])
    assert changes["matmul"] == pytest.approx(own / 2)


def test_runs_of_another_processor_do_not_count(monkeypatch):
    lines = [line(1.0, 2.0, "cpu", processor="a, 2 cores"),
             line(1.0, 4.0, "cpu", processor="a, 4 cores"), line(1.0, 8.0, "cpu")]
    own = constants(CPU)["memory"].value
    for cores, factor in ((2, 2), (4, 4)):
        monkeypatch.setattr(measure, "processor", lambda n=cores: f"a, {n} cores")
        changes, source = calibration.correction(lines, CPU)
        assert changes["memory"] == pytest.approx(own / factor)
        assert f"a, {cores} cores" in source
    monkeypatch.setattr(measure, "processor", lambda: "b, 2 cores")
    assert calibration.correction(lines, CPU) == ({}, "")


def test_the_file(tmp_path, monkeypatch):
    """What was written is read; what is no line of it is passed over."""
    monkeypatch.setenv("LM_CACHE", str(tmp_path / "cache"))
    assert calibration.read() == []
    path = calibration.append(line(1.0, 2.0))
    assert path == tmp_path / "cache" / "calibration.jsonl" == calibration.place()
    bad = [[], 7, {}, dict(chip="v5e"), line(0.0, 1.0), line(1.0, -1.0), line("1", 1.0),
           line(1.0, None), line(1.0, 1.0, "")]
    with path.open("a") as file:
        file.write("".join(json.dumps(x) + "\n" for x in bad))
    calibration.append(line(1.0, 3.0))
    with path.open("a") as file:
        file.write('{"chip": "v5e", "pred')   # cut by a crash
    assert [x["measured"]["step_seconds"] for x in calibration.read()] == [2.0, 3.0]
    assert calibration.read(str(tmp_path / "no such file")) == []
    changes, _ = calibration.correction(calibration.read(), CHIPS["v5e"])
    assert changes["matmul"] == pytest.approx(constants(CHIPS["v5e"])["matmul"].value
                                              / np.median([2, 3]))
