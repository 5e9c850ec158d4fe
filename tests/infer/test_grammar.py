"""Whatever a mask lets through is what the schema describes, to the last byte."""

import json
import random
import re
import sys
import threading

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.base.errors import UserError
from lm.data import tokenizers
from lm.data.config import Config
from lm.data.splits import Placed
from lm.data.text import Document
from lm.data.tokenizers import hf, plain
from lm.infer.grammar import Grammars
from lm.infer.sample import Extras, adjust

ASCII = "".join(map(chr, range(32, 127)))
PERSON = {
    "type": "object", "additionalProperties": False, "required": ["name", "age", "tags"],
    "properties": {
        "name": {"type": "string", "maxLength": 4},
        "age": {"type": "integer", "minimum": -5, "maximum": 120},
        "kind": {"enum": ["a", "b\"", "é", 7, None]},
        "tags": {"type": "array", "minItems": 1, "maxItems": 3, "items": {"$ref": "#/$defs/tag"}}},
    "$defs": {"tag": {"anyOf": [{"type": "boolean"},
                                {"type": "string", "pattern": "^x[0-9]{2}$"}]}}}


def is_person(value):
    """The schema above, by hand."""
    tag = lambda t: isinstance(t, bool) or re.fullmatch("x[0-9]{2}", t)  # noqa: E731
    return (value.keys() - {"kind"} == {"name", "age", "tags"} and len(value["name"]) <= 4
            and type(value["age"]) is int and -5 <= value["age"] <= 120
            and ("kind" not in value or value["kind"] in ["a", "b\"", "é", 7, None])
            and 1 <= len(value["tags"]) <= 3 and all(map(tag, value["tags"])))


@pytest.fixture(scope="module")
def library():
    return pytest.importorskip("llguidance", reason="llguidance is not installed")


@pytest.fixture(scope="module")
def words():
    draw = random.Random(0)
    some = ["".join(draw.choices("abcdefgx019", k=draw.randint(1, 6))) for _ in range(300)]
    return "\n".join('{"name":"' + '", "'.join(draw.choices(some, k=8)) + '"],' for _ in range(200))


@pytest.fixture(scope="module")
def unigram(words):
    placed = lambda: iter([Placed(Document("0", words), "train", 0)])  # noqa: E731
    return tokenizers.make(Config(tokenizer="unigram", V=330), placed)


def byte_level(words):
    package = pytest.importorskip("tokenizers")
    made = package.Tokenizer(package.models.BPE())
    made.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = package.decoders.ByteLevel()
    made.train_from_iterator([words], package.trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=package.pre_tokenizers.ByteLevel.alphabet()))
    return hf.HuggingFace(made.to_str(), "<|endoftext|>")


@pytest.fixture(scope="module",
                params=["bytes", "characters", "characters, no eos", "unigram", "hf"])
def each(request, library, words):
    make = {"bytes": plain.Bytes, "characters": lambda: plain.Characters(ASCII + "é", eos=True),
            "characters, no eos": lambda: plain.Characters(ASCII + "é日", eos=False),
            "unigram": lambda: request.getfixturevalue("unigram"), "hf": lambda: byte_level(words)}
    return make[request.param]()


def allowed(grammar):
    """The ids of a grammar's bits."""
    words = grammar.bits()
    assert words.dtype == np.uint32 and words.shape == (-(-grammar.V // 32),)
    ids = [32 * w + i for w, word in enumerate(words.tolist()) for i in range(32) if word >> i & 1]
    assert all(i < grammar.V for i in ids)
    return ids


def play(grammar, rng, most=400):
    """Draws by random logits among what is allowed until the end; returns the ids without eos."""
    made = []
    while not grammar.ended:
        ids = allowed(grammar)
        made.append(int(ids[rng.standard_normal(len(ids)).argmax()]))
        grammar.take(made[-1])
        assert len(made) < most
    assert not grammar.error
    return [token for token in made if token != grammar.eos]


def test_any_draw_keeps_to_the_schema(each):
    rng, grammars = np.random.default_rng(0), Grammars(each)
    texts = [each.decode(play(grammars.schema(PERSON), rng)) for _ in range(25)]
    for text in texts:
        value = json.loads(text)
        assert is_person(value), text
        assert " " not in re.sub(r'"(\\.|[^"\\])*"', "", text)
    assert len(set(texts)) == len(texts)


@pytest.fixture(scope="module")
def both(library, unigram):
    return Grammars(plain.Bytes()), Grammars(unigram)


@settings(max_examples=40)
@given(st.integers(-5, 120), st.text("ax0\"\\é日🎉\n", max_size=4), st.booleans(),
       st.lists(st.sampled_from([True, False, "x12"]), min_size=1, max_size=3))
def test_any_text_of_the_schema_may_be_drawn(both, unigram, age, name, kind, tags):
    """However it is split into tokens; and one token before it is whole it may not end."""
    value = dict(name=name, age=age) | (dict(kind="é") if kind else {}) | dict(tags=tags)
    text = json.dumps(value, separators=",:", ensure_ascii=False)
    single = {piece: i for i, piece in enumerate(unigram.pieces())}
    of_bytes, of_pieces = both
    for grammars, ids in ((of_bytes, list(text.encode())),
                          (of_pieces, unigram.encode(text).tolist()),
                          (of_pieces, [single[bytes([byte])] for byte in text.encode()])):
        grammar = grammars.schema(PERSON)
        for token in ids:
            assert not grammar.ended and token in allowed(grammar)
            assert grammar.eos not in allowed(grammar)
            grammar.take(token)
        assert grammar.ended and not grammar.error and allowed(grammar) == [grammar.eos]


def test_what_is_allowed_is_what_the_sampler_keeps(library, unigram):
    grammar = Grammars(unigram).schema(PERSON)
    one = np.ones(1, np.float32)
    for _ in range(3):
        extras = Extras(one, 0 * one, 0 * one, np.zeros(1, np.int32), np.full((1, 1), -1, np.int32),
                        np.zeros((1, 1), np.float32), grammar.bits()[None])
        kept = jax.jit(adjust)(np.ones((1, unigram.V), np.float32), extras,
                               np.zeros((1, 1), np.int32), np.zeros(1, np.int32))
        assert np.flatnonzero(np.isfinite(kept[0])).tolist() == allowed(grammar)
        grammar.take(allowed(grammar)[-1])


def test_the_end(library):
    """eos is allowed where the text is whole, and ends it; nothing may follow."""
    schema = {"enum": [1, 12, 123]}
    grammar = Grammars(plain.Bytes()).schema(schema)
    assert allowed(grammar) == [49] and not grammar.ended
    grammar.take(49)
    assert allowed(grammar) == [50, 255] and not grammar.ended
    grammar.take(255)
    assert grammar.ended and not grammar.error
    grammar = Grammars(plain.Characters("123", eos=False)).schema(schema)
    for token in (0, 1, 2):
        assert not grammar.ended and allowed(grammar) == [token]
        grammar.take(token)
    assert grammar.ended and not grammar.error and allowed(grammar) == []


def test_control_ids_are_never_allowed(each):
    """Not even where any text may come."""
    pieces = each.pieces()
    empty = {i for i, piece in enumerate(pieces) if not piece}
    assert each.eos is None or each.eos in empty
    grammar = Grammars(each).schema({"type": "string"})
    grammar.take(pieces.index(b'"'))
    found = allowed(grammar)
    assert len(found) > 90 and empty.isdisjoint(found)


def test_a_token_that_is_not_allowed(library):
    grammar = Grammars(plain.Bytes()).schema({"enum": [12]})
    grammar.take(98)
    assert grammar.ended and grammar.error and "\n" not in grammar.error


def test_an_alphabet_too_small(library):
    """At the start it is a mistake; later the output ends with an error."""
    with pytest.raises(UserError, match="no token for what must follow"):
        Grammars(plain.Characters("abc", eos=True)).schema({"type": "object"})
    grammar = Grammars(plain.Characters("12", eos=True)).schema({"enum": [123]})
    for token in (0, 1):
        assert not grammar.ended and not grammar.error
        grammar.take(token)
    assert grammar.ended and grammar.error == "the tokenizer has no token for what must follow"


deep = {"type": "string"}
for _ in range(20000):
    deep = {"items": deep}


@pytest.mark.parametrize(("schema", "words"), [
    ({"type": "strin"}, "Invalid type: strin"), ({"not": {}}, r'Unimplemented keys: \["not"\]'),
    ({"not": {}, "x-guidance": {"lenient": True}}, "Unimplemented keys"),
    (False, "Unsatisfiable"), ({"type": "string", "pattern": "(?<=a)b"}, "look-behind"),
    ({"$ref": "#/nope"}, "does not exist"), ({"$ref": "http://x.y/z"}, "does not fetch"),
    ({"type": "integer", "minimum": 5, "maximum": 3}, "greater than maximum"),
    ({"enum": [f"x{i}" for i in range(100_000)]}, "too big"), (deep, "recursion"),
    (5, "not an object"), ("{}", "not an object"), (None, "not an object"), ([], "not an object"),
    ({"minimum": float("nan")}, "not JSON"), ({"const": {1}}, "not JSON"),
    ({"const": "\ud800"}, "cannot be kept to")], ids=range(17))
def test_schemas_that_cannot_be_kept_to(library, schema, words):
    with pytest.raises(UserError, match=words) as error:
        Grammars(plain.Bytes()).schema(schema)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_another_thread_goes_on(library):
    """Made where requests come in, used where tokens are made."""
    grammar, seen = Grammars(plain.Bytes()).schema(PERSON), []
    thread = threading.Thread(target=lambda: seen.append(play(grammar, np.random.default_rng(4))))
    thread.start()
    thread.join()
    assert is_person(json.loads(plain.Bytes().decode(seen[0])))


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UserError, match="pip install llguidance"):
        Grammars(plain.Bytes())
