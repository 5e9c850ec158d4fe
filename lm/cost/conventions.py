"""FLOPs of training on one token, by every published convention: figures without a name mislead.

Plain numbers in, so that they can check what `lm.cost.count` traced and reproduce what papers
print. A multiply-add is 2; the backward pass is twice the forward pass; norms, softmax and the
optimizer are left out, and so is recomputation, unless a convention says otherwise. Each takes,
as keywords, what it needs of:

    params     all parameters                      L  layers          D  width
    embedding  those that only look tokens up      N  query heads     H  head width
    matmul     those that multiply every token,    T  tokens in a     V  vocabulary
               the unembedding included               sequence

`window`: the sliding window, one number for all layers or one for each; None where all is seen.
"""

from collections.abc import Sequence


def attention(*, L: float, N: float, H: float, T: float,
              window: int | None | Sequence[int | None] = None, causal: bool = True) -> float:
    """Returns the training FLOPs per token of QK and AV: 12 N H per key that a query sees.

    Causal, a query sees T/2 keys on average, or w - w^2/2T in a window of w; else all T.
    """
    windows = window if isinstance(window, Sequence) else [window]
    if len(windows) not in (1, L):
        raise ValueError(f"{len(windows)} windows for {L} layers")
    seen = 0.0
    for w in windows:
        w = min(w or T, T)
        seen += (w - w * w / (2 * T) if causal else w) * L / len(windows)
    return 12 * N * H * seen


def decode(*, matmul: float, L: float, N: float, H: float, S: float) -> float:
    """Returns the FLOPs of the forward pass of one new token after S others."""
    return 2 * matmul + 4 * L * S * N * H


def matmul_causal(*, matmul, L, N, H, T, window=None, **_):
    """6 per multiplying parameter, and the keys that a query sees: ours, MaxText's and NeMo's."""
    return 6 * matmul + attention(L=L, N=N, H=H, T=T, window=window)


def matmul_full(*, matmul, L, N, H, T, window=None, **_):
    """As if every query saw all keys, the masked included: MaxText until 2025."""
    return 6 * matmul + attention(L=L, N=N, H=H, T=T, window=window, causal=False)


def six_n(*, params, **_):
    """Hoffmann et al. 2022, section 3: 6 per parameter, the embedding too; no attention."""
    return 6 * params


def six_n_noemb(*, params, embedding, **_):
    """As 6N without the embedding, which multiplies nothing."""
    return 6 * (params - embedding)


def palm(*, params, L, N, H, T, **_):
    """Chowdhery et al. 2022, appendix B: 6N + 12 L N H T."""
    return 6 * params + 12 * L * N * H * T


def kaplan(*, params, embedding, L, N, H, T, **_):
    """Kaplan et al. 2020, table 1: three times 2N + 2 L T (N H), N without embeddings."""
    return 6 * (params - embedding) + 6 * L * T * N * H


def chinchilla(*, matmul, L, N, H, T, D, V, **_):
    """Hoffmann et al. 2022, appendix F: the embedding as a matmul, and the softmax."""
    return 3 * (2 * V * D + 2 * matmul + L * (4 * T * N * H + 3 * N * T))


def olmo(*, params, embedding, L, D, T, V, **_):
    """OLMo ladder: 6N + 12 L D T + 4 D V, N without the input embedding."""
    return 6 * (params - embedding) + 12 * L * D * T + 4 * D * V


def megatron(*, L, D, T, V, **_):
    """Narayanan et al. 2021, equation 3, of one token: 12 L D^2 of layers, recomputed once."""
    return 96 * L * D**2 * (1 + T / (6 * D) + V / (16 * L * D))


def megatron_once(*, L, D, T, V, **_):
    """Korthikanti et al. 2022, appendix A: the same without recomputation."""
    return 72 * L * D**2 * (1 + T / (6 * D) + V / (12 * L * D))


def deepseek(*, L, D, T, **_):
    """Bi et al. 2024, equation 2: 72 L D^2 + 12 L D T; no vocabulary."""
    return 72 * L * D**2 + 12 * L * D * T


def mosaic(*, params, L, D, T, **_):
    """MosaicML llm-foundry: three times 2N + 4 L D T, the embedding included."""
    return 3 * (2 * params + 4 * L * D * T)


CONVENTIONS = {
    "matmul+causal": matmul_causal, "matmul+full": matmul_full, "6N": six_n,
    "6N_noemb": six_n_noemb, "palm": palm, "kaplan": kaplan, "chinchilla": chinchilla,
    "olmo": olmo, "megatron": megatron, "megatron_once": megatron_once, "deepseek": deepseek,
    "mosaic": mosaic,
}
