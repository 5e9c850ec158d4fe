"""Attention over a sequence that devices share gives the numbers and gradients of one device."""

import functools
import importlib.util
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from lm.base.errors import UserError
from lm.mesh import devices, rules
from lm.mesh.config import Config as Mesh
from lm.nn import attend as choice
from lm.nn import context as module
from lm.nn import remat
from lm.nn.attend import attend, dense
from lm.nn.splash import splash

AXES = ("BTNH", "BSKH", "BSKH", "BTNH")


def arrays(B=4, T=32, N=4, K=2, H=8, dtype=np.float32):
    """q, k, v and the gradient of the output."""
    rng = np.random.default_rng(0)
    shapes = (B, T, N, H), (B, T, K, H), (B, T, K, H), (B, T, N, H)
    return [rng.standard_normal(s, dtype=np.float32).astype(dtype) for s in shapes]


def numbers(B, T):
    """index_BT, and segment ids of rows that hold documents of uneven length."""
    rng = np.random.default_rng(1)
    ids = np.cumsum(rng.random((B, T)) < 4 / T, 1).astype(np.int32)
    return np.arange(B * T, dtype=np.int32).reshape(B, T), ids


def one_device(args, packed, window=0, softcap=0.0, drop=0.0, key=None):
    """The output of `dense` and the gradients of q, k and v."""
    index, ids = numbers(*args[0].shape[:2])
    return gradients(functools.partial(
        dense, segments_BT=ids if packed else None, index_BT=index, window=window, softcap=softcap,
        drop=drop, key=key))(*args)


def gradients(f):
    def run(q, k, v, dy, *rest):
        y, back = jax.vjp(lambda *a: f(*a, *rest), q, k, v)
        return y, *back(dy)
    return jax.jit(run)


def placed(mesh, args):
    """The arguments in zig-zag order on the mesh, and index_BT and segments_BT with them."""
    T = args[0].shape[1]
    order = rules.order(T, mesh.shape["context"])
    put = lambda x, axes: jax.device_put(  # noqa: E731
        x[:, order], rules.sharding(mesh, axes, x.shape, rules.COMPUTE))
    more = [put(x, "BT") for x in numbers(args[0].shape[0], T)]
    return [put(x, axes) for x, axes in zip(args, AXES, strict=True)] + more


def make(**sizes):
    config = Mesh(**dict(dict(data=1), **sizes))
    return devices.make(config, jax.devices()[:int(np.prod(list(sizes.values())))])


def over_devices(packed, kind=attend, **options):
    """What `placed` arguments are given to: the gradients by `kind`."""
    def run(q, k, v, index, ids):
        return kind(q, k, v, segments_BT=ids if packed else None, index_BT=index, **options)
    return gradients(run)


def compare(mesh, args, packed, kind=attend, tolerance=2e-5, how=None, **options):
    expected = one_device(args, packed, **options)
    order = rules.order(args[0].shape[1], mesh.shape["context"])
    with devices.use(mesh):
        more = dict(context=how) if how else {}
        got = over_devices(packed, kind, **more, **options)(*placed(mesh, args))
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(np.float32(a), np.float32(b)[:, order], rtol=tolerance,
                                   atol=tolerance)


CASES = {
    "context 2": (dict(context=2), dict(K=4), dict(packed=False)),
    "context 4, packed, window": (dict(context=4), dict(K=2), dict(packed=True, window=7)),
    "context 8, soft-cap": (dict(context=8), dict(K=1), dict(packed=False, softcap=2.0)),
    "a kv head each": (dict(fsdp=2, context=2, tensor=2), dict(K=2),
                       dict(packed=True, softcap=2.0)),
    "one kv head": (dict(fsdp=2, context=2, tensor=2), dict(K=1), dict(packed=False, window=20)),
}


@pytest.mark.parametrize("how", ["ring", "gather"])
@pytest.mark.parametrize("case", CASES)
def test_numbers_and_gradients_are_those_of_one_device(case, how):
    sizes, shape, options = CASES[case]
    compare(make(**sizes), arrays(**shape), how=how, **options)


@pytest.mark.parametrize("how", ["ring", "gather"])
def test_a_block_of_queries_at_a_time(how, monkeypatch):
    """Halves of 6 columns in blocks of 3."""
    monkeypatch.setattr(module, "BLOCK", 4)
    compare(make(context=2), arrays(T=24), packed=True, softcap=2.0, how=how)


@pytest.mark.parametrize("how", ["ring", "gather"])
def test_bfloat16(how):
    compare(make(context=4), arrays(dtype=jnp.bfloat16), packed=True, how=how, tolerance=4e-2)


@pytest.mark.parametrize("sizes", [dict(context=4), dict(fsdp=2, context=2, tensor=2)])
def test_dropout_has_the_bits_of_one_device(sizes):
    """Left to itself, dropout gathers: a token draws bits for all its keys and heads at once."""
    compare(make(**sizes), arrays(), packed=True, drop=0.3, key=jax.random.key(0))


@pytest.mark.parametrize("sizes, options", [
    (dict(context=2, tensor=2), dict(packed=True, softcap=5.0)),
    (dict(context=2), dict(packed=False, window=100))])
def test_splash(sizes, options):
    """The TPU's kernel, interpreted."""
    kind = functools.partial(splash, context=2, interpret=True, drop=0.0, key=None)
    options = dict(dict(window=0, softcap=0.0), **options)
    compare(make(**sizes), arrays(B=1, T=512, K=2, H=64), kind=kind, tolerance=1e-4, **options)


@pytest.mark.parametrize("how, over", [
    ("ring", rules.over_stages), ("gather", rules.over_stages), ("ring", jax.vmap)])
def test_stages_of_a_pipeline_keep_their_own(how, over):
    """Layers are mapped over an array axis that lies on `stage`: none leaves its devices."""
    mesh, args = make(stage=2, context=2, tensor=2), arrays()
    order = rules.order(32, 2)
    expected = one_device(args, packed=True)
    with devices.use(mesh):
        def run(q, k, v, index, ids):
            return attend(q, k, v, segments_BT=ids, index_BT=index, context=how)
        twice = [jax.device_put(np.stack([x, x]), rules.sharding(
            mesh, "L" + axes, (2, *x.shape), rules.COMPUTE))
            for x, axes in zip(placed(mesh, args), (*AXES, "BT", "BT"), strict=True)]
        step = gradients(over(run)).lower(*twice).compile()
        got = step(*twice)
    for a, b in zip(got, expected, strict=True):
        assert a.sharding.shard_shape(a.shape)[0] == 1
        for stage in a:
            np.testing.assert_allclose(stage, b[:, order], rtol=2e-5, atol=2e-5)
    assert not re.search(r"\[2,4,\d+,\d+,8\]\S* all-gather", step.as_text())


@pytest.mark.parametrize("how", ["ring", "gather"])
def test_within_workers(how):
    """Under a shard_map that has taken `data`, each worker attends over its own rows."""
    mesh, args = make(data=2, context=2, tensor=2), arrays()
    expected = one_device(args, packed=True)
    rows = PartitionSpec("data")
    with devices.use(mesh):
        worker = jax.shard_map(over_devices(True, context=how), in_specs=rows, out_specs=rows,
                               axis_names={"data"}, check_vma=False)
        got = jax.jit(worker)(*placed(mesh, args))
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b[:, rules.order(32, 2)], rtol=2e-5, atol=2e-5)


def collectives(n, packed, f):
    """The collectives of n devices' program: name -> how often it stands there."""
    mesh = make(context=n)
    with devices.use(mesh):
        text = f(packed).lower(*placed(mesh, arrays())).compile().as_text()
    names = re.findall(r" (all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\(",
                       text)
    return {name: names.count(name) for name in set(names)}


def test_the_ring_passes_on_keys_and_values_and_nothing_else():
    """Permutes stand before the own turn and in the loop; what the gradients load, also at its end.

    The first keys passed on are the same both ways, so the compiler does it once.
    """
    ring = functools.partial(over_devices, context="ring")

    def forward(packed):
        return jax.jit(lambda q, k, v, dy, index, ids: attend(
            q, k, v, segments_BT=ids if packed else None, index_BT=index, context="ring"))
    assert collectives(4, False, forward) == {"collective-permute": 2 + 2}
    assert collectives(4, True, forward) == {"collective-permute": 3 + 3}
    assert collectives(4, False, ring) == {"collective-permute": 2 + 2 + (2 + 4 + 2)}
    assert collectives(2, False, ring) == {"collective-permute": 2 + (2 + 2)}
    gather = functools.partial(over_devices, context="gather")
    assert collectives(4, False, gather) == {"all-gather": 2, "reduce-scatter": 2}


def test_what_attention_gives_is_kept_where_all_else_is_computed_again():
    """model.remat=attention: the way back asks for no second way there."""
    def permutes(name):
        def kind(*args, **options):
            return remat.layer(functools.partial(attend, context="ring", **options), name)(*args)
        with devices.use(make(context=4)) as mesh:
            args = placed(mesh, arrays())
            return str(jax.make_jaxpr(over_devices(False, kind))(*args)).count("= ppermute[")
    assert [permutes(name) for name in ("none", "attention", "full")] == [14, 14, 18]


def test_the_ring_needs_memory_linear_in_a_devices_columns(monkeypatch):
    """Of the gradient too: four times the sequence, four times the bytes; a gather has more."""
    monkeypatch.setattr(module, "BLOCK", 64)
    mesh = make(context=8)

    def temporary(T, how):
        args = [jax.ShapeDtypeStruct((1, T, 2, 8), jnp.float32, sharding=rules.sharding(
            mesh, axes, (1, T, 2, 8), rules.COMPUTE)) for axes in AXES]
        index = jax.ShapeDtypeStruct((1, T), jnp.int32, sharding=rules.sharding(
            mesh, "BT", (1, T), rules.COMPUTE))
        with devices.use(mesh):
            compiled = over_devices(False, context=how).lower(*args, index, index).compile()
        return compiled.memory_analysis().temp_size_in_bytes
    short, long = temporary(2048, "ring"), temporary(8192, "ring")
    assert long < 4.1 * short
    assert long < temporary(8192, "gather")


CHOICES = [
    # platform, T, options, asked, what is called
    ("cpu", 1024, {}, {}, "ring"),
    ("cpu", 1024, dict(drop=0.1), {}, "gather"),
    ("cpu", 1024, {}, dict(context="gather"), "gather"),
    ("cpu", 36, {}, {}, "dense"),  # does not divide: places in time, replicated
    ("gpu", 1024, {}, {}, "ring"),
    ("tpu", 1024, {}, {}, "splash"),
    ("tpu", 1024, {}, dict(context="gather"), "splash"),
    ("tpu", 1024, {}, dict(context="ring"), "ring"),
    ("tpu", 1024, {}, dict(how="dense"), "ring"),
    ("tpu", 512, {}, {}, "ring"),  # halves of 64
    ("tpu", 1024, dict(drop=0.1), {}, "gather"),
]


@pytest.mark.parametrize("platform, T, options, asked, called", CHOICES)
def test_choice(platform, T, options, asked, called, monkeypatch):
    """On a mesh of context 4, as the platform and what is asked for have it."""
    calls = []
    monkeypatch.setattr(choice, "platform", lambda: platform)
    for name in ("ring", "gather", "splash"):
        monkeypatch.setattr(choice, name, lambda *_, name=name, **__: calls.append(name))
    for name in choice.KINDS:
        monkeypatch.setitem(choice.KINDS, name, lambda *_, name=name, **__: calls.append(name))
    q = jax.ShapeDtypeStruct((2, T, 4, 64), jnp.float32)
    with devices.use(make(context=4)):
        attend(q, q, q, index_BT=0, key=0, **options, **asked)
        attend(q, q, q, **asked)  # what `rules.place` did not place is in its own order
    assert calls[0] == called
    assert not {"ring", "gather"} & set(calls[1:])


@pytest.mark.parametrize("asked, word", [
    (dict(context="ring", drop=0.1), "dropout_attention"),
    (dict(context="ring", how="splash"), "context='ring'"),
    (dict(how="splash"), "a sequence of 8, which 128"), (dict(how="cudnn"), "mesh.context")])
def test_what_was_asked_for_by_name_refuses_what_it_cannot_do(asked, word):
    x = jnp.ones((1, 32, 2, 8))
    with devices.use(make(context=2)), pytest.raises(UserError, match=word):
        attend(x, x, x, index_BT=jnp.zeros((1, 32), int), key=jax.random.key(0), **asked)


@pytest.mark.slow
@pytest.mark.parametrize("chip, sizes, mapped", [
    ("v5e:2x2", dict(context=2, tensor=2), False), ("v5p:2x2x1", dict(context=4), False),
    ("v6e:2x2", dict(context=4), False), ("v5e:2x2", dict(stage=2, context=2), True)])
def test_splash_for_chips_that_are_not_here(chip, sizes, mapped):
    """Compiled with the kernel both ways; also within the stages of a pipeline."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("no libtpu: pip install the one that jax[tpu] pins to compile for TPUs")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    from jax.experimental import topologies
    chips = topologies.get_topology_desc(platform="tpu", topology_name=chip).devices
    mesh = devices.make(Mesh(data=1, **sizes), list(chips))
    B, T, N, K, H = 4, 1024, 4, 2, 128
    lead, letter = ((2,), "L") if mapped else ((), "")

    def of(axes, dtype, *shape):
        where = rules.sharding(mesh, letter + axes, (*lead, *shape), rules.COMPUTE)
        return jax.ShapeDtypeStruct((*lead, *shape), dtype, sharding=where)
    q, k = of("BTNH", jnp.bfloat16, B, T, N, H), of("BSKH", jnp.bfloat16, B, T, K, H)
    ids = of("BT", jnp.int32, B, T)

    def run(q, k, v, ids):
        return attend(q, k, v, segments_BT=ids, index_BT=ids, softcap=30.0)
    run = rules.over_stages(run) if mapped else run
    jax.config.update("jax_enable_compilation_cache", False)  # no client here could read it again
    with devices.use(mesh):
        text = gradients(run).lower(q, k, k, q, ids).compile().as_text()
    jax.config.update("jax_enable_compilation_cache", True)
    for name in ("splash_mha_fwd", "splash_mha_dq", "splash_mha_dkv", "all-gather"):
        assert name in text
