"""Draws have exactly the distribution that the filters leave, and each row its own."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from lm.infer import sample as module
from lm.infer.sample import Extras, Rows

DRAWS = 20000
SHARES = np.array([0.05, 0.4, 0.1, 0.25, 0.2])  # of logits below, at temperature 1
LOGITS = np.log(SHARES).astype(np.float32) + 7

draw, least, adjust = (jax.jit(f) for f in (module.sample, module.least, module.adjust))
logprobs = jax.jit(module.logprobs, static_argnums=2)


def rows(seed, index=0, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """Rows of these values, one a seed."""
    seed = np.asarray(seed, np.uint32)
    values = ((index, np.int32), (temperature, np.float32), (top_k, np.int32),
              (top_p, np.float32), (min_p, np.float32))
    return Rows(seed, *(np.broadcast_to(np.asarray(v, kind), seed.shape) for v, kind in values))


def many(index=0, **choices):
    """20,000 draws from the logits above."""
    logits = np.broadcast_to(LOGITS, (DRAWS, 5))
    return np.asarray(draw(logits, rows(np.arange(DRAWS), index, **choices)))


# The distribution.

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
    "of one seed": (dict(), [0, 1, 2, 3, 4]),
}


@pytest.mark.parametrize("case", CASES)
def test_distribution(case):
    """Chi-square over 20,000 draws; what is filtered out is never drawn."""
    choices, support = CASES[case]
    if case == "of one seed":
        logits = np.broadcast_to(LOGITS, (DRAWS, 5))
        made = draw(logits, rows(np.full(DRAWS, 5), np.arange(DRAWS)))
    else:
        made = many(**choices)
    seen = np.bincount(made, minlength=5)
    shares = SHARES[support] ** (1 / choices.get("temperature", 1.0))
    assert seen[support].sum() == DRAWS
    assert stats.chisquare(seen[support], shares / shares.sum() * DRAWS).pvalue > 1e-3


@pytest.mark.parametrize("choices", [dict(temperature=0.0), dict(top_k=1), dict(top_p=0.0),
                                     dict(min_p=1.0), dict(temperature=1e-6)])
def test_greedy(choices):
    assert (many(**choices) == 1).all()


def test_seeds_and_steps_are_independent():
    """Neither neighbouring seeds nor a seed's next step say anything of a draw."""
    a, later = many(), many(index=1)
    for x, y in ((a, later), (a[:-1], a[1:]), (a[1:], later[:-1])):
        table = np.zeros((5, 5))
        np.add.at(table, (x, y), 1)
        assert stats.chi2_contingency(table).pvalue > 1e-3


def test_noise():
    """Gumbel's distribution, and fine enough at its top to tell the tokens of a large V apart."""
    noise = np.asarray(module._noise(np.uint32(3), np.int32(0), 1 << 20))
    assert np.isfinite(noise).all()
    assert stats.kstest(noise[:1 << 16], "gumbel_r").pvalue > 1e-3
    top = np.sort(noise)[-512:]
    assert len(np.unique(top)) == 512
    above = (noise > -np.log(-np.log1p(-1e-4))).sum()  # of 2**20, one in 10,000
    assert stats.binomtest(int(above), 1 << 20, 1e-4).pvalue > 1e-3


def test_noise_of_extreme_bits(monkeypatch):
    """Finite, so that no token is drawn that is masked, nor one that may be drawn lost."""
    bits = jnp.array([0, 1, 2**31, 2**32 - 1], jnp.uint32)
    monkeypatch.setattr(jax.random, "bits", lambda key, shape: bits)
    noise = np.asarray(module._noise(np.uint32(3), np.int32(0), 4))
    assert np.isfinite(noise).all() and (np.diff(noise) < 0).all()
    assert noise[0] < 24 and noise[3] > -4


# Each row its own.

MIX = dict(temperature=[1.0, 0.0, 0.7, 2.0] * 4, top_k=[0, 0, 30, 5, 0, 7, 1, 0] * 2,
           top_p=[1.0, 0.9, 0.5, 1.0] * 4, min_p=[0.0] * 12 + [0.01, 0.1, 0.0, 0.5])


def test_alone_or_in_any_batch():
    """A row's draw is its logits', its seed's, its step's and its filters', wherever it stands."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((16, 50), dtype=np.float32)
    all_rows = rows(rng.integers(0, 2**32, 16), rng.integers(0, 9, 16), **MIX)
    batch = np.asarray(draw(logits, all_rows))
    assert batch.dtype == np.int32
    for order in (np.arange(16)[::-1], np.roll(np.arange(16), 5), rng.permutation(16)):
        there = draw(logits[order], jax.tree.map(lambda a, order=order: a[order], all_rows))
        np.testing.assert_array_equal(there, batch[order])
    for row in range(16):
        alone = jax.tree.map(lambda a, row=row: a[row:row + 1], all_rows)
        assert draw(logits[row:row + 1], alone)[0] == batch[row]


def test_one_seed_in_a_batch_of_others():
    """At any position, whatever the other rows are and ask for."""
    rng = np.random.default_rng(1)
    mine = rng.standard_normal((1, 50), dtype=np.float32)
    for ask in (dict(), dict(top_p=0.8), dict(top_k=4, min_p=0.01)):
        right = draw(mine, rows([7], 3, **ask))[0]
        for position in range(0, 16, 5):
            logits = rng.standard_normal((16, 50), dtype=np.float32)
            logits[position] = mine
            others = rows(rng.integers(0, 99, 16), 0, **MIX)
            here = jax.tree.map(lambda a, b, at=position: np.where(np.arange(16) == at, b, a),
                                others, rows([7], 3, **ask))
            assert draw(logits, here)[position] == right


def test_greedy_is_argmax():
    """The first of equals, beside rows that draw and without any."""
    logits = np.random.default_rng(2).integers(-3, 3, (16, 50)).astype(np.float32)
    drawn = rows(np.arange(16), **MIX)
    cold = np.asarray(MIX["temperature"]) == 0
    assert 0 < cold.sum() < 16
    np.testing.assert_array_equal(draw(logits, rows(np.arange(16), temperature=0.0)),
                                  logits.argmax(1))
    np.testing.assert_array_equal(np.asarray(draw(logits, drawn))[cold], logits.argmax(1)[cold])


# The filters.

def reference(logits, top_k, top_p, min_p):
    """What is kept, by sorting and adding up in float64; None where float32 may say otherwise."""
    order = np.argsort(-logits, kind="stable")
    k = min(top_k or len(logits), len(logits))
    left = order[logits[order] >= logits[order[k - 1]]]          # ties with the k-th are kept
    ratio = np.exp(logits[left].astype(np.float64) - logits[left[0]])
    if top_p < 1:
        before = (np.cumsum(ratio) - ratio) / ratio.sum()
        last = max(np.flatnonzero((before < top_p) & (ratio > 0)), default=0)
        fresh = np.flatnonzero(logits[left][1:] != logits[left][:-1]) + 1
        steps = np.r_[before[fresh], 1.0]   # shares at which one more value is let in
        if np.abs(steps - top_p).min() < 1e-5:
            return None
        left = left[logits[left] >= logits[left[last]]]          # ties with the last are kept
    ratio = ratio[:len(left)]
    close = (np.abs(ratio - min_p) < 1e-5 * min_p) & (logits[left] != logits[left[0]])
    if min_p and close.any():
        return None
    return set(left[ratio >= min_p])


def kept(logits, choices):
    """The ids that the filters leave, for rows of logits; choices: of each row."""
    columns = np.asarray(choices).T
    asked = rows(np.zeros(len(logits)), 0, 1.0, *columns)
    at = least(logits, asked, np.ones(len(logits), bool))
    return [set(np.flatnonzero(row)) for row in np.asarray(logits >= at)]


# XLA takes the floats nearest to 0, the subnormal ones, for 0.
share = st.floats(0, 1, width=32, allow_subnormal=False)
FILTERS = st.tuples(st.integers(0, 12), share | st.just(1.0), share | st.just(0.0))
# Few values: ties. -inf: masked. Others: any float that a logit may be, 0 and -0 too.
LOGIT = st.one_of(st.sampled_from([0.0, -0.0, 1.0, 2.0, -1.0, -np.inf]),
                  st.floats(-80, 80, width=32, allow_subnormal=False))


@settings(max_examples=100)
@example([([1.0] * 8, (3, 0.5, 0.5))] * 4)
@example([([-np.inf] * 7 + [-3.0], (3, 0.5, 0.5))] * 4)
@example([([0.0, -0.0] * 4, (1, 1.0, 0.0)), ([-0.0, 0.0] * 4, (1, 0.0, 1.0))] * 2)
@example([([80.0, -80.0, -30.0, -40.0, 79.0, 79.5, 1e-30, -1e-30], (0, 0.9999, 0.0))] * 4)
@example([([1.0, np.nextafter(np.float32(1), 0)] * 4, (1, 1.0, 0.0))] * 4)  # neighbours
@given(st.lists(st.tuples(st.lists(LOGIT, min_size=8, max_size=8), FILTERS), min_size=4,
                max_size=4))
def test_filters(cases):
    """As by sorting, in rows that ask for different things; ties stay together."""
    logits = np.array([row for row, _ in cases], np.float32)
    logits[:, 0] = np.where(np.isinf(logits).all(1), 0, logits[:, 0])
    for row, (_, asks), got in zip(logits, cases, kept(logits, [a for _, a in cases]),
                                   strict=True):
        right = reference(row, *asks)
        if right is not None:
            allowed = set(np.flatnonzero(np.isfinite(row)))
            assert got & allowed == right & allowed


@pytest.mark.parametrize("V", [2, 200_000])
def test_filters_of_few_and_many(V):
    rng = np.random.default_rng(V)
    logits = (3 * rng.standard_normal((4, V))).astype(np.float32)
    logits[1] = np.round(logits[1])
    logits[2, rng.random(V) < 0.5] = -np.inf
    logits[2, 1] = 0.0
    logits[3] = 1.25
    compared = 0
    for ask in ((0, 1.0, 0.0), (1, 1.0, 0.0), (40, 1.0, 0.0), (0, 0.9, 0.0), (0, 0.3, 0.0),
                (1000, 0.5, 0.01)):
        for row, got in zip(logits, kept(logits, [ask] * 4), strict=True):
            right = reference(row, *ask)
            compared += right is not None
            assert right is None or got == right
    assert compared >= 14


@pytest.mark.parametrize("V", [2, 200_000])
def test_extreme_rows(V):
    """One token allowed, all equal, all masked, NaN, +inf: each row gives what it can."""
    logits = np.zeros((6, V), np.float32)
    logits[0] = -np.inf
    logits[0, V - 1] = -1e4
    logits[2] = -np.inf
    logits[3, V // 2] = np.nan
    logits[4] = np.nan
    logits[5, V - 1] = np.inf
    for choices in (dict(temperature=0.0), dict(), dict(top_k=1, top_p=0.5, min_p=0.5),
                    dict(top_p=0.0)):
        got = np.asarray(draw(logits, rows(np.arange(6), **choices)))
        assert got[0] == V - 1 and got[2] == 0 and got[5] == V - 1
        assert ((got >= 0) & (got < V)).all()


def test_large_and_equal():
    """20,000 equal tokens: each equally likely."""
    logits = np.zeros((64, 20_000), np.float32)
    made = np.concatenate([draw(logits, rows(np.arange(64), index)) for index in range(2)])
    assert len(np.unique(made)) > 120
    assert stats.chisquare(np.bincount(made // 2_500, minlength=8)).pvalue > 1e-3


def test_low_precision():
    """Logits of bfloat16 are drawn as float32."""
    logits = np.broadcast_to(LOGITS, (16, 5))
    for dtype in (jnp.bfloat16, jnp.float32):
        assert (draw(jnp.asarray(logits, dtype), rows(np.arange(16), temperature=0.0)) == 1).all()


# Penalties, bias, mask, logprobs.

R, V, C, J = 4, 40, 9, 5
NONE = Extras(*(np.full(R, x, np.float32) for x in (1, 0, 0)), np.zeros(R, np.int32),
              np.full((R, J), -1, np.int32), np.zeros((R, J), np.float32),
              np.full((R, 2), 2**32 - 1, np.uint32))
ids, number = st.integers(0, V - 1), st.floats(-4, 4, width=32)
ROW = st.fixed_dictionaries(dict(
    repetition=st.just(1.0) | st.floats(0.25, 4, width=32), presence=st.just(0.0) | number,
    frequency=st.just(0.0) | number, prompt=st.integers(0, C), length=st.integers(0, C),
    seen=st.lists(ids, min_size=C, max_size=C), biases=st.lists(st.tuples(ids, number), max_size=J),
    allowed=st.none() | st.sets(ids), seed=st.integers(0, 99)))


def by_definition(logits, row):
    """Keskar et al. 2019 and the OpenAI API's penalties, then bias, then mask, token by token."""
    known = row["seen"][:row["length"]]
    made = known[row["prompt"]:]
    out = logits.astype(np.float64)
    for token in set(known):
        out[token] *= 1 / row["repetition"] if out[token] > 0 else row["repetition"]
    for token in set(made):
        out[token] -= row["presence"] + row["frequency"] * made.count(token)
    for token, shift in row["biases"]:
        out[token] += shift
    if row["allowed"] is not None:
        out[[token for token in range(V) if token not in row["allowed"]]] = -np.inf
    return out


def extras(cases):
    """Extras of rows, what stands behind their length included."""
    column = lambda name, kind: np.array([row[name] for row in cases], kind)  # noqa: E731
    pad = lambda row, at, none: [b[at] for b in row] + [none] * (J - len(row))  # noqa: E731
    masks = np.zeros((R, 2), np.uint32)
    for words, row in zip(masks, cases, strict=True):
        for token in range(64) if row["allowed"] is None else row["allowed"]:
            words[token // 32] |= np.uint32(1 << token % 32)
    return Extras(
        *(column(name, np.float32) for name in ("repetition", "presence", "frequency")),
        column("prompt", np.int32),
        np.array([pad(row["biases"], 0, -1) for row in cases], np.int32),
        np.array([pad(row["biases"], 1, 9) for row in cases], np.float32), masks)


@settings(max_examples=100)
@given(st.lists(ROW, min_size=R, max_size=R))
def test_adjust(cases):
    logits = np.stack([3 * np.random.default_rng(row["seed"]).standard_normal(V).astype(np.float32)
                       for row in cases])
    seen, length = (np.array([row[name] for row in cases], np.int32) for name in ("seen", "length"))
    got = adjust(logits, extras(cases), seen, length)
    right = np.stack([by_definition(*pair) for pair in zip(logits, cases, strict=True)])
    np.testing.assert_allclose(got, right, rtol=1e-5, atol=1e-5)


def test_nothing_to_adjust():
    """Every bit stays, and ids that are none change nothing."""
    logits = np.random.default_rng(0).standard_normal((R, V)).astype(np.float32)
    logits[0, 3] = -np.inf
    seen, length = np.full((R, C), -1, np.int32), np.full(R, C, np.int32)
    np.testing.assert_array_equal(adjust(logits, NONE, seen, length), logits)
    strange = NONE._replace(repetition_R=np.full(R, 2, np.float32),
                            presence_R=np.full(R, 2, np.float32),
                            bias_id_RJ=np.full((R, J), V, np.int32),
                            bias_RJ=np.full((R, J), 9, np.float32))
    np.testing.assert_array_equal(adjust(logits, strange, seen, length), logits)
    np.testing.assert_array_equal(adjust(logits, strange, seen + V + 1, length), logits)


@pytest.mark.parametrize("top", [0, 1, 20, 99])
def test_logprobs(top):
    logits = (4 * np.random.default_rng(3).standard_normal((R, V))).astype(np.float32)
    logits[0, 5:9] = logits[0].max() + 1  # ties: the lower id first
    token = np.array([6, 0, 39, 7], np.int32)
    own, best, values = logprobs(logits, token, top)
    right = logits - np.log(np.exp(logits.astype(np.float64)).sum(1, keepdims=True))
    np.testing.assert_allclose(own, right[np.arange(R), token], rtol=1e-5)
    for row, some, its in itertools.zip_longest(right, best, values):
        assert some.tolist() == np.argsort(-row, kind="stable")[:top].tolist()
        np.testing.assert_allclose(its, row[np.asarray(some, int)], rtol=1e-5)
