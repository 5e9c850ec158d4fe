"""The scales of a cache of 8 bits: what they come from, what they are for, where there is none."""

import dataclasses
import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.base.errors import UserError
from lm.data.tokenizers.plain import Bytes
from lm.experiment import llm, parts
from lm.infer import calibrate, shape, weights
from lm.infer.config import Engine
from lm.infer.core import Core
from lm.infer.engine import Model
from lm.infer.request import Sampling
from lm.mesh import devices
from lm.mesh.config import Config as Mesh
from lm.models.decoder import model as decoder
from lm.models.decoder.config import Config
from lm.nn.attend import attend

V, T = Bytes().V, 32
CONFIG = Config(L=3, D=32, N=4, K=2, F=64, V=V, T=T, init="llama")
PROMPTS = np.random.default_rng(0).integers(0, V, (4, 20)).tolist()


@functools.cache
def model(scale: float = 1.0):
    """A model far from its start. scale: of its values, which the matrix after them makes good."""
    d = decoder.build(CONFIG)
    params = jax.jit(lambda key: jax.tree.map(
        lambda p, s: 8 * p if s.hidden else p, d.init(key), d.specs))(jax.random.key(2))
    a = params["layers"]["attention"]
    a |= dict(v=a["v"] * scale, o=a["o"] / scale)
    params["output"] *= 20.0
    return parts.Model(CONFIG, d, decoder.loss), params


@dataclass(frozen=True)
class Seen:
    """A cache for one pass over whole sequences, which keeps the largest magnitudes only."""

    pools: tuple = ()
    layer: int = 0
    active: bool = True

    def attend(self, q_BTNH, k_BTKH, v_BTKH, *, window, softcap):
        y = attend(q_BTNH, k_BTKH, v_BTKH, window=window, softcap=softcap, how="dense")
        most = tuple(jnp.abs(x).max((0, 1, 3)) for x in (k_BTKH, v_BTKH))
        return y, dataclasses.replace(self, pools=(*self.pools, most))


@functools.cache
def largest():
    """(k_LK, v_LK) of the prompts by one plain pass."""
    m, params = model()

    @jax.jit
    def run(tokens_BT):
        return m.declaration.bind(params)(tokens_BT, jnp.arange(20)[None], cache=Seen())[1].pools
    with devices.use(devices.make(Mesh(), jax.devices()[:1])):
        return tuple(np.stack(x) for x in zip(*run(np.array(PROMPTS)), strict=True))


@pytest.mark.parametrize("sizes", [{}, dict(tensor=4, stage=2)], ids=str)
def test_the_largest_keys_and_values_are_those_of_a_plain_pass(sizes):
    """Of each layer and head; in order where stages are uneven and heads on several devices."""
    m, params = model()
    mesh = devices.make(Mesh(data=1, **sizes), jax.devices()[:int(np.prod([*sizes.values(), 1]))])
    with devices.use(mesh):
        held = weights.ready(m.declaration, jax.device_put(
            params, m.declaration.shardings(mesh)), mesh)
        found = calibrate.largest(Model(m.config, m.declaration, held), V, PROMPTS, 1)
    copies = 2 if sizes.get("tensor") == 4 else 1
    for x, right in zip(found, largest(), strict=True):
        np.testing.assert_allclose(x, np.repeat(right, copies, 1), rtol=1e-5)


def build(mesh, cache, m=None, params=None):
    """The engine with one cache or another."""
    m, params = (m, params) if m else model()
    return llm.build(m, params, Engine(slots=4, page=4, cache=cache), mesh, V=V, context=T)


def test_a_cache_of_8_bits_has_scales(one):
    """Of text that the model has made; others have none. A head without values divides by 1."""
    m, params = model()
    params = jax.tree.map_with_path(
        lambda path, x: x.at[1, :, 0].set(0) if path[-1].key == "v" else x, params)
    assert build(one, "auto").model.scales is None
    k, v = build(one, "int8", m, params).model.scales
    assert k.shape == v.shape == (3, 2) and k.dtype == jnp.float32
    assert (k > 0).all() and v[1, 0] == 1
    starts = np.random.default_rng(0).integers(0, V, 16).tolist()
    held = weights.ready(m.declaration, params, one)
    seen = calibrate.largest(Model(m.config, m.declaration, held), V, [[t] for t in starts], T - 1)
    np.testing.assert_allclose(k, seen[0] * 1.25 / 127, rtol=1e-5)
    np.testing.assert_allclose(jnp.delete(v.ravel(), 2), np.delete(seen[1], 2) * 1.25 / 127,
                               rtol=1e-5)
    # The text is no two tokens over and over, and is the same each time.
    again = build(one, "fp8", m, params).model.scales[0]
    np.testing.assert_allclose(again / k, 4 / 448 * 127 / 1.25, rtol=1e-5)


def test_much_text_where_there_is_room(monkeypatch, one):
    """As many rows as have room in the bytes that the cache will have; or 64 MiB."""
    asked = []
    monkeypatch.setattr(calibrate, "largest", lambda model, V, prompts, output: (
        asked.append((len(prompts), output + 1)), 2 * (np.ones((32, 8)),))[1])
    sizes = dict(slots=4, budget=8, ahead=0, queued=1, queued_tokens=1, kind="blocks", rows=4)
    big = dataclasses.replace(CONFIG, L=32, N=8, K=8, H=128, precision="bfloat16")
    assert shape.page_bytes(big, 1, "bfloat16", "blocks") == 128 << 10
    for c, context, pages, right in (
            (CONFIG, 32, 1, (16, 32)), (CONFIG, 1000, 1, (16, 128)), (big, 1000, 1, (4, 128)),
            (big, 32, 1, (16, 32)), (big, 1000, 100, (6, 128)), (big, 1000, 1000, (16, 128))):
        of = shape.Shape(context=context, pages=pages, page=16, dtype="int8", **sizes)
        m = calibrate.ready(Model(c, decoder.build(c), {}), of, V)
        assert asked.pop() == right
        np.testing.assert_allclose(m.scales[0], 1.25 / 127, rtol=1e-6)


@pytest.mark.parametrize("scale", [0.01, pytest.param(100.0, marks=pytest.mark.slow)])
def test_what_8_bits_change(scale):
    """The logprobs of the likeliest tokens, in nats, however small or large the values are."""
    m, params = model(scale)
    found = {}
    for cache in ("auto", "int8", "fp8"):
        mesh = devices.make(Mesh(), jax.devices()[:1])
        c = Engine(slots=4, page=4, cache=cache)
        core = Core(lambda: build(mesh, cache, m, params), c, Bytes(), mesh=mesh,  # noqa: B023
                    context=T)
        asked = Sampling(max_tokens=1, temperature=0.0, logprobs=20, ignore_eos=True)
        found[cache] = {}
        for i, event in llm.LLM(core).stream(PROMPTS, asked):
            for token, logprob in event.logprobs[0].top if event.logprobs else ():
                found[cache][i, token] = logprob
    exact = found.pop("auto")
    for cache, bound in (("int8", 0.1), ("fp8", 0.2)):
        both = exact.keys() & found[cache].keys()
        off = np.array([found[cache][at] - exact[at] for at in both])
        assert len(both) > 0.9 * len(exact) and len(exact) == 80
        assert 0 < np.sqrt((off ** 2).mean()) < bound  # 1.0 and 0.3 without scales


@pytest.mark.parametrize("K, tensor, cache, kind", [
    (8, 1, "int8", "kernel"), (8, 4, "fp8", "kernel"), (8, 8, "int8", None), (2, 4, "fp8", None),
    (1, 1, "int8", None), (6, 1, "int8", None), (16, 1, "int8", "kernel"), (8, 8, "auto", "kernel"),
    (6, 1, "float32", "blocks"), (6, 2, "auto", "blocks"), (1, 8, "auto", "kernel")])
def test_what_the_kernel_for_tpus_can_lay_out(K, tensor, cache, kind):
    """Keys and values of 8 bits need two heads on a device; what else is uneven goes without it."""
    c = dataclasses.replace(CONFIG, D=1024, N=48 if K == 6 else 16, K=K, H=128,
                            precision="bfloat16")
    with devices.traced(devices.Stand("tpu", "TPU v5e"), dict(tensor=tensor, stage=1)):
        def of():
            return shape.shape(Engine(cache=cache, pages=64), c, 256, 0)
        if kind:
            assert of().kind == kind
            return
        with pytest.raises(UserError) as error:
            of()
    text = str(error.value)
    assert f"cache = '{cache}'" in text and f"mesh.tensor = {tensor}" in text and "\n" not in text
