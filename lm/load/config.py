"""What a load test is told. No jax here."""

from dataclasses import dataclass

from lm.base.options import option


@dataclass(frozen=True)
class Config:
    """Which server, how much, when, and what is said about it."""

    url: str = option("http://127.0.0.1:8000", "the server: any that speaks as OpenAI's does")
    rate: float = option(0.0, "requests a second, sent when they are due whatever became of the "
                         "others (open loop); 0: 1, or as the trace has it", low=0.0, high=1e5)
    rates: str = option("", "several rates one after another: 1:16, doubling, or 1,2,5")
    concurrency: int = option(0, "closed loop in place of a rate: so many requests at a time, the "
                              "next when one ends", low=0, high=65536)
    duration: float = option(0.0, "seconds in which requests are sent; 0: 30, or as many requests "
                             "as --requests says", low=0.0, high=1e6)
    requests: int = option(0, "requests to send; 0: for the duration, or in a closed loop 20 times "
                           "the concurrency", low=0, high=10**7)
    warmup: float = option(0.0, "seconds at the front that are sent and not counted", low=0.0)
    arrivals: str = option("poisson", "poisson, gamma:CV (bursts where CV > 1), constant, or a "
                           "file of times")
    prompt_tokens: str = option("lognormal:200", "lognormal:MEAN[:SIGMA], constant:N, "
                                "uniform:LOW:HIGH or a file of lengths")
    output_tokens: str = option("lognormal:60", "as prompt_tokens")
    shared_prefix: int = option(0, "tokens that all prompts begin with, before their own", low=0,
                                high=10**6)
    trace: str = option("", "a .csv or .jsonl file of requests with times, prompt and output "
                        "tokens, in place of arrivals and lengths")
    model: str = option("", "its name; empty: the first that the server lists")
    endpoint: str = option("completions", "which of the two", choices=("completions", "chat"))
    stream: bool = option(True, "tokens are asked for as they are made; without, there is no time "
                          "to the first")
    body: str = option("", "more fields of each request as JSON, as in '{\"temperature\": 0}'")
    api_key: str = option("", "the server's; empty: that of LM_API_KEY")
    slo: str = option("", "limits that a good request keeps, in seconds: ttft=0.5,tpot=0.05,e2e=10")
    timeout: float = option(600.0, "seconds after which a request is given up", low=0.001,
                            high=1e6)
    drain: float = option(60.0, "seconds that the last are waited for, once all are sent", low=0.0,
                          high=1e6)
    seed: int = option(0, "of times and lengths; what prompts say is new each time, or a server "
                       "would know it from the last", low=0)
    rows: bool = option(False, "keep every request and its times in the JSON")
    out: str = option("", "a JSON file for all that was measured")
    picture: str = option("", "a PNG file for its picture")
