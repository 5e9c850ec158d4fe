"""Means add up: however a batch is cut, the whole has one mean."""

import math

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lm.base.mean import Mean

PAIRS = st.lists(st.tuples(st.integers(-10 ** 6, 10 ** 6), st.integers(0, 10 ** 3)), min_size=1)


@given(PAIRS, st.randoms())
def test_any_cut_any_order(pairs, random):
    whole = Mean(sum(x * n for x, n in pairs), sum(n for _, n in pairs))
    parts = [Mean(x * n, n) for x, n in pairs]
    random.shuffle(parts)
    cut = random.randint(0, len(parts))
    halves = [sum(part, start=Mean(0, 0)) for part in (parts[:cut], parts[cut:])]
    assert halves[0] + halves[1] == whole
    if whole.count:
        np.testing.assert_allclose(whole.value, np.average([x for x, _ in pairs],
                                                           weights=[n for _, n in pairs]))


def test_nothing_is_no_number():
    assert math.isnan(Mean(0.0, 0.0).value)


def test_a_tree():
    doubled = jax.tree.map(lambda x: 2 * x, dict(loss=Mean(np.float32(3), np.float32(2))))
    assert doubled["loss"] == Mean(6, 4) and type(doubled["loss"].value) is float
