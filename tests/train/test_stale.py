"""Stale gradients: the recursion by hand, nobody late at first, nothing forgotten on the way."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from methods import ADAMW, Run, assert_close, held, host, placed, same

from lm.base.errors import UserError
from lm.base.mean import Mean
from lm.checkpoint.store import Checkpoints
from lm.mesh import devices
from lm.mesh.config import Config as Mesh
from lm.train import method, stale
from lm.train import step as program
from lm.train.config import Config as Train


def on(**sizes):
    mesh = Mesh(**sizes)
    count = np.prod([max(1, getattr(mesh, axis)) for axis in devices.AXES])
    return devices.use(devices.make(mesh, jax.devices()[:count]))


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 8, 100])
@pytest.mark.parametrize("tau", [1, 2, 3, 16])
def test_workers_are_late_by_zero_to_tau(workers, tau):
    """Evenly: no gap between neighbours exceeds another by more than one."""
    late = [int(stale.delay(w, workers, tau)) for w in range(workers)]
    if workers == 1:
        assert late == [tau]
        return
    assert late[0] == 0 and late[-1] == tau
    gaps = np.diff(late)
    assert gaps.min() >= 0 and np.ptp(gaps) <= 1


@pytest.mark.parametrize(("workers", "tau", "parts"),
                         [(1, 1, 1), (1, 3, 2), (2, 3, 1), (4, 2, 2), (8, 5, 1)])
def test_a_quadratic_follows_the_recursion(workers, tau, parts):
    """p(t+1) = p(t) - r mean over workers of the gradient at p(t - its delay), momentum on top."""
    def loss(model, batch, key):
        off = model["p"] - batch["x"]
        return Mean((0.5 * off ** 2 * batch["n"]).sum(), batch["n"].sum()), {}

    rule = optax.sgd(0.1, momentum=0.5)
    bare = types.SimpleNamespace(bind=lambda params, histories: params)
    rng = np.random.default_rng(0)
    B = 2 * workers
    x, n = rng.normal(size=(12, B, 3)), rng.integers(1, 4, (12, B, 1))
    seen, velocity = [np.zeros(3)], 0
    with on(data=workers):
        step = jax.jit(stale.make(tau, bare, loss, rule, key=jax.random.key(0), accumulate=parts))
        params = dict(p=jnp.zeros(3))
        state = stale.begin(tau, program.State(
            jnp.int32(0), params, rule.init(params), jnp.int32(0)))
        for t in range(12):
            state, _ = step(state, dict(x=jnp.float32(x[t]), n=jnp.float32(n[t])))
            late = [seen[max(0, t - stale.delay(row // 2, workers, tau))] for row in range(B)]
            gradient = ((np.array(late) - x[t]) * n[t]).sum(0) / n[t].sum()
            velocity = 0.5 * velocity + gradient
            seen.append(seen[-1] - 0.1 * velocity)
            np.testing.assert_allclose(state.params["p"], seen[-1], atol=1e-6)


@functools.cache
def trained(tau, **sizes):
    """Seven steps: the run, the states before and after each, and the losses."""
    with on(**sizes) as mesh:
        run = Run(Train(staleness=tau), mesh, ADAMW, clip=1.0)
        state = run.first()
        seen, means = [host(state)], []
        for step in range(7):
            before = jax.tree.map(lambda x: x.sharding, state)
            state, more = run.train(state, step, step + 1)
            jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim)
                         or pytest.fail(str(s)), state, before)
            seen.append(host(state))
            means += more
        return run, seen, [m["loss"] for m in means]


@pytest.mark.parametrize("sizes", [
    dict(data=2, fsdp=2, tensor=2),
    *(pytest.param(dict(data=2) | more, marks=pytest.mark.slow)
      for more in (dict(context=2), dict(stage=2)))], ids=str)
def test_other_axes_change_nothing(sizes):
    _, expected, losses = trained(2, data=2)
    _, got, again = trained(2, **sizes)
    np.testing.assert_allclose(again, losses, rtol=1e-5)
    assert_close(got[-1].params, expected[-1].params, rtol=0, atol=1e-4)


def test_only_the_first_step_is_that_of_synchronous_training():
    _, late, _ = trained(2, data=2)
    _, prompt, _ = trained(0, data=2)
    assert_close(late[1].params, prompt[1].params, rtol=0, atol=1e-6)
    for a, b in zip(late[2:], prompt[2:], strict=True):
        apart = jax.tree.map(lambda x, y: np.abs(x - y).max(), a.params, b.params)
        assert max(jax.tree.leaves(apart)) > 1e-3


def test_the_past_is_the_last_tau_parameters():
    _, seen, _ = trained(2, data=2)
    for step, state in enumerate(seen):
        for back in (1, 2):
            same(jax.tree.map(lambda ring, at=(step - back) % 2: ring[at], state.past),
                 seen[max(0, step - back)].params)


def test_it_goes_on_where_it_was(tmp_path):
    """The past is saved and read; the parameters stand where every verb looks for them."""
    run, seen, _ = trained(2, data=2)
    with on(data=2), Checkpoints(tmp_path) as store:
        store.save(4, run.put(seen[4]), dict(workers=run.method.workers))
        store.wait()
        found, meta = store.restore(run.template())
        same(found, seen[4])
        same(run.train(found, 4, 7)[0], seen[7])
        same(store.restore(run.template().params, part="params")[0], seen[4].params)
    with on(data=4) as mesh, pytest.raises(UserError, match="the run has 2 workers"):
        method.choose(Train(staleness=2), mesh, 7).check(meta)


def test_a_device_holds_tau_copies_more():
    with on(data=2, fsdp=2, tensor=2) as mesh:
        late, prompt = (Run(Train(staleness=tau), mesh, ADAMW).first() for tau in (3, 0))
        assert held(late) == held(prompt) + 3 * held(prompt.params)


def test_a_bad_batch_is_skipped_by_all():
    """One worker's gradient is part of all others' update."""
    run, seen, _ = trained(2, data=2)
    with on(data=2) as mesh:
        state, means = run.step(run.put(seen[3]), placed(0, mesh, bad=6))
        assert float(means["skipped"].total) == 1
        same((state.params, state.optimizer), (seen[3].params, seen[3].optimizer))
