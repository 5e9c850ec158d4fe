"""The parameters of a run, for the verbs that only read it."""

import jax

from lm.base.errors import UserError
from lm.checkpoint.store import Checkpoints
from lm.experiment import parts
from lm.experiment.config import Experiment


def params(experiment: Experiment, m: parts.Model, which: str, mesh) -> tuple[dict, int]:
    """Returns (params, step) of checkpoint `which`: best, latest or a step."""
    folder = parts.directory(experiment) / "checkpoints"
    checkpoints = Checkpoints(folder)
    if which in ("best", "latest"):
        step = checkpoints.best if which == "best" else None
    elif which.isdigit():
        step = int(which)
    else:
        raise UserError(f"--checkpoint={which} is neither best, latest nor a step")
    template = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
                            m.declaration.shapes, m.declaration.shardings(mesh))
    found = checkpoints.restore(template, step, part="params")
    if found is None:
        raise UserError(f"{folder} holds no checkpoint; run `lm train` first, or give another "
                        "--run")
    return found[0], found[1]["step"]
