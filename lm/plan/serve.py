"""`lm plan --serve`: the model of a run or a config as a server sees it, and its plan."""

import dataclasses
import math

import jax

from lm.base import cache
from lm.cost.chips import CHIPS
from lm.cost.slices import slices
from lm.experiment import parts
from lm.experiment.config import Experiment
from lm.load.lengths import lengths
from lm.mesh import devices
from lm.mesh.config import AXES
from lm.plan import compile, search
from lm.plan.config import Config
from lm.plan.serving.model import PAGE, Shape
from lm.plan.serving.question import Question
from lm.plan.serving.size import serve_plan


def plan(e: Experiment, own: Config, chips: dict, command: str, source: str) -> dict:
    """Returns the plan of serving e's model: the plan.json of `lm plan --serve`."""
    asked = {f.name: getattr(own, f.name) for f in dataclasses.fields(Question)}
    known = {name: chip for name, chip in chips.items() if name != "cpu"}
    return serve_plan(shape(e, source), Question(**asked), known, command, source)


def compiled(e: Experiment, own: Config, choice: dict) -> dict:
    """Returns what the compiler says of the engine's steps of a choice."""
    chip = CHIPS[choice["chip"]]
    ways = dict(tensor=choice["tensor"], stage=choice["stage"], data=1, fsdp=1)
    e = search.apply(e, {f"mesh.{axis}": n for axis, n in ways.items()})
    s = next(s for s in slices(chip) if s.devices == choice["tensor"] * choice["stage"])
    target = f"{chip.aot}:{s.name}" if chip.aot else f"{chip.name}:{s.chips}"
    tokens = sum(lengths(text).mean for text in (own.prompt_tokens, own.output_tokens))
    weights = dict(bf16="bfloat16").get(choice["weights"], choice["weights"])
    return compile.check_serving(
        e, target, slots=choice["slots"], context=-(-int(tokens) // PAGE) * PAGE,
        chunk=choice["chunk"], weights=weights, cache=cache.root())


def shape(e: Experiment, name: str = "") -> Shape:
    """Returns e's model by the numbers that serving asks of it, counted from its declaration."""
    with devices.traced(devices.Stand("tpu", ""), dict.fromkeys(AXES, 1)):
        made = parts.model(search.apply(e, {"model.precision_missing": "emulate"}), e.model.V)
    c, d = made.config, made.declaration
    specs = jax.tree.leaves(d.specs, is_leaf=lambda s: hasattr(s, "stacked"))
    sizes = [math.prod(x.shape) for x in jax.tree.leaves(d.shapes)]
    experts = sum(n for n, s in zip(sizes, specs, strict=True) if "E" in s.stacked)
    return Shape(name or c.family, d.count, c.L, c.K, c.H, c.N, c.D, c.V,
                 expert_parameters=experts, E=c.E, k=c.experts_top if c.E else 0,
                 lookup=0 if c.tied else c.V * c.D, windows=c.windows)
