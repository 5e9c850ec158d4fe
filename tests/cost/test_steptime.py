"""A step is the sum of its parts, for one plan or many, with its formula or without."""

import numpy as np
import pytest

from lm.cost import network, steptime
from lm.cost.chips import CHIPS
from lm.cost.constants import ATTENTION, LIKE, MATMUL, PLATFORMS, PRIOR, constants
from lm.cost.figure import explain, known, named
from lm.cost.slices import parse
from lm.cost.work import Message, Product, Work

V5P, H100 = CHIPS["v5p"], CHIPS["h100"]
K = dict(matmul=0.8, attention=0.5, memory=0.9, fsdp=0.4, tensor=0.3, data=2.0, context=0.5,
         expert=0.8, stage=0.8, host=0.1, lag=0.02, experts=0.7, overhead=0.0)
WORK = ("matmul", "attention", "elementwise", "optimizer")


def product(flops, **fields):
    """Returns a product of so many FLOPs in whole tiles, that memory is no bound of."""
    given = dict(scope="", dtype="bfloat16", rows=1024.0, depth=flops / 2 / 1024 / 1024,
                 columns=1024.0, batch=1.0, times=np.ones(2), bytes=0.0, again=False,
                 attention=False, last=False, experts=False)
    return Product(**given | fields)


def ideal(products, messages=(), *, chip=V5P, shape="4x4x4", mesh=None, count=1, **more):
    axes = network.stacked([network.axes(parse(chip, shape, count), mesh or dict(fsdp=64))] * 2)
    return steptime.ideal(Work(list(products), list(messages), np.zeros(2), np.zeros(2)), chip,
                          axes, bandwidth=chip.hbm_bandwidth, **more)


def seconds(x, name):
    return x[name].at(0) if name in x else 0.0


def test_a_product_at_the_peak():
    x = ideal([product(459e12)])
    assert seconds(x, "matmul") == pytest.approx(1.0)
    assert steptime.combine(x, K)["step_time"].at(1) == pytest.approx(1 / 0.8)


@pytest.mark.parametrize(("fields", "times"), [
    (dict(dtype="int8*int8"), 0.5), (dict(again=True), 0.7), (dict(again=True, last=True), 1.0),
    (dict(columns=65.0), 2 * 1024 / 1040)])
def test_what_a_product_is_decides_its_time(fields, times):
    whole = seconds(ideal([product(459e12)]), "matmul")
    size = fields.get("columns", 1024.0) / 1024     # as many FLOPs more as columns fill up a tile
    x = seconds(ideal([product(459e12, **fields)], again=0.7), "matmul")
    assert x / whole == pytest.approx(times * size)


def test_a_product_waits_for_its_operands():
    x = ideal([product(459e12, bytes=3 * V5P.hbm_bandwidth)])
    assert seconds(x, "waits") == pytest.approx(2.0)
    assert steptime.combine(x, K)["step_time.matmul"].at(0) == pytest.approx(1 / 0.8 + 2)


def test_attention_of_narrow_heads():
    x = ideal([product(459e12, attention=True)], seen=0.25, H=64)
    assert seconds(x, "attention") == pytest.approx(0.25 * 2)
    assert seconds(x, "matmul") == 0


def test_messages_vanish_without_an_axis():
    some = [Message(axis, "all_gather", 1e9, np.ones(2), "weights") for axis in ("fsdp", "data")]
    assert {"fsdp"} == set(ideal([product(1e12)], some)) & set(steptime.BESIDE)
    alone = ideal([product(1e12)], some, chip=CHIPS["v5e"], shape="1x1", mesh=dict(fsdp=1))
    assert not set(alone) & {*steptime.BESIDE, "joined", "idle"}


def test_messages_of_an_axis_add_up():
    axis = network.axes(parse(V5P, "4x4x4"), dict(fsdp=64))["fsdp"]
    some = [Message("fsdp", kind, size, times * np.ones(2), "") for kind, size, times in (
        ("all_gather", 1e9, 3.0), ("reduce_scatter", 2e9, 1.0), ("all_reduce", 5e8, 2.0))]
    assert seconds(ideal([product(1e12)], some), "fsdp") == pytest.approx(
        3 * network.all_gather(1e9, axis) + network.reduce_scatter(2e9, axis)
        + 2 * network.all_reduce(5e8, axis))


def everything():
    """A step with every part, for two plans."""
    some = [Message(axis, "all_gather", 1e9, np.array([1.0, 90.0]), "") for axis in (
        "fsdp", "tensor", "data")]
    return ideal([product(459e12), product(1e14, experts=True), product(1e13, attention=True),
                  product(1e12, bytes=1e12)],
                 some, mesh=dict(data=4, fsdp=8, tensor=8), count=4, host=1e9,
                 idle=np.array([0.2, 0.0]))


def test_a_step_is_the_sum_of_its_parts():
    t = steptime.combine(everything(), K)
    parts = [f"step_time.{name}" for name in (*WORK, "bubble", "lag")]
    parts += [name for name in t if name.endswith(".exposed")]
    assert len(parts) == len(WORK) + 2 + 4
    for i in (0, 1):
        assert t["step_time"].at(i) == pytest.approx(sum(t[name].at(i) for name in parts))
        assert t["step_time.lag"].at(i) == pytest.approx(
            0.02 * 2 * (t["step_time"].at(i) - t["step_time.lag"].at(i)))  # four slices
    assert t["step_time.bubble"].at(0) == pytest.approx(0.25 * t["step_time.work"].at(0))
    assert t["step_time.bubble"].at(1) == 0


def test_arrays_and_figures_agree():
    x = everything()
    figures = steptime.combine(x, {name: known(name, k) for name, k in K.items()})
    arrays = steptime.combine({name: y.value for name, y in x.items()}, K)
    assert set(figures) == set(arrays)
    for name, y in arrays.items():
        assert np.broadcast_to(figures[name].value, 2) == pytest.approx(np.broadcast_to(y, 2))


def test_what_the_work_hides():
    """A share is waited for; of the rest as much as the work is too short for."""
    def exposed(messages):
        t = steptime.combine(dict(matmul=8.0, fsdp=messages), K)
        assert t["step_time"] == pytest.approx(10 + t["step_time.fsdp.exposed"])
        return t["step_time.fsdp.exposed"]
    assert exposed(5.0) == pytest.approx(2.0)
    assert exposed(100.0) == pytest.approx(90.0)


def test_every_part_can_be_asked_where_it_is_from():
    t = steptime.combine(everything(), constants(V5P))
    names = {x.name for x in named(t["step_time"])}
    assert {"step_time.fsdp", "constants.matmul", "fsdp.bytes", "chip.flops",
            "network.doublings"} <= names
    assert "constants.matmul" in explain(t["step_time.matmul"])


def test_constants_of_chips():
    assert constants(CHIPS["h200"])["attention"].value == ATTENTION["h100"] == constants(
        H100)["attention"].value
    assert constants(CHIPS["b200"])["matmul"].value == PLATFORMS["gpu"]["matmul"]
    assert constants(V5P)["matmul"].value == MATMUL["v5p"] != PLATFORMS["tpu"]["matmul"]
    mine = constants(V5P, dict(matmul=0.5), "a run")["matmul"]
    assert (mine.value, mine.source) == (0.5, "a run")
    assert {*MATMUL, *ATTENTION, *LIKE, *LIKE.values()} <= set(CHIPS)
    assert all(set(own) >= set(PRIOR) for own in PLATFORMS.values())
