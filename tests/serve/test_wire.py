"""JSON in and out."""

import json

from hypothesis import given
from hypothesis import strategies as st

from lm.serve.shapes import Spelling
from lm.serve.wire import dumps, event, loads, whole

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.dictionaries(TEXT, st.none() | st.booleans() | st.integers() | TEXT | st.floats(
    allow_nan=False, allow_infinity=False)))
def test_there_and_back(tree):
    assert loads(dumps(tree)) == tree
    assert loads(json.dumps(tree, ensure_ascii=False).encode()) == tree


@given(st.text(st.characters()))
def test_text_that_can_be_carried(text):
    made = whole(text)
    made.encode()
    if not any("\ud800" <= c <= "\udfff" for c in text):
        assert made == text


def test_halves_of_a_pair():
    assert whole("a\ud83c\udf89\ud800b\udfff") == "a\U0001f389\ufffdb\ufffd"


def test_an_event_is_one_line_whatever_counts_as_the_end_of_one():
    text = "a\nb\rc\x0bd\x1ce\x85f\u2028g\u2029h"
    [line, *rest] = event(text).decode().splitlines()
    assert rest == [""]
    assert json.loads(line.removeprefix("data: ")) == text


class Halves:
    """A tokenizer with a part of a character, and a token that is no text."""

    def pieces(self):
        return [b"a", b"\xe2\x82", b""]


def test_tokens_are_spelled():
    spelling = Spelling(Halves())
    assert [spelling.bytes(i) for i in range(3)] == [b"a", b"\xe2\x82", b""]
    assert [spelling.text(i) for i in range(3)] == ["a", "bytes:\\xe2\\x82", ""]
