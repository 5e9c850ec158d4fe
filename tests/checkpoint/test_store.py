"""What is saved comes back exactly, on any mesh, or the person is told why it does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from states import here, like, reader, same, saved, state

from lm.base.errors import UserError
from lm.checkpoint.store import Checkpoints


def test_round_trip(tmp_path):
    with Checkpoints(tmp_path / "new" / "run") as store:
        assert store.restore(here(state())) is None and store.latest is None
        assert store.meta() is None and store.best is None
    assert not (tmp_path / "new").exists()  # reading makes nothing
    saved(store.directory, [3]).close()
    got, meta = Checkpoints(store.directory).restore(here(state()))
    assert same(got, state(3)) and meta == {"seed": 3, "data": [3, "x"], "step": 3}


def test_other_containers_of_the_same_names(tmp_path):
    saved(tmp_path, [3]).close()
    got, _ = Checkpoints(tmp_path).restore(here(state()._asdict()))
    assert same(got["params"], state(3).params)


def test_any_mesh(tmp_path):
    def mesh(*shape):
        devices = jax.devices()[:int(np.prod(shape))]
        return jax.make_mesh(shape, ("a", "b"), devices=devices, axis_types=(AxisType.Auto,) * 2)

    def on(m, spec):
        return lambda x: NamedSharding(m, spec if x.ndim > 1 and x.shape[-1] % 8 == 0 else P())

    first = state(5, V=64)
    placed = jax.device_put(first, jax.tree.map(on(mesh(2, 4), P("a", "b")), first))
    with Checkpoints(tmp_path) as store:
        store.save(1, placed, {})
    for m, spec in [(mesh(4, 2), P(None, "a")), (mesh(1, 8), P(None, "b")), (mesh(2, 1), P("a")),
                    (mesh(1, 1), P())]:
        got, _ = store.restore(like(first, on(m, spec)))
        assert same(got, first)
        assert got.params["embedding"].sharding == NamedSharding(m, spec)
        assert all(x.sharding.device_set == set(m.devices.flat) for x in jax.tree.leaves(got))


def test_the_state_may_be_donated_at_once(tmp_path):
    forget = jax.jit(lambda x: x * 0, donate_argnums=0)
    x = jnp.ones((2048, 1024))
    with Checkpoints(tmp_path) as store:
        store.save(1, {"x": x}, {})
        forget(x).block_until_ready()
    assert float(store.restore(here({"x": jnp.ones((2048, 1024))}))[0]["x"].min()) == 1


def test_keeps_the_newest_and_the_best(tmp_path):
    metrics = {1: float("nan"), 2: 1.0, 3: 4.0, 4: float("-inf"), 5: None, 6: 1.5, 7: 9.0}
    with Checkpoints(tmp_path, keep=2) as store:
        for step, metric in metrics.items():
            store.save(step, {"x": jnp.int32(step)}, {}, metric)
        store.wait()
        assert store.steps == [2, 6, 7] and store.best == 2 and store.latest == 7
    with Checkpoints(tmp_path, keep=2) as store:  # a later process knows the metrics too
        for step, metric, kept, best in ((8, 3.0, [2, 7, 8], 2), (9, 0.5, [8, 9], 9)):
            store.save(step, {"x": jnp.int32(step)}, {}, metric)
            store.wait()
            assert store.steps == kept and store.best == best
    with Checkpoints(tmp_path, keep=1, best=False) as store:
        store.save(10, {"x": jnp.int32(10)}, {}, 3.0)
        store.wait()
        assert store.steps == [10]


def test_a_step_is_saved_once(tmp_path):
    with saved(tmp_path, [1, 2]) as store:
        assert not store.save(2, state(7), {})
        assert store.save(2, state(8), {}, force=True)
        store.wait()
        assert store.steps == [1, 2] and same(store.restore(here(state()))[0], state(8))
        with pytest.raises(UserError, match="later checkpoints than step 1, up to step 2"):
            store.save(1, state(1), {})
    with pytest.raises(UserError, match="no checkpoint of step 7; it has: 1, 2"):
        store.restore(here(state()), step=7)
    assert store.restore(here(state()), step=1)[1]["seed"] == 1
    assert store.meta() == {"step": 2} and store.meta(1)["seed"] == 1


def test_only_the_parameters(tmp_path):
    saved(tmp_path, [4]).close()
    store = Checkpoints(tmp_path)
    got, meta = store.restore(here(state().params), part="params")
    assert same(got, state(4).params) and meta["seed"] == 4
    got, _ = store.restore(here(state().params["layers"]), part="params/layers")
    assert same(got, state(4).params["layers"])
    with pytest.raises(UserError, match="params/layers/q is in the checkpoint but not here"):
        store.restore(here({k: v for k, v in state().params.items() if k != "layers"}),
                      part="params")


def test_another_model(tmp_path):
    saved(tmp_path, [4]).close()
    store, lines = reader(tmp_path)
    with pytest.raises(UserError, match=r"params/embedding is float32\[65,128\] in the checkpoint "
                                        r"but float32\[97,128\] here, and 2 more differ \(step 4"):
        store.restore(here(state(V=97)))
    other = state()
    other.params["layers"]["w"] = other.params["layers"]["w"].astype(jnp.float32)
    with pytest.raises(UserError, match=r"layers/w is bfloat16\[2,8,16\] in the checkpoint but f"):
        store.restore(here(other))
    with pytest.raises(UserError, match="params/extra is not in the checkpoint"):
        store.restore(here(state()._replace(params=state().params | {"extra": jnp.ones(2)})))
    with pytest.raises(ValueError, match="params/embedding has no sharding"):
        store.restore(state()._replace(params={
            "embedding": jax.ShapeDtypeStruct((65, 128), jnp.float32)}))
    assert lines == []


def test_nothing_is_said(tmp_path, capfd):
    with saved(tmp_path) as store:
        store.restore(here(state()))
    assert capfd.readouterr() == ("", "")
