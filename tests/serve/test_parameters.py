"""Whatever a body holds: an answer to the letter or an error that names what is wrong; never a 500,
and nothing is left over."""

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import CONTEXT, NAME

from lm.serve.app import app

WILD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-3, 300) | st.floats()
    | st.text(max_size=8) | st.sampled_from([2**31, 2**32, 2**63, 2**64, 10**400, -2**63, 1e308,
                                             -0.0, 1e-320, "\x00", "x" * 2000, {}, []]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner,
                                                                max_size=3), max_leaves=8)
TOKEN = st.integers(0, 255)
TEXT = st.text(max_size=20)
PROMPT = (TEXT | st.lists(TOKEN, min_size=1, max_size=20) | st.lists(TEXT, min_size=1, max_size=3)
          | st.lists(st.lists(TOKEN, min_size=1, max_size=5), min_size=1, max_size=3))
MESSAGES = st.lists(st.fixed_dictionaries(dict(
    role=st.sampled_from(["system", "developer", "user", "assistant"]),
    content=TEXT | st.lists(st.fixed_dictionaries(dict(type=st.just("text"), text=TEXT)),
                            max_size=2)), optional=dict(name=TEXT)), min_size=1, max_size=3)
SAMPLING = dict(
    model=st.just(NAME), max_tokens=st.integers(1, 6), temperature=st.floats(0, 2),
    top_p=st.floats(0, 1), n=st.integers(1, 3), seed=st.integers(-2**63, 2**63 - 1),
    stop=st.text(min_size=1, max_size=3) | st.lists(st.text(min_size=1, max_size=3), max_size=4),
    stream=st.booleans(), presence_penalty=st.floats(-2, 2), frequency_penalty=st.floats(-2, 2),
    logit_bias=st.dictionaries(TOKEN.map(str), st.floats(-100, 100), max_size=4),
    top_k=st.integers(-1, 300), min_p=st.floats(0, 1), repetition_penalty=st.floats(0.01, 100),
    ignore_eos=st.booleans(), stop_token_ids=st.lists(TOKEN, max_size=16), user=TEXT,
    metadata=st.dictionaries(TEXT, TEXT, max_size=2))
COMPLETION = SAMPLING | dict(prompt=PROMPT, logprobs=st.integers(0, 20), echo=st.just(False),
                             best_of=st.just(1), suffix=st.just(""))
CHAT = SAMPLING | dict(messages=MESSAGES, logprobs=st.booleans(), store=st.just(False),
                       tools=st.just([]), response_format=st.just(dict(type="text")))


@st.composite
def bodies(draw, fields, needed):
    """Bodies that are mostly right: some fields, of which one or two may be anything."""
    names = draw(st.lists(st.sampled_from(sorted(set(fields) - set(needed))), unique=True,
                          max_size=8))
    body = {name: draw(fields[name]) for name in [*needed, *names]}
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2]))):
        name = draw(st.sampled_from(sorted(body)) | st.text(max_size=12)
                    | st.sampled_from(sorted(fields)))
        body[name] = draw(WILD)
    if draw(st.integers(0, 9)) == 0:
        body.pop(draw(st.sampled_from(sorted(body))))
    return body


def call(server, path, body: bytes):
    """(status, body) of a request to the application, without a connection."""
    async def run():
        scope = dict(type="http", asgi={"version": "3.0"}, http_version="1.1", method="POST",
                     scheme="http", path=path, raw_path=path.encode(), query_string=b"",
                     root_path="", server=("127.0.0.1", 1), client=("127.0.0.1", 2),
                     headers=[(b"content-type", b"application/json"), (b"host", b"127.0.0.1")])
        given, out = [dict(type="http.request", body=body)], []

        async def receive():
            if given:
                return given.pop()
            return await asyncio.Event().wait()

        async def send(message):
            out.append(message)
        await app(server.service)(scope, receive, send)
        return out[0]["status"], b"".join(m.get("body", b"") for m in out[1:])
    return asyncio.run_coroutine_threadsafe(run(), server.loop).result(60)


def check(server, path, body):
    """Asserts that the answer to a body is what it should be."""
    status, data = call(server, path, json.dumps(body).encode())
    assert status in (200, 400, 404), data
    if status != 200:
        error = json.loads(data)["error"]
        assert error["message"]
        assert error["type"] == ("invalid_request_error" if status == 400 else "not_found_error")
        return
    n, chat = body.get("n") or 1, "messages" in body
    kind = body.get("prompt")
    count = n * (len(kind) if isinstance(kind, list) and not isinstance(kind[0], int) else 1)
    if body.get("stream"):
        events = data.decode().split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""]
        chunks = [json.loads(e.removeprefix("data: ")) for e in events[:-2]]
        choices = [c for chunk in chunks for c in chunk["choices"]]
        ends = sorted(c["index"] for c in choices if c["finish_reason"])
        assert ends == list(range(count))
        assert {c["finish_reason"] for c in choices} <= {None, "stop", "length"}
        text = "".join(c["delta"].get("content", "") if chat else c["text"] for c in choices)
    else:
        made = json.loads(data)
        assert [c["index"] for c in made["choices"]] == list(range(count))
        assert {c["finish_reason"] for c in made["choices"]} <= {"stop", "length"}
        most = body.get("max_tokens") or (CONTEXT if chat else 16)
        assert made["usage"]["completion_tokens"] <= most * count
        text = "".join(c["message"]["content"] if chat else c["text"] for c in made["choices"])
    text.encode()  # no half of a surrogate pair
    stops = body.get("stop") or []
    for stop in [stops] if isinstance(stops, str) else stops:
        assert count > 1 or stop not in text


COMPLETIONS = bodies(COMPLETION, ["prompt", "max_tokens"])
# Where nothing is said, a chat takes all of the context: which takes long.
CHATS = bodies(CHAT, ["messages", "max_tokens"]).map(
    lambda body: body | {"max_tokens": 4} if body.get("max_tokens") is None else body)


@st.composite
def damaged(draw):
    """JSON with a hole in it, or with something in the middle."""
    text = json.dumps(draw(COMPLETIONS), ensure_ascii=draw(st.booleans())).encode(
        "utf-8", "surrogatepass")
    at, end = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
    between = draw(st.binary(max_size=6) | st.sampled_from([b"\\ud800", b"[[", b"NaN", b"1e999"]))
    return text[:at] + between + text[draw(st.sampled_from([at, end])):]


def unharmed(server, data):
    """Asserts that bytes are answered by something other than a failure."""
    assert call(server, "/v1/completions", data)[0] in (200, 400, 404)


def tokens(server, body):
    """Asserts that texts and tokens are taken, or refused."""
    for path in ("/tokenize", "/detokenize"):
        status, data = call(server, path, json.dumps(body).encode())
        assert status in (200, 400, 404), data


TOKENS = st.dictionaries(st.sampled_from(["prompt", "tokens", "model"]),
                         WILD | TEXT | st.lists(TOKEN), max_size=3)
BYTES = st.binary(max_size=200) | damaged()


@settings(max_examples=120)
@given(COMPLETIONS)
def test_completions(common, body):
    check(common, "/v1/completions", body)


@settings(max_examples=100)
@given(CHATS)
def test_chats(common, body):
    check(common, "/v1/chat/completions", body)


@settings(max_examples=60)
@given(BYTES)
def test_bytes(common, data):
    unharmed(common, data)


@settings(max_examples=40)
@given(TOKENS)
def test_tokens(common, body):
    tokens(common, body)


@pytest.mark.slow
@settings(max_examples=1000)
@given(COMPLETIONS)
def test_many_completions(common, body):
    check(common, "/v1/completions", body)


@pytest.mark.slow
@settings(max_examples=800)
@given(CHATS)
def test_many_chats(common, body):
    check(common, "/v1/chat/completions", body)


@pytest.mark.slow
@settings(max_examples=600)
@given(BYTES)
def test_many_bytes(common, data):
    unharmed(common, data)


def test_nothing_is_left(server):
    assert 'status="500"' not in server.get("/metrics").text
    server.core.scheduler.check()
