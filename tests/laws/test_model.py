"""Laws of one forward pass: causality, packing, decoding, remat, the loop over layers."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import ragged
from families import FAMILIES, OTHERS, B, T, V, batch

from lm.models.decoder import model as decoder

ALL = FAMILIES | OTHERS


@pytest.fixture(params=ALL)
def config(request, one):
    return ALL[request.param]


@cache
def params_of(config, scale=3.0):
    """Weights far from the start, so that every path matters."""
    declaration = decoder.build(config)

    @jax.jit
    def make():
        params = declaration.init(jax.random.key(1))
        return jax.tree.map(
            lambda p: scale * p + 0.02 * jax.random.normal(jax.random.key(2), p.shape), params)
    return declaration, make()


@partial(jax.jit, static_argnums=0)
def logits(declaration, params, tokens, **places):
    model = declaration.bind(params)
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    x, _ = model(tokens, places.pop("positions_BT", positions), **places)
    return model.logits(x)


def test_causal_by_gradient(config):
    """No output depends on a later token; every output depends on its own and an earlier one."""
    declaration, params = params_of(config)
    table = params["embedding"]
    tokens = jnp.arange(T)[None]  # a row of the table a token: its gradient is the token's

    def outputs(table):
        out_TV = logits(declaration, params | dict(embedding=table), tokens)[0]
        return (out_TV[:, V // 2:] ** 2).sum(-1)

    reach = np.abs(jax.jit(jax.jacrev(outputs))(table)[:, :T]).sum(-1)
    # A tied output reads the table too, but only rows from V / 2 on, which no token is.
    assert np.all(reach[np.triu_indices(T, 1)] == 0)
    assert np.all(reach[np.diag_indices(T)] > 0)
    assert np.all(reach[np.arange(1, T), np.arange(T - 1)] > 0)
    if 0 in config.windows:
        assert np.all(reach[np.tril_indices(T)] > 0)


def test_window_by_gradient(one):
    """L layers of window w reach back L (w - 1) tokens and no further."""
    config = dataclasses.replace(FAMILIES["llama"], L=2, windows=(4,))
    declaration, params = params_of(config)

    def last(table):
        out_BTV = logits(declaration, params | dict(embedding=table), jnp.arange(T)[None])
        return (out_BTV[0, -1] ** 2).sum()

    reach = np.abs(jax.jit(jax.grad(last))(params["embedding"])[:T]).sum(-1) > 0
    assert np.flatnonzero(reach)[0] == T - 1 - 2 * 3


def test_packed_equals_separate(config):
    """A document's logits are the same alone and among others in a row."""
    declaration, params = params_of(config)
    tokens = jax.random.randint(jax.random.key(0), (1, T), 0, V)
    cut = 6
    segments = (jnp.arange(T) >= cut).astype(jnp.int32)[None]
    positions = jnp.where(jnp.arange(T) < cut, jnp.arange(T), jnp.arange(T) - cut)[None]
    packed = logits(declaration, params, tokens, segments_BT=segments, positions_BT=positions)
    np.testing.assert_allclose(packed[:, :cut], logits(declaration, params, tokens[:, :cut]),
                               rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(packed[:, cut:], logits(declaration, params, tokens[:, cut:]),
                               rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("family", "dtype"), [
    *((family, "float32") for family in ALL), ("llama", "bfloat16"), ("gemma", "bfloat16"),
    *(pytest.param(family, "bfloat16", marks=pytest.mark.slow) for family in ("gpt2", *OTHERS))])
def test_decode_equals_forward(family, dtype, one):
    """Through pages, in chunks of any size and a token at a time, come the forward pass' logits."""
    config = dataclasses.replace(ALL[family], precision=dtype)
    declaration, params = params_of(config, scale=1.0)
    tokens = np.asarray(jax.random.randint(jax.random.key(0), (3, T), 0, V))
    whole = logits(declaration, params, tokens)
    turns = [(1, 4, 7), (3, 0, 1), (1, 1, 1), (0, 6, 1), (1, 1, 1), (10, 4, 5)]
    out = ragged.logits(declaration, params, config, tokens, turns)
    tolerance = dict(rtol=2e-4, atol=2e-4) if dtype == "float32" else dict(rtol=0.05, atol=0.05)
    np.testing.assert_allclose(out, whole, **tolerance)


def value_and_gradient(config, params, data, key=None):
    declaration = decoder.build(config)

    def value(params):
        objective, _ = decoder.loss(declaration.bind(params), data, key)
        return objective.total / objective.count
    return jax.jit(jax.value_and_grad(value))(params)


@cache
def expected(config, seed):
    """What `value_and_gradient` gives for weights far from the start."""
    _, params = params_of(config)
    return value_and_gradient(config, params, batch(), jax.random.key(seed))


CHANGES = {
    "remat dots": dict(remat="dots"),
    "remat full": dict(remat="full"),
    "scanned": dict(unroll=1),
    "scanned by two": dict(unroll=2),
    "attention in blocks": dict(attention="blocks"),
    "loss in chunks": dict(loss_chunk=4),
}


# One family's are enough for what does not look into a layer.
SLOW = {"remat dots", "remat full", "scanned by two"}


@pytest.mark.parametrize(("family", "change"), [
    pytest.param(family, change, marks=[pytest.mark.slow] * (change in SLOW and family != "gemma"))
    for family in FAMILIES for change in CHANGES])
def test_same_numbers(family, change, one, monkeypatch):
    """What saves memory or time changes neither the loss nor its gradient, dropout included."""
    monkeypatch.setattr("lm.nn.attend.BLOCK", 6)
    drop = {} if "attention" in CHANGES[change] else dict(dropout_attention=0.1)
    config = dataclasses.replace(FAMILIES[family], dropout_residual=0.1, dropout_embedding=0.1,
                                 attention="dense", **drop)
    _, params = params_of(config)
    got = value_and_gradient(dataclasses.replace(config, **CHANGES[change]), params, batch(),
                             jax.random.key(5))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5), got,
                 expected(config, 5))


def test_dropout_changes_and_keys_decide(one):
    """Dropout is on with a key, its draw is the key's, and it is off without."""
    config = dataclasses.replace(FAMILIES["gpt2"], dropout_residual=0.5)
    _, params = params_of(config)
    losses = [value_and_gradient(config, params, batch(), key)[0]
              for key in (None, jax.random.key(0), jax.random.key(0), jax.random.key(1))]
    assert losses[1] == losses[2] and len({float(x) for x in losses}) == 3


def test_bfloat16_is_near_float32(config):
    """Computing in bfloat16 moves the loss by less than a hundredth."""
    _, params = params_of(config, scale=1.0)
    exact, _ = value_and_gradient(config, params, batch())
    near, _ = value_and_gradient(dataclasses.replace(config, precision="bfloat16"), params, batch())
    assert near != exact and abs(near - exact) < 0.01 * exact


def test_batch_is_what_it_says():
    """The laws' own batch has several documents in a row and unequal weights (B rows)."""
    data = batch()
    assert data["segments_BT"].max() > 2 and data["weights_BT"].sum(1).std() > 1
    assert data["tokens_BT"].shape == (B, T)
