"""What goes over the wire: strict JSON in, JSON and errors of OpenAI's shape out."""

import json
import math
import reprlib

from starlette.responses import Response

TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error",
         429: "rate_limit_error"}


class Refused(Exception):
    """A request that is answered by an error. param: what in it is to blame."""

    def __init__(self, status: int, message: str, param: str | None = None,
                 code: str | None = None, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.headers = status, headers or {}
        self.body = error(status, message, param, code)


def error(status: int, message: str, param: str | None = None, code: str | None = None) -> dict:
    """Returns the body that says what was wrong."""
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def dumps(tree) -> bytes:
    """Returns JSON in ASCII: no reader of lines finds an end of line in it, whatever it takes for
    one."""
    return json.dumps(tree, separators=(",", ":"), allow_nan=False).encode()


def event(tree) -> bytes:
    """Returns a server-sent event."""
    return b"data: " + dumps(tree) + b"\n\n"


def answer(tree, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Returns a response of JSON."""
    return Response(dumps(tree), status, headers, "application/json")


def refusal(refused: Refused) -> Response:
    """Returns the response that says so."""
    return answer(refused.body, refused.status, refused.headers)


def loads(body: bytes) -> dict:
    """Returns the object that `body` is in JSON; Refused for anything that has two readings."""
    try:
        text = body.decode()
    except UnicodeDecodeError as wrong:
        raise Refused(400, f"the body is not UTF-8: byte {wrong.start}") from None
    try:
        tree = json.loads(text, object_pairs_hook=_object, parse_float=_finite,
                          parse_constant=_finite)
        if "\\u" in text:  # escapes may stand for half a character, which no text can hold
            json.dumps(tree, ensure_ascii=False).encode()
    except RecursionError:
        raise Refused(400, "the body is nested too deep") from None
    except UnicodeEncodeError:
        raise Refused(400, "the body holds half of a surrogate pair, which is no character") from \
            None
    except ValueError as wrong:
        raise Refused(400, f"the body is not JSON: {shorten(str(wrong))}") from None
    if type(tree) is not dict:
        raise Refused(400, "the body must be a JSON object")
    return tree


def _object(pairs):
    out = {}
    for name, value in pairs:
        if name in out:
            raise Refused(400, f"{show(name)} is given twice", param=whole(shorten(name)))
        out[name] = value
    return out


def _finite(text):
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value


def shorten(text: str) -> str:
    """Returns at most 100 characters of what a client wrote."""
    return text if len(text) <= 100 else text[:97] + "..."


def show(value) -> str:
    """Returns a value for a message, in brief."""
    return shorten(reprlib.repr(value))


def whole(text: str) -> str:
    """Returns text that UTF-8 can carry: halves of surrogate pairs that a model wrote become
    U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
