"""Update rules against numpy and against what each is known by; every one of them learns."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from families import FAMILIES, batch

from lm.cost import size
from lm.models.decoder import model as decoder
from lm.models.decoder.config import Config
from lm.models.decoder.presets import PRESETS
from lm.nn.experts import Experts
from lm.nn.module import Normal, declare, stack
from lm.train import optimizers
from lm.train.config import Config as Train

RATE, HIDDEN = 0.01, 0.02
# What weight decay applies to, by name: no vector, and neither is a row of biases of each head.
DECAYED = {"embedding", "positions", "output", "q", "k", "v", "o", "gate", "up", "down"}


def rule(declaration, name, **choices):
    return optimizers.make(Train(optimizer=name, **choices), declaration,
                           lambda _: RATE, lambda _: HIDDEN)


def normal(tree, seed):
    """Random arrays of the shapes of `tree`."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.standard_normal(x.shape, dtype=np.float32), tree)


@functools.cache
def declared(family):
    return decoder.build(FAMILIES[family])


def run(declaration, name, steps=3, **choices):
    """Returns (params, gradients, updates, state) after each of `steps` random gradients."""
    optimizer = rule(declaration, name, **choices)
    update = jax.jit(optimizer.update)
    params, out = normal(declaration.shapes, 0), []
    state = optimizer.init(params)
    for step in range(steps):
        grads = normal(declaration.shapes, step + 1)
        updates, state = update(grads, state, params)
        out.append((params, grads, updates, state))
        params = optax.apply_updates(params, updates)
    return out


def names(tree):
    """(name, leaf) of every parameter."""
    return [(path[-1].key, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def by_hand(seen, update):
    """Compares each update with update(step, gradient, param, decay, memory)."""
    memory = [{} for _ in jax.tree.leaves(seen[0][0])]
    for step, (params, grads, updates, _) in enumerate(seen, 1):
        for (name, p), g, u, m in zip(names(params), jax.tree.leaves(grads),
                                      jax.tree.leaves(updates), memory, strict=True):
            expected = update(step, g, np.asarray(p), 0.1 * (name in DECAYED), m)
            np.testing.assert_allclose(u, expected, rtol=2e-4, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_adamw(family):
    """Loshchilov & Hutter 2019, algorithm 2, with matrices and tables decayed and nothing else."""
    def update(step, g, p, decay, memory):
        m = memory["m"] = 0.9 * memory.get("m", 0) + 0.1 * g
        v = memory["v"] = 0.95 * memory.get("v", 0) + 0.05 * g * g
        m, v = m / (1 - 0.9 ** step), v / (1 - 0.95 ** step)
        return -RATE * (m / (np.sqrt(v) + 1e-8) + decay * p)
    by_hand(run(declared(family), "adamw"), update)


def test_lion():
    """Chen et al. 2023, algorithm 2: every element moves by the rate, up or down, but for decay."""
    def update(step, g, p, decay, memory):
        sign = np.sign(0.9 * memory.get("m", 0) + 0.1 * g)
        memory["m"] = 0.95 * memory.get("m", 0) + 0.05 * g
        return -RATE * (sign + decay * p)
    by_hand(run(declared("gpt2"), "lion"), update)


def test_sgd():
    """Nesterov's momentum, decoupled decay."""
    def update(step, g, p, decay, memory):
        m = memory["m"] = 0.9 * memory.get("m", 0) + g
        return -RATE * (g + 0.9 * m + decay * p)
    by_hand(run(declared("gpt2"), "sgd"), update)


# (inputs, outputs) of the hidden matrices of a layer: attention's heads are one matrix together.
HIDDEN_AXES = dict(q=(1, 2), k=(1, 2), v=(1, 2), o=(2, 1), gate=(1, 1), up=(1, 1), down=(1, 1))


def test_muon():
    """Hidden matrices move by an orthogonal matrix a layer; all else exactly as with AdamW."""
    declaration = declared("llama")
    muon = run(declaration, "muon", weight_decay=0.0)
    adam = run(declaration, "adamw", weight_decay=0.0)
    orthogonal = 0
    for (name, u), a in zip(names(muon[0][2]), jax.tree.leaves(adam[0][2]), strict=True):
        if name not in HIDDEN_AXES:
            np.testing.assert_array_equal(u, a)
            continue
        inputs, outputs = HIDDEN_AXES[name]
        assert u.ndim == 1 + inputs + outputs
        u = np.asarray(u).reshape(len(u), int(np.prod(u.shape[1:1 + inputs])), -1)
        scale = HIDDEN * max(1, u.shape[2] / u.shape[1]) ** 0.5
        values = np.linalg.svd(u / scale, compute_uv=False)  # [L, min(inputs, outputs)]
        assert values.max() < 1.3 and np.median(values) > 0.6, name
        assert (values > 0.3).mean() > 0.95, name
        orthogonal += 1
    assert orthogonal == len(HIDDEN_AXES)
    assert len(names(declaration.shapes)) - orthogonal == 7  # embedding, output, five norms


def test_muon_is_of_each_layer_alone():
    """Another gradient in one layer changes no other layer's update."""
    declaration = declared("llama")
    optimizer = rule(declaration, "muon", weight_decay=0.0)
    update = jax.jit(lambda g, p: optimizer.update(g, optimizer.init(p), p)[0])
    params, grads = normal(declaration.shapes, 0), normal(declaration.shapes, 1)
    other = jax.tree.map(lambda g: np.concatenate([g[:1], 3 * g[1:2] ** 3, g[2:]]), grads)
    one, two = update(grads, params)["layers"], update(other, params)["layers"]
    for (name, a), b in zip(names(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a[::2], b[::2], rtol=1e-5, atol=1e-7, err_msg=name)
        assert np.abs(a[1] - b[1]).max() > 1e-3 or name == "scale"


def test_muon_decays_matrices_and_tables_only():
    declaration = declared("llama")
    with_decay = run(declaration, "muon", steps=1)[0]
    without = run(declaration, "muon", steps=1, weight_decay=0.0)[0]
    for (name, p), a, b in zip(names(with_decay[0]), jax.tree.leaves(with_decay[2]),
                               jax.tree.leaves(without[2]), strict=True):
        rate = HIDDEN if name in HIDDEN_AXES else RATE
        np.testing.assert_allclose(a - b, -rate * 0.1 * p * (name in DECAYED), atol=1e-6,
                                   err_msg=name)


def test_memory():
    """Elements a parameter: two by AdamW, one by Lion and by Muon's matrices, hardly any else."""
    declaration = decoder.build(Config(**PRESETS["llama3_8b"]))
    held = {name: size.elements(jax.eval_shape(rule(declaration, name).init, declaration.shapes))
            / declaration.count for name in optimizers.OPTIMIZERS}
    assert held["adamw"] == pytest.approx(2, abs=1e-6)
    assert held["lion"] == pytest.approx(1, abs=1e-6) == held["sgd"]
    tables = 2 * 128256 * 4096 / declaration.count
    assert held["muon"] == pytest.approx(1 + tables, abs=1e-3)
    assert held["adafactor"] < 0.005


def test_adafactor_of_a_rank_one_gradient():
    """What the factors say of such a gradient is exact, so that every element moves alike."""
    declaration = decoder.build(dataclasses.replace(FAMILIES["llama"], D=64, N=4, H=16))
    rng = np.random.default_rng(0)
    grads = normal(declaration.shapes, 1)
    rows, cols = (np.exp(rng.standard_normal(n)) for n in (64, 64))
    grads["embedding"] = np.float32(np.outer(rows, cols) * rng.choice([-1, 1], (64, 64)))
    optimizer = rule(declaration, "adafactor", weight_decay=0.0)
    params = normal(declaration.shapes, 0)
    updates, state = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    np.testing.assert_allclose(np.abs(updates["embedding"]), RATE, rtol=1e-3)
    held = {x.shape for x in jax.tree.leaves(state)}
    assert (64, 64) not in held and (64,) in held


@functools.cache
def learner():
    """A tiny model, its start and its gradient, compiled once for all optimizers."""
    declaration = decoder.build(Config(L=1, D=32, N=2, V=64, T=16, F=64, bias="all"))
    data = jax.tree.map(jnp.asarray, batch())

    @jax.jit
    @jax.value_and_grad
    def value(params):
        objective, _ = decoder.loss(declaration.bind(params), data)
        return objective.total / objective.count
    return declaration, declaration.init(jax.random.key(0)), value


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_learns(name, one):
    """In 20 steps on one batch the loss falls by half a nat, and moments are float32."""
    declaration, params, value = learner()
    rates = dict(adamw=0.01, adafactor=0.02, lion=0.003, muon=0.01, sgd=0.5)
    optimizer = optimizers.make(Train(optimizer=name), declaration, lambda _: rates[name],
                                lambda _: HIDDEN)
    state = optimizer.init(params)

    @jax.jit
    def apply(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state
    losses = []
    for _ in range(20):
        loss, grads = value(params)
        losses.append(float(loss))
        params, state = apply(params, state, grads)
    assert losses[0] == pytest.approx(np.log(64), abs=0.1)
    assert losses[-1] < losses[0] - 0.5
    assert all(x.dtype in (jnp.float32, jnp.int32) for x in jax.tree.leaves((params, state)))


def test_adafactor_of_stacked_vectors_is_of_each(one):
    """Forty layers' norm scales are forty vectors: no second moment is shared between layers."""
    declaration = decoder.build(dataclasses.replace(FAMILIES["llama"], L=40))
    state = rule(declaration, "adafactor").init(normal(declaration.shapes, 0))
    shapes = [x.shape for x in jax.tree.leaves(state)]
    scales = [x.shape for x, s in zip(jax.tree.leaves(declaration.shapes),
                                      jax.tree.leaves(declaration.specs), strict=True)
              if len(s.axes.strip("L")) == 1]
    assert all(shapes.count(shape) >= scales.count(shape) for shape in scales)


def experts(D, F, E, L=2):
    """A declaration of nothing but experts in layers."""
    return declare(stack(Experts(D, F, "swiglu", E=E, top=2, shared=0, renormalise=True,
                                 capacity=0.0, init=Normal(1.0), init_out=Normal(1.0)), L))


def test_muon_of_experts_is_of_each():
    """Each expert's matrix in each layer moves by an orthogonal one; a router is one matrix."""
    update = run(experts(24, 16, 5), "muon", steps=1, weight_decay=0.0)[0][2]
    for name, shape in dict(router=(2, 24, 5), up=(2, 5, 24, 16), down=(2, 5, 16, 24)).items():
        assert update[name].shape == shape
        scale = HIDDEN * max(1, shape[-1] / shape[-2]) ** 0.5
        values = np.linalg.svd(update[name] / scale, compute_uv=False)
        assert values.max() < 1.3 and values.min() > 0.3, name


@pytest.mark.parametrize(("D", "F", "E", "factored"), [(64, 48, 40, True), (64, 40, 48, False)])
def test_adafactor_of_experts_is_of_each(D, F, E, factored):
    """No second moment is shared between experts, nor between the routers of 40 layers."""
    state = rule(experts(D, F, E, L=40), "adafactor").init(normal(experts(D, F, E, L=40).shapes, 0))
    shapes = {x.shape for x in jax.tree.leaves(state)} - {(), (1,)}
    rows = {(40, E, D), (40, E, F)} if factored else {(40, E, D, F), (40, E, F, D)}
    assert shapes == rows | {(40, D), (40, E)}
