"""The routes, and what every request passes before and after them."""

import asyncio
import ipaddress
import re
import time
import traceback
import uuid

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from lm.base.errors import UserError, say
from lm.serve import chat, completions, health, page, wire
from lm.serve.parameters import array, group, integer, refuse, text
from lm.serve.service import Service
from lm.serve.wire import Refused, show

LINGER = 8   # times max_body: what is still read of a body too large, so that its client hears why
QUIET = {"/startupz", "/readyz", "/livez", "/health", "/ping", "/metrics", "/load", "/"}


def app(service: Service):
    """Returns the ASGI application."""
    routes = [
        Route("/v1/completions", _post(completions.complete), methods=["POST"]),
        Route("/v1/chat/completions", _post(chat.chat), methods=["POST"]),
        Route("/v1/models", _models), Route("/v1/models/{model:path}", _models),
        Route("/tokenize", _post(_tokenize, engine=False), methods=["POST"]),
        Route("/detokenize", _post(_detokenize, engine=False), methods=["POST"]),
        *(Route(path, _probe(which)) for path, which in (
            ("/startupz", "startupz"), ("/readyz", "readyz"), ("/livez", "livez"),
            ("/health", "livez"), ("/ping", "livez"))),
        Route("/metrics", _metrics), Route("/load", _load)]
    if service.config.demo:
        routes.append(Route("/", page.show))
    origins = _origins(service.config.cors)
    inside = Starlette(
        routes=routes,
        middleware=[Middleware(CORSMiddleware, allow_origins=origins, allow_headers=["*"],
                               allow_methods=["GET", "POST"],
                               expose_headers=["X-Request-Id", "X-Cache"])] if origins else [],
        exception_handlers={Refused: _refused, HTTPException: _unknown, Exception: _failed,
                            ClientDisconnect: _gone})
    inside.state.service = service
    return _door(inside, service)


def _origins(given):
    origins = [o.strip() for o in given.split(",") if o.strip()]
    for origin in origins:
        if origin != "*" and not re.fullmatch(r"https?://[^/\s]+", origin):
            raise UserError(f"--cors: '{origin}' is no origin; give one such as https://a.org")
    return origins


def _door(inside, service):
    """What is around the routes: who may come in, the request's id, and the log."""
    async def door(scope, receive, send):
        record = dict(id=_id(scope), client=(scope.get("client") or ("",))[0],
                      method=scope["method"], route=wire.shorten(scope["path"]), status=0)
        scope.setdefault("state", {}).update(arrival=time.monotonic(), record=record)

        async def sender(message):
            if message["type"] == "http.response.start":
                record["status"] = record["status"] or message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", record["id"].encode())]
                if service.draining and (b"connection", b"close") not in message["headers"]:
                    message["headers"].append((b"connection", b"close"))
            await send(message)
        try:
            if _ours(scope, service):
                await inside(scope, receive, sender)
            else:
                await wire.refusal(Refused(
                    403, "this server answers to this machine alone, and the Host that was asked "
                    "for is another; give it an --api_key, or a --host to listen on"))(
                        scope, receive, sender)
        except Exception:
            say(f"request {record['id']} failed; this is a mistake in lm:")
            traceback.print_exc()
        finally:
            service.entered -= scope["state"].get("entered", 0)
            path = scope["path"] if scope["path"] in KNOWN else "other"
            service.metrics.count(service.metrics.responses, path, str(record["status"]))
            if scope["path"] not in QUIET or record["status"] >= 400:
                service.log.write(record | dict(e2e=time.monotonic() - scope["state"]["arrival"]))
    return door


KNOWN = {*QUIET, "/v1/completions", "/v1/chat/completions", "/v1/models", "/tokenize",
         "/detokenize"}


def _header(scope, name):
    return next((value for key, value in scope["headers"] if key == name), b"")


def _id(scope):
    """The request's id: the client's, if it can stand in a header."""
    given = _header(scope, b"x-request-id").decode("latin-1")
    return given if re.fullmatch(r"[!-~]{1,128}", given) else uuid.uuid4().hex


def _ours(scope, service):
    """Whether the request is for this server: a page elsewhere may have had its name changed to
    our address (DNS rebinding), which the Host still tells."""
    if service.keys or not local(service.config.host):
        return True
    host = _header(scope, b"host").decode("latin-1")
    host = re.sub(r":\d+$", "", host).strip("[]").lower()
    return not host or local(host)


def local(host: str) -> bool:
    """Returns whether a host is this machine, reached from itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


async def _refused(request, refused):
    wrong = refused.body["error"]
    request.state.record["error"] = wrong["param"] or wrong["code"] or wrong["type"]
    return wire.refusal(refused)


async def _unknown(request, error):
    if error.status_code == 405:
        said = f"{request.url.path} does not take {request.method}"
    else:
        said = f"there is nothing at {show(request.url.path)}"
    return wire.answer(wire.error(error.status_code, said), error.status_code, error.headers)


async def _gone(request, error):
    request.state.record["status"] = 499
    return Response()


async def _failed(request, error):
    return wire.answer(wire.error(500, "the server has failed at this request"), 500)


def _post(endpoint, engine=True):
    """An endpoint that has a JSON body, in request.state.body. engine: whether it needs it."""
    async def run(request: Request):
        service = request.app.state.service
        service.allows(_header(request.scope, b"authorization"))
        if engine:
            service.admits()
        request.state.body = wire.loads(await _body(request, service.config))
        if engine:
            service.admits()  # a body may take its time
            service.entered += 1
            request.state.entered = 1
        return await endpoint(request)
    return run


async def _body(request, config):
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" or request.headers.get("content-encoding"):
        raise Refused(415, "the body must be JSON as it is; send 'Content-Type: application/json' "
                      "and no Content-Encoding")
    too_large = Refused(413, f"the body has more than {config.max_body} bytes",
                        headers={"Connection": "close"})
    declared, most = int(request.headers.get("content-length", 0)), LINGER * config.max_body
    if declared > most or declared > config.max_body and "expect" in request.headers:
        raise too_large
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(config.request_timeout):
            async for chunk in request.stream():
                size += len(chunk)
                if size > most:
                    raise too_large
                if size <= config.max_body:
                    body += chunk
    except TimeoutError:
        raise Refused(408, f"the body did not come whole in {config.request_timeout:g} s",
                      headers={"Connection": "close"}) from None
    if size > config.max_body:
        raise too_large
    return bytes(body)


async def _models(request):
    service = request.app.state.service
    service.allows(_header(request.scope, b"authorization"))
    model = dict(id=service.name, object="model", created=service.created, owned_by="lm",
                 max_model_len=service.room)
    if "model" in request.path_params:
        service.knows(request.path_params["model"])
        return wire.answer(model)
    return wire.answer(dict(object="list", data=[model]))


async def _tokenize(request):
    service = request.app.state.service
    given = group(request.state.body, "", model=text, prompt=text)
    service.knows(given.get("model"))
    if "prompt" not in given:
        raise refuse("prompt", "prompt is missing")
    found = (await completions.encode(given["prompt"], service.core.tokenizer, "prompt")
             if given["prompt"] else [])
    return wire.answer(dict(tokens=found, count=len(found), max_model_len=service.room))


async def _detokenize(request):
    service = request.app.state.service
    tokenizer = service.core.tokenizer
    given = group(request.state.body, "", model=text, tokens=lambda v, n: array(
        v, n, 1 << 20, integer(0, tokenizer.V - 1)))
    service.knows(given.get("model"))
    if "tokens" not in given:
        raise refuse("tokens", "tokens is missing")
    return wire.answer(dict(prompt=wire.whole(tokenizer.decode(given["tokens"]))))


def _probe(which):
    async def probe(request):
        status, word = health.probe(request.app.state.service, which)
        return wire.answer(dict(status=word), status)
    return probe


async def _metrics(request):
    return Response(request.app.state.service.metrics.text(),
                    media_type="text/plain; version=0.0.4; charset=utf-8")


async def _load(request):
    service = request.app.state.service
    service.allows(_header(request.scope, b"authorization"))
    return wire.answer(service.metrics.load() | dict(model=service.name, ready=service.core.ready,
                                                     draining=service.draining,
                                                     key=bool(service.keys),
                                                     context=service.room))
