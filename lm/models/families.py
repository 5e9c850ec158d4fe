"""The model families by name. Each module has `build`, `loss` and, if it decodes, `new_cache`."""

from lm.models.decoder import model as decoder

FAMILIES = dict(decoder=decoder)
