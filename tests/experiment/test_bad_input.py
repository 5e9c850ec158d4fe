"""Every mistake is one line that names the cause and the cure, exit 2, nothing written or lost."""

import contextlib
import gzip
import json
import logging
import os
import shutil
import signal
import subprocess

import pytest

from lm.checkpoint.store import Checkpoints
from lm.experiment import folder
from lm.experiment import train as verb


@pytest.fixture
def run(tmp_path):
    """A run directory that does not exist yet; asserts after the test that it still does not."""
    path = tmp_path / "run"
    yield path
    assert not path.exists()


def test_an_empty_corpus(refused, tiny, tmp_path, run):
    nothing = gzip.compress(b"")
    for name, data in (("empty.txt", b""), ("empty.jsonl", b"\n\n"), ("e.txt.gz", nothing)):
        (tmp_path / name).write_bytes(data)
        refused("train", tiny, f"--run={run}", f"--config.data.corpus={tmp_path / name}",
                says=["holds no text", name])


def test_no_corpus(refused, tiny, tmp_path, run):
    refused("train", tiny, f"--run={run}", f"--config.data.corpus={tmp_path}/*.txt",
            says=["matches no file", "python_stdlib"])
    refused("train", tiny, f"--run={run}", f"--config.data.corpus={tmp_path}",
            says=["it is a folder", f"{tmp_path}/**/*.txt"])


@pytest.mark.parametrize("data, why", [
    (bytes(range(256)) * 9, "not UTF-8 text"), (b"text\0text" * 99, "NULs"),
    ("naïve ".encode("latin-1") * 99, "not UTF-8 text"), (b"PK\3\4" + b"\0" * 99, "NULs")])
def test_a_binary_file(refused, tiny, tmp_path, run, data, why):
    path = tmp_path / "binary.txt"
    path.write_bytes(data)
    refused("train", tiny, f"--run={run}", f"--config.data.corpus={path}",
            says=[why, str(path), "leave it out or convert it"])


def test_a_corpus_shorter_than_a_sequence(refused, tiny, tmp_path, run):
    (tmp_path / "short.txt").write_text("ten bytes.")
    refused("train", tiny, f"--run={run}", f"--config.data.corpus={tmp_path / 'short.txt'}",
            says=["too short", "T + 1 = 17", "train 9 tokens", "lower T or use more text"])


def test_a_validation_split_shorter_than_a_sequence(refused, tiny, run):
    refused("train", tiny, f"--run={run}", "--config.data.validation=0.001",
            says=["too short", "hold out more"])


def test_an_unknown_dataset(refused, tiny, run):
    refused("train", tiny, f"--run={run}", "--config.data.corpus=tfds:tiny_shakespear",
            says=["tiny_shakespear", "did you mean 'tiny_shakespeare'"])


def test_an_unknown_tokenizer(refused, tiny, run):
    refused("train", tiny, f"--run={run}", "--config.data.tokenizer=bites",
            says=["unknown tokenizer 'bites'", "did you mean 'bytes'"])
    refused("train", tiny, f"--run={run}", "--config.data.tokenizer=a/b.model",
            says=["a/b.model", "no such file"])


def test_a_batch_that_does_not_divide_over_the_mesh(refused, tiny, run):
    refused("train", tiny, f"--run={run}", "--config.data.B=12",
            says=["batch B = 12 does not divide over data = 8; nearest: 8, 16"])


def test_a_batch_that_does_not_divide_into_microbatches(refused, tiny, run):
    refused("train", tiny, f"--run={run}", "--config.data.B=24", "--config.train.accumulate=2",
            says=["batch B = 24 does not divide over data*accumulate = 16; nearest: 16, 32"])


def test_heads_that_do_not_divide_over_tensor(refused, tiny, run):
    refused("train", tiny, f"--run={run}", "--config.mesh.tensor=4", "--config.mesh.data=2",
            says=["heads N = 2 does not divide over tensor = 4; nearest: 4"])


def test_a_width_that_does_not_divide_over_fsdp(refused, tiny, run):
    refused("train", tiny, f"--run={run}", "--config.mesh.fsdp=8", "--config.mesh.data=1",
            "--config.model.D=20",
            says=["width D = 20 does not divide over fsdp = 8; nearest: 16, 24"])


MESHES = {
    "layers": ("stage=4 data=2", "model.L=3",
               "3 layers do not fill 4 stages; set mesh.stage to at most 3"),
    "groups": ("stage=2 data=4", "model.L=3 model.schedule=circular",
               "3 layers do not fill 2 stages of 2 groups; set mesh.stage to at most 1"),
    "microbatches": ("stage=2 data=4", "model.microbatches=3",
                     "model.microbatches = 3 does not divide the 2 rows that each device has"),
    "length": ("context=8 data=1", "data.T=24",
               "length T = 24 does not divide over context*2 = 16; nearest: 16, 32"),
    "experts": ("expert=4 data=2", "model.E=6",
                "experts E = 6 does not divide over expert = 4; nearest: 4, 8"),
    "too few heads": ("tensor=8 data=1", "model.N=2",
                      "heads N = 2 does not divide over tensor = 8; nearest: 8"),
    "slices": ("slices=3", "model.N=2", "mesh.slices = 3 does not divide 8 devices"),
}


@pytest.mark.parametrize("case", MESHES)
def test_a_model_that_the_mesh_cannot_hold(case, refused, tiny, run):
    mesh, model, says = MESHES[case]
    words = [f"--config.mesh.{word}" for word in mesh.split()]
    words += [f"--config.{word}" for word in model.split()]
    refused("train", tiny, f"--run={run}", *words, says=says)


def test_a_mesh_of_other_devices(refused, tiny, run):
    refused("train", tiny, f"--run={run}", "--config.mesh.data=3",
            says=["does not lay out 8 devices", "legal: data=8, tensor=8"])
    refused("train", tiny, f"--run={run}", "--config.mesh.data=-2", says="legal:")


@pytest.mark.parametrize("flag, says", [
    ("data.B=-8", "data.B = -8 is too small"), ("data.T=0", "data.T = 0 is too small"),
    ("model.L=-1", "model.L = -1 is too small"), ("model.D=0", "model.D = 0 is too small"),
    ("data.V=-5", "data.V = -5 is too small"), ("data.limit=-1", "data.limit = -1 is too small"),
    ("train.length=-5", "-5"), ("train.length=0", "at least 1"),
    ("train.length=50%", "cannot be a share of itself"),
    ("train.accumulate=0", "train.accumulate = 0 is too small"),
    ("train.warmup=12", "warm-up of 12 steps is not shorter than the run of 12"),
    ("train.warmup=200%", "warm-up of 24 steps is not shorter"),
    ("model.V=100", "model.V = 100 is less than the tokenizer's 256"),
    ("infer.max_tokens=-1", "infer.max_tokens = -1 is too small"),
])
def test_sizes_and_lengths_that_cannot_be(refused, tiny, run, flag, says):
    refused("train", tiny, f"--run={run}", f"--config.{flag}", says=says)


def test_more_positions_than_were_learned(refused, tiny, run):
    refused("train", tiny, f"--run={run}", "--config.model.positions=learned", "--config.model.T=8",
            says=["data.T = 16", "8 learned positions"])


def test_a_prompt_that_the_tokenizer_cannot_write_is_refused_before_training(refused, tiny, run):
    refused("train", tiny, f"--run={run}", "--config.data.tokenizer=characters",
            "--config.infer.prompt=日本", says=["character '日'", "'bytes'"])


def test_a_run_directory_of_another_config(refused, tiny, trained, files):
    before = files(trained)
    line = refused("train", tiny, f"--run={trained}", "--config.model.D=32", "--config.train.lr=1",
                   says=["belongs to another config", "model.D = 16 there and 32 now",
                         "train.lr = 0.01 there and 1.0 now", "--run=ANOTHER_DIR"])
    assert "model.L" not in line
    assert files(trained) == before


def test_a_run_directory_that_is_a_file(refused, tiny, tmp_path):
    (tmp_path / "file").write_text("mine")
    refused("train", tiny, f"--run={tmp_path / 'file'}", says="cannot write")
    assert (tmp_path / "file").read_text() == "mine"


def test_another_text_under_a_run(alone, refused, lm, tiny, tmp_path, files, place):
    """The same config, but the text that it names has changed; then its vocabulary has, too."""
    run, text = tmp_path / "run", tmp_path / "text.txt"
    shutil.copy(place / "text.txt", text)
    (run / ".tokenizer.12345").mkdir(parents=True)   # of a start killed between two system calls
    argv = (tiny, f"--run={run}", f"--config.data.corpus={text}",
            "--config.data.tokenizer=characters", "--config.train.length=1")
    assert lm("train", *argv).code == 0
    assert (run / "tokenizer" / "lm_tokenizer.json").exists(), "left half written and made again"
    before = files(run)
    text.write_text(text.read_text() + " and text")
    refused("train", *argv, says=["trained on other text", str(text), "another --run"])
    assert files(run) == before
    text.write_text(text.read_text() + "日本語")
    old = len(set((place / "text.txt").read_text()))
    for name, more in (("train", argv), ("eval", (f"--run={run}",))):
        refused(name, *more, says=[f"V = {old}", f"V = {old + 3}", "another tokenizer"])
    assert files(run) == before
    assert lm("generate", f"--run={run}", "--prompt=the", "--max_tokens=2").code == 0
    refused("generate", f"--run={run}", "--prompt=日", says="character '日'")
    shutil.copytree(run, tmp_path / "other")
    shutil.copytree(run.parent / "other" / "tokenizer", tmp_path / "kept")
    path = tmp_path / "other" / "tokenizer" / "lm_tokenizer.json"
    path.write_text(json.dumps({"kind": "bytes"}))  # another run's tokenizer, copied by mistake
    refused("generate", f"--run={tmp_path / 'other'}", "--prompt=the",
            says=["in the checkpoint", "here", "other"])


@pytest.mark.parametrize("name", ["eval", "generate"])
def test_a_run_without_checkpoints(refused, trained, tmp_path, name, files):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    before = files(run)
    refused(name, f"--run={run}", "--checkpoint=7", says=["no checkpoint of step 7", "8, 12"])
    refused(name, f"--run={run}", "--checkpoint=newest",
            says="newest is neither best, latest nor a step")
    assert files(run) == before
    shutil.rmtree(run / "checkpoints")
    refused(name, f"--run={run}", says=["holds no checkpoint", "lm train", "another --run"])
    shutil.rmtree(run / "tokenizer")
    refused(name, f"--run={run}", says=["no tokenizer", "lm train"])
    refused(name, f"--run={tmp_path}", says="no run directory")


def test_a_damaged_newest_checkpoint_is_passed_over(alone, lm, tiny, trained, tmp_path, records):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    data = max((run / "checkpoints" / "12" / "state").rglob("d/*"), key=lambda p: p.stat().st_size)
    content = bytearray(data.read_bytes())
    for i in range(0, len(content), 64):
        content[i] ^= 1
    data.write_bytes(content)
    ended = lm("eval", f"--run={run}", "--checkpoint=latest")
    assert ended.code == 0
    assert "step 8 " in ended.out
    ended = lm("train", tiny, f"--run={run}")
    assert ended.code == 0
    assert len(ended.err.splitlines()) == 1
    assert "checkpoints/12 is damaged" in ended.err
    assert "resumed at step 8" in ended.out
    assert (run / "checkpoints" / "12.damaged").exists()
    assert [r["step"] for r in records(run) if "loss" in r] == list(range(1, 13))
    assert lm("eval", f"--run={run}", "--checkpoint=12").code == 0


@contextlib.contextmanager
def mounted(path, size):
    """A file system in memory of `size` at `path`."""
    path.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path],
                                      capture_output=True).returncode:
        pytest.skip("only root can mount a small file system")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def one_line(ended, *says):
    """Asserts what `refused` does, of a process of its own."""
    assert ended.code == 2, ended
    lines = ended.err.splitlines()
    assert len(lines) == 1, ended.err
    assert lines[0].startswith("lm: ")
    for part in says:
        assert part in lines[0], lines[0]


@pytest.mark.slow
def test_a_full_disk(command, tiny, tmp_path, records, trained):
    """Whatever there is no room for, config, record, events or checkpoint, and then there is."""
    with mounted(tmp_path / "small", "1m") as small:
        argv, said = ("train", tiny, f"--run={small / 'run'}"), []
        for room in (0, 12288, 180_000):
            (small / "ballast").unlink(missing_ok=True)
            with contextlib.suppress(OSError), (small / "ballast").open("wb", 0) as file:
                used = sum(p.stat().st_blocks * 512 for p in small.rglob("*"))
                file.write(bytes((1 << 20) - used - room))
            ended = command(*argv)
            one_line(ended, "o space left", "free some")
            said.append(ended.err)
        assert any("could not save step" in line and "same command" in line for line in said), said
        assert any("cannot write" in line for line in said), said
        (small / "ballast").unlink()
        ended = command(*argv)
        assert ended.code == 0, ended.err
        assert records(small / "run") == records(trained)


def test_of_many_failed_arrays_only_one_is_told(caplog):
    """Orbax raises the first; asyncio logs each of the others, with a traceback."""
    for path, told in (("/x/orbax/checkpoint/y.py", 0), ("/x/other/y.py", 1)):
        logging.getLogger("asyncio").error("Task exception was never retrieved: %s", path)
        assert len(caplog.records) == told


def test_a_disk_that_fills_while_the_record_is_written(command, tiny, tmp_path, start, until):
    with mounted(tmp_path / "small", "1m") as small:
        argv = ("train", tiny, f"--run={small / 'run'}", "--config.train.length=4000",
                "--config.train.save_every=0", "--config.train.evaluate_every=0")
        process = start(*argv)
        path = small / "run" / "metrics.jsonl"
        assert until(process, lambda: path.exists() and path.stat().st_size > 1000)
        with contextlib.suppress(OSError), (small / "ballast").open("wb") as file:
            while True:
                file.write(bytes(4096))
                file.flush()
        out, err = process.communicate(timeout=120)
        assert process.returncode == 2, err
        assert len(err.splitlines()) == 1, err
        assert "o space left" in err


def test_a_read_only_run_directory(alone, refused, lm, tiny, trained, tmp_path):
    with mounted(tmp_path / "fixed", "2m") as fixed:
        shutil.copytree(trained, fixed / "run")
        subprocess.run(["mount", "-o", "remount,ro", fixed], check=True)
        refused("train", tiny, f"--run={fixed / 'new'}",
                says=["cannot write", "Read-only file system", "--run=DIR"])
        refused("train", tiny, f"--run={fixed / 'run'}", says="ead-only file system")
        assert lm("eval", f"--run={fixed / 'run'}").code == 0
        assert lm("generate", f"--run={fixed / 'run'}", "--prompt=the", "--max_tokens=2").code == 0


@pytest.fixture
def listening():
    """Ctrl-C reaches Python: a shell that starts the tests in the background has it ignored."""
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, old)


@pytest.mark.usefixtures("listening")
def test_ctrl_c_before_the_first_step_is_no_traceback(lm, tiny, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        signal.raise_signal(signal.SIGINT)
    monkeypatch.setattr(verb.tasks, "prepare", interrupted)
    ended = lm("train", tiny, f"--run={tmp_path / 'run'}")
    assert ended.code == 130
    assert ended.err == "lm: interrupted\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("listening")
def test_ctrl_c_while_the_tokenizer_trains(lm, tiny, tmp_path, monkeypatch):
    from lm.data.tokenizers import sentencepiece
    monkeypatch.setenv("LM_CACHE", str(tmp_path / "cache"))

    class Lines(list):
        def __iter__(self):
            signal.raise_signal(signal.SIGINT)
            yield from super().__iter__()
    whole = sentencepiece._sample
    monkeypatch.setattr(sentencepiece, "_sample", lambda *a: Lines(whole(*a)))
    ended = lm("train", tiny, f"--run={tmp_path / 'run'}", "--config.data.tokenizer=bpe",
               "--config.data.V=300")
    assert ended.code == 130
    assert len(ended.err.splitlines()) == 1
    assert not list((tmp_path / "cache").glob("*.part-*"))


def test_a_reader_that_goes_is_no_traceback(start, trained):
    process = start("generate", f"--run={trained}", "--prompt=the", "--max_tokens=400")
    process.stdout.read(4)
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    assert process.wait(60) == 0


def test_a_cache_that_cannot_be_written(refused, tiny, tmp_path, run):
    (tmp_path / "file").write_text("")
    refused("train", tiny, f"--run={run}", f"--config.data.cache={tmp_path / 'file'}",
            says=["cache", "LM_CACHE"])


def test_a_checkpoint_left_half_written_is_not_seen(lm, tiny, trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / "checkpoints" / "16.orbax-checkpoint-tmp-0" / "state").mkdir(parents=True)
    assert "step 12 " in lm("eval", f"--run={run}", "--checkpoint=latest").out
    with Checkpoints(run / "checkpoints") as checkpoints:
        assert checkpoints.latest == 12


def test_two_trainings_of_one_run(refused, trained, tiny):
    with folder.claimed(trained):
        refused("train", tiny, f"--run={trained}", says=["another process", "--run=ANOTHER_DIR"])
