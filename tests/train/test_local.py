"""DiLoCo's laws: a meeting at every step is synchronous training; between meetings, silence."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from methods import ADAMW, MODEL, Run, assert_close, held, host, placed, same

from lm.base.errors import UserError
from lm.checkpoint.store import Checkpoints
from lm.cost import traffic
from lm.mesh import devices
from lm.mesh.config import Config as Mesh
from lm.train import method
from lm.train import step as program
from lm.train.config import Config as Train

MEAN = Train(local_steps=1, outer_lr=1.0, outer_momentum=0.0)
MESHES = {"data 8": Mesh(data=8), "data 4 x fsdp 2": Mesh(data=4, fsdp=2),
          "data 2 x fsdp 2 x tensor 2": Mesh(data=2, fsdp=2, tensor=2),
          "data 4 x context 2": Mesh(data=4, context=2), "data 4 x stage 2": Mesh(data=4, stage=2)}


def on(name):
    return devices.use(devices.make(MESHES[name]))


@functools.cache
def together():
    """Ten steps of synchronous training on one device: parameters and losses."""
    with devices.use(devices.make(Mesh(data=1), jax.devices()[:1])) as mesh:
        run = Run(Train(), mesh)
        start = run.first()
        before = host(start.params)
        state, means = run.train(start, 0, 10)
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, host(state.params))
        assert min(jax.tree.leaves(moved)) > 5e-5  # else standing still would pass
        return host(state.params), [m["loss"] for m in means]


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[pytest.mark.slow] * (name != "data 2 x fsdp 2 x tensor 2"))
    for name in MESHES])
def test_a_mean_after_every_step_is_synchronous_training(name):
    """H = 1, plain gradient descent, outer rate 1, no momentum; dropout and islands included."""
    with on(name) as mesh:
        run = Run(MEAN, mesh)
        start = run.first()
        before = jax.tree.map(lambda x: x.sharding, start)
        state, means = run.train(start, 0, 10)
        jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim) or pytest.fail(str(s)),
                     state, before)
        params, losses = together()
        assert_close(host(state.params), params, rtol=0, atol=1e-5)
        np.testing.assert_allclose([m["loss"] for m in means], losses, rtol=1e-5)
        assert int(state.step) == 10


@functools.cache
def rounds():
    """AdamW, four steps a round, on data 4 x fsdp 2: the run, and its state at each of 8 steps."""
    with on("data 4 x fsdp 2") as mesh:
        run = Run(Train(local_steps=4), mesh, ADAMW)
        state = run.first()
        seen = [host(state)]
        for step in range(8):
            state, _ = run.train(state, step, step + 1)
            seen.append(host(state))
        return run, seen


def spread(state):
    """How far the workers' parameters are apart, at most."""
    return max(np.ptp(x, axis=0).max() for x in jax.tree.leaves(state.workers.params))


def test_workers_part_and_meet():
    """Apart within a round, each with its own moments; after it all where the outer step led."""
    _, seen = rounds()
    for step, state in enumerate(seen):
        if step % 4:
            assert spread(state) > 1e-3
            same(state.params, seen[step - step % 4].params)
        else:
            assert spread(state) == 0
            jax.tree.map(lambda own, x: np.testing.assert_array_equal(own[0], x),
                         state.workers.params, state.params)
        assert (state.workers.step == step).all()
    moments = jax.tree.leaves(seen[8].workers.optimizer)
    assert any(np.ptp(x, axis=0).max() > 1e-4 for x in moments)


def test_the_outer_step_is_nesterov():
    """Of every parameter, as torch.optim.SGD(lr=0.7, momentum=0.9, nesterov=True) takes it."""
    run, seen = rounds()
    momentum = jax.tree.map(np.zeros_like, seen[0].params)
    with on("data 4 x fsdp 2") as mesh:
        # The workers' steps by themselves, from where each round began.
        apart = Run(Train(local_steps=840), mesh, ADAMW)
        for start in (0, 4):
            state = run.put(seen[start])
            ended = host(apart.train(state, start, start + 4)[0].workers.params)
            delta = jax.tree.map(lambda x, w: x - w.mean(0), seen[start].params, ended)
            momentum = jax.tree.map(lambda m, d: 0.9 * m + d, momentum, delta)
            expected = jax.tree.map(lambda x, m, d: x - 0.7 * (d + 0.9 * m), seen[start].params,
                                    momentum, delta)
            assert_close(seen[start + 4].params, expected, rtol=0, atol=1e-5)
            assert min(jax.tree.leaves(jax.tree.map(lambda d: np.abs(d).max(), delta))) > 1e-3
    assert_close(seen[8].outer[0].trace, momentum, rtol=0, atol=1e-5)


def test_nothing_crosses_data_within_a_round():
    """But the sums of the means. A meeting is a sum of the parameters, a device's part of each."""
    run, _ = rounds()
    with on("data 4 x fsdp 2") as mesh:
        text = run.step.lower(run.template(), placed(0, mesh)).compile().as_text()
        found = [c for c in traffic.read(text, 8) if c.crosses(mesh.shape, "data")]
        plain = Run(Train(), mesh, ADAMW)
        text = plain.step.lower(plain.template(), placed(0, mesh)).compile().as_text()
        every = [c for c in traffic.read(text, 8) if c.crosses(mesh.shape, "data")]
    within, meeting = ([c for c in found if c.sometimes == often] for often in (False, True))
    assert sum(c.bytes for c in within) <= 4 * 6 * 4  # three means of four workers
    parts = jax.tree.map(lambda x: x.sharding.shard_shape(x.shape), run.template().params)
    own = sum(4 * np.prod(s) for s in jax.tree.leaves(parts, is_leaf=lambda x: type(x) is tuple))
    assert sum(c.bytes for c in meeting) == own
    # Else the reader may be blind: synchronous training sends a gradient, at each step.
    assert sum(c.bytes * c.times for c in every if not c.sometimes) >= own


@pytest.mark.slow
def test_a_round_goes_on_where_it_was(tmp_path):
    """Saved after the sixth of eight steps, read into another mesh with as many workers, too."""
    run, seen = rounds()
    with on("data 4 x fsdp 2") as mesh, Checkpoints(tmp_path) as store:
        store.save(6, run.put(seen[6]), dict(workers=run.method.workers))
        store.wait()
        found, meta = store.restore(run.template())
        run.method.check(store.meta())
        same(found, seen[6])
        same(run.train(found, 6, 8)[0], seen[8])
        params, _ = store.restore(run.template().params, part="params")
        same(params, seen[4].params)
        with pytest.raises(UserError, match="mesh.data = 8, but the run has 4 workers; set mesh.d"):
            method.choose(Train(local_steps=4), devices.make(Mesh(data=8)), 8).check(meta)
    with devices.use(devices.make(Mesh(data=4, tensor=2))) as mesh:
        other = Run(Train(local_steps=4), mesh, ADAMW)
        found, meta = Checkpoints(tmp_path).restore(other.template())
        assert_close(host(other.train(found, 6, 8)[0].params), seen[8].params, rtol=0, atol=1e-4)


def test_a_device_holds_two_copies_more():
    """The parameters of the last meeting and the outer momentum, each as it holds its own."""
    run, _ = rounds()
    with on("data 4 x fsdp 2") as mesh:
        plain = program.init(run.declaration, run.optimizer, jax.random.key(3), mesh)
        extra = held(run.first()) - held(plain)
        assert extra == 2 * held(plain.params) + plain.step.nbytes


def test_a_worker_alone_is_skipped():
    """One worker's bad batch changes its own parameters in no way, and others' as ever."""
    run, seen = rounds()
    with on("data 4 x fsdp 2") as mesh:
        state, means = run.step(run.put(seen[0]), placed(0, mesh, bad=3))
        assert float(means["skipped"].total) == 1
        assert state.workers.skipped.tolist() == [0, 1, 0, 0]
        moved = jax.tree.map(lambda own, x: np.abs(own - x).reshape(4, -1).max(1),
                             host(state.workers.params), seen[0].params)
        for own in jax.tree.leaves(moved):
            assert own[1] == 0 and (np.delete(own, 1) > 0).all()


@pytest.mark.slow
def test_parameters_of_few_bits_meet():
    """Stored as bfloat16: the mean is taken in float32, and rounded by chance, alike everywhere."""
    with on("data 8") as mesh:
        model = dataclasses.replace(MODEL, precision="bfloat16_stored")
        run = Run(dataclasses.replace(MEAN, outer_lr=0.5), mesh, model=model)
        state, _ = run.train(run.first(), 0, 2)
        assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype("bfloat16")}
        for own, x in zip(*map(jax.tree.leaves, (state.workers.params, state.params)), strict=True):
            np.testing.assert_array_equal(np.array(own), np.broadcast_to(np.array(x), own.shape))


def test_what_is_no_whole_round_is_refused():
    with on("data 8") as mesh, pytest.raises(UserError, match="no whole rounds .* nearest: 8, 12"):
        method.choose(Train(local_steps=4), mesh, 10)
    with pytest.raises(UserError, match="two ways to train"):
        Train(local_steps=4, staleness=1)


@pytest.mark.parametrize("train", [Train(local_steps=4), Train(staleness=1)],
                         ids=["local", "stale"])
def test_stages_beside_a_third_axis_are_refused(train):
    mesh = devices.make(Mesh(data=2, stage=2, tensor=2))
    with pytest.raises(UserError, match="set mesh.stage=1 or mesh.tensor=1"):
        method.choose(train, mesh, 8)
    assert not method.choose(Train(), mesh, 8).workers


def test_synchronous_training_is_the_step_itself():
    with on("data 8") as mesh:
        assert method.choose(Train(), mesh, 10)[:3] == (program.abstract, program.init,
                                                        program.make)
