"""How the copies of a model along `data` keep together: at every step, every few steps, or late."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import optax

from lm.base.errors import UserError
from lm.train import local, stale
from lm.train import step as program
from lm.train.config import Config


class Method(NamedTuple):
    """What `lm.train.step` has, by one of the three."""

    abstract: Callable  # (declaration, optimizer, mesh) -> a template of the State
    init: Callable      # (declaration, optimizer, key, mesh) -> the first State
    make: Callable      # (declaration, loss, optimizer, **choices) -> the step
    workers: int = 0    # places along `data`, where another number trains otherwise; else 0

    def check(self, meta: dict | None) -> None:
        """Raises UserError if a checkpoint of that meta had another number of workers."""
        other = meta["workers"] if meta and self.workers else self.workers
        if other != self.workers:
            raise UserError(f"mesh.data = {self.workers}, but the run has {other} workers; "
                            f"set mesh.data={other}, or train into another --run")


def choose(c: Config, mesh, length: int) -> Method:
    """Returns the method of `c` for `length` steps; UserError if it cannot be."""
    workers, every = mesh.shape["data"], c.local_steps
    beside = [a for a, size in mesh.shape.items() if size > 1 and a not in ("data", "stage")]
    if (every or c.staleness) and mesh.shape["stage"] > 1 and beside:
        # Where one axis is manual and stages lie on another, the partitioner of jax 0.12 ends the
        # process at the collectives of a third.
        raise UserError("train.local_steps and train.staleness take a pipeline by mesh.data alone; "
                        f"set mesh.stage=1 or {', '.join(f'mesh.{a}=1' for a in beside)}")
    if every:
        if length % every:
            near = sorted({length // every * every, -(-length // every) * every} - {0})
            raise UserError(f"train.length = {length} steps are no whole rounds of "
                            f"train.local_steps = {every}; nearest: {', '.join(map(str, near))}")
        outer = optax.sgd(c.outer_lr, c.outer_momentum, nesterov=True)
        return Method(partial(local.abstract, outer), partial(local.init, outer),
                      partial(local.make, outer, every), workers)
    if c.staleness:
        return Method(partial(stale.abstract, c.staleness), partial(stale.init, c.staleness),
                      partial(stale.make, c.staleness), workers)
    return Method(program.abstract, program.init, program.make)
