"""From the number of devices along each axis to a `jax.sharding.Mesh`."""

import contextlib
import contextvars
import dataclasses
import itertools
import math

import jax
from jax.sharding import AxisType, Mesh

from lm.base.errors import UserError
from lm.mesh.config import Config

# Slowest network first: neighbours along the last axis are neighbours on the chip's own links.
AXES = tuple(field.name for field in dataclasses.fields(Config))

_platform = contextvars.ContextVar("platform", default=None)


def make(config: Config, devices=None) -> Mesh:
    """Returns the mesh of `config` over `devices` (default: all); UserError lists legal meshes."""
    devices = list(jax.devices() if devices is None else devices)
    asked = dataclasses.asdict(config)
    shape = fill(asked, len(devices))
    # Auto axes: the compiler propagates the shardings that parameters and activations are given.
    return jax.make_mesh(tuple(shape.values()), AXES, axis_types=(AxisType.Auto,) * len(AXES),
                         devices=devices)


def fill(asked: dict[str, int], count: int) -> dict[str, int]:
    """Returns `asked` with its -1 replaced so that the product of sizes is `count`."""
    free = [axis for axis, size in asked.items() if size == -1]
    bad = [axis for axis, size in asked.items() if size < 1 and size != -1]
    fixed = math.prod(size for size in asked.values() if size > 0)
    if not bad and len(free) == 1 and count % fixed == 0:
        return {axis: count // fixed if size == -1 else size for axis, size in asked.items()}
    if not bad and not free and fixed == count:
        return dict(asked)
    text = " ".join(f"{axis}={size}" for axis, size in asked.items())
    raise UserError(f"mesh {text} does not lay out {count} device{'s' * (count > 1)} "
                    f"(at most one axis is -1); legal: {_legal(asked, count)}")


def _legal(asked, count):
    """The meshes of `count` devices, those that keep most of what was asked first."""
    divisors = [n for n in range(1, count + 1) if count % n == 0]
    shapes = [s for s in itertools.product(divisors, repeat=len(asked)) if math.prod(s) == count]
    shapes.sort(key=lambda s: -sum(a == b for a, b in zip(s, asked.values(), strict=True)))
    texts = [" ".join(f"{a}={n}" for a, n in zip(asked, s, strict=True)) for s in shapes[:6]]
    return ", ".join(texts) + (", ..." if len(shapes) > 6 else "")


@contextlib.contextmanager
def use(mesh: Mesh):
    """Within the context, `mesh` is the mesh that shardings mean, its platform is `platform()`."""
    token = _platform.set(mesh.devices.flat[0].platform)
    try:
        with jax.set_mesh(mesh):
            yield mesh
    finally:
        _platform.reset(token)


def platform() -> str:
    """Returns the platform that is compiled for: 'cpu', 'gpu' or 'tpu'.

    It is the mesh's, not the machine's: programs are also compiled for chips that are not here.
    """
    return _platform.get() or jax.default_backend()
