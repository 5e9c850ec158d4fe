"""Eight CPU devices for every test, one compilation cache, and the folder of shared data."""

import gc
import os
import pathlib
from importlib.metadata import version

ROOT = pathlib.Path(__file__).parent.parent
CACHE = ROOT / ".pytest_cache" / "lm"

os.environ["JAX_PLATFORMS"] = "cpu"
# Tests run tiny programs once: what counts is how fast they compile. A later XLA ends the process
# at a flag that it no longer knows.
os.environ["XLA_FLAGS"] = " ".join([
    "--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=0",
    *["--xla_cpu_use_fusion_emitters=false"] * version("jax").startswith("0.10."),
])
# A device may wait in several collectives at once, and not in the same order as the next: with as
# many threads as devices, all may wait for one that has none.
os.environ["NPROC"] = "64"
os.environ["LM_CACHE"] = str(CACHE)

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

from lm.mesh import devices  # noqa: E402
from lm.mesh.config import Config as Mesh  # noqa: E402

jax.config.update("jax_compilation_cache_dir", str(CACHE / "xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# A busy machine makes no example wrong.
hypothesis.settings.register_profile(
    "lm", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("lm")

# A program that is traced is a hundred thousand objects, most of which stay: looking for garbage
# among them takes an eighth of the time if it is done as often as by default.
gc.set_threshold(50_000, 20, 50)

MESHES = {
    "data 8": Mesh(data=8),
    "fsdp 8": Mesh(data=1, fsdp=8),
    "tensor 2 x fsdp 4": Mesh(data=1, fsdp=4, tensor=2),
}


@pytest.fixture
def one():
    """A mesh of one device, in use."""
    with devices.use(devices.make(Mesh(), jax.devices()[:1])) as mesh:
        yield mesh


@pytest.fixture(scope="session")
def shared():
    """The folder of shared data beside the checkout; skips where it is absent."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("no shared data beside this checkout")
    return path
