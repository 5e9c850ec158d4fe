"""The model families by name. Each module has `build`, `loss` and `check`."""

from lm.models.decoder import model as decoder

FAMILIES = dict(decoder=decoder)
