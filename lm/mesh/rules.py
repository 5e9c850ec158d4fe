"""How the letters of the alphabet lie on the mesh: one table for storage, one for computing.

Fully sharded data parallelism is the difference of one letter between the two tables: parameters
are stored with D spread over `fsdp`, and computed with whole.
"""

import math
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lm.base.errors import UserError

STORAGE = dict(B=("data", "fsdp"), T=(), S=(), D=("fsdp",), N=("tensor",), K=("tensor",), H=(),
               F=("tensor",), V=("tensor",), L=())
COMPUTE = dict(STORAGE, D=())

# Replicated where they do not divide: few kv heads, vocabularies that nobody padded, and the few
# rows of a sample. Training's batch is checked.
UNEVEN = "BKV"


def spec(axes: str, shape: tuple[int, ...], mesh, table: dict) -> PartitionSpec:
    """Returns the partition of an array of `shape` whose axes are named by letters.

    A mesh axis shards one array axis at most: the first that asks for it.
    """
    used, out = set(), []
    for letter, size in zip(axes, shape, strict=True):
        names = tuple(n for n in table[letter] if n not in used and mesh.shape[n] > 1)
        if letter in UNEVEN and size % math.prod(mesh.shape[n] for n in names):
            names = ()
        used.update(names)
        out.append(names if len(names) > 1 else names[0] if names else None)
    return PartitionSpec(*out)


def sharding(mesh: Mesh, axes: str, shape: tuple[int, ...], table: dict = STORAGE) -> NamedSharding:
    """Returns `spec` on a concrete mesh."""
    return NamedSharding(mesh, spec(axes, shape, mesh, table))


def shard(x: jax.Array, axes: str, table: dict = COMPUTE) -> jax.Array:
    """Returns x, told to lie on the mesh in use as `table` says; x itself without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, spec(axes, x.shape, mesh, table))


def place(read: Callable[[slice], dict[str, np.ndarray]], B: int,
          mesh: Mesh) -> dict[str, jax.Array]:
    """Returns the global batch on the mesh; each process reads only the rows that its devices hold.

    read: rows of [0, B) -> arrays [rows, T].
    """
    rows = sharding(mesh, "B", (B,))
    held = rows.addressable_devices_indices_map((B,)).values()
    start = min(r[0].indices(B)[0] for r in held)
    stop = max(r[0].indices(B)[1] for r in held)

    def put(x):
        def piece(index):
            first, last, _ = index[0].indices(B)
            return x[first - start:last - start]
        shape = (B, *x.shape[1:])
        return jax.make_array_from_callback(shape, sharding(mesh, "BT", shape), piece)

    return {name: put(x) for name, x in read(slice(start, stop)).items()}


def check(sizes: dict[str, int], mesh: Mesh, accumulate: int = 1) -> None:
    """Raises UserError if a size named by its letter does not divide over its mesh axes.

    accumulate: microbatches, over which the rows of a batch divide as well.
    """
    words = dict(B="batch B", D="width D", N="heads N", F="hidden units F")
    for letter, size in sizes.items():
        parts = {n: mesh.shape[n] for n in STORAGE[letter]}
        if letter == "B" and accumulate > 1:
            parts["accumulate"] = accumulate
        ways = math.prod(parts.values())
        if size % ways:
            near = sorted({size // ways * ways, -(-size // ways) * ways} - {0})
            raise UserError(f"{words[letter]} = {size} does not divide over {'*'.join(parts)} = "
                            f"{ways}; nearest: {', '.join(map(str, near))}")
