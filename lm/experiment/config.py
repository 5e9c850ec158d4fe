"""The whole experiment as one frozen tree. No jax: a wrong flag is answered before it loads."""

from dataclasses import dataclass, field

from lm.base.options import option
from lm.data.config import Config as Data
from lm.infer.config import Config as Infer
from lm.mesh.config import Config as Mesh
from lm.models.decoder.config import Config as Decoder
from lm.train.config import Config as Train


@dataclass(frozen=True)
class Experiment:
    """One run: its data, model, mesh, training, and the samples shown at its end."""

    run: str = option("", "run directory; empty: runs/<config file>", free=True)
    seed: int = option(0, "decides initial weights, order of data and dropout", low=0,
                       high=2**32 - 1)
    data: Data = field(default_factory=Data)
    model: Decoder = field(default_factory=Decoder)
    mesh: Mesh = field(default_factory=Mesh)
    train: Train = field(default_factory=Train)
    infer: Infer = field(default_factory=Infer)
