"""What a device multiplies, moves and sends, against what a decoder's shapes say."""

import dataclasses
import functools

import numpy as np
import pytest

from lm.cost import work
from lm.cost.chips import CHIPS
from lm.cost.layout import Setting
from lm.cost.slices import parse
from lm.experiment.config import Experiment
from lm.mesh.config import AXES
from lm.models.decoder.config import Config
from lm.plan import steps

B, T = 64, 1024
LLAMA = dict(L=6, D=2048, N=16, K=8, H=128, F=5632, V=32768, norm="rmsnorm", positions="rotary",
             activation="swiglu")
LAYER = 2048 * 2048 * 2 + 2048 * 1024 * 2 + 3 * 2048 * 5632
VOCABULARY = 2 * 32768 * 2048
SLICE = parse(CHIPS["v5p"], "4x4x4")


@functools.cache
def case(remat="full", **fields):
    e = Experiment()
    model = Config(**LLAMA | dict(precision="bfloat16") | fields, remat=remat)
    return steps.case(dataclasses.replace(
        e, model=model, data=dataclasses.replace(e.data, B=B, T=T, packing=False)), SLICE)


def count(mesh, remat="full", ticks=1.0, **fields):
    c = case(remat, **fields)
    sizes = steps.setting(c, SLICE, [dict.fromkeys(AXES, 1)], [B]).sizes
    full = {axis: np.array([float(mesh.get(axis, 1))]) for axis in AXES}
    return work.count(c.schedule, Setting(sizes, full), c.kernel, ticks)


def sent(w, axis, kind, what=None):
    """Returns the bytes of all such messages."""
    return sum((m.bytes * m.times).item() for m in w.messages
               if m.axis == axis and m.kind == kind and what in (None, m.what))


def test_one_device_sends_nothing():
    assert count({}).messages == []


@pytest.mark.parametrize("axis", ["data", "fsdp", "tensor", "context"])
def test_messages_go_along_the_axes_there_are(axis):
    assert {m.axis for m in count({axis: 4}).messages} == {axis}


@pytest.mark.parametrize("remat", ["full", "dots", "none"])
@pytest.mark.parametrize("tensor", [1, 4])
def test_fsdp_gathers_weights_in_16_bits(remat, tensor):
    """A layer's matrices for each of both passes, and scatters their gradients."""
    w = count(dict(fsdp=8, tensor=tensor), remat)
    assert sent(w, "fsdp", "reduce_scatter") == 2 * (6 * LAYER + VOCABULARY) / tensor
    assert sent(w, "fsdp", "all_gather") == 2 * (2 * 6 * LAYER + VOCABULARY) / tensor


def test_data_adds_up_what_fsdp_leaves():
    w = count(dict(fsdp=8, data=4))
    assert sent(w, "data", "all_reduce") == 2 * (6 * LAYER + VOCABULARY) / 8
    assert sent(count(dict(data=4)), "data", "all_reduce") == 2 * (6 * LAYER + VOCABULARY)


def test_gradients_of_a_pipeline_are_added_up_before_they_are_sent():
    one, many = (count(dict(data=4, fsdp=2), ticks=t) for t in (1.0, 9.0))
    layers = 2 * 6 * LAYER
    assert sent(many, "data", "all_reduce") == sent(one, "data", "all_reduce")
    assert sent(many, "fsdp", "all_gather") - sent(one, "fsdp", "all_gather") == 8 * 2 * layers


@pytest.mark.parametrize(("remat", "messages"), [
    ("full", 4 + 3 + 4),  # forward; again but for what ends the layer; backward
    ("none", 4 + 6)])     # gathered inputs are not kept for the gradients of weights
def test_tensor_messages_of_a_layer(remat, messages):
    """Attention and MLP gather tokens and scatter sums, forward and backward (Korthikanti et al.
    2022, section 4.2.2): what several products make of one array is sent once.
    """
    w = count(dict(tensor=4, fsdp=2), remat)
    whole = 2 * B / 2 * T * 2048
    layers = [m for m in w.messages if m.axis == "tensor" and m.times == 6]
    assert len(layers) == messages
    assert all(m.bytes == whole for m in layers)


def test_what_is_made_twice_is_gathered_once():
    """Queries, keys and values each turn the same input into 8 bits; so do gate and up."""
    w = count(dict(tensor=4, fsdp=2), "none", precision="int8")
    bytes_ = B / 2 * T * 2048
    assert sum(m.kind == "all_gather" and (m.bytes == bytes_).all() for m in w.messages) == 2


def test_a_parallel_device_does_its_share():
    one, many = count({}), count(dict(fsdp=8, tensor=4))
    for all_of in (lambda w: sum(p.flops for p in w.products), lambda w: w.updated):
        # Vectors are not spread over `tensor`.
        assert all_of(one).item() == pytest.approx(32 * all_of(many).item(), rel=1e-3)
    assert many.moved < one.moved / 8


def test_flops_of_a_step():
    w = count({}, "none")
    matmul = sum(p.flops for p in w.products if not p.attention).item()
    tokens = B * T
    head = 2 * tokens * 32768 * 2048     # the logits are computed again, chunk by chunk
    assert matmul == 6 * tokens * (6 * LAYER + VOCABULARY / 2) + head * any(
        p.again and p.last for p in w.products)
    again = sum(p.flops for p in count({}).products if p.again and not p.attention
                and not p.last).item()
    assert again == 2 * tokens * 6 * (LAYER - 2048 * 5632)   # what ends a layer is not needed


def test_filled_up_products_are_no_smaller():
    for p in count(dict(fsdp=8, tensor=16), N=16, K=8).products:
        for tile in (128, 256):
            assert (p.padded(tile) >= p.flops).all()
    narrow = work.Product("", "", *map(np.float64, (9, 100, 130, 2, 3)), 0, False, False, False,
                          False)
    assert narrow.flops == 2 * 9 * 100 * 130 * 2 * 3
    assert narrow.padded(128) == 2 * 16 * 128 * 256 * 2 * 3


def test_experts_send_their_tokens():
    """C = 320 of a sequence's tokens to each of 8 experts; there and back, in each pass."""
    w = count(dict(expert=4), E=8, experts_top=2, experts_capacity=1.25, F=1024, loss_chunk=256)
    messages = [m for m in w.messages if m.kind == "all_to_all"]
    assert all(m.bytes == 2 * 8 * B * 320 * 2048 / 4 * 4 and m.times == 6 for m in messages)
    assert len(messages) == 2 + 2 + 3
    dense = sent(count(dict(expert=4)), "expert", "all_reduce")
    assert dense == 2 * (6 * LAYER + VOCABULARY)   # without experts the axis is one of data


def test_many_meshes_at_once():
    meshes = [dict(fsdp=8), dict(fsdp=4, tensor=2), dict(data=8)]
    c = case()
    every = work.count(c.schedule, steps.setting(c, SLICE, [
        dict.fromkeys(AXES, 1) | m for m in meshes], [B]), c.kernel)
    for i, mesh in enumerate(meshes):
        one = count(mesh)
        assert np.broadcast_to(every.moved, 3)[i] == pytest.approx(one.moved.item())
        for axis in AXES:
            total = sum((np.broadcast_to(m.bytes * m.times, 3)[i] for m in every.messages
                         if m.axis == axis and mesh.get(axis, 1) > 1), 0.0)
            assert total == pytest.approx(sum((m.bytes * m.times).item() for m in one.messages
                                              if m.axis == axis))
