"""Weights of few bits: which they are, what they take, and that the engine computes with them."""

import dataclasses
import functools
import importlib.util
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.data.tokenizers.plain import Bytes
from lm.experiment import llm, parts, topology
from lm.infer import engine as engines
from lm.infer import shape as shapes
from lm.infer import weights
from lm.infer.config import WEIGHTS, Engine
from lm.infer.core import Core
from lm.infer.request import Sampling
from lm.mesh import devices
from lm.mesh.config import Config as Mesh
from lm.models.decoder import model as decoder
from lm.models.decoder.config import Config
from lm.nn.quantised import FORMATS, Quantised

V, T = Bytes().V, 32
DENSE = Config(L=2, D=32, N=4, K=2, F=256, V=V, T=T, bias="qkv", init="llama")
EXPERTS = dataclasses.replace(DENSE, E=4, F=32, bias="none", precision="bfloat16")
PROMPTS = [[5, 9, 11], [7, 200, 9, 10, 30, 31, 60]]


@functools.cache
def model(c):
    """The model, and parameters far from their start, so that its text does not repeat."""
    d = decoder.build(c)
    params = jax.jit(lambda key: jax.tree.map(
        lambda p, s: 8 * p if s.hidden else p, d.init(key), d.specs))(jax.random.key(2))
    return parts.Model(c, d, decoder.loss), params


def mesh_of(**sizes):
    return devices.make(Mesh(data=1, **sizes), jax.devices()[:int(np.prod([*sizes.values(), 1]))])


def whole(spec, x):
    """What a parameter stands for, as one float32 array."""
    if isinstance(x, tuple):
        return jnp.stack([layer.astype(jnp.float32) for layer in x])
    return x.astype(jnp.float32)


@pytest.mark.parametrize("c", [DENSE, EXPERTS, dataclasses.replace(DENSE, tied=True)],
                         ids=["dense", "experts", "tied"])
def test_what_is_quantised(c, one):
    """Matrices, the output's too; neither embeddings, vectors nor routers. On a CPU, by layers."""
    m, params = model(c)
    held = weights.ready(m.declaration, params, one, "int8")
    found = set()

    def look(path, spec, x, stored):
        assert isinstance(x, tuple) == (spec.axes[0] == "L")
        if isinstance(x[0] if isinstance(x, tuple) else x, Quantised):
            found.add(path[-1].key)
        else:
            np.testing.assert_allclose(whole(spec, x), stored, rtol=2**-8)
    jax.tree.map_with_path(look, m.declaration.specs, held, params)
    assert found == {"q", "k", "v", "o", "gate", "up", "down", *["output"] * (not c.tied)}


@pytest.mark.parametrize("sizes", [{}, dict(stage=2, tensor=2), dict(expert=2, fsdp=2)], ids=str)
def test_ready_is_as_shapes_says(sizes):
    """In every format: shapes, dtypes, where they lie; and as many bytes as that."""
    m, params = model(EXPERTS)
    mesh, took = mesh_of(**sizes), {}
    with devices.use(mesh):
        laid = jax.device_put(params, m.declaration.shardings(mesh))
        for format in WEIGHTS:
            asked = weights.shapes(m.declaration, mesh, format)
            held = weights.ready(m.declaration, laid, mesh, format)
            assert jax.tree.structure(asked) == jax.tree.structure(held)
            for a, x in zip(*map(jax.tree.leaves, (asked, held)), strict=True):
                assert (a.shape, a.dtype) == (x.shape, x.dtype)
                assert a.sharding.is_equivalent_to(x.sharding, a.ndim)
            took[format] = weights.nbytes(held)
            assert took[format] == weights.nbytes(asked)
    assert took["auto"] == took["bfloat16"]
    if not sizes:  # no device has what another has as well
        matrices = sum(x.size for x, s in zip(
            *map(jax.tree.leaves, (params, m.declaration.specs)), strict=True)
            if s.inputs and not s.exact)
        fewer = took["bfloat16"] - took["int8"]  # a byte of two, less the scales
        assert 0.85 * matrices < fewer < matrices
    assert took["fp8"] == took["int8"] <= took["int4"] < took["bfloat16"]  # 4 bits, a byte on CPUs


def test_four_bits_are_half_a_byte(one):
    """On what is no CPU."""
    x = jax.ShapeDtypeStruct((6, 5), jnp.int4, sharding=jax.sharding.SingleDeviceSharding(
        jax.devices()[0]))
    assert weights.nbytes([x, x]) == 30
    with devices.traced(devices.Stand("tpu", "TPU v5e"), mesh_of().shape):
        m, _ = model(DENSE)
        asked = jax.eval_shape(weights._maker(m.declaration, mesh_of(), "int4"),
                               m.declaration.shapes)
    assert asked["layers"]["mlp"]["up"].q.dtype == jnp.int4
    assert asked["layers"]["mlp"]["down"].scale.shape == (2, 2, 32)  # of 256, in runs of 128


def test_nothing_is_made_anew_without_need():
    m, params = model(DENSE)
    mesh = mesh_of(tensor=2)
    with devices.use(mesh):
        laid = jax.device_put(params, m.declaration.shardings(mesh))
        for format in ("auto", "float32"):
            assert weights.ready(m.declaration, laid, mesh, format) is laid


def text(c, sizes, format, count=6):
    """Greedy tokens after each prompt, by the engine."""
    m, params = model(c)
    mesh = mesh_of(**sizes)
    with devices.use(mesh):
        params = jax.device_put(params, m.declaration.shardings(mesh))
    options = Engine(slots=2, budget=8, page=4, weights=format)
    core = Core(lambda: llm.build(m, params, options, mesh, V=V, context=T), options, Bytes(),
                mesh=mesh, context=T)
    made = [[] for _ in PROMPTS]
    greedy = Sampling(max_tokens=count, temperature=0.0, ignore_eos=True)
    for i, event in llm.LLM(core).stream(PROMPTS, greedy):
        made[i] += event.tokens
    return made


@functools.cache
def right(c, format, count=6):
    """The same by whole forward passes with the matrices that the quantised ones stand for."""
    m, params = model(c)
    mesh = mesh_of()
    with devices.use(mesh):
        held = weights.ready(m.declaration, params, mesh, format)
        plain = jax.tree.map(whole, m.declaration.specs, held)

        @jax.jit
        def logits(tokens_BT):
            model = m.declaration.bind(plain)
            return model.logits(model(tokens_BT, jnp.arange(T)[None])[0])[0]
        rows = [list(prompt) for prompt in PROMPTS]
        for row, _ in itertools.product(rows, range(count)):
            row.append(int(logits(np.pad(row, (0, T - len(row)))[None])[len(row) - 1].argmax()))
    return [row[len(prompt):] for row, prompt in zip(rows, PROMPTS, strict=True)]


QUICK = [(DENSE, {}, "int8"), (DENSE, dict(stage=2, tensor=2), "int4"),
         (EXPERTS, dict(expert=2), "fp8")]
MESHES = [{}, dict(tensor=2), dict(stage=2, tensor=2), dict(fsdp=2), dict(expert=2, tensor=2)]
SLOW = [case for case in itertools.product((DENSE, EXPERTS), MESHES, FORMATS) if case not in QUICK]


@pytest.mark.parametrize("c, sizes, format", [
    *QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)],
    ids=lambda x: ("experts" if x.E else "dense") if isinstance(x, Config) else str(x))
def test_greedy_is_the_forward_pass_of_what_they_stand_for(c, sizes, format):
    c = dataclasses.replace(c, precision="float32")  # in bfloat16 near ties are anyone's
    made = text(c, sizes, format)
    assert made == right(c, format)
    assert len({token for row in made for token in row}) > 6  # text that repeats itself is easy


@pytest.mark.slow
@pytest.mark.parametrize("target, sizes", [("v5e:2x2", dict(tensor=4)),
                                           ("v6e:2x2", dict(tensor=2, stage=2))])
def test_tpus_hold_no_dequantised_matrix(target, sizes):
    """Compiled for chips that are not here: the arguments shrink, and nothing else grows."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("no libtpu: pip install the one that jax[tpu] pins to compile for TPUs")
    c = Config(L=8, D=512, N=8, K=4, H=128, F=2048, V=1024, T=256, precision="bfloat16")
    d = decoder.build(c)
    mesh = devices.make(Mesh(data=1, **sizes), topology.chips(target)[1])
    jax.config.update("jax_enable_compilation_cache", False)  # no client here could read it again
    took = {}
    with devices.use(mesh):
        for format in ("auto", *FORMATS):
            shape = shapes.shape(Engine(slots=8, pages=16), c, 256, 0)
            held = weights.shapes(d, mesh, format)
            made = engines.lowered(engines.Model(c, d, held), shape, 16, c.V, mesh).compile()
            took[format] = made.memory_analysis(), weights.nbytes(held)
    jax.config.update("jax_enable_compilation_cache", True)
    plain, size = took.pop("auto")
    for format, (made, own) in took.items():
        assert made.temp_size_in_bytes < plain.temp_size_in_bytes + size / 20, format
        fewer = plain.argument_size_in_bytes - made.argument_size_in_bytes
        assert 0.95 * (size - own) < fewer, format
    assert took["int4"][1] < 0.6 * took["int8"][1] < 0.35 * size
