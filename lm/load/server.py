"""The server under load: whether it is one, what it takes, what it says of itself."""

import asyncio
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from lm.base.errors import UserError, nearest
from lm.load.answer import FINISHED, REFUSED, Answer, Row, said
from lm.load.config import Config
from lm.load.drive import one
from lm.load.http import Client
from lm.load.reply import Broken, Reply

PATIENCE = 30.0     # seconds for a short answer, to a question that is not part of the load
# Counters of its /metrics, by what stands behind their prefix.
COUNTERS = ("prefix_cache_queries", "prefix_cache_hits", "num_preemptions", "prompt_tokens",
            "generation_tokens", "compiles_after_ready", "spec_decode_num_draft_tokens",
            "spec_decode_num_accepted_tokens")
_SAMPLE = re.compile(r"([A-Za-z_:][\w:]*)(?:\{.*\})?\s+(\S+)(?:\s+\d+)?\s*")
# What is left out, one after another, for a server that refuses it, and what that means.
OPTIONAL = {
    "ignore_eos": "it refuses ignore_eos: outputs may end before their length",
    "stream_options": "it refuses stream_options: tokens are counted by events",
    "ids": "it refuses token ids: prompts are sent as text"}


@dataclass
class Server:
    """What is known of it. takes: which of OPTIONAL; tokenizes: whether it has POST /tokenize."""

    client: Client
    model: str
    config: Config
    context: int = 0            # tokens that a sequence may have; 0: it does not say
    tokenizes: bool = False
    takes: dict[str, bool] = field(default_factory=lambda: dict.fromkeys(OPTIONAL, True))
    notes: list[str] = field(default_factory=list)

    async def get(self, path: str, body: dict | None = None) -> tuple[int, object]:
        """Returns status and body of a short exchange: JSON, or text. Broken: none."""
        whole = bytearray()
        reply = Reply(lambda _, piece: whole.extend(piece))
        data = None if body is None else json.dumps(body).encode()
        request = self.client.request("GET" if body is None else "POST", path, data)
        try:
            async with asyncio.timeout(PATIENCE):
                await self.client.send(request, reply)
        except TimeoutError:
            raise Broken("timeout", f"no answer in {PATIENCE:g} s") from None
        try:
            return reply.status, json.loads(whole)
        except (ValueError, RecursionError):
            return reply.status, whole.decode(errors="replace")

    async def tokens(self, text: str) -> list[int]:
        """Returns a text's tokens, with those that the server puts around it. Broken: it won't."""
        status, body = await self.get("/tokenize", {"model": self.model, "prompt": text})
        found = body.get("tokens") if status == 200 and isinstance(body, dict) else None
        if not isinstance(found, list) or not all(type(token) is int for token in found):
            raise Broken("garbage", "POST /tokenize gives no tokens")
        limit = body.get("max_model_len")
        if type(limit) is int and limit > 0:
            self.context = limit
        return found

    def request(self, prompt: str | list[int], output: int) -> bytes:
        """Returns the bytes of a request for a completion of `output` tokens."""
        chat, stream = self.config.endpoint == "chat", self.config.stream
        body = {"model": self.model, "max_tokens": output, "stream": stream}
        body |= {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
        if self.takes["ignore_eos"]:
            body["ignore_eos"] = True
        if stream and self.takes["stream_options"]:
            body["stream_options"] = {"include_usage": True}
        body |= extra(self.config.body)
        path = "/v1/chat/completions" if chat else "/v1/completions"
        return self.client.request("POST", path, json.dumps(body).encode())

    async def ask(self, row: Row, request: bytes, clock: Callable[[], float],
                  timeout: float) -> Reply:
        """Sends a request and fills in its row with what comes of it."""
        answer = Answer(row, clock)
        reply = Reply(answer.hear)

        def sent():
            row.sent = clock()

        async def exchange():
            await self.client.send(request, reply, sent)
            answer.close(reply)

        await one(row, clock, exchange, timeout)
        return reply

    async def counters(self) -> dict[str, float]:
        """Returns the counters of its /metrics by name; empty where there are none."""
        try:
            status, text = await self.get("/metrics")
        except Broken:
            return {}
        return counters(text) if status == 200 and isinstance(text, str) else {}


def extra(text: str) -> dict:
    """Reads --body. Raises UserError."""
    try:
        tree = json.loads(text or "{}")
    except (ValueError, RecursionError):
        tree = None
    if not isinstance(tree, dict):
        raise UserError(f"body={text} is no JSON object; give one like '{{\"temperature\": 0}}'")
    fixed = {"model", "prompt", "messages", "max_tokens", "stream", "n"} & tree.keys()
    if fixed:
        raise UserError(f"body: {fixed.pop()} is not for it to say; the flags do")
    return tree


def counters(text: str) -> dict[str, float]:
    """Returns the COUNTERS of a Prometheus text, summed over their labels."""
    out: dict[str, float] = {}
    for line in text.splitlines():
        match = _SAMPLE.fullmatch(line)
        if not match:
            continue
        name = match[1].removesuffix("_total").rsplit(":", 1)[-1]
        name = next((c for c in COUNTERS if name in (c, "lm_" + c, "gpu_" + c)), None)
        try:
            value = float(match[2])
        except ValueError:
            continue
        if name and math.isfinite(value):
            out[name] = out.get(name, 0.0) + value
    return out


def since(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Returns how far counters rose; those of a server that began again meanwhile are left out."""
    return {name: value - before.get(name, 0.0) for name, value in after.items()
            if value >= before.get(name, 0.0)}


async def look(client: Client, c: Config) -> Server:
    """Returns the server, found to be one that answers. Raises UserError in one line."""
    here = client.to.text
    server = Server(client, c.model, c)
    try:
        await client.find()
        status, body = await server.get("/v1/models")
    except Broken as broken:
        raise UserError(f"no server at {here}: {broken}; start one, as `lm serve` does, or give "
                        "another --url") from None
    _refuse(status, body, here)
    try:
        models = {entry["id"]: entry for entry in body["data"] if entry["id"].isprintable()}
    except (AttributeError, LookupError, TypeError):
        models = {}
    if not models:
        raise UserError(f"{here} is no OpenAI-compatible server: GET /v1/models gives "
                        f"{status} and no list of models") from None
    server.model = c.model or next(iter(models))
    if server.model not in models:
        raise UserError(f"{here} has no model '{c.model}'{nearest(c.model, models)}")
    limit = models[server.model].get("max_model_len")
    server.context = limit if type(limit) is int and limit > 0 else 0
    try:
        await server.tokens("a")
        server.tokenizes = True
    except Broken:
        server.notes.append("it has no POST /tokenize: lengths of prompts are about those asked")
        server.takes["ids"] = False
    return server


def _refuse(status, body, here):
    if status in (401, 403):
        raise UserError(f"{here} asks for a key and does not take this one ({said(body)}); give "
                        "--api_key, or set LM_API_KEY")
    if status in REFUSED:
        raise UserError(f"{here} takes no requests now ({status}: {said(body)}); wait until it is "
                        "ready")
    if 300 <= status < 400:
        raise UserError(f"{here} sends elsewhere ({status}); give the --url that it leads to")


async def probe(server: Server, prompt: str | list[int], text: str) -> Row:
    """Returns the row of a first request, of two tokens; finds what the server does not take.

    prompt: as it is to be sent; text: in place of token ids that are refused.
    """
    here, c = server.client.to.text, server.config
    sent = dict(ignore_eos=True, stream_options=c.stream, ids=isinstance(prompt, list))
    left = [name for name in OPTIONAL if server.takes[name] and sent[name]]
    # Where a refusal does not say what it is about: each alone, then all of them.
    guesses = iter([*({name} for name in left), set(left)])
    without: set[str] = set()
    named: set[str] = set()
    while True:
        server.takes.update({name: name not in without for name in left})
        row = Row(0.0, 1, 2)
        reply = await server.ask(row, server.request(text if "ids" in without else prompt, 2),
                                 asyncio.get_running_loop().time, min(PATIENCE, c.timeout))
        if row.status == FINISHED:
            break
        _refuse(reply.status, row.words, here)
        found = {name for name in left if name in row.words} - without
        named |= found
        without = named if found else named | next(guesses, {"nothing more"})
        if reply.status not in (400, 422) or "nothing more" in without:
            raise UserError(f"{here} does not answer a request for two tokens ({row.why}): "
                            f"{row.words or 'without a word'}")
    if c.stream and not row.times:
        raise UserError(f"{here} does not stream; give --stream=false")
    server.notes += [OPTIONAL[name] for name in OPTIONAL if name in without]
    return row
