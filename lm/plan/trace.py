"""The real training step of an experiment, traced once in letters for all sizes and meshes."""

import dataclasses
import math

import jax

from lm.cost import lettered
from lm.cost.lettered import Alphabet, Program
from lm.cost.memory import Leaf
from lm.experiment import parts, trial
from lm.experiment.config import Experiment
from lm.mesh import devices
from lm.mesh.config import AXES
from lm.nn import loss
from lm.train.step import abstract as program_state

# The letters of the alphabet, and: t tokens of a sequence whose logits are held at once, p such
# parts of it, G query heads of one kv head, M microbatches, Q the first layers' hidden units.
LETTERS = "BtpDKGHFVkELMCQ"


def sizes(e: Experiment, ways: int = 1) -> dict[str, int]:
    """Returns what each letter stands for in e, of one microbatch, whole over all devices.

    ways: devices, over which the logits are spread: they decide how many are held at once.
    """
    c, T = e.model, e.data.T
    B = e.data.B // e.train.accumulate
    p = _parts(c, B, T, ways)
    out = dict(B=B, t=T // p, p=p, D=c.D, K=c.K, G=c.N // c.K, H=c.H, F=c.F, V=c.V, M=1,
               L=(c.L - c.dense_layers) // len(c.windows), Q=c.dense_F)
    out["M"] = e.train.accumulate
    if c.E:
        out |= dict(E=c.E, k=c.experts_top)
        if c.experts_capacity:
            out["C"] = min(T, math.ceil(T * c.experts_top / c.E * c.experts_capacity))
    return out


def _parts(c, B, T, ways):
    """How many parts the loss computes its logits in."""
    if c.loss_chunk:
        p = -(-T // c.loss_chunk)
    else:
        p = min(max(1, -(-B * T * c.V // (loss.LOGITS * ways))), T)
    return next(n for n in range(p, T + 1) if T % n == 0)


def signature(e: Experiment, chunked: bool) -> tuple[Experiment, Alphabet]:
    """Returns e at sizes that are told apart, and the alphabet that tells them."""
    c = e.model
    used = [x for x in LETTERS if (c.E or x not in "kE") and (c.N != c.K or x != "G")
            and (c.K > 1 or x != "K") and (chunked or x != "p")]
    twos = dict(B=2, t=16, D=4, K=2, G=2, H=8, F=4, V=4, E=2, L=2, Q=4)
    a = Alphabet(used, twos, halved="B")  # within islands, of two devices along `fsdp`
    n = {x: a.size.get(x, 1) for x in LETTERS}
    T = n["t"] * n["p"]
    cycle = len(c.windows)
    model = dataclasses.replace(
        c, D=n["D"], K=n["K"], N=n["K"] * n["G"], H=n["H"], F=n["F"], V=n["V"], T=-1,
        L=n["L"] * cycle + c.dense_layers, dense_F=n["Q"],
        windows=tuple(min(w, T) for w in c.windows), attention="dense",
        E=n["E"] if c.E else 0, experts_top=n["k"] if c.E else c.experts_top,
        experts_capacity=(n["C"] - 0.5) * n["E"] / T / n["k"] if c.experts_capacity else 0.0,
        loss_chunk=n["t"] if chunked else T, precision_missing="emulate", unroll=1,
        schedule="gpipe")
    many = e.train.accumulate > 1
    train = dataclasses.replace(e.train, accumulate=n["M"] if many else 1, offload="none",
                                local_steps=0, staleness=0)
    data = dataclasses.replace(e.data, B=n["B"] * (n["M"] if many else 1), T=T)
    return dataclasses.replace(e, model=model, train=train, data=data), a


def state(e: Experiment, platform: str, kind: str) -> list[Leaf]:
    """Returns the arrays that training e carries from step to step, of their real sizes."""
    with devices.traced(devices.Stand(platform, kind), dict.fromkeys(AXES, 1)) as mesh:
        m = parts.model(e, e.model.V)
    optimizer, *_ = trial.assemble(e, m, 1000, mesh)
    first = program_state(m.declaration, optimizer, mesh)
    shapes = jax.tree_util.tree_leaves_with_path(m.declaration.shapes)
    letters = {jax.tree_util.keystr(path): (x.shape, spec.axes) for (path, x), spec in zip(
        shapes, jax.tree.leaves(m.declaration.specs), strict=True)}

    def axes(path, shape):
        """A moment's path ends in its parameter's; what has another shape is whole."""
        found = [letters.get(jax.tree_util.keystr(path[start:])) for start in range(len(path))]
        return next((own for size, own in filter(None, found) if size == shape), "")
    return [Leaf(part, axes(path, x.shape), x.shape, x.dtype.itemsize)
            for part, tree in (("parameters", first.params), ("optimizer", first.optimizer))
            for path, x in jax.tree_util.tree_leaves_with_path(tree)]


def trace(e: Experiment, platform: str, kind: str, sharded: bool,
          chunked: bool) -> tuple[Program, Alphabet]:
    """Returns the training step of e, for devices of a kind, and the letters that it is read in.

    sharded: whether parameters are to be gathered over `fsdp`. chunked: whether the loss computes
    its logits in parts.
    """
    s, alphabet = signature(e, chunked)
    shape = dict.fromkeys(AXES, 1) | dict(fsdp=2 if sharded else 1)
    with devices.traced(devices.Stand(platform, kind), shape) as mesh:
        m = parts.model(s, s.model.V)
        batch = trial.abstract(s, mesh)
    _, step, state = trial.assemble(s, m, 1000, mesh)
    with devices.traced(devices.Stand(platform, kind), shape):
        program = lettered.read(step, state, batch, alphabet=alphabet)
    return program, alphabet
