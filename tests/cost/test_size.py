"""Bytes, whole and by device, are those of the arrays that would be made."""

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lm.cost import size

TREE = {"w": jax.ShapeDtypeStruct((64, 32), jnp.bfloat16), "b": jnp.ones((32,)),
        "q": jax.ShapeDtypeStruct((5, 3), jnp.int4), "key": jax.random.key(0)}


def test_whole_trees():
    assert size.elements(TREE) == 64 * 32 + 32 + 15 + 1
    assert size.by_dtype(TREE) == {"bfloat16": 4096, "float32": 128, "int4": 8, "key<fry>": 8}
    assert size.nbytes(TREE) == 4096 + 128 + 8 + 8
    assert size.nbytes([jnp.ones(3, jnp.bool_), jnp.ones(3, jnp.float8_e4m3fn)]) == 6


def test_one_device():
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    split, whole = NamedSharding(mesh, P("a", "b")), NamedSharding(mesh, P())
    assert size.per_device(TREE) == size.nbytes(TREE)
    places = {"w": split, "b": whole, "q": whole, "key": whole}
    assert size.per_device(TREE, places) == 4096 // 8 + 128 + 8 + 8
    assert size.per_device({"w": TREE["w"]}, split) == 512
    placed = jax.device_put(jnp.ones((64, 32)), split)
    assert size.per_device([placed]) == placed.addressable_shards[0].data.nbytes
