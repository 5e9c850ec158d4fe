"""Durations: every way of writing one gives the same steps, and nothing else is one."""

import math
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.base import duration
from lm.base.errors import UserError

RUN = dict(tokens_per_step=512.0, steps_per_epoch=40.5, run=1000)


@given(st.floats(0, 1e12, allow_nan=False), st.sampled_from(["steps", "tokens", "epochs", "%"]),
       st.sampled_from(["", " ", "  "]))
def test_what_is_written_is_read(amount, unit, gap):
    for text in (repr(amount), f"{amount:e}".replace("e+", "e")):
        got, name = duration.parse(f" {text}{gap}{unit} ")
        assert name == unit and got == float(text)


def test_spellings():
    assert duration.parse("7") == (7, "steps") == duration.parse("7 step")
    assert duration.parse("1.5e9 token") == (1.5e9, "tokens")
    assert duration.parse("3epochs") == (3, "epochs") == duration.parse("3 epoch")


@given(st.text(string.printable, max_size=12))
def test_anything_else_is_a_user_error(text):
    """Either a finite amount that is not negative in a known unit, or UserError; never another."""
    try:
        amount, unit = duration.parse(text)
    except UserError as error:
        assert text in str(error)
        return
    assert unit in ("steps", "tokens", "epochs", "%") and 0 <= amount < math.inf
    assert isinstance(duration.steps(text, **RUN), int)


@pytest.mark.parametrize("text", ["", "steps", "-5 steps", "1.2.3 steps", "5 steps 3 epochs",
                                  "5 10", "nan", "inf steps", "1e999 steps", "9" * 400, "5 %%"])
def test_not_a_duration(text):
    with pytest.raises(UserError):
        duration.parse(text)


def test_unknown_unit_names_the_nearest():
    with pytest.raises(UserError, match="unknown unit 'epohcs'; did you mean 'epochs'"):
        duration.parse("5 epohcs")


@given(st.integers(0, 10 ** 6))
def test_units_agree(n):
    """n steps are n * 512 tokens and n / 40.5 epochs."""
    assert duration.steps(f"{n}", **RUN) == n
    assert duration.steps(f"{n * 512} tokens", **RUN) == n
    assert duration.steps(f"{n / 40.5!r} epochs", **RUN) == n


@given(st.floats(0, 100, exclude_min=True, allow_subnormal=False))
def test_a_share_is_of_the_run_and_never_nothing(share):
    got = duration.steps(f"{share!r}%", **RUN)
    assert got >= 1 and abs(got - share * 10) <= max(0.5, 1 - share * 10) + 1e-9
    with pytest.raises(UserError, match="share of itself"):
        duration.steps(f"{share!r}%", **(RUN | dict(run=None)))


def test_zero_is_zero():
    assert [duration.steps(f"0 {u}", **RUN) for u in ("steps", "tokens", "epochs", "%")] == [0] * 4
