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
