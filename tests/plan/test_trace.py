"""What the traced step keeps for its backward pass is what papers count, where they count alike."""

import dataclasses
import functools

import pytest

from lm.cost import activations
from lm.cost.lettered import elements
from lm.experiment.config import Experiment
from lm.models.decoder.config import Config
from lm.models.decoder.presets import PRESETS
from lm.plan import trace

T = 2048
SIZES = {name: {x: getattr(Config(**PRESETS[name]), x) for x in "DNKHF"} for name in PRESETS}


@functools.cache
def kept(name: str, remat: str, sharded: bool = True, dropout: float = 0.0) -> tuple[float, float]:
    """Returns the bytes that a layer keeps of a token: (between all pairs of tokens, the rest).

    sharded: whether weights are gathered over `fsdp`. It is what the forward pass's loop over
    layers stacks up for the backward pass. Pairs are in no memory where a kernel does attention.
    """
    drop = {f"dropout_{where}": dropout for where in ("embedding", "attention", "residual")}
    c = Config(**PRESETS[name], remat=remat, precision="bfloat16", loss_chunk=T, **drop)
    e = Experiment()
    e = dataclasses.replace(e, model=c, data=dataclasses.replace(e.data, B=8, T=T))
    program = trace.trace(e, "tpu", "TPU v5", sharded, False)[0]
    sizes = trace.sizes(e)
    loop = next(op for op in program.ops if op.name == "scan" and op.times.has("L"))
    pairs = rest = 0.0
    for shape in (program.shapes[n] for n in loop.writes):
        if shape.power("L") and shape.power("t"):
            own = elements(shape.axes, sizes) * shape.itemsize / (c.L * 8 * T)
            pairs, rest = (pairs + own, rest) if shape.power("t") > 1 else (pairs, rest + own)
    return pairs, rest


@pytest.mark.parametrize("name", ["llama3_8b", "mistral_7b", "qwen3_8b", "mixtral_8x7b"])
@pytest.mark.parametrize("remat", ["full", "attention"])
def test_inputs_and_attention(name, remat):
    """To the byte, with experts too."""
    assert kept(name, remat) == (0, activations.llama(remat, **SIZES[name]))


@pytest.mark.parametrize("sharded", [True, False])
@pytest.mark.parametrize("name", ["llama3_8b", "llama2_13b", "qwen2_7b"])
def test_matrix_products(name, sharded):
    """All but one: the product that ends a layer is in its output, which no gradient needs."""
    down = 2 * SIZES[name]["D"]
    assert kept(name, "dots", sharded) == (0, activations.llama("dots", **SIZES[name]) - down)


def test_matrix_products_with_experts():
    """The router's float32 scores are kept; the experts' products are in groups and are not."""
    s = SIZES["mixtral_8x7b"]
    without = activations.llama("dots", **dict(s, F=0)) - 2 * s["D"]
    assert kept("mixtral_8x7b", "dots") == (0, without + 4 * 8)


def test_everything():
    """The formula's list and ours differ in few arrays, each of which has its reason."""
    s = SIZES["llama3_8b"]
    D, N, F = s["D"], s["N"], s["F"]
    more = 2 * 2 * D     # both norms' inputs are kept in float32, in which norms compute
    more += 2 * 4        # and their 1/rms
    more -= 2 * D        # the second's is the first's and the output matrix's product, added up
    more += 2 * F        # the gate's silu, beside the gate, the other factor and the product
    more += 4 * N        # softmax's sum and its inverse's square; a kernel keeps one logarithm
    assert kept("llama3_8b", "none", False)[1] == activations.llama("none", **s) + more


def test_everything_where_weights_are_gathered():
    """A policy that keeps no casts: norms' inputs before them, norms' results and k as well.

    Of a norm that is the same number of bytes, one of its ends being in float32 either way.
    """
    s = SIZES["llama3_8b"]
    assert kept("llama3_8b", "none")[1] == kept("llama3_8b", "none", False)[1] + 2 * s["K"] * s["H"]


@pytest.mark.parametrize("name", ["gpt2_124m", "gpt2_1.5b"])
def test_everything_of_gpt_with_dropout(name):
    """Korthikanti et al. 2022: 34 D and, of the pairs, 5 N T."""
    s = SIZES[name]
    D, N = s["D"], s["N"]
    pairs, rest = kept(name, "none", False, 0.1)
    paper = activations.gpt(B=1, T=T, D=D, N=N, keep="selective") / T
    assert paper == 34 * D
    # Norms' inputs are kept in float32, with their mean and 1/std; softmax's sum, as above.
    assert rest == paper + 2 * 2 * D + 2 * 8 + 8 * N
    scores = activations.gpt(B=1, T=T, D=D, N=N) / T - paper
    assert scores == 5 * N * T
    assert pairs == scores + 2 * N * T  # exponentials are kept in float32


def test_full_remat_of_gpt():
    D, N = (SIZES["gpt2_124m"][x] for x in "DN")
    paper = activations.gpt(B=1, T=T, D=D, N=N, keep="full") / T
    assert kept("gpt2_124m", "full", False, 0.1) == (0, paper)
