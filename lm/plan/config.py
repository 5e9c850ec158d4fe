"""What `lm plan` is asked. No jax here."""

from dataclasses import dataclass

from lm.base.options import option
from lm.plan.serving.question import Question


@dataclass(frozen=True)
class Config(Question):
    """What to train within what limits on which chips; or, with `serve`, the load to serve."""

    chips: int = option(0, "how many chips; 0: every legal number", low=0)
    slice: str = option("", "the slice, as 4x4x4 or 2x(16x16); of GPUs hosts x GPUs")
    override: str = option("", "fields of the chip that are otherwise, as in 'hbm_bytes=96e9 "
                           "network.link=1e11'")
    tokens: float = option(0.0, "tokens to train on; 0: the config's train.length", low=0.0)
    epochs: float = option(0.0, "the same as epochs over data_tokens", low=0.0)
    data_tokens: float = option(0.0, "different tokens there are; 0: not known", low=0.0)
    days: float = option(0.0, "days that it may take; 0: any", low=0.0)
    budget: float = option(0.0, "$ that it may cost; 0: any", low=0.0)
    hardware: str = option("", "a TOML or JSON file of chips, new or changed")
    remats: str = option("none dots attention full", "what may be computed again")
    precisions: str = option("", "precisions to search; empty: the config's")
    optimizers: str = option("", "optimizers to search; empty: the config's")
    offloads: str = option("none", "what may lie in the host's memory: none, optimizer")
    mtbf: float = option(0.0, "mean hours of one chip between failures; 0: as published", low=0.0)
    top: int = option(5, "choices to list", low=1)
    compile: bool = option(False, "let the XLA compiler check the best choice")
    explain: str = option("", "the formula of a number of the plan, as step_time.fsdp")
    serve: bool = option(False, "plan serving, not training")
    calibration: str = option("", "measured runs that correct the time model; empty: "
                              "calibration.jsonl in $LM_CACHE (~/.cache/lm)")
    out: str = option("plan.json", "the plan; its report is beside it as .html")
