"""When compute outweighs memory and network: rules of the scaling book, which good plans obey.

Numbers, arrays or Figures in and the same out. Letters are the house's, and C: FLOP/s of a chip,
W: bytes/s of a memory, or of one torus axis in both directions. `critical` is C/W, the FLOPs that
are done while one byte moves; as a multiply-add is two FLOPs and a weight two bytes, it is a number
of tokens too. Sources are chapters of the book: jax-ml.github.io/scaling-book.
"""


def critical(C, W):
    """Returns the FLOPs that a chip does while one byte moves (`roofline`, `training`)."""
    return C / W


def matmul_batch(C, W, width: float = 2):
    """Returns the tokens above which a product takes longer than reading its weights (`roofline`).

    width: bytes of a weight; what is multiplied may have another.
    """
    return C / W * width / 2


def attention(T, S, G):
    """Returns the FLOPs per byte of attention by a kernel, in 16 bits (`inference`).

    T queries, each seeing all S keys, of G heads to a kv head: T G / (G + 1) for a prefill of
    T = S, and near G for decoding, T = 1.
    """
    return T * S * G / (T * G + S)


def fsdp_tokens(critical, axes=1):
    """Returns the tokens a chip above which data parallelism or FSDP hides (`training`).

    axes: of the torus that it is over. Over a slower network, where C is a slice's and W what it
    sends and gets, these are tokens of a slice.
    """
    return critical / axes


def tensor_ways(F, critical, axes=1):
    """Returns the devices up to which tensor parallelism hides (`training`)."""
    return axes * F / critical


def mixed(*, B, D, F, fsdp, tensor, C, W, axes=(1, 1)) -> tuple:
    """Returns seconds of (products, FSDP, tensor parallelism) of two matrices D x F (`training`).

    B: tokens over all chips. axes: of the torus, for FSDP and for tensor parallelism.
    """
    return (4 * B * D * F / (fsdp * tensor * C), 4 * D * F / (tensor * W * axes[0]),
            4 * B * D / (fsdp * W * axes[1]))


def mixed_fsdp(B, F, chips, axes=(1, 1)):
    """Returns the devices along FSDP at which the two of `mixed` are equal, their sum the least."""
    return (B / F * axes[0] / axes[1] * chips) ** 0.5


def mixed_tokens(F, critical, axes=(1, 1)):
    """Returns the tokens a chip above which both of `mixed` at their best hide (`training`)."""
    return 4 * critical**2 / (axes[0] * axes[1] * F)


def ring_tokens(critical, G):
    """Returns the tokens a device above which ring attention hides: of K and V it passes on 4 K H
    bytes a token, while its queries do 4 N H FLOPs with each of them.
    """
    return critical / G


def bubble(stages, microbatches, groups=1):
    """Returns the time that a pipeline idles over the time it works: GPipe, 1F1B, interleaved."""
    return (stages - 1) / (microbatches * groups)


def expert_bytes(tokens, D, top, width: float = 2):
    """Returns what a layer with experts sends in four exchanges, two of them backward."""
    return 4 * tokens * top * D * width


def weight_stationary(D, F):
    """Returns the chips above which weights are best split both ways while decoding (`inference`).

    Of F = 4D these are 72; the page prints 81.
    """
    return 32 * (F / D) * (3 / 4) ** 2
