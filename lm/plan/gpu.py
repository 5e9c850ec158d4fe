"""GPUs that are not here, to compile for: XLA's description of each, and jax's devices of it.

XLA needs no driver for it, but jax's CUDA plugin. It does not refuse what takes too much memory, so
the verdict on that is the planner's own; and it does not try out which kernels are fastest.
"""

import importlib.metadata
import re

import jax
from jax.experimental import topologies

from lm.base.errors import UserError, nearest
from lm.cost.chips import CHIPS, Chip, Switch

# Multiprocessors, the units of each, clock in GHz, L2 in MiB, shared memory in KiB of a
# multiprocessor, compute capability: NVIDIA's architecture white papers and CUDA's tables.
_UNITS = {
    "a100-40": (108, 64, 1.41, 40, 164, 8), "a100-80": (108, 64, 1.41, 40, 164, 8),
    "h100": (132, 128, 1.98, 50, 228, 9), "h200": (132, 128, 1.98, 50, 228, 9),
    "b200": (148, 128, 1.965, 126, 228, 10)}
PLUGINS = ("jax-cuda12-plugin", "jax-cuda13-plugin")


def parse(target: str) -> tuple[Chip, int] | None:
    """Returns the chip and the count of GPUs of `TYPE:COUNT`, as h100:64; None if it is no GPU.

    UserError: a count that is none, or that is not of whole hosts.
    """
    name, _, count = target.partition(":")
    chip = CHIPS.get(name)
    if not chip or not isinstance(chip.network, Switch):
        return None
    if name not in _UNITS:
        raise UserError(f"what a {name} is made of is not known to the compiler"
                        f"{nearest(name, _UNITS)}")
    if not re.fullmatch(r"[1-9]\d*", count):
        raise UserError(f"target '{target}': GPUs are given as {name}:COUNT, e.g. {name}:64")
    if int(count) > chip.host and int(count) % chip.host:
        raise UserError(f"target '{target}': {count} GPUs are no whole hosts of {chip.host}")
    return chip, int(count)


def chips(target: str) -> tuple[Chip, list]:
    """Returns the chip and the devices, to compile for only, of `TYPE:COUNT`."""
    chip, count = parse(target)
    if not version():
        raise UserError("compiling for GPUs needs jax's CUDA plugin, but no GPU: "
                        "pip install 'jax[cuda12]'")
    jax.config.update("jax_platforms", "cpu")
    each = min(count, chip.host)
    try:
        found = topologies.get_topology_desc(
            platform="cuda", topology_name="", topology=f"1x{count // each}x{each}",
            target_config=_description(chip))
    except (RuntimeError, ValueError) as error:
        raise UserError(f"target '{target}': {str(error).splitlines()[0]}") from None
    return chip, list(found.devices)


def version() -> str:
    """Returns the version of jax's CUDA plugin; '' if there is none."""
    for name in PLUGINS:
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def _description(chip):
    """A GPU as a GpuTargetConfigProto in text."""
    count, units, clock, cache, shared, major = _UNITS[chip.name]
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: {(shared - 1) * 1024}
  shared_memory_per_core: {shared * 1024}
  core_count: {count} fpus_per_core: {units} clock_rate_ghz: {clock}
  l2_cache_size: {cache * 2**20} memory_bandwidth: {chip.hbm_bandwidth:.0f}
  device_memory_size: {chip.hbm_bytes:.0f} cuda_compute_capability {{ major: {major} }}
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{chip.kinds[0]}"
"""
