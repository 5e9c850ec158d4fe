"""What is proposed where a step does not fit."""

import dataclasses

import pytest

from lm.base import options
from lm.base.errors import UserError
from lm.experiment.config import Experiment
from lm.plan import fixes

E = options.build(Experiment, dict(
    data=dict(B=64, T=4096), model=dict(L=4, D=512, N=8, K=4, H=64, V=1000, T=4096,
                                        precision="bfloat16", remat="dots")))
MESH = dict(stage=1, data=2, fsdp=8, expert=1, context=1, tensor=1)
FIELDS = {name for name, _, _ in options.walk(Experiment)}


def changed(e, overrides):
    """The experiment with overrides."""
    fields = options.flatten(dataclasses.asdict(e)) | overrides
    return options.build(Experiment, options.nest(fields))


def test_candidates_are_configs_of_as_many_devices():
    names = [set(changes) for changes, _ in fixes.candidates(E, MESH)]
    for changes, why in fixes.candidates(E, MESH):
        assert set(changes) <= FIELDS and why
        assert changed(E, changes) != E
        mesh = MESH | {name[5:]: n for name, n in changes.items() if name.startswith("mesh.")}
        assert mesh["data"] * mesh["fsdp"] * mesh["tensor"] == 16
    assert names.index({"train.accumulate"}) < names.index({"train.optimizer"})


def test_what_is_so_already_is_not_proposed():
    e = changed(E, {"model.remat": "full", "train.optimizer": "adafactor",
                    "train.offload": "optimizer", "model.precision": "bfloat16_stored"})
    fields = {name: value for changes, _ in fixes.candidates(e, MESH | dict(data=1, fsdp=1))
              for name, value in changes.items()}
    assert fields["model.remat"] == "offload"
    assert not {"train.optimizer", "train.offload", "model.precision", "mesh.data", "mesh.fsdp"
                } & fields.keys()


def test_those_that_fit_come_first_then_by_bytes():
    sizes = {"model.loss_chunk": 95.0, "model.remat": 70.0, "train.accumulate": 60.0}

    def predict(changes):
        if "train.optimizer" in changes:
            raise UserError("cannot be")
        return min([100.0, *(sizes[name] for name in changes if name in sizes)])

    # The prediction is a tenth too low: 70 stands for 77.
    rows = fixes.ranked(E, MESH, peak=110.0, limit=75.0, predict=predict)
    assert [(row["bytes"], row["fits"]) for row in rows] == (
        [(60.0, True)] + [(70.0, False)] * 3 + [(95.0, False)])
    rows = fixes.ranked(E, MESH, peak=110.0, limit=80.0, predict=predict)
    assert rows[0]["overrides"] == {"model.remat": "attention"}
    assert [row["fits"] for row in rows] == [True] * 4 + [False]


def test_changes_are_joined_where_one_is_not_enough():
    def predict(changes):
        return 100.0 * 0.7 ** len(changes.keys() & {"train.accumulate", "train.offload"})
    first, *others = fixes.ranked(E, MESH, peak=100.0, limit=50.0, predict=predict)
    assert first["overrides"] == {"train.accumulate": 2, "train.offload": "optimizer"}
    assert first["fits"] and first["bytes"] == pytest.approx(49.0)
    assert not any(row["fits"] for row in others)


def test_without_a_prediction_they_are_in_order():
    rows = fixes.ranked(E, MESH, peak=2.0, limit=1.0)
    assert [row["overrides"] for row in rows] == [c for c, _ in fixes.candidates(E, MESH)]
    assert {row["bytes"] for row in rows} == {None}
