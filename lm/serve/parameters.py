"""What a request asks for: read strictly, and refused by name where it is unknown or not there."""

import dataclasses
import json
from collections.abc import Callable

from lm.base.errors import UserError, nearest
from lm.infer.request import BIASES, STOPS, TOP, Sampling
from lm.serve.wire import Refused, shorten, show

N = 16          # choices of one prompt
CHOICES = 128   # of one request
DEEP = 64       # levels of a JSON schema
LONG = 1000     # characters of a stop text


@dataclasses.dataclass(frozen=True)
class Asked:
    """A request's parameters. values: those that Sampling has, but for the seed."""

    values: dict
    n: int = 1
    seed: int | None = None
    stream: bool = False
    usage: bool = False               # at the end of a stream
    schema: dict | str | None = None  # that the output keeps to; "json": any object

    def sampling(self, rest: int, seed: int) -> Sampling:
        """Returns what the engine is told; rest: tokens where the request does not say how many."""
        try:
            return Sampling(**{"max_tokens": rest} | self.values, seed=seed % 2**32)
        except UserError as wrong:
            raise refuse(str(wrong).split(" ")[0], str(wrong)) from None

    @property
    def certain(self) -> bool:
        """Whether the same request would be answered alike."""
        return self.seed is not None or not self.values.get("temperature", 1.0)


def refuse(param: str, message: str, code: str | None = None) -> Refused:
    """Returns the error that blames a parameter."""
    return Refused(400, message, shorten(param), code)


# Checks: (value, name) -> the value, or Refused.

def integer(low: int, high: int) -> Callable:
    """Returns the check for an integer between two."""
    def check(value, name):
        if type(value) is not int:
            raise refuse(name, f"{name} must be an integer, got {show(value)}")
        if not low <= value <= high:
            raise refuse(name, f"{name} must be between {low} and {high}, got {show(value)}")
        return value
    return check


def number(low: float, high: float) -> Callable:
    """Returns the check for a number between two; integers are numbers."""
    def check(value, name):
        if type(value) not in (int, float):
            raise refuse(name, f"{name} must be a number, got {show(value)}")
        if not low <= value <= high:
            raise refuse(name, f"{name} must be between {low:g} and {high:g}, got {show(value)}")
        return float(value)
    return check


def text(value, name: str) -> str:
    """Returns a text."""
    if type(value) is not str:
        raise refuse(name, f"{name} must be a text, got {show(value)}")
    return value


def flag(value, name: str) -> bool:
    """Returns true or false."""
    if type(value) is not bool:
        raise refuse(name, f"{name} must be true or false, got {show(value)}")
    return value


def group(value, name: str, /, **fields: Callable) -> dict:
    """Returns an object of no other fields than these, checked; those that are null are left
    out. name: empty for the whole body."""
    if type(value) is not dict:
        raise refuse(name, f"{name} must be an object, got {show(value)}")
    path = name and f"{name}."
    for field in value:
        if field not in fields:
            raise refuse(path + field, f"{name or 'the body'} has no {show(field)}"
                         f"{nearest(shorten(field), fields)}")
    return {field: fields[field](v, path + field) for field, v in value.items() if v is not None}


def array(value, name: str, most: int, item: Callable) -> list:
    """Returns a list of at most so many, each checked."""
    if type(value) is not list:
        raise refuse(name, f"{name} must be a list, got {show(value)}")
    if len(value) > most:
        raise refuse(name, f"{name} has {len(value)} entries; give at most {most}")
    return [item(v, f"{name}[{i}]") for i, v in enumerate(value)]


def _stop(value, name):
    stops = array([value] if type(value) is str else value, name, 4, text)
    if not all(0 < len(stop) <= LONG for stop in stops):
        raise refuse(name, f"{name} must hold texts of 1 to {LONG} characters")
    return tuple(stops)


def _metadata(value, name):
    if type(value) is not dict or not all(type(v) is str for v in value.values()):
        raise refuse(name, f"{name} must be an object of texts, got {show(value)}")


def _bias(V):
    def check(value, name):
        if type(value) is not dict:
            raise refuse(name, f"{name} must be an object of token ids, got {show(value)}")
        if len(value) > BIASES:
            raise refuse(name, f"{name} has {len(value)} entries; give at most {BIASES}")
        for token in value:
            if not (token.isdecimal() and len(token) < 10 and str(int(token)) == token
                    and int(token) < V):
                raise refuse(name, f"{name}: {show(token)} is no token id below {V}")
        return tuple((int(token), number(-100, 100)(v, name)) for token, v in value.items())
    return check


def _format(value, name):
    """The schema that the output keeps to."""
    kind = value["type"] if type(value) is dict and type(value.get("type")) is str else ""
    if kind in ("text", "json_object"):
        group(value, name, type=text)
        return None if kind == "text" else "json"
    if kind != "json_schema":
        raise refuse(name, f"{name}.type must be text, json_object or json_schema")
    inside = group(value, name, type=text, json_schema=lambda v, n: group(
        v, n, name=text, description=text, strict=flag, schema=_schema))
    if "schema" not in inside.get("json_schema", {}):
        raise refuse(name, f"{name}.json_schema.schema is missing")
    return inside["json_schema"]["schema"]


def _schema(value, name):
    if type(value) is not dict:
        raise refuse(name, f"{name} must be an object, got {show(value)}")
    level, deep = [value], 0
    while level:
        deep += 1
        if deep > DEEP:
            raise refuse(name, f"{name} is nested deeper than {DEEP} levels")
        level = [v for node in level for v in (node.values() if type(node) is dict else node)
                 if type(v) in (dict, list)]
    return value


def _sampling(V, context):
    """The checks of what both kinds of completion take."""
    return dict(
        model=text, stream=flag, n=integer(1, N), seed=integer(-2**63, 2**63 - 1),
        max_tokens=integer(1, context), temperature=number(0, 2), top_p=number(0, 1), stop=_stop,
        presence_penalty=number(-2, 2), frequency_penalty=number(-2, 2), logit_bias=_bias(V),
        stream_options=lambda v, n: group(v, n, include_usage=flag, include_obfuscation=flag),
        response_format=_format,
        # Not OpenAI's, but taken by others and by the engine.
        top_k=lambda v, n: max(0, integer(-1, 2**31 - 1)(v, n)), min_p=number(0, 1),
        repetition_penalty=number(0.01, 100), ignore_eos=flag,
        stop_token_ids=lambda v, n: tuple(array(v, n, STOPS, integer(0, V - 1))),
        # What asks for nothing here.
        user=text, safety_identifier=text, prompt_cache_key=text, metadata=_metadata,
        parallel_tool_calls=flag)


# What OpenAI has and we do not, with the values that do not ask for it.
ABSENT = dict(
    best_of=(1,), echo=(False,), suffix=("",), audio=(), function_call=("none", "auto"),
    functions=([],), modalities=(["text"],), moderation=(), prediction=(), prompt_cache_options=(),
    prompt_cache_retention=("in_memory", "in-memory"), reasoning_effort=("none",),
    service_tier=("auto", "default"), store=(False,), tool_choice=("none", "auto"), tools=([],),
    verbosity=("medium",), web_search_options=())


def read(body: dict, V: int, context: int, chat: bool) -> tuple[dict, Asked]:
    """Returns the given fields, checked, and what they ask for; prompts are left as they are."""
    checks = _sampling(V, context)
    if chat:
        checks |= dict(messages=lambda v, n: v, max_completion_tokens=integer(1, context),
                       logprobs=flag, top_logprobs=integer(0, TOP))
    else:
        checks |= dict(prompt=lambda v, n: v, logprobs=integer(0, TOP))
    given = {}
    for name, value in body.items():
        if name in checks:
            if value is not None:
                given[name] = checks[name](value, name)
        elif name not in ABSENT:
            raise refuse(name, f"unknown parameter {show(name)}"
                         f"{nearest(shorten(name), checks)}")
        elif value is not None and not any(value == v and type(value) is type(v)
                                           for v in ABSENT[name]):
            raise refuse(name, f"{name} is not supported here; leave it out", "unsupported")
    return given, _asked(given, chat)


def _asked(given, chat):
    values = {name: given[name] for name in (
        "temperature", "top_p", "presence_penalty", "frequency_penalty", "logit_bias", "top_k",
        "min_p", "repetition_penalty", "ignore_eos", "stop") if name in given}
    most = {given[name] for name in ("max_tokens", "max_completion_tokens") if name in given}
    if len(most) > 1:
        raise refuse("max_tokens", "max_tokens and max_completion_tokens are one thing with two "
                     "names; give one of them")
    if most:
        values["max_tokens"] = most.pop()
    if "stop_token_ids" in given:
        values["stop_ids"] = given["stop_token_ids"]
    if chat and "top_logprobs" in given and not given.get("logprobs"):
        raise refuse("top_logprobs", "top_logprobs needs logprobs to be true")
    if chat and given.get("logprobs"):
        values["logprobs"] = given.get("top_logprobs", 0)
    elif not chat and "logprobs" in given:
        values["logprobs"] = given["logprobs"]
    stream = given.get("stream", False)
    if "stream_options" in given and not stream:
        raise refuse("stream_options", "stream_options needs stream to be true")
    return Asked(values, given.get("n", 1), given.get("seed"), stream,
                 given.get("stream_options", {}).get("include_usage", False),
                 given.get("response_format"))


def key(asked: Asked, prompt: list[int], sampling: Sampling) -> tuple:
    """Returns what two requests share that are answered alike."""
    return tuple(prompt), sampling, json.dumps(asked.schema, sort_keys=True)
