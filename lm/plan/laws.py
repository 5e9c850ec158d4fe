"""Published laws of training: learning rate, batch and tokens. They disagree, so they give a band.

Plain numbers in and out. N counts parameters, D tokens, C = the FLOPs of the whole training.
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np


class Band(NamedTuple):
    """What several laws say: the least, the geometric median and the most."""

    low: float
    likely: float
    high: float


class Law(NamedTuple):
    """rule: keywords -> (learning rate, batch in tokens), None where it does not say.

    valid: by keyword, the range that it was fitted on or is known to have been used on.
    """

    rule: Callable
    source: str
    valid: dict[str, tuple[float, float]]


class Advice(NamedTuple):
    """What one law says of one training. inside: it is within the range of the law."""

    law: str
    source: str
    lr: float | None
    batch: float | None
    inside: bool
    valid: str


# Each takes, as keywords, what it needs of: params (of one token, the embedding too), body (those
# without the embedding), tokens, flops.

def step_law(*, body, tokens, **_):
    """Li et al. 2025 (2503.04715), equation 1: 1.79 N^-0.713 D^0.307 and 0.58 D^0.571.

    Fitted on 60M to 1.1B parameters without embedding and 2e9 to 1e11 tokens, dense and MoE.
    """
    return 1.79 * body**-0.713 * tokens**0.307, 0.58 * tokens**0.571


def deepseek(*, flops, **_):
    """Bi et al. 2024 (2401.02954), equation 1: 0.3118 C^-0.1250 and 0.2920 C^0.3271.

    Fitted on 1e17 to 2e19 FLOPs, checked at 1e20, used for 7B and 67B parameters (3e23).
    """
    return 0.3118 * flops**-0.1250, 0.2920 * flops**0.3271


def porian(*, body, **_):
    """Porian et al. 2024 (2406.19146), as in table 1 of 2503.04715: 3.7 N^-0.36, 0.7576 N^0.703.

    Fitted on 5M to 900M parameters at the compute-optimal number of tokens.
    """
    return 3.7 * body**-0.36, 0.7576 * body**0.703


def power_lines(*, tokens, **_):
    """Bergsma et al. 2025 (2505.13738), figure 1: 0.0306 D^0.383 sequences of 2048 tokens.

    Fitted on 111M to 3.3B parameters with muP, whose learning rate is not that of others.
    """
    return None, 2048 * 0.0306 * tokens**0.383


# Parameters, peak learning rate, tokens of a batch: OLMo ladder (its last two digits rounded),
# Llama 2 7B and 70B, Llama 3 405B.
_USED = ((1.904e8, 9.73e-4, 5.24e5), (3.713e8, 7.79e-4, 7.86e5), (7.582e8, 6.14e-4, 1.31e6),
         (1.279e9, 5.15e-4, 1.57e6), (6.738e9, 3e-4, 4e6), (6.898e10, 1.5e-4, 4e6),
         (4.059e11, 8e-5, 1.6e7))


def practice(*, params, **_):
    """OLMo ladder, Llama 2 (2307.09288) and Llama 3 (2407.21783, table 3): what was used.

    Between 190M and 405B parameters, on a straight line in logarithms from one to the next.
    """
    sizes, rates, batches = np.log(_USED).T
    at = np.log(params)
    return float(np.exp(np.interp(at, sizes, rates))), float(np.exp(np.interp(at, sizes, batches)))


LAWS: dict[str, Law] = {
    "Step Law": Law(step_law, "Li et al. 2025, 2503.04715, equation 1",
                    {"body": (6e7, 1.1e9), "tokens": (2e9, 1e11)}),
    "DeepSeek": Law(deepseek, "Bi et al. 2024, 2401.02954, equation 1", {"flops": (1e17, 3e23)}),
    "Porian": Law(porian, "Porian et al. 2024, 2406.19146", {"body": (5e6, 9e8)}),
    "Power Lines": Law(power_lines, "Bergsma et al. 2025, 2505.13738, figure 1",
                       {"params": (1.1e8, 3.3e9)}),
    "practice": Law(practice, "OLMo ladder, Llama 2 and Llama 3", {"params": (1.9e8, 4.1e11)}),
}


def advise(*, params: float, body: float, tokens: float, flops: float) -> list[Advice]:
    """Returns what each law says, whether or not it was fitted on such a size.

    params: those that one token uses. body: the same without the embedding. flops: of all tokens.
    """
    size = dict(params=params, body=body, tokens=tokens, flops=flops)
    out = []
    for name, law in LAWS.items():
        inside = all(low <= size[key] <= high for key, (low, high) in law.valid.items())
        valid = ", ".join(f"{key} {low:.2g} to {high:.2g}"
                          for key, (low, high) in law.valid.items())
        out.append(Advice(name, law.source, *law.rule(**size), inside, valid))
    return out


def band(values: Iterable[float | None]) -> Band:
    """Returns the least, the geometric median and the most of one or more numbers above 0."""
    logs = np.log([v for v in values if v is not None])
    return Band(*(float(np.exp(f(logs))) for f in (np.min, np.median, np.max)))


def rescale(lr: float, batch: float, to: float) -> float:
    """Returns the learning rate of Adam for another batch: lr sqrt(to / batch).

    Malladi et al. 2022 (2205.10287): holds while the batch stays well below the critical one.
    """
    return lr * (to / batch) ** 0.5


def critical_batch(tokens: float, loss: float) -> dict[str, float]:
    """Returns the batch in tokens beyond which more of it no longer saves steps, by law.

    Kaplan et al. 2020, figure 10: 2.1e8 L^-4.8 of the loss in nats/token, up to 1.5B parameters.
    Bergsma et al. 2025, equation 7: 0.0471 D^0.462 sequences of 2048, up to 3.3B parameters.
    """
    return {"Kaplan": 2.1e8 * loss**-4.8, "Power Lines": 2048 * 0.0471 * tokens**0.462}


# Tokens. The constants of the parametric loss A N^-alpha + B D^-beta + E.

CHINCHILLA = {
    "Epoch": dict(A=482.00572, B=2085.43420, E=1.81686, alpha=0.34781, beta=0.36585),
    "Hoffmann": dict(A=406.402, B=410.722, E=1.69337, alpha=0.33917084, beta=0.2849083),
}


def chinchilla(params: float, tokens: float, fit: str = "Epoch") -> float:
    """Returns the loss in nats/token: Hoffmann et al. 2022, equation 10; fit: one of CHINCHILLA.

    `Epoch` is Besiroglu et al. 2024 (2404.10102). Fitted on 57M to 16B parameters, 2.5e8 to 3.2e11
    tokens of MassiveText: of another text only differences say something.
    """
    c = CHINCHILLA[fit]
    return c["A"] * params**-c["alpha"] + c["B"] * tokens**-c["beta"] + c["E"]


def optimum(flops: float, fit: str = "Epoch") -> tuple[float, float]:
    """Returns the parameters and tokens of the least loss for C = 6ND: equation 4 of Hoffmann."""
    c = CHINCHILLA[fit]
    total = c["alpha"] + c["beta"]
    ratio = (c["alpha"] * c["A"] / (c["beta"] * c["B"])) ** (1 / total)
    params = ratio * (flops / 6) ** (c["beta"] / total)
    return params, flops / 6 / params


def optimal_tokens(params: float, fit: str = "Epoch") -> float:
    """Returns the tokens for which this many parameters are the compute-optimal number."""
    c = CHINCHILLA[fit]
    gain = c["alpha"] * c["A"] * params**-c["alpha"]
    return (c["beta"] * c["B"] / gain) ** (1 / c["beta"])


def serving_optimum(loss: float, served: float, fit: str = "Epoch") -> tuple[float, float]:
    """Returns the parameters and tokens that reach `loss` with the least 6ND + 2N served.

    Sardana et al. 2024 (2401.00448), equation 3. served: tokens of all inference. The derivative
    is 0 where alpha A N^-alpha / (beta g) = 1 + served / 3D, of g = loss - E - A N^-alpha and
    D = (B / g)^(1 / beta); its left side falls with N, hence bisection.
    """
    c = CHINCHILLA[fit]
    above = loss - c["E"]
    if above <= 0:
        raise ValueError(f"loss {loss} is not above the law's least, {c['E']}")

    def at(params):
        gap = above - c["A"] * params**-c["alpha"]
        return gap, (c["B"] / gap) ** (1 / c["beta"])

    low = (c["A"] / above) ** (1 / c["alpha"]) * (1 + 1e-9)  # below it no number of tokens does
    high = 1e6 * low
    for _ in range(200):
        middle = (low * high) ** 0.5
        gap, tokens = at(middle)
        short = c["alpha"] * (above - gap) / (c["beta"] * gap) > 1 + served / (3 * tokens)
        low, high = (middle, high) if short else (low, middle)
    return low, at(low)[1]


OVERTRAINED = {  # a, b, eta, E: the loss on C4 after training on this text
    "C4": (113.693, 189.516, 0.242472, 1.50826),
    "RedPajama": (166.211, 366.687, 0.272851, 1.83665),
    "RefinedWeb": (125.096, 246.207, 0.254395, 1.73446),
}


def overtrained(params: float, tokens: float, text: str = "RedPajama") -> float:
    """Returns the loss in nats/token: Gadre et al. 2024 (2403.08540), equation 4, of their fits.

    Fitted at 20 and 320 tokens a parameter up to 1.4B, checked up to 640 and at 6.9B.
    """
    a, b, eta, e = OVERTRAINED[text]
    return e + a * params**-eta + b * 6 ** (-eta / 2) * tokens**-eta


def penalty(params: float, tokens: float) -> Band:
    """Returns the loss above that of the same FLOPs at 20 tokens a parameter, of three texts.

    That is the price of a smaller model trained for longer; Gadre et al. 2024.
    """
    other = (params * tokens / 20) ** 0.5
    extra = [overtrained(params, tokens, t) - overtrained(other, 20 * other, t)
             for t in OVERTRAINED]
    return Band(*(float(f(extra)) for f in (np.min, np.median, np.max)))


# Muennighoff et al. 2023: how fast repeated tokens, and parameters beyond what the tokens need,
# lose their worth. Both sets fit the 182 runs about as well (sums of 0.0158 and 0.0169), so that
# neither is to be believed alone.
REPEATS = {"data and parameters": (15.387756, 5.309743), "data alone": (2.9157212, 0.0)}


def worth(amount: float, fresh: float, decay: float) -> float:
    """Returns how much fresh amount `amount` is worth when only `fresh` of it is: equation 5."""
    repeats = max(amount / fresh - 1, 0)
    gain = decay * -math.expm1(-repeats / decay) if decay else 0.0
    return min(amount, fresh) * (1 + gain)


def repeated(tokens: float, data: float) -> dict[str, float]:
    """Returns how many fresh tokens these are worth, of `data` different ones, by REPEATS.

    Muennighoff et al. 2023 (2305.16264), equation 5; 7M to 8.7B parameters, 1 to 1,500 epochs.
    """
    return {name: worth(tokens, data, decay) for name, (decay, _) in REPEATS.items()}


def constrained(params: float, tokens: float, data: float,
                repeats: str = "data and parameters") -> float:
    """Returns the loss in nats/token with only `data` different tokens: equation 7, C4."""
    a, b, e, power = 520.824952, 1487.716094, 1.869144, 0.3526596
    decay, excess = REPEATS[repeats]
    ratio = (a / b) ** (1 / (2 * power))
    fresh = min(data, tokens)
    needed = min(params, ratio**2 * fresh)
    return (e + a * worth(params, needed, excess) ** -power
            + b * worth(tokens, fresh, decay) ** -power)
