"""Arithmetic on figures computes what it says, for one plan and for many."""

import numpy as np
import pytest

from lm.cost.figure import Figure, ceil, explain, known, largest, named, smallest, sqrt, total

A = known("a", np.array([6.0, 8.0]), "bytes", "a page")
B = known("b", 2.0)


@pytest.mark.parametrize(("figure", "values", "formula"), [
    (A + B, [8, 10], "a + b"), (A - B, [4, 6], "a - b"), (A * B, [12, 16], "a * b"),
    (A / B, [3, 4], "a / b"), (A ** B, [36, 64], "a ** b"), (1 + A, [7, 9], "1 + a"),
    (10 - A, [4, 2], "10 - a"), (24 / A, [4, 3], "24 / a"), (3 * A, [18, 24], "3 * a"),
    (A - (A - B), [2, 2], "a - (a - b)"), (A / (A * B), [.5, .5], "a / (a * b)"),
    ((A + B) * B, [16, 20], "(a + b) * b"), (A + B * B, [10, 12], "a + b * b"),
    (largest(7.0, A), [7, 8], "max(7, a)"), (smallest(7.0, A), [6, 7], "min(7, a)"),
    (ceil(A / 4), [2, 2], "ceil(a / 4)"), (sqrt(A * 6), [6, 48 ** 0.5], "sqrt(a * 6)"),
    (total([A, B, B]), [10, 12], "a + b + b")])
def test_value_and_formula(figure, values, formula):
    assert np.asarray(figure.value) == pytest.approx(np.array(values, float))
    assert explain(figure.called("x"), depth=0).splitlines()[0] == f"x = {formula}"
    assert [figure.at(0), figure.at(1)] == pytest.approx(values)


def test_numpy_arrays_on_the_left():
    made = np.array([1.0, 2.0]) * A
    assert isinstance(made, Figure) and made.value == pytest.approx([6, 16])


def test_explanation_has_values_and_sources():
    speed = known("speed", 4.0, "bytes/s", "a table")
    time = (A / speed).called("time", "s", "a law")
    assert explain(time, index=1) == "\n".join([
        "time = a / speed", "  = 8 bytes / 4 bytes/s", "  = 2 s", "  [a law]",
        "  a = 8 bytes", "    [a page]", "  speed = 4 bytes/s", "    [a table]"])


def test_names_below():
    time = (A / B).called("time", "s")
    assert [x.name for x in named((time + 1).called("all"))] == ["all", "time", "a", "b"]
    again = time.called("same")
    assert again.value is time.value and explain(again, depth=0).startswith("same = time")


def test_division_by_nothing_is_silent():
    with np.errstate(all="raise"):
        assert np.isinf((A / known("none", 0.0)).value).all()
