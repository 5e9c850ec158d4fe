"""What is stored, computed and accumulated in which number format: one table. No jax here.

Whatever the row, norms, rotations, softmax, routing, the loss, gradients' sums over microbatches
and the optimizer's moments are float32.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Precision:
    """Formats by jax's names for them."""

    stored: str = "float32"      # parameters
    compute: str = "bfloat16"    # activations, attention, the embedding, the output matrix
    forward: str = ""            # operands of the layers' products, but for routed experts', which
                                 # are as `compute`; '': as `compute`
    backward: str = ""           # gradients as operands of those products; '': as `compute`
    scaling: str = ""            # what shares a scale: 'history', 'tensor' or 'row'; '': no scales
    accumulate: str = "float32"  # sums within a product of `forward` operands
    loss_scale: float = 0.0      # first factor of the loss, adapted while training; 0: none
    unit: str = ""               # the rate in lm.cost.chips of chips that multiply `forward`
    tolerance: float = 0.0       # relative distance of the loss to float32's, of one training run


PRECISIONS = {
    "float32": Precision(compute="float32"),
    "bfloat16": Precision(tolerance=0.01),
    # Few exponents: gradients are lifted over the smallest number and may pass the largest.
    "float16": Precision(compute="float16", loss_scale=2.0**15, tolerance=0.005),
    # e4m3 has the digits, e5m2 the range (Micikevicius et al. 2022). `fp8` scales by the largest
    # value of the last steps, so that quantising waits for nothing; `fp8_current` by that of now.
    "fp8": Precision(forward="float8_e4m3fn", backward="float8_e5m2", scaling="history",
                     unit="fp8", tolerance=0.03),
    "fp8_current": Precision(forward="float8_e4m3fn", backward="float8_e5m2", scaling="tensor",
                             unit="fp8", tolerance=0.03),
    "int8": Precision(forward="int8", scaling="row", accumulate="int32", unit="int8",
                      tolerance=0.02),
    # No float32 copy: updates are rounded up or down by chance, right in expectation.
    "bfloat16_stored": Precision(stored="bfloat16", tolerance=0.01),
}
