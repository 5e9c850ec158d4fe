"""The chips: rates, memories, networks and prices, as published. Nothing here imports jax.

Sources. TPU: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p-training,v6e,tpu7x}, jax's tpu_info.py and,
for link rates that are reached in practice, the scaling book's `tpus` chapter. GPU: NVIDIA's
product pages, dense rates (half of those quoted with sparsity). A GPU that differs from the SXM
module of its name (PCIe, NVL, a MIG slice) is another chip and is not listed. Prices change and
differ by vendor and region: a line that uses one prints `price_source`.
"""

from dataclasses import dataclass, field, replace

GIB = 2**30


@dataclass(frozen=True)
class Torus:
    """The network between TPU chips: a ring of links along every axis that wraps around."""

    axes: int             # 2 or 3
    link: float           # bytes/s of one link, one way, as reached in practice
    nominal: float        # the same as documented
    pod: int              # chips
    largest: int          # chips of the largest slice
    full: int | None      # the length at which an axis wraps by itself; None: built of 4x4x4 cubes
    hop: float = 1e-6     # seconds

    def wraps(self, shape: tuple[int, ...]) -> tuple[bool, ...]:
        """Returns for each axis of a slice whether its ring is closed."""
        if self.full:
            return tuple(n == self.full for n in shape)
        return (all(n % 4 == 0 for n in shape),) * len(shape)


@dataclass(frozen=True)
class Switch:
    """The network between GPUs: all to all inside one domain."""

    domain: int           # GPUs
    link: float           # bytes/s in and out of one GPU, one way


@dataclass(frozen=True)
class Chip:
    """One chip. A jax device is `1 / devices` of it; rates are of the whole chip.

    flops: dense FLOP/s (or OP/s) by the dtype of the operands; the first is the rate against which
    utilisation is quoted.
    """

    name: str
    kinds: tuple[str, ...]        # jax's device_kind
    flops: dict[str, float]
    hbm_bytes: float
    hbm_bandwidth: float | None   # bytes/s
    network: Torus | Switch | None = None
    nic: float | None = None      # bytes/s of one chip, one way, beyond that network
    host: int = 1                 # chips of one host
    devices: int = 1              # jax devices of one chip
    cores: int = 1
    mxu: int | None = None        # the matrix unit is mxu x mxu
    vmem_bytes: int | None = None  # per core
    aot: str | None = None        # the name before the colon for jax's topologies
    aot_options: dict = field(default_factory=dict)
    price: float | None = None    # $ per chip-hour on demand
    price_source: str = ""

    def peak(self, dtype: str | None = None) -> float | None:
        """Returns the FLOP/s of one jax device; None if no rate is published for `dtype`."""
        rate = self.flops.get(dtype) if dtype else next(iter(self.flops.values()))
        return None if rate is None else rate / self.devices


_BOOK = "scaling book, applied inference, 2025"
_GOOGLE = "Google list price as quoted in public code, 2025"
_AWS = "AWS us-east-1 list price / 8, 2026-08"
_HOPPER = {"bf16": 989.4e12, "fp8": 1979e12, "int8": 1979e12}
_A100 = Chip(
    "a100-40", ("NVIDIA A100-SXM4-40GB",), {"bf16": 312e12, "int8": 624e12}, 40e9, 1555e9,
    Switch(8, 300e9), nic=25e9, host=8, price=2.745,
    price_source="AWS p4d.24xlarge list price / 8, 2025-06")
_H100 = Chip(
    "h100", ("NVIDIA H100 80GB HBM3",), _HOPPER, 80e9, 3350e9, Switch(8, 450e9), nic=50e9, host=8,
    price=6.88, price_source=_AWS)

_ALL = (
    Chip("v4", ("TPU v4",), {"bf16": 275e12, "int8": 275e12}, 32 * GIB, 1.228e12,
         Torus(3, 4.5e10, 5e10, pod=4096, largest=4096, full=None), host=4, cores=2, mxu=128,
         vmem_bytes=16 * 2**20, aot="v4", aot_options={"chip_config_name": "megacore"},
         price=3.22, price_source=_GOOGLE),
    Chip("v5e", ("TPU v5 lite", "TPU v5e"), {"bf16": 197e12, "int8": 393e12}, 16 * GIB, 819e9,
         Torus(2, 4.5e10, 5e10, pod=256, largest=256, full=16), host=8, mxu=128,
         vmem_bytes=128 * 2**20, aot="v5e", price=1.20, price_source=_BOOK),
    Chip("v5p", ("TPU v5", "TPU v5p"), {"bf16": 459e12, "fp8": 459e12, "int8": 918e12}, 95 * GIB,
         2765e9, Torus(3, 9e10, 1e11, pod=8960, largest=6144, full=None), nic=6.25e9, host=4,
         cores=2, mxu=128, vmem_bytes=64 * 2**20, aot="v5p", price=4.20, price_source=_BOOK),
    Chip("v6e", ("TPU v6 lite", "TPU v6e"), {"bf16": 918e12, "fp8": 918e12, "int8": 1836e12},
         32 * GIB, 1638e9, Torus(2, 9e10, 1e11, pod=256, largest=256, full=16), host=8, mxu=256,
         vmem_bytes=128 * 2**20, aot="v6e", price=2.70, price_source=_GOOGLE),
    Chip("7x", ("TPU7x",), {"bf16": 2307e12, "fp8": 4614e12}, 192 * GIB, 7.38e12,
         Torus(3, 9e10, 1e11, pod=9216, largest=9216, full=None), host=4, devices=2, cores=2,
         mxu=256, vmem_bytes=64 * 2**20, aot="tpu7x"),
    _A100,
    replace(_A100, name="a100-80", kinds=("NVIDIA A100-SXM4-80GB",), hbm_bytes=80e9,
            hbm_bandwidth=2039e9, price=3.431,
            price_source="AWS p4de.24xlarge list price / 8, 2025-06"),
    _H100,
    replace(_H100, name="h800", kinds=("NVIDIA H800",), network=Switch(8, 200e9), price=None,
            price_source=""),
    replace(_H100, name="h200", kinds=("NVIDIA H200",), hbm_bytes=141e9, hbm_bandwidth=4800e9,
            price=7.912),
    Chip("b200", ("NVIDIA B200",), {"bf16": 2250e12, "fp8": 4500e12, "int8": 4500e12}, 180e9,
         8000e9, Switch(8, 900e9), nic=50e9, host=8, price=14.24, price_source=_AWS),
)
CHIPS: dict[str, Chip] = {chip.name: chip for chip in _ALL}
_KINDS = {kind: chip for chip in _ALL for kind in chip.kinds}


def chip_of(device_kind: str) -> Chip | None:
    """Returns the chip that jax calls `device_kind`; None if it is not known exactly."""
    return _KINDS.get(device_kind)
