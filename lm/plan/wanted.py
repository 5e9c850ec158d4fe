"""Which slices a question is about, and what to say where none will do."""

from lm.base.errors import UserError, nearest
from lm.cost import measure
from lm.cost.chips import GIB, Chip
from lm.cost.slices import Slice, parse, slices
from lm.experiment import topology
from lm.experiment.config import Experiment
from lm.plan.config import Config


def wanted(own: Config, e: Experiment, chips: dict[str, Chip]) -> list[Slice]:
    """Returns the slices that are asked for: one by name, all of a number of chips, or all.

    Without any chip it is the config's own mesh.target, unless days or a budget are to decide.
    """
    if own.slice and own.chips:
        raise UserError(f"--slice={own.slice} and --chips={own.chips} say the same thing twice; "
                        "give one of them")
    open_question = own.days or own.budget
    if own.chip:
        chosen = [chip(own.chip, chips)]
    elif e.mesh.target and not open_question and not own.chips and not own.slice:
        found, _ = topology.parse(e.mesh.target)
        return [parse(chips[found.name], e.mesh.target.partition(":")[2])]
    elif own.slice:
        raise UserError(f"--slice={own.slice} is of which chip? give --chip=NAME; "
                        f"known: {', '.join(chips)}")
    else:
        chosen = [c for c in chips.values() if c.network]
    if chosen[0].name == "cpu" and (own.slice or own.chips > 1):
        raise UserError("--chip=cpu is this machine, one of them; leave --slice and --chips out")
    if own.slice:
        return [parse(chosen[0], own.slice)]
    out = []
    for c in chosen:
        if c.name == "cpu":
            out.append(Slice(c, (1,)))
        elif own.chips:
            out += _of(c, own.chips, len(chosen) == 1)
        else:
            # Of each size that is a power of two the shape that is nearest to a cube.
            sizes = {s.chips: s for s in reversed(slices(c)) if s.chips & (s.chips - 1) == 0}
            out += [sizes[n] for n in sorted(sizes)]
    if not out:
        raise UserError(f"no chip comes in slices of {own.chips}; give --chip=NAME to see which")
    return out


def chip(name: str, chips: dict[str, Chip]) -> Chip:
    """Returns a chip by name, `cpu` for this machine's; UserError names the nearest."""
    if name == "cpu" and name not in chips:
        return measure.cpu()
    if name not in chips:
        raise UserError(f"unknown chip '{name}'{nearest(name, [*chips, 'cpu'])}")
    return chips[name]


def _of(c, count, only):
    """The slices of a chip that have so many; none where that is no number of them."""
    try:
        found = slices(c, count)
        return found if only or c.nic or found[0].count == 1 else []
    except UserError:
        if only:
            raise
        return []


def hopeless(s: Slice, state: float, flops: float, own: Config) -> tuple[str, str]:
    """Why a slice cannot do, before any layout is counted: (kind, reason), or two empty texts.

    state: bytes of parameters and moments. flops: of the whole training.
    """
    held = state / s.devices
    if held > s.chip.memory():
        return "memory", (f"parameters and moments alone are {held / GIB:.1f} GiB a device of "
                          f"{s.chip.memory() / GIB:.1f} GiB")
    days = flops / (s.chips * max(s.chip.flops.values())) / 86400
    if own.days and days > own.days:
        return "time", f"takes {days:.3g} days even at the chips' full rate"
    if own.budget and s.chip.price is None:
        return "price", "price not known: give --chip and --price"
    if own.budget:
        cost = days * 24 * s.chips * s.chip.price
        if cost > own.budget:
            return "price", f"costs ${cost:,.0f} even at the chips' full rate"
    return "", ""
