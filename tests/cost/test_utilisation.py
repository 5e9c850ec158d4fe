"""Utilisation is a ratio to a known peak, or nothing."""

import json
from types import SimpleNamespace

import jax
import pytest

from lm.cost import measure
from lm.cost.utilisation import chip, peak, utilisation


def devices(kind, n, platform="tpu"):
    return [SimpleNamespace(platform=platform, device_kind=kind, process_index=i // 4)
            for i in range(n)]


def test_known_chips():
    assert utilisation(4.2e11, 468, devices("TPU v5", 1)) == pytest.approx(4.2e11 * 468 / 459e12)
    assert peak(devices("TPU7x", 8)) == 4 * 2307e12
    assert peak(devices("NVIDIA H100 80GB HBM3", 2, "gpu"), "fp8") == 2 * 1979e12
    # Llama 3.1 405B on v5p in 131.474 s a step, as its log prints: 314.53 TFLOP/s, 68.5 %
    assert utilisation(2.52396e12, 124.62, devices("TPU v5", 1)) == pytest.approx(0.685, abs=5e-4)


@pytest.mark.parametrize("unknown", [
    devices("Tesla T4", 1, "gpu"), devices("TPU v4", 1) + devices("TPU v5", 1), []])
def test_no_number_is_made_up(unknown):
    assert chip(unknown) is None and peak(unknown) is None
    assert utilisation(1e9, 1e3, unknown) is None
    assert utilisation(1e9, 1e3, devices("TPU v4", 1), "fp8") is None


def test_the_cpu_is_measured_once_and_counts_once(tmp_path, monkeypatch):
    monkeypatch.setenv("LM_CACHE", str(tmp_path / "new"))
    measure.cpu.cache_clear()
    measured = peak(jax.devices())
    assert 1e9 < measured < 1e14 and chip(jax.devices()).name == "cpu"
    assert peak(jax.devices()[:1]) == measured
    assert utilisation(measured, 0.5, jax.devices()) == pytest.approx(0.5)
    path = tmp_path / "new" / "cpu_peak.json"
    (key, value), = json.loads(path.read_text()).items()
    assert value["flops"] == measured and jax.__version__ in key and "cores" in key
    assert value["bandwidth"] == chip(jax.devices()).hbm_bandwidth
    assert 1e8 < value["bandwidth"] < 1e13
    monkeypatch.setattr(measure, "rates", lambda: pytest.fail("measured again"))
    measure.cpu.cache_clear()
    assert peak(jax.devices()) == measured
    monkeypatch.setattr(measure, "rates", lambda: dict(flops=7.0, bandwidth=3.0))
    for damaged in ("{", "[]", json.dumps({key: "x"}), json.dumps({key: {"flops": 2.0}})):
        path.write_text(damaged)
        measure.cpu.cache_clear()
        assert peak(jax.devices()) == 7.0
    measure.cpu.cache_clear()
