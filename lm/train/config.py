"""How a model is trained: length, optimizer, schedule, and what happens along the way."""

from dataclasses import dataclass

from lm.base.errors import UserError
from lm.base.options import option


@dataclass(frozen=True)
class Config:
    """Durations are texts: `2000 steps`, `1e9 tokens`, `3 epochs`, or `5%` of the run."""

    length: str = option("1000 steps", "how long to train", duration=True)
    optimizer: str = option("adamw", "update rule",
                            choices=("adamw", "adafactor", "lion", "muon", "sgd"))
    lr: float = option(1e-3, "highest learning rate", low=0.0)
    hidden_lr: float = option(0.02, "muon: that of the hidden matrices; lr is the others'", low=0.0)
    schedule: str = option("cosine", "learning rate after the warm-up",
                           choices=("constant", "linear", "cosine", "wsd", "inverse_sqrt",
                                    "cyclic"))
    warmup: str = option("2%", "the learning rate rises linearly over this", duration=True)
    decay: str = option("20%", "wsd: it falls linearly over the last of this", duration=True)
    final: float = option(0.1, "learning rate at the end as a share of the highest", low=0.0)
    cycles: int = option(4, "cyclic: cosine cycles, each restarting at the highest rate", low=1)
    weight_decay: float = option(0.1, "decoupled decay of matrices and embeddings", low=0.0)
    b1: float = option(0.9, "first-moment decay (adamw, lion); momentum (sgd)", low=0.0,
                       high=0.9999)
    b2: float = option(0.95, "second-moment decay (adamw, lion)", low=0.0, high=0.9999)
    eps: float = option(1e-8, "added to the root of the second moment", low=0.0)
    muon_momentum: float = option(0.95, "momentum of muon's hidden matrices", low=0.0, high=0.9999)
    clip: float = option(1.0, "largest global gradient norm; 0: off", low=0.0)
    accumulate: int = option(1, "microbatches that a batch is computed in", low=1)
    loss_scale_every: int = option(2000, "float16: finite steps in a row that double the loss "
                                   "scale", low=1)
    local_steps: int = option(0, "DiLoCo: steps that each place along mesh.data takes by itself "
                              "between two outer steps; 0: every step is taken together", low=0)
    outer_lr: float = option(0.7, "DiLoCo: learning rate of the outer steps", low=0.0)
    outer_momentum: float = option(0.9, "DiLoCo: Nesterov momentum of the outer steps", low=0.0,
                                   high=0.9999)
    staleness: int = option(0, "updates that the latest gradient is behind; those of other places "
                            "along mesh.data are behind by less", low=0)
    offload: str = option("none", "what lies in the host's memory between steps",
                          choices=("none", "optimizer"), free=True)
    max_skipped: int = option(20, "non-finite steps in a row that end the run", low=1, free=True)
    spike: float = option(6.0, "alarm when a loss is this many standard deviations above its "
                          "recent mean and a tenth above it; 0: off", low=0.0, free=True)
    log_every: str = option("10 steps", "between reports", duration=True, free=True)
    evaluate_every: str = option("10%", "between evaluations", duration=True)
    save_every: str = option("10%", "between checkpoints", duration=True, free=True)
    keep: int = option(2, "newest checkpoints kept, beside the best", low=1, free=True)
    patience: int = option(0, "evaluations without improvement that end the run; 0: off", low=0)
    profile: str = option("", "first:last traces the steps after first up to last", free=True)
    tensorboard: bool = option(True, "write TensorBoard events", free=True)

    def __post_init__(self):
        """Refuses a profile range that is none, and two ways to train at once."""
        first, _, last = self.profile.partition(":")
        digits = first.isdigit() and last.isdigit()
        if self.profile and not (digits and 1 <= int(first) < int(last)):
            raise UserError(f"profile = '{self.profile}' is not first:last, e.g. 10:15")
        if self.local_steps and self.staleness:
            raise UserError("local_steps and staleness are two ways to train; set one of them to 0")
        if self.offload != "none" and (self.local_steps or self.staleness):
            raise UserError("offload = 'optimizer' goes with synchronous training only; set "
                            "local_steps and staleness to 0")
