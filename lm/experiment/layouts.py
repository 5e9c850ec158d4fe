"""Which layouts of an experiment there are to verify: meshes, orders of work, precisions."""

import dataclasses
from typing import NamedTuple

from lm.base.errors import UserError, nearest
from lm.experiment import parts
from lm.experiment.config import Experiment
from lm.mesh import devices
from lm.mesh.config import AXES
from lm.models.decoder.config import Config as Decoder
from lm.nn.precision import PRECISIONS

SCHEDULES = next(f for f in dataclasses.fields(Decoder) if f.name == "schedule").metadata["choices"]

# From the axis that most models are laid on first to the one that few need.
RANK = ("fsdp", "data", "tensor", "expert", "context", "stage")


class Layout(NamedTuple):
    """One row of the table."""

    shape: dict[str, int]   # devices by axis
    schedule: str           # of a pipeline; '' without one
    precision: str

    def __str__(self):
        return " ".join(filter(None, (devices.words(self.shape), self.schedule)))

    def of(self, e: Experiment) -> Experiment:
        """Returns the experiment with the layout's choices."""
        changes = dict(precision=self.precision)
        if self.schedule:
            changes["schedule"] = self.schedule
        return dataclasses.replace(e, mesh=dataclasses.replace(e.mesh, **self.shape, slices=1),
                                   model=dataclasses.replace(e.model, **changes))


def layouts(e: Experiment, places: list, mesh: str, precision: str
            ) -> tuple[list[Layout], dict[str, list[str]]]:
    """Returns the layouts of e on the devices `places`, and those that cannot be by reason.

    mesh: the only one, as `read` takes it; '': every one. precision: that of all layouts; 'all':
    float32, and then each on the mesh that mixes most axes.
    """
    shapes = [read(mesh, len(places))] if mesh else _ordered(e, len(places))
    found, refused = [], {}
    schemed = set()   # numbers of stages whose orders of work are all in the list
    base = "float32" if precision == "all" else precision
    for shape in shapes:
        S = shape["stage"]
        orders = ("",) if S == 1 else (e.model.schedule,) if S in schemed else SCHEDULES
        for schedule in orders:
            layout = Layout(shape, schedule, base)
            try:
                legal(layout.of(e), places)
            except UserError as error:
                refused.setdefault(str(error), []).append(str(layout))
                continue
            found.append(layout)
            schemed.add(S)
    if mesh and not found:
        raise UserError(next(iter(refused)))
    if precision == "all" and found:
        mixed = max(found, key=lambda layout: sum(n > 1 for n in layout.shape.values()))
        found += [mixed._replace(precision=name) for name in PRECISIONS if name != base]
    return found, refused


def legal(e: Experiment, places: list) -> None:
    """Raises UserError if e's mesh over the devices `places` does not hold its model or batch."""
    with devices.use(devices.make(e.mesh, places)) as mesh:
        parts.check(e.model, mesh, e.data.B, e.data.T, e.train.accumulate)


def read(words: str, count: int) -> dict[str, int]:
    """Returns the mesh of `count` devices that words as `fsdp=4 tensor=-1` say; else UserError."""
    shape = dict.fromkeys(AXES, 1)
    for word in words.replace(",", " ").split():
        axis, _, size = word.partition("=")
        if axis not in shape:
            raise UserError(f"--mesh: unknown axis '{axis}'{nearest(axis, AXES)}")
        if not size.removeprefix("-").isdigit():
            raise UserError(f"--mesh: {axis} needs a number of devices: {axis}=2")
        shape[axis] = int(size)
    return devices.fill(shape, count)


def _ordered(e, count):
    """All meshes that differ for the model, the usual ones first."""
    # Without experts the axis `expert` does as `data` does.
    used = [s for s in devices.shapes(count) if s["expert"] == 1 or e.model.E]

    def key(shape):
        axes = sorted((RANK.index(axis) for axis, size in shape.items() if size > 1), reverse=True)
        return axes[:1], len(axes), axes, [-shape[axis] for axis in RANK]
    return sorted(used, key=key)
