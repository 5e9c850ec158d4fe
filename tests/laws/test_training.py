"""Laws of the training step: any mesh == one device, microbatches == one batch, bad steps go."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from families import FAMILIES, batch

from lm.base.mean import Mean
from lm.mesh import devices, rules
from lm.mesh.config import Config as Mesh
from lm.models.decoder import model as decoder
from lm.nn.linear import dropout
from lm.train import optimizers
from lm.train import step as program
from lm.train.config import Config as Train

MESHES = {
    "one": Mesh(data=1),
    "data 8": Mesh(data=8),
    "fsdp 8": Mesh(data=1, fsdp=8),
    "tensor 2 x fsdp 4": Mesh(data=1, fsdp=4, tensor=2),
}
SEVERAL = [name for name in MESHES if name != "one"]
# Each mesh and each family; the others, which say the same again, by `pytest -m slow`.
PAIRS = [pytest.param(family, mesh, marks=[pytest.mark.slow] * (pair not in (
             "gpt2, data 8", "gemma, fsdp 8", "llama, tensor 2 x fsdp 4")))
         for family in FAMILIES for mesh in SEVERAL for pair in [f"{family}, {mesh}"]]
STEPS = 3


compiled = []  # a note of every program that XLA is asked for
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None)


def on(name):
    """The mesh of that name, to be used as a context."""
    return devices.use(devices.make(MESHES[name], jax.devices()[:1 if name == "one" else 8]))


def tiny(family, rate=0.2):
    """The family with dropout; its layers in a loop, as on chips, which compiles fastest."""
    return dataclasses.replace(FAMILIES[family], L=2, unroll=1, dropout_embedding=rate,
                               dropout_attention=rate, dropout_residual=rate)


def placed(data, mesh):
    return rules.place(lambda rows: {k: x[rows] for k, x in data.items()},
                       len(data["tokens_BT"]), mesh)


def host(tree):
    return jax.tree.map(np.array, tree)


def assert_close(got, expected, rtol, atol):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol), got, expected)


def assert_same(got, expected):
    jax.tree.map(np.testing.assert_array_equal, got, expected)


class Run:
    """A compiled training step and the mesh that it is for."""

    def __init__(self, config, mesh, optimizer="adamw", **choices):
        self.mesh, self.declaration = mesh, decoder.build(config)
        # Some gradients are zero but for rounding (the keys' bias): eps keeps Adam from blowing
        # that up.
        train = Train(optimizer=optimizer, eps=1e-4)
        self.optimizer = optimizers.make(train, self.declaration, lambda _: 0.01, lambda _: 0.02)
        self.step = program.compiled(program.make(
            self.declaration, decoder.loss, self.optimizer, key=jax.random.key(7), clip=0.5,
            dropout=config.dropout_residual > 0, **choices))

    def first(self):
        return program.init(self.declaration, self.optimizer, jax.random.key(3), self.mesh)

    def train(self, state, data):
        """Returns the state after a step on each batch, and each step's means as numbers."""
        out = []
        for one in data:
            state, means = self.step(state, placed(one, self.mesh))
            out.append({k: float(m.total) / float(m.count) for k, m in means.items()})
        return state, out


@functools.cache
def trained(family, mesh, optimizer="adamw", rate=0.2, accumulate=1, B=8, **changes):
    """A run of a few steps and what was seen of it; every law below looks at the same ones."""
    with on(mesh) as m:
        config = dataclasses.replace(tiny(family, rate), **changes)
        run = Run(config, m, optimizer, accumulate=accumulate)
        state = run.first()
        seen = types.SimpleNamespace(run=run, start=host(state.params))
        seen.before = jax.tree.map(lambda x: x.sharding, state)
        seen.shapes = jax.tree.map(lambda x: (x.shape, x.addressable_shards[0].data.shape), state)
        data = [batch(seed, B) for seed in range(STEPS)]
        state, first = run.train(state, data[:1])
        before = len(compiled)
        state, rest = run.train(state, data[1:])
        seen.means, seen.compiled_again = first + rest, len(compiled) - before
        seen.after = jax.tree.map(lambda x: x.sharding, state)
        seen.state = host(state)
        return seen


@pytest.mark.parametrize(("family", "mesh"), PAIRS)
def test_any_mesh_is_one_device(family, mesh):
    """The first parameters to the bit; losses, gradient norms, parameters and moments nearly."""
    one, many = trained(family, "one"), trained(family, mesh)
    assert_same(many.start, one.start)
    assert_close(many.means, one.means, rtol=2e-5, atol=0)
    assert_close(many.state.params, one.state.params, rtol=1e-3, atol=2e-5)
    assert_close(many.state.optimizer, one.state.optimizer, rtol=1e-3, atol=1e-5)
    assert many.state.step == STEPS
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), one.start, one.state.params)
    moved["layers"]["attention"].pop("k_bias", None)
    assert min(jax.tree.leaves(moved)) > 1e-3  # else standing still would pass


@pytest.mark.parametrize(("family", "mesh"), PAIRS)
def test_state_is_sharded_and_stays(family, mesh):
    """Parameters and moments lie in shards where the mesh says so, and a step leaves them there."""
    seen = trained(family, mesh)
    ways = dict.fromkeys("DNKFV", 1) | {"data 8": {}, "fsdp 8": dict(D=8), "tensor 2 x fsdp 4":
                                        dict(D=4, N=2, K=2, F=2, V=2)}[mesh]

    def check(spec, sizes):
        whole, own = sizes
        expected = [n // ways.get(a, 1) if n % ways.get(a, 1) == 0 else n
                    for a, n in zip(spec.axes, whole, strict=True)]
        assert list(own) == expected, spec.axes

    specs = seen.run.declaration.specs
    adam = seen.shapes.optimizer[0]
    for tree in (seen.shapes.params, adam.mu, adam.nu):
        jax.tree.map(check, specs, tree)
    sharded = [own != whole for whole, own in jax.tree.leaves(
        seen.shapes.params, is_leaf=lambda x: isinstance(x, tuple))]
    assert any(sharded) == (mesh != "data 8")
    jax.tree.map(lambda a, b, x: a.is_equivalent_to(b, x.ndim) or pytest.fail(f"{a} became {b}"),
                 seen.before, seen.after, seen.state)
    assert compiled and seen.compiled_again == 0


@pytest.mark.slow
def test_bfloat16_on_a_mesh_is_one_device():
    """As near as bfloat16 comes: a twentieth of the way moved; the state stays float32."""
    one, many = (trained("llama", mesh, precision="bfloat16")
                 for mesh in ("one", "tensor 2 x fsdp 4"))
    assert_same(many.start, one.start)
    assert_close(many.means, one.means, rtol=0.01, atol=0)

    def distance(a, b):
        return optax.tree.norm(jax.tree.map(np.subtract, a.state.params, b))
    assert distance(many, one.state.params) < 0.05 * distance(one, one.start)
    assert many.means != trained("llama", "one").means
    leaves = jax.tree.leaves((many.state.params, many.state.optimizer))
    assert {x.dtype.name for x in leaves} == {"float32", "int32"}


@pytest.mark.parametrize("mesh", SEVERAL)
def test_dropout_does_not_depend_on_the_mesh(mesh):
    x = np.ones((8, 16, 32), np.float32)

    def draw(name):
        with on(name) as m:
            lying = jax.device_put(x, rules.sharding(m, "BTF", x.shape))
            return np.array(jax.jit(lambda x: dropout(x, 0.3, jax.random.key(1)))(lying))
    np.testing.assert_array_equal(draw(mesh), draw("one"))
    assert 0.25 < (draw(mesh) == 0).mean() < 0.35


@pytest.mark.parametrize(("mesh", "parts"), [
    ("tensor 2 x fsdp 4", 4),
    *(pytest.param("one", parts, marks=pytest.mark.slow) for parts in (2, 4))])
def test_microbatches_are_one_batch(mesh, parts):
    """With unequal token counts: a mean of microbatch means would be another number."""
    common = dict(family="llama", rate=0.0, B=16)
    counts = [batch(0, 16)["weights_BT"][i::parts].sum() for i in range(parts)]
    assert max(counts) > 1.1 * min(counts)
    one, many = trained(mesh="one", **common), trained(mesh=mesh, accumulate=parts, **common)
    assert_close(many.means, one.means, rtol=2e-5, atol=0)
    assert_close(many.state.params, one.state.params, rtol=1e-3, atol=2e-5)


def test_muon_on_a_mesh_is_one_device():
    one, many = (trained("llama", mesh, "muon") for mesh in ("one", "tensor 2 x fsdp 4"))
    assert_close(many.means, one.means, rtol=1e-4, atol=0)
    assert_close(many.state.params, one.state.params, rtol=1e-2, atol=1e-4)
    jax.tree.map(lambda a, b, x: a.is_equivalent_to(b, x.ndim) or pytest.fail(f"{a} became {b}"),
                 many.before, many.after, many.state)


@pytest.mark.parametrize(("family", "mesh"), [("llama", "one"), ("gemma", "fsdp 8")])
def test_a_bad_batch_changes_nothing(family, mesh):
    """A weight that is not a number: parameters and moments stay, `skipped` counts and resets."""
    good, bad = batch(0), batch(1)
    bad["weights_BT"][3, 5] = np.nan
    run = trained(family, mesh).run
    with on(mesh):
        state, _ = run.train(run.first(), [good])
        before = host(state)
        for count in (1, 2):
            state, means = run.train(state, [bad])
            assert means[0]["skipped"] == count == int(state.skipped)
            assert int(state.step) == 1 + count
            assert_same(host((state.params, state.optimizer)), (before.params, before.optimizer))
        state, means = run.train(state, [good])
        assert means[0]["skipped"] == 0 and int(state.skipped) == 0
        assert np.isfinite(means[0]["loss"])
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), host(state.params), before.params)
        assert min(jax.tree.leaves(moved)) > 0
        state, _ = run.train(state._replace(params=jax.tree.map(
            lambda x: x.at[(0,) * x.ndim].set(jnp.inf), state.params)), [good])
        assert int(state.skipped) == 1


def bare(loss, *, optimizer=None, **choices):
    """A step for a `loss` of one parameter {'w': w}, and a first state for it."""
    optimizer = optimizer or optax.sgd(1.0)
    declaration = types.SimpleNamespace(bind=lambda params, carried: params)
    step = jax.jit(program.make(declaration, loss, optimizer, key=jax.random.key(0), **choices))

    def first(w):
        params = dict(w=jnp.float32(w))
        return program.State(jnp.int32(0), params, optimizer.init(params), jnp.int32(0))
    return step, first


def linear(model, batch, key):
    """Gradient of the mean: the weighted mean of x."""
    return Mean((batch["x"] @ model["w"] * batch["n"]).sum(), batch["n"].sum()), {}


@pytest.mark.parametrize(("clip", "size"), [(0.0, 5.0), (10.0, 5.0), (2.0, 2.0), (0.01, 0.01)])
def test_clip_bounds_the_update(clip, size):
    """The gradient's direction stays, its norm is at most `clip`; what is reported is before."""
    step, first = bare(linear, clip=clip)
    data = dict(x=jnp.array([[3.0, 4.0], [3.0, 4.0]]), n=jnp.array([1.0, 3.0]))
    state, means = step(first([0.0, 0.0]), data)
    np.testing.assert_allclose(state.params["w"], -size * np.array([0.6, 0.8]), rtol=1e-6)
    assert float(means["gradient_norm"].total) == pytest.approx(5.0)


def test_a_batch_of_nothing_is_no_update():
    step, first = bare(linear, clip=1.0)
    state, _ = step(first([1.0, 2.0]), dict(x=jnp.ones((2, 2)), n=jnp.zeros(2)))
    assert state.params["w"].tolist() == [1.0, 2.0] and int(state.skipped) == 0


def test_a_gradient_that_is_not_finite_is_skipped():
    """Although the loss is: the root of zero has an infinite slope."""
    step, first = bare(lambda model, batch, key: (
        Mean(jnp.sqrt(model["w"]).sum() * batch["n"].sum(), batch["n"].sum()), {}))
    state, means = step(first([0.0, 1.0]), dict(n=jnp.ones(2)))
    assert state.params["w"].tolist() == [0.0, 1.0] and int(state.skipped) == 1


def test_keys_differ_by_step_and_bits_by_token():
    """A run that goes on from a step draws what it would have; so does one in other microbatches.

    A token's bits are those of its number in the batch, in whichever microbatch it is.
    """
    def loss(model, batch, key):
        kept = dropout(jnp.ones((*batch["index_BT"].shape, 8)), 0.5, key, batch["index_BT"]) > 0
        own = (kept * 2.0 ** jnp.arange(8)).sum(-1)
        shares = own * 1000.0 ** -(batch["index_BT"] % 2) * (batch["index_BT"] < 2)
        return Mean(model["w"].sum(), 1.0), dict(two=Mean(shares.sum(), 1.0),
                                                 all=Mean(own.sum(), 1.0))
    data = dict(index_BT=jnp.arange(64).reshape(8, 8))
    seen = {}
    for parts in (1, 2, 4):
        step, first = bare(loss, accumulate=parts, dropout=True)
        for i in (0, 1, 0):
            means = step(first([0.0])._replace(step=jnp.int32(i)), data)[1]
            drawn = tuple(float(means[name].total) for name in ("two", "all"))
            assert seen.setdefault(i, drawn) == drawn
    assert seen[0] != seen[1]
    whole, rest = divmod(seen[0][0], 1)
    assert whole != round(rest * 1000)
