"""Filling a mesh: the product is always the number of devices, or the legal meshes are listed."""

import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.base.errors import UserError
from lm.mesh import devices
from lm.mesh.config import AXES, Config

SIZES = st.sampled_from([-1, 1, 2, 3, 4, 8, 0, -2])


@settings(max_examples=300)
@given(st.tuples(*[SIZES] * 3), st.permutations(AXES), st.sampled_from([1, 2, 6, 8, 12, 64]))
def test_fill(sizes, axes, count):
    """What is filled has the product; what is refused could not be filled."""
    asked = dict.fromkeys(AXES, 1) | dict(zip(axes, sizes, strict=False))
    free, fixed = sizes.count(-1), math.prod(n for n in sizes if n != -1)
    possible = min(n for n in (*sizes, 1) if n != -1) >= 1 and (
        fixed == count if not free else free == 1 and count % fixed == 0)
    try:
        got = devices.fill(asked, count)
    except UserError as error:
        assert not possible
        for text in str(error).split("legal: ")[1].removesuffix(", ...").split(", "):
            legal = {} if text == "one device" else dict(pair.split("=") for pair in text.split())
            legal = dict.fromkeys(AXES, 1) | {k: int(v) for k, v in legal.items()}
            assert devices.fill(legal, count) == legal
        return
    assert possible and math.prod(got.values()) == count
    assert all(n in (got[axis], -1) for axis, n in asked.items())


def test_shapes():
    """Every way to write the number of devices as a product, once."""
    for count, ways in ((1, 1), (2, 6), (4, 21), (8, 56), (6, 36)):
        found = devices.shapes(count)
        assert all(math.prod(s.values()) == count and tuple(s) == AXES for s in found)
        assert len(found) == len({tuple(s.values()) for s in found}) == ways


def test_message():
    """The nearest to what was asked come first."""
    with pytest.raises(UserError) as caught:
        devices.make(Config(data=3, fsdp=1, tensor=2))
    assert str(caught.value) == (
        "mesh data=3 tensor=2 does not lay out 8 devices (at most one axis is -1); legal: "
        "data=4 tensor=2, tensor=8, context=4 tensor=2, expert=4 tensor=2, fsdp=4 tensor=2, "
        "data=2 tensor=4, ...")


def test_make():
    """By default all devices are in use; neighbours along the last axis are neighbours."""
    assert dict(devices.make(Config()).shape) == dict.fromkeys(AXES, 1) | dict(data=8)
    mesh = devices.make(Config(data=-1, fsdp=2, tensor=2))
    assert dict(mesh.shape) == dict.fromkeys(AXES, 1) | dict(data=2, fsdp=2, tensor=2)
    assert [d.id for d in mesh.devices[0, 0, 0, 0, 0]] == [0, 1]


@pytest.mark.parametrize("across", ["data", "stage"])
def test_slices(across):
    """One axis alone crosses slices: along every other one, devices are of the same slice."""
    config = Config(slices=2, across=across, data=2, fsdp=2, stage=2)
    mesh = devices.make(config)
    slice_of = lambda d: d.id // 4  # noqa: E731
    for axis in AXES:
        rows = np.moveaxis(mesh.devices, AXES.index(axis), 0).reshape(mesh.shape[axis], -1)
        mixed = any(len({slice_of(d) for d in column}) > 1 for column in rows.T)
        assert mixed == (axis == across)
    with pytest.raises(UserError, match=r"mesh.data = 1 does not divide over 2 slices; set"):
        devices.make(Config(slices=2, data=1, fsdp=8))
    with pytest.raises(UserError, match=r"mesh.slices = 3 does not divide 8 devices"):
        devices.make(Config(slices=3))


def test_slices_as_found():
    """Devices that say which slice they are of are grouped by it, whatever their order."""
    class Device:
        platform, device_kind, process_index = "cpu", "cpu", 0

        def __init__(self, i):
            self.id, self.slice_index = i, i % 2
    groups = devices._slices([Device(i) for i in range(6)], 0)
    assert [[d.id for d in group] for group in groups] == [[0, 2, 4], [1, 3, 5]]


def test_use():
    """The mesh's platform is the one that is compiled for, within the context only."""
    assert devices.platform() == jax.default_backend() == "cpu"

    class Chip:
        platform = "tpu"

    class Absent:
        devices = type("Array", (), dict(flat=[Chip()]))
    with pytest.raises(Exception), devices.use(Absent):  # noqa: B017  (jax knows no such mesh)
        pass
    assert devices.platform() == "cpu"
    mesh = devices.make(Config(data=2, fsdp=4))
    with devices.use(mesh) as given:
        assert given is mesh and jax.sharding.get_abstract_mesh().shape == mesh.shape
    assert jax.sharding.get_abstract_mesh().empty
