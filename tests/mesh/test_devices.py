"""Filling a mesh: the product is always the number of devices, or the legal meshes are listed."""

import math

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.base.errors import UserError
from lm.mesh import devices
from lm.mesh.config import Config

SIZES = st.sampled_from([-1, 1, 2, 3, 4, 8, 0, -2])


@settings(max_examples=300)
@given(st.tuples(SIZES, SIZES, SIZES), st.sampled_from([1, 2, 6, 8, 12, 64]))
def test_fill(sizes, count):
    """What is filled has the product; what is refused could not be filled."""
    asked = dict(zip(devices.AXES, sizes, strict=True))
    free, fixed = sizes.count(-1), math.prod(n for n in sizes if n != -1)
    possible = min(n for n in (*sizes, 1) if n != -1) >= 1 and (
        fixed == count if not free else free == 1 and count % fixed == 0)
    try:
        got = devices.fill(asked, count)
    except UserError as error:
        assert not possible
        for text in str(error).split("legal: ")[1].removesuffix(", ...").split(", "):
            legal = dict(pair.split("=") for pair in text.split())
            assert devices.fill({k: int(v) for k, v in legal.items()}, count)
        return
    assert possible and math.prod(got.values()) == count
    assert all(n in (got[axis], -1) for axis, n in asked.items())


def test_message():
    """The nearest to what was asked come first."""
    with pytest.raises(UserError) as caught:
        devices.make(Config(data=3, fsdp=1, tensor=2))
    assert str(caught.value) == (
        "mesh data=3 fsdp=1 tensor=2 does not lay out 8 devices (at most one axis is -1); legal: "
        "data=4 fsdp=1 tensor=2, data=1 fsdp=1 tensor=8, data=1 fsdp=4 tensor=2, "
        "data=2 fsdp=1 tensor=4, data=2 fsdp=2 tensor=2, data=8 fsdp=1 tensor=1, ...")


def test_make():
    """By default all devices are in use; neighbours along the last axis are neighbours."""
    assert dict(devices.make(Config()).shape) == dict(data=8, fsdp=1, tensor=1)
    mesh = devices.make(Config(data=-1, fsdp=2, tensor=2))
    assert dict(mesh.shape) == dict(data=2, fsdp=2, tensor=2)
    assert [d.id for d in mesh.devices[0, 0]] == [0, 1]


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
