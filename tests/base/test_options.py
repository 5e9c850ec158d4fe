"""Configs are built strictly: what is not declared does not pass, and the message says where."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.base import options
from lm.base.errors import UserError
from lm.base.options import build, option


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = option(0.5, "a rate", low=0.0, high=1.0)
    kind: str = option("red", "a colour", choices=dict(red=1, green=2))
    sizes: tuple[int, ...] = option((1,), "sizes")
    after: str = option("5%", "when", duration=True)

    def __post_init__(self):
        if self.kind == "green" and self.rate == 0:
            raise UserError("green needs a rate")


@dataclasses.dataclass(frozen=True)
class Outer:
    count: int = option(help="how many", low=1)
    inner: Inner = Inner()
    on: bool = option(True, "on")
    limit: int | None = option(None, "at most", low=1)
    name: str = option("", "a name")


def test_defaults_and_nesting():
    got = build(Outer, dict(count=3, inner=dict(kind="green", sizes=[4, 5]), limit=2))
    assert got == Outer(3, Inner(kind="green", sizes=(4, 5)), True, 2)
    assert build(Outer, dataclasses.asdict(got)) == got
    assert build(Outer, dict(count=1, inner=Inner(rate=1.0))).inner.rate == 1.0


WRONG = {
    "unknown": (dict(count=1, onn=True), "unknown field 'onn'; did you mean 'on'?"),
    "unknown below": (dict(count=1, inner=dict(rat=1.0)),
                      "unknown field 'inner.rat'; did you mean 'inner.rate'?"),
    "missing": (dict(), "missing field 'count': how many"),
    "type": (dict(count=1.0), "count must be an integer, got 1.0"),
    "bool is no integer": (dict(count=True), "count must be an integer, got True"),
    "bool is no number": (dict(count=1, inner=dict(rate=True)), "inner.rate must be a number"),
    "text is no number": (dict(count=1, inner=dict(rate="1")), "inner.rate must be a number"),
    "number is no bool": (dict(count=1, on=1), "on must be True or False, got 1"),
    "float is no text": (dict(count=1, name=1.5), "name must be a text, got 1.5"),
    "none": (dict(count=None), "count must be an integer, got None"),
    "low": (dict(count=0), "count = 0 is too small; it must be at least 1"),
    "low of optional": (dict(count=1, limit=0), "limit = 0 is too small"),
    "high": (dict(count=1, inner=dict(rate=1.5)),
             "inner.rate = 1.5 is too large; it must be at most 1.0"),
    "nan": (dict(count=1, inner=dict(rate=float("nan"))), "inner.rate = nan"),
    "choice": (dict(count=1, inner=dict(kind="gren")),
               "inner.kind: unknown value 'gren'; did you mean 'green'?"),
    "group": (dict(count=1, inner=3), "inner must be a group of fields, got 3"),
    "item": (dict(count=1, inner=dict(sizes=[1, "2"])), "inner.sizes[1] must be an integer"),
    "list": (dict(count=1, inner=dict(sizes=4)), "inner.sizes must be a list, got 4"),
    "duration": (dict(count=1, inner=dict(after="5 spets")),
                 "inner.after: '5 spets': unknown unit 'spets'"),
    "no duration": (dict(count=1, inner=dict(after="")), "inner.after: '' is not one duration"),
    "together": (dict(count=1, inner=dict(kind="green", rate=0.0)), "inner: green needs a rate"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong(case):
    values, message = WRONG[case]
    with pytest.raises(UserError) as caught:
        build(Outer, values)
    assert str(caught.value).startswith(message)


ANY = st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.floats(), st.text(max_size=3),
                st.lists(st.integers(), max_size=2),
                st.dictionaries(st.sampled_from(["rate", "kind", "x"]), st.floats(), max_size=2))


@given(st.dictionaries(st.sampled_from(["count", "inner", "on", "limit", "name", "nmae"]), ANY))
def test_built_or_a_user_error(values):
    """Nothing gets through with a type that was not declared, and no other error comes out."""
    try:
        got = build(Outer, values)
    except UserError:
        return
    assert type(got.count) is int and got.count >= 1
    assert type(got.on) is bool and type(got.name) is str
    assert type(got.inner) is Inner and 0 <= got.inner.rate <= 1
    assert got.limit is None or (type(got.limit) is int and got.limit >= 1)


def test_bounds_are_inclusive():
    assert build(Outer, dict(count=1, inner=dict(rate=1.0), limit=1)).inner.rate == 1.0
    assert build(Outer, dict(count=1, inner=dict(rate=0.0))).inner.rate == 0.0


def test_a_whole_number_is_a_number_and_a_duration():
    got = build(Inner, dict(rate=1, after=20))
    assert got.rate == 1.0 and type(got.rate) is float and got.after == "20"


def test_walk_and_flatten():
    names = [name for name, _, _ in options.walk(Outer)]
    assert names == ["count", "inner.rate", "inner.kind", "inner.sizes", "inner.after", "on",
                     "limit", "name"]
    assert list(options.flatten(dataclasses.asdict(Outer(1)))) == names
