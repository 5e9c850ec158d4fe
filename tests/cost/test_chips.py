"""The table of chips says what the published sources say, and guesses nothing."""

import subprocess
import sys

import pytest

from lm.cost.chips import CHIPS, Switch, Torus, chip_of


@pytest.mark.parametrize(("kind", "name", "bf16"), [
    ("TPU v4", "v4", 275e12), ("TPU v5 lite", "v5e", 197e12), ("TPU v5", "v5p", 459e12),
    ("TPU v5p", "v5p", 459e12), ("TPU v6 lite", "v6e", 918e12), ("TPU7x", "7x", 2307e12 / 2),
    ("NVIDIA A100-SXM4-40GB", "a100-40", 312e12), ("NVIDIA A100-SXM4-80GB", "a100-80", 312e12),
    ("NVIDIA H100 80GB HBM3", "h100", 989.4e12), ("NVIDIA H200", "h200", 989.4e12),
    ("NVIDIA B200", "b200", 2250e12)])
def test_the_peak_of_a_jax_device(kind, name, bf16):
    assert chip_of(kind).name == name
    assert chip_of(kind).peak() == chip_of(kind).peak("bf16") == bf16


@pytest.mark.parametrize("kind", [
    "cpu", "TPU v9", "NVIDIA H100 PCIe", "NVIDIA H200 NVL", "Tesla T4", "",
    "NVIDIA A100-SXM4-40GB MIG 1g.5gb"])
def test_another_chip_is_none(kind):
    assert chip_of(kind) is None


@pytest.mark.parametrize(("name", "ici", "hbm"), [
    ("v4", 3056, 224), ("v5e", 2189, 240), ("v5p", 2550, 166), ("v6e", 5100, 561),
    ("7x", 12817, 313)])
def test_the_ratios_of_the_scaling_book(name, ici, hbm):
    chip = CHIPS[name]
    assert chip.flops["bf16"] / (2 * chip.network.link) == pytest.approx(ici, rel=2e-4)
    assert chip.flops["bf16"] / chip.hbm_bandwidth == pytest.approx(hbm, abs=1)


def test_every_chip_is_complete():
    assert set(CHIPS) == {"v4", "v5e", "v5p", "v6e", "7x", "a100-40", "a100-80", "h100", "h800",
                          "h200", "b200"}
    for name, chip in CHIPS.items():
        tpu = isinstance(chip.network, Torus)
        assert chip.name == name and next(iter(chip.flops)) == "bf16"
        assert 8e11 < chip.hbm_bandwidth <= 8e12 and 1.5e10 < chip.hbm_bytes < 2.1e11
        assert bool(chip.price) == bool(chip.price_source)
        assert all(kind.startswith("TPU" if tpu else "NVIDIA") for kind in chip.kinds)
        assert bool(chip.aot) == tpu and isinstance(chip.network, (Torus, Switch))
        assert chip.peak("f64") is None


@pytest.mark.parametrize(("name", "shape", "closed"), [
    ("v5e", (16, 16), (True, True)), ("v5e", (8, 16), (False, True)), ("v6e", (4, 4), (False,) * 2),
    ("v5p", (4, 4, 8), (True,) * 3), ("v4", (2, 2, 1), (False,) * 3),
    ("7x", (2, 4, 4), (False,) * 3)])
def test_which_rings_are_closed(name, shape, closed):
    assert CHIPS[name].network.wraps(shape) == closed


def test_the_table_needs_no_jax():
    code = "import sys, lm.cost.chips, lm.cost.conventions; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
