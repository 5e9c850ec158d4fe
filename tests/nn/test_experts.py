"""Experts against a loop over them in numpy's order: values, gradients, drops, on every mesh."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from lm.cost import count
from lm.mesh import devices, rules
from lm.mesh.config import Config as Mesh
from lm.nn.experts import Experts, balance
from lm.nn.module import Normal, compute, declare, stack

B, T, D, F, E, TOP = 8, 16, 16, 8, 8, 2
MESHES = {
    "one": None,
    "data 8": Mesh(data=8),
    "expert 8": Mesh(data=1, expert=8),
    "expert 4 x fsdp 2": Mesh(data=1, fsdp=2, expert=4),
    "expert 2 x tensor 2 x context 2": Mesh(data=1, expert=2, tensor=2, context=2),
}


@functools.cache
def made(capacity=0.0, renormalise=True, shared=0, activation="swiglu", L=0):
    """(declaration, parameters) of a mixture, of L of them if asked for."""
    module = Experts(D, F, activation, E=E, top=TOP, shared=shared, renormalise=renormalise,
                     capacity=capacity, init=Normal(0.3), init_out=Normal(0.3))
    declaration = declare(stack(module, L) if L else module)
    return declaration, declaration.init(jax.random.key(0))


def tokens(seed=0, B=B):
    """(x_BTD, weights_BT, index_BT)."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((B, T, D), dtype=np.float32),
            (rng.random((B, T)) < 0.7).astype(np.float32),
            np.arange(B * T, dtype=np.int32).reshape(B, T))


def scalar(y, aux):
    """A number in which every element of y and of the losses has its own weight."""
    return ((y.astype(jnp.float32) * jnp.cos(jnp.arange(y.size, dtype=jnp.float32)
                                             ).reshape(y.shape)).sum()
            + 0.3 * aux["balance"] + 0.2 * aux["router_z"])


def plain(params, x, weights, capacity=0.0, renormalise=True, kept=None):
    """The definition: every expert on every token. kept: which choices [B, T, E] count."""
    logits = jnp.einsum("BTD,DE->BTE", x, params["router"], precision="highest")
    share = jax.nn.softmax(logits, -1)
    chosen = share >= jnp.sort(share, -1)[..., -TOP, None]
    w = jnp.where(chosen, share, 0)
    w = w / w.sum(-1, keepdims=True) if renormalise else w
    y = 0
    for e in range(E):
        h = jax.nn.silu(x @ params["gate"][e]) * (x @ params["up"][e])
        y += w[..., e, None] * (h @ params["down"][e]) * (1 if kept is None else kept[..., e, None])
    if "shared" in params:
        s = params["shared"]
        y += (jax.nn.silu(x @ s["gate"]) * (x @ s["up"])) @ s["down"]
    rows = []
    for b in range(len(x)):
        n = max(weights[b].sum(), 1e-9)
        f = E / TOP * (chosen[b] * weights[b][:, None]).sum(0) / n
        rows.append(n * (f * (share[b] * weights[b][:, None]).sum(0) / n).sum())
    z = weights * jax.nn.logsumexp(logits, -1) ** 2
    return y, dict(balance=sum(rows), router_z=z.sum()), chosen


def first_come(chosen, capacity):
    """The choices [B, T, E] that find a slot, in order of time; all without a capacity."""
    C = math.ceil(T * TOP / E * capacity) if capacity else T
    return chosen & (np.cumsum(chosen, 1) <= C)


@functools.cache
def expected(capacity, **choices):
    """(y, aux, gradients) by the definition."""
    _, params = made(capacity, **choices)
    x, weights, _ = tokens()
    chosen = np.asarray(plain(params, x, weights)[2])
    kept = first_come(chosen, capacity)
    choices = {k: v for k, v in choices.items() if k == "renormalise"}

    def value(params, x):
        y, aux, _ = plain(params, x, weights, kept=kept, **choices)
        return scalar(y, aux), (y, aux)
    grads, (y, aux) = jax.jit(jax.grad(value, (0, 1), has_aux=True))(params, x)
    if capacity:
        n = TOP * weights.sum()
        aux["dropped"] = (weights[..., None] * (chosen & ~kept)).sum() / n * weights.sum()
    return y, aux, grads


def run(mesh, capacity, around=lambda f: f, dtype=jnp.float32, **choices):
    """(y, aux, gradients) on a mesh, columns back in order of time."""
    declaration, params = made(capacity, **choices)
    x, weights, index = tokens()
    mesh = devices.make(mesh or Mesh(data=1), jax.devices()[:8 if mesh else 1])
    order = rules.order(T, mesh.shape["context"])
    with devices.use(mesh):
        lay = lambda a: jax.device_put(a[:, order], rules.sharding(  # noqa: E731
            mesh, "BT", a.shape[:2]))
        params = jax.device_put(params, declaration.shardings(mesh))
        inputs = lay(x), lay(weights), lay(index)

        def value(params, x, weights, index):
            model = compute(declaration.bind(params), dtype)
            y, aux = model(x.astype(dtype), index_BT=index, weights_BT=weights)
            return scalar(y[:, np.argsort(order)], aux), (y, aux)
        step = jax.jit(jax.grad(around(value), (0, 1), has_aux=True))
        (dparams, dx), (y, aux) = step(params, *inputs)
        text = step.lower(params, *inputs).compile().as_text()
    back = np.argsort(order)
    return (y[:, back], aux, (dparams, dx[:, back])), text


def close(got, want, **tolerance):
    """y, the auxiliary sums that are wanted, all gradients."""
    y, aux, grads = got
    tolerance = dict(rtol=1e-4, atol=1e-4) | tolerance
    np.testing.assert_allclose(y, want[0], **tolerance)
    for name in want[1]:
        np.testing.assert_allclose(aux[name], want[1][name], **tolerance, err_msg=name)
    flat = jax.tree_util.tree_leaves_with_path(grads)
    for (path, a), b in zip(flat, jax.tree.leaves(want[2]), strict=True):
        np.testing.assert_allclose(a, b, **tolerance, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("capacity", [0.0, 0.5], ids=["dropless", "limited"])
@pytest.mark.parametrize("name", MESHES)
def test_is_the_sum_of_the_chosen_experts(name, capacity):
    """On every mesh; with slots for half the mean load, the earliest of each row and no others."""
    got, text = run(MESHES[name], capacity)
    want = expected(capacity)
    close(got, want)
    assert (got[1]["dropped"] > 0) == bool(capacity)
    _exchanged(text, name, capacity)


def _exchanged(text, name, capacity):
    """What goes between devices along `expert`: the slots there and back, and their gradients."""
    moved = re.findall(r"= (.*?) (all-gather|all-to-all|reduce-scatter)(?:-start)?\(", text)
    kinds = [kind for _, kind in moved]
    if "expert" not in name:
        assert not kinds
    elif capacity:
        assert kinds.count("all-to-all") == 4
    else:  # tokens by a gather, back by a scatter, and for the gradients the same
        assert kinds.count("reduce-scatter") >= 3 and "all-to-all" not in kinds
    for shape, kind in moved:  # nowhere does one device come to hold all tokens
        sizes = [math.prod(map(int, s.split(","))) for s in re.findall(r"\[([\d,]+)\]", shape)]
        if kind != "all-to-all" and (capacity or name != "expert 8"):
            assert max(sizes) < B * T * D, (kind, shape)


def test_few_rows():
    """Rows that do not divide over the devices, one token each: as in decoding."""
    declaration, params = made(0.5)
    x = tokens()[0][:2, :1]
    want = plain(params, x, np.ones((2, 1)))[0]
    for capacity in (0.0, 0.5):
        declaration, _ = made(capacity)
        with devices.use(devices.make(Mesh(data=1, expert=4, tensor=2))):
            y, aux = jax.jit(lambda p, x: declaration.bind(p)(x))(params, x)  # noqa: B023
        np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)
        assert aux["dropped"] == 0


@pytest.mark.parametrize("name", ["one", "expert 2 x tensor 2 x context 2"])
def test_shared_experts_beside_shares_as_they_are(name):
    """DeepSeekMoE's: two experts for all tokens, and weights that do not add up to 1."""
    choices = dict(renormalise=False, shared=2)
    got, _ = run(MESHES[name], 0.0, **choices)
    close(got, expected(0.0, **choices))


def test_room_for_all_drops_none():
    """E/k slots for the mean load are as many as a row has tokens."""
    got, _ = run(MESHES["expert 4 x fsdp 2"], E / TOP)
    close(got, expected(0.0))
    assert got[1]["dropped"] == 0


def test_no_gate():
    """Activations without one have two matrices."""
    _, params = made(activation="relu2")
    assert params.keys() == {"router", "up", "down"}
    x = tokens()[0]
    declaration, _ = made(activation="relu2")
    params = jax.tree.map(np.asarray, params)
    y, _ = jax.jit(lambda p: declaration.bind(p)(x))(params)
    share = jax.nn.softmax(x @ params["router"], -1)
    order = np.argsort(-share, -1)[..., :TOP]
    want = np.zeros_like(x)
    for b, t in np.ndindex(B, T):
        top = order[b, t]
        for e in top:
            h = np.maximum(x[b, t] @ params["up"][e], 0) ** 2
            want[b, t] += share[b, t, e] / share[b, t, top].sum() * (h @ params["down"][e])
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("capacity", [0.0, 0.5], ids=["dropless", "limited"])
def test_bfloat16(capacity):
    """The router stays in float32, so that the same experts are chosen but for ties."""
    mesh = MESHES["expert 2 x tensor 2 x context 2"]
    (y, aux, grads), _ = run(mesh, capacity, dtype=jnp.bfloat16)
    assert y.dtype == jnp.bfloat16
    exact = run(mesh, capacity)[0]
    # The input is rounded too, by which a few choices of the 256 are others.
    far = np.abs(y.astype(np.float32) - exact[0]).max(-1) > 0.05 * np.abs(exact[0]).max()
    assert far.mean() < 0.05
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(exact[2]), strict=True):
        assert np.linalg.norm(a - b) < 0.1 * np.linalg.norm(b)


@pytest.mark.parametrize(("mesh", "capacity", "dtype", "over"), [
    pytest.param(*case, id=name, marks=[pytest.mark.slow] * (name in {
        "plain-dropless", "stage-dropless"}))
    for capacity, kind in ((0.0, "dropless"), (0.5, "limited"))
    for name, case in {
        f"expert-{kind}": (Mesh(data=1, stage=2, expert=4), capacity, "float32",
                           rules.over_stages),
        f"plain-{kind}": (Mesh(data=1, stage=2, expert=2, tensor=2), capacity, "bfloat16",
                          jax.vmap),
        f"stage-{kind}": (Mesh(data=1, stage=8), capacity, "float32", rules.over_stages),
    }.items()])
def test_under_vmap_over_stages(mesh, capacity, dtype, over):
    """As the pipeline runs it: each stage its own layer on its own tokens, and nothing crosses.

    A plain vmap gives the same, though not as fast.
    """
    mesh = devices.make(mesh)
    L = mesh.shape["stage"]
    declaration, params = made(capacity, L=L)
    x_LBTD = np.stack([tokens(i)[0] for i in range(L)])

    def value(params, x_LBTD):
        y, aux = over(lambda m, x: compute(m, dtype)(x.astype(dtype)))(
            declaration.bind(params), x_LBTD)
        return scalar(y, jax.tree.map(jnp.sum, aux)), (y, aux)
    step = jax.jit(jax.grad(value, (0, 1), has_aux=True))
    with devices.use(devices.make(Mesh(), jax.devices()[:1])):
        want = step(params, x_LBTD)
    with devices.use(mesh):
        laid = jax.device_put(params, declaration.shardings(mesh))
        inputs = jax.device_put(x_LBTD, rules.sharding(mesh, "LBTD", x_LBTD.shape))
        compiled = step.lower(laid, inputs).compile()
        got, text = compiled(laid, inputs), compiled.as_text()
    kinds = "(?:all-gather|all-to-all|reduce-scatter)"
    moved = re.findall(rf"= \(?\w+\[([\d,]+)\][^=]* {kinds}\(", text)
    assert bool(moved) == (L == 2)
    for shape in moved * (over != jax.vmap):  # of tokens, whose first axis is the stages', one each
        assert shape.count(",") < 3 or shape.startswith("1,"), shape
    tolerance = 1e-4 if dtype == "float32" else 0.03
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize("capacity", [0.0, 0.5], ids=["dropless", "limited"])
def test_inside_a_surrounding_shard_map(capacity):
    """Manual over `data`, as compressed gradients have it: the parts' sums add up."""
    def around(value):
        def total(params, *inputs):
            def part(params, *inputs):
                out, (y, aux) = value(params, *inputs)
                return out[None], (y, jax.tree.map(lambda a: a[None], aux))
            out, (y, aux) = jax.shard_map(
                part, in_specs=(P(), *[P("data")] * 3), out_specs=(P("data"), (P("data"),
                P("data"))), axis_names={"data"}, check_vma=False)(params, *inputs)
            return out.sum(), (y, jax.tree.map(jnp.sum, aux))
        return total
    got, _ = run(Mesh(data=2, expert=4), capacity, around)
    y, aux, _ = expected(capacity)
    x, weights, _ = tokens()
    kept = first_come(np.asarray(plain(made()[1], x, weights)[2]), capacity)

    @jax.jit
    def halves(params, x):
        return sum(scalar(*plain(params, x[i], weights[i], kept=kept[i])[:2])
                   for i in (slice(0, 4), slice(4, 8)))
    close(got, (y, aux, jax.grad(halves, (0, 1))(made()[1], x)))


@pytest.mark.parametrize("capacity", [0.0, 1.0], ids=["dropless", "limited"])
def test_flops_are_those_of_the_chosen(capacity):
    """Of k experts a token, once forward and twice back, and the router."""
    declaration, params = made(capacity)
    x = tokens()[0]
    run = lambda params, x: declaration.bind(params)(x)[0].sum()  # noqa: E731
    once = 2 * B * T * (TOP * 3 * D * F + D * E)
    assert count.flops(run, params, x).total == once
    assert count.flops(jax.grad(run, (0, 1)), params, x).total == 3 * once


def test_sums_add_up_over_rows():
    """Whatever the number of weighted tokens in each part, and rows without any."""
    declaration, params = made(0.5)
    x, weights, index = tokens()
    weights[3], weights[:2, 9:] = 0, 0
    aux = jax.jit(lambda x, index, weights: declaration.bind(params)(
        x, index_BT=index, weights_BT=weights)[1])
    whole = aux(x, index, weights)
    parts = [aux(x[i], index[i], weights[i]) for i in (slice(0, 1), slice(1, 4), slice(4, 8))]
    for name in whole:
        np.testing.assert_allclose(sum(p[name] for p in parts), whole[name], rtol=1e-5)


def test_balance():
    """1 for equal shares; its gradient takes from the expert that too many tokens choose."""
    even = np.tile(np.eye(E)[np.arange(T) % E] + np.eye(E)[(np.arange(T) + 1) % E], (1, 1, 1))
    ones = jnp.ones((1, T))

    def of(logits, chosen):
        return balance(jax.nn.softmax(logits, -1), chosen, ones, 0 * ones, ones)
    sums = of(jnp.zeros((1, T, E)), even)
    assert sums["balance"] == pytest.approx(T) and sums["imbalance"] == pytest.approx(T)
    assert sums["router_z"] == pytest.approx(T) and sums["dropped"] == 0
    busy = np.zeros((1, T, E))
    busy[..., 0] = 1
    busy[0, np.arange(T), 1 + np.arange(T) % (E - 1)] = 1
    slope = jax.grad(lambda logits: of(logits, busy)["balance"])(jnp.zeros((1, T, E)))[0]
    assert (slope[:, 0] > 0).all() and (slope[:, 1:] < 0).all()
    # One expert and one more by turns: T/2 of them each E/k times the mean share.
    assert of(jnp.zeros((1, T, E)), busy)["imbalance"] == pytest.approx(T * E / TOP)


def test_an_earlier_token_never_loses_its_slot():
    """Later tokens change nothing for earlier ones, in the full order of time."""
    declaration, params = made(0.5)
    x, _, index = tokens()
    other = x.copy()
    other[:, 9:] = tokens(1)[0][:, 9:]
    run = jax.jit(lambda x, index: declaration.bind(params)(x, index_BT=index)[0])
    np.testing.assert_allclose(run(x, index)[:, :9], run(other, index)[:, :9], rtol=1e-5, atol=1e-6)
    back = run(x[:, ::-1], index[:, ::-1])[:, ::-1]
    np.testing.assert_allclose(back, run(x, index), rtol=1e-5, atol=1e-6)
    assert np.abs(run(x[:, ::-1], index)[:, ::-1] - back).max() > 0.01


def test_declaration():
    """A matrix for each expert to whoever updates or counts them; the router is one matrix."""
    module = Experts(D, F, "swiglu", E=E, top=TOP, shared=2, renormalise=True, capacity=0.0,
                     init=Normal(0.3), init_out=Normal(0.3))
    declaration = declare(stack(module, 3))
    specs = declaration.specs
    assert specs["up"].axes == "LEDF" and specs["router"].axes == "LDE"
    assert [specs[n].outputs for n in ("router", "gate", "up", "down")] == ["E", "F", "F", "D"]
    assert [specs[n].stacked for n in ("router", "gate", "down")] == ["L", "LE", "LE"]
    half = compute(declaration.bind(declaration.init(jax.random.key(0))), jnp.bfloat16)
    assert half.router[...].dtype == jnp.float32 and half.up[...].dtype == jnp.bfloat16
    shared, router = 3 * D * 2 * F, D * E
    assert declaration.count == 3 * (E * 3 * D * F + shared + router)
    assert declaration.active(TOP) == 3 * (TOP * 3 * D * F + shared + router)
