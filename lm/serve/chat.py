"""POST /v1/chat/completions, and how messages become a prompt."""

import asyncio
import dataclasses
import datetime
import json
from collections.abc import Callable

from starlette.requests import Request

from lm.base.errors import UserError
from lm.serve import parameters, shapes
from lm.serve.completions import encode
from lm.serve.parameters import array, group, refuse, text
from lm.serve.respond import Shape, respond
from lm.serve.stream import Choice, Piece
from lm.serve.wire import Refused, shorten, whole

ROLES = ("system", "developer", "user", "assistant")
STOPS = tuple(f"\n{role}:" for role in ROLES)   # the next turn of the plain form
MESSAGES = 10_000


async def chat(request: Request):
    """Returns the assistant's next message."""
    service, body = request.app.state.service, request.state.body
    core = service.core
    given, asked = parameters.read(body, core.tokenizer.V, core.context, chat=True)
    service.knows(given.get("model"))
    messages = read(given.get("messages"))
    if service.template:
        prompt = await asyncio.to_thread(_render, service.template, messages)
    else:
        prompt = plain(messages)
        asked = dataclasses.replace(asked, values=asked.values | dict(
            stop=(*asked.values.get("stop", ()), *STOPS)))
    prompt = await encode(prompt, core.tokenizer, "messages")
    answer = await service.make(asked, [prompt], lambda room: room, request, "messages",
                                "chatcmpl-")
    return await respond(request, answer, asked, SHAPE)


def read(messages) -> list[dict]:
    """Returns messages as {"role", "content", "name"?}, content a text; raises Refused."""
    if messages is None:
        raise refuse("messages", "messages is missing")
    found = array(messages, "messages", MESSAGES, lambda value, name: group(
        value, name, role=_role, content=_content, name=text, refusal=_none, audio=_none,
        tool_calls=_none, function_call=_none))
    if not found:
        raise refuse("messages", "messages is empty")
    for i, message in enumerate(found):
        for field in ("role", "content"):
            if field not in message:
                raise refuse(f"messages[{i}].{field}", f"messages[{i}].{field} is missing")
    return found


def _role(value, name):
    if value not in ROLES:
        raise refuse(name, f"{name} must be one of {', '.join(ROLES)}; there are no tools here")
    return value


def _none(value, name):
    raise refuse(name, f"{name} is not supported here; leave it out", "unsupported")


def _content(value, name):
    if type(value) is str:
        return value
    parts = array(value, name, MESSAGES, lambda part, n: group(part, n, type=_part, text=text))
    for i, part in enumerate(parts):
        for field in ("type", "text"):
            if field not in part:
                raise refuse(f"{name}[{i}].{field}", f"{name}[{i}].{field} is missing")
    return "".join(part["text"] for part in parts)


def _part(value, name):
    if value != "text":
        raise refuse(name, f"{name} must be 'text': the model reads nothing else", "unsupported")
    return value


def plain(messages: list[dict]) -> str:
    """Returns 'role: content' lines, and the beginning of the assistant's; Refused for a name,
    which has no place there."""
    for i, message in enumerate(messages):
        if "name" in message:
            raise refuse(f"messages[{i}].name", f"messages[{i}].name is not supported here: there "
                         "is no chat template to write it; leave it out", "unsupported")
    return "".join(f"{m['role']}: {m['content']}\n" for m in messages) + "assistant:"


def template(source: str, where: str) -> Callable[[list[dict]], str]:
    """Returns the function from messages to a prompt that a Jinja template is.

    In a sandbox that has what Hugging Face's has: loop controls, their tojson, strftime_now and
    raise_exception; but no tools, and bos_token and eos_token are empty. What it writes is encoded
    as text, the names of special tokens too. Raises UserError if it is none.
    """
    try:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise UserError("a chat template needs a package: pip install jinja2") from None

    def stop(message):
        raise TemplateError(message)
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                         extensions=["jinja2.ext.loopcontrols"])
    made.globals |= dict(raise_exception=stop,
                         strftime_now=lambda form: datetime.datetime.now().strftime(form))
    made.filters["tojson"] = _json
    try:
        ready = made.from_string(source)
    except TemplateError as error:
        raise UserError(f"chat template {where}: {error}") from None
    return lambda messages: ready.render(messages=messages, add_generation_prompt=True,
                                         bos_token="", eos_token="")


def _json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    """Jinja's own writes for HTML: it escapes quotes and brackets."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                      sort_keys=sort_keys)


def _render(made, messages):
    try:
        return made(messages)
    except Exception as error:  # whatever a template makes of messages that it is not for
        raise Refused(400, f"the chat template does not take these messages: "
                      f"{shorten(str(error))}", "messages") from None


def _chunks(choice: Choice, piece: Piece, spelling):
    logs = _logprobs(choice, piece, spelling)
    one = dict(index=choice.index, delta={}, logprobs=None, finish_reason=None)
    if not choice.begun:
        choice.begun = True
        yield one | dict(delta=dict(role="assistant", content=""))
    if piece.text or piece.logprobs:
        yield one | dict(delta=dict(content=whole(piece.text)), logprobs=logs)
    if piece.finish:
        yield one | dict(finish_reason=piece.finish)


def _whole(choice: Choice, piece: Piece, spelling):
    return dict(index=choice.index, finish_reason=piece.finish,
                message=dict(role="assistant", content=whole(piece.text), refusal=None),
                logprobs=_logprobs(choice, piece, spelling))


def _logprobs(choice, piece, spelling):
    logs = choice.flight.request.sampling.logprobs >= 0
    return shapes.nested(piece.logprobs, spelling) if logs else None


SHAPE = Shape("chat.completion", "chat.completion.chunk", _chunks, _whole)
