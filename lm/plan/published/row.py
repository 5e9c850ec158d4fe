"""What was published of one training step: the program, the machine and its seconds."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One published training step.

    model: fields of the decoder's Config. B: sequences of a step, over all chips.
    mesh: devices by mesh axis; `data` spans what the others leave, `slices` included.
    remat: the policy of ours that is nearest. recompute: the share of a layer's forward matrix
    products that the backward pass computed again, where that policy does not say it.
    offload: whether activations went to host memory: `host_bytes` of each token and layer.
    seconds: as published, or of B and the tokens/s or FLOP/s that were.
    tflops: TFLOP/s of one chip as published, counted by `convention` (`lm.cost.conventions`).
    utilisation: the share of `peak` FLOP/s of one chip that was printed beside it.
    fit: whether the time model's constants are fitted on it; the others judge them.
    """

    name: str
    chip: str                     # as in lm.cost.chips
    slice: str                    # chips along each axis of the torus; of GPUs hosts x GPUs
    model: dict
    T: int
    B: int
    mesh: dict
    remat: str
    seconds: float
    source: str
    slices: int = 1               # joined by the slow network
    recompute: float | None = None
    offload: bool = False
    host_bytes: int = 0
    accumulate: int = 1           # microbatches of a step
    precision: str = "bfloat16"   # of the products
    stored: str = "float32"       # of parameters and optimizer state
    optimizer: str = "adamw"
    params: int | None = None     # as published, where it was to the last one
    tflops: float | None = None
    utilisation: float | None = None
    peak: float | None = None
    convention: str = "matmul+full"
    fit: bool = False

    @property
    def chips(self) -> int:
        """Chips of all slices."""
        return self.slices * math.prod(int(n) for n in self.slice.split("x"))


