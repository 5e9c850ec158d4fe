"""The scaling book's worked answers, within the rounding that it prints."""

import math

import jax
import numpy as np
import pytest

from lm.cost import conventions, roofline
from lm.cost.chips import CHIPS
from lm.cost.figure import explain, known
from lm.models.decoder import model as decoder
from lm.models.decoder.config import Config
from lm.models.decoder.presets import PRESETS

V5E, V5P = CHIPS["v5e"], CHIPS["v5p"]
ALPHA = roofline.critical(V5P.peak(), 2 * V5P.network.link)
DAY = 86400


def parts(**fields) -> dict[str, int]:
    """Returns the parameters of a declared decoder by part."""
    shapes = decoder.build(Config(**fields)).shapes
    count = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        part = next((x for x in ("norm", "attention", "mlp") if x in name), "vocabulary")
        count[part] = count.get(part, 0) + math.prod(leaf.shape)
    return count


# Rooflines, and TPUs.

def test_products():
    assert roofline.matmul_batch(V5E.peak(), V5E.hbm_bandwidth) == pytest.approx(240, abs=1)
    assert roofline.matmul_batch(V5E.peak(), V5E.hbm_bandwidth, 1) == pytest.approx(120, abs=0.5)
    assert roofline.matmul_batch(V5E.peak("int8"), V5E.hbm_bandwidth, 1) == pytest.approx(
        243, rel=0.015)


def test_a_product_split_over_two_chips():
    """Each sends half of its results in 16 bits over one link: D > 8755."""
    C, W = V5E.peak(), V5E.network.link

    def seconds(D, B=1024, F=4096):
        return 2 * B * D * F / 2 / C, 2 * B * F / W
    D = 2 * roofline.critical(C, W)
    assert pytest.approx(8755, rel=2e-4) == D
    assert seconds(D)[0] == pytest.approx(seconds(D)[1])


def test_attention():
    assert roofline.attention(4096, 4096, 8) == pytest.approx(4096 * 8 / 9)
    assert roofline.attention(1, 8192, 8) == pytest.approx(8, rel=1e-3)
    assert roofline.attention(1, 1e9, 8) < 8


# Transformers.

def test_transformers_question_1():
    """The answer has D = 4e3; a quarter of the layers is attention."""
    count = parts(L=64, D=4000, N=40, F=16_000, V=32_000)
    assert sum(count.values()) == pytest.approx(16e9, rel=0.045)
    assert count["attention"] / (count["attention"] + count["mlp"]) == 1 / 4
    c = Config(L=64, D=4096, N=32, V=32_000)
    assert 2 * c.L * c.K * c.H == 512 * 2**10  # bytes of a token's cache, in int8


def test_transformers_question_5():
    """Of all scores; N H = D, F = 4 D and three matrices."""
    D, N, H = 4096, 32, 128

    def over(T, matrices):
        return conventions.attention(L=1, N=N, H=H, T=T, causal=False) / (6 * matrices)
    assert over(2 * D, 4 * D * D) == 1
    for T in (2048, 32_768):
        assert over(T, 4 * D * D + 3 * D * 4 * D) == T / (8 * D)


# Training.

def test_thresholds():
    assert ALPHA == 2550
    assert [roofline.fsdp_tokens(ALPHA, n) for n in (1, 3)] == [2550, 850]
    assert roofline.tensor_ways(28_672, ALPHA) == pytest.approx(11, abs=0.5)  # LLaMA 3 70B
    assert roofline.tensor_ways(49_152, ALPHA) == pytest.approx(19, abs=1)    # Gemma 7B
    assert roofline.tensor_ways(28_672, ALPHA, 2) == 2 * roofline.tensor_ways(28_672, ALPHA)
    pod = 8960
    assert roofline.fsdp_tokens(roofline.critical(3.8e18, 5e13)) == 76_000
    assert roofline.fsdp_tokens(roofline.critical(pod * V5P.peak(), pod * V5P.nic)) == (
        pytest.approx(73_440))


def test_fsdp_and_tensor_parallelism():
    """64 chips, 48k tokens, F = 32k: 13.9, so 16 x 4; 400 tokens a chip instead of 850."""
    B, F, axes = 48 * 1024, 32_768, (2, 1)
    assert roofline.mixed_fsdp(B, F, 64, axes) == pytest.approx(13.9, abs=0.05)

    def sent(fsdp):
        return sum(roofline.mixed(B=B, D=8192, F=F, fsdp=fsdp, tensor=64 // fsdp, C=V5P.peak(),
                                  W=2 * V5P.network.link, axes=axes)[1:])
    assert min((1, 2, 4, 8, 16, 32, 64), key=sent) == 16
    assert roofline.mixed_tokens(F, ALPHA, axes) == pytest.approx(400, rel=0.01)


@pytest.mark.parametrize("axes", [(1, 1), (2, 1), (1, 2)])
def test_the_best_mix(axes):
    """Both take equally long there, no other mix less, and at the threshold as long as products."""
    F, chips, W = 28_672, 4096, 2 * V5P.network.link
    B = roofline.mixed_tokens(F, ALPHA, axes) * chips
    best = roofline.mixed_fsdp(B, F, chips, axes)

    def times(fsdp):
        return roofline.mixed(B=B, D=8192, F=F, fsdp=fsdp, tensor=chips / fsdp, C=V5P.peak(), W=W,
                              axes=axes)
    products, fsdp, tensor = times(best)
    assert fsdp == pytest.approx(tensor)
    assert fsdp + tensor == pytest.approx(products)
    for other in np.geomspace(1, chips, 101):
        assert sum(times(other)[1:]) >= (fsdp + tensor) * (1 - 1e-9)


def test_70b_on_16m_tokens():
    chips = 16e6 / roofline.fsdp_tokens(ALPHA, 3)
    assert int(chips) == 18_823
    assert 6 * 70e9 * 15e12 / (chips * 0.5 * V5P.peak()) / DAY == pytest.approx(17, abs=0.5)


def test_13b_on_3m_tokens():
    """Question 3: 16^3 chips of v5p, too few tokens for FSDP alone."""
    chips = 16**3
    assert roofline.fsdp_tokens(ALPHA, 3) * chips == pytest.approx(3.48e6, rel=1e-3)
    assert roofline.fsdp_tokens(ALPHA, 3) * chips > 3e6
    assert roofline.mixed_tokens(PRESETS["llama2_13b"]["F"], ALPHA, (2, 1)) == pytest.approx(
        940, abs=1)


def test_training_llama_3_70b():
    count = parts(**PRESETS["llama3_70b"])
    assert count["mlp"] == pytest.approx(56.3e9, rel=2e-3)
    assert count["vocabulary"] == pytest.approx(2.1e9, rel=2e-3)
    assert count["attention"] == pytest.approx(12e9, rel=0.01)
    assert sum(count.values()) == pytest.approx(70.4e9, rel=3e-3)
    total = 4.2e11 * 15e12
    assert total == pytest.approx(6.3e24)
    assert total / V5P.peak() / DAY / 365 == pytest.approx(435, abs=0.5)
    assert total / V5P.peak() / 8960 / 0.4 == pytest.approx(3.8e6, rel=0.01)
    assert total / V5P.peak() / 8960 / 0.4 / DAY == pytest.approx(44, abs=0.5)
    B, F = 4.19e6, 28_672
    each = B / 8960
    assert each == pytest.approx(468, abs=0.5)
    assert roofline.mixed_tokens(F, ALPHA, (2, 1)) < each < roofline.fsdp_tokens(ALPHA, 3)
    assert roofline.mixed_fsdp(B, F, 8960, (2, 1)) == pytest.approx(1618, abs=0.5)
    assert roofline.mixed_tokens(F, ALPHA, (2, 1)) == pytest.approx(453, abs=1)


def test_pipelines_contexts_and_experts():
    assert roofline.bubble(4, 8) == 3 / 8 and roofline.bubble(4, 8, 2) == 3 / 16
    assert roofline.bubble(1, 8) == 0
    T, N, K, H = roofline.ring_tokens(ALPHA, 8), 64, 8, 128
    hop, work = 4 * T * K * H / (2 * V5P.network.link), 4 * T**2 * N * H / V5P.peak()
    assert hop == pytest.approx(work)
    assert roofline.expert_bytes(1024, 4096, 2) == 4 * 1024 * 2 * 4096 * 2


# Inference.

def test_inference_question_1():
    count = parts(L=64, D=4096, F=16_384, N=32, K=8, H=256, V=32_128, tied=True)
    assert sum(count.values()) == pytest.approx(18.4e9, rel=2e-3)


def test_weight_stationary():
    assert roofline.weight_stationary(4096, 4 * 4096) == 72  # the page says 81


# Figures and arrays.

def test_a_figure_keeps_its_formula():
    found = roofline.mixed_fsdp(known("tokens", 4.19e6), known("F", 28_672), known("chips", 8960),
                                (2, 1)).called("mesh.fsdp")
    assert found.value == pytest.approx(1618, abs=0.5)
    assert "mesh.fsdp = (tokens / F * 2 / 1 * chips) ** 0.5" in explain(found)
    chips = np.array([64, 256, 1024])
    assert roofline.mixed_fsdp(1e6, 32_768, chips) == pytest.approx((1e6 / 32_768 * chips) ** 0.5)
