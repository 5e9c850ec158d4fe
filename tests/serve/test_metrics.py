"""What the server says of itself: /metrics, /load and the access log."""

import json
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse
from servers import CONTEXT, drained, http

from lm.base.errors import UserError
from lm.serve.log import Log

# Of the model server protocol of the Gateway API, and of dashboards that know vLLM.
NAMES = {
    "vllm:num_requests_running": "gauge", "vllm:num_requests_waiting": "gauge",
    "vllm:kv_cache_usage_perc": "gauge", "vllm:cache_config_info": "gauge",
    "vllm:prompt_tokens": "counter", "vllm:generation_tokens": "counter",
    "vllm:request_success": "counter", "vllm:num_preemptions": "counter",
    "vllm:prefix_cache_queries": "counter", "vllm:prefix_cache_hits": "counter",
    "vllm:spec_decode_num_draft_tokens": "counter",
    "vllm:spec_decode_num_accepted_tokens": "counter",
    "vllm:time_to_first_token_seconds": "histogram",
    "vllm:inter_token_latency_seconds": "histogram",
    "vllm:request_time_per_output_token_seconds": "histogram",
    "vllm:e2e_request_latency_seconds": "histogram",
    "vllm:request_queue_time_seconds": "histogram",
    "vllm:request_prefill_time_seconds": "histogram",
    "vllm:request_decode_time_seconds": "histogram",
    "vllm:request_inference_time_seconds": "histogram",
    "vllm:request_prompt_tokens": "histogram", "vllm:request_generation_tokens": "histogram",
    "vllm:iteration_tokens_total": "histogram", "lm:step_seconds": "histogram",
    "lm:compiles_after_ready": "counter", "lm:rejected": "counter",
    "lm:queued_prompt_tokens": "gauge", "lm:slots": "gauge", "lm:slots_used": "gauge",
    "lm:draining": "gauge", "lm:build_info": "gauge", "lm:hbm_bytes": "gauge",
    "lm:seconds_since_last_step": "gauge", "lm:responses": "counter",
}


def read(server) -> dict:
    """/metrics as {(name, labels but the model's): value}."""
    found = server.get("/metrics")
    assert found.headers["content-type"].startswith("text/plain; version=0.0.4")
    out = {}
    for family in parse(found.text):
        for s in family.samples:
            labels = {k: v for k, v in s.labels.items() if k != "model_name"}
            out[s.name, *(f"{k}={v}" for k, v in sorted(labels.items()))] = s.value
    return out


def test_names_and_types(server):
    found = {f.name: f for f in parse(server.get("/metrics").text)}
    assert {name: found[name].type for name in NAMES if name in found} == NAMES
    for name, family in found.items():
        if name.startswith("vllm:"):
            assert all(s.labels["model_name"] == "tiny" for s in family.samples)


def test_another_prefix(start):
    with start(metrics="lm") as server:
        text = server.get("/metrics").text
    assert "lm:num_requests_running{" in text
    assert "vllm" not in text


def test_counts(server):
    before = read(server)
    server.post(prompt="x" * 30, max_tokens=7, ignore_eos=True, n=2)
    after = {}

    def more(*key):
        return after[key] - before.get(key, 0)

    def counted():   # what the engine says after the last token
        after.update(read(server))
        return more("vllm:generation_tokens_total") >= 14 and more(
            "vllm:e2e_request_latency_seconds_count") >= 2
    server.until(counted)
    assert more("vllm:generation_tokens_total") == 14
    assert more("vllm:prompt_tokens_total") == 60   # found in pages or not
    assert more("vllm:prefix_cache_queries_total") >= 60
    assert more("vllm:request_success_total", "finished_reason=length") == 2
    assert more("vllm:request_prompt_tokens_sum") == 60
    assert more("vllm:request_generation_tokens_sum") == 14
    assert more("vllm:time_to_first_token_seconds_count") == 2
    assert more("vllm:inter_token_latency_seconds_count") == 12
    assert more("vllm:e2e_request_latency_seconds_count") == 2
    spans = [more(f"vllm:request_{what}_time_seconds_sum") for what in (
        "queue", "inference", "prefill", "decode")]
    assert spans[1] == pytest.approx(spans[2] + spans[3])
    assert spans[0] + spans[1] <= more("vllm:e2e_request_latency_seconds_sum") + 1e-9
    assert more("lm:responses_total", "route=/v1/completions", "status=200") == 1
    assert more("lm:compiles_after_ready_total") == 0
    assert sum(v - before.get(k, 0) for k, v in after.items()
               if k[0] == "lm:step_seconds_count") == more("vllm:iteration_tokens_total_count")
    assert after["vllm:num_requests_running",] == after["vllm:kv_cache_usage_perc",] == 0


def test_the_first_token_is_timed_from_arrival(server):
    """A body that comes late and a queue are both part of it."""
    ask = dict(prompt="x", max_tokens=2, ignore_eos=True)
    first = "vllm:time_to_first_token_seconds_sum",
    count = "vllm:time_to_first_token_seconds_count",
    before = read(server)[first]
    with server.connect() as s:
        given = http("/v1/completions", ask)
        s.sendall(given[:-5])
        time.sleep(0.3)
        s.sendall(given[-5:])
        drained(s)
    after = read(server)
    assert after[first] - before > 0.3
    before = after
    server.core.engine.delay = 0.1
    with server.client() as client:
        busy = client.completions.create(model="tiny", prompt=["x"] * 4, max_tokens=14,
                                         stream=True, extra_body=dict(ignore_eos=True))
        start = before[count]
        server.until(lambda: read(server)[count] == start + 4)   # each has its first token
        before = read(server)
        server.post(body=ask)   # waits until one of them has ended
        after = read(server)
        busy.close()
    assert after[first] - before[first] > 1


def test_load(server):
    server.post(prompt="x", max_tokens=5, ignore_eos=True)
    found = server.get("/load").json()
    assert found["slots"] == 4
    assert found["context"] == CONTEXT
    assert found["ready"] is True
    assert 0 < found["ttft"]["p50"] <= found["ttft"]["p95"]
    assert found["itl"]["p50"] > 0


def test_the_access_log(start, tmp_path):
    path = tmp_path / "access.jsonl"
    with start(access_log=str(path)) as server:
        ask = dict(prompt="x", max_tokens=5, ignore_eos=True)
        server.http.post("/v1/completions", json=ask | dict(n=2), headers={"X-Request-Id": "one"})
        server.post(body=ask | dict(stream=True))
        server.post(body=ask | dict(temperature=9))
        server.get("/livez")
        server.get("/nothing")
        with server.connect() as s:
            server.core.engine.delay = 0.02
            s.sendall(http("/v1/completions", ask | dict(max_tokens=400)))
            server.until(lambda: server.core.status().running)
        server.until(lambda: not server.service.entered)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [x["status"] for x in lines] == [200, 200, 400, 404, 499]
    first, streamed, wrong, _, gone = lines
    assert wrong["error"] == "temperature"
    assert "ttft" not in wrong
    assert all(None not in x.values() for x in lines)
    assert first["id"] == "one"
    assert first["method"] == "POST"
    assert first["route"] == "/v1/completions"
    assert first["client"] == "127.0.0.1"
    assert (first["prompt_tokens"], first["completion_tokens"]) == (1, 10)
    assert first["finish"] == "length"
    assert 0 < first["ttft"] <= first["e2e"]
    assert streamed["stream"] is True
    assert gone["finish"] == "abort"


def test_a_log_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match="access_log"):
        Log(str(tmp_path / "no" / "file"))
