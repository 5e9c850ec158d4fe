"""Tracing counts what the closed forms count, through every transformation in use."""

import math

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.experimental import pallas as pl
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from lm.cost import size
from lm.cost.conventions import CONVENTIONS, attention
from lm.cost.count import flops

X, W = jax.ShapeDtypeStruct((32, 16), jnp.float32), jax.ShapeDtypeStruct((16, 16), jnp.float32)
ONE = 2 * 32 * 16 * 16  # of X @ W


def shapes(D, L, N, K, H, F, V):
    def array(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    return {"embedding": array(V, D), "unembedding": array(D, V), "norm": array(D),
            "layers": {"q": array(L, D, N, H), "kv": array(L, 2, D, K, H), "o": array(L, N, H, D),
                       "up": array(L, 2, D, F), "down": array(L, F, D), "norms": array(L, 2, D)}}


def loss(params, tokens_BT, remat=False):
    """A decoder with grouped queries and a dense causal mask, layers scanned."""
    def layer(x_BTD, w):
        y_BTD = x_BTD * w["norms"][0]
        with jax.named_scope("attention"):
            q_BTNH = jnp.einsum("BTD,DNH->BTNH", y_BTD, w["q"])
            k_BTKH, v_BTKH = jnp.einsum("BTD,ADKH->ABTKH", y_BTD, w["kv"])
            x_BTD += jnp.einsum("BTNH,NHD->BTD",
                                jax.nn.dot_product_attention(q_BTNH, k_BTKH, v_BTKH,
                                                             is_causal=True), w["o"])
        with jax.named_scope("ffn"):
            gate, up = jnp.einsum("BTD,ADF->ABTF", x_BTD * w["norms"][1], w["up"])
            x_BTD += (jax.nn.silu(gate) * up) @ w["down"]
        return x_BTD, None
    step = jax.checkpoint(layer) if remat else layer
    x_BTD, _ = lax.scan(step, params["embedding"][tokens_BT], params["layers"])
    logits_BTV = (x_BTD * params["norm"]) @ params["unembedding"]
    return jax.nn.log_softmax(logits_BTV.astype(jnp.float32))[..., 0].mean()


@pytest.mark.parametrize(("shape", "B", "T"), [
    ({"D": 64, "L": 3, "N": 4, "K": 2, "H": 16, "F": 96, "V": 100}, 2, 32),
    # Llama 3.1 405B
    ({"D": 16384, "L": 126, "N": 128, "K": 8, "H": 128, "F": 53248, "V": 128256}, 4, 8192)])
def test_training_a_decoder(shape, B, T):
    params, tokens = shapes(**shape), jax.ShapeDtypeStruct((B, T), jnp.int32)
    matmul = size.elements(params) - shape["V"] * shape["D"] - (2 * shape["L"] + 1) * shape["D"]
    known = {"matmul": matmul, "T": T} | {k: shape[k] for k in "LNH"}
    traced = flops(jax.jit(jax.value_and_grad(loss)), params, tokens)
    assert traced.total == B * T * CONVENTIONS["matmul+full"](**known)
    assert traced.unknown == [] and sum(traced.by_scope.values()) == traced.total
    assert traced.under("ffn") == B * T * 6 * 3 * shape["L"] * shape["D"] * shape["F"]
    assert traced.by_scope[""] == B * T * 6 * shape["V"] * shape["D"]
    assert traced.under("attention") == traced.total - traced.under("ffn") - traced.by_scope[""]
    assert 2 * traced.by_scope["attention/BTNH,BSNH->BNTS"] == B * T * attention(
        **{k: known[k] for k in "LNHT"}, causal=False)
    forward = flops(loss, params, tokens).total
    assert traced.total == 3 * forward
    again = flops(jax.grad(lambda p, t: loss(p, t, remat=True)), params, tokens).total
    last = 2 * shape["D"] * shape["L"] * shape["F"] * B * T  # the last product is not needed again
    head = 2 * shape["V"] * shape["D"] * B * T
    assert again == traced.total + forward - head - last


def mlp(x, w):
    return jnp.tanh(jnp.tanh(x @ w) @ w).sum()


def test_the_gradient_is_twice_the_forward_pass():
    assert flops(mlp, X, W).total == 2 * ONE
    assert flops(jax.grad(mlp, (0, 1)), X, W).total == 6 * ONE
    assert flops(jax.grad(mlp, 1), X, W).total == 5 * ONE  # nobody asks for the input's
    assert flops(jax.jit(jax.jit(mlp)), X, W).total == 2 * ONE


def test_what_is_not_used_is_not_counted():
    assert flops(jax.grad(lambda x, w: (x @ w).sum()), X, W).total == ONE
    assert flops(lambda x, w: (x @ w, (x @ w) @ w)[0], X, W).total == ONE


def test_loops():
    ws = jax.ShapeDtypeStruct((5, 16, 16), jnp.float32)

    def once(h, w):
        return h @ w, None

    def thrice(h, w):
        return lax.fori_loop(0, 3, lambda _, h: h @ w, h), None
    assert flops(lambda x, ws: lax.scan(once, x, ws)[0], X, ws).total == 5 * ONE
    assert flops(lambda x, ws: lax.scan(thrice, x, ws)[0], X, ws).total == 15 * ONE
    assert flops(lambda x, ws: lax.map(lambda w: x @ w, ws), X, ws).total == 5 * ONE

    def search(x, w):
        return lax.while_loop(lambda x: (x @ w).sum() < 9, lambda x: x @ w, x)
    unknown = flops(search, X, W)
    assert unknown.total == 2 * ONE and "while loop" in unknown.unknown[0]
    assert flops(search, X, W, trips=7).total == 14 * ONE
    assert flops(search, X, W, trips=7).unknown == []


def test_the_dearest_branch():
    def choose(i, x, w):
        return lax.switch(i, [lambda x: x, lambda x: x @ w @ w, lambda x: x @ w], x)
    assert flops(choose, jax.ShapeDtypeStruct((), jnp.int32), X, W).total == 2 * ONE


def test_remat_counts_what_runs_again():
    def both(f):
        return flops(jax.value_and_grad(f, (0, 1)), X, W).total
    assert both(mlp) == 6 * ONE and both(jax.checkpoint(mlp)) == 8 * ONE
    policy = jax.checkpoint_policies.dots_saveable
    assert both(jax.checkpoint(mlp, policy=policy)) == 6 * ONE
    assert flops(jax.grad(jax.checkpoint(mlp), (0, 1)), X, W).total == 6 * ONE  # no value asked


def test_custom_derivatives():
    @jax.custom_vjp
    def product(x, w):
        return x @ w
    product.defvjp(lambda x, w: (x @ w, (x, w)), lambda r, g: (g @ r[1].T, r[0].T @ g))
    assert flops(product, X, W).total == ONE
    assert flops(jax.grad(lambda x, w: (product(x, w) ** 2).sum(), (0, 1)), X, W).total == 3 * ONE

    @jax.custom_jvp
    def squash(x):
        return jnp.tanh(x)
    squash.defjvp(lambda p, t: (jnp.tanh(p[0]), t[0] * (1 - jnp.tanh(p[0]) ** 2)))
    assert flops(jax.grad(lambda x, w: squash(x @ w).sum(), (0, 1)), X, W).total == 3 * ONE


def test_shard_map_counts_every_device():
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    def mapped(spec, names):
        return jax.shard_map(lambda x, w: x @ w, mesh=mesh, in_specs=(spec, P()), out_specs=spec,
                             axis_names=names)
    assert flops(jax.jit(mapped(P(("a", "b")), {"a", "b"})), X, W).total == ONE
    assert flops(jax.jit(mapped(P("a"), {"a"})), X, W).total == ONE
    assert flops(jax.jit(mapped(P("a"), {"a", "b"})), X, W).total == 4 * ONE  # all of b repeats it


def test_vmap_and_dtypes():
    xs = jax.ShapeDtypeStruct((3, 32, 16), jnp.bfloat16)
    w8 = jax.ShapeDtypeStruct((16, 16), jnp.int8)
    got = flops(jax.vmap(lambda x, w: lax.dot(x, w, preferred_element_type=jnp.float32),
                         in_axes=(0, None)), xs, w8)
    assert got.by_dtype == {"bfloat16*int8": 3 * ONE}


def test_ragged_dot():
    rows, groups = jax.ShapeDtypeStruct((32, 16), jnp.float32), jnp.array([8, 8, 8, 8])
    experts = jax.ShapeDtypeStruct((4, 16, 16), jnp.float32)
    def run(x, w):
        return (lax.ragged_dot(x, w, groups) ** 2).sum()
    assert flops(run, rows, experts).total == ONE
    assert flops(jax.grad(run, (0, 1)), rows, experts).total == 3 * ONE


@pytest.mark.parametrize("groups", [1, 4])
def test_convolution(groups):
    x, k = jnp.ones((2, 32, 16)), jnp.ones((3, 16 // groups, 8))
    def run(x, k):
        return lax.conv_general_dilated(x, k, (1,), "SAME", feature_group_count=groups,
                                        dimension_numbers=("NWC", "WIO", "NWC"))
    assert flops(run, x, k).total == 2 * 2 * 32 * 8 * 3 * 16 / groups


def test_kernels():
    def copy(x_ref, o_ref):
        o_ref[...] = x_ref[...]
    def run(x, cost):
        return pl.pallas_call(copy, out_shape=X, cost_estimate=cost, interpret=True, name="mine")(x)
    cost = pl.CostEstimate(flops=77, transcendentals=0, bytes_accessed=1)
    known, unknown = flops(lambda x: run(x, cost), X), flops(lambda x: run(x, None), X)
    assert known.total == 77 and known.unknown == [] and known.by_dtype == {"pallas": 77}
    assert unknown.total == 0 and "kernel mine" in unknown.unknown[0]


def test_foreign_code_is_told():
    got = flops(lambda x: jax.ffi.ffi_call("fused", X)(x), X)
    assert got.total == 0 and got.unknown == ["the operation ffi_call, counted 0"]


def test_a_huge_program_takes_no_memory():
    huge = jax.ShapeDtypeStruct((10**7, 10**7), jnp.float32)
    assert math.isclose(flops(lambda x: x @ x, huge).total, 2e21)
