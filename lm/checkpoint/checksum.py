"""Checksums of arrays, computed where the arrays lie: the same number on every mesh.

Orbax does not notice a flipped bit in its array files; these numbers, kept beside them, do.
Every element is mixed with its position by a bijection of 32-bit words, so one changed element
always changes the first sum; the second sum, of another mix, makes any other damage (swapped
elements, rows, shards) pass with a chance of 2^-64.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec


def checksums(leaves: Sequence[jax.Array]) -> list[str]:
    """Returns 16 hexadecimal digits for each array; the data never leaves its device.

    On many processes all of them call this together.
    """
    groups = {}  # one program for the arrays of one mesh
    for i, leaf in enumerate(leaves):
        sharding = leaf.sharding
        mesh = sharding.mesh if isinstance(sharding, NamedSharding) else sharding
        groups.setdefault(mesh, []).append(i)
    out = [""] * len(leaves)
    for group in groups.values():
        specs = tuple(getattr(leaves[i].sharding, "spec", None) for i in group)
        mesh = leaves[group[0]].sharding.mesh if specs[0] is not None else None
        sums = jax.device_get(_program([leaves[i] for i in group], mesh=mesh, specs=specs))
        for i, (first, second) in zip(group, sums, strict=True):
            out[i] = f"{int(first):08x}{int(second):08x}"
    return out


def _sums(leaves, mesh, specs):
    return [_sharded(_words(x), mesh, spec) for x, spec in zip(leaves, specs, strict=True)]


_program = jax.jit(_sums, static_argnames=("mesh", "specs"))


def _words(x):
    """Returns the bits of `x` as uint32, one word an element; 64-bit elements give two."""
    if jax.typeof(x).memory_space == jax.memory.Space.Host:  # where nothing computes
        x = jax.device_put(x, jax.memory.Space.Device)
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(x)
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    info = jnp.iinfo if jnp.issubdtype(x.dtype, jnp.integer) else jnp.finfo
    unsigned = jnp.dtype(f"uint{min(info(x.dtype).bits, 32)}")
    return jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)


@functools.partial(jax.jit, static_argnames=("mesh", "spec"))
def _sharded(words, mesh, spec):
    """Each device sums its own shard; only the two sums travel.

    A function of its own, so that arrays of one shape and layout are traced once.
    """
    if mesh is None:
        return _local(words, [0] * words.ndim)
    axes = [spec[d] if d < len(spec) else None for d in range(words.ndim)]
    axes = [a if a is None or isinstance(a, tuple) else (a,) for a in axes]
    used = tuple(name for a in axes for name in a or ())

    def shard(words):
        starts = [jax.lax.axis_index(a) * words.shape[d] if a else 0 for d, a in enumerate(axes)]
        sums = _local(words, starts)
        return jax.lax.psum(sums, used) if used else sums

    return jax.shard_map(shard, mesh=mesh, in_specs=PartitionSpec(*axes),
                         out_specs=PartitionSpec(), check_vma=False)(words)


def _local(words, starts):
    first = _mix(words ^ _positions(words.shape, starts, 0x9E3779B9))
    second = first + _positions(words.shape, starts, 0x7F4A7C15)
    second = (second ^ (second >> 15)) * jnp.uint32(0x2C1B3C6D)
    second = second ^ (second >> 12)
    zero = jnp.uint32(0)
    return jax.lax.reduce((first, second), (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]),
                          range(words.ndim))


def _positions(shape, starts, seed):
    """Returns a word for every element, made of the hashes of its coordinates."""
    out = jnp.full(shape, seed, jnp.uint32)
    for d, start in enumerate(starts):
        i = jax.lax.broadcasted_iota(jnp.uint32, (shape[d],), 0) + jnp.uint32(start)
        hashed = _mix(_mix(i * jnp.uint32(0x9E3779B1) + jnp.uint32(seed)) + jnp.uint32(d + 1))
        out = out + jax.lax.broadcast_in_dim(hashed, shape, (d,))
    return out


def _mix(v):
    """The finalizer of MurmurHash3: a bijection of 32-bit words in which every bit meets all."""
    v = (v ^ (v >> 16)) * jnp.uint32(0x85EBCA6B)
    v = (v ^ (v >> 13)) * jnp.uint32(0xC2B2AE35)
    return v ^ (v >> 16)
