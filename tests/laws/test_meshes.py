"""The law of the mesh: whatever the layout, ten steps are those of one device, dropout included."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import ragged
from families import FAMILIES, batch

from lm.base.errors import UserError
from lm.mesh import devices, rules
from lm.mesh.config import Config as Mesh
from lm.models.decoder import layers
from lm.models.decoder import model as decoder
from lm.nn import pipeline
from lm.train import optimizers
from lm.train import step as program
from lm.train.config import Config as Train

STEPS = 10
DROP = dict(dropout_embedding=0.1, dropout_attention=0.1, dropout_residual=0.1, unroll=1)
MODELS = {
    "llama": dataclasses.replace(FAMILIES["llama"], L=4, **DROP),
    "uneven": dataclasses.replace(FAMILIES["llama"], L=5, **DROP),
    "gemma": dataclasses.replace(FAMILIES["gemma"], L=5, **DROP),
    "gpt2": dataclasses.replace(FAMILIES["gpt2"], L=4, **DROP),
    # Without dropout of attention, which the ring leaves to the gathering kind.
    "wide": dataclasses.replace(FAMILIES["llama"], L=2, N=8, K=2, H=8,
                                **dict(DROP, dropout_attention=0.0)),
    "experts": dataclasses.replace(FAMILIES["llama"], L=2, E=8, F=16, experts_top=2,
                                   experts_shared=1, router_z_loss=1e-3, **DROP),
    "few slots": dataclasses.replace(FAMILIES["llama"], L=3, E=8, F=16, experts_top=3,
                                     experts_capacity=1.0, dense_layers=1, dense_F=32, **DROP),
}


# Rows of several documents, or of one.
PACKED = {name: bool(number % 2) for number, name in enumerate(MODELS)}
ONE = Mesh(data=1)


def mesh(**sizes):
    return Mesh(**(dict(data=1) | sizes))


def use(mesh):
    """The mesh, in use, of eight devices or of one."""
    count = 8 if any(getattr(mesh, axis) > 1 for axis in devices.AXES) else 1
    return devices.use(devices.make(mesh, jax.devices()[:count]))


# name: (model, mesh, what the config says of the layout)
LAYOUTS = {
    "data": ("gpt2", mesh(data=8), {}),
    "data over slices": ("llama", mesh(data=4, fsdp=2, slices=2), {}),
    "fsdp": ("llama", mesh(fsdp=8), {}),
    "fsdp, remat": ("gpt2", mesh(fsdp=8), dict(remat="full")),
    "tensor": ("wide", mesh(tensor=8), {}),
    "context, ring": ("wide", mesh(context=8), dict(context="ring")),
    "context, gathered": ("uneven", mesh(context=4, data=2), dict(context="gather")),
    "context, windows": ("gemma", mesh(context=2, data=4), {}),
    "stage, gpipe": ("llama", mesh(stage=4, data=2), dict(microbatches=4)),
    "stage, 1f1b": ("llama", mesh(stage=4, data=2), dict(schedule="1f1b", microbatches=4)),
    "stage, circular": ("llama", mesh(stage=2, data=4), dict(schedule="circular")),
    "stage, uneven": ("uneven", mesh(stage=4, fsdp=2), dict(remat="stage")),
    "stage, uneven, 1f1b": ("uneven", mesh(stage=4, data=2), dict(schedule="1f1b")),
    "stage, uneven, circular": ("uneven", mesh(stage=2, data=4), dict(schedule="circular")),
    "stage, windows": ("gemma", mesh(stage=2, data=4), dict(schedule="1f1b")),
    "stage over slices": ("llama", mesh(stage=4, data=2, slices=2, across="stage"), {}),
    "expert": ("experts", mesh(expert=8), {}),
    "expert, few slots": ("few slots", mesh(expert=4, data=2), {}),
    "expert x fsdp": ("experts", mesh(expert=4, fsdp=2), {}),
    "expert x fsdp x tensor, few slots": ("few slots", mesh(expert=2, fsdp=2, tensor=2), {}),
    "expert x context": ("few slots", mesh(expert=2, context=4), {}),
    "expert x stage": ("experts", mesh(stage=2, expert=4), dict(schedule="1f1b")),
    "expert x stage x tensor": ("few slots", mesh(stage=2, expert=2, tensor=2), {}),
    "data x fsdp x tensor": ("llama", mesh(data=2, fsdp=2, tensor=2), {}),
    "fsdp x context x tensor": ("wide", mesh(fsdp=2, context=2, tensor=2), dict(context="ring")),
    "fsdp x context x tensor, gathered": ("gpt2", mesh(fsdp=2, context=2, tensor=2), {}),
    "stage x fsdp x tensor": ("llama", mesh(stage=2, fsdp=2, tensor=2), {}),
    "stage x fsdp x tensor, 1f1b": ("gpt2", mesh(stage=2, fsdp=2, tensor=2),
                                    dict(schedule="1f1b")),
    "stage x fsdp x tensor, circular": ("llama", mesh(stage=2, fsdp=2, tensor=2),
                                        dict(schedule="circular")),
    "stage x context x tensor": ("wide", mesh(stage=2, context=2, tensor=2), {}),
}


class Kept(optax.GradientTransformation):
    """Keeps the gradient that it hands on."""

    def __new__(cls):
        zeros = lambda params: jax.tree.map(jnp.zeros_like, params)  # noqa: E731
        return super().__new__(cls, zeros, lambda grads, state, params=None: (grads, grads))


def parts(config):
    """A model's declaration and its optimizer."""
    declaration = decoder.build(config)
    train = Train(eps=1e-4)  # some gradients are zero but for rounding
    return declaration, optax.chain(Kept(), optimizers.make(
        train, declaration, lambda _: 0.003, lambda _: 0.02))


@functools.cache
def first(model, mesh=ONE):
    """The state that training begins from, whatever the layout of the model, as it was made."""
    with use(mesh) as m:
        return jax.tree.map(np.array, program.init(*parts(MODELS[model]), jax.random.key(3), m))


@functools.cache
def followed(layout, model):
    """What training by a layout, or on one device, gave: losses, the first gradient, bytes."""
    _, mesh, changes = LAYOUTS[layout] if layout else ("", ONE, {})
    config, packed = dataclasses.replace(MODELS[model], **changes), PACKED[model]
    with use(mesh) as m:
        decoder.check(config, m, 8)
        declaration, optimizer = parts(config)
        template = program.abstract(declaration, optimizer, m)
        step = program.compiled(
            program.make(declaration, decoder.loss, optimizer, key=jax.random.key(7), dropout=True),
            template)
        state = jax.tree.map(lambda x, s: jax.device_put(x, s.sharding), first(model), template)
        run = step.lower(state, placed(0, packed, m)).compile()
        seen = types.SimpleNamespace(losses=[])
        seen.temporary = run.memory_analysis().temp_size_in_bytes
        for seed in range(STEPS):
            state, means = run(state, placed(seed % 2, packed, m))
            seen.losses.append(float(means["loss"].total) / float(means["loss"].count))
            if seed == 0:
                seen.gradient = jax.tree.map(np.array, state.optimizer[0])
        held = [x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state)]
        seen.state = sum(held)
        return seen


def placed(seed, packed, mesh):
    data = batch(seed, packed=packed)
    if not packed:
        del data["segments_BT"]
    return rules.place(lambda rows: {k: x[rows] for k, x in data.items()}, 8, mesh)


def assert_same(got, expected):
    np.testing.assert_allclose(got.losses, expected.losses, rtol=1e-5)
    biggest = max(np.abs(g).max() for g in jax.tree.leaves(expected.gradient))

    def near(a, b):
        # Some are zero but for rounding: the keys' bias.
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(b).max() + 1e-6 * biggest)
    jax.tree.map(near, got.gradient, expected.gradient)


# Those that mix what others of the list have one by one: `pytest -m slow tests/laws`.
SLOW = {"data", "fsdp", "context, gathered", "data x fsdp x tensor", "stage, 1f1b",
        "stage, circular", "stage x fsdp x tensor", "data over slices", "fsdp, remat",
        "context, windows", "stage, gpipe", "stage over slices", "stage, windows",
        "expert, few slots", "expert x fsdp x tensor, few slots", "expert x context",
        "expert x stage", "expert x stage x tensor", "fsdp x context x tensor, gathered",
        "stage x fsdp x tensor, 1f1b", "stage x fsdp x tensor, circular",
        "stage x context x tensor", "expert x fsdp", "fsdp x context x tensor"}


def some(names):
    """The names as parameters of a test, those of SLOW marked."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in names]


@pytest.mark.parametrize("layout", some(LAYOUTS))
def test_any_mesh_is_one_device(layout):
    """Losses of ten steps to 1e-5, the gradient to 1e-4; packed and not, dropout on."""
    model = LAYOUTS[layout][0]
    got = followed(layout, model)
    assert_same(got, followed("", model))
    assert got.losses[-1] < got.losses[0]


@pytest.mark.slow
def test_the_first_state_is_that_of_one_device():
    """To the bit, wherever its parts lie."""
    model, mesh, _ = LAYOUTS["expert x stage x tensor"]
    jax.tree.map(np.testing.assert_array_equal, first(model, mesh), first(model))


# Bytes of a device relative to one device's: of the state, and of what a step needs beside it.
BYTES = {
    "data": (1.0, 0.5), "fsdp": (0.15, 0.25), "tensor": (0.25, 0.3), "context, ring": (1.0, 0.6),
    "context, gathered": (1.0, 0.45), "stage, gpipe": (0.26, 0.35), "stage, 1f1b": (0.26, 0.15),
    "stage, uneven": (0.14, 0.2), "expert": (0.45, 0.3), "expert x fsdp": (0.27, 0.3),
    "data x fsdp x tensor": (0.27, 0.25), "stage x fsdp x tensor": (0.14, 0.3),
}


@pytest.mark.parametrize("layout", some(BYTES))
def test_bytes_fall_with_the_axis_that_shares_them(layout):
    """Parameters and moments by fsdp, stage, tensor, expert; the rest by every axis."""
    model = LAYOUTS[layout][0]
    got, one = followed(layout, model), followed("", model)
    state, temporary = BYTES[layout]
    assert got.state <= state * one.state
    assert got.temporary <= temporary * one.temporary


@pytest.mark.parametrize("remat", [
    "full", *(pytest.param(name, marks=pytest.mark.slow) for name in ("none", "dots"))])
def test_gathered_weights_are_let_go(remat):
    """Under fsdp another layer costs its shards and activations, never its whole weights."""
    def temporary(L):
        config = dataclasses.replace(FAMILIES["llama"], L=L, D=128, F=512, unroll=1, remat=remat)
        with devices.use(devices.make(mesh(fsdp=8))) as m:
            declaration = decoder.build(config)
            params = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
                                  declaration.shapes, declaration.shardings(m))
            run = jax.jit(jax.grad(
                lambda p, batch: decoder.loss(declaration.bind(p), batch)[0].total))
            made = run.lower(params, placed(0, True, m)).compile()
            layer = sum(x.size // L for x in jax.tree.leaves(declaration.shapes["layers"])) * 4
            return made.memory_analysis().temp_size_in_bytes, layer
    (few, layer), (many, _) = temporary(2), temporary(10)
    assert (many - few) / 8 < 0.7 * layer


@pytest.mark.parametrize(("S", "V", "M", "L"), [(1, 1, 1, 3), (4, 1, 8, 4), (4, 1, 4, 5),
                                                (2, 3, 4, 6), (3, 2, 3, 7)])
def test_a_pipeline_idles_as_planned(S, V, M, L):
    """The bubble is the share of (stage, tick) places in which the schedule has no work."""
    p = pipeline.layout(L, S, V=V, M=M)
    item = np.arange(p.ticks)[:, None] - np.arange(S)
    busy = (item >= 0) & (item < M * V)
    assert 1 - busy.mean() == pytest.approx((S - 1) / p.ticks)
    group = np.clip(item // M, 0, V - 1)
    first = (group * S + np.arange(S)) * p.layers
    real = np.clip(L - first, 0, p.layers) * busy
    assert real.sum() == M * L
    assert p.idle == pytest.approx(1 - real.sum() / (busy.size * p.layers))


REFUSED = {
    "3 layers do not fill 4 stages; set mesh.stage to at most 3": dict(L=3),
    "4 layers do not fill 4 stages of 2 groups; set mesh.stage to at most 2":
        dict(L=4, schedule="circular"),
    "model.microbatches = 3 does not divide the 4 rows that each device has of B = 8; "
    "give a divisor, or 0 to have one chosen": dict(microbatches=3),
    "the circular schedule needs as many microbatches as stages, 4, and has 2; raise data.B or "
    "set model.schedule='gpipe'": dict(L=8, schedule="circular", microbatches=2),
}


@pytest.mark.parametrize("message", REFUSED)
def test_stages_that_cannot_be(message):
    config = dataclasses.replace(FAMILIES["llama"], **(dict(L=4) | REFUSED[message]))
    with devices.use(devices.make(mesh(stage=4, data=2))) as m:
        with pytest.raises(UserError) as caught:
            decoder.check(config, m, 8)
        assert str(caught.value) == message
        assert layers.plan(dataclasses.replace(FAMILIES["llama"], L=4), 8).M == 4


@pytest.mark.parametrize("family", [
    pytest.param(name, marks=[pytest.mark.slow] * (name != "gemma")) for name in FAMILIES])
def test_layers_in_stages_decode_as_one_device(family):
    """A prompt and tokens more, through pages whose layers lie in stages."""
    config = dataclasses.replace(FAMILIES[family], L=5, unroll=1)
    tokens = np.asarray(jax.random.randint(jax.random.key(0), (3, 9), 0, config.V))
    seen = []
    for at in (Mesh(data=1), mesh(stage=4, tensor=2)):
        count = 8 if at.stage > 1 else 1
        with devices.use(devices.make(at, jax.devices()[:count])) as m:
            declaration = decoder.build(config)
            params = jax.jit(lambda d=declaration: d.init(jax.random.key(1)),
                             out_shardings=declaration.shardings(m))()
            seen.append(ragged.logits(declaration, params, config, tokens,
                                      [(8, 5, 3), (1, 4, 3), (0, 0, 3)]))
    assert np.isfinite(seen[0]).all()
    np.testing.assert_allclose(seen[1], seen[0], rtol=1e-5, atol=1e-5)
