"""How the letters of the alphabet lie on the mesh: one table for storage, one for computing.

Fully sharded data parallelism is the difference of one letter between the two tables: parameters
are stored with D spread over `fsdp`, and computed with whole.
"""

import math
from collections.abc import Callable, Iterable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lm.base.errors import UserError

STORAGE = dict(B=("data", "fsdp", "expert"), T=("context",), S=("context",), D=("fsdp", "stage"),
               N=("tensor",), K=("tensor",), H=(), F=("tensor",), V=("tensor", "stage"),
               L=("stage",), E=("expert",), C=(), R=())
STORAGE["."] = ()  # an axis that has no letter
# Between the products of a layer the residual stream is spread over `tensor` too, along T: what a
# product gathers there it scatters again (sequence parallelism, Korthikanti et al. 2022).
COMPUTE = dict(STORAGE, D=(), T=("context", "tensor"))

# Sharded over as many of their mesh axes as divide them: few kv heads, vocabularies that nobody
# padded, layers that make uneven stages, the rows and lengths of a sample. For the others, and for
# training's B and T, `check` speaks first; D is asked for `fsdp` alone.
UNEVEN = "BTSKVLD"


def spec(axes: str, shape: tuple[int, ...], mesh, table: dict) -> PartitionSpec:
    """Returns the partition of an array of `shape` whose axes are named by letters.

    A mesh axis shards one array axis at most: the first that asks for it, V before and T after all
    others, so that T has `tensor` where there are no heads and hidden units to have it. Axes that a
    surrounding shard_map has taken are left to it.
    """
    used, out = set(getattr(mesh, "manual_axes", ())), [None] * len(axes)
    for i in sorted(range(len(axes)), key=lambda i: (axes[i] == "T") - (axes[i] == "V")):
        names = []
        for name in table[axes[i]]:
            ways = math.prod(mesh.shape[n] for n in (*names, name))
            whole = axes[i] not in UNEVEN or shape[i] % ways == 0
            if name not in used and mesh.shape[name] > 1 and whole:
                names.append(name)
        used.update(names)
        out[i] = tuple(names) if len(names) > 1 else names[0] if names else None
    return PartitionSpec(*out)


def sharding(mesh: Mesh, axes: str, shape: tuple[int, ...], table: dict = STORAGE) -> NamedSharding:
    """Returns `spec` on a concrete mesh."""
    return NamedSharding(mesh, spec(axes, shape, mesh, table))


def shard(x: jax.Array, axes: str, table: dict = COMPUTE) -> jax.Array:
    """Returns x, told to lie on the mesh in use as `table` says; x itself without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or not mesh.auto_axes:
        return x
    return jax.lax.with_sharding_constraint(x, spec(axes, x.shape, mesh, table))


def microbatches(x, parts: int):
    """Returns x [B, T, ...] as [parts, B / parts, T, ...]; microbatch i has rows i, i + parts, ...

    Each device keeps its own rows.
    """
    x = x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)
    return shard(x, ".BT" + "." * (x.ndim - 3))


def together(x):
    """Returns what `microbatches` took apart, [B, T, ...]."""
    x = x.swapaxes(0, 1)
    x = x.reshape(-1, *x.shape[2:])
    return shard(x, "BT" + "." * (x.ndim - 2))


def ways(axis: str) -> int:
    """Returns the number of devices along an axis of the mesh in use; 1 without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape[axis]


def sharers(axes: Iterable[str]) -> int:
    """Returns the number of devices over which an array's parts may lie along mesh axes.

    Along what a surrounding shard_map has taken, arrays are parts already.
    """
    taken = jax.sharding.get_abstract_mesh().manual_axes
    return math.prod(ways(axis) for axis in axes if axis not in taken)


def island(f: Callable, in_specs, out_specs) -> Callable:
    """Returns f as the program that each device runs on its own parts of the arrays.

    The parts are those of `spec`. The program has all mesh axes to itself but those that a
    surrounding shard_map has taken, and but `stage`, unless `over_stages` has dealt that one out: a
    plain vmap over stages would bring every stage's arrays to all.
    """
    mesh = jax.sharding.get_abstract_mesh()
    own = {n for n in mesh.axis_names if n not in mesh.manual_axes
           and (n != "stage" or mesh.shape[n] == 1 or _over_stages())}
    # The check of what is replicated knows neither kernels nor islands within islands.
    return jax.shard_map(f, in_specs=in_specs, out_specs=out_specs, axis_names=own,
                         check_vma=False)


def over_stages(f: Callable) -> Callable:
    """Returns f mapped over a first array axis that lies on `stage`, each stage's own on its own.

    Within it no island leaves `stage` to the partitioner, which would bring what an island gathers
    to all stages, and does not do kernels of TPUs, nor sums in bfloat16 on a CPU.
    """
    return jax.vmap(f, axis_name="stages", spmd_axis_name="stage")


def _over_stages():
    try:
        return bool(jax.lax.axis_size("stages"))
    except NameError:
        return False


def order(T: int, context: int) -> np.ndarray:
    """Returns the places in time of a row's T columns as `context` devices hold them.

    Zig-zag: device i of n holds the parts i and 2n-1-i of 2n, so that each has as many causal
    scores to compute (Brandon et al. 2023). Places in time where T does not divide.
    """
    if context == 1 or T % (2 * context):
        return np.arange(T)
    parts = np.arange(T).reshape(2 * context, -1)
    return np.concatenate([parts[j] for i in range(context) for j in (i, 2 * context - 1 - i)])


def place(read: Callable[[slice], dict[str, np.ndarray]], B: int,
          mesh: Mesh) -> dict[str, jax.Array]:
    """Returns the global batch on the mesh; each process reads only the rows that its devices hold.

    read: rows of [0, B) -> arrays [rows, T]. The columns come in `order`, and with index_BT, the
    number of each token in the batch in its own order: row * T + time. By it tokens know each
    other, and dropout knows them, wherever they lie.
    """
    rows = sharding(mesh, "B", (B,))
    held = rows.addressable_devices_indices_map((B,)).values()
    start = min(r[0].indices(B)[0] for r in held)
    stop = max(r[0].indices(B)[1] for r in held)

    def put(x):
        def piece(index):
            first, last, _ = index[0].indices(B)
            return x[first - start:last - start, index[1]]
        shape = (B, *x.shape[1:])
        return jax.make_array_from_callback(shape, sharding(mesh, "BT", shape), piece)

    batch = {name: np.asarray(x) for name, x in read(slice(start, stop)).items()}
    T = max(x.shape[1] for x in batch.values())
    batch["index_BT"] = np.arange(start, stop, dtype=np.int32)[:, None] * T + np.arange(
        T, dtype=np.int32)
    if mesh.shape["context"] > 1:
        batch = {name: x[:, order(x.shape[1], mesh.shape["context"])] for name, x in batch.items()}
    return {name: put(x) for name, x in batch.items()}


_WORDS = dict(B="batch B", T="length T", D="width D", N="heads N", F="hidden units F",
              E="experts E")


def check(sizes: dict[str, int], mesh: Mesh, accumulate: int = 1) -> None:
    """Raises UserError if a size named by its letter does not divide over its mesh axes.

    accumulate: microbatches, over which the rows of a batch divide as well.
    """
    for letter, size in sizes.items():
        parts = {n: mesh.shape[n] for n in STORAGE[letter] if mesh.shape[n] > 1 and n != "stage"}
        if letter == "B" and accumulate > 1:
            parts["accumulate"] = accumulate
        if letter == "T" and parts:
            parts["2"] = 2  # each device holds an early and a late part
        ways = math.prod(parts.values())
        if size % ways:
            near = sorted({size // ways * ways, -(-size // ways) * ways} - {0})
            raise UserError(f"{_WORDS[letter]} = {size} does not divide over {'*'.join(parts)} = "
                            f"{ways}; nearest: {', '.join(map(str, near))}")
