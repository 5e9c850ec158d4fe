"""The closed forms of memory give the digits that papers print."""

import jax
import jax.numpy as jnp
import pytest

from lm.cost import activations, size
from lm.cost.activations import cache, checkpoints, first_stage, gpt, last_layers, llama, zero
from lm.cost.chips import CHIPS, GIB, override
from lm.models.decoder import model as decoder
from lm.models.decoder.config import Config
from lm.models.decoder.presets import PRESETS
from lm.nn import paged

# Korthikanti et al. 2022, table 3: microbatch, width, heads, layers, stages, groups of a stage.
GPTS = {"22B": (4, 6144, 64, 48, 1, 1), "175B": (1, 12288, 96, 96, 8, 3),
        "530B": (1, 20480, 128, 105, 35, 3), "1T": (1, 25600, 160, 128, 64, 1)}
LLAMA_70B = dict(D=8192, N=64, K=8, H=128, F=28672)


@pytest.mark.parametrize(("keep", "tensor", "sequence", "printed"), [
    ("all", 1, False, "34 + 5as/h"), ("all", 8, False, "10 + 24/t + 5as/(ht)"),
    ("all", 8, True, "(34 + 5as/h)/t"), ("selective", 8, False, "10 + 24/t"),
    ("selective", 8, True, "34/t"), ("selective", 1, False, "34"), ("full", 8, False, "2")])
def test_korthikanti_table_2(keep, tensor, sequence, printed):
    s, b, h, a, t = 2048, 4, 6144, 64, tensor
    by_hand = {"34 + 5as/h": 34 + 5 * a * s / h,
               "10 + 24/t + 5as/(ht)": 10 + 24 / t + 5 * a * s / (h * t),
               "(34 + 5as/h)/t": (34 + 5 * a * s / h) / t, "10 + 24/t": 10 + 24 / t,
               "34/t": 34 / t, "34": 34, "2": 2}
    got = gpt(B=b, T=s, D=h, N=a, keep=keep, tensor=tensor, sequence=sequence)
    assert got == pytest.approx(s * b * h * by_hand[printed], rel=1e-15)


@pytest.mark.parametrize(("name", "state", "kept"), [
    ("22B", 45.5625, 59.25), ("175B", 45.5625, 66.84375), ("530B", 31.640625, 114.0234375),
    ("1T", 32.958984375, 131.25)])
def test_korthikanti_figure_1(name, state, kept):
    """GiB of one GPU, of 8 that split every layer; the digits are exact in binary."""
    B, D, N, L, stages, groups = GPTS[name]
    matrices = 12 * L * D**2
    assert activations.state("megatron") * matrices / (8 * stages) / GIB == state
    layer = gpt(B=B, T=2048, D=D, N=N, tensor=8)
    assert first_stage(layer, L, stages, groups) / GIB == pytest.approx(kept, rel=1e-15)


@pytest.mark.parametrize(("name", "percent", "read"), [
    ("22B", (66.77, 49.37, 16.14, 7.59), (66.84, 49.42, 16.18, 7.64)),
    ("175B", (61.96, 56.52, 18.48, 8.70), (62.04, 56.53, 18.49, 8.71)),
    ("530B", (58.33, 61.90, 20.24, 9.52), (58.31, 62.04, 20.27, 9.42)),
    ("1T", (58.33, 61.90, 20.24, 9.52), (58.31, 62.04, 20.27, 9.42))])
def test_korthikanti_figure_7(name, percent, read):
    """Shares of tensor parallelism alone: sequence, selective, both, full; `read` off the bars."""
    B, D, N, *_ = GPTS[name]
    shape = dict(B=B, T=2048, D=D, N=N, tensor=8)
    ways = (dict(sequence=True), dict(keep="selective"), dict(keep="selective", sequence=True),
            dict(keep="full"))
    got = tuple(100 * gpt(**shape, **way) / gpt(**shape) for way in ways)
    assert tuple(round(x, 2) for x in got) == percent
    assert got == pytest.approx(read, abs=0.15)


def test_a_pipeline():
    assert first_stage(3.0, 96, 8, 1) == first_stage(3.0, 96) == 288.0
    assert first_stage(1.0, 96, 8, 3) == 96 * (1 + 7 / 24)
    assert first_stage(1.0, 96, 1, 3) == 96


def test_the_ends_of_a_model():
    """4 sbh/t (1 + v/h): a norm and a product in 16 bits each, and logits in 32."""
    B, D, *_ = GPTS["22B"]
    got = last_layers(B=B, T=2048, D=D, V=51200, tensor=8)
    assert got == (2 * D + 2 * D + 4 * 51200) * B * 2048 / 8 == 0.21875 * GIB
    assert activations.logits(8192, 128256) == 8192 * 128256 * 10
    assert activations.logits(8192, 128256, 8) == 8192 * 16032 * 10


@pytest.mark.parametrize(("params", "ways", "printed"), [
    (7.5e9, 64, (120, 31.4, 16.6, 1.88)), (128e9, 16, (2048, 608, 368, 128)),
    (1e12, 1024, (16000, 4011, 2013, 15.6))])
def test_zero_table_1(params, ways, printed):
    """GB of a device; some are rounded there, some cut off."""
    got = [zero(params, ways, stage) / 1e9 for stage in range(4)]
    assert got == pytest.approx(printed, rel=3e-3)
    assert zero(1, ways, 1) == pytest.approx(4 + 12 / ways)
    assert zero(1, ways, 2) == pytest.approx(2 + 14 / ways)
    assert zero(1, ways, 3) == pytest.approx(16 / ways)


def test_state_by_recipe():
    assert {name: activations.state(name) for name in activations.STATE} == {
        "float32": 12, "megatron": 18, "zero": 16, "bfloat16": 10}
    book = override(CHIPS["v5p"], {"hbm_bytes": 96e9})  # the book's; Google's documents say 95 GiB
    assert book.hbm_bytes / activations.state("bfloat16") == 9.6e9  # "9B" on data parallelism


def test_state_of_a_compiled_step():
    """On 4 and 16 chips of v5e the compiler's arguments were these and the replicated norms."""
    declaration = decoder.build(Config(V=32768, D=2048, F=8192, L=8, N=16, H=128, T=2048))
    assert declaration.count == 671_123_456
    whole = activations.state("float32") * declaration.count
    assert whole / 4 == 2_013_370_368
    for ways, arguments in ((4, 2_013_719_040), (16, 503_743_488)):
        norms = (2 * 8 + 1) * 2048
        rest = arguments - whole / ways - activations.state("float32") * norms * (1 - 1 / ways)
        assert 0 < rest < 0.0005 * arguments  # the batch


def test_torchtitan_8_and_128_gpus():
    """The difference was 15.4 GiB, compiled 15.0; gathered layers are in it."""
    count = decoder.build(Config(**PRESETS["llama3_8b"])).count
    found = (zero(count, 8, 3) - zero(count, 128, 3)) / GIB
    assert found == pytest.approx(14.02, abs=0.005)


@pytest.mark.parametrize(("keep", "bytes"), [
    ("full", 16_384), ("attention", 32_768), ("qkv_out", 53_248), ("dots", 184_320),
    ("none", 291_072)])
def test_llama_by_policy(keep, bytes):
    """Of one token and layer of 70B."""
    assert llama(keep, **LLAMA_70B) == bytes


def test_policies_in_order():
    kept = [llama(keep, **LLAMA_70B) for keep in activations.LLAMA]
    assert kept == sorted(kept)


def test_the_scaling_book():
    state = activations.state("bfloat16")
    assert state * 13e9 == 130e9
    assert checkpoints(16e6, 40, 5120, 13824, 13824) == pytest.approx(4.2e13, rel=2e-3)
    saved = checkpoints(4e6, 80, *4 * [8192])
    assert saved == pytest.approx(20.9e12, rel=4e-3)
    total = 70e9 * 2 + 70e9 * 8 + saved
    assert total == pytest.approx(21.6e12, rel=4e-3)
    assert total / 96e9 == pytest.approx(225, rel=4e-3)
    assert total / 8960 == pytest.approx(2.4e9, rel=0.01)
    assert checkpoints(4e6, 64, *20 * [8192]) == pytest.approx(84e12, rel=2e-3)
    assert checkpoints(4e6, 64, 8192) == pytest.approx(4.2e12, rel=2e-3)


@pytest.mark.parametrize(("shape", "S", "width", "printed", "exact"), [
    (dict(L=80, K=8, H=128), 1, 1, 162e3, 163_840),          # Llama 3 70B, int8
    (dict(L=80, K=8, H=128), 32_768, 1, 5.3e9, None),
    (dict(L=40, K=40, H=128), 8192, 2, 6.7e9, None),         # Llama 2 13B
    (dict(L=64, K=64, H=128), 8192, 1, 8 * GIB, 8 * GIB),
    (dict(L=64, K=32, H=128), 1, 1, 512 * 2**10, 512 * 2**10)])
def test_caches_of_the_scaling_book(shape, S, width, printed, exact):
    got = cache(S, **shape, width=width)
    assert got == pytest.approx(printed, rel=0.015)
    assert exact is None or got == exact


@pytest.mark.parametrize("name", ["llama3_8b", "gemma_2b", "gpt2_124m", "mixtral_8x7b"])
def test_a_cache_is_that_of_the_model(name):
    c = Config(**PRESETS[name], precision="bfloat16")
    made = jax.eval_shape(lambda: paged.heads(c.L, 3 * 64, 16, c.K, c.H, jnp.bfloat16))
    assert size.nbytes(made) == 3 * cache(1024, L=c.L, K=c.K, H=c.H)
