"""The page at /: one file, which needs nothing beside it and may load nothing else."""

import base64
import hashlib
import pathlib
import re

from starlette.responses import Response

HTML = pathlib.Path(__file__).with_name("page.html").read_bytes()


def policy(html: bytes) -> str:
    """Returns the Content-Security-Policy that lets the page's own script and style run, by their
    digests, and the page speak to its own server."""
    def own(name):
        found = re.findall(rf"<{name}>(.*?)</{name}>".encode(), html, re.S)
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(x).digest()).decode()}'"
                        for x in found)
    return (f"default-src 'none'; script-src {own('script')}; style-src {own('style')}; "
            "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'")


HEADERS = {"Content-Security-Policy": policy(HTML), "X-Content-Type-Options": "nosniff",
           "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}


async def show(request) -> Response:
    """Returns the page."""
    return Response(HTML, media_type="text/html", headers=HEADERS)
