"""The mesh as a config: how many devices along each axis."""

from dataclasses import dataclass

from lm.base.options import option


@dataclass(frozen=True)
class Config:
    """Devices along each mesh axis; their product is the number of devices, -1 fills one axis."""

    data: int = option(-1, "copies of the model, each on its own sequences", free=True)
    fsdp: int = option(1, "as data, with parameters and optimizer state sharded", free=True)
    tensor: int = option(1, "devices that share each layer's heads and hidden units", free=True)
