"""How much of the chips' peak a run uses; None, printed as `-`, where no peak is known."""

from collections.abc import Sequence

import jax

from lm.cost import measure
from lm.cost.chips import Chip, chip_of


def chip(devices: Sequence[jax.Device]) -> Chip | None:
    """Returns the chip that all of `devices` are, this machine's CPU included; None if unknown."""
    kinds = {(d.platform, d.device_kind) for d in devices}
    if len(kinds) != 1:
        return None
    platform, kind = kinds.pop()
    return measure.cpu() if platform == "cpu" else chip_of(kind)


def peak(devices: Sequence[jax.Device], dtype: str | None = None) -> float | None:
    """Returns the FLOP/s of `devices` together; None if their chip, or its rate, is unknown.

    dtype: one of Chip.flops; by default the one that utilisation is quoted against, bf16 and, on
    CPU, f32. The CPU devices of one process share its cores, so they count once.
    """
    found = chip(devices)
    rate = found.peak(dtype) if found else None
    if rate is None:
        return None
    cpu = found.name == "cpu"
    return rate * (len({d.process_index for d in devices}) if cpu else len(devices))


def utilisation(flops_per_token: float, tokens_per_second: float,
                devices: Sequence[jax.Device], dtype: str | None = None) -> float | None:
    """Returns model FLOP/s over peak FLOP/s (MFU), between 0 and 1; None without a known peak.

    flops_per_token: by a convention of `lm.cost.conventions`, which the caller prints with it.
    """
    total = peak(devices, dtype)
    return flops_per_token * tokens_per_second / total if total else None
