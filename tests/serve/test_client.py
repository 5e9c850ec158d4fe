"""The official client against the server: what it asks is answered, what is wrong is refused."""

import httpx
import openai
import pytest
from servers import CONTEXT, NAME

ASK = dict(model=NAME, prompt="one token", max_tokens=24, seed=5)


def messages(*texts):
    return [dict(role="user", content=text) for text in texts]


@pytest.fixture
def client(server, official):
    return official


def test_completion(client):
    made = client.completions.create(**ASK)
    assert made.object == "text_completion"
    assert made.model == NAME
    [choice] = made.choices
    assert choice.index == 0
    assert choice.finish_reason in ("length", "stop")
    assert made.usage.prompt_tokens == len("one token")
    assert 1 <= made.usage.completion_tokens <= 24
    assert made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens
    assert made.usage.prompt_tokens_details.cached_tokens is not None


def test_stream_is_the_completion(client):
    whole = client.completions.create(**ASK)
    chunks = list(client.completions.create(**ASK, stream=True))
    assert "".join(c.choices[0].text for c in chunks) == whole.choices[0].text
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert {(c.id, c.created, c.model, c.object) for c in chunks} == {
        (chunks[0].id, chunks[0].created, NAME, "text_completion")}


def test_chat(client):
    made = client.chat.completions.create(model=NAME, messages=messages("hello"), max_tokens=12,
                                          seed=1)
    assert made.object == "chat.completion"
    assert made.choices[0].message.role == "assistant"
    assert made.usage.prompt_tokens == len("user: hello\nassistant:")


def test_chat_in_a_stream(client):
    ask = dict(model=NAME, messages=messages("hello"), max_completion_tokens=12, seed=1)
    whole = client.chat.completions.create(**ask).choices[0]
    chunks = list(client.chat.completions.create(**ask, stream=True))
    first, *rest, last = (c.choices[0] for c in chunks)
    assert (first.delta.role, first.delta.content, first.finish_reason) == ("assistant", "", None)
    assert all(c.delta.role is None and c.finish_reason is None for c in rest)
    assert "".join(c.delta.content for c in rest) == whole.message.content
    assert last.finish_reason == whole.finish_reason
    assert last.delta.model_dump(exclude_none=True) == {}
    assert {c.object for c in chunks} == {"chat.completion.chunk"}


def test_chat_content_in_parts(client):
    parts = [dict(type="text", text="hel"), dict(type="text", text="lo")]
    asked = [dict(role="user", content=parts)]
    made = client.chat.completions.create(model=NAME, messages=asked, max_tokens=1)
    assert made.usage.prompt_tokens == len("user: hello\nassistant:")


def test_chat_takes_what_the_context_leaves(client):
    made = client.chat.completions.create(model=NAME, messages=messages("x" * 400), seed=2,
                                          extra_body=dict(ignore_eos=True))
    assert made.choices[0].finish_reason in ("length", "stop")
    if made.choices[0].finish_reason == "length":
        assert made.usage.total_tokens == CONTEXT


def test_a_cache_smaller_than_the_context(start):
    """What nobody asked for is no more than there is room for."""
    with start(pages=2) as server, server.client() as client:
        room = 2 * server.core.engine.shape.page + 1
        assert room < CONTEXT
        ask = dict(model=NAME, seed=2, extra_body=dict(ignore_eos=True, stop_token_ids=[]))
        made = client.chat.completions.create(**ask, messages=messages("x"))
        assert made.choices[0].finish_reason in ("length", "stop")
        made = client.completions.create(**ask, prompt="x", max_tokens=room - 1)
        assert made.usage.total_tokens == room
        for wrong, param in ((dict(prompt="x", max_tokens=room), "max_tokens"),
                             (dict(prompt="x" * room), "prompt")):
            with pytest.raises(openai.BadRequestError, match=f"cache takes {room}") as caught:
                client.completions.create(**ask, **wrong)
            assert (caught.value.param, caught.value.code) == (param, "context_length_exceeded")
        for listed in (server.get("/v1/models").json()["data"][0],
                       server.post("/tokenize", prompt="x").json()):
            assert listed["max_model_len"] == room
        assert server.get("/load").json()["context"] == room


@pytest.mark.parametrize("chat", [False, True])
def test_usage_ends_a_stream_where_asked_for(client, chat):
    ask = dict(model=NAME, max_tokens=9, seed=1, stream=True, stream_options=dict(
        include_usage=True))
    if chat:
        chunks = list(client.chat.completions.create(**ask, messages=messages("hi")))
    else:
        chunks = list(client.completions.create(**ask, prompt="hi"))
    assert chunks[-1].choices == []
    assert 1 <= chunks[-1].usage.completion_tokens <= 9
    assert all(c.usage is None and "usage" in c.model_fields_set and len(c.choices) == 1
               for c in chunks[:-1])


def test_a_prefix_is_counted_as_cached(client):
    ask = dict(ASK, prompt="a prefix that several requests share, and long enough for pages " * 4)
    client.completions.create(**ask)
    made = client.completions.create(**ask)
    assert 0 < made.usage.prompt_tokens_details.cached_tokens < made.usage.prompt_tokens


def test_prompts_and_choices_in_order(client, server):
    texts = ["a", "bc"]
    made = client.completions.create(**ASK | dict(prompt=texts, n=2))
    assert [c.index for c in made.choices] == [0, 1, 2, 3]
    assert made.usage.prompt_tokens == 3
    for i, text in enumerate(texts):
        alone = client.completions.create(**ASK | dict(prompt=text, n=2))
        assert [c.text for c in alone.choices] == [c.text for c in made.choices[2 * i:2 * i + 2]]
    ids = [list(text.encode()) for text in texts]
    assert client.completions.create(**ASK | dict(prompt=ids, n=2)).choices == made.choices
    one = client.completions.create(**ASK | dict(prompt=ids[1], n=2))
    assert [c.text for c in one.choices] == [c.text for c in made.choices[2:]]
    streamed = {}
    for chunk in client.completions.create(**ASK | dict(prompt=texts, n=2), stream=True):
        for c in chunk.choices:
            streamed[c.index] = streamed.get(c.index, "") + c.text
    assert [streamed.get(c.index, "") for c in made.choices] == [c.text for c in made.choices]


def test_the_seed_decides(client):
    texts = [client.completions.create(**ASK | dict(seed=s)).choices[0].text
             for s in (5, 5, 6, -5)]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3
    unseeded = {client.completions.create(model=NAME, prompt="x", max_tokens=24).choices[0].text
                for _ in range(3)}
    assert len(unseeded) == 3


def test_stop(client):
    ask = ASK | dict(temperature=0, max_tokens=64)
    whole = client.completions.create(**ask, extra_body=dict(ignore_eos=True)).choices[0].text
    for stop in (whole[10:12], [whole[20:23], "never that"]):
        made = client.completions.create(**ask, stop=stop, extra_body=dict(ignore_eos=True))
        first = stop if isinstance(stop, str) else stop[0]
        assert made.choices[0].text == whole[:whole.index(first)]
        assert made.choices[0].finish_reason == "stop"
    made = client.completions.create(**ask | dict(max_tokens=5), stop="never that",
                                     extra_body=dict(ignore_eos=True))
    assert made.choices[0].finish_reason == "length"
    ended = client.completions.create(**ask, extra_body=dict(stop_token_ids=list(range(256))[:16]))
    assert ended.choices[0].finish_reason in ("stop", "length")


def test_logprobs_of_completions(client):
    made = client.completions.create(**ASK, logprobs=3, extra_body=dict(ignore_eos=True))
    logs = made.choices[0].logprobs
    assert len(logs.tokens) == len(logs.token_logprobs) == len(logs.text_offset) == 24
    for token, logprob, top in zip(logs.tokens, logs.token_logprobs, logs.top_logprobs,
                                   strict=True):
        assert 3 <= len(top) <= 4
        assert top[token] == logprob <= 0
    assert logs.text_offset[0] == 0
    assert logs.text_offset == sorted(logs.text_offset)
    none = client.completions.create(**ASK, logprobs=0).choices[0].logprobs
    assert len(none.tokens) >= 1
    assert all(len(top) == 1 for top in none.top_logprobs)
    chunks = list(client.completions.create(**ASK, logprobs=3, stream=True,
                                            extra_body=dict(ignore_eos=True)))
    found = [x for c in chunks for x in c.choices[0].logprobs.tokens]
    assert found == logs.tokens
    assert [x for c in chunks for x in c.choices[0].logprobs.text_offset] == logs.text_offset


def test_logprobs_of_chat(client):
    ask = dict(model=NAME, messages=messages("hi"), max_tokens=8, seed=3, logprobs=True)
    made = client.chat.completions.create(**ask, top_logprobs=2).choices[0].logprobs.content
    for x in made:
        assert len(x.top_logprobs) == 2
        assert x.top_logprobs[0].logprob >= x.top_logprobs[1].logprob
        assert len(x.bytes) <= 1
        assert x.logprob <= 0
    chunks = client.chat.completions.create(**ask, top_logprobs=2, stream=True)
    again = [x for c in chunks if c.choices[0].logprobs for x in c.choices[0].logprobs.content]
    assert again == made
    plain = client.chat.completions.create(**ask).choices[0].logprobs.content
    assert all(x.top_logprobs == [] for x in plain)


def test_logit_bias(client):
    made = client.completions.create(**ASK | dict(logit_bias={str(ord("z")): 100}))
    assert made.choices[0].text == "z" * 24


def test_json_by_a_schema(client):
    pytest.importorskip("llguidance")
    schema = dict(type="object", properties=dict(ok=dict(type="boolean")), required=["ok"],
                  additionalProperties=False)
    made = client.chat.completions.create(
        model=NAME, messages=messages("x"), seed=1, max_tokens=40, response_format=dict(
            type="json_schema", json_schema=dict(name="ok", schema=schema)))
    assert made.choices[0].message.content in ('{"ok":true}', '{"ok":false}')
    assert made.choices[0].finish_reason == "stop"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=NAME, messages=messages("x"), response_format=dict(
                type="json_schema", json_schema=dict(name="no", schema=dict(type="nothing"))))
    assert caught.value.param == "response_format"


def test_models(client):
    assert [m.id for m in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).id == NAME
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("other")
    assert caught.value.code == "model_not_found"


WRONG = [
    (dict(temperature=-1), "temperature"), (dict(temperature=2.5), "temperature"),
    (dict(top_p=1.5), "top_p"), (dict(n=0), "n"), (dict(n=17), "n"),
    (dict(max_tokens=0), "max_tokens"), (dict(max_tokens=10**30), "max_tokens"),
    (dict(max_tokens=True), "max_tokens"), (dict(max_tokens=1.0), "max_tokens"),
    (dict(stop=["a"] * 5), "stop"), (dict(stop=""), "stop"), (dict(stop=[1]), "stop[0]"),
    (dict(logprobs=21), "logprobs"), (dict(logit_bias={"256": 1}), "logit_bias"),
    (dict(logit_bias={"a": 1}), "logit_bias"), (dict(logit_bias={"1": 101}), "logit_bias"),
    (dict(presence_penalty=3), "presence_penalty"), (dict(seed="x"), "seed"),
    (dict(seed=2**63), "seed"), (dict(echo=True), "echo"), (dict(best_of=2), "best_of"),
    (dict(suffix="x"), "suffix"), (dict(stream="yes"), "stream"),
    (dict(stream_options=dict(include_usage=True)), "stream_options"),
    (dict(stream=True, stream_options=dict(usage=True)), "stream_options.usage"),
    (dict(prompt=[]), "prompt"), (dict(prompt=[[]]), "prompt"), (dict(prompt=["a", [1]]), "prompt"),
    (dict(prompt=[256]), "prompt[0]"), (dict(prompt=[[3, -1]]), "prompt[1]"),
    (dict(prompt=None), "prompt"), (dict(prompt={"a": 1}), "prompt"),
    (dict(prompt=["a"] * 100, n=2), "prompt"), (dict(prompt="x" * CONTEXT), "prompt"),
    (dict(prompt="x" * (CONTEXT - 10)), "max_tokens"), (dict(tempreature=1), "tempreature"),
    (dict(min_p=2), "min_p"), (dict(top_k=-2), "top_k"), (dict(stop_token_ids=[-1]),
                                                            "stop_token_ids[0]"),
    (dict(response_format=dict(type="xml")), "response_format"),
    (dict(response_format=dict(type="json_schema")), "response_format"),
    (dict(messages=[]), "messages"), (dict(user=3), "user"), (dict(metadata=[]), "metadata"),
]


@pytest.mark.parametrize("change,param", WRONG, ids=lambda x: str(x)[:40])
def test_what_is_wrong_is_named(client, change, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/completions", body=ASK | change, cast_to=httpx.Response)
    error = caught.value
    assert error.param == param
    assert error.type == "invalid_request_error"
    assert error.body["message"]
    if "tempreature" in change:
        assert "did you mean 'temperature'" in error.body["message"]


CHAT_WRONG = [
    (dict(messages=None), "messages"), (dict(messages=[]), "messages"),
    (dict(messages="hi"), "messages"), (dict(messages=["hi"]), "messages[0]"),
    (dict(messages=[dict(role="user")]), "messages[0].content"),
    (dict(messages=[dict(content="x")]), "messages[0].role"),
    (dict(messages=[dict(role="robot", content="x")]), "messages[0].role"),
    (dict(messages=[dict(role="tool", content="x")]), "messages[0].role"),
    (dict(messages=[dict(role="user", content=[dict(type="image_url")])]),
     "messages[0].content[0].type"),
    (dict(messages=[dict(role="user", content=[dict(type="text")])]),
     "messages[0].content[0].text"),
    (dict(messages=[dict(role="user", content="x", mood="bad")]), "messages[0].mood"),
    (dict(tools=[dict(type="function")]), "tools"), (dict(logprobs=3), "logprobs"),
    (dict(top_logprobs=3), "top_logprobs"), (dict(logprobs=True, top_logprobs=21), "top_logprobs"),
    (dict(max_tokens=3, max_completion_tokens=4), "max_tokens"), (dict(store=True), "store"),
    (dict(modalities=["audio"]), "modalities"), (dict(prompt="x"), "prompt"),
    (dict(messages=messages("x" * CONTEXT)), "messages"),
]


@pytest.mark.parametrize("change,param", CHAT_WRONG, ids=lambda x: str(x)[:40])
def test_what_is_wrong_in_a_chat_is_named(client, change, param):
    body = dict(model=NAME, messages=messages("hi")) | change
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/chat/completions", body=body, cast_to=httpx.Response)
    assert caught.value.param == param


def test_what_asks_for_nothing_is_taken(client):
    made = client.chat.completions.create(
        model=NAME, messages=[dict(role="developer", content="d"), *messages("hi")], max_tokens=1,
        user="me", store=False, metadata={"a": "b"}, tools=openai.omit, tool_choice="none",
        parallel_tool_calls=False, n=1, stop=None, service_tier="auto", logit_bias={},
        response_format=dict(type="text"), modalities=["text"], safety_identifier="x",
        extra_body=dict(tools=[], functions=None, seed=None, top_k=-1))
    assert made.usage.completion_tokens == 1


def test_another_model_is_not_found(client):
    for stream in (False, True):
        with pytest.raises(openai.NotFoundError) as caught:
            client.completions.create(**ASK | dict(model="gpt"), stream=stream)
        assert caught.value.param == "model"
        assert caught.value.code == "model_not_found"


def test_an_api_key(start):
    with start(key="secret") as server:
        for key in ("wrong", "secre", "secret2"):
            with pytest.raises(openai.AuthenticationError) as caught, server.client(
                    api_key=key) as c:
                c.completions.create(**ASK)
            assert caught.value.code == "invalid_api_key"
            with pytest.raises(openai.AuthenticationError), server.client(api_key=key) as c:
                c.models.list()
        for header in ("secret", "Basic secret", "Bearer", "Bearer \u017fecret", ""):
            found = server.http.get("/v1/models", headers={"Authorization": header.encode()})
            assert found.status_code == 401
        assert server.post("/tokenize", prompt="x").status_code == 401
        assert server.get("/load").status_code == 401
        found = server.http.get("/load", headers={"Authorization": "Bearer secret"})
        assert found.json()["key"]
        with server.client() as c:
            assert c.completions.create(**ASK).choices
        for path in ("/livez", "/readyz", "/metrics", "/"):
            assert server.get(path).status_code == 200


def test_a_body_too_large(server, client):
    with pytest.raises(openai.APIStatusError) as caught:
        client.completions.create(**ASK | dict(prompt="x" * 10_000_000))
    assert caught.value.status_code == 413


def test_a_full_queue(server, client):
    server.core.engine.delay = 0.05
    many = ["a prompt"] * 20
    first = client.completions.create(model=NAME, prompt=many, max_tokens=400, stream=True)
    with pytest.raises(openai.RateLimitError) as caught:
        client.completions.create(model=NAME, prompt=many, max_tokens=400)
    assert int(caught.value.response.headers["retry-after"]) >= 1
    first.close()
    server.core.engine.delay = 0.0
    server.idle()
    assert client.completions.create(**ASK).choices


def test_ids_of_requests(server):
    ask = dict(prompt="x", max_tokens=1)
    given = server.http.post("/v1/completions", json=ask, headers={"X-Request-Id": "a-1"})
    assert given.headers["x-request-id"] == "a-1"
    bad = server.http.post("/v1/completions", json=ask, headers={"X-Request-Id": b"a\xff b"})
    assert len(bad.headers["x-request-id"]) == 32
    assert given.json()["id"].startswith("cmpl-")


def test_tokens_there_and_back(server):
    made = server.post("/tokenize", model=NAME, prompt="né").json()
    assert made == dict(tokens=[110, 195, 169], count=3, max_model_len=CONTEXT)
    assert server.post("/detokenize", tokens=made["tokens"]).json() == dict(prompt="né")
    assert server.post("/detokenize", tokens=[256]).json()["error"]["param"] == "tokens[0]"
    assert server.post("/tokenize", text="x").json()["error"]["param"] == "text"
