"""Loss scaling, histories and stochastic rounding, alone and in whole training steps."""

import dataclasses
import functools
import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from families import FAMILIES, batch

from lm.base.mean import Mean
from lm.checkpoint.store import Checkpoints
from lm.mesh import devices, rules
from lm.mesh.config import Config as Mesh
from lm.models.decoder import model as decoder
from lm.train import optimizers, precision
from lm.train import step as program
from lm.train.config import Config as Train

MESHES = {
    "one": Mesh(data=1),
    "data 8": Mesh(data=8),
    "fsdp 8": Mesh(data=1, fsdp=8),
    "tensor 2 x fsdp 4": Mesh(data=1, fsdp=4, tensor=2),
}


class Run:
    """A compiled step of a tiny model in a precision, on a mesh of `MESHES` that is in use."""

    def __init__(self, name, mesh, rate=1e-2, **choices):
        config = dataclasses.replace(FAMILIES["llama"], L=2, unroll=1, precision=name)
        self.mesh, self.declaration = mesh, decoder.build(config)
        self.rule = optimizers.make(Train(), self.declaration, lambda _: rate, lambda _: rate)
        self.step = program.compiled(program.make(
            self.declaration, decoder.loss, self.rule, key=jax.random.key(1), clip=1.0, **choices),
            program.abstract(self.declaration, self.rule, mesh))

    @functools.cached_property
    def begun(self):
        return host(program.init(self.declaration, self.rule, jax.random.key(0), self.mesh))

    def first(self):
        """Returns the first state, which a step may take the place of."""
        return jax.tree.map(lambda x, s: jax.device_put(x, s.sharding), self.begun,
                            program.abstract(self.declaration, self.rule, self.mesh))

    def train(self, state, data):
        """Returns the state after a step on each batch, and their means as numbers."""
        out = []
        for one in data:
            placed = rules.place(lambda rows, one=one: {k: x[rows] for k, x in one.items()},
                                 len(one["tokens_BT"]), self.mesh)
            state, means = self.step(state, placed)
            out.append({k: m.value for k, m in means.items()})
        return state, out


def on(name):
    return devices.use(devices.make(MESHES[name], jax.devices()[:1 if name == "one" else 8]))


@functools.cache
def made(name, mesh="one", **choices):
    with on(mesh) as m:
        return Run(name, m, **choices)


def host(tree):
    return jax.tree.map(np.array, tree)


def assert_same(got, expected):
    jax.tree.map(np.testing.assert_array_equal, got, expected)


# The loss scale.

def test_the_scale_falls_and_rises():
    """Halved by each bad step but never below 1, doubled after `every` good ones, up to a limit."""
    def scales(scale, steps, every=3):
        state, out = dict(loss=jnp.float32(scale), good=jnp.int32(0)), []
        for finite in steps:
            state = precision.after(state, None, jnp.bool_(finite), every)
            out.append(float(state["loss"]))
        return out
    assert scales(8, [1, 1, 0, 1, 1, 1, 1, 1, 1]) == [8, 8, 4, 4, 4, 8, 8, 8, 16]
    assert scales(4, [0, 0, 0, 0]) == [2, 1, 1, 1]
    assert scales(precision.HIGHEST, [1] * 4) == [precision.HIGHEST] * 4
    assert precision.after({}, None, jnp.bool_(True), 3) == {}


def test_overflow_is_skipped_and_the_scale_halved():
    """From a scale that no gradient survives: skipped until it fits, then trained as ever."""
    run, data = made("float16"), [batch(0)] * 30
    with on("one"):
        start = run.first()
        start = start._replace(scaling=dict(start.scaling, loss=jnp.float32(2.0 ** 24)))
        before, state, overflows = host(start), start, 0
        while True:
            state, (means,) = run.train(state, data[:1])
            if not means["overflowed"]:
                break
            overflows += 1
            assert_same(host((state.params, state.optimizer)), (before.params, before.optimizer))
            assert means["loss_scale"] == 2.0 ** (25 - overflows)
            assert float(state.scaling["loss"]) == 2.0 ** (24 - overflows)
            # Not the data's or the rate's fault: it does not count towards the end of the run.
            assert means["skipped"] == int(state.skipped) == 0
            assert int(state.step) == overflows and np.isfinite(means["loss"])
        assert 2 <= overflows <= 20
        _, got = run.train(state, data[1:])
        exact = made("float32")
        _, expected = exact.train(exact.first(), data)
    assert got[-1]["loss"] == pytest.approx(expected[-1]["loss"], rel=0.02) and got[-1]["loss"] < 1


def test_the_gradient_does_not_depend_on_the_scale():
    run = made("float16")
    with on("one"):
        seen = []
        for scale in (2.0 ** 8, 2.0 ** 12):
            state = run.first()
            state = state._replace(scaling=dict(state.scaling, loss=jnp.float32(scale)))
            seen.append(run.train(state, [batch(0)])[1][0]["gradient_norm"])
        exact = made("float32")
        norm = exact.train(exact.first(), [batch(0)])[1][0]["gradient_norm"]
    assert seen == [pytest.approx(norm, rel=2e-3)] * 2


def test_a_scale_of_one_is_not_to_blame():
    """A gradient that is infinite at any scale counts as a bad step once the scale has fallen."""
    def loss(model, batch, key):
        return Mean(jnp.sqrt(model["w"]).sum(), 1.0), {}
    declaration = types.SimpleNamespace(bind=lambda params, carried: params)
    step = jax.jit(program.make(declaration, loss, optax.sgd(1.0), key=jax.random.key(0)))
    params = dict(w=jnp.zeros(2))
    state = program.State(jnp.int32(0), params, optax.sgd(1.0).init(params), jnp.int32(0),
                          dict(loss=jnp.float32(4.0), good=jnp.int32(0)))
    seen = []
    for _ in range(4):
        state, means = step(state, {})
        seen.append((means["overflowed"].value, means["skipped"].value, means["loss_scale"].value))
    assert seen == [(1, 0, 4), (1, 0, 2), (0, 1, 1), (0, 2, 1)]
    assert state.params["w"].tolist() == [0.0, 0.0]


def test_a_bad_loss_counts():
    """The scale does not touch the loss itself: what makes that infinite will not go away."""
    run, bad = made("float16"), batch(1)
    bad["weights_BT"][3, 5] = np.nan
    with on("one"):
        state, means = run.train(run.first(), [bad, bad])
    assert [(m["skipped"], m["overflowed"]) for m in means] == [(1, 0), (2, 0)]


# One State, wherever it lies and however often it is put away.

@pytest.mark.parametrize("name", ["float16", "fp8", "bfloat16_stored"])
def test_a_checkpoint_changes_nothing(name, tmp_path):
    """Loss scale, histories and bits of the rounding go on as without it, bit for bit."""
    run, data = made(name), [batch(i) for i in range(4)]
    with on("one"):
        state, _ = run.train(run.first(), data[:3])
        if name == "float16":  # as after a while
            state = state._replace(scaling=dict(loss=jnp.float32(2.0 ** 9), good=jnp.int32(1999)))
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(3, state, {})
            kept, _ = checkpoints.restore(program.abstract(run.declaration, run.rule, run.mesh))
        assert_same(host(kept), host(state))
        whole, again = (run.train(s, data[3:])[0] for s in (state, kept))
        if name == "float16":
            assert float(again.scaling["loss"]) == 2.0 ** 10 and int(again.scaling["good"]) == 0
        assert_same(host(whole), host(again))


def test_checkpoints_without_scaling_are_still_read(tmp_path):
    class Before(NamedTuple):
        step: object
        params: object
        optimizer: object
        skipped: object

    run = made("float32")
    with on("one"):
        state = run.first()
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(1, Before(*state[:4]), {})
            kept, _ = checkpoints.restore(program.abstract(run.declaration, run.rule, run.mesh))
    assert_same(host(kept), host(state))


@pytest.mark.parametrize(("name", "mesh"), [
    ("float16", "data 8"), pytest.param("fp8", "fsdp 8", marks=pytest.mark.slow)])
def test_all_devices_agree_to_skip(name, mesh):
    """One row, on one of eight devices, is not a number: nothing changes on any of them."""
    run, good, bad = made(name, mesh), batch(0), batch(1)
    bad["weights_BT"][5] = np.nan
    with on(mesh):
        state, _ = run.train(run.first(), [good])
        before = host(state)
        state, (means,) = run.train(state, [bad])
        assert_same(host((state.params, state.optimizer)), (before.params, before.optimizer))
        for leaf in (state.skipped, *jax.tree.leaves(state.scaling)):
            assert len(leaf.addressable_shards) == 8
            for shard in leaf.addressable_shards:
                assert_same(np.array(shard.data), np.array(leaf))
        assert means["skipped"] == int(state.skipped) == 1
        if name == "float16":
            assert float(state.scaling["loss"]) == before.scaling["loss"] / 2
        else:
            assert_same(host(state.scaling), before.scaling)
        state, (means,) = run.train(state, [good])
        assert int(state.skipped) == 0 and np.isfinite(means["loss"])


# Rounding by chance.

def test_rounding_is_right_in_expectation():
    """To one of the two neighbours, as often as the other one is near; what fits stays."""
    x = np.float32([1.0 + 2.0 ** -9, -3.0 - 2.0 ** -8, 1e-3, 12345.678, 0.0, 0.5, -2.0])
    rows = np.array(precision.stochastic(jnp.tile(x, (40_000, 1)), jax.random.key(0)).astype(
        jnp.float32))
    for value, seen in zip(x, rows.T, strict=True):
        around = sorted(set(seen.tolist()))
        assert len(around) <= 2 and around[0] <= value <= around[-1]
        step = around[-1] - around[0]
        assert step <= abs(value) * 2.0 ** -7
        assert abs(seen.mean() - value) <= 4 * step / 2 / 200
    assert [len(set(seen)) for seen in rows.T] == [2, 2, 2, 2, 1, 1, 1]


def test_rounding_draws_do_not_repeat():
    """Neither along any axis, nor from one step or parameter to the next."""
    x = jnp.full((64, 64, 16), 1.0 + 2.0 ** -8)
    up = np.stack([np.array(precision.stochastic(x, jax.random.key(i)) > 1) for i in range(3)])
    for axis in range(4):
        first, second = np.moveaxis(up, axis, 0)[:2]
        same = (first == second).mean()
        assert abs(same - 0.5) < 4 * 0.5 / first.size ** 0.5, axis
    params = dict(a=jnp.ones((64, 64), jnp.bfloat16), b=jnp.ones((64, 64), jnp.bfloat16))
    wide = jax.tree.map(lambda p: p.astype(jnp.float32) + 2.0 ** -8, params)
    got = precision.narrowed(wide, params, jax.random.key(0))
    assert 0.4 < (got["a"] == got["b"]).mean() < 0.6


def test_small_updates_are_not_lost():
    """A thousand steps of -1e-4 from 1.0, each a 40th of what bfloat16 tells apart there."""
    def walk(round):
        def body(x, key):
            return round(x.astype(jnp.float32) - 1e-4, key), None
        start = jnp.ones(4096, jnp.bfloat16)
        keys = jax.random.split(jax.random.key(0), 1000)
        return jax.lax.scan(body, start, keys)[0].astype(jnp.float32).mean()
    assert walk(precision.stochastic) == pytest.approx(0.9, abs=1e-3)
    assert walk(lambda x, _: x.astype(jnp.bfloat16)) == 1.0


@pytest.mark.parametrize("mesh", [
    "tensor 2 x fsdp 4",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("data 8", "fsdp 8"))])
def test_rounding_does_not_depend_on_the_mesh(mesh):
    run = made("bfloat16_stored")
    specs, shapes = run.declaration.specs, run.declaration.shapes
    wide = run.declaration.init(jax.random.key(3))
    wide = jax.tree.map(lambda x: x.astype(jnp.float32) * 1.003, wide)
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype("bfloat16")}

    def draw(name):
        with on(name) as m:
            lying = jax.device_put(host(wide), jax.tree.map(
                lambda x, s: rules.sharding(m, s.axes, x.shape), shapes, specs))
            like = jax.tree.map(lambda x: x.astype(jnp.bfloat16), lying)
            return host(jax.jit(precision.narrowed)(lying, like, jax.random.key(4)))
    assert_same(draw(mesh), draw("one"))


def test_bfloat16_weights_have_float32_moments():
    run = made("bfloat16_stored")
    with on("one"):
        state, _ = run.train(run.first(), [batch(0)])
    assert {x.dtype.name for x in jax.tree.leaves(state.params)} == {"bfloat16"}
    assert {x.dtype.name for x in jax.tree.leaves(state.optimizer)} == {"float32", "int32"}
