"""Collectives take the times of the scaling book, on the links that jax's meshes really have."""

import dataclasses
import itertools
import math
import random

import jax
import numpy as np
import pytest
from jax._src import mesh_utils as internals
from jax.experimental import mesh_utils

from lm.base.errors import UserError
from lm.cost import network, tiling
from lm.cost.chips import CHIPS, override
from lm.cost.figure import explain, known, named
from lm.cost.network import axes
from lm.cost.slices import parse
from lm.mesh import devices
from lm.mesh.config import AXES

MOVES = [network.all_gather, network.reduce_scatter, network.all_reduce, network.all_to_all,
         network.permute]
US = 1e-6


@dataclasses.dataclass(frozen=True)
class Device:
    """As much of a TPU as mesh_utils looks at."""

    id: int
    coords: tuple
    core_on_chip: int
    device_kind: str
    platform: str = "tpu"


def on(name, shape, **mesh):
    return axes(parse(CHIPS[name], shape), mesh)


def fake(slice):
    """The devices of a slice: as TPUs list them, of a chip first, and x before y before z."""
    shape = slice.shape + (1,) * (3 - len(slice.shape))
    places = [(x, y, z, core) for z, y, x in itertools.product(*map(range, shape[::-1]))
              for core in range(slice.chip.devices)]
    return [Device(i, place[:3], place[3], slice.chip.kinds[0]) for i, place in enumerate(places)]


def some(shapes, count=60):
    return random.Random(0).sample(shapes, min(count, len(shapes)))


# The book's worked answers, within the rounding that it prints.

def test_gather_on_a_mesh_of_8_by_4():
    size = 2048 * 8192 * 2
    open_ = on("v5e", "4x8", fsdp=8, tensor=4)["tensor"]
    assert network.all_gather(size, open_) == pytest.approx(560 * US, rel=0.005)
    closed = on("v4", "4x4x8", data=4, fsdp=8, tensor=4)["tensor"]  # links as fast, and rings
    assert network.all_gather(size, closed) == pytest.approx(377 * US, rel=0.015)


def test_gathers_and_a_reduction_on_a_cube():
    size = 1024 * 4096 * 2
    one = on("v4", "4x4x4", data=4, fsdp=4, tensor=4)
    two = on("v4", "4x4x4", data=4, fsdp=16)
    assert network.all_gather(size / 4, one["tensor"]) == pytest.approx(23 * US, rel=0.02)
    assert network.all_gather(size, two["fsdp"]) == pytest.approx(46 * US, rel=0.02)
    assert network.all_reduce(size, one["data"]) == pytest.approx(190 * US, rel=0.03)


def test_a_small_array_takes_the_latency():
    axis = on("v4", "4x4x4", data=4, fsdp=4, tensor=4)["tensor"]
    assert network.all_gather(128 * 2, axis) == 2 * US
    axis = on("v5e", "16x16", fsdp=16, tensor=16)["tensor"]
    assert network.all_gather(45e3, axis) == network.all_gather(0, axis) == 8 * US


def test_from_corner_to_corner():
    chip = CHIPS["v5e"]
    size = 8 * 128 * 8192 * 2
    assert network.point_to_point(0, 2 * chip.network.link, 6) == 6 * US
    both = network.point_to_point(size, 2 * chip.network.link, 6)
    assert both == pytest.approx(194 * US, rel=0.01)


def test_an_axis_over_all_of_a_torus_has_all_its_links():
    for name, shape, links in [("v5p", "4x4x4", 6), ("v5e", "16x16", 4), ("v5e", "8x16", 3),
                               ("v5e", "8x8", 2), ("v5p", "2x4x4", 3), ("v5p", "2x2x1", 2),
                               ("v6e", "2x4", 2)]:
        slice = parse(CHIPS[name], shape)
        axis = axes(slice, {"fsdp": slice.devices})["fsdp"]
        assert axis.rate == links * CHIPS[name].network.link, (name, shape)
    # Both devices of a 7x chip take part, and what comes over its links comes once.
    assert on("7x", "4x4x4", fsdp=128)["fsdp"].rate == 6 * CHIPS["7x"].network.link


def test_a_part_of_a_ring_is_a_line_and_what_lies_across_it_shares_links():
    found = on("v5e", "16x16", fsdp=16, expert=4, tensor=4)
    link = CHIPS["v5e"].network.link
    assert found["tensor"][:6] == (4, link, link, 3, US, 3 / 4)
    assert found["expert"][:6] == (4, 2 * link / 4, link / 4, 8, US, 3 / 4)  # a ring of every 4th
    assert found["fsdp"][:6] == (16, 2 * link, link, 8, US, 1)
    assert found["data"] == found["stage"] == network.Axis(*network._ALONE)


def test_small_slices_whose_devices_are_in_another_order():
    link = CHIPS["v5e"].network.link
    found = on("v5e", "2x4", fsdp=2, tensor=4)  # squares: [0 1 2 3], and [7 6 5 4] above it
    assert found["tensor"][:6] == (4, 2 * link, link / 2, 2, US, 3 / 4)
    assert found["fsdp"][:6] == (2, link / 2, link / 4, 4, US, 1 / 2)  # all by the 2 links between
    pairs = on("v5e", "2x2", fsdp=2, tensor=2)
    assert pairs["tensor"][:4] == (2, link, link, 1) and pairs["fsdp"][:4] == (2, link, link / 2, 2)
    for axis in (found["tensor"], pairs["tensor"]):
        assert network.all_to_all(1e9, axis) == pytest.approx(network.all_gather(1e9, axis) / 2)


def test_the_devices_of_a_7x_chip():
    chip = CHIPS["7x"]
    found = on("7x", "4x4x4", data=16, fsdp=4, tensor=2)
    assert found["tensor"].rate == chip.network.pair
    assert found["fsdp"].rate == chip.network.link  # of 2 links, shared by the chip's devices


def test_an_exchange_is_a_quarter_of_a_gather_in_a_ring_and_half_in_a_line():
    ring = on("v5e", "16x16", fsdp=16, tensor=16)["tensor"]
    line = on("v5e", "8x8", fsdp=8, tensor=8)["tensor"]
    assert network.all_to_all(1e9, ring) == pytest.approx(network.all_gather(1e9, ring) / 4)
    assert network.all_to_all(1e9, line) == pytest.approx(network.all_gather(1e9, line) / 2)
    # V max(A, B) / (4 N W): two axes are not twice but 16 times as fast.
    both = on("v5e", "16x16", fsdp=256)["fsdp"]
    assert network.all_to_all(1e9, both) == pytest.approx(
        1e9 * 16 / (4 * 256 * 2 * CHIPS["v5e"].network.link))


def test_slices_are_joined_by_the_slow_network():
    chip = CHIPS["v5e"]
    slice = parse(chip, "2x(16x16)")
    found = axes(slice, {"data": 2, "fsdp": 256})
    assert found["data"].groups == 2 and found["fsdp"].groups == 1
    assert network.all_reduce(1e9, found["data"]) == pytest.approx(2 * 1e9 / 2 / chip.nic)
    wide = axes(slice, {"data": 32, "fsdp": 16})["data"]  # 16 devices of each share the work
    assert network.all_reduce(1e9, wide) == pytest.approx(2 * max(
        1e9 / 2 / 16 / chip.nic, 1e9 / (2 * chip.network.link)))
    staged = axes(slice, {"stage": 2, "fsdp": 256}, across="stage")["stage"]
    assert network.permute(1e9, staged) == pytest.approx(1e9 / chip.nic)
    with pytest.raises(UserError, match="mesh.data = 1 does not divide over 2 slices"):
        axes(slice, {"fsdp": 512})
    with pytest.raises(UserError, match="v4 are joined is not known.*nic="):
        axes(parse(CHIPS["v4"], "2x(4x4x4)"), {"data": 2, "fsdp": 64})
    given = override(CHIPS["v4"], {"nic": 6e9})
    assert axes(parse(given, "2x(4x4x4)"), {"data": 2, "fsdp": 64})["data"].slow_rate == 6e9


def test_gpus_go_by_switch_and_then_by_nic():
    chip = CHIPS["h100"]
    rate = chip.network.link * chip.network.reached
    found = on("h100", "4x8", data=4, fsdp=8)
    assert (found["fsdp"].groups, found["data"].groups) == (1, 4)
    assert network.all_gather(8e9, found["data"]) == pytest.approx(8e9 * 3 / 4 / chip.nic)
    whole = on("h100", "4x8", fsdp=32)["fsdp"]  # each of a host's 8 fetches an eighth
    inside, between = 8 * 7 / 8 / rate, 8 * 3 / 4 / (8 * chip.nic)
    assert inside > between
    assert network.all_gather(8e9, whole) == pytest.approx(1e9 * inside, rel=0.02)
    slow = axes(parse(override(chip, {"nic": 25e9}), "4x8"), {"fsdp": 32})["fsdp"]
    assert network.all_gather(8e9, slow) == pytest.approx(2e9 * between)
    half = on("h100", "4x8", data=8, fsdp=4)["data"]
    assert half.groups == 4 and half.ways == 8
    assert network.all_gather(8e9, half) == pytest.approx(8e9 * 3 / 4 / (2 * chip.nic))
    assert network.all_to_all(8e9, found["fsdp"]) == pytest.approx(8e9 / 8 * 7 / 8 / rate)
    one = parse(override(chip, {"nic": 1e15}), "4x8")  # then only the switches count
    assert network.all_gather(1e11, axes(one, {"fsdp": 32})["fsdp"]) == pytest.approx(
        1e11 * 7 / 8 / rate, rel=0.01)


@pytest.mark.parametrize(("size", "measured"), [(10e9, 370e9), (58e6, 150e9)])
def test_the_rates_that_were_measured_on_h100(size, measured):
    axis = on("h100", "1x8", tensor=8)["tensor"]
    seconds = network.all_reduce(size, axis._replace(latency=0.0))
    assert 2 * size * 7 / 8 / seconds == pytest.approx(measured, rel=0.015)


# Laws.

@pytest.mark.parametrize("move", MOVES, ids=lambda move: move.__name__)
@pytest.mark.parametrize(("name", "shape"), [
    ("v5e", "4x4"), ("v6e", "2x4"), ("v5p", "4x4x4"), ("7x", "2x2x2"), ("h100", "2x8")])
def test_more_bytes_take_no_less_time_and_one_device_none(move, name, shape):
    slice = parse(CHIPS[name], shape)
    found = network.stacked([axes(slice, mesh) for mesh in some(devices.shapes(slice.devices))])
    for axis in found.values():
        times = np.stack([move(size, axis) for size in np.geomspace(1, 1e12, 25)])
        assert np.isfinite(times).all() and (np.diff(times, axis=0) >= 0).all()
        assert (times[:, axis.ways == 1] == 0).all()
        assert (times[0, axis.ways > 1] > 0).all()
        assert (times[-1, axis.ways > 1] > times[0, axis.ways > 1]).all()


@pytest.mark.parametrize(("name", "shape"), [
    ("v4", "4x4x8"), ("v5e", "16x16"), ("v5e", "2x4"), ("v5p", "2x2x2"), ("7x", "2x2x4"),
    ("7x", "4x4x4"), ("h100", "3x8"), ("b200", "1x4")])
def test_every_mesh_of_a_slice_has_its_axes(name, shape):
    slice = parse(CHIPS[name], shape)
    for mesh in some(devices.shapes(slice.devices), 200):
        found = axes(slice, mesh)
        assert list(found) == list(AXES)
        assert {axis: found[axis].ways for axis in AXES} == mesh
        assert math.prod(one.ways for one in found.values()) == slice.devices
        assert all(one.rate > 0 and one.link > 0 and one.exchange > 0 for one in found.values())


def test_a_closed_ring_is_faster_than_a_line():
    for ways, (ring, line) in {4: (("v4", "4x4x4"), ("v5e", "4x4")),
                               8: (("v4", "4x4x8"), ("v5e", "8x8"))}.items():
        closed, open_ = (on(name, shape, fsdp=math.prod(map(int, shape.split("x"))) // ways,
                            tensor=ways)["tensor"] for name, shape in (ring, line))
        assert CHIPS[ring[0]].network.link == CHIPS[line[0]].network.link
        for move in MOVES[:-1]:
            for size in (1, 1e6, 1e9):
                assert move(size, closed) < move(size, open_)


def test_a_reduction_is_a_scatter_and_a_gather():
    for name, shape in [("v5e", "8x16"), ("h100", "2x8"), ("v5p", "2x4x4")]:
        slice = parse(CHIPS[name], shape)
        for mesh in some(devices.shapes(slice.devices), 20):
            for axis in axes(slice, mesh).values():
                assert network.all_reduce(3e7, axis) == pytest.approx(
                    network.reduce_scatter(3e7, axis) + network.all_gather(3e7, axis))


def test_no_collective_beats_the_links_that_it_crosses():
    """Cuts bound every schedule from below, and take no account of how `axes` comes to its rate."""
    for shape in ("4x8", "8x8", "4x4"):
        slice = parse(CHIPS["v5e"], shape)
        torus = (*slice.shape, 1)
        for mesh in some(devices.shapes(slice.devices), 150):
            sizes = tuple(n for n in mesh.values() if n > 1)
            grid = internals._create_device_mesh_for_nd_torus(
                np.arange(slice.devices).reshape(torus[::-1]).T, sizes,
                allow_split_physical_axes=True)[0]
            bounds = tiling.cuts(slice.shape, 1, tuple(grid.flat), sizes)
            found = [axis for axis in axes(slice, mesh).values() if axis.ways > 1]
            for axis, (gather, exchange, _) in zip(found, bounds, strict=True):
                link = slice.chip.network.link
                assert axis.part / axis.rate >= gather / link * (1 - 1e-9)
                assert 1 / axis.exchange >= exchange / link * (1 - 1e-9)


def test_many_meshes_at_once():
    slice = parse(CHIPS["v5p"], "4x4x4")
    meshes = some(devices.shapes(slice.devices), 40)
    found = [axes(slice, mesh) for mesh in meshes]
    many = network.stacked(found)
    size = np.geomspace(1e3, 1e10, len(meshes))
    for axis in AXES:
        for move in MOVES:
            alone = [move(n, one[axis]) for n, one in zip(size, found, strict=True)]
            np.testing.assert_allclose(move(size, many[axis]), alone)


def test_a_figure_says_where_it_comes_from():
    size = known("layer.bytes", 34e6, "bytes", "traced")
    for move in MOVES:
        time = move(size, on("v5e", "4x8", fsdp=8, tensor=4)["tensor"], name="step.fsdp")
        assert time.name == "step.fsdp" and time.unit == "s" and "scaling book" in time.source
        assert time.value == move(34e6, on("v5e", "4x8", fsdp=8, tensor=4)["tensor"])
        assert "layer.bytes" in {figure.name for figure in named(time)}
    text = explain(network.all_gather(size, on("h100", "2x8", fsdp=16)["fsdp"], "g"))
    assert "g = max((layer.bytes + min(" in text and "g.slow = 5e+10 bytes/s" in text


def test_a_mesh_that_does_not_fit():
    with pytest.raises(UserError, match="a mesh of 8 devices does not lie on 4x4 of v5e"):
        on("v5e", "4x4", fsdp=8)
    with pytest.raises(UserError, match="unknown mesh axis 'tensr'; did you mean 'tensor'"):
        on("v5e", "4x4", tensr=16)


# What jax does.

@pytest.mark.parametrize("torus", [
    (4, 4, 1), (16, 16, 1), (4, 4, 4), (4, 4, 8), (4, 4, 12), (2, 2, 1), (2, 4, 4), (2, 2, 4, 2),
    (2, 4, 4, 2), (4, 4, 4, 2), (4, 2, 2, 4)], ids=str)
def test_lines_are_those_of_mesh_utils(torus):
    places = np.arange(math.prod(torus)).reshape(torus)
    for mesh in some(devices.shapes(math.prod(torus)), 100):
        sizes = tuple(mesh.values())
        _, expected = internals._create_device_mesh_for_nd_torus(
            places, sizes, allow_split_physical_axes=True)
        assert (tiling.whole(torus, sizes) or tiling.split(torus, sizes)) == [
            tuple(part) for part in expected.T.tolist()]


@pytest.mark.parametrize(("name", "shape"), [
    ("v4", "2x2x4"), ("v5e", "2x2"), ("v5e", "2x4"), ("v5e", "4x4"), ("v6e", "2x4"),
    ("v6e", "8x8"), ("v5p", "2x2x2"), ("v5p", "4x4x4"), ("7x", "2x2x1"), ("7x", "2x2x2"),
    ("7x", "2x2x4"), ("7x", "2x4x4")])
def test_devices_lie_where_jax_puts_them(name, shape):
    if jax.__version_info__ >= (0, 11) and (name, shape) in (("v5p", "2x2x2"), ("7x", "2x4x4")):
        pytest.skip("this jax lays a few of these meshes otherwise")
    slice = parse(CHIPS[name], shape)
    torus = slice.shape + (1,) * (3 - len(slice.shape)) + (2,) * (slice.chip.devices > 1)
    order = tiling.ring(slice.chip.aot, slice.shape)
    for mesh in some(devices.shapes(slice.devices)):
        sizes = tuple(n for n in mesh.values() if n > 1)
        if len(sizes) == 1:
            continue  # of all devices, jax may prefer a ring; no rate depends on the order
        grid = mesh_utils.create_device_mesh(sizes, fake(slice), allow_split_physical_axes=True)
        if order is not None:
            assert [device.id for device in grid.flat] == list(order)
            continue
        place = np.array([(*d.coords, d.core_on_chip) for d in grid.flat]).reshape(*sizes, 4)
        for i, (ways, lines) in enumerate(zip(sizes, tiling.lines(torus, sizes), strict=True)):
            groups = np.moveaxis(place, i, -2).reshape(-1, ways, 4)
            steps = np.zeros((ways, 4), int)
            for line, at in zip(lines, np.indices([line.ways for line in lines]), strict=True):
                steps[:, line.along] += at.ravel() * line.stride
            assert (groups - groups[:, :1] == steps).all(), (mesh, AXES[i])


def test_neighbours_on_the_last_axis_are_neighbours_on_the_torus():
    slice = parse(CHIPS["v5p"], "4x4x4")
    for ways in (2, 4):
        grid = mesh_utils.create_device_mesh((64 // ways, ways), fake(slice),
                                             allow_split_physical_axes=True)
        place = np.array([d.coords for d in grid.flat]).reshape(64 // ways, ways, 3)
        assert (np.abs(np.diff(place, axis=1)).sum(-1) == 1).all()
        axis = axes(slice, {"fsdp": 64 // ways, "tensor": ways})["tensor"]
        assert axis.link == CHIPS["v5p"].network.link
