"""The training step compiled ahead of time for a TPU that is not here, its kernels included."""

import importlib.util
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.mesh import devices, rules
from lm.mesh.config import Config as Mesh
from lm.models.decoder import model as decoder
from lm.models.decoder.config import Config
from lm.train import optimizers
from lm.train import step as program
from lm.train.config import Config as Train

B, T = 4, 256


@pytest.fixture(scope="module")
def chips():
    """The four chips of a v5e host, to compile for only."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("no libtpu: pip install the one that jax[tpu] pins to compile for TPUs")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    from jax.experimental import topologies
    jax.config.update("jax_enable_compilation_cache", False)  # no client here could read it again
    yield list(topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices)
    jax.config.update("jax_enable_compilation_cache", True)


@pytest.mark.slow
@pytest.mark.parametrize("H", [64, 128])
def test_train_step_for_v5e(H, chips):
    """On fsdp 2 x tensor 2, packed, in bfloat16: with the kernels, and the state stays sharded."""
    mesh = devices.make(Mesh(data=1, fsdp=2, tensor=2), chips)
    declaration = decoder.build(Config(L=2, D=256, N=4, K=2, H=H, F=512, V=512, T=T, qk_norm=True,
                                       precision="bfloat16", remat="dots", z_loss=1e-4))
    rate = lambda _: 1e-3  # noqa: E731
    optimizer = optimizers.make(Train(), declaration, rate, rate)
    key = jax.random.key(0)  # outside: nothing may be executed on chips that are not here
    step = program.compiled(program.make(declaration, decoder.loss, optimizer, key=key,
                                         accumulate=2, clip=1.0))
    state = program.abstract(declaration, optimizer, mesh)
    batch = {name: jax.ShapeDtypeStruct((B, T), dtype, sharding=rules.sharding(mesh, "BT", (B, T)))
             for name, dtype in dict(tokens_BT=jnp.int32, targets_BT=jnp.int32,
                                     positions_BT=jnp.int32, segments_BT=jnp.int32,
                                     weights_BT=jnp.float32).items()}
    with devices.use(mesh):
        assert devices.platform() == "tpu"
        compiled = step.lower(state, batch).compile()
    text = compiled.as_text()
    # The loop over layers holds each once: forward, and backward for q and for k and v.
    assert text.count('custom_call_target="tpu_custom_call"') >= 3
    for name in ("splash_mha_fwd", "splash_mha_dq", "splash_mha_dkv"):
        assert name in text
    jax.tree.map(lambda x, s: s.is_equivalent_to(x.sharding, len(x.shape)) or pytest.fail(
        f"{x.sharding} became {s}"), state, compiled.output_shardings[0])
    whole = sum(np.prod(x.shape) * 4 for x in jax.tree.leaves(state))
    held = compiled.memory_analysis().argument_size_in_bytes
    assert whole / 4 <= held < whole / 4 * 1.1  # all but vectors in quarters, and the batch
