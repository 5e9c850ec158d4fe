"""How a run is served: what the engine is told, and what the server is. No jax here."""

from dataclasses import dataclass

from lm.base.options import option
from lm.infer.config import Engine


@dataclass(frozen=True)
class Config(Engine):
    """The flags of `lm serve`."""

    seed: int = option(0, "of requests that give none; 0: another each time", low=0,
                       high=2**32 - 1)
    host: str = option("127.0.0.1", "address to listen on; 0.0.0.0: every one of this machine's")
    port: int = option(8000, "port to listen on; 0: any that is free", low=0, high=65535)
    checkpoint: str = option("best", "which checkpoint of the run: best, latest or a step")
    name: str = option("", "what clients call the model; empty: the run directory's name")
    api_key: str = option("", "what clients must send as Bearer token, or @FILE with one a line; "
                          "empty: $LM_API_KEY, and where that is empty too, nothing; the page, "
                          "/metrics and the probes stay open")
    cors: str = option("", "origins whose pages may call, as in 'https://a.org,https://b.org', or "
                       "*; empty: none but the server's own")
    max_body: int = option(2 << 20, "bytes of a request's body at most", low=1024)
    request_timeout: float = option(30.0, "seconds for a request to have come whole, and for a "
                                    "client to take what was written to it", low=0.1)
    shutdown_timeout: float = option(60.0, "seconds that answers under way have to end after "
                                     "SIGTERM or Ctrl-C; a second one ends them at once", low=0.0)
    response_cache: int = option(0, "bytes kept of answers that would be the same again "
                                 "(temperature 0, or a seed); 0: none", low=0)
    metrics: str = option("vllm", "prefix of the names in /metrics that vLLM has too, which "
                          "gateways and dashboards know; lm: our own")
    chat_template: str = option("", "a Jinja file that makes a prompt of a chat's messages; empty: "
                                "the run's chat_template.jinja, or else 'role: content' lines; "
                                "names of special tokens that it writes are plain text")
    access_log: str = option("stderr", "where a JSON line for each request goes: stderr, off or a "
                             "file")
    stall: float = option(60.0, "seconds without a step, while there is work, after which the "
                          "engine counts as dead", low=0.1)
    demo: bool = option(True, "a page at / to try the model in a browser")
