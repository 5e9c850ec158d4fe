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
from lm.mesh.config import Config

WAYS = st.sampled_from([1, 2, 4, 8])


def abstract(data=1, fsdp=1, tensor=1):
    return AbstractMesh((data, fsdp, tensor), ("data", "fsdp", "tensor"))


@given(st.text(st.sampled_from(sorted(rules.STORAGE)), min_size=1, max_size=5), WAYS, WAYS, WAYS,
       st.data())
def test_spec(axes, data, fsdp, tensor, draw):
    """No mesh axis twice, none of size one, none that is not the letter's; all shards whole."""
    mesh = abstract(data, fsdp, tensor)
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
    mesh = abstract(2, 4, 2)
    shape = (3, 64, 4, 16)
    assert rules.spec("LDNH", shape, mesh, rules.STORAGE) == P(None, "fsdp", "tensor", None)
    assert rules.spec("LDNH", shape, mesh, rules.COMPUTE) == P(None, None, "tensor", None)
    assert rules.spec("DKH", (64, 1, 16), mesh, rules.STORAGE) == P("fsdp", None, None)
    assert rules.spec("DKH", (64, 2, 16), mesh, rules.STORAGE) == P("fsdp", "tensor", None)
    assert rules.spec("VD", (50257, 64), mesh, rules.STORAGE) == P(None, "fsdp")
    assert rules.spec("VD", (50304, 64), mesh, rules.STORAGE) == P("tensor", "fsdp")
    assert rules.spec("BTD", (8, 16, 64), mesh, rules.COMPUTE) == P(("data", "fsdp"), None, None)
    # The first array axis that asks for a mesh axis has it.
    assert rules.spec("BTD", (8, 16, 64), mesh, rules.STORAGE) == P(("data", "fsdp"), None, None)
    assert rules.spec("NF", (4, 64), mesh, rules.STORAGE) == P("tensor", None)


MESSAGES = {
    "batch": (dict(B=12), {}, "batch B = 12 does not divide over data*fsdp = 8; nearest: 8, 16"),
    "batch in parts": (dict(B=12), dict(accumulate=2), "batch B = 12 does not divide over "
                       "data*fsdp*accumulate = 16; nearest: 16"),
    "heads": (dict(N=5), {}, "heads N = 5 does not divide over tensor = 2; nearest: 4, 6"),
    "width": (dict(D=2), {}, "width D = 2 does not divide over fsdp = 4; nearest: 4"),
    "hidden": (dict(F=127), {}, "hidden units F = 127 does not divide over tensor = 2; "
               "nearest: 126, 128"),
}
GOOD = dict(B=16, D=64, N=4, F=128)


@pytest.mark.parametrize("case", MESSAGES)
def test_check(case):
    sizes, more, message = MESSAGES[case]
    mesh = abstract(2, 4, 2)
    rules.check(GOOD, mesh, **more)
    with pytest.raises(UserError) as caught:
        rules.check(GOOD | sizes, mesh, **more)
    assert str(caught.value) == message


def source(rows):
    """Rows of a batch that is a function of their numbers."""
    rows = np.arange(100)[rows]
    return dict(tokens_BT=rows[:, None] * 10 + np.arange(3), weights_BT=np.float32(rows)[:, None])


@pytest.mark.parametrize("config", [Config(data=8), Config(data=2, fsdp=4),
                                    Config(data=1, fsdp=4, tensor=2), Config(data=1, tensor=8)])
def test_place(config):
    """The same global batch on every mesh, a device's shard its own rows of it."""
    mesh = devices.make(config)
    got = rules.place(source, 16, mesh)
    expected = source(slice(0, 16))
    for name, x in got.items():
        np.testing.assert_array_equal(x, expected[name])
        assert x.sharding.is_equivalent_to(rules.sharding(mesh, "BT", x.shape), 2)
        for shard in x.addressable_shards:
            assert shard.data.shape[0] == 16 // (mesh.shape["data"] * mesh.shape["fsdp"])
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
