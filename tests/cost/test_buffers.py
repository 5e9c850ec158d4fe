"""Which results are arrays in memory, and when: programs whose peak can be worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.cost import buffers, lettered, memory
from lm.cost.beside import KINDS
from lm.cost.layout import Setting
from lm.cost.lettered import Alphabet
from lm.mesh.config import AXES

ONE = dict.fromkeys(AXES, 1)
SIZES = dict(B=8, t=16, D=256, F=1024, L=6)
A = Alphabet("BtDFL", dict(B=2, D=4, F=4))
N = A.size


def shape(letters, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(tuple(N[x] for x in letters), dtype)


def elements(letters):
    return float(np.prod([SIZES[x] for x in letters]))


def peak(fn, *args, mesh=ONE, kernel=True):
    program = lettered.read(fn, *args, alphabet=A)
    plan = buffers.schedule(program, kernel)
    return memory.peak(plan, Setting(SIZES, dict(mesh)), memory.Device(kernel, False))


def test_work_between_products_is_fused_into_them():
    def both(x, w, v):
        return jnp.tanh(x @ w) @ v
    got = peak(both, shape("BtD"), shape("DF"), shape("FD"))
    assert got.total == 2 * (elements("BtF") + elements("BtD"))


def test_a_library_reads_and_writes_arrays():
    def both(x, w, v):
        return jnp.tanh(x @ w) @ v
    got = peak(both, shape("BtD"), shape("DF"), shape("FD"), kernel=False)
    assert got.total == 2 * (elements("BtF") + elements("BtD"))  # tanh in the place of its input


def test_what_several_read_is_let_go_after_the_last():
    def gated(x, w, v, u):
        y = x @ w
        return (y * jax.nn.sigmoid(x @ v)) @ u
    got = peak(gated, shape("BtD"), shape("DF"), shape("DF"), shape("FD"))
    # One product's result, then the gated one, in which the other's is fused, and the last's.
    assert got.total == 2 * 2 * elements("BtF")


def test_sums_that_a_loop_hands_on_are_worked_out_in_place():
    def sums(xs, w):
        return jax.lax.scan(lambda total, x: (total + jnp.einsum("BD,BF->DF", x, x @ w), None),
                            jnp.zeros((N["D"], N["F"]), jnp.float32), xs)[0]
    got = peak(sums, shape("LBD"), shape("DF"))
    assert got.total == 4 * elements("DF") + 2 * elements("BF")
    assert dict(zip(KINDS, got.kinds, strict=True))["working"] == 2 * elements("BF")


def test_what_a_loop_stacks_is_all_there_from_its_beginning():
    def stack(x, ws):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), x), x, ws)[1]
    got = dict(zip(KINDS, peak(stack, shape("BtD"), jax.ShapeDtypeStruct(
        (N["L"], N["D"], N["D"]), jnp.bfloat16)).kinds, strict=True))
    assert got["activations"] == 2 * elements("LBtD")


@pytest.mark.parametrize("fsdp", [1, 2, 4])
def test_weights_of_a_loop_are_converted_before_it(fsdp):
    """Sharded as they are stored: D over `fsdp`."""
    def layers(x, ws):
        return jax.lax.scan(lambda x, w: (x + x @ w.astype(x.dtype) @ w.astype(x.dtype).T, None),
                            x, ws)[0]
    got = dict(zip(KINDS, peak(layers, shape("BtD"), shape("LDF", jnp.float32),
                               mesh=dict(ONE, fsdp=fsdp)).kinds, strict=True))
    assert got["gathered"] == 2 * elements("LDF") / fsdp


def test_many_plans_at_once_are_the_same_as_one_by_one():
    def both(x, w, v):
        return jnp.tanh(x @ w) @ v
    args = shape("BtD"), shape("DF"), shape("FD")
    plan = buffers.schedule(lettered.read(both, *args, alphabet=A), True)
    on = memory.Device(True, True)
    rows, ways = np.array([8.0, 16, 64]), np.array([1.0, 2, 8])
    many = memory.peak(plan, Setting(dict(SIZES, B=rows), dict(ONE, data=ways)), on)
    one = [memory.peak(plan, Setting(dict(SIZES, B=b), dict(ONE, data=n)), on).total
           for b, n in zip(rows, ways, strict=True)]
    np.testing.assert_array_equal(many.total, one)
