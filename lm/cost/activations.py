"""What training keeps in memory by the closed forms of papers: checks, from which no plan is made.

Plain numbers in and bytes out, in the alphabet of the house. What a plan holds is counted in the
traced program, whatever its architecture; here is what papers print of two: GPT's layer with
dropout, and Llama's. Numbers are 16 bits wide unless a form says otherwise.
"""

from collections.abc import Callable

# Bytes of each parameter by recipe: (parameters, gradients, master copy, moments). What is 0 is not
# there, or, of gradients, gone before the optimizer's step is counted.
STATE = {
    "float32": (4, 0, 0, 8),   # AdamW
    "megatron": (2, 4, 4, 8),  # Korthikanti et al. 2022, figure 1
    "zero": (2, 2, 4, 8),      # Rajbhandari et al. 2020, section 3.1
    "bfloat16": (2, 0, 0, 8),  # scaling book, training
}


def state(recipe: str) -> int:
    """Returns the bytes of each parameter, of one of STATE."""
    return sum(STATE[recipe])


def zero(params: float, ways: int, stage: int) -> float:
    """Returns the bytes of state on one of `ways` devices (Rajbhandari et al. 2020, figure 1).

    stage: 0 splits nothing, 1 the optimizer's state, 2 gradients as well, 3 parameters as well.
    """
    parameters, gradients, *rest = STATE["zero"]
    parts = (sum(rest), gradients, parameters)
    return params * (sum(parts[:stage]) / ways + sum(parts[stage:]))


def gpt(*, B: float, T: int, D: int, N: int, keep: str = "all", tensor: int = 1,
        sequence: bool = False) -> float:
    """Returns the bytes that a layer keeps on a device (Korthikanti et al. 2022, table 2).

    keep: `all`; `selective`, attention between the projections computed again, as its kernels do;
    `full`, the layer's input alone, which is whole on every device. tensor: devices that heads and
    hidden units are split over; sequence: so are the tokens of all else.
    """
    if keep == "full":
        return 2 * B * T * D
    scores = {"all": 5 * N * T / D, "selective": 0}[keep]
    return B * T * D * (10 / (tensor if sequence else 1) + (24 + scores) / tensor)


def first_stage(layer: float, L: int, stages: int = 1, groups: int = 1) -> float:
    """Returns what the first of a pipeline's stages keeps (Korthikanti et al. 2022, section 4.2.3).

    layer: of each of L layers, in one microbatch. Of one group of layers a stage, it holds as many
    microbatches as there are stages, which makes up for its share of layers; of several, more.
    """
    return L * layer * (1 if groups == 1 else 1 + (stages - 1) / (stages * groups))


def last_layers(*, B: float, T: int, D: int, V: int, tensor: int = 1) -> float:
    """Returns what the last norm, the output matrix and the loss keep, without a pipeline."""
    return 4 * B * T * D / tensor * (1 + V / D)


def _none(D, q, k, F):
    """Inputs of both norms, their results, q, k, v, attention's output, o, gate, up, product."""
    return 2 * D + 2 * D + q + 2 * k + q + D + 3 * F


# Elements that a layer of Llama keeps of each token, of width D, queries q = N H, keys k = K H and
# hidden units F. Names are those of lm.nn.remat where a policy of ours keeps the same.
LLAMA: dict[str, Callable] = {
    "full": lambda D, q, k, F: D,
    "attention": lambda D, q, k, F: D + q,
    "qkv_out": lambda D, q, k, F: D + q + 2 * k + D,
    "dots": lambda D, q, k, F: D + q + 2 * k + D + 2 * F + D,
    "none": _none,
}


def llama(keep: str, *, D: int, N: int, K: int, H: int, F: int) -> int:
    """Returns the bytes that a layer with a kernel for attention keeps of each token.

    keep: one of LLAMA. `none` has the softmax's logarithm too, in 32 bits for each head.
    """
    return 2 * LLAMA[keep](D, N * H, K * H, F) + 4 * N * (keep == "none")


def checkpoints(tokens: float, L: int, *widths: int) -> float:
    """Returns the bytes of arrays of these widths of every layer (scaling book, training)."""
    return 2 * tokens * L * sum(widths)


def logits(tokens: float, V: int, tensor: int = 1) -> float:
    """Returns the bytes of logits in 16 bits, in 32, and of their gradient."""
    return tokens * V / tensor * (2 + 4 + 4)


def cache(S: float, *, L: int, K: int, H: int, width: float = 2) -> float:
    """Returns the bytes of keys and values of S tokens. width: bytes of an element."""
    return 2 * S * L * K * H * width
