"""The response cache: what is the same again is not computed again, and nothing else is shared."""

import threading

import pytest

from lm.infer.request import Event, Request, Sampling
from lm.serve.cache import Cache
from lm.serve.stream import Flight

ASK = dict(prompt="a prompt", max_tokens=12, ignore_eos=True)


@pytest.fixture(scope="module")
def cached(start):
    with start(response_cache=1 << 20) as made:
        yield made


def made(server, **fields):
    """(X-Cache, body, prompts that the engine took in for it)."""
    before = server.core.status().prefix_queries
    found = server.post(body=ASK | fields)
    assert found.status_code == 200, found.text
    return found.headers["x-cache"], found, (
        server.core.status().prefix_queries - before) / len(ASK["prompt"])


def test_the_same_again(cached):
    for more in (dict(temperature=0), dict(seed=7), dict(seed=7, logprobs=3), dict(seed=8, n=2)):
        first, again = made(cached, **more), made(cached, **more)
        assert (first[0], first[2]) == ("miss", more.get("n", 1))
        assert (again[0], again[2]) == ("hit", 0)
        for name in ("choices", "usage"):
            assert again[1].json()[name] == first[1].json()[name]
        assert again[1].json()["id"] != first[1].json()["id"]
    stream = made(cached, seed=7, stream=True)
    assert stream[0] == "hit"
    assert stream[1].text.endswith("data: [DONE]\n\n")
    assert made(cached, seed=8)[0] == "hit"    # a choice of two that there are
    assert made(cached, seed=9)[0] == "hit"


def test_anything_else_is_another_request(cached):
    made(cached, seed=20)
    for more in (dict(seed=21), dict(seed=20, temperature=0.5), dict(seed=20, prompt="b prompt"),
                 dict(seed=20, max_tokens=11), dict(seed=20, top_p=0.5), dict(seed=20, stop="no"),
                 dict(seed=20, logit_bias={"3": 1}), dict(seed=20, logprobs=0)):
        assert made(cached, **more)[0] == "miss", more
    for _ in range(2):
        assert made(cached)[0] == "miss"       # no seed


def test_off_unless_asked_for(server):
    for _ in range(2):
        assert "x-cache" not in server.post(body=ASK | dict(seed=1)).headers


def test_those_that_ask_at_once_share_one(cached):
    """And when the first of them hangs up, the others still hear all of it."""
    before = cached.core.status().prefix_queries
    cached.core.engine.delay = 0.01
    ask = ASK | dict(seed=99, max_tokens=50)
    with cached.client() as client:
        stream = client.completions.create(model="tiny", prompt=ask["prompt"], max_tokens=50,
                                           seed=99, extra_body=dict(ignore_eos=True), stream=True)
        next(iter(stream))
        texts = []
        threads = [threading.Thread(target=lambda: texts.append(
            cached.post(body=ask).json()["choices"][0]["text"])) for _ in range(3)]
        for thread in threads:
            thread.start()
        cached.until(lambda: len(cached.service.answers) == 4)
        stream.close()
        for thread in threads:
            thread.join(20)
    cached.core.engine.delay = 0.0
    cached.idle()
    assert cached.core.status().prefix_queries - before == len(ASK["prompt"])
    assert len(set(texts)) == 1
    assert len(texts) == 3
    assert made(cached, seed=99, max_tokens=50)[1].json()["choices"][0]["text"] == texts[0]


def test_what_is_given_up_is_not_kept(cached):
    cached.core.engine.delay = 0.01
    with cached.client() as client:
        stream = client.completions.create(model="tiny", prompt="z", max_tokens=50, seed=5,
                                           extra_body=dict(ignore_eos=True), stream=True)
        next(iter(stream))
        stream.close()
    cached.until(lambda: not cached.service.answers)
    cached.core.engine.delay = 0.0
    assert cached.post(prompt="z", max_tokens=50, seed=5, ignore_eos=True).headers[
        "x-cache"] == "miss"


def flight(key, size=0, finish="stop"):
    """A request that made a text of that size."""
    made = Flight(Request("", [1], Sampling(), None, mask=object()), key)
    made.news(Event("x" * size, finish=finish))
    return made


def test_the_longest_unused_leaves_first():
    cache = Cache(30_000)   # two of these fit
    for key in "ab":
        cache.end(flight(key, 2000))
    assert cache.find("a")
    cache.end(flight("c", 2000))
    assert [key for key in "abc" if cache.find(key)] == ["a", "c"]
    cache.end(flight("d", 100_000))   # larger than all of it: kept out
    assert [key for key in "acd" if cache.find(key)] == ["a", "c"]
    cache.end(flight("e", finish="abort"))
    assert not cache.find("e")
    assert 0 < cache.bytes <= 30_000


def test_the_same_key_twice_counts_once():
    cache = Cache(30_000)
    for size in (2000, 1000, 2000):
        cache.end(flight("a", size))
    once = cache.bytes
    other = Cache(30_000)
    other.end(flight("a", 2000))
    assert once == other.bytes
    for key in "bc":
        cache.end(flight(key, 2000))
    assert [key for key in "abc" if cache.find(key)] == ["b", "c"]
    assert cache.bytes == 2 * once


def test_what_kept_the_output_to_a_format_is_not_kept():
    cache = Cache(30_000)
    cache.end(flight("a"))
    assert cache.find("a").request.mask is None
