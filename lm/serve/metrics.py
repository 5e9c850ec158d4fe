"""What /metrics says. Names, types and buckets are vLLM's, so that gateways and dashboards that
know those know ours; what vLLM has not begins with lm."""

import re
import time
from collections import deque
from importlib.metadata import version

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import generate_latest

from lm.base.errors import UserError
from lm.infer.request import Request

# vllm/v1/metrics/loggers.py
FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5,
         10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0)
BETWEEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
           20.0, 40.0, 80.0)
WHOLE = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0,
         240.0, 480.0, 960.0, 1920.0, 7680.0)
STEP = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

RECENT = 30.0   # seconds that the page's percentiles are of


class Metrics:
    """Counts what the server sees; what the engine counts itself is asked for when it is read."""

    def __init__(self, core, name: str, prefix: str, draining):
        """core: has status(). name: the model's. draining: () -> bool."""
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", prefix):
            raise UserError(f"--metrics={prefix} cannot begin a name; give letters, digits and _")
        disable_created_metrics()
        self.core, self.prefix, self.draining = core, prefix, draining
        self.label = {"model_name": name}
        self.registry = CollectorRegistry()
        tokens = [k * 10**e for e in range(9) for k in (1, 2, 5) if k * 10**e < core.context]
        tokens.append(core.context)
        self.first = self._histogram("time_to_first_token_seconds", "from the request's arrival "
                                     "to its first token, the queue included", FIRST)
        self.between = self._histogram("inter_token_latency_seconds", "between two tokens", BETWEEN)
        self.per_token = self._histogram("request_time_per_output_token_seconds",
                                         "a request's mean time between two tokens", BETWEEN)
        self.whole = self._histogram("e2e_request_latency_seconds",
                                     "from the request's arrival to its end", WHOLE)
        self.spans = {what: self._histogram(f"request_{what}_time_seconds", said, WHOLE)
                      for what, said in dict(
                          queue="from arrival to the first step", prefill="from the first step to "
                          "the first token", decode="from the first token to the last",
                          inference="from the first step to the last token").items()}
        self.prompt = self._histogram("request_prompt_tokens", "tokens of a prompt", tokens)
        self.made = self._histogram("request_generation_tokens", "tokens of an output", tokens)
        self.step_tokens = self._histogram("iteration_tokens_total", "tokens of a step", STEP)
        self.step_seconds = self._histogram("lm:step_seconds", "seconds of a step, by its shape",
                                            SECONDS, "bucket")
        self.ended = self._counter("request_success", "requests that ended", "finished_reason")
        self.rejected = self._counter("lm:rejected", "requests that were not taken in", "reason")
        self.responses = self._counter("lm:responses", "answers by route and status", "route",
                                       "status")
        self.asked = self._counter("lm:response_cache_queries", "choices looked for in the cache")
        self.kept = self._counter("lm:response_cache_hits", "choices found in it")
        for reason in ("stop", "length", "abort", "error"):
            self.ended.labels(name, reason)
        self.registry.register(self)
        self.recent = {"ttft": deque(maxlen=4096), "itl": deque(maxlen=4096)}

    def _name(self, name):
        return name if ":" in name else f"{self.prefix}:{name}"

    def _histogram(self, name, said, buckets, *labels):
        made = Histogram(self._name(name), said, ("model_name", *labels), buckets=buckets,
                         registry=self.registry)
        return made if labels else made.labels(**self.label)

    def _counter(self, name, said, *labels):
        made = Counter(self._name(name), said, ("model_name", *labels), registry=self.registry)
        return made if labels else made.labels(**self.label)

    def count(self, counter: Counter, *labels: str) -> None:
        """Adds one."""
        counter.labels(self.label["model_name"], *labels).inc()

    def token(self, now: float, seconds: float, count: int, first: bool) -> None:
        """Takes in that `count` tokens of a request came at `now`, so long after what was before:
        its arrival, if they are its first."""
        if first:
            self.first.observe(seconds)
            self.recent["ttft"].append((now, seconds))
            count -= 1
            seconds = 0.0
        for _ in range(count):
            self.between.observe(seconds / count)
        if count and seconds:
            self.recent["itl"].append((now, seconds / count))

    def step(self, record) -> None:
        """Takes in a step of the engine."""
        self.step_tokens.observe(record.prefill + record.decode)
        self.step_seconds.labels(self.label["model_name"], record.bucket).observe(record.seconds)

    def end(self, r: Request) -> None:
        """Takes in a request that has ended."""
        self.count(self.ended, r.finish)
        self.prompt.observe(len(r.prompt))
        self.made.observe(len(r.output))
        if r.finish not in ("stop", "length"):
            return
        self.whole.observe(r.finished - r.arrival)
        self.spans["queue"].observe(r.scheduled - r.arrival)
        self.spans["prefill"].observe(r.first - r.scheduled)
        self.spans["decode"].observe(r.last - r.first)
        self.spans["inference"].observe(r.last - r.scheduled)
        if len(r.output) > 1:
            self.per_token.observe((r.last - r.first) / (len(r.output) - 1))

    def describe(self):
        """Has the registry not call `collect` for the names."""
        return []

    def collect(self):
        """Yields what the engine says of itself."""
        s, now = self.core.status(), time.monotonic()
        page = self.core.engine.shape.page if self.core.engine else self.core.config.page

        def gauge(name, said, value, **labels):
            labels = self.label | labels
            made = GaugeMetricFamily(self._name(name), said, labels=list(labels))
            made.add_metric([str(v) for v in labels.values()], float(value))
            return made

        def counter(name, said, value):
            made = CounterMetricFamily(self._name(name), said, labels=list(self.label))
            made.add_metric(list(self.label.values()), float(value))
            return made

        yield gauge("num_requests_running", "requests in a slot", s.running)
        yield gauge("num_requests_waiting", "requests that wait for one", s.waiting)
        yield gauge("kv_cache_usage_perc", "share of the cache's pages that requests hold, 0 to 1",
                    s.pages_used / max(s.pages, 1))
        yield gauge("cache_config_info", "the cache", 1, block_size=page, num_gpu_blocks=s.pages)
        yield counter("prompt_tokens", "tokens of prompts", s.prompt_tokens)
        yield counter("generation_tokens", "tokens made", s.generation_tokens)
        yield counter("num_preemptions", "times that pages were taken from a request",
                      s.preemptions)
        yield counter("prefix_cache_queries", "tokens looked for in the prefix cache",
                      s.prefix_queries)
        yield counter("prefix_cache_hits", "tokens found in it", s.prefix_hits)
        yield counter("spec_decode_num_draft_tokens", "tokens drafted", s.drafted)
        yield counter("spec_decode_num_accepted_tokens", "drafted tokens kept", s.accepted)
        yield counter("lm:compiles_after_ready", "programs compiled since readiness: none should",
                      s.compiles_after_ready)
        yield gauge("lm:queued_prompt_tokens", "tokens of prompts that wait", s.queued_tokens)
        yield gauge("lm:slots", "requests that are computed at once", s.slots)
        yield gauge("lm:slots_used", "slots in use", s.running)
        yield gauge("lm:pages_cached", "pages kept for prefixes alone", s.pages_cached)
        yield gauge("lm:draining", "1 while the server ends", self.draining())
        yield gauge("lm:build_info", "what runs", 1, version=version("lm"), jax=version("jax"))
        yield gauge("lm:seconds_since_last_step", "seconds since a step ended",
                    now - s.last_step if s.last_step else 0)
        hbm = GaugeMetricFamily("lm:hbm_bytes", "bytes of a device", labels=["model_name", "kind"])
        for kind, n in s.hbm.items():
            hbm.add_metric([self.label["model_name"], kind], n)
        yield hbm

    def text(self) -> bytes:
        """Returns the text of /metrics."""
        return generate_latest(self.registry)

    def load(self) -> dict:
        """Returns what the page shows: the engine's state, and percentiles of the last seconds."""
        s, since = self.core.status(), time.monotonic() - RECENT
        found = {name: getattr(s, name) for name in (
            "running", "waiting", "queued_tokens", "slots", "pages", "pages_used", "pages_cached",
            "prefix_queries", "prefix_hits", "prompt_tokens", "generation_tokens", "preemptions")}
        for name, seen in self.recent.items():
            last = [seconds for when, seconds in seen if when > since]
            found[name] = dict(zip(("p50", "p95"), np.percentile(last, (50, 95)).tolist(),
                                   strict=True)) if last else None
        return found
