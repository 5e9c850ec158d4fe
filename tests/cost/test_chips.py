"""The table of chips says what the published sources say, and guesses nothing."""

import json
import subprocess
import sys

import pytest

from lm.base.errors import UserError
from lm.cost.chips import CHIPS, GIB, Switch, Torus, catalogue, chip_of, override


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
        assert 0.9 < chip.memory() * chip.devices / chip.hbm_bytes < 1.01
        assert chip.nic or name == "v4"
        assert chip.pcie or name == "7x"
        assert chip.host_bytes or name in ("v4", "h800")
        assert all(n % (chip.mxu or 1) == 0 for n in chip.tile[1:])


@pytest.mark.parametrize(("name", "shape", "closed"), [
    ("v5e", (16, 16), (True, True)), ("v5e", (8, 16), (False, True)), ("v6e", (4, 4), (False,) * 2),
    ("v5p", (4, 4, 8), (True,) * 3), ("v4", (2, 2, 1), (False,) * 3),
    ("7x", (2, 4, 4), (False,) * 3)])
def test_which_rings_are_closed(name, shape, closed):
    assert CHIPS[name].network.wraps(shape) == closed


def tokens(chip, inputs, outputs, bandwidth):
    """The least tokens at which an int8 matmul of [inputs, outputs] is bound by compute."""
    per_token = 2 * inputs * outputs / chip.flops["int8"] - (inputs + outputs) / bandwidth
    return inputs * outputs / bandwidth / per_token


def test_the_book_on_tpus():
    v4, v5e, v5p, v6e = (CHIPS[name] for name in ("v4", "v5e", "v5p", "v6e"))
    assert 200e9 * 2 / 32 / v4.hbm_bandwidth == pytest.approx(10e-3, rel=0.03)          # question 1
    pod = v5e.network.pod                                                              # question 2
    assert (pod // v5e.host, pod * v5e.cores) == (32, 256)
    assert pod * v5e.flops["bf16"] == pytest.approx(5.1e16, rel=0.02)
    assert pod * v5e.hbm_bytes == 4 * 2**40
    pod = v5p.network.pod
    assert (pod // v5p.host, pod * v5p.cores) == (2240, 17_920)
    assert pod * v5p.flops["bf16"] == pytest.approx(4e18, rel=0.03)
    book = override(v5p, {"hbm_bytes": 96e9})  # the book's; Google's documents say 95 GiB
    assert pod * book.hbm_bytes == pytest.approx(860e12, rel=0.001)
    slow = override(v6e, {"pcie": 1.5e10})                                             # question 3
    assert slow.flops["bf16"] / slow.pcie == pytest.approx(61_000, rel=0.005)
    assert tokens(v5e, 4096, 16384, v5e.hbm_bandwidth) == pytest.approx(271, rel=0.05)
    assert tokens(v5e, 4096, 16384, 22 * v5e.hbm_bandwidth) == pytest.approx(11, abs=0.5)
    size = 128e3 * 128e3                                                               # question 6
    assert size / 16 / v5e.pcie == pytest.approx(66e-3, rel=0.04)
    assert size * 15 / 16 / (2 * v5e.network.link) == pytest.approx(167e-3, rel=0.03)
    assert size / v5e.hbm_bandwidth == pytest.approx(19e-3, rel=0.06)
    assert 2 * 8 * size / v5e.flops["bf16"] == pytest.approx(1.3e-3, rel=0.03)


def test_the_book_on_rooflines():
    v5e, v5p = CHIPS["v5e"], CHIPS["v5p"]
    assert 2 * v5e.flops["bf16"] / v5e.network.link == pytest.approx(8755, rel=1e-4)
    assert v5e.flops["bf16"] / v5e.hbm_bandwidth == pytest.approx(240, abs=1)
    assert v5e.flops["bf16"] / v5e.hbm_bandwidth / 2 == pytest.approx(120, abs=0.5)
    alpha = v5p.flops["bf16"] / (2 * v5p.network.link)
    assert (alpha, alpha / 3) == (2550, 850)
    assert 28672 / alpha == pytest.approx(11, abs=0.5) and 49152 / alpha == pytest.approx(19, abs=1)
    assert v5p.flops["bf16"] / v5p.nic == pytest.approx(73_440)
    best = (2 * 48_000 * 64 / 32768) ** 0.5
    assert best == pytest.approx(13.9, rel=0.02)
    assert 4 * alpha**2 / (2 * 32768) == pytest.approx(400, rel=0.01)
    assert 16e6 / (alpha / 3) == pytest.approx(18_823, abs=1)
    assert 6 * 70e9 * 15e12 / (18_823 * v5p.peak() * 0.5) / 86400 == pytest.approx(17, abs=0.5)
    assert alpha / 3 * 16**3 == pytest.approx(3.48e6, rel=0.001)
    assert 4 * alpha**2 / (2 * 13824) == pytest.approx(940, abs=1)
    years = 6 * 70e9 * 15e12 / v5p.peak() / (365 * 86400)
    assert years == pytest.approx(435, abs=1)
    assert years * 365 / 8960 / 0.4 == pytest.approx(44, abs=0.5)
    batch = 2**22
    assert batch / 8960 == pytest.approx(468, abs=0.5)
    assert (2 * batch * 8960 / 28672) ** 0.5 == pytest.approx(1618, abs=2)
    assert 2 * alpha**2 / 28672 == pytest.approx(453, abs=1)


def test_the_book_on_serving():
    v5e = CHIPS["v5e"]
    held = 70e9 + 32 * 8192 * 2 * 80 * 8 * 128
    assert held == pytest.approx(112e9, rel=0.01)
    assert 4 * v5e.hbm_bytes < held < 8 * v5e.hbm_bytes
    step = held / (8 * v5e.hbm_bandwidth)
    assert step == pytest.approx(17e-3, rel=0.02) and step / 2 == pytest.approx(8.5e-3, rel=0.02)
    assert 32 / step / 8 == pytest.approx(235, rel=0.02)
    prefill = 2 * 70e9 * 8192 / (16 * v5e.peak() * 0.4)
    assert prefill == pytest.approx(0.91, abs=0.005)


@pytest.mark.parametrize(("name", "gib"), [
    ("v4", 30.75), ("v5e", 15.75), ("v5p", 95.73), ("v6e", 31.24), ("7x", 94.74)])
def test_what_the_compiler_lets_a_program_hold(name, gib):
    assert CHIPS[name].memory() == gib * GIB


def test_every_value_can_be_another():
    v5p = override(CHIPS["v5p"], {"price": "2.5", "network.link": 1e11, "flops": {"bf16": 4e14},
                                  "host": 8, "network": {"hop": 2e-6}, "kinds": ["TPU v5q"]})
    assert (v5p.price, v5p.price_source, v5p.host, v5p.kinds) == (2.5, "as given", 8, ("TPU v5q",))
    assert (v5p.network.link, v5p.network.hop, v5p.network.pod) == (1e11, 2e-6, 8960)
    assert v5p.peak() == v5p.peak("bf16") == 4e14 and v5p.peak("int8") == 918e12
    assert CHIPS["v5p"].price == 4.20 and CHIPS["v5p"].network.link == 9e10
    half = override(CHIPS["v5e"], {"hbm_bytes": 8 * GIB})
    assert half.memory() == CHIPS["v5e"].memory() / 2
    assert override(CHIPS["v5e"], {"hbm_bytes": 8 * GIB, "usable": 7e9}).memory() == 7e9
    unknown = override(CHIPS["h100"], {"price": None})
    assert unknown.price is None and unknown.price_source == ""


@pytest.mark.parametrize(("changes", "says"), [
    ({"prize": 1}, "no field 'prize'; did you mean 'price'"),
    ({"network.links": 1}, "did you mean 'network.link'"), ({"flops.bf15": 1}, "'flops.bf16'"),
    ({"network": 5}, "no field 'network'"), ({"price": "cheap"}, "not a number above 0"),
    ({"price": -1}, "not a number"), ({"host": 2.5}, "not a whole number"),
    ({"hbm_bytes": None}, "not a number"), ({"kinds": "TPU"}, "not a list"),
    ({"nic": True}, "not a number"), ({"aot": 5}, "not a text")])
def test_a_wrong_value_is_named(changes, says):
    with pytest.raises(UserError, match=says):
        override(CHIPS["v5e"], changes)


TOML = """
[h100]
price = 2.5
price_source = "our contract, 2026-01"
[v5e]
price = 0.9
[lab]
like = "a100-80"
nic = 12.5e9
[lab.network]
link = 200e9
[bench]
like = "lab"
host = 4
"""


def test_a_file_of_chips(tmp_path):
    path = tmp_path / "chips.toml"
    path.write_text(TOML)
    chips = catalogue(path)
    assert set(chips) == {*CHIPS, "lab", "bench"} and chips["v4"] is CHIPS["v4"]
    assert (chips["h100"].price, chips["h100"].price_source) == (2.5, "our contract, 2026-01")
    assert chips["v5e"].price_source == str(path)
    lab, bench = chips["lab"], chips["bench"]
    assert lab.price is None and lab.kinds == () and lab.name == "lab"
    assert (lab.nic, lab.network.link, lab.network.domain, lab.hbm_bytes) == (
        12.5e9, 200e9, 8, 80e9)
    assert (bench.host, bench.nic, bench.network) == (4, 12.5e9, lab.network)
    again = tmp_path / "chips.json"
    again.write_text(json.dumps({"lab": {"like": "a100-80", "network": {"link": 2e11},
                                         "nic": 12.5e9}}))
    assert catalogue(again)["lab"] == lab
    assert catalogue() == CHIPS


@pytest.mark.parametrize(("text", "says"), [
    ("[h10]\nprice = 1", "unknown chip 'h10'; did you mean 'h100'.*like = "),
    ("[lab]\nlike = 'h1000'", "unknown chip 'h1000'; did you mean 'h100'"),
    ("[h100]\nprise = 1", "did you mean 'price'"), ("h100 = 1", "no table"),
    ("[h100", "chips.toml")])
def test_a_wrong_file_is_named(tmp_path, text, says):
    path = tmp_path / "chips.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=says):
        catalogue(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="chips of .*none.toml"):
        catalogue(tmp_path / "none.toml")


def test_the_table_needs_no_jax():
    code = "import sys, lm.cost.network, lm.cost.conventions; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
