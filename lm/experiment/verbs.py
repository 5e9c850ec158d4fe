"""The verbs by name: what each does, its flags and where it lives. No jax here."""

from dataclasses import dataclass, field

from lm.base.options import option, walk
from lm.infer.config import Config as Infer


@dataclass(frozen=True)
class Nothing:
    """No flags of its own."""


@dataclass(frozen=True)
class Checkpoint:
    """Which of a run's checkpoints."""

    checkpoint: str = option("best", "which checkpoint of the run: best, latest or a step")


@dataclass(frozen=True)
class Verb:
    """One verb."""

    module: str                 # has run(parsed) -> exit status
    doc: str
    flags: type = Nothing       # its own flags
    from_run: bool = False      # whether --run names an existing run to take the config from
    short: dict[str, str] = field(default_factory=dict)   # flags that stand for config fields


RUN = {"run": "run"}
SAMPLING = {name: f"infer.{name}" for name, _, _ in walk(Infer)}

VERBS = {
    "prepare": Verb("lm.experiment.prepare",
                    "read and clean the corpus, train the tokenizer, tokenise once to disk"),
    "train": Verb("lm.experiment.train",
                  "train a model; the same command again continues where it stopped", short=RUN),
    "eval": Verb("lm.experiment.evaluate", "evaluate a run's checkpoint on the held-out split",
                 Checkpoint, True, RUN),
    "generate": Verb("lm.experiment.generate", "continue a prompt with a run's checkpoint",
                     Checkpoint, True, RUN | SAMPLING),
}
