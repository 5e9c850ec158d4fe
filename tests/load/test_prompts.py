"""Prompts have as many tokens as asked for, by the server's own count, whatever its tokenizer."""

import asyncio
import re

import numpy as np
import pytest

from lm.base.errors import UserError
from lm.load.config import Config
from lm.load.http import Client, url
from lm.load.prompts import BEGIN, WORDS, cut, prompts
from lm.load.server import look

LENGTHS = np.array([12, 40, 300, 41, 200] + [64] * 25)


def made(server, shared=0, lengths=LENGTHS, **asked):
    """The prompts, and what the server was asked on the way."""
    async def work():
        c = Config(url=server.url, **asked)
        client = Client(url(c.url), {})
        try:
            found = await look(client, c)
            return await prompts(found, lengths, shared, np.random.default_rng(0)), found
        finally:
            client.close()
    return asyncio.run(work())


def words(text):
    """A token for each word, and one that stands before all, as some tokenizers put it."""
    return [1, *(hash(word) % 1000 for word in text.split())]


def pieces(text):
    """Words in pieces of at most three letters: they weigh differently, and add up."""
    return [piece for word in text.split() for piece in re.findall(".{1,3}", word)]


def merged(text):
    """Some pairs of words are one token: what they weigh does not add up."""
    return re.findall(r"(?:\b(?:a|and|the|with) \w+)|\w+", text)


def count(tokenize):
    return lambda text: [len(token) if isinstance(token, str) else token
                         for token in tokenize(text)]


TOKENIZERS = [lambda text: list(text.encode()), words, count(pieces), count(merged)]


@pytest.mark.parametrize("tokenize", TOKENIZERS)
@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_lengths_are_exact(serve, tokenize, endpoint):
    server = serve(tokenize=tokenize)
    for shared in (0, 20):
        found, _ = made(server, shared, endpoint=endpoint)
        if endpoint == "completions":
            assert [len(ids) for ids in found] == (LENGTHS + shared).tolist()
            assert {token for ids in found for token in ids} <= set(tokenize(
                " ".join([BEGIN, *WORDS]))) | set(tokenize("hast, with.; a")) | {*range(1000)}
        else:
            own = [len(tokenize(text)) + 5 for text in found]    # 5: the server's template
            assert own == (LENGTHS + shared).tolist()


@pytest.mark.parametrize("tokenize", TOKENIZERS)
def test_as_text_where_token_ids_are_refused(serve, tokenize):
    async def picky(exchange):
        if isinstance(exchange.body["prompt"], list):
            exchange.refuse(400, "prompt must be a text")
        else:
            await exchange.tokens()

    found, server = made(serve(picky, tokenize=tokenize))
    assert [len(tokenize(text)) for text in found] == LENGTHS.tolist()
    assert "prompts are sent as text" in server.notes[0]


def test_about_as_long_where_nobody_counts(serve):
    server = serve(tokenize=count(pieces), paths={"/tokenize": (404, {})})
    found, seen = made(server, 30, np.full(40, 200))
    lengths = [len(pieces(text)) for text in found]
    assert np.mean(lengths) == pytest.approx(230, rel=0.1) and "about those" in seen.notes[0]


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_all_begin_with_what_is_shared_and_then_differ(serve, endpoint):
    """No two share a page of 16 tokens more, within a test or between two."""
    server = serve()
    first, _ = made(server, 48, endpoint=endpoint)
    assert len({tuple(text[:43]) for text in first}) == 1
    async def again():
        c = Config(url=server.url, endpoint=endpoint)
        client = Client(url(c.url), {})
        found = await prompts(await look(client, c), LENGTHS, 0, np.random.default_rng())
        client.close()
        return found
    other = asyncio.run(again())
    own = [tuple(text[48:]) for text in first] + [tuple(text) for text in other]
    starts = [text[:30] for text in own if len(text) >= 30]
    assert len(set(starts)) == len(starts) > 50


def test_what_is_too_long_is_cut(serve):
    _, found = made(serve(), lengths=np.array([1]))
    prompt, output = np.array([50, 90, 10, 500]), np.array([10, 20, 300, 500])
    assert cut(found, prompt, output, 0)[2] == 0    # of a context that nobody told
    found.context = 100
    fits, short, number = cut(found, prompt, output, 0)
    assert (fits + short).tolist() == [60, 100, 100, 100] and number == 3
    assert fits.tolist() == [50, 80, 1, 1] and short.tolist() == [10, 20, 99, 99]
    fits, short, _ = cut(found, prompt, output, 40)
    assert (fits + short + 40 <= 100).all()
    with pytest.raises(UserError, match="leaves no room in the server's context of 100"):
        cut(found, prompt, output, 99)
