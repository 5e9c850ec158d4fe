"""The mesh as a config: how many devices along each axis."""

from dataclasses import dataclass

from lm.base.options import option

# Slowest network first: neighbours along the last axis are neighbours on the chip's own links.
AXES = ("stage", "data", "fsdp", "expert", "context", "tensor")


@dataclass(frozen=True)
class Config:
    """Devices along each mesh axis; their product is the number of devices, -1 fills one axis."""

    stage: int = option(1, "groups of layers, through which microbatches pass in turn", free=True)
    data: int = option(-1, "copies of the model, each on its own sequences", free=True)
    fsdp: int = option(1, "as data, with parameters and optimizer state sharded", free=True)
    expert: int = option(1, "as data, with the experts of each layer shared out", free=True)
    context: int = option(1, "devices that share each sequence", free=True)
    tensor: int = option(1, "devices that share each layer's heads and hidden units", free=True)
    slices: int = option(0, "groups of devices joined by a slower network; 0: as found", low=0,
                         free=True)
    across: str = option("data", "the axis that is laid across slices", choices=("data", "stage"),
                         free=True)
    target: str = option("", "what the config is made for: TYPE:SHAPE as in v5p:4x4x4; "
                         "lm verify --topology compiles for it", free=True)
    coordinator: str = option("", "HOST:PORT of process 0 of many; empty: as a TPU VM, Slurm or a "
                              "JobSet tells; HOST:PORT+1 is used too", free=True, kept=False)
    processes: int = option(0, "how many processes compute together; 0: as found", low=0, free=True,
                            kept=False)
    process: int = option(-1, "which of them this one is, from 0; -1: as found", low=-1, free=True,
                          kept=False)
    wait: float = option(50.0, "seconds within which all of them have to arrive", low=1.0,
                         free=True, kept=False)
