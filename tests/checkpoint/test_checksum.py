"""The checksum sees every flipped bit and every swap, and is the same on every mesh."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lm.checkpoint.checksum import _program, checksums


def one(x):
    return checksums([jnp.asarray(x)])[0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_every_single_bit_flip_changes_it(dtype):
    x = np.asarray(jax.random.normal(jax.random.key(0), (4, 8)) * 30).astype(jnp.dtype(dtype))
    raw, seen = x.view(np.uint8), {one(x)}
    for byte in itertools.product(*map(range, raw.shape)):
        for bit in range(8):
            raw[byte] ^= 1 << bit
            seen.add(one(x))
            raw[byte] ^= 1 << bit
    assert len(seen) == 1 + raw.size * 8


def test_every_swap_changes_it():
    x = np.arange(1, 33, dtype=np.float32) * np.where(np.arange(32) % 2, 1, -1)
    x[16:] = -x[:16]  # a multiplicative checksum misses swaps of x and -x
    seen = {one(x)}
    pairs = list(itertools.combinations(range(32), 2))
    for i, j in pairs:
        y = x.copy()
        y[[i, j]] = y[[j, i]]
        seen.add(one(y.reshape(4, 8)))
    assert len(seen) == 1 + len(pairs)
    assert one(x.reshape(4, 8)) != one(x.reshape(8, 4))
    assert one(np.zeros((4, 8))) != one(np.zeros((5, 8)))  # a lost row of zeros


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_any_mesh_gives_the_same(kind):
    x = jax.random.normal(jax.random.key(1), (16, 24, 8))
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(kind,) * 2)
    specs = [P(), P("a"), P("a", "b"), P("b", "a"), P(None, ("a", "b")), P(None, ("b", "a")),
             P(("a", "b"), None, None)]
    placed = [jax.device_put(x, NamedSharding(mesh, spec)) for spec in specs]
    assert set(checksums(placed)) == {one(x)}
    assert checksums([x, *placed, jnp.int32(3)])[:2] == [one(x)] * 2  # of many meshes at once


def test_no_array_is_gathered():
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    x = jax.device_put(jnp.ones((64, 64)), NamedSharding(mesh, P("b", "a")))
    text = _program.lower([x], mesh=mesh, specs=(P("b", "a"),)).compile().as_text()
    assert "all-gather" not in text and "all-reduce" in text


def test_all_kinds_of_leaves():
    leaves = [jnp.ones((3,), dtype) for dtype in ("float16", "uint32", "bool", "float8_e4m3fn")]
    leaves += [jnp.ones((3,), jnp.int4), jax.random.key(0), jax.random.split(jax.random.key(0), 3),
               jnp.zeros((0, 4)), jnp.int32(7)]
    assert all(len(s) == 16 for s in checksums(leaves))
