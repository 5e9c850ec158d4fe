"""Draws have exactly the distribution that the filters leave, and each row its own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lm.infer.config import Config
from lm.infer.sample import keep, sample

DRAWS = 20000
SHARES = np.array([0.05, 0.4, 0.1, 0.25, 0.2])  # of logits below, at temperature 1
LOGITS = np.log(SHARES).astype(np.float32) + 7

draw = functools.partial(jax.jit, static_argnums=3)(sample)


def counts(c, index=0):
    rows = jnp.broadcast_to(LOGITS, (DRAWS, 5))
    return np.bincount(draw(rows, jnp.arange(DRAWS, dtype=jnp.uint32), index, c), minlength=5)


CASES = {
    "all": (dict(), [0, 1, 2, 3, 4]),
    "top_k": (dict(top_k=2), [1, 3]),
    "top_k of more than there are": (dict(top_k=9), [0, 1, 2, 3, 4]),
    "top_p": (dict(top_p=0.64), [1, 3]),
    "top_p needs one more": (dict(top_p=0.66), [1, 3, 4]),
    "min_p": (dict(min_p=0.3), [1, 3, 4]),
    "in this order": (dict(top_k=3, top_p=0.7), [1, 3]),  # of the three 0.47 and 0.29
    "temperature": (dict(temperature=0.5), [0, 1, 2, 3, 4]),
    "temperature first": (dict(temperature=0.5, min_p=0.3), [1, 3]),
}


@pytest.mark.parametrize("case", CASES)
def test_distribution(case):
    """Chi-square over 20,000 draws; what is filtered out is never drawn."""
    choices, support = CASES[case]
    c = Config(**(dict(temperature=1.0) | choices))
    shares = SHARES[support] ** (1 / c.temperature)
    seen = counts(c)
    assert seen[support].sum() == DRAWS
    assert stats.chisquare(seen[support], shares / shares.sum() * DRAWS).pvalue > 1e-3


@pytest.mark.parametrize("choices", [dict(temperature=0.0), dict(top_k=1), dict(top_p=0.0),
                                     dict(min_p=1.0), dict(temperature=1e-6)])
def test_greedy(choices):
    assert counts(Config(**(dict(temperature=1.0) | choices)))[1] == DRAWS


def test_seeds_and_steps_are_independent():
    """Neither neighbouring seeds nor a seed's next step say anything of a draw."""
    c = Config(temperature=1.0)
    rows, seeds = jnp.broadcast_to(LOGITS, (DRAWS, 5)), jnp.arange(DRAWS, dtype=jnp.uint32)
    a, later = (np.asarray(draw(rows, seeds, index, c)) for index in (0, 1))
    for x, y in ((a, later), (a[:-1], a[1:]), (a[1:], later[:-1])):
        table = np.zeros((5, 5))
        np.add.at(table, (x, y), 1)
        assert stats.chi2_contingency(table).pvalue > 1e-3


def test_alone_or_in_any_batch():
    """A row's draw is its logits', its seed's and its step's, wherever it stands."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((6, 50), dtype=np.float32)
    seeds = jnp.array([3, 1, 2**32 - 1, 3, 0, 9], jnp.uint32)
    c = Config(temperature=0.9, top_k=30, top_p=0.9, min_p=0.01)
    batch = draw(logits, seeds, 5, c)
    order = np.array([4, 2, 0, 5, 3, 1])
    np.testing.assert_array_equal(draw(logits[order], seeds[order], 5, c), batch[order])
    for row in range(6):
        assert draw(logits[row:row + 1], seeds[row:row + 1], 5, c)[0] == batch[row]
    assert batch.dtype == jnp.int32


@settings(max_examples=40)
@given(st.permutations(range(8)), st.integers(0, 9), st.floats(0, 1), st.floats(0, 1),
       st.integers(0, 2**31))
def test_keep(order, top_k, top_p, min_p, seed):
    """What is kept, by sorting and adding up in float64; the logits of what is kept stay."""
    shares = np.random.default_rng(seed).dirichlet(np.ones(8)) + 1e-3
    logits = np.log(shares)[list(order)]
    left = np.argsort(-logits)[:top_k or None]
    if top_p < 1:
        p = np.exp(logits[left]) / np.exp(logits[left]).sum()
        before = np.cumsum(p) - p
        if np.abs(before - top_p).min() < 1e-5:
            return  # too close to call in float32
        left = left[(before < top_p) | (np.arange(len(left)) == 0)]
    ratio = np.exp(logits[left] - logits[left[0]])
    if np.abs(ratio - min_p).min() < 1e-5:
        return
    left = left[ratio >= min_p]
    got = np.asarray(keep(jnp.float32(logits)[None], Config(top_k=top_k, top_p=top_p, min_p=min_p)))
    assert set(np.flatnonzero(np.isfinite(got[0]))) == set(left)
    np.testing.assert_array_equal(got[0][left], np.float32(logits)[left])


def test_a_temperature_near_zero_is_greedy():
    logits_BV = jnp.array([[1.0, 2.0, 3.0, 0.0]])
    for temperature in (0.0, 1e-42, 1e-5):
        got = sample(logits_BV, jnp.zeros(1, jnp.uint32), 0, Config(temperature=temperature))
        assert got.tolist() == [2]
