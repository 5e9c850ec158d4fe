"""The table in the terminal says what plan.json holds, within 100 columns."""

import copy
import json
import pathlib
import re
import subprocess
import sys

import pytest

from lm.mesh import devices
from lm.plan import report

HERE = pathlib.Path(__file__).parent


@pytest.fixture(params=["train", "serve"])
def plan(request):
    return json.loads((HERE / f"{request.param}_plan.json").read_text())


@pytest.fixture
def training():
    return json.loads((HERE / "train_plan.json").read_text())


def ranks(text):
    return [int(line.split()[0]) for line in text.split("\nwhy:")[0].splitlines()
            if re.match(r" *\d+ ", line)]


def test_every_line_fits_the_terminal(plan):
    wide = copy.deepcopy(plan)
    wide["source"] = "configs/" + "long/" * 60
    for i, x in enumerate(wide["choices"]):
        x |= {"chip": "a-chip-with-a-long-name", "slice": "16x16x24", "slices": 12, "chips": 73728,
              "rank": 998 + i}
        for name in ("step_seconds", "days", "price"):
            if x.get(name):
                x[name] = dict.fromkeys(("low", "likely", "high"), 12345.6)
    for one in (plan, wide):
        lines = report.table(one).splitlines()
        assert max(map(len, lines)) <= 100
        for x in one["choices"]:  # the chips are cut, not what they cost
            row = next(line for line in lines if line.split()[:1] == [str(x["rank"])])
            last = report.price(x, "price" if "days" in x else "price_per_million_tokens")
            assert row.endswith(f" {last}")


def test_choices_stand_in_order_of_rank(plan):
    text = report.table(plan)
    assert ranks(text) == [x["rank"] for x in plan["choices"]]
    for x in plan["choices"]:
        assert f"{x['chips']} {x['chip']} {x['slice']}" in text


def test_more_than_ten_are_counted(training):
    training["choices"] = [training["choices"][0] | {"rank": i} for i in range(1, 14)]
    text = report.table(training)
    assert ranks(text) == list(range(1, 11)) and "and 3 more in plan.json" in text


def test_the_header_says_what_was_asked(training):
    head = " ".join(report.table(training).split("\n\n")[0].split())
    for words in ("configs/llama3.py:8b", "8.03B parameters", "1T tokens", "5.13e22 FLOPs",
                  "matmul+causal", "any chip", "at most 60 days", "at most $900,000"):
        assert words in head
    training["question"] |= {"chip": "v5p", "chips": 64, "days": 0, "budget": 0}
    assert report.asked(training) == "64 v5p, 1T tokens"


def test_the_question_of_a_serving_plan():
    plan = json.loads((HERE / "serve_plan.json").read_text())
    assert report.asked(plan) == (
        "any chip, 20 requests/s, prompts of lognormal:1000 tokens, outputs of lognormal:300 "
        "tokens, TTFT at most 1.00 s, TPOT at most 50.0 ms")


def test_the_numbers_of_a_row(training):
    best = training["choices"][0]
    row, below = report.table(training).split("\n\n")[1].splitlines()[1:3]
    assert row.split() == ["1", "64", "v5p", "4x4x4", "28.3/95.0", "7.43-8.08-8.89", "8,110", "51%",
                           "21.1-23.0-25.3", "$148,000"]
    assert below.strip() == "fsdp=64, remat full, bfloat16, 1 microbatch"
    assert best["memory_total"] / 2**30 == pytest.approx(28.3, abs=0.05)


def test_a_price_that_is_not_known_is_not_guessed(training):
    text = report.table(training)
    row = next(line for line in text.splitlines() if line.startswith("3 "))
    assert row.endswith("not known") and "7x: price not known" in text
    for x in training["choices"]:
        x |= {"price": None, "price_note": ""}
    assert "price not known" in report.table(training) and "$" not in report.table(
        training).split("asked:")[1].split("\n", 1)[1]


def test_how_the_next_differ(training):
    second, third, _, fifth = report.reasons(training)[1:5]
    assert second == ("2: fsdp=16 tensor=4, remat dots, 2 microbatches: step 15% longer "
                      "(tensor +1.10 s), 15% dearer, 16.5 GiB more a device")
    assert third.startswith("3: 32 7x 2x4x4 instead of 64 v5p 4x4x4, no remat: step 51% shorter")
    assert "44% fewer days, 13% dearer" in fifth
    assert report.reasons(training)[0] == "1: cheapest that ends within 30 days"


def test_the_nearest_miss_of_each_kind(training):
    text = " ".join(report.table(training).split())
    assert "812 for memory; nearest: v5e 4x8, fsdp=32, remat full: needs 18.2 GiB of 15.75" in text
    assert "1,055 for layout; as: v5p 4x4x4, fsdp=4 tensor=16: tensor=16 does not divide" in text
    assert "2 for price" in text
    kinds = report.rejected_by_kind(training)
    assert list(kinds) == ["layout", "memory", "time", "price"]  # most first
    assert [x["slice"] for x in kinds["memory"][1]] == ["4x8", "4x4"]


def test_warnings(training):
    assert "124 tokens a parameter" in report.table(training)
    training["choices"][0] |= {"fits": False}
    training["compiled"]["fits"] = False
    said = report.warnings(training)
    assert "the best does not fit: a device needs 28.3 GiB of 95.0 GiB" in said
    assert "the compiler says that the best does not fit" in said
    assert "28.3/95.0!" in report.table(training)


def test_optional_parts_may_miss(plan):
    bare = {key: plan[key] for key in ("version", "question") if key in plan} | {
        "kind": plan.get("kind"), "choices": plan["choices"][:1]}
    assert ranks(report.table(bare)) == [1]
    assert "nothing that was tried fits" in report.table(bare | {"choices": []})


def test_a_plan_is_shown_without_jax():
    program = "import sys, lm.plan.report, lm.plan.html; print('jax' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout.strip() == "False", ran.stderr


@pytest.mark.parametrize("shape", [
    {"stage": 1, "data": 1, "fsdp": 64, "tensor": 1}, {"stage": 2, "data": 4, "fsdp": 1},
    {"data": 1, "fsdp": 1}])
def test_the_mesh_in_the_words_of_the_mesh(shape):
    assert report.mesh({"mesh": shape}) == devices.words(shape)
