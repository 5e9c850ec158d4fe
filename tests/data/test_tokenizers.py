import json
import random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lm.base.errors import UserError
from lm.data import tokenizers
from lm.data.config import Config
from lm.data.splits import Placed
from lm.data.text import Document, to_bytes, to_text
from lm.data.tokenizers import hf, plain, sentencepiece

HOSTILE = [
    "", " ", "  a  ", "\n", "\n\n", "\r", "\r\n", "\t", "\x00", "a\x00b", "▁", "a▁b", "▁▁ ▁\n▁",
    "\ud800", "\udfff\ud800x", "\ud83d\ude00", "🎉", "e\u0301", "\u0301", "\ufeffx", "\ufffd",
    "\u200b\u2028\u2029\x0b\x0c\x1c\x85", "\ufb01Å２", "<s></s><unk><pad>", "<0x41>", "▅", "日本語",
    "\U0010ffff", "def f(x):\n    return  x\n", "a" * 5000, " " * 300 + "\n" * 300,
]
AWKWARD = st.sampled_from("▁▅ \n\t\r\0ab\ud800\udfff")
ANY_TEXT = st.text(st.characters(exclude_categories=()) | AWKWARD)


def placed(*texts, split="train"):
    return lambda: iter([Placed(Document(str(i), t), split, i) for i, t in enumerate(texts)])


def prose(size, seed=0):
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdefghij", k=draw.randint(2, 8))) for _ in range(500)]
    return "\n".join(" ".join(draw.choices(words, k=10)) for _ in range(size // 50))


@pytest.fixture(scope="module")
def unigram():
    return tokenizers.make(Config(tokenizer="unigram", V=320), placed(prose(60000)))


@pytest.fixture(scope="module")
def byte_level():
    """The text of a byte-level tokenizer.json with an end-of-text token."""
    import tokenizers as package
    made = package.Tokenizer(package.models.BPE())
    made.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = package.decoders.ByteLevel()
    made.train_from_iterator([prose(20000)], package.trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=package.pre_tokenizers.ByteLevel.alphabet()))
    return made.to_str()


@pytest.fixture(scope="module")
def foreign():
    """A SentencePiece model as others make them: normalising, with a space put in front."""
    import io

    import sentencepiece as package
    model = io.BytesIO()
    package.SentencePieceTrainer.train(
        sentence_iterator=iter(prose(60000).split("\n")), model_writer=model, vocab_size=300,
        model_type="bpe", minloglevel=2)
    return model.getvalue()


@pytest.fixture(scope="module", params=["bytes", "characters", "bpe", "unigram", "hf", "foreign"])
def each(request):
    make = {
        "bytes": plain.Bytes,
        "characters": lambda: plain.Characters("".join(sorted(set("".join(HOSTILE)))), eos=True),
        "bpe": lambda: request.getfixturevalue("bpe"),
        "unigram": lambda: request.getfixturevalue("unigram"),
        "hf": lambda: hf.HuggingFace(request.getfixturevalue("byte_level"), "<|endoftext|>"),
        "foreign": lambda: sentencepiece.SentencePiece(request.getfixturevalue("foreign")),
    }
    return make[request.param]()


def lossless(tokenizer):
    return not isinstance(tokenizer, hf.HuggingFace) and getattr(tokenizer, "exact", True)


@settings(max_examples=300, deadline=None)
@example("\ud800\udc00\ud800")
@given(ANY_TEXT)
def test_bytes_of_any_text(text):
    assert to_text(to_bytes(text)) == text


@settings(max_examples=200, deadline=None)
@given(st.binary())
def test_any_bytes_are_some_text(data):
    text = to_text(data)
    try:
        assert text == data.decode()
    except UnicodeDecodeError:
        assert "\ufffd" in text or any("\ud800" <= c <= "\udfff" for c in text)


@settings(max_examples=200, deadline=None)
@given(ANY_TEXT)
def test_round_trip_of_any_text(bpe, unigram, text):
    for tokenizer in (plain.Bytes(), bpe, unigram):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    if text:
        tokenizer = plain.Characters("".join(sorted(set(text))), eos=False)
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert len(set(text)) == tokenizer.V


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_round_trip_of_byte_level(byte_level, text):
    tokenizer = hf.HuggingFace(byte_level, "<|endoftext|>")
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text(each, text):
    ids = each.encode(text)
    assert ids.dtype == np.int32 and ids.ndim == 1
    assert all(0 <= i < each.V and i != each.eos for i in ids)
    if lossless(each):
        assert each.decode(ids) == text
        assert each.decode([*ids, each.eos]) == text
        assert each.decode(ids.tolist()) == text


def test_batch_is_one_by_one(each):
    for got, text in zip(each.encode_batch(HOSTILE), HOSTILE, strict=True):
        np.testing.assert_array_equal(got, each.encode(text))
    assert each.encode_batch([]) == []


def test_lines_alone_have_the_ids_of_the_whole(bpe, unigram):
    text = prose(3000) + "\n\n  \n\tdef  f( x ):\n\r\n日本語 🎉\x0b\x1c\u2028z\n" + prose(2000, 1)
    for tokenizer in (bpe, unigram):
        assert tokenizer.exact
        assert tokenizer.encode(text).tolist() == tokenizer._made.encode(text)
        first, second = text[:2000], text[2000:]
        cut = first.rfind("\n") + 1
        joined = np.concatenate(tokenizer.encode_batch([first[:cut], first[cut:] + second]))
        np.testing.assert_array_equal(joined, tokenizer.encode(text))


def test_text_is_compressed(unigram):
    text = prose(60000)
    for tokenizer in (unigram, tokenizers.make(Config(tokenizer="bpe", V=500), placed(text))):
        assert len(tokenizer.encode(text)) < 0.85 * len(text)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 319), max_size=40), st.integers(1, 5))
def test_stream_is_decode(bpe, unigram, byte_level, ids, step):
    for tokenizer in (plain.Bytes(), bpe, unigram, hf.HuggingFace(byte_level, "<|endoftext|>")):
        some = [i % tokenizer.V for i in ids]
        stream = tokenizers.Stream(tokenizer)
        out = [stream.feed(some[i:i + step]) for i in range(0, len(some), step)]
        assert "".join(out) + stream.end() == tokenizer.decode(some)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([0x80, 0xE2, 0x82, 0xAC, 0xED, 0xA0, 0xF0, 0x9F, 255, 65, 0xC3]),
                max_size=150), st.integers(1, 5))
def test_stream_of_broken_characters(bpe, byte_level, data, step):
    """Long runs of bytes that are no text come out, and are still decode, wherever they are cut."""
    for tokenizer in (plain.Bytes(), bpe, hf.HuggingFace(byte_level, "<|endoftext|>")):
        ids = [i % tokenizer.V for i in data]
        stream = tokenizers.Stream(tokenizer)
        out = [stream.feed(ids[i:i + step]) for i in range(0, len(ids), step)]
        assert "".join(out) + stream.end() == tokenizer.decode(ids)


def test_stream_does_not_hold_back_for_ever():
    stream = tokenizers.Stream(plain.Bytes())
    out = [stream.feed([0x80]) for _ in range(1000)]
    assert len("".join(out)) > 900 and len(stream.ids) < 200


def test_stream_holds_back_half_characters(each):
    text = "ab 日本語 🎉 cé\n"
    if isinstance(each, plain.Characters):
        each = plain.Characters("".join(sorted(set(text))), eos=False)
    stream, out = tokenizers.Stream(each), []
    for i in each.encode(text).tolist():
        out.append(stream.feed([i]))
        assert "\ufffd" not in out[-1]
    assert "".join(out) + stream.end() == each.decode(each.encode(text))
    assert sum(map(bool, out)) > 3  # it does stream


def test_save_and_load(each, tmp_path):
    tokenizers.save(each, tmp_path / "t")
    again = tokenizers.load(tmp_path / "t")
    assert type(again) is type(each)
    assert (again.V, again.eos, again.fingerprint) == (each.V, each.eos, each.fingerprint)
    for text in HOSTILE:
        np.testing.assert_array_equal(again.encode(text), each.encode(text))


def test_fingerprints_tell_apart(bpe, unigram, byte_level, foreign):
    made = [plain.Bytes(), plain.Characters("ab", True), plain.Characters("ab", False),
            plain.Characters("abc", False), bpe, unigram, sentencepiece.SentencePiece(foreign),
            hf.HuggingFace(byte_level, "<|endoftext|>")]
    assert len({t.fingerprint for t in made}) == len(made)


def test_bytes_have_no_room_to_spare():
    assert plain.Bytes().V == 256
    assert all(255 not in plain.Bytes().encode(text) for text in HOSTILE)


def test_characters_in_order_of_code_points():
    tokenizer = tokenizers.make(Config(tokenizer="characters"), placed("hello\n"))
    assert tokenizer.alphabet == "\nehlo" and tokenizer.V == 5 and tokenizer.eos is None
    assert tokenizer.encode("hello").tolist() == [2, 1, 3, 3, 4]
    both = tokenizers.make(Config(tokenizer="characters"), placed("b", "a"))
    assert (both.V, both.eos, both.decode([0, 2, 1])) == (3, 2, "ab")


@pytest.mark.parametrize("text", ["f", "g", "🎉"])
def test_characters_name_the_unknown(text):
    with pytest.raises(UserError, match=rf"character '{text}' \(U\+{ord(text):04X}\) is not among"):
        plain.Characters("abcdeh", False).encode("ab" + text)


def test_training_is_deterministic_and_on_train_only(tmp_path):
    config, text = Config(tokenizer="bpe", V=300), prose(30000)
    known = tokenizers.make(config, placed(text))
    assert known.fingerprint == tokenizers.make(config, placed(text)).fingerprint

    def with_validation():
        yield from placed(text)()
        yield from placed("zebra zebra\n" * 5000, split="validation")()

    assert known.fingerprint == tokenizers.make(config, with_validation).fingerprint


def test_sample_does_not_depend_on_order():
    texts = [prose(2000, seed) for seed in range(50)]
    sample = sentencepiece._sample(iter(texts), 20000)
    assert sample == sentencepiece._sample(reversed(texts), 20000)
    assert 16000 < sum(map(len, sample)) < 24000
    assert len(sentencepiece._sample(iter(texts), 10**6)) == 50


def test_foreign_model_keeps_its_ways(foreign):
    tokenizer = sentencepiece.SentencePiece(foreign)
    assert not tokenizer.exact
    assert tokenizer.encode("ab\nc▁d").tolist() == tokenizer._made.encode("ab\nc▁d")
    assert tokenizer.decode(tokenizer.encode("abc  def")) == "abc def"


def test_every_id_has_its_bytes(each):
    made = each.pieces()
    assert len(made) == each.V and all(type(piece) is bytes for piece in made)
    assert each.eos is None or made[each.eos] == b""
    for i, piece in enumerate(made):
        if lossless(each):
            assert to_text(piece) == each.decode([i])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 402), max_size=20))
def test_pieces_of_byte_level(byte_level, ids):
    """Whatever the tokens, added ones and those whose letters are none of bytes' too."""
    import tokenizers as package
    made = package.Tokenizer.from_str(byte_level)
    made.add_tokens(["日本", "éé"])
    made.add_special_tokens(["<|im_end|>"])
    tokenizer = hf.HuggingFace(made.to_str(), "<|endoftext|>")
    assert tokenizer.V == 403
    pieces = tokenizer.pieces()
    assert b"".join(pieces[i] for i in ids).decode("utf-8", "replace") == tokenizer.decode(ids)
    assert {piece for piece in pieces if len(piece) == 1} >= {bytes([b]) for b in range(256)}
    assert pieces[402] == b""


def fallback(decoder):
    """A tokenizer.json as those made of SentencePiece models, with a hole among its ids."""
    import tokenizers as package
    vocabulary = {"<unk>": 0, "</s>": 1, "<0xE2>": 2, "▁a": 3, "b": 4, "▁": 5, "<0x41>": 6, "é": 8}
    made = package.Tokenizer(package.models.BPE(vocabulary, [], byte_fallback=True,
                                                unk_token="<unk>"))
    made.decoder = decoder(package.decoders)
    made.add_special_tokens(["<unk>", "</s>"])
    return hf.HuggingFace(made.to_str(), "</s>")


def test_pieces_with_bytes_to_fall_back_on():
    for decoder in (
            lambda d: d.Sequence([d.Replace("▁", " "), d.ByteFallback(), d.Fuse(),
                                  d.Strip(" ", 1, 0)]),
            lambda d: d.Sequence([d.Replace("▁", " "), d.ByteFallback(), d.Fuse()])):
        assert fallback(decoder).pieces() == [
            b"", b"", b"\xe2", b" a", b"b", b" ", b"A", b"", "é".encode()]
    tokenizer = fallback(lambda d: d.Metaspace())
    assert tokenizer.pieces()[2:6] == [b"<0xE2>", b" a", b"b", b" "]


def test_special_tokens_in_text_are_text(byte_level):
    tokenizer = hf.HuggingFace(byte_level, "<|endoftext|>")
    ids = tokenizer.encode("a<|endoftext|>b")
    assert tokenizer.eos not in ids and tokenizer.decode(ids) == "a<|endoftext|>b"


def test_tokenizer_json_with_its_config(byte_level, tmp_path):
    (tmp_path / "tokenizer.json").write_text(byte_level)
    assert tokenizers.load(tmp_path).eos == 0
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "a"}}))
    assert tokenizers.load(tmp_path / "tokenizer.json").eos != 0


@pytest.mark.parametrize("name,says", [
    ("byte", "unknown tokenizer 'byte'; did you mean 'bytes'?"),
    ("no/such/file", "tokenizer 'no/such/file': no such file"),
    ("missing.json", "tokenizer 'missing.json': no such file"),
])
def test_unknown_names(name, says):
    with pytest.raises(UserError) as error:
        tokenizers.make(Config(tokenizer=name), placed("x"))
    assert str(error.value).startswith(says)


def test_bad_files(tmp_path, byte_level, monkeypatch):
    for name, data, says in (
            ("a.json", "{", "is not JSON"),
            ("b.json", '{"added_tokens": [{"content": "</s>", "special": true}]}', "not a Hugging"),
            ("c.json", "{}", "does not say which token ends a document"),
            ("d.model", "nonsense", "not a SentencePiece model"),
            ("e.bin", "", "neither a SentencePiece .model nor")):
        (tmp_path / name).write_text(data)
        with pytest.raises(UserError, match=says):
            tokenizers.make(Config(tokenizer=str(tmp_path / name)), placed("x"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no tokenizer.json"):
        tokenizers.load(tmp_path / "empty")
    with pytest.raises(UserError, match="has no token 'zzz' to end a document"):
        hf.HuggingFace(byte_level, "zzz")
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(UserError, match="pip install tokenizers"):
        hf.HuggingFace(byte_level, "<|endoftext|>")


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_vocabularies_that_do_not_fit(kind):
    with pytest.raises(UserError, match=r"V = 8192: the training text has only \d+ pieces"):
        tokenizers.make(Config(tokenizer=kind), placed("hello world\n" * 30))
    with pytest.raises(UserError, match="V = 100: the bytes and characters alone are"):
        tokenizers.make(Config(tokenizer=kind, V=100), placed("hello world\n" * 30))
    with pytest.raises(UserError, match=f"tokenizer '{kind}' with V = 300"):
        tokenizers.make(Config(tokenizer=kind, V=300), placed(""))
