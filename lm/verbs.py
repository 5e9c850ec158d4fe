"""Floor 8: the verbs by name: what each does, its flags and where it lives. No jax here."""

from dataclasses import dataclass

from lm.base.options import option, walk
from lm.experiment.flags import Verb
from lm.infer.config import Config as Infer
from lm.load.config import Config as Load
from lm.nn.precision import PRECISIONS
from lm.plan.config import Config as Plan
from lm.scaling import config as scaling
from lm.serve.config import Config as Serve


@dataclass(frozen=True)
class Train:
    """What a run has to do with plans."""

    plan: str = option("", "a plan.json of `lm plan`: its best choice is run, in place of --config")
    calibration: str = option("", "where what was measured is kept for the plans that follow; "
                              "empty: calibration.jsonl in $LM_CACHE (~/.cache/lm)")


@dataclass(frozen=True)
class Checkpoint:
    """Which of a run's checkpoints."""

    checkpoint: str = option("best", "which checkpoint of the run: best, latest or a step")


@dataclass(frozen=True)
class Verify:
    """What is verified, on how many devices."""

    devices: int = option(8, "CPU devices to lay the tiny form on", low=1, high=64)
    mesh: str = option("", "the one mesh, as in 'fsdp=4 tensor=-1'; empty: every one")
    precision: str = option("all", "that of every mesh; all: float32, and each on one mesh",
                            choices=("all", *PRECISIONS))
    steps: int = option(3, "training steps of each row", low=1)
    topology: str = option("", "compile the whole config for TYPE:SHAPE, as in v5p:4x4x4, or for "
                           "its own mesh.target (target), instead")
    out: str = option("", "a JSON file for the table")


RUN = {"run": "run"}
SAMPLING = {name: f"infer.{name}" for name, _, _ in walk(Infer)}

VERBS = {
    "plan": Verb("lm.plan.plan", "what fits, how fast, how long, at what price, on which chips",
                 Plan, True, RUN),
    "prepare": Verb("lm.experiment.prepare",
                    "read and clean the corpus, train the tokenizer, tokenise once to disk"),
    "train": Verb("lm.plan.train",
                  "train a model; the same command again continues where it stopped", Train,
                  short=RUN),
    "eval": Verb("lm.experiment.evaluate", "evaluate a run's checkpoint on the held-out split",
                 Checkpoint, True, RUN),
    "generate": Verb("lm.experiment.generate", "continue a prompt with a run's checkpoint",
                     Checkpoint, True, RUN | SAMPLING),
    "serve": Verb("lm.serve.serve", "answer requests with a run's checkpoint, as OpenAI's API does",
                  Serve, True, RUN),
    "bench": Verb("lm.load.bench", "send a server the load of many users, and measure what they "
                  "would see", Load, config=False),
    "verify": Verb("lm.experiment.verify", "compare every mesh and precision with one device, on "
                   "this CPU; or compile for chips that are not here", Verify),
    "scaling design": Verb("lm.scaling.design", "lay out runs of several budgets and sizes, with "
                           "what they cost", scaling.Design),
    "scaling run": Verb("lm.scaling.run", "train the runs of a ladder that are missing",
                        scaling.Run, takes="ladder", config=False),
    "scaling fit": Verb("lm.scaling.fit", "fit a law to runs: what it says, how sure, and whether "
                        "it held", scaling.Fit, takes="runs", config=False),
    "scaling predict": Verb("lm.scaling.predict", "the best size, tokens and loss of a budget, by "
                            "a fit", scaling.Predict, takes="fit", config=False),
    "scaling advise": Verb("lm.scaling.advise", "what the published laws say of a training",
                           scaling.Advise, config=False),
    "scaling status": Verb("lm.scaling.status", "a run's loss beside what its ladder predicts",
                           scaling.Status, takes="run", config=False),
}


def named(argv: list[str]) -> tuple[str, list[str]]:
    """Returns the verb that a command line names, of one word or two, and what follows it."""
    name, *rest = argv
    if rest and listed(name) and rest[0] != "help" and rest[0][:1] != "-":
        return f"{name} {rest[0]}", rest[1:]
    return name, rest


def listed(group: str = "") -> dict[str, Verb]:
    """Returns the verbs by name; with `group`, those of two words that begin with it."""
    return {n: verb for n, verb in VERBS.items() if not group or n.startswith(group + " ")}
