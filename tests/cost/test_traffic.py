"""What is read from programs whose collectives are known, and XLA's notations of groups."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lm.cost import traffic

MESH = dict(data=4, tensor=2)


def read(f, *specs, shape=(8, 16)):
    mesh = jax.make_mesh((4, 2), tuple(MESH), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    x = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, P(*specs)))
    with jax.set_mesh(mesh):
        step = jax.jit(jax.shard_map(f, in_specs=P(*specs), out_specs=P(*specs), check_vma=False))
        return traffic.read(step.lower(x).compile().as_text(), 8)


@pytest.mark.parametrize("axis", MESH)
def test_a_sum(axis):
    [c] = read(lambda x: jax.lax.psum(x, axis), "data", "tensor")
    assert (c.kind, c.bytes, c.times, c.sometimes) == ("all-reduce", 2 * 8 * 4, 1, False)
    assert [c.crosses(MESH, a) for a in MESH] == [a == axis for a in MESH]
    n = MESH[axis]
    assert c.sent == pytest.approx(2 * (n - 1) / n * 64)


def test_a_gather_in_a_loop_in_a_branch():
    def f(x):
        def turn(x, _):
            return x + jax.lax.all_gather(x, "data", axis=1).sum(1), None
        return jax.lax.cond(jax.lax.axis_index("tensor") >= 0,
                            lambda x: jax.lax.scan(turn, x, None, length=5)[0], lambda x: x, x)
    [c] = read(f, "data", "tensor")
    assert (c.kind, c.bytes, c.times, c.sometimes) == ("all-gather", 4 * 64, 5, True)
    assert c.sent == pytest.approx(5 * 3 / 4 * 256)


def test_a_shift():
    [c] = read(lambda x: jax.lax.ppermute(x, "data", [(i, (i + 1) % 4) for i in range(4)]), "data")
    assert c.kind == "collective-permute" and c.crosses(MESH, "data")
    assert not c.crosses(MESH, "tensor") and c.sent == 2 * 16 * 4


@pytest.mark.parametrize(("text", "groups"), [
    ("replica_groups={{0,2},{1,3}}", [[0, 2], [1, 3]]),
    ("replica_groups={}", [[0, 1, 2, 3]]),
    ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
    ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
    ("replica_groups=mesh['a'=2,'b'=2] {'a'}", [[0, 2], [1, 3]]),
    ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}", [[0, 1, 2, 3]]),
    ("replica_groups=mesh['a'=4] {'a':(1)2}", [[0, 2], [1, 3]]),
    ("replica_groups=mesh['a'=4] {'a':(2)2}", [[0, 1], [2, 3]]),
    ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}", [[0, 1], [2, 3]]),
    ("source_target_pairs={{0,1},{1,0}}", [[0, 1], [1, 0]]),
])
def test_every_notation_of_groups(text, groups):
    line = f"  %x = f32[4]{{0}} all-reduce(%y), {text}, use_global_device_ids=true"
    [c] = traffic.read("ENTRY %main (y: f32[4]) -> f32[4] {\n" + line + "\n}", 4)
    np.testing.assert_array_equal(c.groups, groups)
