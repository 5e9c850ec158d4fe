"""Joined, what is shown is the whole text cut at the first stop, however the tokens come."""

import random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lm.data import tokenizers
from lm.data.config import Config
from lm.data.splits import Placed
from lm.data.text import Document
from lm.data.tokenizers import Stream, plain
from lm.infer.request import Sampling
from lm.infer.text import Text


def placed(text):
    return lambda: iter([Placed(Document("0", text), "train", 0)])


def prose():
    draw = random.Random(0)
    words = ["".join(draw.choices("abn", k=draw.randint(1, 6))) for _ in range(99)]
    return "\n".join(" ".join(draw.choices([*words, "é", "日本", "🎉"], k=10)) for _ in range(300))


@pytest.fixture(scope="module")
def pieces():
    return tokenizers.make(Config(tokenizer="unigram", V=300), placed(prose()))


@pytest.fixture(scope="module", params=["bytes", "characters", "pieces"])
def each(request):
    if request.param == "pieces":
        return request.getfixturevalue("pieces")
    return plain.Bytes() if request.param == "bytes" else plain.Characters(
        "\n abdenst\u00e9\u65e5\u672c\ufffd\U0001f389", eos=True)


def cut(text, stops):
    """What comes before the stop that ends first, the longest of those; whether there is one."""
    ended = [(text.find(stop) + len(stop), -len(stop)) for stop in stops if stop in text]
    return (text[:sum(min(ended))], True) if ended else (text, False)


def parts(tokens, sizes):
    """The tokens in parts of these sizes, over and over."""
    rest, made, i = list(tokens), [], 0
    while rest:
        size = sizes[i % len(sizes)]
        made.append(rest[:size])
        rest, i = rest[size:], i + 1
    return made


def play(text, groups):
    """Feeds groups until the end; returns the joined text, tokens that count and the finish."""
    shown, kept, finish = [], 0, None
    for group in groups:
        count, some, finish = text.feed(group)
        shown.append(some)
        kept += count
        if finish:
            assert text.feed(group) == (0, "", "stop") and text.end() == ""
            return "".join(shown), kept, finish
        assert count == len(group)
    shown.append(text.end())
    return "".join(shown), kept, text.finish


SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=4)
# Few letters, so that stops overlap each other and themselves, and characters of several bytes.
STOPS = st.lists(st.text("abné日🎉\ufffd ", min_size=1, max_size=5), max_size=4)
SOURCE = st.text("abné日🎉\ufffd ", max_size=30) | st.sampled_from(["ababaababab", "aaaa aaaab"])


@settings(max_examples=200)
@example("xabcdx", ["abcd", "bc"], [1], [])
@example("xabcdx", ["abcd", "cd"], [6], [])
@example("ababac", ["abac"], [1], [])
@example("日本é", ["本"], [1], [])
@given(SOURCE, STOPS, SIZES, st.lists(st.integers(0, 255), max_size=6))
def test_cut_at_the_first_stop(pieces, source, stops, sizes, noise):
    """Real text with a few ids of any kind behind it, broken characters among them."""
    for tokenizer in (plain.Bytes(), pieces):
        tokens = [*tokenizer.encode(source).tolist(), *noise]
        sampling = Sampling(stop=tuple(stops), ignore_eos=True)
        shown, kept, finish = play(Text(tokenizer, sampling, tokenizer.eos), parts(tokens, sizes))
        right, stopped = cut(tokenizer.decode(tokens), stops)
        assert shown == right
        assert (finish == "stop") == stopped
        one = play(Text(tokenizer, sampling, tokenizer.eos), parts(tokens, [1]))
        assert one == (shown, kept, finish)


@settings(max_examples=200)
@given(st.lists(st.integers(0, 255), max_size=40), STOPS, SIZES, st.sets(st.integers(0, 255),
       max_size=3), st.booleans())
def test_any_tokens(pieces, tokens, stops, sizes, ids, ignore):
    """Of ids of any kind, those before the first that ends the output make the text."""
    for tokenizer in (plain.Bytes(), pieces):
        sampling = Sampling(stop=tuple(stops), stop_ids=tuple(ids), ignore_eos=ignore)
        ends = ids | (set() if ignore else {tokenizer.eos})
        at = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
        shown, kept, finish = play(Text(tokenizer, sampling, tokenizer.eos), parts(tokens, sizes))
        right, stopped = cut(tokenizer.decode(tokens[:at]), stops)
        assert shown == right
        assert finish == ("stop" if stopped or at < len(tokens) else None)
        assert kept <= min(at + 1, len(tokens))
        assert stopped or kept == min(at + 1, len(tokens))


@settings(max_examples=100)
@given(SOURCE, STOPS)
def test_no_more_is_held_back_than_needed(pieces, source, stops):
    """The longest end of the text that begins a stop, and half characters."""
    for tokenizer in (plain.Bytes(), pieces):
        text, stream, shown, whole = Text(tokenizer, Sampling(stop=tuple(stops)), None), Stream(
            tokenizer), "", ""
        for token in tokenizer.encode(source).tolist():
            shown += text.feed([token])[1]
            whole += stream.feed([token])
            if text.finish:
                break
            begun = [n for stop in stops for n in range(len(stop)) if whole.endswith(stop[:n])]
            assert shown == whole[:len(whole) - max(begun, default=0)]


@pytest.mark.parametrize(("stops", "shown"), [
    (["end"], "a bé "), (["nd"], "a bé e"), (["é", "end"], "a b"), (["\u00e9 e"], "a b"),
    (["zzz"], "a bé ends\n"), ([], "a bé ends\n"), (["\n"], "a bé ends"), (["a"], ""),
    (["en", "end"], "a bé "), (["d", "end", "nd"], "a bé "), (["ends", "nd"], "a bé e")])
def test_by_example(each, stops, shown):
    tokens = each.encode("a bé ends\n").tolist()
    for sizes in ([1], [2], [99], [1, 3]):
        got = play(Text(each, Sampling(stop=tuple(stops)), each.eos), parts(tokens, sizes))
        assert got[0] == shown
        assert (got[2] == "stop") == (shown != "a bé ends\n")


def test_tokens_that_count():
    """The one that ends the output is the last that counts, by stop text, stop id and eos."""
    for sampling, kept, shown in (
            (Sampling(), 6, "abcde"), (Sampling(stop_ids=(ord("c"), 9)), 3, "ab"),
            (Sampling(stop=("bc",)), 3, "a"), (Sampling(stop=("bx", "de")), 5, "abc"),
            (Sampling(stop=("ex",)), 6, "abcde"), (Sampling(stop=("b",), stop_ids=(98,)), 2, "a")):
        tokens = [*b"abcde", 255, *b"fg"]
        for sizes in ([1], [4], [9]):
            got = play(Text(plain.Bytes(), sampling, 255), parts(tokens, sizes))
            assert got == (shown, kept, "stop")
    for eos, sampling in ((255, Sampling(ignore_eos=True)), (None, Sampling())):
        got = play(Text(plain.Bytes(), sampling, eos), [tokens])
        assert got == ("abcdefg", 8, None)


def test_ids_of_numpy():
    text = Text(plain.Bytes(), Sampling(stop=("c",)), 255)
    assert text.feed(np.frombuffer(b"ab", np.uint8).astype(np.int32).tolist()) == (2, "ab", None)
    assert text.feed([]) == (0, "", None)
    assert text.feed(list(b"cd")) == (1, "", "stop")


def test_a_stop_in_what_the_end_lets_out():
    """U+FFFD is held back, since a character may follow; at the end it may prove to be a stop."""
    for stop, shown, finish in (("\ufffd", "a", "stop"), ("a\ufffd", "", "stop"),
                                ("\ufffdb", "a\ufffd", None)):
        text = Text(plain.Bytes(), Sampling(stop=(stop,)), 255)
        count, some, ended = text.feed([ord("a"), 0xE2])
        assert (count, ended) == (2, None)
        assert some + text.end() == shown
        assert text.finish == finish and text.end() == ""


def test_a_long_stop_costs_no_more_than_its_text():
    """A text that begins the stop again and again is held back, let go and matched as any other."""
    stop = "a" * 2000 + "b"
    text = Text(plain.Bytes(), Sampling(stop=(stop,)), None)
    shown = "".join(text.feed([97] * 7)[1] for _ in range(1000))
    assert shown == "a" * 5000
    assert text.feed([98, 99]) == (1, "", "stop")
    text = Text(plain.Bytes(), Sampling(stop=(stop,)), None)
    assert text.feed([97] * 1999 + [99]) == (2000, "a" * 1999 + "c", None)
