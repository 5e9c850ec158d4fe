"""What `lm train` leaves behind and says, and what ends it."""

import contextlib
import itertools
import json
import os
import pty
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.base.options import walk
from lm.experiment import parts
from lm.experiment import train as verb
from lm.experiment.config import Experiment
from lm.mesh import devices
from lm.mesh.config import Config as Mesh
from lm.models.decoder import model as decoder
from lm.models.decoder.config import Config as Model
from lm.train import optimizers, schedules
from lm.train import step as program
from lm.train.config import Config


def test_the_run_directory(trained, tiny, records):
    names = {p.name for p in trained.iterdir()}
    assert names == {"config.json", "metrics.jsonl", "tokenizer", "checkpoints", "loss.png",
                     "result.json", "tensorboard", ".lock"}
    stored = json.loads((trained / "config.json").read_text())
    assert stored["config"]["model"]["D"] == 16
    assert stored["config"]["model"]["H"] == 8
    assert stored["sources"].keys() == {name for name, _, _ in walk(Experiment)}
    assert stored["sources"]["model.D"] == "file"
    assert stored["sources"]["model.H"] == "default"
    assert stored["sources"]["run"] == "flag"
    assert (trained / "loss.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    result = json.loads((trained / "result.json").read_text())
    assert result["step"] == 12
    assert 0 < result["xz_bits_per_byte"] < 8
    assert result["bits_per_byte"] == pytest.approx(  # one token a byte, and one that ends the text
        result["validation_loss"] / np.log(2) * 1073 / 1072, rel=1e-9)
    assert {p.name for p in (trained / "checkpoints").iterdir()} == {"8", "12"}
    assert list((trained / "tensorboard").glob("events.out.tfevents.*"))


def test_the_record(trained, records):
    made = records(trained)
    losses = [r for r in made if "loss" in r]
    assert [r["step"] for r in losses] == list(range(1, 13))
    assert [r["step"] for r in made if "validation_loss" in r] == [4, 8, 12]
    for r in losses:
        assert r.keys() == {"step", "loss", "gradient_norm", "skipped", "learning_rate", "tokens"}
        assert r["tokens"] == r["step"] * 128
        assert r["skipped"] == 0
    assert losses[0]["loss"] == pytest.approx(np.log(256), abs=0.1)
    assert losses[-1]["loss"] < losses[0]["loss"] - 0.5
    assert losses[0]["learning_rate"] == pytest.approx(1e-2)
    assert losses[-1]["learning_rate"] < 2e-3


def test_tensorboard_holds_the_record(trained, records):
    from tensorboardX.proto.event_pb2 import Event
    data, events = b"", []
    for path in (trained / "tensorboard").iterdir():
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            events.append(Event.FromString(data[12:12 + size]))
            data = data[16 + size:]
    found = {(e.step, v.tag): v.simple_value for e in events for v in e.summary.value}
    for r in records(trained):
        for name, value in r.items():
            if name != "step":
                assert found[r["step"], name] == pytest.approx(value, rel=1e-6)


def test_lines_in_a_pipe(alone, lm, tiny, tmp_path):
    ended = lm("train", tiny, f"--run={tmp_path / 'run'}", "--config.train.profile=5:8",
               "--config.infer.prompt=the", "--config.infer.max_tokens=8",
               "--config.infer.num_samples=2", "--config.train.tensorboard=False")
    assert ended.code == 0, ended.err
    assert not ended.err
    assert "\x1b" not in ended.out
    assert "\r" not in ended.out
    lines = ended.out.splitlines()
    assert lines[0] == "config:"
    assert sum(line.startswith("config:") for line in lines) == 1
    assert "  model.D = 16  (file)" in lines
    steps = [line for line in lines if re.match(r"step \d+/12 ", line)]
    assert len(steps) == 12
    for line in steps[1:]:
        assert re.search(r"loss \d\.\d{4}  \S+ tok/s  utilisation (\d+\.\d%|-) \(matmul\+causal\)  "
                         r"left \d+m\d\ds", line)
    assert sum("validation loss" in line and "/12" not in line for line in lines) == 4
    assert f"loss curve: {tmp_path / 'run' / 'loss.png'}" in lines
    assert any(re.search(r"nats/token, [\d.]+ bits/byte; xz -9 needs [\d.]+ on the same bytes", x)
               for x in lines)
    assert any(line.startswith("--- sample 2 (seed 1)") for line in lines)
    traces = list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
    assert len(traces) == 1
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_bar_on_a_terminal(start, tiny, tmp_path):
    ours, theirs = pty.openpty()
    process = start("train", tiny, f"--run={tmp_path / 'run'}", "--config.train.length=80",
                    "--config.train.evaluate_every=40", "--config.train.save_every=40",
                    "--config.train.tensorboard=False", stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while data := os.read(ours, 1 << 16):
            said += data
    os.close(ours)
    assert process.wait(60) == 0, said
    text = said.decode()
    assert "\x1b[" in text
    assert "━" in text
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    assert "step 40  validation loss" in plain
    assert "tok/s" in plain
    assert "Traceback" not in plain
    assert len(re.findall(r"\nstep \d+/80", plain)) < 20, "a line for every report as well"


@pytest.mark.parametrize(("span", "begin", "stop", "traced", "said"), [
    ("5:8", 0, 12, [5, 8], "6 to 8"), ("10:99", 0, 12, [10, 12], "11 to 12"),
    ("12:15", 0, 12, [], ""), ("6:10", 8, 12, [], ""), ("5:8", 0, 6, [5, 6], "")])
def test_a_profile_may_be_cut_by_the_end_or_by_a_stop(span, begin, stop, traced, said, monkeypatch):
    """Of steps begin + 1 .. 12, of which a signal lets come as many as `stop`."""
    now, seen, lines = [], [], []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda place: seen.append(now[-1]))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: seen.append(now[-1]))

    def steps():
        for step in range(begin + 1, 13):
            now.append(step)
            yield step, None, None
    with contextlib.closing(verb._traced(steps(), span, 12, SimpleNamespace(say=lines.append),
                                         "there")) as going:
        assert [step for step, *_ in itertools.islice(going, stop - begin)] == now
    assert seen == traced
    assert lines == [f"profile of steps {said} in there"] * bool(said)


def test_losses_that_are_not_finite_end_the_run(alone, refused, lm, tiny, tmp_path, records):
    run = tmp_path / "run"
    argv = ("train", tiny, f"--run={run}", "--config.train.lr=1e20", "--config.train.clip=0",
            "--config.train.length=60", "--config.train.max_skipped=5",
            "--config.train.optimizer=sgd", "--config.train.schedule=constant",
            "--config.train.save_every=1", "--config.train.evaluate_every=1")
    line = refused(*argv, says=["5 steps in a row", "not finite", "train.lr", "train.warmup"])
    step = int(re.search(r"step (\d+)", line)[1])
    assert step < 20
    made = [r for r in records(run) if "skipped" in r]
    assert sum(r["skipped"] for r in made) == 4
    assert all(np.isfinite(r["loss"]) for r in made if "loss" in r)
    assert any("loss" not in r for r in made), "every loss was finite: the test proves nothing"
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert lm("eval", f"--run={run}", "--checkpoint=latest").code == 0


def test_a_first_evaluation_that_is_not_finite_is_no_best(tiny):
    meta = {}
    for loss, best in ((float("nan"), None), (3.0, 3.0), (float("inf"), 3.0), (2.0, 2.0)):
        verb._judge(meta, loss, 0)
        assert meta["best"] == best
    assert "stopped" not in meta


def test_a_single_step_and_a_single_report(alone, lm, tiny, tmp_path, records):
    run = tmp_path / "run"
    ended = lm("train", tiny, f"--run={run}", "--config.train.length=1",
               "--config.train.log_every=0", "--config.train.evaluate_every=0",
               "--config.train.save_every=0")
    assert ended.code == 0, ended.err
    assert [sorted(r) for r in records(run)] == [
        ["gradient_norm", "learning_rate", "loss", "skipped", "step", "tokens"],
        ["bits_per_byte", "step", "tokens", "validation_loss"]]


@pytest.fixture(scope="module")
def losses():
    """Trains a tiny model on one batch; returns its losses and gradient norms."""
    c = Model(L=1, D=16, N=2, F=32, V=32, T=8)
    declaration = decoder.build(c)
    tokens = np.random.default_rng(0).integers(0, 32, (4, 9), dtype=np.int32)
    batch = dict(tokens_BT=tokens[:, :-1], targets_BT=tokens[:, 1:],
                 weights_BT=np.ones((4, 8), np.float32),
                 positions_BT=np.broadcast_to(np.arange(8, dtype=np.int32), (4, 8)))

    def train(steps, **changes):
        t = Config(**changes)

        def rate(peak):
            return schedules.make(t.schedule, peak, steps=8, warmup=2, final=t.final, decay=2,
                                  cycles=2)
        with devices.use(devices.make(Mesh(), jax.devices()[:1])) as mesh:
            rule = optimizers.make(t, declaration, rate(t.lr), rate(t.hidden_lr))
            state = program.init(declaration, rule, jax.random.key(0), mesh)
            step = program.compiled(program.make(declaration, decoder.loss, rule,
                                                 key=jax.random.key(1), clip=1.0))
            found = []
            for _ in range(steps):
                state, means = step(state, jax.tree.map(jnp.asarray, batch))
                found.append(means["loss"].value)
        assert int(state.step) == steps
        assert int(state.skipped) == 0
        return found
    return train


CHOICES = {name: field.metadata["choices"] for name, _, field in walk(Config)}


def once(names, *here):
    """The names; all but `here` are slow, since other tests by default train with them."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name not in here)) for name in names]


@pytest.mark.parametrize("name", once(CHOICES["optimizer"], "adafactor", "lion"))
def test_every_optimizer_learns(losses, name):
    found = losses(6, optimizer=name, lr=dict(sgd=0.3, lion=3e-3).get(name, 2e-2))
    assert found[-1] < found[0] - 0.02, found


@pytest.mark.parametrize("name", once(CHOICES["schedule"], "wsd"))
def test_every_schedule_learns(losses, name):
    found = losses(3, schedule=name, lr=2e-2)
    assert found[-1] < found[0], found


def test_names_and_choices_are_the_same():
    assert set(CHOICES["optimizer"]) == set(optimizers.OPTIMIZERS)
    assert set(CHOICES["schedule"]) == set(schedules.SHAPES)
    assert parts.CONVENTION


LAYOUTS = {
    "stages": "mesh.stage=2 mesh.data=4 model.microbatches=2 model.L=3",
    "a circle of experts": "mesh.stage=2 mesh.fsdp=2 mesh.expert=2 mesh.data=1 "
                           "model.schedule=circular model.L=4 model.E=4",
    "context": "mesh.context=2 mesh.data=4",
    "experts": "mesh.expert=2 mesh.data=4 model.E=4",
    "host memory": "mesh.fsdp=8 mesh.data=1 train.offload=optimizer model.remat=offload",
}


# The laws of meshes have the others; and the circle has stages and experts.
@pytest.mark.parametrize("layout", once(LAYOUTS, "a circle of experts", "host memory"))
def test_it_trains_and_evaluates_on_any_mesh(layout, lm, tiny, records, tmp_path):
    """From the first step to the result."""
    words = [f"--config.{word}" for word in LAYOUTS[layout].split()]
    ended = lm("train", tiny, f"--run={tmp_path}", "--config.data.B=8", "--config.train.length=4",
               "--config.train.evaluate_every=4", *words)
    assert ended.code == 0, ended.err
    made = records(tmp_path)
    assert made[0]["loss"] == pytest.approx(np.log(256), abs=0.1)
    assert np.isfinite(made[-1]["validation_loss"])


@pytest.mark.parametrize("E", [0, 4])
def test_flops_of_a_token_are_the_models_own(E):
    """Idle stages, gathered tokens and what is computed again add nothing."""
    c = Model(L=4, D=32, N=4, V=64, T=16, E=E, microbatches=2 * (E == 0))
    found = set()
    for mesh in (Mesh(data=8), Mesh(data=2, stage=4), Mesh(data=1, fsdp=2, expert=4)):
        with devices.use(devices.make(mesh)) as m:
            own = parts.Model(c, decoder.build(c), decoder.loss)
            found.add(parts.flops_per_token(own, 16, m))
    assert len(found) == 1
