"""The closed forms give the digits that papers, logs and tables print."""

import pytest

from lm.cost.chips import CHIPS
from lm.cost.conventions import CONVENTIONS, attention, decode


def llama(D, L, N, K, H, F, V, T):
    """Returns what the conventions ask for, of an untied model with grouped queries."""
    matmul = L * (2 * D * N * H + 2 * D * K * H + 3 * D * F) + V * D
    params = matmul + V * D + (2 * L + 1) * D
    return {"D": D, "L": L, "N": N, "H": H, "V": V, "T": T, "matmul": matmul, "params": params,
            "embedding": V * D}


def gpt(D, L, V, T, params, heads=1):
    """Returns the same of a model with 12 L D^2 in its layers and a tied embedding."""
    return {"D": D, "L": L, "N": heads, "H": D / heads, "V": V, "T": T, "params": params,
            "matmul": 12 * L * D * D + V * D, "embedding": V * D}


def digits(value, printed):
    assert f"{value:.{len(printed.split('e')[0]) - 2}e}".replace("e+", "e") == printed


LLAMA_8B = {"D": 4096, "L": 32, "N": 32, "K": 8, "H": 128, "F": 14336, "V": 128256}
LLAMA_70B = {"D": 8192, "L": 80, "N": 64, "K": 8, "H": 128, "F": 28672, "V": 128256}
LLAMA_405B = {"D": 16384, "L": 126, "N": 128, "K": 8, "H": 128, "F": 53248, "V": 128256}


@pytest.mark.parametrize(("shape", "T", "params", "causal", "full"), [
    (LLAMA_8B, 8192, 8_030_261_248, "5.14704e10", "5.79129e10"),
    (LLAMA_70B, 8192, 70_553_706_496, "4.49223e11", "4.81435e11"),
    (LLAMA_70B, 131072, 70_553_706_496, "9.32406e11", "1.44780e12"),
    (LLAMA_405B, 8192, 405_853_388_800, "2.52396e12", "2.62542e12")])
def test_llama(shape, T, params, causal, full):
    model = llama(**shape, T=T)
    assert model["params"] == params
    digits(CONVENTIONS["matmul+causal"](**model), causal)
    digits(CONVENTIONS["matmul+full"](**model), full)


def test_llama_405b_on_its_tokens():
    model, tokens = llama(**LLAMA_405B, T=8192), 15.6e12
    digits(CONVENTIONS["6N"](**model) * tokens, "3.799e25")
    digits(6 * model["matmul"] * tokens, "3.779e25")
    digits(CONVENTIONS["matmul+causal"](**model) * tokens, "3.937e25")


def test_gpt3_and_palm():
    gpt3 = gpt(12288, 96, 50304, 2048, 175e9, heads=96)
    digits(CONVENTIONS["matmul+full"](**gpt3), "1.07638e12")
    digits(CONVENTIONS["6N"](**gpt3) * 300e9, "3.15e23")  # 3.14 with the table's 174.6e9
    palm = {"params": 540.354e9, "L": 118, "N": 48, "H": 256, "T": 2048}
    digits(CONVENTIONS["6N"](**palm) * 780e9, "2.5289e24")
    digits(CONVENTIONS["palm"](**palm) * 780e9, "2.5567e24")


@pytest.mark.parametrize(("params", "tokens", "printed"), [
    (70e9, 1.4e12, "5.88e23"), (280e9, 300e9, "5.04e23"),  # Chinchilla, Gopher
    (70e9, 15e12, "6.3e24"), (37e9, 14.8e12, "3.3e24")])   # Llama 3, DeepSeek-V3's active ones
def test_six_times_parameters_and_tokens(params, tokens, printed):
    digits(CONVENTIONS["6N"](params=params) * tokens, printed)


def test_deepseek_v3():
    """2.664M hours of H800s: the scaling book's 21.7 % is of other hours and another peak."""
    rate = CONVENTIONS["6N"](params=37e9) * 14.8e12 / (2.664e6 * 3600)
    assert rate / CHIPS["h800"].peak("bf16") == pytest.approx(0.346, abs=5e-4)
    assert rate / CHIPS["h800"].peak("fp8") == pytest.approx(0.173, abs=5e-4)


@pytest.mark.parametrize(("params", "D", "L", "N", "ratio"), [
    (73e6, 640, 10, 10, 1.0366), (305e6, 1024, 20, 16, 1.1034), (552e6, 1280, 24, 10, 1.0841),
    (1143e6, 1792, 26, 14, 1.0445), (1593e6, 2048, 28, 16, 1.0330), (6796e6, 3584, 40, 28, 0.9942)])
def test_chinchilla_table_a4(params, D, L, N, ratio):
    """Its ratios to 6N leave the embedding and the logits out."""
    model = {"matmul": 12 * L * D * D, "L": L, "N": N, "H": D / N, "T": 2048, "D": D, "V": 0}
    assert CONVENTIONS["chinchilla"](**model) / (6 * params) == pytest.approx(ratio, abs=6e-5)
    assert CONVENTIONS["chinchilla"](**model | {"V": 9}) == pytest.approx(
        CONVENTIONS["chinchilla"](**model) + 6 * 9 * D)


@pytest.mark.parametrize(("N", "D", "L", "flops"), [
    (190354176, 768, 12, 1903391232), (371262464, 1024, 16, 3443922944),
    (758220288, 1536, 16, 6373843968), (1279395840, 2048, 16, 10109071360),
    (6887575552, 4096, 32, 49412071424), (13202396160, 5120, 40, 91335915520)])
def test_olmo_ladder_exactly(N, D, L, flops):
    got = CONVENTIONS["olmo"](params=N + 7 * D, embedding=7 * D, D=D, L=L, T=4096, V=100352)
    assert got == flops


@pytest.mark.parametrize(("D", "L", "gpus", "batch", "seconds", "tflops"), [
    (2304, 24, 32, 512, 3.53, 137), (3072, 30, 64, 512, 3.70, 138), (4096, 36, 128, 512, 3.70, 142),
    (6144, 40, 256, 1024, 9.40, 135), (8192, 48, 512, 1536, 14.45, 138),
    (10240, 60, 1024, 1792, 16.06, 140), (12288, 80, 1536, 2304, 24.82, 148),
    (16384, 96, 1920, 2160, 37.61, 155), (20480, 105, 2520, 2520, 54.08, 163),
    (25600, 128, 3072, 3072, 102.63, 163)])
def test_megatron_table_1(D, L, gpus, batch, seconds, tflops):
    per_token = CONVENTIONS["megatron"](D=D, L=L, T=2048, V=51200)
    assert round(per_token * 2048 * batch / seconds / gpus / 1e12) == pytest.approx(tflops, abs=1)


@pytest.mark.parametrize(("D", "L", "gpus", "batch", "seconds", "mfu"), [
    (6144, 48, 8, 4, 1.10, 41.7), (12288, 96, 64, 64, 13.75, 51.4),
    (20480, 105, 280, 280, 37.83, 56.0), (25600, 128, 512, 512, 71.49, 56.3)])
def test_korthikanti_table_5(D, L, gpus, batch, seconds, mfu):
    per_token = CONVENTIONS["megatron_once"](D=D, L=L, T=2048, V=51200)
    got = 100 * per_token * 2048 * batch / seconds / gpus / 312e12
    assert got == pytest.approx(mfu, abs=0.06)


def test_windows():
    shape = {"L": 4, "N": 8, "H": 64, "T": 4096}
    full, causal = attention(**shape, causal=False), attention(**shape)
    assert full == 12 * 4 * 8 * 64 * 4096 and causal == full / 2
    assert attention(**shape, window=4096) == attention(**shape, window=9999) == causal
    w = 512
    assert attention(**shape, window=w) == 12 * 4 * 8 * 64 * (w - w * w / (2 * 4096))
    seen = [min(t + 1, w) for t in range(4096)]  # what a query sees, its own key counted whole
    assert attention(**shape, window=w) == pytest.approx(
        12 * 4 * 8 * 64 * sum(seen) / 4096, rel=1.1e-3)
    mixed = attention(**shape, window=[w, w, w, None])
    assert mixed == pytest.approx(0.75 * attention(**shape, window=w) + 0.25 * causal)
    with pytest.raises(ValueError, match="3 windows for 4 layers"):
        attention(**shape, window=[w, w, w])


def test_the_conventions_relate_as_they_say():
    model = llama(**LLAMA_8B, T=8192)
    by = {name: rule(**model) for name, rule in CONVENTIONS.items()}
    assert by["palm"] == by["mosaic"] == by["6N"] + 2 * (by["kaplan"] - by["6N_noemb"])
    assert by["matmul+causal"] - 6 * model["matmul"] == by["kaplan"] - by["6N_noemb"]
    assert by["deepseek"] == 72 * 32 * 4096**2 + 12 * 32 * 4096 * 8192
    assert decode(matmul=10, L=2, N=3, H=5, S=7) == 20 + 4 * 2 * 7 * 15
