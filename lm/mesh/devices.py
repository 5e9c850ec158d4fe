"""From the number of devices along each axis to a `jax.sharding.Mesh`."""

import contextlib
import contextvars
import itertools
import math
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh

from lm.base.errors import UserError
from lm.mesh.config import AXES, Config

_first = contextvars.ContextVar("first device of the mesh in use", default=None)


def make(config: Config, devices=None) -> Mesh:
    """Returns the mesh of `config` over `devices` (default: all); UserError lists legal meshes."""
    devices = list(jax.devices() if devices is None else devices)
    shape = fill({axis: getattr(config, axis) for axis in AXES}, len(devices))
    groups = _slices(devices, config.slices)
    if shape[config.across] % len(groups):
        raise UserError(f"mesh.{config.across} = {shape[config.across]} does not divide over "
                        f"{len(groups)} slices; set mesh.{config.across} to a multiple, "
                        "mesh.across to another axis, or mesh.slices=1")
    inner = [n // (len(groups) if axis == config.across else 1) for axis, n in shape.items()]
    grids = [mesh_utils.create_device_mesh(inner, group, allow_split_physical_axes=True)
             for group in groups]
    # Auto axes: the compiler propagates the shardings that parameters and activations are given.
    return Mesh(np.concatenate(grids, AXES.index(config.across)), AXES,
                axis_types=(AxisType.Auto,) * len(AXES))


def _slices(devices, asked):
    """The devices in groups joined by a fast network: as they say, or in `asked` equal runs."""
    if not asked:
        found = {}
        for device in devices:
            found.setdefault(getattr(device, "slice_index", 0), []).append(device)
        return list(found.values())
    if len(devices) % asked:
        raise UserError(f"mesh.slices = {asked} does not divide {len(devices)} devices")
    size = len(devices) // asked
    return [devices[i:i + size] for i in range(0, len(devices), size)]


def fill(asked: dict[str, int], count: int) -> dict[str, int]:
    """Returns `asked` with its -1 replaced so that the product of sizes is `count`."""
    free = [axis for axis, size in asked.items() if size == -1]
    bad = [axis for axis, size in asked.items() if size < 1 and size != -1]
    fixed = math.prod(size for size in asked.values() if size > 0)
    if not bad and len(free) == 1 and count % fixed == 0:
        return {axis: count // fixed if size == -1 else size for axis, size in asked.items()}
    if not bad and not free and fixed == count:
        return dict(asked)
    raise UserError(f"mesh {words(asked)} does not lay out {count} device{'s' * (count > 1)} "
                    f"(at most one axis is -1); legal: {_legal(asked, count)}")


def shapes(count: int) -> list[dict[str, int]]:
    """Returns every mesh of `count` devices as sizes by axis."""
    divisors = [n for n in range(1, count + 1) if count % n == 0]

    def rest(left, axes):
        if not axes:
            return [()] if left == 1 else []
        return [(n, *more) for n in divisors if left % n == 0
                for more in rest(left // n, axes[1:])]
    return [dict(zip(AXES, sizes, strict=True)) for sizes in rest(count, AXES)]


def words(shape: dict[str, int]) -> str:
    """Returns the axes of a mesh that have more than one device (or were asked for), as text."""
    return " ".join(f"{axis}={size}" for axis, size in shape.items() if size != 1) or "one device"


def _legal(asked, count):
    """The meshes of `count` devices, those that keep most of what was asked first."""
    ranked = sorted(shapes(count), key=lambda s: -sum(s[a] == n for a, n in asked.items()))
    first = list(itertools.islice(ranked, 6))
    return ", ".join(map(words, first)) + (", ..." if len(ranked) > 6 else "")


@contextlib.contextmanager
def use(mesh: Mesh):
    """Within the context, `mesh` is the mesh that shardings mean, its platform is `platform()`."""
    token = _first.set(mesh.devices.flat[0])
    try:
        with jax.set_mesh(mesh):
            yield mesh
    finally:
        _first.reset(token)


class Stand(NamedTuple):
    """What stands for a device of which only its kind is known, in a mesh that traces only."""

    platform: str      # 'cpu', 'gpu' or 'tpu'
    device_kind: str   # as jax calls it


@contextlib.contextmanager
def traced(stand: Stand, shape: dict[str, int]):
    """Within the context programs can be traced, not run, as if for such devices in a mesh."""
    token = _first.set(stand)
    mesh = AbstractMesh(tuple(shape.values()), tuple(shape),
                        axis_types=(AxisType.Auto,) * len(shape))
    try:
        with jax.sharding.use_abstract_mesh(mesh):
            yield mesh
    finally:
        _first.reset(token)


def host_memory(mesh: Mesh) -> bool:
    """Returns whether the mesh's devices can keep arrays in their host's memory."""
    device = mesh.devices.flat[0]
    return any(memory.kind == "pinned_host" for memory in device.addressable_memories())


def platform() -> str:
    """Returns the platform that is compiled for: 'cpu', 'gpu' or 'tpu'.

    It is the mesh's, not the machine's: programs are also compiled for chips that are not here.
    """
    device = _first.get()
    return device.platform if device else jax.default_backend()


def kind() -> str:
    """Returns what jax calls the chips that are compiled for, as `TPU v5p`."""
    return (_first.get() or jax.devices()[0]).device_kind
