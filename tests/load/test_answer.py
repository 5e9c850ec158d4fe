"""What is heard of a request becomes its row: times by a scripted clock, and how it ended."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.load import measure
from lm.load.answer import FAILED, FINISHED, REJECTED, Answer, Row, said
from lm.load.reply import Broken, Reply


class Talk:
    """An answer whose bytes come at times that are given."""

    def __init__(self, status=200, kind="text/event-stream; charset=utf-8", due=10.0):
        self.now = due
        self.row = Row(due, 5, 3)
        self.answer = Answer(self.row, lambda: self.now)
        self.reply = Reply(self.answer.hear)
        self.reply.feed(f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\n\r\n".encode())

    def at(self, now, *events):
        """Events that come together."""
        self.now = now
        self.reply.feed(b"".join(
            e if isinstance(e, bytes) else b"data: " + json.dumps(e).encode() + b"\n\n"
            for e in events))
        return self

    def end(self, now):
        """The end of the reply."""
        self.now = now
        self.reply.eof()
        self.answer.close(self.reply)
        return self.row


def text(words, finish=None):
    return {"choices": [{"index": 0, "text": words, "finish_reason": finish}], "usage": None}


def delta(finish=None, **held):
    return {"choices": [{"index": 0, "delta": held, "finish_reason": finish}]}


def counts(prompt, output, **more):
    return {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": output, **more}}


DONE = b"data: [DONE]\n\n"


def test_times_are_those_of_the_script():
    row = (Talk(due=10.0).at(10.5, text("a")).at(10.7, text("b")).at(11.5, text("", "length"))
           .at(11.6, counts(7, 3, prompt_tokens_details={"cached_tokens": 4}), DONE).end(11.7))
    assert row.status == FINISHED and row.finish == "length" and list(row.times) == [10.5, 10.7]
    assert (row.prompt_tokens, row.output_tokens, row.cached_tokens) == (7, 3, 4)
    found = measure.latencies([row])
    assert found["ttft"][0] == pytest.approx([0.5]) and found["e2e"][0] == pytest.approx([1.7])
    assert found["tpot"][0] == pytest.approx([0.2 / 2])   # 3 tokens by usage, in two events
    assert found["gap"][0] == pytest.approx([0.2])


def test_what_opens_and_closes_a_chat_is_no_token():
    row = (Talk().at(11, delta(role="assistant", content="")).at(12, delta(content="a"))
           .at(13, delta(content=""))     # half of a character, held back: a token all the same
           .at(14, delta(content="é")).at(15, delta("stop"), DONE).end(15))
    assert list(row.times) == [12, 13, 14] and row.tokens == 3 and row.finish == "stop"
    for held in ({"reasoning_content": "hm"}, {"role": "assistant", "content": "a"},
                 {"tool_calls": [{}]}):
        assert list(Talk().at(11, delta(**held)).row.times) == [11]


def test_tokens_that_come_with_the_end():
    row = Talk().at(12, text("", "stop"), counts(2, 1), DONE).end(12)
    assert list(row.times) == [12] and row.tokens == 1
    row = Talk().at(12, text("", "stop"), counts(2, 0), DONE).end(12)
    assert not row.times and row.tokens == 0 and row.status == FINISHED


def test_an_answer_in_one_piece_has_an_end_alone():
    body = {"choices": [{"text": "abc", "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 4, "completion_tokens": 3}}
    talk = Talk(kind="application/json")
    row = talk.at(12, json.dumps(body).encode()).end(13)
    assert row.status == FINISHED and not row.times and row.tokens == 3 and row.end == 13
    assert math.isnan(measure.tpot(row)) and not len(measure.latencies([row])["ttft"][0])


@pytest.mark.parametrize("status,body,became,why,words", [
    (429, {"error": {"message": "too  many\nrequests"}}, REJECTED, "429", "too many requests"),
    (503, {"detail": "draining"}, REJECTED, "503", "draining"),
    (400, {"error": "no"}, FAILED, "http 400", "no"),
    (500, "<html>oh\x1b[31m</html>", FAILED, "http 500", "<html>oh[31m</html>")])
def test_refusals(status, body, became, why, words):
    data = body if isinstance(body, str) else json.dumps(body)
    row = Talk(status, "text/plain").at(11, data.encode()).end(12)
    assert (row.status, row.why, row.words) == (became, why, words)


@pytest.mark.parametrize("events,kind", [
    ([b"data: {\n\n"], "garbage"), ([b"data: 7\n\n"], "garbage"), ([b"data: [1]\n\n"], "garbage"),
    ([{"choices": 5}], "garbage"), ([{"choices": [7]}], "garbage"),
    ([b"data: " + b"[" * 100_000 + b"\n\n"], "garbage"),
    ([text("a"), {"error": {"message": "out of memory"}}], "error event"), ([text("a")], "closed")])
def test_broken_streams(events, kind):
    with pytest.raises(Broken) as error:
        Talk().at(11, *events).end(12)
    assert error.value.kind == kind


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["choices", "delta", "content", "text", "usage", "prompt_tokens", "completion_tokens",
         "prompt_tokens_details", "cached_tokens", "finish_reason", "error", "role"]), inner,
        max_size=4), max_leaves=12)


@given(st.lists(JSON, max_size=4), st.sampled_from(["text/event-stream", "application/json"]))
def test_no_json_does_more_than_break(events, kind):
    talk = Talk(kind=kind)
    try:
        talk.at(11, *events).end(12)
    except Broken as broken:
        assert broken.kind in ("garbage", "closed", "error event")
    else:
        assert talk.row.status == FINISHED
    assert talk.row.tokens >= 0


@given(JSON)
def test_what_an_error_says_is_one_line(tree):
    words = said(tree)
    assert len(words) <= 200 and len(words.splitlines()) <= 1
