"""`lm generate` and `lm eval` on a run, as a person meets them."""

import json
import re

import pytest

from lm.data.tokenizers.plain import Bytes
from lm.experiment import generate as verb
from lm.experiment import llm, parts


@pytest.fixture
def say(lm, trained):
    """Returns what `lm generate` prints, without the newline that ends it."""
    def generate(*argv, prompt="the "):
        ended = lm("generate", f"--run={trained}", f"--prompt={prompt}", "--max_tokens=12", *argv)
        assert ended.code == 0, ended.err
        assert not ended.err
        assert ended.out.endswith("\n")
        return ended.out[:-1]
    return generate


def samples(text):
    """The samples of an output, by the title that stands before each."""
    _, *pairs = re.split(r"--- sample \d+ \(seed (\d+)\)\n", text)
    texts = (text.removesuffix("\n") for text in pairs[1::2])
    return dict(zip(map(int, pairs[::2]), texts, strict=True))


def test_a_seed_decides_the_text(say):
    one = say("--seed=3")
    assert one.startswith("the ")
    assert len(one) > 8
    assert say("--seed=3") == one
    assert say("--seed=4") != one


def test_a_sample_is_the_same_alone_and_among_others(say):
    together = samples(say("--seed=3", "--num_samples=3"))
    assert list(together) == [3, 4, 5]
    assert len(set(together.values())) == 3
    for seed, text in together.items():
        assert text == say(f"--seed={seed}")


def test_greedy_decoding_has_no_seed(say):
    assert say("--temperature=0", "--seed=1") == say("--temperature=0", "--seed=2")
    assert say("--temperature=0") == say("--top_k=1", "--seed=5")


def test_filters_reach_the_sampler(say):
    assert say("--top_p=0.0001") == say("--min_p=1.0") == say("--temperature=0")


def test_what_streams_is_what_the_tokens_decode_to(lm, trained, monkeypatch):
    made, written = {}, []
    whole = llm.LLM.stream

    def recording(*args):
        for i, event in whole(*args):
            made.setdefault(i, []).extend(event.tokens)
            yield i, event
    monkeypatch.setattr(llm.LLM, "stream", recording)
    monkeypatch.setattr(verb, "_say", written.append)
    assert lm("generate", f"--run={trained}", "--prompt=né", "--max_tokens=60", "--temperature=2",
              "--num_samples=2").code == 0
    text = "".join(written)
    tokenizer = Bytes()
    for i, sample in enumerate(samples(text).values()):
        assert sample == "né" + tokenizer.decode(made[i])
    assert len(written) > 20, "nothing streamed"
    assert "\ufffd" in text, "nothing awkward was made"


def test_prompts_of_all_kinds(say):
    for prompt in ("", "x", "né 日本 🎉", "two\nlines\n", " ", "-", "--", "the " * 30, "a=b"):
        text = say("--seed=1", prompt=prompt)
        assert text.startswith(prompt)


def test_an_empty_prompt_without_an_end_token_says_so(lm, refused, tiny, tmp_path):
    run = tmp_path / "run"
    assert lm("train", tiny, f"--run={run}", "--config.data.tokenizer=characters",
              "--config.train.length=1").code == 0
    refused("generate", f"--run={run}", says=["the prompt is empty", "--prompt"])
    assert lm("generate", f"--run={run}", "--prompt=the", "--max_tokens=40").code == 0


def test_more_tokens_than_the_context_go_on(lm, trained):
    ended = lm("generate", f"--run={trained}", "--prompt=the", "--max_tokens=50", "--seed=2",
               "--temperature=0.5")
    assert ended.code == 0
    assert len(ended.out) > 30


def test_a_vocabulary_larger_than_the_tokenizers_makes_no_foreign_ids(lm, tiny, tmp_path):
    """Padded to 4096 ids, hardly trained: nearly every draw would be one that no text has."""
    run = tmp_path / "run"
    assert lm("train", tiny, f"--run={run}", "--config.model.V=4096",
              "--config.train.length=1").code == 0
    ended = lm("generate", f"--run={run}", "--prompt=the", "--max_tokens=40", "--temperature=2")
    assert ended.code == 0
    assert len(ended.out) > 20


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 8])
def test_one_row_on_any_number_of_devices(command, trained, devices):
    """A sample has fewer rows than a pod has chips."""
    ended = command("generate", f"--run={trained}", "--prompt=the", "--max_tokens=4",
                    "--temperature=0", devices=devices)
    assert ended.code == 0, ended.err
    assert not ended.err
    assert ended.out.startswith("the")


def test_heads_that_do_not_divide_over_tensor(refused, trained):
    for name in ("generate", "eval"):
        refused(name, f"--run={trained}", "--config.mesh.tensor=8",
                says="heads N = 2 does not divide over tensor = 8")


def test_text_that_the_terminal_cannot_show(command, trained, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    ended = command("generate", f"--run={trained}", "--prompt=né", "--max_tokens=30",
                    "--temperature=3")
    assert ended.code == 0, ended.err
    assert ended.out.startswith("n?")


def test_a_lone_surrogate_is_printed_somehow(lm, trained):
    assert lm("generate", f"--run={trained}", "--prompt=a\ud800", "--max_tokens=2").code == 0


@pytest.mark.parametrize("flag, says", [
    ("--seed=-1", "infer.seed = -1 is too small"), ("--seed=4294967296", "infer.seed"),
    ("--max_tokens=0", "infer.max_tokens = 0"), ("--num_samples=0", "infer.num_samples = 0"),
    ("--temperature=-1", "infer.temperature = -1.0"), ("--top_p=1.5", "infer.top_p = 1.5"),
    ("--top_k=-2", "infer.top_k = -2"), ("--temperature=hot", "infer.temperature"),
    ("--tempreture=1", "did you mean 'temperature'"),
])
def test_bad_flags(refused, trained, flag, says):
    refused("generate", f"--run={trained}", flag, says=says)


def test_evaluation_finds_the_loss_that_training_reported(command, trained, records):
    looks = {r["step"]: r for r in records(trained) if "validation_loss" in r}
    last = looks[12]
    said = (f"step 12  validation loss {last['validation_loss']:.4f} nats/token  "
            f"{last['bits_per_byte']:.4f} bits/byte  over 1,072 tokens")
    assert command("eval", f"--run={trained}").out.splitlines()[-1] == said
    result = json.loads((trained / "result.json").read_text())
    assert result["validation_loss"] == pytest.approx(last["validation_loss"], rel=1e-6)


def test_evaluation_takes_the_checkpoint_that_it_is_told(lm, trained, records, refused):
    looks = {r["step"]: r["validation_loss"] for r in records(trained) if "validation_loss" in r}
    best = min(looks, key=looks.get)
    for which, step in (("latest", 12), ("best", best), ("8", 8), ("12", 12)):
        ended = lm("eval", f"--run={trained}", f"--checkpoint={which}")
        assert ended.code == 0
        found = re.search(r"step (\d+)  validation loss ([\d.]+)", ended.out)
        assert int(found[1]) == step
        assert float(found[2]) == pytest.approx(looks[step], abs=1e-4)
    refused("eval", f"--run={trained}", "--checkpoint=4", says=["no checkpoint of step 4", "8, 12"])
    refused("eval", f"--run={trained}", "--checkpoint=-1", says=["-1", "neither best, latest"])


def test_evaluation_of_another_text_with_the_runs_tokenizer(lm, trained, tmp_path):
    (tmp_path / "other.txt").write_text("hello there, what is this? " * 400)
    ended = lm("eval", f"--run={trained}", f"--config.data.corpus={tmp_path / 'other.txt'}")
    assert ended.code == 0
    assert parts.CONVENTION not in ended.out
