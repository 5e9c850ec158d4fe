"""Slices are those that can be had, and a slice that cannot be had is answered with near ones."""

import math

import pytest

from lm.base.errors import UserError
from lm.cost.chips import CHIPS, override
from lm.cost.slices import Slice, parse, slices

FLAT = ["1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"]
# docs.cloud.google.com/tpu/docs/v5p, and MaxText's accelerator_to_spec_map.py
DOCUMENTED = ["2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x4x12", "4x8x8", "8x8x8",
              "8x8x12", "8x8x16", "8x16x16", "16x16x16"]


def names(name, chips=None):
    return [slice.name for slice in slices(CHIPS[name], chips)]


def test_flat_slices():
    assert names("v5e") == names("v6e") == FLAT


@pytest.mark.parametrize(("name", "more", "never"), [
    ("v4", [], ["16x16x24"]), ("v5p", ["16x16x24", "12x16x16", "4x4x20"], ["12x24x24", "16x20x28"]),
    ("7x", ["16x16x24", "12x24x24", "16x20x28", "16x24x24"], ["16x24x28"])])
def test_slices_of_cubes(name, more, never):
    found = slices(CHIPS[name])
    listed = {slice.name for slice in found}
    assert listed >= {*DOCUMENTED, *more} and not listed & set(never)
    assert len(listed) == len(found)
    for slice in found:
        assert slice.chips <= CHIPS[name].network.largest
        assert slice.wraps == ((slice.chips >= 64),) * 3
        assert slice.name == "2x2x1" or slice.shape == tuple(sorted(slice.shape))


def test_slices_of_gpus():
    found = slices(CHIPS["h100"])
    assert [slice.name for slice in found[:6]] == ["1x1", "1x2", "1x4", "1x8", "2x8", "3x8"]
    assert found[-1].chips == 4096 and not any(any(slice.wraps) for slice in found)
    assert [slice.name for slice in slices(override(CHIPS["h100"], {"host": 4}))[:4]] == [
        "1x1", "1x2", "1x4", "2x4"]


def test_sizes_of_a_slice():
    one = Slice(CHIPS["7x"], (4, 4, 8), 2)
    assert (one.chips, one.devices, one.hosts, one.name) == (256, 512, 64, "2x(4x4x8)")
    assert Slice(CHIPS["v5e"], (2, 2)).hosts == 1 and Slice(CHIPS["v5e"], (4, 8)).hosts == 4
    assert Slice(CHIPS["h100"], (3, 8)).hosts == 3
    assert Slice(CHIPS["v5e"], (8, 16)).wraps == (False, True)


@pytest.mark.parametrize(("name", "chips", "expected"), [
    ("v5e", 64, ["8x8"]), ("v5e", 512, ["2x(16x16)"]), ("v6e", 1024, ["4x(16x16)"]),
    ("v6e", 384, ["3x(8x16)"]),
    ("v5p", 512, ["8x8x8", "4x8x16", "4x4x32"]), ("h100", 64, ["8x8"]), ("h100", 4, ["1x4"])])
def test_slices_of_a_number_of_chips(name, chips, expected):
    assert names(name, chips) == expected
    assert parse(CHIPS[name], str(chips)).name == expected[0]


def test_more_chips_than_any_slice_has():
    for name, chips in [("v5p", 8192), ("v5p", 12288), ("v4", 8192), ("v5e", 50944)]:
        found = slices(CHIPS[name], chips)
        assert all(slice.chips == chips and slice.count > 1 for slice in found)
    assert slices(CHIPS["v5p"], 12288)[0].name == "2x(16x16x24)"


@pytest.mark.parametrize("name", CHIPS)
def test_every_name_is_read_back(name):
    for slice in slices(CHIPS[name]):
        assert parse(CHIPS[name], slice.name) == slice
        twice = Slice(slice.chip, slice.shape, 2)
        assert parse(CHIPS[name], twice.name) == twice == parse(CHIPS[name], slice.name, 2)


@pytest.mark.parametrize(("name", "text", "says"), [
    ("v5e", "8x4", "impossible slice: v5e has no 8x4; nearest: 4x8,"),
    ("v5e", "3x5", "nearest: 4x4,"), ("v5e", "32x32", r"nearest: 4x\(16x16\), 16x16"),
    ("v5e", "4x4x4", "impossible slice"), ("v5p", "4x4", "nearest: 2x2x4"),
    ("v5p", "16x16x32", r"nearest: 2x\(16x16x24\), 16x16x24"), ("v5p", "2x2x8", "impossible"),
    ("h100", "2x4", "nearest: 1x8"), ("h100", "6", "no slice of h100 has 6 chips; nearest: 1x8"),
    ("v5e", "300", "no slice of v5e has 300"), ("v5e", "0x4", "a length is 0"),
    ("v5e", "0", "a length is 0"), ("v5e", "4x", "is no shape; e.g. 4x8 or 2x"),
    ("v5e", "big", "is no shape"), ("v5e", "", "is no shape")])
def test_what_cannot_be_had(name, text, says):
    with pytest.raises(UserError, match=says):
        parse(CHIPS[name], text)


def test_a_slice_is_the_product_of_its_shape():
    for name in CHIPS:
        for slice in slices(CHIPS[name])[:40]:
            assert slice.chips == math.prod(slice.shape)
            assert slice in slices(CHIPS[name], slice.chips)
