"""`lm plan` from the command line: what it answers and writes, and what it refuses in words."""

import json
import re

import pytest

from lm.__main__ import main
from lm.cost.chips import CHIPS
from lm.experiment import flags, parts
from lm.mesh import devices
from lm.plan import search, steps
from lm.verbs import VERBS

TINY = "--config=configs/llama3.py:tiny"
EIGHT = "--config=configs/llama3.py:8b"
FULL = "--remats=full"   # one program to count, where the test is not of which is best


@pytest.fixture
def plan(tmp_path, capsys):
    """Runs `lm plan`; returns (the plan, what was printed)."""
    def run(*argv):
        path = tmp_path / "plan.json"
        assert main(["plan", *argv, f"--out={path}"]) == 0
        return json.loads(path.read_text()), capsys.readouterr().out
    return run


@pytest.fixture
def refused(capsys):
    """Runs `lm plan` and returns the one line that it refuses with."""
    def run(*argv):
        assert main(["plan", *argv]) == 2
        out, err = capsys.readouterr()
        assert len(err.splitlines()) == 1 and "Traceback" not in err
        return err
    return run


def test_the_best_layout_of_a_slice(plan, tmp_path):
    made, said = plan(EIGHT, "--chip=v5p", "--chips=64", "--tokens=1e12")
    first = made["choices"][0]
    assert made["model"]["parameters"] == 8_030_261_248
    assert f"{made['model']['flops_per_token']['matmul+causal']:.5e}" == "5.14704e+10"
    assert (first["chip"], first["slice"], first["chips"]) == ("v5p", "4x4x4", 64)
    times = [x["step_seconds"]["likely"] for x in made["choices"]]
    assert times == sorted(times) and len(times) == 5
    for x in made["choices"]:
        low, likely, high = (x["step_seconds"][end] for end in ("low", "likely", "high"))
        assert low < likely < high
        assert likely == pytest.approx(sum(p["exposed"] for p in x["step_time"].values()))
        assert x["memory_total"] == pytest.approx(sum(x["memory"].values()))
        assert x["memory_total"] <= x["memory_limit"] == CHIPS["v5p"].memory()
        tokens = 512 * 8192 / likely
        assert x["tokens_per_second"] == pytest.approx(tokens)
        assert x["days"]["likely"] * x["goodput"] == pytest.approx(1e12 / tokens / 86400, rel=1e-3)
        assert x["price"]["likely"] == pytest.approx(24 * x["days"]["likely"] * 64 * 4.2, rel=1e-6)
    assert "lm train --plan=" in said and "4.20 $ a chip-hour" in said
    assert (tmp_path / "plan.html").read_text().count("<svg") >= 3


def test_every_figure_has_its_formula(plan):
    figures = plan(EIGHT, "--chip=v5p", "--chips=64")[0]["figures"]
    assert {"step_time", "step_time.fsdp", "memory.total", "train.days", "price.total", "mfu",
            "train.lr"} <= figures.keys()
    for name, x in figures.items():
        assert x["formula"] or x["source"], name
        assert set(x["inputs"]) <= figures.keys()


def test_explain_puts_the_values_in(capsys):
    assert main(["plan", EIGHT, "--chip=v5p", "--chips=64", "--explain=step_time.fsdp"]) == 0
    said = capsys.readouterr().out
    size, rate, seconds = (float(re.search(rf"{name} = ([\d.e+-]+)", said)[1]) for name in (
        r"fsdp\.bytes", r"fsdp\.rate", r"bytes/s\n\s+"))
    assert seconds == pytest.approx(size / rate, rel=1e-3)
    assert "scaling book" in said


def test_what_flags_give_is_fixed(plan):
    made, _ = plan(EIGHT, "--chip=v5p", "--chips=64", "--config.mesh.tensor=4",
                   "--config.model.remat=full")
    for x in made["choices"]:
        assert x["mesh"]["tensor"] == 4
        assert x["overrides"]["model.remat"] == "full"


def test_the_plan_is_a_config_that_holds(plan, tmp_path):
    """What was chosen passes the checks of the real mesh and model, and flags.parse reads it."""
    made, _ = plan(TINY, "--chip=v5e", "--chips=8", "--tokens=1e6")
    e = flags.parse([f"--plan={tmp_path / 'plan.json'}"], VERBS["train"]).experiment
    mesh = made["choices"][0]["mesh"]
    assert {axis: getattr(e.mesh, axis) for axis in mesh} == mesh
    with devices.traced(devices.Stand("tpu", ""), mesh) as abstract:
        parts.check(e.model, abstract, e.data.B, e.data.T, e.train.accumulate)


def test_limits_decide_which_chips(plan):
    made, said = plan(EIGHT, "--chip=v6e", "--tokens=1e12", "--days=30", "--budget=200000")
    for x in made["choices"]:
        assert x["days"]["likely"] <= 30 and x["price"]["likely"] <= 200_000
    late = [x for x in made["rejected"] if x["kind"] == "time"]
    assert late and all("of 30 days" in x["reason"] or "full rate" in x["reason"] for x in late)
    front = [made["choices"][i] for i in made["pareto"]]
    assert not any(a["days"]["likely"] < b["days"]["likely"]
                   and a["price"]["likely"] < b["price"]["likely"] for a in front for b in front)


def test_an_unknown_price_is_said_and_never_guessed(plan):
    made, said = plan(TINY, "--chip=7x", "--chips=4", "--tokens=1e6", FULL)
    assert all(x["price"] is None for x in made["choices"])
    assert "price not known" in said
    made, _ = plan(TINY, "--chip=7x", "--chips=4", "--tokens=1e6", "--price=10", FULL)
    assert made["choices"][0]["price"]["likely"] > 0


def test_a_users_own_chip(plan, tmp_path):
    file = tmp_path / "chips.toml"
    file.write_text('[mine]\nlike = "h100"\nprice = 1.5\nhbm_bytes = 96e9\n')
    made, said = plan(TINY, f"--hardware={file}", "--chip=mine", "--chips=8", "--tokens=1e6", FULL)
    assert made["choices"][0]["chip"] == "mine" and "1.50 $" in said


def test_serving(plan):
    made, said = plan(EIGHT, "--serve", "--chip=v6e", "--rate=20", "--prompt_tokens=lognormal:1000",
                      "--output_tokens=lognormal:300", "--ttft=1.0", "--tpot=0.05")
    first = made["choices"][0]
    assert made["kind"] == "serve" and first["replicas"] >= 1
    assert first["simulated"]["ttft"]["p95"] <= 1.0 and first["simulated"]["tpot"]["p95"] <= 0.05


@pytest.mark.parametrize("argv, words", [
    (["--chip=v5q"], "unknown chip 'v5q'; did you mean 'v5p'?"),
    (["--chip=v5e", "--slice=3x5"], "impossible slice: v5e has no 3x5; nearest: 4x4"),
    (["--chip=v5p", "--chips=64", "--tokens=1000"], "less than one batch of 4,194,304 tokens"),
    (["--chip=v5p", "--chips=64", "--slice=4x4x4"], "say the same thing twice"),
    (["--chip=v5p", "--chips=64", "--tokens=1e9", "--epochs=2"], "say the same thing twice"),
    (["--chip=v5e", "--chips=4"], "parameters and moments alone are 22.4 GiB a device of 15.8 GiB; "
     "the smallest that holds it: "),
    (["--chip=v5p", "--chips=64", "--tokens=1e12", "--budget=500"],
     "budget 500 buys 119 chip-hours of v5p"),
    (["--chip=v5p", "--chips=64", "--tokens=1e12", "--days=1"], "train"),
    (["--chip=v5p", "--chips=64", "--explain=step_time.fsd"], "did you mean 'step_time.fsdp'?"),
    (["--slice=4x4"], "of which chip?"),
    (["--price=3"], "of which chip?"),
    (["--chip=v5p", "--chips=x"], "--chips must be an integer, got 'x'"),
    (["--chip=v5p", "--tokens=many"], "--tokens must be a number, got 'many'"),
    (["--serve", "--prompt_tokens=lognorm:1000"], "did you mean 'lognormal'?"),
    (["--hardware=nowhere.toml"], "nowhere.toml"),
    (["--chip=v5p", "--chips=64", "--config.mesh.tensor=5"],
     "no mesh of 64 devices has tensor=5"),
], ids=lambda x: " ".join(x) if isinstance(x, list) else None)
def test_bad_input_in_words(refused, argv, words):
    assert words in refused(EIGHT, *argv)


def test_no_model_fits_everywhere(refused):
    """70 B parameters on a GPU box: it is told how many more it takes."""
    said = refused("--config=configs/llama3.py:70b", "--chip=h100", "--chips=8", FULL)
    assert "nothing fits on" in said and re.search(r"the smallest that holds it: \d+x8 of h100",
                                                   said)


def test_the_search_finds_what_counting_one_by_one_finds():
    """All layouts at once give each layout what it gets alone."""
    e = flags.parse([TINY, "--config.data.B=64"], VERBS["verify"]).experiment
    slice = search.Slice(CHIPS["v5e"], (2, 4))
    found = search.search(e, slice, search.Space({}))
    assert len(found.layouts) > 20
    for i in found.order[::37]:
        x = found.layouts[i]
        own = search.apply(e, x["overrides"])
        alone = steps.memory(steps.case(own, slice), slice, [x["mesh"]], [x["rows"]])
        assert alone["memory.total"].at(0) == pytest.approx(found.memory["memory.total"].at(i))


def test_what_the_chip_is_said_to_be(plan):
    made, _ = plan(TINY, "--chip=v5e", "--chips=4", "--tokens=1e6", "--override=usable=1e9", FULL)
    assert made["choices"][0]["memory_limit"] == 1e9


def test_a_precision_without_units(refused):
    said = refused(TINY, "--chip=v5e", "--chips=4", "--config.model.precision=fp8")
    assert "fp8 needs fp8 units" in said


def test_evaluations_take_their_time(plan):
    """Held-out tokens cost a third of what they cost in training."""
    made, _ = plan(TINY, "--chip=v5e", "--chips=4", "--tokens=1e8", "--data_tokens=1e8",
                   "--config.data.validation=0.1", "--config.train.evaluate_every=100 steps", FULL)
    first = made["choices"][0]
    steps = made["training"]["steps"]
    seconds = steps / 100 * 1e7 / 3 / first["tokens_per_second"]
    assert first["evaluate_seconds"] == pytest.approx(seconds, rel=1e-6)


def test_the_plan_is_as_long_as_the_training(plan, tmp_path):
    """The tokens that were asked for are what `lm train --plan` trains on; else the config's."""
    for argv, tokens in ((["--tokens=1e6"], 1e6), ([], 200 * 16 * 128)):
        made, _ = plan(TINY, "--chip=v5e", "--chips=4", FULL, *argv)
        assert made["training"]["tokens"] == tokens
        e = flags.parse([f"--plan={tmp_path / 'plan.json'}"], VERBS["train"]).experiment
        assert e.train.length == f"{-(-int(tokens) // (16 * 128))} steps"


def test_offloading_costs_time(plan):
    """Layers' inputs go over PCIe; what lies in the host's memory has to fit there."""
    times = {remat: plan(EIGHT, "--chip=v6e", "--chips=64", f"--remats={remat}")[0]["choices"][0]
             for remat in ("full", "offload")}
    assert "host" in times["offload"]["step_time"] and "host" not in times["full"]["step_time"]
    assert times["offload"]["memory_total"] < times["full"]["memory_total"]
    assert 0 < times["offload"]["host_memory"] <= CHIPS["v6e"].host_bytes


def test_every_divisor_of_a_batch_is_a_number_of_microbatches(plan):
    made, _ = plan("--config=configs/gpt2.py:124m", "--chip=v5e", "--chips=32",
                   "--config.mesh.fsdp=32", "--config.train.accumulate=5", FULL)
    assert made["choices"][0]["overrides"]["train.accumulate"] == 5


@pytest.mark.parametrize("argv, words", [
    (["--remats=ful"], "did you mean 'full'?"), (["--precisions=fp16"], "unknown 'fp16'"),
    (["--optimizers=adam"], "did you mean 'adamw'?"), (["--out=plan.html"], "--out=NAME.json"),
    (["--chip=cpu", "--chips=16"], "--chip=cpu is this machine"),
    (["--serve", "--days=3"], "--days is of a training"),
    (["--config.train.local_steps=10"], "train.local_steps=0"),
], ids=lambda x: " ".join(x) if isinstance(x, list) else None)
def test_flags_that_cannot_be(refused, argv, words):
    assert words in refused(TINY, *argv)
