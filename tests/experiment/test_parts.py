"""FLOPs per token, counted in the traced model, are the digits that papers, logs and tables print.

What is counted is the model that trains. The convention of half the scores is what is logged; that
of all of them has the same matrix products and attention twice.
"""

import jax
import pytest

from lm.cost.conventions import CONVENTIONS, attention
from lm.experiment import parts
from lm.mesh import devices
from lm.mesh.config import Config as Mesh
from lm.models.decoder import model as decoder
from lm.models.decoder.config import Config
from lm.models.decoder.presets import PRESETS


def counted(fields: dict, T: int) -> tuple[float, dict]:
    """Returns (FLOPs per token by the traced model, what the conventions ask for of it)."""
    c = Config(**fields)
    m = parts.Model(c, decoder.build(c), decoder.loss)
    causal = parts.flops_per_token(m, T, devices.make(Mesh(), jax.devices()[:1]))
    shape = dict(L=c.L, N=c.N, H=c.H, T=T)
    windows = [c.windows[i % len(c.windows)] or None for i in range(c.L)]
    matmul = (causal - attention(**shape, window=windows)) / 6
    return causal, dict(shape, matmul=matmul, window=windows, params=m.declaration.count,
                        D=c.D, V=c.V, embedding=0 if c.tied else c.V * c.D)


def digits(value: float, printed: str) -> None:
    assert f"{value:.{len(printed.split('e')[0]) - 2}e}".replace("e+", "e") == printed


@pytest.mark.parametrize(("name", "T", "causal", "full"), [
    ("llama3_8b", 8192, "5.14704e10", "5.79129e10"),
    ("llama3_70b", 8192, "4.49223e11", "4.81435e11"),
    ("llama3_70b", 131072, "9.32406e11", "1.44780e12"),
    ("llama3_405b", 8192, "2.52396e12", "2.62542e12")])
def test_llama(name, T, causal, full):
    """Of the full convention MaxText logged 5.79128e10, 4.81435e11 and 2.62543e12."""
    traced, known = counted(PRESETS[name], T)
    digits(traced, causal)
    digits(CONVENTIONS["matmul+full"](**known), full)
    vectors = (2 * known["L"] + 1) * known["D"]
    assert known["matmul"] == known["params"] - known["embedding"] - vectors


def test_llama_405b_on_its_tokens():
    causal, known = counted(PRESETS["llama3_405b"], 8192)
    digits(CONVENTIONS["6N"](**known) * 15.6e12, "3.799e25")
    digits(6 * known["matmul"] * 15.6e12, "3.779e25")
    digits(causal * 15.6e12, "3.937e25")


def test_gpt3():
    """As MaxText's v5p and v6e logs print it, whose vocabulary is padded to 50304."""
    known = counted(PRESETS["gpt3_175b"] | dict(V=50304), 2048)[1]
    assert known["matmul"] == 12 * 96 * 12288**2 + 50304 * 12288
    digits(CONVENTIONS["matmul+full"](**known), "1.07638e12")
    assert CONVENTIONS["6N"](**counted(PRESETS["gpt3_175b"], 2048)[1]) * 300e9 == pytest.approx(
        3.14e23, rel=1.1e-3)


def test_palm():
    """On 780e9 tokens; the paper's 2.5272e24 is 0.06 % less."""
    known = counted(dict(L=118, D=18432, N=48, K=1, H=256, V=256_000, T=2048, norm="layernorm",
                         parallel=True, tied=True), 2048)[1]
    digits(6 * known["matmul"] * 780e9, "2.5289e24")
    assert CONVENTIONS["6N"](**known) * 780e9 == pytest.approx(2.5272e24, rel=7e-4)
    digits((6 * known["matmul"] + 12 * 118 * 48 * 256 * 2048) * 780e9, "2.5567e24")


@pytest.mark.parametrize(("params", "D", "L", "N", "ratio", "with_vocabulary"), [
    (73e6, 640, 10, 10, 1.0366, 1.60), (305e6, 1024, 20, 16, 1.1034, 1.32),
    (552e6, 1280, 24, 10, 1.0841, 1.23), (1143e6, 1792, 26, 14, 1.0445, 1.15),
    (1593e6, 2048, 28, 16, 1.0330, 1.12), (6796e6, 3584, 40, 28, 0.9942, 1.03)])
def test_chinchilla_table_a4(params, D, L, N, ratio, with_vocabulary):
    """Its ratios to 6N leave the embedding and the logits out, unlike its formula."""
    known = counted(dict(L=L, D=D, N=N, V=32_000, T=2048, norm="layernorm", positions="rotary",
                         bias="all", activation="gelu"), 2048)[1]
    inner = dict(known, V=0, matmul=known["matmul"] - 32_000 * D)
    assert CONVENTIONS["chinchilla"](**inner) / (6 * params) == pytest.approx(ratio, abs=6e-5)
    assert CONVENTIONS["chinchilla"](**known) / (6 * params) == pytest.approx(
        with_vocabulary, abs=6e-3)


def test_a_window_is_counted_by_what_it_shows():
    """Of Gemma 2's layers every other sees 4096 keys back, of 8192: three quarters of the pairs."""
    causal, known = counted(PRESETS["gemma2_9b"], 8192)
    everywhere = attention(**{x: known[x] for x in "LNHT"})
    assert causal - 6 * known["matmul"] == pytest.approx(everywhere * (1 + 0.75) / 2)


@pytest.mark.parametrize(("name", "active"), [
    ("mixtral_8x22b", 39_161_468_928), ("qwen3_235b_a22b", 22_190_763_520)])
def test_of_experts_those_that_act_are_counted(name, active):
    """And a few products of the router's bookkeeping: sums over experts, written as products."""
    known = counted(PRESETS[name], 4096)[1]
    c = Config(**PRESETS[name])
    vectors = (2 * c.L + 1) * c.D + 2 * c.L * c.H * c.qk_norm
    matrices = active - vectors - c.V * c.D
    assert matrices < known["matmul"] < matrices * (1 + 2e-6)
