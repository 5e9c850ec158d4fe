"""Parameter counts of the presets are those of the released checkpoints, to the last digit."""

import jax
import pytest

from lm.models.decoder import model as decoder
from lm.models.decoder.config import Config
from lm.models.decoder.presets import PRESETS

COUNTS = {
    "gpt2_124m": 124_439_808,
    "gpt2_355m": 354_823_168,
    "gpt2_774m": 774_030_080,
    "gpt2_1.5b": 1_557_611_200,
    "gpt3_175b": 174_604_259_328,  # 174,600M in the paper
    "llama1_7b": 6_738_415_616,
    "llama1_13b": 13_015_864_320,
    "llama1_33b": 32_528_943_616,
    "llama1_65b": 65_285_660_672,
    "llama2_7b": 6_738_415_616,
    "llama2_13b": 13_015_864_320,
    "llama2_70b": 68_976_648_192,
    "llama3_8b": 8_030_261_248,
    "llama3_70b": 70_553_706_496,
    "llama3_405b": 405_853_388_800,
    "llama3.2_1b": 1_235_814_400,
    "llama3.2_3b": 3_212_749_824,
    "mistral_7b": 7_241_732_096,
    "qwen2_0.5b": 494_032_768,
    "qwen2_1.5b": 1_543_714_304,
    "qwen2_7b": 7_615_616_512,
    "qwen2_72b": 72_706_203_648,
    "qwen3_0.6b": 596_049_920,
    "qwen3_1.7b": 1_720_574_976,
    "qwen3_4b": 4_022_468_096,
    "qwen3_8b": 8_190_735_360,
    "qwen3_14b": 14_768_307_200,
    "qwen3_32b": 32_762_123_264,
    "mixtral_8x7b": 46_702_792_704,
    "mixtral_8x22b": 140_630_071_296,
    "qwen3_30b_a3b": 30_532_122_624,
    "qwen3_235b_a22b": 235_093_634_560,
    "deepseek_moe_16b": 16_375_728_128,
    "gemma_2b": 2_506_172_416,
    "gemma_7b": 8_537_680_896,
    "gemma2_2b": 2_614_341_888,
    "gemma2_9b": 9_241_705_984,
    "pythia_70m": 70_426_624,
    "pythia_160m": 162_322_944,
    "pythia_410m": 405_334_016,
    "pythia_1b": 1_011_781_632,
    "pythia_1.4b": 1_414_647_808,
    "pythia_2.8b": 2_775_208_960,
    "pythia_6.9b": 6_857_302_016,
    "pythia_12b": 11_846_072_320,
    "gpt_neox_20b": 20_554_567_680,
}
# Of those, the parameters that act on a token: all but the experts that were not chosen.
ACTIVE = {
    "mixtral_8x7b": 12_879_925_248,
    "mixtral_8x22b": 39_161_468_928,
    "qwen3_30b_a3b": 3_353_032_704,
    "qwen3_235b_a22b": 22_190_763_520,
    "deepseek_moe_16b": 2_828_650_496,
    "llama3_8b": 8_030_261_248,
}


def test_every_preset_is_counted():
    assert set(PRESETS) == set(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_count(name):
    """Without an array in memory, whatever the size."""
    before = len(jax.live_arrays())
    declaration = decoder.build(Config(**PRESETS[name]))
    assert declaration.count == COUNTS[name]
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(declaration.shapes))
    assert len(jax.live_arrays()) == before


# PaLM's matrices, in billions; its layers have one norm, those of the decoder two.
PALM = dict(V=256_000, T=2048, K=1, H=256, norm="layernorm", positions="rotary",
            activation="swiglu", parallel=True, tied=True)


@pytest.mark.parametrize(("shape", "billions"), [
    (dict(L=32, D=4096, N=16), 8.632), (dict(L=64, D=8192, N=32), 62.495),
    (dict(L=118, D=18432, N=48), 540.354)])
def test_palm(shape, billions):
    norms = (2 * shape["L"] + 1) * shape["D"]
    assert round((decoder.build(Config(**PALM, **shape)).count - norms) / 1e9, 3) == billions


# Brown et al. 2020, table D.1: FLOPs of 300e9 tokens. The heads of its 13B are 128 wide and do not
# fill its width; those of its XL would need 24 x 128 of 2048, by which 6ND is 1.147 of the table.
@pytest.mark.parametrize(("shape", "flops", "ratio"), [
    (dict(L=12, D=768, N=12), 2.25e20, 1.002), (dict(L=24, D=1024, N=16), 6.41e20, 0.999),
    (dict(L=24, D=1536, N=16), 1.37e21, 0.999), (dict(L=32, D=2560, N=32), 4.77e21, 1.001),
    (dict(L=32, D=4096, N=32), 1.20e22, 0.999), (dict(L=40, D=5140, N=40, H=128), 2.31e22, 1.008),
    (dict(L=96, D=12288, N=96), 3.14e23, 1.001), (dict(L=24, D=2048, N=24, H=128), 2.38e21, 1.147)])
def test_gpt3_table_d1(shape, flops, ratio):
    config = Config(**PRESETS["gpt3_175b"] | dict(H=-1) | shape)
    assert 6 * decoder.build(config).count * 300e9 / flops == pytest.approx(ratio, abs=5.1e-4)


@pytest.mark.parametrize("name", ACTIVE)
def test_active(name):
    config = Config(**PRESETS[name])
    assert decoder.build(config).active(config.experts_top) == ACTIVE[name]


# The matrices of the released checkpoints, as their config.json gives them: a routed expert is
# three matrices of hidden_size x moe_intermediate_size (intermediate_size in Mixtral's).
RELEASED = {
    "mixtral_8x7b": dict(hidden=4096, layers=32, heads=32, kv=8, vocabulary=32000, experts=8,
                         moe=14336, chosen=2),
    "mixtral_8x22b": dict(hidden=6144, layers=56, heads=48, kv=8, vocabulary=32768, experts=8,
                          moe=16384, chosen=2),
    "qwen3_235b_a22b": dict(hidden=4096, layers=94, heads=64, kv=4, vocabulary=151936, experts=128,
                            moe=1536, chosen=8, norms=2 * 128),
    "qwen3_30b_a3b": dict(hidden=2048, layers=48, heads=32, kv=4, vocabulary=151936, experts=128,
                          moe=768, chosen=8, norms=2 * 128),
    "deepseek_moe_16b": dict(hidden=2048, layers=28, heads=16, kv=16, vocabulary=102400, experts=64,
                             moe=1408, chosen=6, shared=2, dense=1, intermediate=10944),
}


@pytest.mark.parametrize("name", RELEASED)
def test_counts_of_experts_follow_from_the_released_shapes(name):
    """By arithmetic that shares nothing with the declaration; heads are 128 wide in all."""
    def count(experts, *, hidden, layers, heads, kv, vocabulary, moe, chosen, norms=0, shared=0,
              dense=0, intermediate=0, **_):
        attention = 2 * hidden * heads * 128 + 2 * hidden * kv * 128 + norms
        expert = 3 * hidden * moe
        total = 2 * vocabulary * hidden + hidden + layers * (attention + 2 * hidden)
        total += dense * 3 * hidden * intermediate
        held = experts if experts else chosen
        return total + (layers - dense) * (hidden * RELEASED[name]["experts"]
                                           + (held + shared) * expert)
    shapes = RELEASED[name]
    assert count(**shapes) == COUNTS[name]
    assert count(0, **{k: v for k, v in shapes.items() if k != "experts"}) == ACTIVE[name]
