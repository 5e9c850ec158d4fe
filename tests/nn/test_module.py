"""Parameters as data: declared without memory, made by name, stacked, bound, cast."""

import jax
import jax.numpy as jnp
import numpy as np

from lm.mesh import devices, rules
from lm.mesh.config import Config as Mesh
from lm.nn.module import Constant, Module, Normal, Spec, compute, declare, param, stack

SIZES = dict(D=6, F=4, H=3, N=2, V=5)


class Inner(Module):
    def __init__(self):
        self.w = param("DF", SIZES, Normal(0.5), "D")
        self.b = param("F", SIZES, Constant(2.0))

    def __call__(self, x):
        return x @ self.w[...] + self.b[...]


class Outer(Module):
    def __init__(self, more=False, L=3):
        self.table = param("VD", SIZES, Normal(1.0))
        if more:
            self.another = param("DNH", SIZES, Normal(1.0), "D")
            self.aa, self.bb = Inner(), Inner()
        self.layers = stack(Inner(), L)


def test_specs():
    """What is asked of a parameter is read from its declaration; a stack's has L in front."""
    specs = declare(Outer(more=True)).specs
    assert specs["table"] == Spec("VD", Normal(1.0), "", True)
    assert specs["layers"]["w"] == Spec("LDF", Normal(0.5), "D", True)
    assert specs["layers"]["b"] == Spec("LF", Constant(2.0), "", False)  # not decayed
    assert [specs["another"].hidden, specs["table"].hidden, specs["layers"]["b"].hidden] == [
        True, False, False]
    assert specs["another"].outputs == "NH" and specs["layers"]["w"].outputs == "F"
    assert not Spec("DV", Normal(1.0), "D", True).hidden


def test_count_and_shapes():
    declaration = declare(Outer())
    assert jax.tree.map(lambda x: x.shape, declaration.shapes) == dict(
        table=(5, 6), layers=dict(w=(3, 6, 4), b=(3, 4)))
    assert declaration.count == 5 * 6 + 3 * (6 * 4 + 4)
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(declaration.shapes))


def test_init():
    """As declared; a function of key and name, which other parameters do not change."""
    small, large = declare(Outer()), declare(Outer(more=True))
    one, two = small.init(jax.random.key(0)), large.init(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, one, {k: two[k] for k in one})
    assert (one["layers"]["b"] == 2).all()
    w = one["layers"]["w"]
    assert not np.array_equal(w[0], w[1]) and not np.array_equal(w[0], two["aa"]["w"])
    assert not np.array_equal(two["aa"]["w"], two["bb"]["w"])
    other = small.init(jax.random.key(1))
    assert not np.array_equal(other["table"], one["table"])
    big = declare(stack(Inner(), 2000)).init(jax.random.key(0))["w"]
    np.testing.assert_allclose(big.std(), 0.5, rtol=0.02)
    np.testing.assert_allclose(big.mean(), 0, atol=0.01)


def test_bind_and_scan():
    """A bound stack runs layer by layer, as the same layers one by one."""
    declaration = declare(stack(Inner(), 3))
    params = declaration.init(jax.random.key(0))
    x = jnp.ones((2, 6))

    @jax.jit
    def scanned(params):
        return jax.lax.scan(lambda x, layer: (x, layer(x)), x, declaration.bind(params))[1]
    for i, y in enumerate(scanned(params)):
        np.testing.assert_allclose(y, x @ params["w"][i] + params["b"][i], rtol=1e-5)


def test_compute():
    """Cast and whole over fsdp; in a scan the layers' axis is gone."""
    declaration = declare(stack(Inner(), 3))
    params = declaration.init(jax.random.key(0))
    with devices.use(devices.make(Mesh(data=1, fsdp=2, tensor=2), jax.devices()[:4])) as mesh:
        params = jax.device_put(params, declaration.shardings(mesh))
        assert params["w"].sharding.shard_shape((3, 6, 4)) == (3, 3, 2)
        seen = []

        @jax.jit
        def run(params):
            model = compute(declaration.bind(params), jnp.bfloat16)
            jax.lax.scan(lambda x, layer: (x, seen.append(compute(layer, jnp.float16))), 0,
                         declaration.bind(params))
            return model.w[...]
        w = run(params)
        assert w.dtype == jnp.bfloat16 and w.sharding.shard_shape(w.shape) == (3, 6, 2)
        assert seen[0].w[...].shape == (6, 4) and seen[0].w[...].dtype == jnp.float16
        assert rules.spec("LDF", (3, 6, 4), mesh, rules.COMPUTE)[1] is None
