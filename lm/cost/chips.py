"""The chips: rates, memories, networks and prices, as published. Nothing here imports jax.

Sources. TPU: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p-training,v6e,tpu7x}, compute/docs/tpus/
tpu-machines (host memory of whole hosts, data-centre network), jax's tpu_info.py; for link and PCIe
rates that are reached in practice, the scaling book's `tpus` chapter; for `usable`, the limit of
libtpu 0.0.52's compiler. GPU: NVIDIA's product pages, dense rates (half of those quoted with
sparsity); host memory and network of the AWS instance that the price is of. A GPU that differs from
the SXM module of its name (PCIe, NVL, a MIG slice) is another chip and is not listed. Prices change
and differ by vendor and region: a line that uses one prints `price_source`. What is not published
is None, and stays so.
"""

import json
import pathlib
import tomllib
from dataclasses import dataclass, field, fields, replace

from lm.base.errors import UserError, nearest, pick

GIB = 2**30
# What a program may hold of a GPU's nominal memory: the rest is for CUDA's and NCCL's own buffers,
# which the driver's surplus over the nominal (81559 MiB of "80 GB") covers in part, and for gaps.
SHARE = 0.94


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
    pair: float | None = None  # bytes/s one way between the two jax devices of a chip

    def wraps(self, shape: tuple[int, ...]) -> tuple[bool, ...]:
        """Returns for each axis of a slice whether its ring is closed."""
        if self.full:
            return tuple(n == self.full for n in shape)
        return (all(n % 4 == 0 for n in shape),) * len(shape)


@dataclass(frozen=True)
class Switch:
    """The network between GPUs: all to all inside one domain.

    Of large messages 370e9 bytes/s were measured on H100, of 58 MB ones 150e9: the scaling book,
    `gpus` chapter. That share, and those bytes, are taken for all.
    """

    domain: int           # GPUs
    link: float           # bytes/s in and out of one GPU, one way
    reached: float = 0.82  # share of `link` that collectives of large messages reach
    ramp: float = 85e6    # bytes by which a message seems longer, or by 370/150 if that is less
    hop: float = 1e-5     # seconds of the smallest collective; an order of magnitude


@dataclass(frozen=True)
class Chip:
    """One chip. A jax device is `1 / devices` of it; rates are of the whole chip.

    flops: dense FLOP/s (or OP/s) by the dtype of the operands; the first is the rate against which
    utilisation is quoted.
    """

    name: str
    kinds: tuple[str, ...]        # jax's device_kind
    flops: dict[str, float] = field(hash=False)
    hbm_bytes: float
    hbm_bandwidth: float | None   # bytes/s
    network: Torus | Switch | None = None
    nic: float | None = None      # bytes/s of one chip, one way, beyond that network
    host: int = 1                 # chips of one host
    host_bytes: float | None = None  # memory of such a host
    pcie: float | None = None     # bytes/s of one chip from its host, one way
    usable: float | None = None   # bytes of one jax device that a program may hold
    devices: int = 1              # jax devices of one chip
    cores: int = 1
    mxu: int | None = None        # the matrix unit is mxu x mxu
    tile: tuple[int, int, int] | None = None  # a matmul's m, k, n are padded to multiples of it
    vmem_bytes: int | None = None  # per core
    aot: str | None = None        # the name before the colon for jax's topologies
    aot_options: dict = field(default_factory=dict, hash=False)
    price: float | None = None    # $ per chip-hour on demand
    price_source: str = ""

    def peak(self, dtype: str | None = None) -> float | None:
        """Returns the FLOP/s of one jax device; None if no rate is published for `dtype`."""
        rate = self.flops.get(dtype) if dtype else next(iter(self.flops.values()))
        return None if rate is None else rate / self.devices

    def memory(self) -> float:
        """Returns the bytes of one jax device that a program may hold."""
        return self.usable or SHARE * self.hbm_bytes / self.devices


_BOOK = "scaling book, applied inference, 2025"
_GOOGLE = "Google list price as quoted in public code, 2025"
_AWS = "AWS us-east-1 list price / 8, 2026-08"
_HOPPER = {"bf16": 989.4e12, "tf32": 494.7e12, "fp8": 1979e12, "int8": 1979e12}
_TILE = (128, 64, 128)  # the thread blocks' of CUTLASS's kernels for these GPUs
_A100 = Chip(
    "a100-40", ("NVIDIA A100-SXM4-40GB",), {"bf16": 312e12, "tf32": 156e12, "int8": 624e12}, 40e9,
    1555e9,
    Switch(8, 300e9), nic=25e9, host=8, host_bytes=1152 * GIB, pcie=32e9, tile=_TILE, price=2.745,
    price_source="AWS p4d.24xlarge list price / 8, 2025-06")
_H100 = Chip(
    "h100", ("NVIDIA H100 80GB HBM3",), _HOPPER, 80e9, 3350e9, Switch(8, 450e9), nic=50e9, host=8,
    host_bytes=2048 * GIB, pcie=64e9, tile=_TILE, price=6.88, price_source=_AWS)

_ALL = (
    Chip("v4", ("TPU v4",), {"bf16": 275e12, "int8": 275e12}, 32 * GIB, 1.228e12,
         Torus(3, 4.5e10, 5e10, pod=4096, largest=4096, full=None), host=4, pcie=1.6e10,
         usable=30.75 * GIB, cores=2, mxu=128, tile=(8, 128, 128), vmem_bytes=16 * 2**20, aot="v4",
         aot_options={"chip_config_name": "megacore"}, price=3.22, price_source=_GOOGLE),
    Chip("v5e", ("TPU v5 lite", "TPU v5e"), {"bf16": 197e12, "int8": 393e12}, 16 * GIB, 819e9,
         Torus(2, 4.5e10, 5e10, pod=256, largest=256, full=16), nic=3.125e9, host=8,
         host_bytes=384 * GIB, pcie=1.5e10, usable=15.75 * GIB, mxu=128, tile=(8, 128, 128),
         vmem_bytes=128 * 2**20, aot="v5e", price=1.20, price_source=_BOOK),
    Chip("v5p", ("TPU v5", "TPU v5p"), {"bf16": 459e12, "fp8": 459e12, "int8": 918e12}, 95 * GIB,
         2765e9, Torus(3, 9e10, 1e11, pod=8960, largest=6144, full=None), nic=6.25e9, host=4,
         host_bytes=448 * GIB, pcie=1.5e10, usable=95.73 * GIB, cores=2, mxu=128,
         tile=(8, 128, 128), vmem_bytes=64 * 2**20, aot="v5p", price=4.20, price_source=_BOOK),
    Chip("v6e", ("TPU v6 lite", "TPU v6e"), {"bf16": 918e12, "fp8": 918e12, "int8": 1836e12},
         32 * GIB, 1638e9, Torus(2, 9e10, 1e11, pod=256, largest=256, full=16), nic=12.5e9, host=8,
         host_bytes=1440 * GIB, pcie=3.2e10, usable=31.24 * GIB, mxu=256, tile=(8, 256, 256),
         vmem_bytes=128 * 2**20, aot="v6e", price=2.70, price_source=_GOOGLE),
    Chip("7x", ("TPU7x",), {"bf16": 2307e12, "fp8": 4614e12}, 192 * GIB, 7.38e12,
         Torus(3, 9e10, 1e11, pod=9216, largest=9216, full=None, pair=6e11), nic=12.5e9, host=4,
         host_bytes=960 * GIB, usable=94.74 * GIB, devices=2, cores=2, mxu=256, tile=(8, 256, 256),
         vmem_bytes=64 * 2**20, aot="tpu7x"),
    _A100,
    replace(_A100, name="a100-80", kinds=("NVIDIA A100-SXM4-80GB",), hbm_bytes=80e9,
            hbm_bandwidth=2039e9, price=3.431,
            price_source="AWS p4de.24xlarge list price / 8, 2025-06"),
    _H100,
    replace(_H100, name="h800", kinds=("NVIDIA H800",), network=Switch(8, 200e9), host_bytes=None,
            price=None, price_source=""),
    replace(_H100, name="h200", kinds=("NVIDIA H200",), hbm_bytes=141e9, hbm_bandwidth=4800e9,
            price=7.912),
    Chip("b200", ("NVIDIA B200",), {"bf16": 2250e12, "tf32": 1125e12, "fp8": 4500e12,
                                    "int8": 4500e12}, 180e9,
         8000e9, Switch(8, 900e9), nic=50e9, host=8, host_bytes=2048 * GIB, pcie=64e9, tile=_TILE,
         price=14.24, price_source=_AWS),
)
CHIPS: dict[str, Chip] = {chip.name: chip for chip in _ALL}
_KINDS = {kind: chip for chip in _ALL for kind in chip.kinds}
_ROOMS = ("flops", "network", "aot_options")
_DTYPES = ("bf16", "fp8", "int8", "fp4", "int4", "f32")
_TEXTS = {"name": str, "aot": str, "price_source": str, "kinds": tuple, "tile": tuple}
_UNKNOWN = {f.name for f in fields(Chip) if f.default is None}  # may be None
_WHOLE = {"host", "devices", "cores", "mxu", "vmem_bytes", "network.axes", "network.pod",
          "network.largest", "network.full", "network.domain"}


def chip_of(device_kind: str) -> Chip | None:
    """Returns the chip that jax calls `device_kind`; None if it is not known exactly."""
    return _KINDS.get(device_kind)


def override(chip: Chip, changes: dict, source: str = "as given") -> Chip:
    """Returns the chip with other values; UserError for an unknown field or a wrong value.

    changes: by field; of the network as `network.link`, of one dtype's rate as `flops.bf16`, or as
    a dict of these under `network` and `flops`. source: of a price that comes without its own.
    """
    flat = dict(_flat(changes))
    known = _fields(chip)
    parts = {room: {} for room in ("", *_ROOMS)}
    for key, new in flat.items():
        room, _, name = key.rpartition(".")
        if key not in known and room != "aot_options":
            raise UserError(f"chip {chip.name} has no field '{key}'{nearest(key, known)}")
        parts[room][name] = new if room == "aot_options" else _value(chip, key, new)
    own = parts[""]
    if "price" in own:
        own.setdefault("price_source", source if own["price"] else "")
    if "hbm_bytes" in own and chip.usable:  # the same share of another memory
        own.setdefault("usable", chip.usable * own["hbm_bytes"] / chip.hbm_bytes)
    if parts["network"]:
        own["network"] = replace(chip.network, **parts["network"])
    return replace(chip, flops={**chip.flops, **parts["flops"]},
                   aot_options={**chip.aot_options, **parts["aot_options"]}, **own)


def catalogue(path: str | None = None) -> dict[str, Chip]:
    """Returns the chips by name, with those of a TOML or JSON file; UserError if it is wrong.

    The file has a table for each chip: fields that change, or, for a new chip, also `like`, the
    chip that it else equals, but for its price.
    """
    chips = dict(CHIPS)
    for name, changes in _read(path).items() if path else ():
        if not isinstance(changes, dict):
            raise UserError(f"{path}: '{name}' is no table of a chip's fields")
        changes = dict(changes)
        like = changes.pop("like", None)
        if like is None and name not in chips:
            raise UserError(f"{path}: unknown chip '{name}'{nearest(name, chips)}; a new one says "
                            "which it is like: like = \"h100\"")
        chip = pick(chips, name if like is None else like, "chip")
        if like is not None:
            chip = replace(chip, name=name, kinds=(), price=None, price_source="")
        chips[name] = override(chip, changes, source=str(path))
    return chips


def _read(path):
    """The tables of a user's file."""
    try:
        text = pathlib.Path(path).read_text()
        found = json.loads(text) if str(path).endswith(".json") else tomllib.loads(text)
    except (OSError, ValueError) as error:  # both formats' errors are ValueErrors
        raise UserError(f"chips of {path}: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"chips of {path}: not a table of chips by name")
    return found


def _flat(changes):
    """The changes with one key each, as `network.link`."""
    for key, new in changes.items():
        if key in _ROOMS and isinstance(new, dict):
            yield from ((f"{key}.{inner}", value) for inner, value in new.items())
        else:
            yield key, new


def _fields(chip):
    """The names under which the values of a chip can be changed."""
    network = [f"network.{f.name}" for f in fields(chip.network)] if chip.network else []
    return [*(f.name for f in fields(Chip) if f.name not in _ROOMS), *network,
            *(f"flops.{dtype}" for dtype in _DTYPES)]


def _value(chip, key, new):
    """`new` as a field's value: a number above 0, unless the field is a text or a list."""
    kind = _TEXTS.get(key)
    if new is None and key in _UNKNOWN or kind is str and isinstance(new, str):
        return new
    if kind is tuple and isinstance(new, (list, tuple)):
        return tuple(new)
    try:
        number = None if kind or isinstance(new, bool) else float(new)
    except (TypeError, ValueError):
        number = None
    whole = key in _WHOLE
    if number is None or not 0 < number < float("inf") or whole and number % 1:
        wanted = {str: "a text", tuple: "a list"}.get(
            kind, "a whole number above 0" if whole else "a number above 0")
        raise UserError(f"chip {chip.name}: {key} = {new!r} is not {wanted}")
    return int(number) if whole else number
