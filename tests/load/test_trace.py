"""Traces of every kind that is published are read, what is none is refused in words."""

import json

import pytest

from lm.base.errors import UserError
from lm.load import trace

KINDS = {
    "burst.csv": ("Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,"
                  "Total tokens,Log Type\n5,1,0.1,ChatGPT,472,18,490,Conversation log\n"
                  "45,1,0.1,ChatGPT,1087,0,1087,Conversation log\n"
                  "118,1,0.1,GPT-4,417,276,693,Conversation log\n", [0, 113], 1),
    "azure.csv": ("TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
                  "2023-11-16 18:17:03.9799600,472,18\r\n2023-11-16 18:17:05.4799601,417,276\r\n",
                  [0, 1.5], 0),
    "azure24.csv": ("\ufeffTIMESTAMP,ContextTokens,GeneratedTokens\n"
                    "2024-05-10 00:00:01.500000+00:00,417,276\n"
                    "2024-05-10 00:00:00+00:00,472,18\n", [0, 1.5], 0),
    "mooncake.jsonl": ('{"timestamp": 1000, "input_length": 472, "output_length": 18, "hash_ids": '
                       '[1]}\n{"timestamp": 4500, "input_length": 417, "output_length": 276, '
                       '"hash_ids": [1, 2]}\n', [0, 3.5], 0),
    "ours.jsonl": ('{"time": 0.5, "prompt_tokens": 472, "output_tokens": 18}\n\n'
                   '{"time": 2, "prompt_tokens": 417, "output_tokens": 276}', [0, 1.5], 0)}


@pytest.mark.parametrize("name", KINDS)
def test_published_traces(name, tmp_path):
    text, due, thrown = KINDS[name]
    (tmp_path / name).write_text(text, newline="")
    times, prompt, output, left_out = trace.read(str(tmp_path / name))
    assert times == pytest.approx(due, abs=1e-5) and left_out == thrown
    assert prompt.tolist() == [472, 417] and output.tolist() == [18, 276]


@pytest.mark.parametrize("name,text,words", [
    ("a.csv", "", "has no rows"), ("a.csv", "time,prompt_tokens\n1,2\n", "no column output_tokens"),
    ("a.csv", "time,prompt_tokens,output_tokens\nx,2,3\n", "row 1 has 'x' for time"),
    ("a.csv", "time,prompt_tokens,output_tokens\n1,2,3\n1,-2,3\n", "row 2 has '-2' for prompt"),
    ("a.csv", "time,prompt_tokens,output_tokens\n1,2\n", "row 1 has None for output_tokens"),
    ("a.csv", "time,prompt_tokens,output_tokens\n1,1e99,3\n", "row 1 has '1e99' for prompt"),
    ("a.csv", "time,prompt_tokens,output_tokens\n1,0,3\n", "no row with tokens"),
    ("a.csv", b"\xff\xfe\x00", "cannot be read"), ("a.jsonl", "{}\n", "no column time"),
    ("a.jsonl", '{"time": 1}\n[', "line 2 is no JSON object"),
    ("a.jsonl", '{"time": [], "prompt_tokens": 1, "output_tokens": 1}', "row 1 has"),
    ("a.jsonl", "[" * 100_000, "line 1 is no JSON object")])
def test_bad_traces(name, text, words, tmp_path):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=words) as error:
        trace.read(str(tmp_path / name))
    assert "\n" not in str(error.value)


def test_a_trace_that_is_not_there():
    with pytest.raises(UserError, match="there is no such file"):
        trace.read("nowhere.csv")


def test_time_is_in_seconds_unless_it_is_mooncakes(tmp_path):
    rows = [{"timestamp": t, "input_length": 1, "output_length": 1} for t in (3, 1, 2)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    assert trace.read(str(path))[0].tolist() == [0, 1, 2]   # in order, whatever that of the file
