"""One compiled engine, and servers over it, for the tests of HTTP."""

import dataclasses

import jax
import pytest
from servers import CONTEXT, ENGINE, Server, Slow

from lm.base import options
from lm.data.tokenizers import plain
from lm.experiment import llm
from lm.experiment.config import Experiment
from lm.infer.core import Core
from lm.mesh import devices
from lm.mesh.config import Config as Mesh
from lm.serve.config import Config


@pytest.fixture(scope="session")
def engine():
    """(mesh, the compiled engine of a random model of bytes that is far from its start)."""
    mesh = devices.make(Mesh(), jax.devices()[:1])
    e = options.build(Experiment, dict(model=dict(L=1, D=32, N=4, F=64, precision="float32"),
                                       data=dict(T=CONTEXT)))
    with devices.use(mesh):
        m = llm.model(e, 256)
        params = jax.jit(m.declaration.init)(jax.random.key(0))
        params = jax.tree.map(lambda p, spec: 10 * p if spec.hidden else p, params,
                              m.declaration.specs)
        made = llm.build(m, params, Config(**ENGINE), mesh, V=256, context=CONTEXT)
        made.compile()
    return mesh, made


@pytest.fixture(scope="session")
def start(engine):
    """Makes a server with flags of its own, a context manager."""
    mesh, compiled = engine
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr("lm.serve.serve.LOOK", 0.1)

    def make(key="", template=None, waits=True, fails="", **config):
        c = Config(**ENGINE | dict(port=0, access_log="off") | config)

        def own():
            if fails:
                raise RuntimeError(fails)
            made = Slow(compiled)
            made._engine.shape = dataclasses.replace(compiled.shape, queued=c.queued,
                                                     pages=c.pages or compiled.shape.pages)
            return made
        return Server(Core(own, c, plain.Bytes(), mesh=mesh, context=CONTEXT), c, key,
                      template, waits)
    yield make
    monkeypatch.undo()


@pytest.fixture(scope="session")
def common(start):
    """The server of the tests that change nothing of it."""
    with start() as made:
        yield made


@pytest.fixture
def server(common):
    """It, with nothing left over from the test before or after."""
    common.idle()
    yield common
    common.core.engine.delay = 0.0
    common.idle()


@pytest.fixture(scope="session")
def official(common):
    """The official client of the common server."""
    with common.client() as made:
        yield made
