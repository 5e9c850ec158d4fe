"""Training steps compiled for TPUs that are not here: kernels, 8 bits, pipelines, on each type."""

import dataclasses
import importlib.util
import json

import pytest

from lm.data.config import Config as Data
from lm.experiment import topology
from lm.experiment.config import Experiment
from lm.mesh import devices
from lm.mesh.config import Config as Mesh
from lm.models.decoder.config import Config as Model
from lm.train.config import Config as Train

HOSTS = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
MODEL = Model(L=4, D=256, N=4, K=2, H=128, F=512, V=512, qk_norm=True, precision="bfloat16",
              precision_missing="emulate", remat="full")


@pytest.fixture
def compiled():
    """Compiles a step of MODEL with changes for four chips of a type."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("no libtpu: pip install the one that jax[tpu] pins to compile for TPUs")

    def make(chip, mesh, **changes):
        e = Experiment(data=Data(B=8, T=256), mesh=mesh, train=Train(),
                       model=dataclasses.replace(MODEL, **changes))
        return topology.step(e, devices.make(mesh, topology.chips(HOSTS[chip])[1]))
    return make


@pytest.mark.slow
@pytest.mark.parametrize("chip", HOSTS)
@pytest.mark.parametrize("precision", ["bfloat16", "fp8", "int8"])
def test_kernels_and_precisions(chip, precision, compiled):
    made = compiled(chip, Mesh(data=1, fsdp=2, tensor=2), precision=precision)
    text = made.run.as_text()
    for name in ("splash_mha_fwd", "splash_mha_dq", "splash_mha_dkv"):
        assert name in text
    assert not made.warnings
    assert not made.collectives.unknown
    assert made.collectives.count["all-gather"] >= 4 * 2  # of four layers, forward and backward


@pytest.mark.slow
@pytest.mark.parametrize("chip", HOSTS)
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "circular"])
def test_pipelines(chip, schedule, compiled):
    mesh = Mesh(stage=2, data=1, fsdp=2)
    made = compiled(chip, mesh, schedule=schedule)
    assert not made.warnings
    assert not made.collectives.unknown
    # What a stage has made goes to the next in each of at least 4 microbatches + 1 ticks.
    assert made.collectives.count["collective-permute"] >= 5
    assert "splash_mha_fwd" in made.run.as_text()


@pytest.mark.slow
def test_memory_is_what_the_compiler_reserves(compiled):
    made = compiled("v5e", Mesh(data=1, fsdp=4))
    m = made.run.memory_analysis()
    # Which counts arrays that share memory more than once.
    assert m.argument_size_in_bytes < made.peak
    assert made.peak < m.argument_size_in_bytes + m.temp_size_in_bytes
    assert made.peak == made.arguments + made.outputs + made.temporaries


@pytest.mark.slow
def test_what_does_not_fit_is_said(compiled, lm, tmp_path):
    """One chip, and a batch of which one layer's hidden units alone take more than it has."""
    out = tmp_path / "step.json"
    argv = ["verify", "--config=configs/quickstart.py", "--topology=target", f"--out={out}"]
    ended = lm(*argv, "--config.data.B=65536", "--config.model.attention=splash",
               "--config.model.H=128")
    assert ended.code == 1, ended
    assert "does not fit: a device needs " in ended.out
    assert "GiB of the 15.75 GiB that a program has on v5e" in json.loads(out.read_text())["error"]
