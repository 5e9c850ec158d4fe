"""Records survive a crash at any byte, and a run that goes on does not repeat itself."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.base.errors import UserError
from lm.base.records import Lines, read_json, read_lines, write_json

RECORDS = [dict(step=i, loss=i / 7, text="é\n\"") for i in range(1, 8)]


def filled(path, records=RECORDS):
    lines = Lines(path, keep_until=0)
    for record in records:
        lines.write(record)
    lines.close()
    return path


def test_round_trip(tmp_path):
    assert list(read_lines(filled(tmp_path / "m.jsonl"))) == RECORDS
    assert list(read_lines(tmp_path / "absent")) == []


def test_written_at_once(tmp_path):
    """A killed process loses no record that `write` returned from."""
    lines = Lines(tmp_path / "m", 0)
    lines.write(RECORDS[0])
    assert list(read_lines(tmp_path / "m")) == RECORDS[:1]
    lines.close()


@settings(max_examples=60)
@given(cut=st.integers(0, 10 ** 4), keep=st.integers(0, 9))
def test_cut_anywhere(tmp_path_factory, cut, keep):
    """Whole lines are read, the cut one is not; what is written after stands on its own line."""
    path = filled(tmp_path_factory.mktemp("cut") / "m.jsonl")
    text = path.read_bytes()
    cut %= len(text) + 1
    path.write_bytes(text[:cut])
    whole = RECORDS[:text[:cut].count(b"\n")]
    assert list(read_lines(path)) == whole
    lines = Lines(path, keep_until=keep)
    lines.write(dict(step=100))
    lines.close()
    kept = [r for r in whole if r["step"] <= keep]
    assert list(read_lines(path)) == [*kept, dict(step=100)]
    assert len(path.read_text().splitlines()) == len(kept) + 1
    assert os.listdir(path.parent) == ["m.jsonl"]


def test_a_damaged_line_ends_the_record(tmp_path):
    path = filled(tmp_path / "m.jsonl", RECORDS[:2])
    with path.open("a") as file:
        file.write("\0\0\0\n" + json.dumps(RECORDS[3]) + "\n")
    assert list(read_lines(path)) == RECORDS[:2]


def test_json(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, dict(a=[1, "ü"]))
    assert read_json(path) == dict(a=[1, "ü"])
    with pytest.raises(TypeError):
        write_json(path, dict(a=object()))
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("killed")))
    with pytest.raises(OSError, match="killed"):
        write_json(path, dict(a=2))
    assert read_json(path) == dict(a=[1, "ü"])  # readers see the old one until the last moment
    path.write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        read_json(path)
