"""Traced programs read in letters: the shipped configs', and what the letters count."""

import functools
import math
import pathlib
from fractions import Fraction

import jax
import jax.numpy as jnp
import pytest

from lm.cost import count, lettered
from lm.cost.lettered import Alphabet
from lm.experiment import flags, topology
from lm.plan import trace
from lm.verbs import VERBS

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = [
    "quickstart.py", "ladder.py", "lm1b.py", "shakespeare_char.py:gpt2",
    "shakespeare_char.py:published",
    *(f"gpt2.py:{size}" for size in ("124m", "355m", "774m", "1.5b")),
    *(f"llama3.py:{size}" for size in ("tiny", "1b", "8b", "70b")),
    *(f"moe.py:{name}" for name in ("tiny", "mixtral", "qwen3", "deepseek"))]
A = Alphabet("BTDF", dict(B=2, D=4), halved="B")


@functools.cache
def traced(config):
    argv = [f"--config={ROOT / 'configs' / config}"]
    e = topology.whole(flags.parse(argv, VERBS["verify"]).experiment)
    chunked = trace.sizes(e, 1)["p"] > 1
    return trace.trace(e, "tpu", "TPU v5", True, chunked)[0]


def test_no_config_is_forgotten():
    files = {path.name for path in (ROOT / "configs").glob("*.py")}
    assert {config.partition(":")[0] for config in CONFIGS} == files


# Whose programs are those of others of their file, in other sizes.
SIZES = {"shakespeare_char.py:gpt2", "gpt2.py:355m", "gpt2.py:1.5b", "llama3.py:tiny",
         "llama3.py:1b", "llama3.py:70b", "moe.py:tiny", "moe.py:qwen3"}


@pytest.mark.parametrize("config", [
    pytest.param(config, marks=[pytest.mark.slow] * (config in SIZES)) for config in CONFIGS])
def test_letters_explain_every_axis_of_a_shipped_config(config):
    assert lettered.unread(traced(config)) == []


def test_sizes_are_products_of_letters():
    n = A.size
    assert str(A.read(n["B"] * n["T"])) == "BT"
    assert str(A.read(n["D"] * n["D"])) == "D^2"
    assert A.read(3 * n["F"]) == (Fraction(3), (("F", 1),))
    assert A.read(n["D"] // 2).factor == Fraction(1, 2)
    assert str(A.read(n["B"] // 2)) == "B"  # a device's own rows stand for all


def test_no_two_letters_share_a_prime():
    assert math.gcd(*A.prime.values()) == 1 and len(set(A.prime.values())) == 4


def test_an_axis_that_no_letter_explains_is_found():
    program = lettered.read(lambda x: x * 2.0, jax.ShapeDtypeStruct((13 * A.size["D"],),
                                                                    jnp.float32), alphabet=A)
    assert lettered.unread(program) == ["13D"]


def test_products_in_letters_are_the_flops_of_the_real_sizes():
    """Traced at primes and counted at other sizes, or traced at those: the same FLOPs."""
    def fn(x, ws):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w @ w.T), None), x, ws)[0]
    letters = Alphabet("BDFL", dict(B=2))
    def args(n):
        return (jax.ShapeDtypeStruct((n["B"], n["D"]), jnp.float32),
                jax.ShapeDtypeStruct((n["L"], n["D"], n["F"]), jnp.float32))
    sizes = dict(B=16, D=24, F=40, L=3)
    program = lettered.read(fn, *args(letters.size), alphabet=letters)
    total = sum(2 * lettered.elements([*times, *(a for side in op.product for a in side)], sizes)
                for op, _, times in lettered.walk(program) if op.product)
    assert total == count.flops(fn, *args(sizes)).total == 2 * 2 * 16 * 24 * 40 * 3


def test_experts_products_are_read_through_their_batching_rule():
    names = [op.name for op, _, _ in lettered.walk(traced("moe.py:mixtral"))]
    assert sum(name.startswith("ragged") for name in names) == 3 * 4  # forward, again, back by both
