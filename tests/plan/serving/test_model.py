"""Bytes are those of the published worked answers, and layouts that cannot be are refused."""

import dataclasses

import numpy as np
import pytest

from lm.base.errors import UserError
from lm.cost.chips import CHIPS
from lm.plan.serving.model import (
    USABLE,
    Layout,
    Shape,
    cache_bytes,
    memory,
    pages,
    refusal,
    smallest_home,
    weight_bytes,
)
from lm.plan.serving.published import SHAPES

LLAMA = SHAPES["llama3-70b"]
MIXTURE = SHAPES["qwen3-coder-480b"]


def test_cache_bytes_of_a_token():
    assert cache_bytes(LLAMA, "int8").value == 163_840
    assert cache_bytes(Shape("mha", 16e9, 64, 32, 128, 32, 4096, 32000), "int8").value == 2**19
    # Llama-2-13B, 8192 tokens in bfloat16: 6.7 GB.
    assert cache_bytes(SHAPES["llama2-13b"]).value * 8192 == pytest.approx(6.7e9, rel=2e-3)


def test_windows_bound_what_is_looked_at():
    gemma = dataclasses.replace(LLAMA, windows=(1024, 0))
    assert gemma.seen(512) == 80 * 512
    assert gemma.seen(4096) == 40 * 1024 + 40 * 4096
    whole, half = cache_bytes(LLAMA, context=4096).value, cache_bytes(gemma, context=4096).value
    assert half == pytest.approx(whole * (1024 + 4096) / (2 * 4096))


def test_active_and_read_parameters_of_a_mixture():
    assert MIXTURE.active == pytest.approx(34.5e9, rel=0.01)  # 35e9 with the embedding
    assert MIXTURE.read(1) == pytest.approx(MIXTURE.active)
    rising = MIXTURE.read(np.array([1.0, 8.0, 64.0, 4096.0]))
    assert (np.diff(rising) > 0).all()
    assert rising[-1] == pytest.approx(MIXTURE.parameters - MIXTURE.lookup)
    assert LLAMA.read(1) == LLAMA.read(1000) == LLAMA.active


def test_heads_of_64_take_the_room_of_128_on_a_tpu():
    """As the engine's kernel lays them out; a GPU keeps them as they are."""
    small = dataclasses.replace(LLAMA, H=LLAMA.H // 2, K=LLAMA.K * 2)
    for chip, share in (("v5e", 2), ("h100", 1)):
        layout = Layout(CHIPS[chip], 8, 1, "int8", "bf16")
        both = [pages(s, layout, memory(s, layout, 32, 128), 8192).value for s in (LLAMA, small)]
        assert both[0] == pytest.approx(share * both[1])


def test_worked_answer_of_memory():
    # The scaling book: 70B in int8 with 32 sequences of 8k need 112 GB, so v5e 4x2 at least.
    needed = weight_bytes(LLAMA, "int8").value + 32 * 8000 * cache_bytes(LLAMA, "int8").value
    assert needed == pytest.approx(112e9, rel=0.005)
    for chips, fits in ((4, False), (8, True)):
        parts = memory(LLAMA, Layout(CHIPS["v5e"], chips, 1, "int8", "int8"), 32, 128, usable=1.0)
        room = pages(LLAMA, Layout(CHIPS["v5e"], chips, 1, "int8", "int8"), parts, 8192).value
        assert (room * 128 >= 32 * 8000) == fits


def test_memory_adds_up_to_the_chip():
    layout = Layout(CHIPS["v6e"], 8, 2, "bf16")
    for shape in SHAPES.values():
        parts = memory(shape, layout, 64, 512)
        assert sum(x.value for x in parts.values()) == pytest.approx(CHIPS["v6e"].hbm_bytes)
        assert parts["reserve"].value == pytest.approx((1 - USABLE) * CHIPS["v6e"].hbm_bytes)
    assert weight_bytes(LLAMA, "int4").value == pytest.approx(0.515625 * LLAMA.parameters)


@pytest.mark.parametrize("chip,tensor,stage,cache,words", [
    ("v6e", 3, 1, "bf16", "64 query heads do not divide over 3 devices"),
    ("v6e", 8, 1, "int8", "two key-value heads"), ("7x", 4, 1, "fp8", "two key-value heads"),
    ("v6e", 4, 3, "bf16", "80 layers do not divide over stage = 3"),
    ("v6e", 4, 1, "int8", ""), ("h100", 8, 1, "fp8", ""), ("v6e", 16, 2, "bf16", "")])
def test_layouts_that_cannot_be(chip, tensor, stage, cache, words):
    said = refusal(LLAMA, Layout(CHIPS[chip], tensor, stage, "bf16", cache))
    assert words in said and bool(words) == bool(said)


def test_heads_are_kept_more_than_once_where_shards_are_more():
    few, many = Layout(CHIPS["v6e"], 8), Layout(CHIPS["v6e"], 16)
    assert (few.copies(8), many.copies(8), Layout(CHIPS["7x"], 8).copies(8)) == (1, 2, 2)
    parts = {"cache": cache_bytes(LLAMA) * 1000}
    # Twice the chips of which each holds as many heads: as many pages.
    assert pages(LLAMA, few, parts, 1).value == pages(LLAMA, many, parts, 1).value


def test_smallest_home():
    assert smallest_home(LLAMA, [CHIPS["v5e"]], "int8").startswith("8 x v5e")
    with pytest.raises(UserError, match="too large"):
        smallest_home(dataclasses.replace(LLAMA, parameters=1e15), [CHIPS["v5e"]])
    with pytest.raises(UserError, match="did you mean 'int8'"):
        weight_bytes(LLAMA, "int5")
