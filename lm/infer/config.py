"""How text is sampled."""

from dataclasses import dataclass

from lm.base.options import option


@dataclass(frozen=True)
class Config:
    """Sampling; the filters apply in the order top_k, top_p, min_p, after the temperature."""

    prompt: str = option("", "text to continue", free=True)
    max_tokens: int = option(200, "tokens to make at most", low=1, free=True)
    temperature: float = option(0.8, "logits are divided by it; 0: always the likeliest",
                                low=0.0, free=True)
    top_k: int = option(0, "keep the k likeliest tokens; 0: all", low=0, free=True)
    top_p: float = option(1.0, "keep the likeliest tokens that hold this share", low=0.0, high=1.0,
                          free=True)
    min_p: float = option(0.0, "keep tokens at least this likely relative to the likeliest",
                          low=0.0, high=1.0, free=True)
    seed: int = option(0, "sample i is that of seed + i, alone or in a batch", low=0,
                       high=2**32 - 1, free=True)
    num_samples: int = option(1, "samples to make", low=1, free=True)


WEIGHTS = ("auto", "float32", "bfloat16", "int8", "int4", "fp8")
CACHES = ("auto", "float32", "bfloat16", "int8", "fp8")


@dataclass(frozen=True)
class Engine:
    """What the engine holds and how much it does at once; 0 where the machine decides."""

    slots: int = option(16, "sequences computed at once", low=1, high=4096)
    context: int = option(0, "tokens of a sequence, prompt and output; 0: the run's data.T", low=0)
    page: int = option(0, "tokens of a page of the cache; 0: 128 on TPU, 16 elsewhere", low=0)
    pages: int = option(0, "pages of the cache; 0: what memory holds, as many as the slots can "
                        "fill at most, and as many again for prefixes", low=0)
    memory: float = option(0.9, "share of a TPU's or GPU's memory for weights and cache; a CPU's "
                            "cache has 4 GiB at most", low=0.1,
                           high=1.0)
    budget: int = option(0, "tokens of one step: those that decode first, then pieces of prompts; "
                         "0: 512 on TPU and GPU, 128 elsewhere, and never below the slots", low=0)
    weights: str = option("auto", "format of the matrices; auto: the precision that the run "
                          "computes in", choices=WEIGHTS)
    cache: str = option("auto", "format of keys and values; auto: that of the activations",
                        choices=CACHES)
    reserve: bool = option(False, "keep pages for all of max_tokens at once, so that none is ever "
                           "taken from a sequence again")
    prefix_cache: bool = option(True, "keep the pages of prompts for others that begin alike")
    speculate: str = option("off", "draft tokens and verify several at once: those that followed "
                            "the same words earlier (lookup), or a smaller run's (draft)",
                            choices=("off", "lookup", "draft"))
    drafts: int = option(4, "tokens drafted at most for each one verified", low=1, high=32)
    draft: str = option("", "the smaller run, of the same tokenizer")
    queued: int = option(1024, "requests that may wait", low=1)
    queued_tokens: int = option(0, "tokens of their prompts; 0: eight contexts a slot", low=0)
    ahead: int = option(-1, "steps sent to the device before the last one's tokens are read; -1: 1 "
                        "on TPU and GPU, 0 on a CPU, which gains nothing", low=-1, high=1)
