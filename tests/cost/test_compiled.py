"""The compiler's warnings are heard, its memory is told; what a process has stored is not used."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lm.cost import compiled

X = jax.ShapeDtypeStruct((16, 16, 16), jnp.float32)


def program(*places):
    """A program, new each time, that lays X over a mesh a=2 b=4 in one way after another."""
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("a", "b"))

    def f(x):
        for place in places:
            x = jnp.sin(jax.lax.with_sharding_constraint(x, NamedSharding(mesh, place)))
        return x
    return jax.jit(f).lower(X)


# All devices share the first axis, then one part of them the second and one the third.
BAD = (P(("a", "b")), P(None, "a", "b"))


@pytest.fixture
def stored(capfd):
    """BAD's program, in jax's cache of compiled programs."""
    kept = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    for _ in range(2):
        program(*BAD).compile()
    capfd.readouterr()
    yield
    jax.config.update("jax_persistent_cache_min_compile_time_secs", kept)


def test_a_warning_of_the_partitioner_is_heard(stored, capfd):
    for _ in range(2):
        made = compiled.compile(program(*BAD))
        assert len(made.warnings) == 1
        assert "f32[2,16,16]" in made.warnings[0]
        assert made.collectives.bytes == {"all-gather": 16 ** 3 * 4}
    assert not capfd.readouterr().err
    assert jax.config.jax_enable_compilation_cache


def test_none_where_there_is_none():
    made = compiled.compile(program(P("a"), P(None, "a")))
    assert made.warnings == []
    assert made.arguments == 16 ** 3 * 4 / 2
    assert made.peak == made.arguments + made.outputs + made.temporaries
    assert made.seconds > 0


def test_what_is_written_before_an_error_is_passed_on(capfd):
    with pytest.raises(KeyError), compiled.heard() as lines:
        os.write(2, b"the reason\n")
        raise KeyError
    assert capfd.readouterr().err == "the reason\n"
    assert lines == ["the reason"]
