"""What `lm plan --serve` is asked. No jax here."""

from dataclasses import dataclass

from lm.base.errors import UserError
from lm.base.options import option


@dataclass(frozen=True)
class Question:
    """A load, what it must be served within, and what of the plan is fixed already."""

    rate: float = option(1.0, "requests a second", low=1e-6)
    prompt_tokens: str = option("lognormal:1000", "lognormal:MEAN[:SIGMA], constant:N, "
                                "uniform:LOW:HIGH, or a file of lengths")
    output_tokens: str = option("lognormal:300", "as prompt_tokens")
    arrivals: str = option("poisson", "poisson, constant, gamma:CV, or a file of times")
    ttft: float = option(1.0, "seconds to the first token, at most", low=1e-6)
    tpot: float = option(0.05, "seconds for each token after it, at most", low=1e-6)
    percentile: float = option(95.0, "share of requests within both, in %", low=1.0, high=99.9)
    chip: str = option("", "chip; empty: all that are known")
    tensor: int = option(0, "tensor parallel chips; 0: searched", low=0)
    stage: int = option(0, "pipeline stages; 0: searched", low=0)
    weights: str = option("", "weight format; empty: searched", choices=(
        "", "bf16", "fp8", "int8", "int4"))
    cache: str = option("", "cache format; empty: searched", choices=("", "bf16", "fp8", "int8"))
    slots: int = option(0, "sequences at once; 0: searched", low=0)
    chunk: int = option(0, "prompt tokens a step; 0: searched", low=0)
    routing: str = option("least", "replica of a request: the one with least outstanding, or "
                          "random", choices=("least", "random"))
    spares: int = option(1, "replicas that may fail", low=0)
    growth: float = option(0.0, "requests a second by which the rate may grow in one second",
                           low=0.0)
    provision: float = option(300.0, "seconds until a new machine is there", low=0.0)
    load_seconds: float = option(0.0, "seconds to load the weights; 0: 1 GB/s a chip", low=0.0)
    compile_seconds: float = option(120.0, "seconds to compile, with a cache", low=0.0)
    price: float = option(0.0, "$ a chip-hour; 0: the catalogue's", low=0.0)
    step_log: str = option("", "log of the server's steps that recalibrates; needs chip and tensor")
    requests: int = option(1500, "requests of one simulation", low=100)
    seeds: int = option(3, "simulations of the answer", low=3)
    finalists: int = option(4, "plans that are simulated", low=1)

    def __post_init__(self):
        """Refuses a log that belongs to no layout."""
        if self.step_log and not (self.chip and self.tensor):
            raise UserError("step_log was measured on one layout: give chip and tensor, too")
