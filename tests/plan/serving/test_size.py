"""Plans: what must grow grows, what cannot be is said, and the file is plain."""

import dataclasses
import json

import pytest

from lm.base.errors import UserError
from lm.cost.chips import CHIPS
from lm.plan.serving.candidates import candidates
from lm.plan.serving.published import SHAPES
from lm.plan.serving.question import Question
from lm.plan.serving.size import serve_plan

SMALL = dict(requests=300, finalists=1, chip="v6e", prompt_tokens="constant:800",
             output_tokens="constant:100")
MODEL = SHAPES["llama3-8b"]


def plan(shape=MODEL, **more):
    return serve_plan(shape, Question(**(SMALL | more)), CHIPS)


@pytest.fixture(scope="module")
def best():
    return plan(rate=30.0, finalists=2)


def test_the_plan_is_plain_and_whole(best):
    assert json.loads(json.dumps(best)) == best
    first, second = best["choices"]
    assert best["kind"] == "serve" and (first["rank"], second["rank"]) == (1, 2)
    assert first["price_per_hour"] <= second["price_per_hour"]
    assert sum(first["memory"].values()) == pytest.approx(first["memory_limit"])
    assert first["replicas"] * first["per_replica"]["rate_slo"] >= 30
    assert 0 < first["per_replica"]["rate_slo"] <= first["per_replica"]["rate_max"]
    simulated = first["simulated"]
    assert simulated["ttft"]["p95"] <= 1.0 and simulated["tpot"]["p95"] <= 0.05
    assert simulated["goodput"] >= 0.9 and 0 < simulated["kv_use"] < 1
    assert all(s["p50"] <= s["p95"] <= s["p99"] for s in
               (simulated[n] for n in ("ttft", "tpot", "itl", "e2e")))
    loads = first["load"]
    assert [x["rate"] for x in loads] == sorted(x["rate"] for x in loads)
    assert loads[0]["ttft"]["p95"] < loads[-1]["ttft"]["p95"]


def test_prices_follow_from_chips(best):
    first = best["choices"][0]
    replicas = first["replicas"] + first["headroom"] + first["spares"]
    assert first["chips_total"] == replicas * first["chips"]
    assert first["price_per_hour"] == pytest.approx(first["chips_total"] * CHIPS["v6e"].price)
    assert first["price_per_million_tokens"] == pytest.approx(
        first["price_per_hour"] / 3600 / (30 * 100) * 1e6)
    unknown = plan(chip="7x")
    assert unknown["choices"][0]["price_per_hour"] is None
    assert any("not known" in line for line in unknown["advice"])
    given = plan(chip="7x", price=9.0)["choices"][0]
    assert given["price_per_hour"] == pytest.approx(9.0 * given["chips_total"])


def test_figures_can_be_asked_for(best):
    figures = best["figures"]
    assert {"serve.tpot", "serve.ttft", "serve.cache_bytes_per_token", "serve.pages",
            "price.per_million_tokens"} <= figures.keys()
    assert figures["serve.tpot"]["formula"].startswith("serve.still + serve.decode.compute")
    assert all(name in figures for x in figures.values() for name in x["inputs"])


def test_more_load_needs_more_and_growth_too():
    layout = dict(tensor=1, weights="int8", cache="bf16", slots=64, chunk=512)
    few, many = (plan(rate=r, **layout)["choices"][0] for r in (3.0, 60.0))
    assert few["replicas"] < many["replicas"]
    growing = plan(rate=3.0, growth=0.1, provision=100.0, load_seconds=50.0, compile_seconds=50.0,
                   **layout)["choices"][0]
    assert growing["headroom"] == -(-20 // growing["per_replica"]["rate_slo"])
    strict, loose = (plan(rate=3.0, ttft=t, **layout)["choices"][0]["per_replica"]["rate_slo"]
                     for t in (0.3, 3.0))
    assert strict < loose
    assert growing["autoscale"]["min_replicas"] == growing["replicas"] + 1
    assert few["autoscale"]["outstanding_per_replica"] < 64


def test_a_pool_rides_out_bursts_that_one_replica_does_not():
    more = dict(tensor=1, weights="int8", cache="bf16", slots=64, chunk=512, arrivals="gamma:3")
    alone = plan(rate=1.0, **more)["choices"][0]
    pool = plan(rate=20.0, **more)["choices"][0]
    assert alone["replicas"] == 1
    assert 1 < pool["replicas"] < -(-20 // alone["per_replica"]["rate_slo"])


def test_a_log_takes_the_place_of_the_published_constants(tmp_path):
    rows = "\n".join(f"0,{0.05 + 1e-5 * i},{i % 7},{i % 5},{i % 11}" for i in range(40))
    (tmp_path / "steps.csv").write_text("t_start,dur,n_prefill,n_decode,ctx\n" + rows)
    path = str(tmp_path / "steps.csv")
    x = plan(step_log=path, tensor=1, tpot=0.5)["choices"][0]
    assert x["constants"] == path and x["per_replica"]["tpot"] > 0.03
    with pytest.raises(UserError, match="give chip and tensor"):
        Question(step_log=path)


@pytest.mark.parametrize("more,words", [
    ({"chip": "v6"}, "did you mean 'v6e'"),
    ({"ttft": 1e-3}, "no plan answers within ttft=0.001.*at best 0.0"),
    ({"tpot": 1e-4}, "no plan answers within.*tpot=0.0001"),
    ({"tensor": 3}, "32 query heads do not divide over 3 devices"),
    ({"tensor": 1, "stage": 1, "weights": "bf16", "chip": "v5e"},
     r"does not fit.*the smallest that would hold it: 1 x v5e with int4 weights"),
    ({"prompt_tokens": "uniform:9"}, "prompt_tokens=uniform:9")])
def test_what_cannot_be_is_said(more, words):
    with pytest.raises(UserError, match=words) as error:
        plan(**more)
    assert "\n" not in str(error.value)


def test_a_model_too_large_for_all_is_said():
    giant = dataclasses.replace(SHAPES["llama3-70b"], parameters=4e14, name="giant")
    with pytest.raises(UserError, match="too large for 1024 chips"):
        serve_plan(giant, Question(), [CHIPS["v5e"]])


def test_candidates_hold_the_longest_request_and_are_in_order_of_price():
    question = Question(rate=5.0)
    found, rejected = candidates(SHAPES["llama3-70b"], question, [CHIPS["v6e"], CHIPS["h100"]])
    assert all(c.pages * 128 >= 1300 and c.most.tpot <= question.tpot for c in found)
    assert all(c.ttft.value <= question.ttft for c in found)
    assert {"memory", "layout"} & {x["kind"] for x in rejected}
    assert {c.layout.chip.name for c in found} == {"v6e", "h100"}
