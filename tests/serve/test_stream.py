"""From the engine's thread to a client that may be slower than it: nothing is lost or doubled."""

import asyncio
import json
import threading
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.data.tokenizers import plain
from lm.infer.request import Event, Full, Request, Sampling
from lm.serve.completions import SHAPE
from lm.serve.config import Config
from lm.serve.parameters import Asked
from lm.serve.respond import _Stream, _wrong
from lm.serve.service import Service
from lm.serve.stream import Answer, Choice, Flight, Post
from lm.serve.wire import Refused

EVENTS = st.lists(st.builds(Event, text=st.text(max_size=3), tokens=st.lists(st.integers(0, 9),
                                                                             max_size=3)))


def made(count=1, streams=True, key=None):
    """An answer of so many choices, and what they are made from."""
    answer = Answer("", 0, streams)
    answer.choices = [Choice(answer, i, [1]) for i in range(count)]
    answer.open = count
    flights = [Flight(Request("", [1], Sampling(), None), key) for _ in range(count)]
    for choice, flight in zip(answer.choices, flights, strict=True):
        flight.join(choice)
    return answer, flights


def test_news_in_order_and_one_call_for_what_came_meanwhile():
    async def run():
        loop, heard, rung = asyncio.get_running_loop(), [], []
        call, loop.call_soon_threadsafe = loop.call_soon_threadsafe, None
        post = Post(loop)

        def ring(function):
            rung.append(1)
            call(function)
        loop.call_soon_threadsafe = ring

        def engine():
            for i in range(1000):
                post.put(heard.append, i)
                post.ring()
        thread = threading.Thread(target=engine)
        thread.start()
        thread.join()   # the loop is busy with this
        loop.call_soon_threadsafe = call
        await asyncio.sleep(0)
        while len(heard) < 1000:
            await asyncio.sleep(0.001)
        return heard, rung
    heard, rung = asyncio.run(run())
    assert heard == list(range(1000))
    assert len(rung) == 1


def test_what_fails_takes_nothing_with_it():
    async def run():
        loop, heard, wrong = asyncio.get_running_loop(), [], []
        loop.set_exception_handler(lambda loop, context: wrong.append(context["exception"]))
        post = Post(loop)
        post.put(lambda: 1 / 0)
        post.put(heard.append, 1)
        post.ring()
        await asyncio.sleep(0.01)
        return heard, wrong
    heard, wrong = asyncio.run(run())
    assert heard == [1]
    assert isinstance(wrong[0], ZeroDivisionError)


@given(st.lists(EVENTS, min_size=1, max_size=3), st.randoms())
def test_a_slow_reader_hears_all_of_it(parts, draw):
    """Whatever comes while something is written, the last of it too."""
    async def run():
        answer, flights = made(len(parts))
        left = [[*events, Event(finish="stop")] for events in parts]
        texts, ends = [""] * len(parts), [None] * len(parts)

        def engine(steps):
            for _ in range(steps):
                if some := [i for i, events in enumerate(left) if events]:
                    i = draw.choice(some)
                    flights[i].news(left[i].pop(0))
        def write():
            engine(draw.randint(0, 20))
            while any(left) and not answer.wake.is_set():
                engine(1)
        write()
        async for new in answer.pieces():
            for choice, piece in new:
                assert ends[choice.index] is None
                texts[choice.index] += piece.text
                ends[choice.index] = piece.finish
            write()   # meanwhile
        return texts, ends
    texts, ends = asyncio.run(asyncio.wait_for(run(), 20))
    assert texts == ["".join(e.text for e in events) for events in parts]
    assert set(ends) == {"stop"}


@given(EVENTS, st.integers(0, 10))
def test_who_joins_late_hears_the_same(events, at):
    async def run():
        answer, [flight] = made(streams=False, key="k")
        late, _ = made(streams=False)
        for i, event in enumerate([*events, Event(finish="length")]):
            if i == min(at, len(events)):
                flight.join(late.choices[0])
            flight.news(event)
        return await answer.whole(), await late.whole()
    one, other = asyncio.run(run())
    assert one == other
    assert one[0].text == "".join(e.text for e in events)


def test_text_before_an_error_is_shown():
    answer, [flight] = made()
    flight.news(Event("x", [1]))
    flight.news(Event("y", [2], finish="error", error="broken"))
    new = [(c, c.take()) for c in answer.choices]
    assert _wrong(answer, new) == (500, "broken", None)
    [event] = _Stream(answer, Asked({}), SHAPE, {}, {})._events(new, None)
    [choice] = json.loads(event.removeprefix(b"data: "))["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("xy", None)


class Stub:
    """An engine with room for two requests."""

    context, ready, failed, tokenizer, scheduler = 16, True, "", plain.Bytes(), None

    def __init__(self):
        self.running = []

    def submit(self, request):
        if len(self.running) == 2:
            raise Full("no room", 3.0)
        self.running.append(request.id)

    def abort(self, id):
        self.running = [other for other in self.running if other != id]


def test_all_of_a_request_or_nothing():
    """Where the third choice finds no room, the first two are given up."""
    async def run():
        core = Stub()
        service = Service(core, Config(access_log="off"), "")
        request = types.SimpleNamespace(state=types.SimpleNamespace(arrival=0.0))
        asked = [service.make(Asked({}, n=n), [[1]], lambda room: 4, request, "prompt", "")
                 for n in (3, 2)]
        with pytest.raises(Refused) as caught:
            await asked[0]
        assert core.running == []
        assert not service.answers
        assert (caught.value.status, caught.value.headers) == (429, {"Retry-After": "3"})
        answer = await asked[1]
        assert len(core.running) == 2
        service.leave(answer)
        assert core.running == []
    asyncio.run(run())


class Narrow:
    """A mask after whose first token nothing can follow."""

    ended, error = False, ""

    def bits(self):
        """Anything."""
        return np.full(8, 2**32 - 1, np.uint32)

    def take(self, token):
        """Ends."""
        self.ended, self.error = True, "no token goes on"


def test_a_format_that_the_output_cannot_keep_to(server, monkeypatch):
    """The request's mistake and not the engine's, whole and in a stream."""
    grammars = types.SimpleNamespace(schema=lambda schema: Narrow())
    monkeypatch.setattr(server.service, "grammars", grammars)
    ask = dict(prompt="x", max_tokens=5,
               response_format=dict(type="json_object"))
    found = server.post(body=ask)
    assert found.status_code == 400
    wrong = found.json()["error"]
    assert (wrong["type"], wrong["param"]) == ("invalid_request_error", "response_format")
    assert "no token goes on" in wrong["message"]
    events = server.post(body=ask | dict(stream=True)).text.split("\n\n")
    assert json.loads(events[-2].removeprefix("data: "))["error"] == wrong
    failed, [flight] = made()
    flight.request.mask = Narrow()
    flight.news(Event("", [], finish="error", error="the engine has stopped"))
    assert _wrong(failed, [(c, c.take()) for c in failed.choices])[0] == 500


def test_no_sign_of_life_without_need():
    """Tokens whose text is held back wake nobody."""
    async def run():
        answer, [flight] = made()
        flight.news(Event(tokens=[1]))
        assert not answer.wake.is_set()
        flight.news(Event("x", [2], finish="stop"))
        return [[p.text for _, p in new] async for new in answer.pieces()]
    assert asyncio.run(run()) == [["x"]]
