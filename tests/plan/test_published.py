"""Published steps: their models have the published sizes, their numbers agree with each other."""

import functools
import json
import math

import jax
import pytest

from lm.base.errors import UserError
from lm.cost.chips import CHIPS
from lm.cost.conventions import CONVENTIONS
from lm.mesh.config import AXES
from lm.models.decoder.config import Config
from lm.models.families import FAMILIES
from lm.nn.remat import POLICIES
from lm.plan.published import mosaic, rows

ROWS = rows()
NAMED = {row.name: row for row in ROWS}


@pytest.fixture(scope="module")
def h100(shared):
    return mosaic(str(shared / "mosaic_h100_throughput.csv"))


@functools.cache
def declared(fields: str):
    """Returns the config and the declaration of a row's model, given as json."""
    given = json.loads(fields)
    c = Config(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})
    return c, FAMILIES[c.family].build(c)


def model(row):
    return declared(json.dumps(row.model, sort_keys=True))


def flops_per_token(row) -> float:
    """Returns what the row's convention counts of one token, from the declared parameters."""
    c, declaration = model(row)

    def multiplies(shape, spec):
        if not spec.inputs:
            return 0
        share = c.experts_top / c.E if "E" in spec.stacked else 1
        return math.prod(shape.shape) * share
    matmul = sum(jax.tree.leaves(jax.tree.map(multiplies, declaration.shapes, declaration.specs)))
    matmul += c.V * c.D * c.tied
    return CONVENTIONS[row.convention](
        params=declaration.count, embedding=c.V * c.D, matmul=matmul, L=c.L, D=c.D, N=c.N, H=c.H,
        T=row.T, V=c.V)


def tflops(row) -> float:
    """Returns TFLOP/s of one chip, of the row's model, batch and seconds."""
    return flops_per_token(row) * row.B * row.T / row.seconds / row.chips / 1e12


def test_names_are_unique():
    assert len(NAMED) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_rows_can_be_planned(row):
    check_plan(row)


def check_plan(row):
    chip = CHIPS[row.chip]
    sides = [int(n) for n in row.slice.split("x")]
    assert len(sides) == (chip.network.axes if hasattr(chip.network, "axes") else 2)
    assert set(row.mesh) <= set(AXES) and math.prod(row.mesh.values()) == row.chips
    assert row.remat in POLICIES and row.offload == bool(row.host_bytes)
    assert row.recompute is None or 0 <= row.recompute <= 1
    ways = math.prod(row.mesh.get(axis, 1) for axis in ("data", "fsdp", "expert"))
    assert row.B % (ways * row.accumulate) == 0 or "megatron" in row.name
    c, _ = model(row)
    assert c.T >= row.T and c.N % row.mesh.get("tensor", 1) == 0
    assert c.F % row.mesh.get("tensor", 1) == 0 and c.L % row.mesh.get("stage", 1) == 0


@pytest.mark.parametrize(("name", "params"), [
    ("llama3.1-8B v6e-16x16", 8_030_261_248), ("llama3.1-70B v6e-16x16", 70_553_706_496),
    ("llama3.1-405B v5p-8x8x8", 405_853_388_800), ("llama2-70B v6e-16x16", 68_976_648_192),
    ("maxtext-llama2-7B 8xh100", 6_738_415_616), ("mistral-7B v6e-2x4", 7_241_732_096),
    ("mixtral-8x7B v6e-16x16", 46_702_792_704), ("mixtral-8x22B v6e-16x16", 140_630_071_296)])
def test_parameters_of_releases(name, params):
    assert model(NAMED[name])[1].count == params


@pytest.mark.parametrize("row", [r for r in ROWS if r.name.startswith(("maxtext-", "megatron-"))
                                 and "llama" not in r.name], ids=lambda row: row.name)
def test_parameters_of_nominal_sizes(row):
    nominal = float(row.name.split()[0].split("-")[1].removesuffix("B"))
    count = model(row)[1].count / 1e9
    if row.source.startswith("Narayanan"):  # whose names are rounded counts; others' are round
        assert count == pytest.approx(nominal, abs=0.06)
    else:
        assert count == pytest.approx(nominal, rel=0.055)


def test_parameters_of_mpt(h100):
    for row in h100:
        assert model(row)[1].count == row.params


# As the tables print them beside the utilisation.
PRINTED = {
    "maxtext-16B v5e-16x16": 120, "maxtext-32B v5e-16x16": 132, "maxtext-64B v5e-16x16": 118,
    "maxtext-128B v5e-16x16": 110, "maxtext-16B 32xv5e-16x16": 108,
    "maxtext-64B 16xv5e-16x16": 105, "maxtext-128B 32xv5e-16x16": 91,
    "maxtext-32B v5p-4x4x4": 328, "maxtext-64B v5p-4x4x4": 323, "maxtext-128B v5p-4x4x8": 315,
    "maxtext-128B v5p-4x8x8": 316, "maxtext-256B v5p-8x8x8": 308, "maxtext-512B v5p-8x8x8": 294,
    "maxtext-1024B v5p-8x8x16": 254, "maxtext-1024B v5p-8x16x16": 297,
    "maxtext-32B 2xv5p-4x4x4": 319, "maxtext-64B 2xv5p-4x4x4": 309,
    "maxtext-128B 2xv5p-4x4x8": 305, "maxtext-128B 2xv5p-4x8x8": 274,
    "maxtext-256B 2xv5p-8x8x8": 289, "maxtext-512B 2xv5p-8x8x8": 282,
    "maxtext-1024B 2xv5p-8x8x16": 237, "maxtext-1024B 2xv5p-8x16x16": 279,
    "maxtext-22B v4-4x4x4": 156, "maxtext-22B 8xv4-4x4x4": 146, "maxtext-52B v4-4x4x12": 154,
    "maxtext-52B 2xv4-4x4x12": 162,
}


@pytest.mark.parametrize(("name", "printed"), PRINTED.items())
def test_seconds_give_the_printed_rates(name, printed):
    assert tflops(NAMED[name]) == pytest.approx(printed, abs=0.8)


@pytest.mark.parametrize("row", [r for r in ROWS if r.tflops or r.utilisation],
                         ids=lambda row: row.name)
def test_seconds_and_rates_agree(row):
    if row.tflops:
        assert tflops(row) == pytest.approx(row.tflops, rel=2e-3)
    if row.utilisation:
        assert tflops(row) * 1e12 / row.peak == pytest.approx(row.utilisation, rel=6e-3)


def test_utilisation_of_h100(h100):
    for row in h100:
        assert tflops(row) * 1e12 / row.peak == pytest.approx(row.utilisation, rel=5e-4), row.name
        assert 0 <= tflops(row) - row.tflops < 1.1, row.name
        check_plan(row)


# Seconds that others worked out of the same tables.
@pytest.mark.parametrize(("name", "seconds"), [
    ("maxtext-256B v5p-8x8x8", 10.13), ("maxtext-1024B v5p-8x8x16", 98.12),
    ("maxtext-1024B v5p-8x16x16", 83.92), ("maxtext-52B v4-4x4x12", 29.61),
    ("maxtext-32B v5p-4x4x4", 7.30), ("maxtext-64B v5p-4x4x4", 7.38),
    ("maxtext-128B v5p-4x4x8", 5.04), ("maxtext-512B v5p-8x8x8", 42.41),
    ("maxtext-16B v5e-16x16", 10.31), ("maxtext-32B v5e-16x16", 12.09),
    ("maxtext-64B v5e-16x16", 13.47), ("maxtext-22B v4-4x4x4", 23.70),
    ("llama2-70B v5p-4x4x4", 2 * 12.20), ("megatron-18.4B 256xa100-80", 9.40),
    ("megatron-1008B 3072xa100-80", 102.63), ("megatron-145.6B 1536xa100-80", 24.82)])
def test_seconds_worked_out_before(name, seconds):
    assert NAMED[name].seconds == pytest.approx(seconds, rel=5e-3)


@pytest.mark.parametrize(("name", "tokens"), [  # tokens/s of a chip, as the logs print them
    ("llama3.1-8B v6e-2x4", 7138.890), ("llama3.1-8B v6e-4x8", 7031.689),
    ("llama3.1-8B v6e-16x16", 7207.336), ("llama3.1-70B v6e-4x8", 920.965),
    ("llama3.1-70B v6e-16x16", 960.248), ("llama2-70B v6e-16x16", 905.021),
    ("llama3.1-405B 2xv6e-16x16", 149.482), ("llama3.1-405B v5p-8x8x8", 124.618),
    ("gpt3-175B v6e-16x16", 357.580), ("gpt3-175B-int8 v5p-8x8x8", 369.059),
    ("mixtral-8x7B v6e-16x16", 3645.203), ("mixtral-8x22B v6e-16x16", 1326.307)])
def test_tokens_per_second(name, tokens):
    row = NAMED[name]
    assert row.B * row.T / row.seconds / row.chips == pytest.approx(tokens, rel=2e-4)


def test_what_is_computed_again():
    again = {name: NAMED[name].recompute for name in (
        "llama3.1-8B v6e-16x16", "llama3.1-70B v6e-16x16", "llama2-70B v5p-4x4x4")}
    wide, narrow = 4096 * 14336, 2 * 4096 * 4096 + 2 * 4096 * 1024
    assert again["llama3.1-8B v6e-16x16"] == pytest.approx(2 * wide / (3 * wide + narrow))
    wide, narrow = 8192 * 28672, 2 * 8192 * 8192 + 2 * 8192 * 1024
    assert again["llama3.1-70B v6e-16x16"] == pytest.approx(
        (2 * wide + 8192 * 8192) / (3 * wide + narrow))
    # The compiled program of this row executed 1.185 times the products of a step without it.
    assert 1 + again["llama2-70B v5p-4x4x4"] / 3 == pytest.approx(1.185, abs=0.005)
    assert NAMED["llama3.1-8B v6e-16x16"].host_bytes == 2 * (4096 * 3 + 2 * 1024)


def test_rows_to_fit(h100):
    assert all(row.fit for row in h100) and len(h100) == 77
    assert {row.name for row in ROWS if row.fit} == {
        *(f"llama3.1-8B v6e-{s}" for s in ("2x4", "4x8", "16x16")),
        *(f"llama3.1-70B v6e-{s}" for s in ("4x8", "16x16")), "llama2-70B v6e-16x16",
        *(f"maxtext-{n}B v5e-16x16" for n in (16, 32, 64, 128)),
        "maxtext-32B v5p-4x4x4", "maxtext-64B v5p-4x4x4", "maxtext-128B v5p-4x4x8",
        "maxtext-128B v5p-4x8x8", "maxtext-256B v5p-8x8x8", "maxtext-512B v5p-8x8x8",
        "maxtext-1024B v5p-8x8x16", "maxtext-1024B v5p-8x16x16", "maxtext-22B v4-4x4x4"}


def test_a_table_that_is_not_there():
    with pytest.raises(UserError, match="mosaic_h100"):
        rows(csv="/nowhere/mosaic_h100.csv")
