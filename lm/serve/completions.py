"""POST /v1/completions."""

import asyncio

from starlette.requests import Request

from lm.base.errors import UserError
from lm.serve import parameters, shapes, wire
from lm.serve.parameters import integer, refuse
from lm.serve.respond import Shape, respond
from lm.serve.stream import Choice, Piece
from lm.serve.wire import show

LONG = 1 << 15   # characters: what is encoded in a thread, so that others need not wait


async def complete(request: Request):
    """Returns the completions of one or more prompts."""
    service, body = request.app.state.service, request.state.body
    core = service.core
    given, asked = parameters.read(body, core.tokenizer.V, core.context, chat=False)
    service.knows(given.get("model"))
    prompts = await ids(given.get("prompt"), core.tokenizer)
    answer = await service.make(asked, prompts, lambda room: min(room, 16), request, "prompt",
                                "cmpl-")
    return await respond(request, answer, asked, SHAPE)


async def ids(prompt, tokenizer) -> list[list[int]]:
    """Returns the prompts of a request in token ids: of a text, a list of texts or of ids, or a
    list of lists."""
    if prompt is None:
        raise refuse("prompt", "prompt is missing")
    prompts = prompt
    if type(prompt) is str or type(prompt) is list and prompt and type(prompt[0]) is int:
        prompts = [prompt]
    if type(prompts) is not list or not prompts or len(prompts) > parameters.CHOICES:
        raise refuse("prompt", "prompt must be a text, a list of token ids, or a list of 1 to "
                     f"{parameters.CHOICES} of either; got {show(prompt)}")
    kinds = {type(p) for p in prompts}
    if kinds == {str}:
        return [await encode(p, tokenizer, "prompt") for p in prompts]
    if kinds != {list}:
        raise refuse("prompt", "prompt must hold texts, or lists of token ids, and nothing else; "
                     f"got {show(prompt)}")
    token = integer(0, tokenizer.V - 1)
    for one in prompts:
        if not one:
            raise refuse("prompt", "prompt holds an empty list; give token ids")
        for i, x in enumerate(one):
            if type(x) is not int or not 0 <= x < tokenizer.V:
                token(x, f"prompt[{i}]")
    return prompts


async def encode(text: str, tokenizer, param: str) -> list[int]:
    """Returns the ids of a text, of an empty one those that begin a document."""
    try:
        found = (await asyncio.to_thread(tokenizer.encode, text) if len(text) > LONG
                 else tokenizer.encode(text)).tolist()
    except UserError as wrong:
        raise refuse(param, str(wrong)) from None
    if not found and tokenizer.eos is None:
        raise refuse(param, f"{param} is empty, and this tokenizer has no token to start from")
    return found or [tokenizer.eos]


def _chunks(choice: Choice, piece: Piece, spelling):
    yield whole(choice, piece, spelling)


def whole(choice: Choice, piece: Piece, spelling) -> dict:
    """Returns a choice, or what is new of it."""
    logs = choice.flight.request.sampling.logprobs >= 0
    return dict(index=choice.index, text=wire.whole(piece.text), finish_reason=piece.finish,
                logprobs=shapes.listed(choice, piece.logprobs, spelling) if logs else None)


SHAPE = Shape("text_completion", "text_completion", _chunks, whole)
