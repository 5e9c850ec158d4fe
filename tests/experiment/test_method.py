"""`lm train` by workers that meet seldom or send gradients late: resumed, evaluated, refused."""

import json
import shutil

import pytest

METHODS = ["--config.train.local_steps=4",
           pytest.param("--config.train.staleness=2", marks=pytest.mark.slow)]


def sums(run, step):
    """The recorded checksums of all of a state."""
    record = json.loads((run / "checkpoints" / str(step) / "meta" / "metadata").read_text())
    return record["sums"]


@pytest.mark.parametrize("how", METHODS)
def test_a_run_by_workers(how, lm, refused, tiny, tmp_path):
    """Stopped in the middle of a round it ends as it would have; other verbs know no difference."""
    run = tmp_path / "run"
    train = ("train", tiny, f"--run={run}", how, "--config.train.save_every=3",
             "--config.train.tensorboard=False")
    assert lm(*train).code == 0
    result, ended = json.loads((run / "result.json").read_text()), sums(run, 12)
    assert any(name.startswith("params/") for name in ended)
    out = lm("eval", f"--run={run}", "--checkpoint=latest", "--config.mesh.data=4",
             "--config.mesh.fsdp=2").out
    assert f"validation loss {result['validation_loss']:.4f}" in out
    (run / "result.json").unlink()
    shutil.rmtree(run / "checkpoints" / "12")
    refused(*train, "--config.mesh.data=4", "--config.mesh.fsdp=2",
            says=["mesh.data = 4", "8 workers", "mesh.data=8"])
    assert lm(*train).code == 0
    assert sums(run, 12) == ended
    assert json.loads((run / "result.json").read_text()) == result


def test_rounds_that_do_not_fit(refused, tiny, tmp_path):
    refused("train", tiny, f"--run={tmp_path / 'run'}", "--config.train.local_steps=5",
            says="nearest: 10, 15")
    assert not (tmp_path / "run").exists()
