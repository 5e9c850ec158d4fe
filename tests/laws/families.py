"""Tiny models that between them use every choice, and batches for them."""

import numpy as np

from lm.models.decoder.config import Config

V, T, B = 64, 16, 8

_TINY = dict(L=3, D=32, N=4, V=V, T=T)

FAMILIES = {
    "gpt2": Config(**_TINY, norm="layernorm", positions="learned", bias="all",
                   activation="gelu_tanh", tied=True),
    "llama": Config(**_TINY, K=2, F=64, activation="swiglu", qk_norm=True, init="llama",
                    rotary_stretch=(8.0, 1.0, 4.0, 8.0), z_loss=1e-3),
    "gemma": Config(**_TINY, K=1, H=16, F=64, activation="geglu", tied=True, embedding_scale=True,
                    norm_zero_centred=True, post_norm=True, logit_softcap=30.0,
                    attention_softcap=50.0, windows=(5, 0), init="llama"),
}
# Others, where a law is about one choice: NeoX' parallel blocks, zero outputs, no positions.
OTHERS = {
    "neox": Config(**_TINY, norm="layernorm", rotary_share=0.25, bias="all", activation="gelu",
                   parallel=True),
    "relu2": Config(**_TINY, positions="none", activation="relu2", bias="qkv", qk_norm=True),
}


def batch(seed: int = 0, B: int = B, T: int = T, packed: bool = True) -> dict[str, np.ndarray]:
    """Random tokens; packed rows hold documents of random lengths; some targets are void."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, V, (B, T + 1), dtype=np.int32)
    starts = rng.random((B, T)) < 0.2
    starts[:, 0] = True
    segments = np.cumsum(starts, 1, dtype=np.int32) if packed else np.zeros((B, T), np.int32)
    index = np.broadcast_to(np.arange(T, dtype=np.int32), (B, T))
    first = np.maximum.accumulate(np.where(starts, index, 0), 1) if packed else 0
    weights = (rng.random((B, T)) < rng.random((B, 1))).astype(np.float32)
    return dict(tokens_BT=tokens[:, :-1], targets_BT=tokens[:, 1:], weights_BT=weights,
                segments_BT=segments, positions_BT=(index - first).astype(np.int32))
