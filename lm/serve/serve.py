"""`lm serve`: a run behind HTTP, until it is told to end."""

import asyncio
import contextlib
import errno
import logging
import os
import pathlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

from lm.base.errors import UserError, say

try:
    import httptools  # noqa: F401
    import prometheus_client  # noqa: F401
    import starlette  # noqa: F401
    import uvicorn
except ImportError as error:
    raise UserError(f"lm serve needs {error.name}; pip install 'lm[serve]'") from None

from lm.experiment import flags, llm, parts
from lm.mesh import processes, runtime
from lm.serve import chat
from lm.serve.app import app, local
from lm.serve.config import Config
from lm.serve.connection import connections
from lm.serve.drain import Drain
from lm.serve.service import Service

IDLE = 75      # seconds that a connection without a request is kept: more than proxies keep theirs
LEAVE = 5      # seconds that connections and the engine have to end once no answer is under way
LOOK = 1.0     # seconds between two looks at whether all is well
BACKLOG = 2048


def run(parsed: flags.Parsed) -> int:
    """Serves until SIGTERM or Ctrl-C; returns 0, or 1 if it was told twice or the engine failed."""
    runtime.settle()
    with processes.joined(parsed.experiment.mesh):
        if processes.first():
            return _first(parsed.experiment, parsed.flags)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)   # the first process drains, and ends them all
        core = llm.load(parsed.experiment, parsed.flags, parsed.flags.checkpoint)
        core.start()   # it does what the first process' does
        core.join()
        return 0


def _first(e, c: Config) -> int:
    """Serves as the process that clients reach."""
    where = parts.directory(e)
    keys, name = api_keys(c.api_key), c.name or where.resolve().name
    template = _template(c.chat_template, where)
    with bind(c.host, c.port) as listener:
        if not keys and not local(c.host):
            say(f"warning: whoever reaches {c.host} may use this server; --api_key=@FILE has it "
                "ask for a key")
        core = llm.load(e, c, c.checkpoint)
        status = asyncio.run(serve(core, c, listener, name, keys=keys, template=template))
    if core.alive:  # it computes or compiles, cannot be told to end, and nothing waits for it
        sys.stdout.flush()
        os._exit(status)
    return status


async def serve(core, c: Config, listener: socket.socket, name: str, *, keys: list[str] = (),
                template: Callable | None = None,
                begun: Callable[[Service, Drain], None] | None = None) -> int:
    """Answers requests on a socket, starts the engine, and returns the exit status at the end.

    begun: called once it listens; by default it has signals end the server. Raises UserError where
    the engine cannot be made.
    """
    service = Service(core, c, name, keys=keys, template=template)
    drain = Drain(service, c.shutdown_timeout)
    server = _Server(uvicorn.Config(
        app(service), http=connections(c.request_timeout, c.max_body), ws="none", loop="asyncio",
        lifespan="off", log_config=None, access_log=False, proxy_headers=False,
        server_header=False, backlog=BACKLOG, timeout_keep_alive=IDLE,
        timeout_graceful_shutdown=LEAVE))
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    serving = asyncio.create_task(server.serve([listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    (begun or _signals)(service, drain)
    print(f"listening on {url(listener)}", flush=True)
    core.start()
    watch, told = (asyncio.create_task(x) for x in (_watch(service, drain), drain.begun.wait()))
    done, _ = await asyncio.wait([told, watch, serving], return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()  # raises what ended one of them before its time
    await drain.finish()
    watch.cancel()
    server.should_exit = True
    await asyncio.wait([serving], timeout=2 * LEAVE)
    await _leave(core, 0 if drain.hurried else LEAVE)
    if core.failed and not service.served:
        raise UserError(core.failed)
    return int(bool(core.failed) or drain.hurried)


class _Server(uvicorn.Server):
    """uvicorn's, but for signals, at which it would refuse connections before it is drained."""

    def capture_signals(self):
        return contextlib.nullcontext()


def _signals(service, drain):
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, drain.begin)


async def _watch(service, drain):
    """Says when the engine is ready; ends the server when it has failed."""
    core = service.core
    while not core.failed:
        if core.ready and not service.served:
            service.served = True
            s = core.status()
            print(f"ready: {service.name}, {core.context} tokens of context, {s.slots} slots, "
                  f"{s.pages} pages", flush=True)
        service.tick(time.monotonic())
        await asyncio.sleep(LOOK if core.ready else 0.05)
    if service.served:
        say(core.failed)
    drain.begin()


async def _leave(core, seconds):
    """Ends the engine's thread, if it ends in so many seconds."""
    threading.Thread(target=core.stop, daemon=True).start()
    end = time.monotonic() + seconds
    while core.alive and time.monotonic() < end:
        await asyncio.sleep(0.01)


def bind(host: str, port: int) -> socket.socket:
    """Returns a socket that listens; UserError says why it cannot."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        made = socket.socket(family, kind, proto)
    except OSError as error:
        raise UserError(f"--host={host} is no address of this machine: {error.strerror}") from None
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        cure = {errno.EADDRINUSE: "something else listens there; give another --port, or 0 for any",
                errno.EACCES: "give a --port from 1024 on",
                errno.EADDRNOTAVAIL: "give a --host that is an address of this machine"}
        raise UserError(f"cannot listen on {host} port {port}: "
                        f"{cure.get(error.errno, error.strerror)}") from None
    return made


def url(listener: socket.socket) -> str:
    """Returns where a socket is reached."""
    host, port, *_ = listener.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def api_keys(given: str) -> list[str]:
    """Returns the keys of --api_key, or of $LM_API_KEY: a text, or @FILE with one a line."""
    given = given or os.environ.get("LM_API_KEY", "")
    if not given:
        return []
    lines = [given]
    if given.startswith("@"):
        try:
            lines = pathlib.Path(given[1:]).expanduser().read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--api_key={given} cannot be read: {error}") from None
    keys = [line.strip() for line in lines if line.strip()]
    if not keys or not all(key.isascii() and key.isprintable() and " " not in key for key in keys):
        raise UserError("--api_key holds no key of printable ASCII without spaces; one a line")
    return keys


def _template(given, where):
    """The function of the chat template that was given, or that lies in the run; None if none."""
    path = pathlib.Path(given).expanduser() if given else where / "chat_template.jinja"
    if not given and not path.is_file():
        return None
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--chat_template={given} cannot be read: {error}") from None
    return chat.template(source, str(path))
