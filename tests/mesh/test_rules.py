"""Where letters lie on a mesh, and that a batch is the same on every mesh and process."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from lm.base.errors import UserError
from lm.mesh import devices, rules
from lm.mesh.config import AXES, Config


def abstract(**sizes):
    sizes = dict.fromkeys(AXES, 1) | sizes
    return AbstractMesh(tuple(sizes.values()), AXES)


@given(st.text(st.sampled_from(sorted(rules.STORAGE)), min_size=1, max_size=5),
       st.tuples(*[st.sampled_from([1, 1, 2, 4])] * len(AXES)), st.data())
def test_spec(axes, sizes, draw):
    """No mesh axis twice, none of size one, none that is not the letter's; all shards whole."""
    mesh = abstract(**dict(zip(AXES, sizes, strict=True)))
    shape = tuple(draw.draw(st.sampled_from([1, 3, 64, 192])) for _ in axes)
    for table in (rules.STORAGE, rules.COMPUTE):
        spec = rules.spec(axes, shape, mesh, table)
        used = []
        for letter, size, entry in zip(axes, shape, spec, strict=True):
            names = (entry,) if isinstance(entry, str) else entry or ()
            assert set(names) <= set(table[letter]) and all(mesh.shape[n] > 1 for n in names)
            ways = np.prod([mesh.shape[n] for n in names], dtype=int)
            assert size % ways == 0 or letter not in rules.UNEVEN
            used += names
        assert len(used) == len(set(used))


def test_spec_of_weights():
    """Stored with D over fsdp, computed with whole; too few kv heads or an odd vocabulary whole."""
    mesh = abstract(data=2, fsdp=4, tensor=2)
    shape = (3, 64, 4, 16)
    assert rules.spec("LDNH", shape, mesh, rules.STORAGE) == P(None, "fsdp", "tensor", None)
    assert rules.spec("LDNH", shape, mesh, rules.COMPUTE) == P(None, None, "tensor", None)
    assert rules.spec("DKH", (64, 1, 16), mesh, rules.STORAGE) == P("fsdp", None, None)
    assert rules.spec("DKH", (64, 2, 16), mesh, rules.STORAGE) == P("fsdp", "tensor", None)
    assert rules.spec("VD", (50257, 64), mesh, rules.STORAGE) == P(None, "fsdp")
    assert rules.spec("VD", (50304, 64), mesh, rules.STORAGE) == P("tensor", "fsdp")
    # The first array axis that asks for a mesh axis has it.
    assert rules.spec("NF", (4, 64), mesh, rules.STORAGE) == P("tensor", None)


def test_spec_of_stages():
    """Layers lie in stages; where they make uneven ones, and in embeddings, widths do."""
    mesh = abstract(stage=2, fsdp=4)
    assert rules.spec("LDF", (6, 64, 128), mesh, rules.STORAGE) == P("stage", "fsdp", None)
    assert rules.spec("LDF", (5, 64, 128), mesh, rules.STORAGE) == P(None, ("fsdp", "stage"), None)
    assert rules.spec("VD", (64, 64), mesh, rules.STORAGE) == P("stage", "fsdp")
    assert rules.spec("VD", (65, 64), mesh, rules.STORAGE) == P(None, ("fsdp", "stage"))


def test_spec_of_activations():
    """T has the tensor axis where no heads and hidden units have it, and experts take their own."""
    mesh = abstract(data=2, fsdp=2, context=2, tensor=2, expert=2)
    rows = ("data", "fsdp", "expert")
    of = lambda axes, *shape: rules.spec(axes, shape, mesh, rules.COMPUTE)  # noqa: E731
    assert of("BTD", 8, 16, 64) == P(rows, ("context", "tensor"), None)
    assert of("BTNH", 8, 16, 4, 16) == P(rows, "context", "tensor", None)
    assert of("BTKH", 8, 16, 1, 16) == P(rows, ("context", "tensor"), None, None)
    assert of("BTF", 8, 16, 64) == P(rows, "context", "tensor")
    assert of("EBCD", 4, 8, 5, 64) == P("expert", ("data", "fsdp"), None, None)


@pytest.mark.parametrize("context", [1, 2, 4])
def test_order(context):
    """Each device has as many causal scores as any other, and every place is somewhere."""
    order = rules.order(32, context)
    assert sorted(order) == list(range(32))
    scores = (order.reshape(context, -1) + 1).sum(1)
    assert len(set(scores)) == 1
    assert np.array_equal(rules.order(6, 4), np.arange(6))


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_microbatches(parts):
    """Taken apart and together again; each part has the rows that are its turn."""
    x = np.arange(48).reshape(8, 3, 2)
    with devices.use(devices.make(Config(data=2), jax.devices()[:2])):
        apart = jax.jit(rules.microbatches, static_argnums=1)(x, parts)
        np.testing.assert_array_equal(apart, [x[i::parts] for i in range(parts)])
        np.testing.assert_array_equal(jax.jit(rules.together)(apart), x)


MESSAGES = {
    "batch": (dict(B=12), {}, "batch B = 12 does not divide over data*fsdp = 8; nearest: 8, 16"),
    "batch in parts": (dict(B=12), dict(accumulate=2), "batch B = 12 does not divide over "
                       "data*fsdp*accumulate = 16; nearest: 16"),
    "heads": (dict(N=5), {}, "heads N = 5 does not divide over tensor = 2; nearest: 4, 6"),
    "width": (dict(D=2), {}, "width D = 2 does not divide over fsdp = 4; nearest: 4"),
    "hidden": (dict(F=127), {}, "hidden units F = 127 does not divide over tensor = 2; "
               "nearest: 126, 128"),
    "length": (dict(T=12), {}, "length T = 12 does not divide over context*2 = 8; nearest: 8, 16",
               dict(context=4)),
    "experts": (dict(E=6), {}, "experts E = 6 does not divide over expert = 4; nearest: 4, 8",
                dict(expert=4)),
}
GOOD = dict(B=64, T=64, D=64, N=4, F=128, E=8)


@pytest.mark.parametrize("case", MESSAGES)
def test_check(case):
    sizes, more, message, extra = (*MESSAGES[case], {})[:4]
    mesh = abstract(data=2, fsdp=4, tensor=2, **extra)
    rules.check(GOOD, mesh, **more)
    with pytest.raises(UserError) as caught:
        rules.check(GOOD | sizes, mesh, **more)
    assert str(caught.value) == message


def source(rows):
    """Rows of a batch that is a function of their numbers."""
    rows = np.arange(100)[rows]
    return dict(tokens_BT=rows[:, None] * 10 + np.arange(4), weights_BT=np.float32(rows)[:, None])


@pytest.mark.parametrize("config", [Config(data=8), Config(data=2, fsdp=4),
                                    Config(data=1, fsdp=4, tensor=2), Config(data=1, tensor=8),
                                    Config(data=2, context=2, tensor=2)])
def test_place(config):
    """The same global batch on every mesh, a device's shard its own rows of it."""
    mesh = devices.make(config)
    got = rules.place(source, 16, mesh)
    expected = source(slice(0, 16))
    T, context = 4, mesh.shape["context"]
    index = np.arange(16 * T).reshape(16, T)[:, rules.order(T, context)]
    np.testing.assert_array_equal(got.pop("index_BT"), index)
    for name, x in got.items():
        expected[name] = expected[name][:, rules.order(x.shape[1], context)]
        np.testing.assert_array_equal(x, expected[name])
        assert x.sharding.is_equivalent_to(rules.sharding(mesh, "BT", x.shape), 2)
        for shard in x.addressable_shards:
            assert shard.data.shape[0] == 16 // (mesh.shape["data"] * mesh.shape["fsdp"])
            assert x.shape[1] == 1 or shard.data.shape[1] == x.shape[1] // context
            np.testing.assert_array_equal(shard.data, expected[name][shard.index])


PROCESS = """
import sys, jax, numpy as np
jax.distributed.initialize(f"127.0.0.1:{sys.argv[1]}", 2, int(sys.argv[2]))
from lm.mesh import devices, rules
from lm.mesh.config import Config
for config in (Config(data=4), Config(data=1, fsdp=2, tensor=2), Config(data=1, tensor=4)):
    mesh, asked = devices.make(config), []
    def read(rows):
        asked.append((rows.start, rows.stop))
        return dict(x=np.arange(8)[rows, None] * np.ones((1, 3)))
    x = rules.place(read, 8, mesh)["x"]
    with devices.use(mesh):
        total = jax.jit(lambda x: (x[:, 0] * 10.0 ** -np.arange(8)).sum())(x)
    print("read", *asked[0], len(asked), x.shape == (8, 3), f"{float(total):.6f}", flush=True)
"""


def test_place_by_two_processes():
    """Each process reads the rows that its devices hold and no others, once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    env = os.environ | dict(XLA_FLAGS="--xla_force_host_platform_device_count=2",
                            PYTHONPATH=str(pathlib.Path(rules.__file__).parents[2]))
    both = [subprocess.Popen([sys.executable, "-c", PROCESS, port, str(i)], env=env, text=True,
                             stdout=subprocess.PIPE) for i in range(2)]
    lines = [[line for line in process.communicate(timeout=120)[0].splitlines()
              if line.startswith("read")] for process in both]
    total = f"{sum(i * 10.0 ** -i for i in range(8)):.6f}"
    assert lines == [
        [f"read {mine} 1 True {total}", f"read {mine} 1 True {total}", f"read 0 8 1 True {total}"]
        for mine in ("0 4", "4 8")]


def test_shard_without_a_mesh_is_nothing():
    x = np.ones((3, 5), np.float32)
    assert rules.shard(x, "BT") is x
    with devices.use(devices.make(Config(), jax.devices()[:1])):
        assert rules.shard(x, "BT") is x


def test_parts_have_fewer_sharers_than_wholes():
    """Along an axis that a shard_map has taken, what it sees is a part already."""
    seen = []

    def f(x):
        seen.append((rules.sharers(("data", "fsdp")), rules.ways("data")))
        return x
    assert rules.sharers(AXES) == 1
    with devices.use(devices.make(Config(data=4, fsdp=2))):
        f(None)
        jax.jit(jax.shard_map(f, in_specs=P("data"), out_specs=P("data"), axis_names={"data"},
                              check_vma=False))(np.zeros(4))
    assert seen == [(8, 4), (2, 4)]
