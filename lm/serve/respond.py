"""From an answer under way to HTTP: whole, or as server-sent events."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from lm.serve import shapes, wire
from lm.serve.parameters import Asked
from lm.serve.stream import Answer

STREAM = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
SAID = {"error": (500, "the engine has failed"), "abort": (503, "the server ended the request")}


class Shape(NamedTuple):
    """What one kind of completion looks like."""

    object: str
    chunk: str                            # the object's name in a stream
    chunks: Callable[..., Iterator[dict]]    # (choice, piece, spelling) -> what a stream says of it
    whole: Callable[..., dict]            # (choice, piece, spelling) -> the choice


async def respond(request: Request, answer: Answer, asked: Asked, shape: Shape):
    """Returns the response; the answer is let go of however it ends."""
    service = request.app.state.service
    headers = {"X-Cache": "hit" if answer.hit else "miss"} if service.cache else {}
    head = dict(id=answer.id, object=shape.chunk if asked.stream else shape.object,
                created=answer.created, model=service.name)
    if asked.stream:
        return _Stream(answer, asked, shape, head, headers)
    watch = asyncio.create_task(_watch(request.receive, answer))
    try:
        pieces = await answer.whole()
    finally:
        watch.cancel()
        service.leave(answer)
        note(request.scope, answer)
    if answer.gone:
        request.state.record["status"] = 499  # nobody is there to read it
        return Response()
    if wrong := _wrong(answer, zip(answer.choices, pieces, strict=True)):
        raise wire.Refused(*wrong)
    choices = [shape.whole(c, piece, service.spelling)
               for c, piece in zip(answer.choices, pieces, strict=True)]
    return wire.answer(head | dict(choices=choices, usage=shapes.usage(answer)), 200, headers)


class _Stream:
    """An ASGI response: the events of an answer as it comes."""

    def __init__(self, answer, asked, shape, head, headers):
        self.answer, self.asked, self.shape, self.head = answer, asked, shape, head
        self.headers = headers

    async def __call__(self, scope, receive, send):
        answer, service = self.answer, scope["app"].state.service
        watch = asyncio.create_task(_watch(receive, answer))
        answer.connection = scope["state"].get("connection")
        try:
            fields = {"Content-Type": "text/event-stream; charset=utf-8"} | STREAM | self.headers
            await send(dict(type="http.response.start", status=200, headers=[
                (k.lower().encode(), v.encode()) for k, v in fields.items()]))
            async for new in answer.pieces():
                wrong = _wrong(answer, new)
                events = b"".join(self._events(new, service.spelling))
                await self._write(send, events + (wire.event(wire.error(*wrong)) if wrong
                                                  else b""))
                if wrong:
                    break
            else:
                await self._write(send, self._last())
            await send(dict(type="http.response.body", body=b""))
        finally:
            watch.cancel()
            service.leave(answer)
            note(scope, answer)

    async def _write(self, send, data):
        """Writes, or shows that the stream lives where there is nothing to write."""
        self.answer.writing = time.monotonic()
        await send(dict(type="http.response.body", body=data or b": ping\n\n", more_body=True))
        self.answer.wrote, self.answer.writing = time.monotonic(), 0.0

    def _events(self, new, spelling):
        rest = {"usage": None} if self.asked.usage else {}
        for choice, piece in new:
            if piece.finish in SAID:  # which is no reason that a client knows
                piece.finish = None
                if not piece.text and not piece.logprobs:
                    continue
            for x in self.shape.chunks(choice, piece, spelling):
                yield wire.event(self.head | dict(choices=[x]) | rest)

    def _last(self):
        out = b"data: [DONE]\n\n"
        if self.asked.usage:
            out = wire.event(self.head | dict(choices=[], usage=shapes.usage(self.answer))) + out
        return out


async def _watch(receive, answer):
    """Sees the client hang up."""
    while (await receive())["type"] != "http.disconnect":
        pass
    answer.hang_up()


def _wrong(answer, new):
    """Status, words and what is to blame, where the answer did not come to its own end."""
    for choice, piece in new:
        if piece.finish in SAID:
            mask = choice.flight.request.mask
            if piece.error and mask is not None and piece.error == mask.error:
                return (400, f"the output cannot keep to the format: {piece.error}",
                        "response_format")
            status, said = SAID[piece.finish]
            return status, piece.error or answer.cut or said, None
    return (503, answer.cut, None) if answer.cut else None


def note(scope, answer: Answer) -> None:
    """Adds to the log's record of a request what became of it."""
    u = shapes.usage(answer)
    finish = sorted({c.flight.finish or "abort" for c in answer.choices})
    scope["state"]["record"].update(
        ttft=answer.first - scope["state"]["arrival"] if answer.first else None,
        prompt_tokens=u["prompt_tokens"], completion_tokens=u["completion_tokens"],
        cached_tokens=u["prompt_tokens_details"]["cached_tokens"], finish=",".join(finish),
        cache="hit" if answer.hit else None, stream=answer.streams or None)
