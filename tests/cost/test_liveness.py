"""When results are made and let go, as elementwise traffic is counted by."""

import jax
import jax.numpy as jnp

from lm.cost import lettered, liveness
from lm.cost.layout import Setting
from lm.cost.lettered import Alphabet
from lm.mesh.config import AXES

A = Alphabet("BDFL", dict(B=2))
N = A.size
S = Setting(dict(B=8, D=16, F=64, L=3), dict.fromkeys(AXES, 1))


def shape(*letters):
    return jax.ShapeDtypeStruct(tuple(N[x] for x in letters), jnp.float32)


def planned(fn, *args):
    return liveness.schedule(lettered.read(fn, *args, alphabet=A), True)


def test_a_result_ends_with_its_last_reader():
    plan = planned(lambda x, w, v: (x @ w) @ v, shape("B", "D"), shape("D", "F"), shape("F", "D"))
    first, second = plan.steps
    assert first.makes == second.ends and first.ends == () and second.makes[0] in plan.outputs


def test_a_loop_has_a_schedule_of_its_own():
    def layers(x, ws):
        return jax.lax.scan(lambda x, w: (x @ w @ w.T, None), x, ws)[0]
    plan = planned(layers, shape("B", "D"), shape("L", "D", "F"))
    loop, = plan.steps
    assert [step.op.name for step in loop.inner.steps if step.op.product] == ["dot_general"] * 2


def test_a_size_is_of_one_device():
    plan = planned(lambda x, w: x @ w, shape("B", "D"), shape("D", "F"))
    number, = plan.steps[-1].makes
    spread = S._replace(mesh=dict(S.mesh, data=2, tensor=4))
    assert liveness.sizes_of(plan, number, spread, True, {}) == 4 * 8 * 64 / 8
