"""How near software comes to the chips' rates: fitted on published steps, not on one's own wish.

`benchmarks/plan.py` fits them again and prints each row's prediction by constants that were fitted
without it. Few constants for many rows: one or two a chip, the rest of a platform.
"""

from collections.abc import Mapping

from lm.cost.chips import Chip
from lm.cost.figure import Figure, known

# What a person would guess, and how far off: the fit stays near where rows tell nothing.
PRIOR = {
    "matmul": (0.8, 0.2),       # of the peak FLOP/s, by matrix products
    "attention": (0.45, 0.25),  # the same by attention's kernel, beside its unfilled units
    "memory": (0.9, 0.3),       # of the memory's bandwidth, by elementwise work
    "fsdp": (0.4, 0.3),         # of messages along a mesh axis, those that are waited for
    "tensor": (0.4, 0.3),
    "data": (1.0, 2.0),
    "context": (0.5, 0.3),
    "expert": (0.8, 0.3),
    "stage": (0.8, 0.3),
    "host": (0.1, 0.1),
    "lag": (0.01, 0.02),        # of a step, for each doubling of the slices or hosts joined
    "experts": (0.8, 0.25),     # of `matmul`, by the experts' products, their dispatch included
}
FITTED = "fitted on published steps by benchmarks/plan.py: lm.plan.published"
MEASURED = "fitted on steps measured on one machine by benchmarks/plan_cpu.py"

PLATFORMS: dict[str, dict[str, float]] = {
    "tpu": dict(matmul=0.776, attention=0.679, memory=0.944, fsdp=0.546, tensor=0.441, data=1.070,
                context=0.5, expert=0.584, stage=0.8, host=0.013, lag=0.018, experts=0.928),
    "gpu": dict(matmul=0.690, attention=0.290, memory=1.100, fsdp=0.534, tensor=0.489, data=0.937,
                context=0.5, expert=0.8, stage=0.772, host=0.1, lag=0.013, experts=0.8),
    # Attention: of the memory's bandwidth, by what is done with pairs. Overhead: seconds of a step.
    "cpu": {name: guess for name, (guess, _) in PRIOR.items()} | dict(
        matmul=0.968, memory=0.416, attention=0.152, experts=1.0, overhead=0.0014),
}
MATMUL = {  # by chip, where published steps tell
    "v4": 0.724, "v5e": 0.879, "v5p": 0.820, "v6e": 0.697,
    "a100-40": 0.695, "a100-80": 0.749, "h100": 0.630,
}
# GPUs' kernels of one time: the newer the chip, the further below its peak.
ATTENTION = {"a100-40": 0.466, "a100-80": 0.341, "h100": 0.154}
LIKE = dict(h800="h100", h200="h100")   # the same but for links and memory
# Standard deviations of log(published / predicted) of rows that were left out of the fit.
SPREAD = dict(tpu=0.08, gpu=0.06, cpu=0.12)


def platform(chip: Chip) -> str:
    """Returns the platform of a chip: tpu, gpu or cpu."""
    return "tpu" if chip.aot else "cpu" if chip.name == "cpu" else "gpu"


def constants(chip: Chip, changes: Mapping[str, float] | None = None,
              source: str = "") -> dict[str, Figure]:
    """Returns the constants of a chip by name; those of its platform where none is its own.

    changes: what one's own measurements say, and their source.
    """
    found = dict(overhead=0.0) | PLATFORMS[platform(chip)]
    own = LIKE.get(chip.name, chip.name)
    found |= {name: some[own] for name, some in dict(matmul=MATMUL, attention=ATTENTION).items()
              if own in some}
    units, fitted = dict(overhead="s"), MEASURED if platform(chip) == "cpu" else FITTED
    out = {name: known(f"constants.{name}", x, units.get(name, ""), fitted)
           for name, x in found.items()}
    return out | {name: known(f"constants.{name}", x, units.get(name, ""), source)
                  for name, x in (changes or {}).items()}
