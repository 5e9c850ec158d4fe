"""A run as something that makes text: the engine over a checkpoint, and a few lines to use it."""

import collections
import dataclasses
import itertools
import math
import pathlib
import time
from collections.abc import Iterable, Iterator

import jax

from lm.base.errors import UserError
from lm.experiment import flags, folder, parts, restore
from lm.experiment.config import Experiment
from lm.infer import calibrate, weights
from lm.infer import shape as shapes
from lm.infer.config import Engine as Config
from lm.infer.core import Core
from lm.infer.draft import Draft
from lm.infer.engine import Engine, Model
from lm.infer.request import Event, Full, Request, Sampling
from lm.mesh import devices, runtime
from lm.mesh.config import AXES


def load(e: Experiment, c: Config, checkpoint: str = "best") -> Core:
    """Returns a Core of a run's checkpoint, not started. Raises UserError."""
    runtime.settle()
    tokenizer = folder.tokenizer(parts.directory(e))
    mesh = _mesh(e)
    with devices.use(mesh):
        m = model(e, tokenizer.V)
        check(m, mesh)
    if c.draft and c.speculate != "draft":
        raise UserError(f"--draft={c.draft} drafts with --speculate=draft alone; give that too")
    longest = context(e, m)
    small = _draft(c, tokenizer, mesh, c.context or longest) if c.speculate == "draft" else None

    def make():
        params, _ = restore.params(e, m, checkpoint, mesh)
        draft = small and (small[1], restore.params(*small, "best", mesh)[0])
        return build(m, params, c, mesh, V=tokenizer.V, context=longest, draft=draft)
    return Core(make, c, tokenizer, mesh=mesh, context=c.context or longest)


def context(e: Experiment, m: parts.Model) -> int:
    """Returns how many tokens a sequence of the run may have."""
    return min(m.config.T, max(e.data.T, 1))


def model(e: Experiment, V: int) -> parts.Model:
    """Returns the experiment's model as it is served: no token's expert is full."""
    return parts.model(dataclasses.replace(e, model=dataclasses.replace(
        e.model, experts_capacity=0.0, remat="none")), V)


def _draft(c, tokenizer, mesh, context):
    """The run that drafts: (experiment, model)."""
    if not c.draft:
        raise UserError("speculate = 'draft' needs the smaller run: give --draft=DIR, or "
                        "--speculate=lookup")
    e = flags.of_run(c.draft)
    if folder.tokenizer(parts.directory(e)).fingerprint != tokenizer.fingerprint:
        raise UserError(f"{c.draft} has another tokenizer than the run that it is to draft for; "
                        "train it with the same")
    with devices.use(mesh):
        m = model(e, tokenizer.V)
        check(m, mesh)
    if m.config.positions == "learned" and context > m.config.T:
        raise UserError(f"{c.draft} has {m.config.T} positions, fewer than the context of "
                        f"{context}; give --context={m.config.T}")
    return e, m


def check(m: parts.Model, mesh) -> None:
    """Raises UserError if the engine cannot have the model on the mesh, which is in use."""
    parts.check(m.config, mesh)
    if m.config.dense_layers and mesh.shape["stage"] > 1:
        raise UserError("model.dense_layers are in no stage, and have no pages there; set "
                        "mesh.stage=1 to make text")


def build(m: parts.Model, params: dict, c: Config, mesh, *, V: int, context: int,
          draft: tuple[parts.Model, dict] | None = None) -> Engine:
    """Returns the engine of a model with these parameters on the mesh in use.

    draft: the model that drafts, and its parameters.
    """
    held = weights.ready(m.declaration, params, mesh, c.weights)
    small = draft and weights.ready(draft[0].declaration, draft[1], mesh, c.weights)
    size = shapes.shape(c, m.config, context, weights.nbytes(held) + weights.nbytes(small or {}),
                        draft and draft[0].config)
    large = calibrate.ready(Model(m.config, m.declaration, held), size, V)
    if draft:
        own = Model(draft[0].config, draft[0].declaration, small)
        drafter = Draft(Engine(calibrate.ready(own, size, V), size, V), c.drafts)
    engine = Engine(large, size, V)
    engine.draft = drafter if draft else None
    return engine


def _mesh(e):
    """The experiment's mesh; where it leaves `data` open, one copy of the model on the first."""
    c, here = e.mesh, jax.devices()
    sizes = [getattr(c, axis) for axis in AXES if axis != "data"]
    if c.data == -1 and min(sizes) > 0 and jax.process_count() == 1:
        c, here = dataclasses.replace(c, data=1), here[:math.prod(sizes)]
    mesh = devices.make(c, here)
    for axis in ("data", "context"):
        if mesh.shape[axis] > 1:
            raise UserError(f"mesh.{axis} = {mesh.shape[axis]} would do the same work so many "
                            f"times over: set mesh.{axis}=1 and share the model by mesh.tensor, "
                            "stage or expert, or start as many servers")
    return mesh


class LLM:
    """A run's checkpoint in this process: `LLM(run).generate(prompts)`."""

    def __init__(self, run: str | pathlib.Path | Core, c: Config | None = None,
                 checkpoint: str = "best"):
        """run: its directory; or a Core, not begun. Raises UserError."""
        self.core = run if isinstance(run, Core) else load(
            flags.of_run(run), c or Config(), checkpoint)
        self.core.begin(compile=False)
        self.tokenizer = self.core.tokenizer
        self._ids = itertools.count()

    def generate(self, prompts: Iterable[str | list[int]],
                 sampling: Sampling | list[Sampling] = Sampling()) -> list[str]:  # noqa: B008
        """Returns what follows each prompt, in their order; a Sampling for all, or one for each."""
        texts: dict[int, list[str]] = {}
        for i, event in self.stream(prompts, sampling):
            texts.setdefault(i, []).append(event.text)
        return ["".join(texts[i]) for i in range(len(texts))]

    def stream(self, prompts: Iterable[str | list[int]],
               sampling: Sampling | list[Sampling] = Sampling(),  # noqa: B008
               ) -> Iterator[tuple[int, Event]]:
        """Yields (number of the prompt, event) as they come; the last of each has a `finish`."""
        prompts = [self._ids_of(prompt) for prompt in prompts]
        each = sampling if isinstance(sampling, list) else [sampling] * len(prompts)
        heard: collections.deque[tuple[int, Event]] = collections.deque()
        requests = [Request(f"llm-{next(self._ids)}", prompt, own,
                            lambda event, i=i: heard.append((i, event)), time.monotonic())
                    for i, (prompt, own) in enumerate(zip(prompts, each, strict=True))]
        limits = self.core.scheduler.limits
        for r in requests:
            limits.check(len(r.prompt), r.sampling.max_tokens)
        waiting, left = collections.deque(requests), len(requests)
        try:
            while left:
                # As many at a time as keep the engine busy, however many there are.
                while waiting and len(self.core.scheduler) < 2 * limits.slots:
                    try:
                        self.core.submit(waiting[0])
                    except Full:
                        break
                    waiting.popleft()
                    self.core.receive()
                self.core.advance(wait=False)
                while heard:
                    left -= heard[0][1].finish is not None
                    yield heard.popleft()
        finally:
            for r in requests:
                if not r.finish and r not in waiting:
                    self.core.abort(r.id)
            self.core.receive()

    def _ids_of(self, prompt):
        if not isinstance(prompt, str):
            return list(prompt)
        ids = self.tokenizer.encode(prompt).tolist()
        if not ids and self.tokenizer.eos is not None:
            ids = [self.tokenizer.eos]  # what stands before a document
        return ids
