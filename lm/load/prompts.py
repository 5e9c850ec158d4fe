"""Prompts of as many tokens as asked for, no two of which begin alike.

Nothing is reproducible here on purpose: a server that has answered the same prompt before finds it
in its cache, and looks faster than it is.
"""

import asyncio

import numpy as np

from lm.base.errors import UserError
from lm.load.server import Server, probe

TEXT = """The river had carried the small boat past the old mill before anyone in the village saw
that it was gone. Children ran along the bank and called to each other, while two men with a long
rope tried to reach the far side of the bridge. By noon the water was high enough to cover the road,
and those who had come to market with bread, apples, cheese and winter coats began to look for a
place to spend the night. A woman at the inn gave them soup, showed them where to hang their things,
and asked what they knew about weather, horses, prices, songs or letters from abroad. Nobody slept
much. In the morning, when light came under the door, they found that seven sheep, a yellow dog and
most of the garden fence had moved to the other end of the field; the boat lay there too, dry and
whole, as if someone had put it down with great care."""
WORDS = sorted(set(TEXT.replace(",", "").replace(".", "").replace(";", "").split()))
BEGIN = "The"
TEMPLATE = 32       # tokens that a chat's template may add
TRIES = 8           # to meet a length exactly, with a tokenizer whose words do not add up
TOGETHER = 8        # short questions to the server at a time
SURE = 16           # prompts that came out as predicted, after which no more are checked


async def prompts(server: Server, lengths: np.ndarray, shared: int,
                  rng: np.random.Generator) -> list[str | list[int]]:
    """Returns a prompt for each length, and `shared` tokens before that are the same in all.

    As token ids where the server takes them, which is exact; as text of words that were weighed
    with its own tokenizer; or, where it has none to ask, by what it said that it read.
    """
    if server.takes["ids"] and server.config.endpoint == "completions":
        bag = np.array((await server.tokens(TEXT))[1:-1])   # without what may stand around it
        await probe(server, rng.choice(bag, 4).tolist(), BEGIN)
        if server.takes["ids"]:
            front = rng.choice(bag, shared).tolist()
            return [front + rng.choice(bag, n).tolist() for n in lengths]
    first = await probe(server, BEGIN, BEGIN)
    if server.tokenizes:
        return await _weighed(server, first, lengths, shared, rng)
    return await _guessed(server, first, lengths, shared, rng)


async def _weighed(server, first, lengths, shared, rng):
    """Texts of words whose tokens are known, which mostly add up: the first are counted."""
    gate = asyncio.Semaphore(TOGETHER)

    async def count(text):
        async with gate:
            return len(await server.tokens(text))

    base, *each = await asyncio.gather(count(BEGIN), *(count(f"{BEGIN} {w}") for w in WORDS))
    weights = np.maximum(1, np.array(each) - base)
    around = max(0, first.prompt_tokens - base)     # what a chat's template adds
    front, start = BEGIN, base
    if shared:
        front, start, _ = await _exact(BEGIN, base, shared, weights, count, rng)
    made, right = [], 0
    for want in lengths + shared - around:
        text, _, tries = await _exact(front, start, max(start, int(want)), weights,
                                      count if right < SURE else None, rng)
        made.append(text)
        right = right + 1 if tries == 1 else 0
    return made


async def _exact(front, start, want, weights, count, rng):
    """Returns front, of `start` tokens, with words up to `want` tokens, how many there are, and
    the tries that it took.

    count: None where what the words weigh is believed.
    """
    drawn = rng.integers(len(WORDS), size=2 * max(0, want - start))
    aim, best = want, None
    for tries in range(1, TRIES + 1):
        text = _words(front, start, aim, weights, drawn)
        have = await count(text) if count else want
        if best is None or abs(have - want) < abs(best[1] - want):
            best = text, have
        if have == want:
            return text, have, tries
        aim += want - have
    return *best, TRIES


def _words(front, start, aim, weights, drawn):
    """As many words as weigh no more than there is room for, then light ones, then letters.

    For another aim the same words, but for the last: so that a few tries meet a length.
    """
    light = int(weights.min())
    lightest = np.flatnonzero(weights == light)
    fit = int(np.searchsorted(start + np.cumsum(weights[drawn]), aim, "right"))
    room = max(0, aim - start - int(weights[drawn[:fit]].sum()))
    few = lightest[drawn[fit:fit + room // light] % len(lightest)]
    text = " ".join([front, *(WORDS[i] for i in (*drawn[:fit], *few))])
    return text + "s" * (room % light)


async def _guessed(server, first, lengths, shared, rng):
    """Texts by the tokens of a word, as the server counted those of a short and a longer one."""
    text = " ".join([BEGIN, *rng.choice(WORDS, 100)])
    second = await probe(server, text, text)
    each, around = 1.3, 0.0     # as in most tokenizers, of one that does not count
    if second.prompt_tokens > first.prompt_tokens > 0:
        each = (second.prompt_tokens - first.prompt_tokens) / 100
        around = first.prompt_tokens - each
    front = rng.choice(WORDS, round(shared / each)).tolist()
    return [" ".join([*front, *rng.choice(WORDS, max(1, round((n - around) / each)))])
            for n in lengths]


def cut(server: Server, prompt: np.ndarray, output: np.ndarray,
        shared: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns lengths that the server's context holds, and how many were too long for it.

    The prompt gives way first, down to one token, then the output. UserError: no room is left.
    """
    if not server.context:
        return prompt, output, 0
    room = server.context - shared - (TEMPLATE if server.config.endpoint == "chat" else 0)
    if room < 2:
        raise UserError(f"a shared prefix of {shared:,} tokens leaves no room in the server's "
                        f"context of {server.context:,}; give a shorter one")
    short = np.minimum(output, room - 1)
    fits = np.minimum(prompt, room - short)
    return fits, short, int(((fits < prompt) | (short < output)).sum())
