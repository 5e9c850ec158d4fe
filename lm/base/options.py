"""Configs: fields declared once, with a line of help, and built strictly from plain mappings.

A room's `Config` is a frozen dataclass whose fields are made by `option`. Everything that asks
what the fields are (defaults, `--help`, flags, strict conversion, the stored config) reads that
declaration.
"""

import dataclasses
import math
import typing
from collections.abc import Iterator, Mapping

from lm.base import duration
from lm.base.errors import UserError, nearest


def option(default=dataclasses.MISSING, help: str = "", *, choices=None, low=None, high=None,
           free: bool = False, kept: bool = True, duration: bool = False):
    """Returns a dataclass field.

    choices: the legal values (a dict's keys, say). low, high: inclusive bounds of a number.
    free: may differ when a run is resumed. kept: whether it is a run's, or one process's alone.
    duration: a text that `lm.base.duration` reads.
    """
    return dataclasses.field(default=default, metadata=dict(
        help=help, choices=choices, low=low, high=high, free=free, kept=kept, duration=duration))


def build(cls, values: Mapping, path: str = ""):
    """Returns cls(**values), strictly: no unknown, missing or mistyped field passes.

    Nested dataclass fields take nested mappings. Raises UserError that names the field by its
    dotted path below `path` and, for an unknown one, the nearest valid name.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for name in values:
        if name not in fields:
            near = nearest(path + name, [path + f for f in fields])
            raise UserError(f"unknown field '{path}{name}'{near}")
    out = {}
    for name, field in fields.items():
        if name in values:
            out[name] = _convert(hints[name], values[name], field, path + name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UserError(f"missing field '{path}{name}': {field.metadata.get('help', '')}")
    try:
        return cls(**out)
    except UserError as error:  # from __post_init__, which does not know where it stands
        raise UserError(f"{path.rstrip('.')}: {error}" if path else str(error)) from None


def _convert(hint, value, field, name):
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):
            return value
        if not isinstance(value, Mapping):
            raise UserError(f"{name} must be a group of fields, got {value!r}")
        return build(hint, value, name + ".")
    meta = field.metadata
    if meta.get("duration") and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # a bare number of steps
    value = _typed(hint, value, name)
    if meta.get("choices") is not None and value not in meta["choices"]:
        near = nearest(str(value), map(str, meta["choices"]))
        raise UserError(f"{name}: unknown value '{value}'{near}")
    if meta.get("low") is not None and value < meta["low"]:
        raise UserError(f"{name} = {value} is too small; it must be at least {meta['low']}")
    if meta.get("high") is not None and value > meta["high"]:
        raise UserError(f"{name} = {value} is too large; it must be at most {meta['high']}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name} = {value} is not a finite number")
    if meta.get("duration"):
        try:
            duration.parse(value)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
    return value


def _typed(hint, value, name):
    origin = typing.get_origin(hint)
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            raise UserError(f"{name} must be a list, got {value!r}")
        item = typing.get_args(hint)[0]
        return tuple(_typed(item, v, f"{name}[{i}]") for i, v in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise UserError(f"{name} must be {_NOUNS[hint]}, got {value!r}")
    return value


_NOUNS = {int: "an integer", float: "a number", str: "a text", bool: "True or False"}


def walk(cls, path: str = "") -> Iterator[tuple[str, type, dataclasses.Field]]:
    """Yields (dotted name, type, field) of every leaf field, in the order of declaration."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from walk(hints[field.name], path + field.name + ".")
        else:
            yield path + field.name, hints[field.name], field


def defaults(cls) -> dict:
    """Returns the declared defaults as nested dicts, before a config fills in what follows."""
    return nest({name: field.default for name, _, field in walk(cls)})


def nest(flat: Mapping) -> dict:
    """Returns values by dotted path as nested dicts; `flatten` undoes it."""
    out = {}
    for name, value in flat.items():
        *path, last = name.split(".")
        node = out
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return out


def flatten(tree: Mapping, path: str = "") -> dict:
    """Returns nested mappings as one dict keyed by dotted path."""
    out = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            out.update(flatten(value, path + name + "."))
        else:
            out[path + name] = value
    return out
