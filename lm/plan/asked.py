"""A question about training, with what is known before any layout is counted."""

from collections.abc import Mapping
from typing import NamedTuple

import jax

from lm.cost import conventions
from lm.cost.chips import Chip
from lm.experiment import parts
from lm.experiment.config import Experiment
from lm.mesh import devices
from lm.mesh.config import AXES
from lm.mesh.config import Config as Mesh
from lm.plan import search, steps
from lm.plan.config import Config
from lm.plan.search import Space
from lm.plan.training import Training


class Model(NamedTuple):
    """What a plan says of the model itself."""

    count: int
    active: int
    body: int          # active without the embedding
    state: int         # bytes of parameters and moments, on all devices together
    least: int         # the same of the formats and update rules that are searched, the fewest
    flops: dict        # of training on one token, by convention


class Asked(NamedTuple):
    """The question, and the model and the training that it is about."""

    experiment: Experiment
    own: Config
    chips: Mapping[str, Chip]
    space: Space
    model: Model
    training: Training
    ledger: list[dict]   # measured runs: lm.plan.calibration


def model(e: Experiment, cases: list[steps.Case]) -> Model:
    """Returns what e's model is, counted from its declaration and its traced programs.

    cases: its steps with each precision and update rule that is searched, its own first.
    """
    with devices.traced(devices.Stand("tpu", ""), dict.fromkeys(AXES, 1)):
        made = parts.model(search.apply(e, {"model.precision_missing": "emulate"}), e.model.V)
    alone = devices.make(Mesh(data=1), jax.local_devices(backend="cpu")[:1])
    flops = parts.flops_per_token(made, e.data.T, alone)
    k, d = made.config, made.declaration
    active = d.active(k.experts_top) if k.E else d.count
    embedding = k.V * k.D
    windows = [k.windows[i % len(k.windows)] or None for i in range(k.L)]
    attention = conventions.attention(L=k.L, N=k.N, H=k.H, T=e.data.T, window=windows)
    sizes = dict(params=active, embedding=embedding, matmul=(flops - attention) / 6, L=k.L, N=k.N,
                 H=k.H, T=e.data.T, D=k.D, V=k.V, window=windows)
    return Model(d.count, active, active - embedding, steps.state(cases[0]),
                 min(map(steps.state, cases)), {name: rule(**sizes) for name, rule in
                                                conventions.CONVENTIONS.items()})
