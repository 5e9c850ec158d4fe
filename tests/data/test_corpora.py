import collections
import gzip
import json

import pytest
import zstandard

from lm.base.errors import UserError
from lm.data import files, splits, stdlib
from lm.data.config import Config
from lm.data.corpora import documents, fingerprint
from lm.data.splits import placed, split_of
from lm.data.text import Document


def texts(corpus, **fields):
    return [d.text for d in documents(Config(corpus=str(corpus), **fields))]


def test_text_files_in_order_and_unchanged(tmp_path):
    (tmp_path / "b.txt").write_bytes("two\r\nlines\rand é\n".encode())
    (tmp_path / "a.md").write_text("# first")
    with gzip.open(tmp_path / "c.py.gz", "wb") as file:
        file.write(b"x = 1\n")
    (tmp_path / "d.txt.zst").write_bytes(zstandard.compress(b"four") + zstandard.compress(b"five"))
    (tmp_path / "e.txt").write_text("")
    assert texts(tmp_path / "*") == ["# first", "two\r\nlines\rand é\n", "x = 1\n", "fourfive"]


def test_folders_inside(tmp_path):
    (tmp_path / "x" / "y").mkdir(parents=True)
    (tmp_path / "x" / "y" / "a.txt").write_text("deep")
    assert texts(tmp_path / "**" / "*.txt") == ["deep"]


def test_json_lines(tmp_path):
    lines = [json.dumps({"id": i, "text": f"text {i} é\n", "body": "other"}) for i in range(3)]
    plain = "\n".join(lines[:2]) + "\n\n" + lines[2]
    (tmp_path / "a.jsonl").write_text(plain)
    (tmp_path / "b.jsonl.zst").write_bytes(zstandard.compress(plain.encode()))
    assert texts(tmp_path / "*") == [f"text {i} é\n" for i in range(3)] * 2
    assert texts(tmp_path / "a.jsonl", text_field="body") == ["other"] * 3


def test_long_documents_come_in_parts(tmp_path, monkeypatch):
    text = "".join(f"line {i} é🎉\n" for i in range(100)) + "x" * 300 + "\nend"
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.txt").write_text("short")
    monkeypatch.setattr(files, "_PART", 61)
    *long, short = documents(Config(corpus=f"{tmp_path}/*.txt"))
    assert "".join(d.text for d in long) == text and len(long) > 10
    assert [d.part for d in long] == list(range(len(long)))
    assert [d.last for d in long] == [False] * (len(long) - 1) + [True]
    assert all(d.text.endswith("\n") for d in long[:10])
    assert (short.part, short.last, short.text) == (0, True, "short")
    # All parts of one document are held out together.
    for share in (0.0, 0.5, 0.9):
        held = [p.split for p in placed(Config(corpus=f"{tmp_path}/a.txt", validation=share))]
        assert len(set(held)) == 1


def test_long_json_lines(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": "é" * n}) + "\n"
                                              for n in range(1, 60)))
    monkeypatch.setattr(files, "_PART", 7)
    assert texts(tmp_path / "a.jsonl") == ["é" * n for n in range(1, 60)]


@pytest.mark.parametrize("limit,want", [
    (0, ["abcd", "éé", "xyz"]), (4, ["abcd"]), (5, ["abcd"]), (7, ["abcd", "é"]),
    (8, ["abcd", "éé"]), (9, ["abcd", "éé", "x"]), (100, ["abcd", "éé", "xyz"])])
def test_limit_counts_bytes_from_the_front(tmp_path, limit, want):
    for name, text in zip("abc", ("abcd", "éé", "xyz"), strict=True):
        (tmp_path / f"{name}.txt").write_text(text)
    assert texts(tmp_path / "*", limit=limit) == want


def test_standard_library():
    dropped = collections.Counter()
    config = Config()
    found = list(documents(config, dropped))
    assert found == list(documents(config))
    names = [d.name for d in found]
    assert names == sorted(names) and {"argparse.py", "json/decoder.py"} < set(names)
    assert not any({"test", "tests", "site-packages"} & set(n.split("/")) for n in names)
    assert not any("sysconfigdata" in n for n in names)
    assert sum(len(d.text) for d in found) > 5e6
    assert len({d.text for d in found}) == len(found)
    assert dropped["tables"] > 20 and set(dropped) <= {
        "tables", "shorter than 200 characters", "duplicates", "not UTF-8", "binary",
        "a line over 1000 characters"}
    assert fingerprint(config) == fingerprint(Config(text_field="other"))


def test_standard_library_cleaning(tmp_path, monkeypatch):
    monkeypatch.setattr(stdlib, "_root", lambda: tmp_path)
    code = "def function(argument):\n    return argument\n" * 9
    for name, data in {
            "good.py": code.replace("\n", "\r\n").encode(), "same.py": code.encode(),
            "short.py": b"x = 1\n", "latin.py": b"# caf\xe9\n" + code.encode(),
            "binary.txt": b"\0" + code.encode(), "long.py": code.encode() + b"word " * 300,
            "table.py": b"'\\x00' # 0x00 -> NULL\n" * 40, "test/t.py": code.encode() + b"#",
            "config-3/m.py": code.encode() + b"##", "data.json": code.encode()}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    dropped = collections.Counter()
    assert list(documents(Config(), dropped)) == [Document("good.py", code)]
    assert dropped == {"duplicates": 1, "shorter than 200 characters": 1, "not UTF-8": 1,
                       "binary": 1, "a line over 1000 characters": 1, "tables": 1}


def test_fingerprint_follows_the_content(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    config = Config(corpus=str(path))
    known = fingerprint(config)
    path.touch()
    assert fingerprint(config) == known
    path.write_text("two")
    assert fingerprint(config) != known
    assert fingerprint(Config(corpus=str(path), limit=2)) != fingerprint(config)


def test_fingerprint_of_large_files_reads_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_READ_FOR_FINGERPRINT", 2)
    path = tmp_path / "a.txt"
    path.write_text("one")
    known = fingerprint(Config(corpus=str(path)))
    monkeypatch.setattr("pathlib.Path.read_bytes", None)
    assert fingerprint(Config(corpus=str(path))) == known
    path.write_text("other")
    assert fingerprint(Config(corpus=str(path))) != known


@pytest.mark.parametrize("name,data,says", [
    ("a.txt", b"a\0b", r"a.txt is not UTF-8 text \(it has NULs\)"),
    ("a.py", b"caf\xe9 x", r"a.py is not UTF-8 text .*0xe9"),
    ("a.txt", b"caf\xc3", "a.txt is not UTF-8 text"),
    ("a.csv", b"a,b", r"a.csv is not one of .txt .md .py .jsonl"),
    ("a.tar.gz", b"", r"a.tar.gz is not one of"),
    ("a.txt.gz", b"not gzip", "a.txt.gz cannot be read"),
    ("a.txt.gz", gzip.compress(b"text" * 100)[:-9], "a.txt.gz cannot be read"),
    ("a.txt.zst", b"not zstandard", "a.txt.zst cannot be read"),
    ("a.txt.zst", zstandard.compress(b"text" * 100)[:-3], "cannot be read: it is cut short"),
    ("a.txt", b"", "holds no text"),
    ("a.jsonl", b'{"text": "x"}\n{"body": 1, "id": 2}\n',
     r"a.jsonl line 2 has no text in field 'text'; it has: body, id; set text_field"),
    ("a.jsonl", b'{"text": 3}', "line 1 has no text in field 'text'; it has: text"),
    ("a.jsonl", b"[1]", "line 1 has no text in field 'text'; it has: list"),
    ("a.jsonl", b'{"text": "x"}\n{', "a.jsonl line 2 is not JSON"),
])
def test_bad_files(tmp_path, name, data, says):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=says):
        texts(tmp_path / "*")


def test_no_files(tmp_path):
    with pytest.raises(UserError, match="matches no file; give 'python_stdlib'"):
        texts(tmp_path / "*.txt")
    with pytest.raises(UserError, match=r"is a folder: write '.*/\*\*/\*.txt'"):
        texts(tmp_path)


def test_documents_keep_their_split():
    corpus = [Document(f"{i}", f"text {i}") for i in range(2000)]
    held = [{d.text for d in corpus if split_of(d, share) == "validation"}
            for share in (0.0, 0.05, 0.2, 0.5)]
    for less, more in zip(held, held[1:], strict=False):
        assert less < more  # a larger share only adds
    assert [len(h) for h in held] == pytest.approx([0, 100, 400, 1000], abs=60)
    assert {split_of(d._replace(name="renamed"), 0.2) == split_of(d, 0.2) for d in corpus} == {True}


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_tail_is_the_end_of_the_text(tmp_path, share):
    whole = []
    for number in range(7):
        whole.append("".join(f"{number}.{i} é\n" for i in range(20 * number + 1)))
        (tmp_path / f"{number}.txt").write_text(whole[-1])
    parts = list(placed(Config(corpus=f"{tmp_path}/*", split="tail", validation=share)))
    train, held = ("".join(p.document.text for p in parts if p.split == s)
                   for s in ("train", "validation"))
    assert train + held == "".join(whole)
    assert len(train) == int(len(train + held) * (1 - share))
    assert sum(p.document.last for p in parts) == 7  # a document cut in two ends once
    assert [p.key for p in parts] == sorted(p.key for p in parts)


def test_tail_that_begins_with_a_part_of_a_document(monkeypatch):
    """Where the cut is where a long document's next part begins, that part opens the split."""
    parts = [Document("long", "x" * 50, 0, False), Document("long", "y" * 50, 1, True)]
    monkeypatch.setattr(splits, "documents", lambda *_: iter(parts))
    first, second = placed(Config(split="tail", validation=0.5))
    assert (first.split, second.split) == ("train", "validation")
    assert (first.document.part, second.document.part) == (0, 0)
