"""Published measurements of servers, with the conditions under which they were taken.

Sources, each read at the page named: SGLang-JAX's cookbook (docs/cookbook/autoregressive,
Qwen/Qwen3.md and Llama/Llama3.1.md), which also measures vLLM on the same chips; AI-Hypercomputer's
tpu-recipes (inference/trillium and inference/ironwood, vLLM); jetstream-pytorch's
benchmarks/summary.md; NVIDIA's NIM benchmarking page, Llama-3.3-70B version 1.8.0. Where a page
does not say a condition, `assumed` does.
"""

from dataclasses import dataclass

from lm.plan.serving.model import Shape

SHAPES = {s.name: s for s in (
    Shape("llama3-8b", 8_030_261_248, 32, 8, 128, 32, 4096, 128256, lookup=128256 * 4096),
    Shape("llama3-70b", 70_553_706_496, 80, 8, 128, 64, 8192, 128256, lookup=128256 * 8192),
    Shape("llama2-7b", 6_738_415_616, 32, 32, 128, 32, 4096, 32000, lookup=32000 * 4096),
    Shape("llama2-13b", 13_015_864_320, 40, 40, 128, 40, 5120, 32000, lookup=32000 * 5120),
    Shape("qwen3-8b", 8_190_735_360, 36, 8, 128, 32, 4096, 151936, lookup=151936 * 4096),
    Shape("qwen3-32b", 32_762_123_264, 64, 8, 128, 64, 5120, 151936, lookup=151936 * 5120),
    Shape("gemma-2b", 2_506_172_416, 18, 1, 256, 8, 2048, 256000),
    Shape("gemma-7b", 8_537_680_896, 28, 16, 256, 16, 3072, 256000),
    Shape("qwen3-coder-480b", 480_154_875_392, 62, 8, 128, 96, 6144, 151936,
          expert_parameters=62 * 160 * 3 * 6144 * 2560, E=160, k=8, lookup=151936 * 6144),
    # Three layers of four keep a state of 64 heads x 128 x 128 in float32.
    Shape("qwen3.5-397b", 397e9, 60, 2, 256, 32, 4096, 248320, cached=15,
          state=45 * 64 * 128**2 * 4, expert_parameters=60 * 512 * 3 * 4096 * 1024, E=512, k=10,
          lookup=248320 * 4096),
)}


@dataclass(frozen=True)
class Row:
    """One measured run of a client that keeps `clients` requests under way.

    prompt, output: tokens, drawn uniformly from `spread` times that to that. chunk: prompt tokens
    a step. dense: tokens of cache read for every slot whether used or not; 0 for paged caches.
    throughput: output tokens/s of all chips. In seconds: itl, the median time between tokens; tpot
    and ttft, means.
    """

    stack: str
    model: str
    chip: str
    tensor: int
    prompt: int
    output: int
    clients: int
    throughput: float | None
    weights: str = "bf16"
    cache: str = "bf16"
    spread: float = 1.0
    requests: int = 0          # 0: three times the clients
    slots: int = 256
    chunk: int = 2048
    mixed: bool = True
    usable: float = 0.9
    dense: int = 0
    replicas: int = 1          # copies of the model among which the clients are shared
    itl: float | None = None
    tpot: float | None = None
    ttft: float | None = None
    note: str = ""
    assumed: str = ""

    @property
    def name(self) -> str:
        """Returns a name that no other row has."""
        return (f"{self.stack} {self.model} {self.chip}-{self.tensor * self.replicas} "
                f"{self.weights} {self.prompt}/{self.output} x{self.clients}"
                + (f" cache {self.dense}" if self.dense else "") + f" {self.note}".rstrip())


def published() -> list[Row]:
    """Returns all rows."""
    return _sglang() + _vllm_v6e() + _vllm_7x() + _jetstream() + _nim()


_V6E = (("qwen3-8b", 1024, 64), ("qwen3-8b", 1024, 256), ("qwen3-8b", 4096, 64),
        ("qwen3-8b", 8192, 64), ("qwen3-32b", 1024, 64), ("qwen3-32b", 1024, 256),
        ("qwen3-32b", 4096, 64), ("qwen3-32b", 8192, 64))  # model, prompt, clients


def _sweep(measured, ttfts, **more):
    """Rows of the sweep on v6e-4: 1024 tokens of output, and 1, by which TTFT was measured."""
    rows = [Row(model=model, chip="v6e", tensor=4, prompt=prompt, output=1024, clients=clients,
                throughput=throughput, itl=itl, **more)
            for (model, prompt, clients), (throughput, itl) in zip(_V6E, measured, strict=True)]
    return rows + [Row(model=model, chip="v6e", tensor=4, prompt=prompt, output=1, clients=clients,
                       throughput=None, ttft=ttft, **more)
                   for (model, prompt, clients), ttft in zip(_V6E, ttfts, strict=True)]


def _sglang():
    more = dict(stack="sglang-jax", mixed=False, usable=0.8)
    rows = _sweep(((5296.60, 11.11e-3), (7571.84, 30.00e-3), (2528.79, 21.13e-3),
                   (1458.77, 31.98e-3), (1977.45, 29.48e-3), (2122.98, 34.27e-3),
                   (785.30, 35.32e-3), (435.25, 33.43e-3)),
                  (0.94087, 3.79350, 4.10843, 9.79787, 2.86406, 11.50061, 12.32934, 28.84951),
                  **more)
    late = dict(more, tensor=4, chip="v6e", clients=16, requests=100, spread=0.0,
                assumed="lengths drawn from 0 to 1 times, as the totals or latencies say")
    return rows + [
        Row(model="qwen3-32b", prompt=1024, output=1024, throughput=833.80, tpot=16.89e-3,
            ttft=0.10453, **late),
        Row(model="llama3-8b", prompt=512, output=512, throughput=1448.91, tpot=9.94e-3,
            ttft=0.03533, slots=64, **(late | dict(usable=0.88))),
        Row(model="llama3-8b", prompt=512, output=512, throughput=156.0, slots=1, note="one by one",
            **(late | dict(usable=0.88)))]


def _vllm_v6e():
    rows = _sweep(((3043.58, 18.34e-3), (4051.08, 56.81e-3), (1304.04, 42.20e-3),
                   (873.82, 58.86e-3), (1391.29, 42.45e-3), (1652.79, 68.14e-3),
                   (422.50, 73.64e-3), (199.05, 142.77e-3)),
                  (1.34638, 5.49667, 6.59465, 16.56567, 3.73400, 14.98560, 16.10816, 36.08281),
                  stack="vllm-tpu", chunk=1024,
                  assumed="vLLM's defaults for v6e: 1024 tokens a step, 256 slots")
    return rows + [Row("vllm-tpu", "llama3-70b", "v6e", 8, 1000, 1000, 64, 2494.80, chunk=448,
                       usable=0.98, tpot=25.35e-3, ttft=0.25104, requests=640,
                       assumed="requests; 512 tokens a step less 64 that decode")]


def _vllm_7x():
    def row(model, tensor, prompt, output, clients, each, slots, chunk, **more):
        return Row("vllm-tpu-7x", model, "7x", tensor, prompt, output, clients, each * tensor,
                   weights="fp8", cache="fp8", spread=0.8, slots=slots, chunk=chunk, **more)

    q32 = dict(slots=135, chunk=4096 - 135, usable=0.98, requests=320)
    coder = dict(slots=512, chunk=8192 - 64, usable=0.8, requests=320)
    return [row("qwen3-32b", 1, 1024, 1024, 320, 6556.72, **q32),
            row("qwen3-32b", 1, 1024, 8192, 320, 3959.56, **q32),
            row("qwen3-32b", 1, 8192, 1024, 320, 1382.18, **q32),
            row("qwen3-coder-480b", 4, 1024, 1024, 64, 499.0, **coder),
            row("qwen3-coder-480b", 4, 1024, 8192, 64, 518.86, **coder),
            row("qwen3-coder-480b", 4, 8192, 1024, 64, 263.27, **coder),
            row("qwen3.5-397b", 4, 1024, 8192, 128, 1293.00, slots=64, chunk=960, requests=640),
            row("qwen3.5-397b", 4, 8192, 1024, 128, 570.21, slots=64, chunk=960, requests=320)]


def _jetstream():
    # 2000 prompts of ShareGPT, all sent at once, answered by chat models. The page gives no mean
    # lengths: 220 tokens (computed as 256, the next power of two) and 210 are those of this set
    # under the usual filter. Every step reads the cache of every slot whole.
    def row(model, weights, slots, throughput, cache=2048, **more):
        replicas = more.pop("replicas", 1)
        more = {"tensor": 8 // replicas, "replicas": replicas} | more
        return Row("jetstream-pytorch", model, "v5e", prompt=256, output=210, clients=2000,
                   throughput=throughput, weights=weights, cache=weights,
                   requests=2000, slots=slots, chunk=256, mixed=False, dense=cache, usable=1.0,
                   assumed="ShareGPT's mean lengths, 220 and 210", **more)

    return [row("llama3-8b", "bf16", 128, 8249), row("llama3-8b", "int8", 256, 10873),
            row("llama3-8b", "int8", 256, 8471.54, note="2024-07"),
            row("gemma-7b", "bf16", 96, 3236), row("gemma-7b", "int8", 128, 4695),
            row("gemma-2b", "bf16", 512, 8700, replicas=8),
            row("llama2-7b", "bf16", 96, 3663), row("llama2-7b", "int8", 96, 4783),
            row("llama2-13b", "bf16", 48, 2056), row("llama2-13b", "int8", 96, 3458),
            row("llama2-13b", "bf16", 80, 2911, cache=1280),
            row("llama2-13b", "int8", 96, 3938, cache=1280)]


def _nim():
    def row(clients, throughput, tpot, ttft):
        return Row("nim", "llama3-70b", "h100", 2, 5000, 500, clients, throughput, weights="fp8",
                   cache="fp8", chunk=8192, tpot=tpot, ttft=ttft, requests=max(4 * clients, 8),
                   assumed="a cache of 8 bits, which the saturation at 85 clients says; chunks")

    return [row(1, 51.67, 18.58e-3, 0.40677), row(5, 218.48, 21.83e-3, 0.5467),
            row(25, 623.4, 38.75e-3, 0.68869), row(50, 814.37, 59.73e-3, 0.83451),
            row(100, 917.26, 92.91e-3, 7.99625)]
