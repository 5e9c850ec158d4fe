"""From a command line to an Experiment: `--config=FILE[:ARG] --config.model.D=256`.

The file's `get_config(arg)` returns an ml_collections.ConfigDict that names what differs from the
defaults; ml_collections' own flags then override single fields.
"""

import contextlib
import dataclasses
import difflib
import io
import pathlib
import re
import runpy
from dataclasses import dataclass, field
from typing import NamedTuple

import ml_collections
from absl import flags
from ml_collections import config_flags

from lm.base import options
from lm.base.errors import UserError, nearest
from lm.base.records import read_json
from lm.experiment.config import Experiment

FIELDS = {name: (hint, field) for name, hint, field in options.walk(Experiment)}


@dataclass(frozen=True)
class Nothing:
    """No flags of its own."""


@dataclass(frozen=True)
class Verb:
    """One verb."""

    module: str                 # has run(parsed) -> exit status
    doc: str
    flags: type = Nothing       # its own flags
    from_run: bool = False      # whether --run names an existing run to take the config from
    short: dict[str, str] = field(default_factory=dict)   # flags that stand for config fields
    takes: str = ""             # its own flag that a bare word stands for
    config: bool = True         # whether it is about a config


class Parsed(NamedTuple):
    """A command line, read."""

    experiment: Experiment | None   # None of a verb that is about no config
    sources: dict[str, str]   # dotted field -> 'default', 'file', 'run' or 'flag'
    flags: object             # the verb's own, an instance of its dataclass


def parse(argv: list[str], verb: Verb) -> Parsed:
    """Returns what `argv` says to `verb`; UserError names what is wrong with it."""
    config, overrides, own = _split(argv, verb)
    if verb.takes and verb.takes not in own and _field(verb, verb.takes).default == "":
        raise UserError(f"{verb.takes.upper()} is missing: "
                        f"{_field(verb, verb.takes).metadata['help']}")
    if not verb.config:
        return Parsed(None, {}, options.build(verb.flags, own))
    values = ml_collections.ConfigDict(options.defaults(Experiment))
    origin, given = _origin(config, overrides.get("run"), own.get("plan"), verb, values)
    sources = dict.fromkeys(FIELDS, "default") | dict.fromkeys(given, origin)
    for name, value in given.items():
        _set(values, name, value)
    _override(values, overrides)
    sources.update(dict.fromkeys(overrides, "flag"))
    experiment = options.build(Experiment, values.to_dict())
    return Parsed(experiment, sources, options.build(verb.flags, own))


def _origin(config, run, plan, verb, values):
    """Where the config comes from, and its fields that are set there."""
    if config is not None and plan:
        raise UserError("--config and --plan both say what to run; give one of them")
    if plan:
        given, values.run = planned(pathlib.Path(plan))
        return "plan", given
    if config is not None:
        given = _load(config)
        options.build(Experiment, given)              # strict, before it is merged with defaults
        path, _, arg = config.partition(":")
        values.run = f"runs/{pathlib.Path(path).stem}{'-' + arg.replace('/', '-') if arg else ''}"
        return "file", options.flatten(given)
    if not verb.from_run:
        raise UserError("--config=FILE is missing; e.g. --config=configs/quickstart.py")
    if not run:
        raise UserError("--run=DIR or --config=FILE is missing; e.g. --run=runs/quickstart")
    path = pathlib.Path(run).expanduser() / "config.json"
    if not path.exists():
        raise UserError(f"{run} is no run directory: it has no config.json; "
                        "give --run=DIR of a `lm train`")
    return "run", stored(path)


def of_run(run: str | pathlib.Path) -> Experiment:
    """Returns the experiment that a run directory was made with."""
    return parse([f"--run={run}"], Verb("", "", from_run=True, short=dict(run="run"))).experiment


def planned(path: pathlib.Path) -> tuple[dict, str]:
    """Returns the fields that a plan.json chose, by dotted name, and the run that it is for."""
    if not path.is_file():
        raise UserError(f"no plan '{path}'; `lm plan --config=FILE --out={path}` makes one")
    try:
        held = read_json(path)
        fields = {name: value for name, value in held["config"].items() if name in FIELDS}
        return fields, held["run"]
    except (AttributeError, KeyError, TypeError):
        raise UserError(f"{path} is not the plan of a training; `lm plan` writes one") from None


def stored(path: pathlib.Path) -> dict:
    """Returns the fields that a run's config.json holds, by dotted name."""
    try:
        fields = options.flatten(read_json(path)["config"])
        if "model.compute" in fields:  # the name that it had at first
            fields["model.precision"] = fields.pop("model.compute")
    except (AttributeError, KeyError, TypeError):
        raise UserError(f"{path} is not the config of a run; put back a copy, or give another "
                        "--run") from None
    return {name: value for name, value in fields.items() if name in FIELDS}


def _split(argv, verb):
    """The --config file, the overrides of config fields and the verb's own flags in a command."""
    own_fields = {name: hint for name, hint, _ in options.walk(verb.flags)}
    config, overrides, own = None, {}, {}
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            if not verb.takes or verb.takes in own:
                raise UserError(f"'{word}' is no flag; flags are --name=value")
            own[verb.takes] = word
            continue
        name, equals, value = word[2:].partition("=")
        if not equals and own_fields.get(name) is bool:
            value = "true"
        elif not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"--{name} needs a value: --{name}=...")
            value = rest.pop(0)
        if name == "config" and verb.config:
            config = value
        elif name.startswith("config.") and verb.config:
            name = name[len("config."):]
            if name not in FIELDS:
                raise UserError(f"unknown field 'config.{name}'{_near(name)}")
            overrides[name] = value
        elif name in verb.short:
            overrides[verb.short[name]] = value
        elif name in own_fields:
            own[name] = _typed(name, value, own_fields[name])
        else:
            known = [*verb.short, *own_fields, *["config"] * verb.config, "help"]
            near = nearest(name, known)
            of_config = verb.config and name in FIELDS
            raise UserError(f"unknown flag '--{name}'{_near(name) if of_config else near}")
    return config, overrides, own


def _field(verb, name):
    """The declaration of one of a verb's own flags."""
    return next(field for own, _, field in options.walk(verb.flags) if own == name)


def _typed(name, value, kind):
    """A flag's text as its type."""
    if kind is bool:
        if value.lower() not in ("true", "false"):
            raise UserError(f"--{name} is true or false, got '{value}'")
        return value.lower() == "true"
    try:
        return kind(value) if kind in (int, float) else value
    except ValueError:
        if kind is int and re.fullmatch(r"\d+(\.\d*)?e\+?\d+", value) and float(value) % 1 == 0:
            return int(float(value))
        words = {int: "an integer", float: "a number"}[kind]
        raise UserError(f"--{name} must be {words}, got '{value}'") from None


def _near(name):
    """The nearest field: the same in another room, or one of nearly that name."""
    last = name.rsplit(".", 1)[-1]
    same = [f for f in FIELDS if f.rsplit(".", 1)[-1] == last]
    close = difflib.get_close_matches(name, same, 1, 0) or difflib.get_close_matches(
        name, FIELDS, 1, 0.5)
    return f"; did you mean '--config.{close[0]}'?" if close else "; see `lm train --help`"


def _load(config):
    """What a config file's get_config(arg) returns, as nested dicts."""
    path, _, arg = config.partition(":")
    file = pathlib.Path(path)
    if not file.is_file():
        known = [str(p) for p in file.parent.glob("*.py")] if file.parent.is_dir() else []
        raise UserError(f"no config file '{path}'{nearest(path, known) if known else ''}")
    try:
        module = runpy.run_path(path)
        given = module["get_config"](arg) if arg else module["get_config"]()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} does not make a config: "
                        f"{type(error).__name__}: {error}") from error
    if not isinstance(given, ml_collections.ConfigDict):
        raise UserError(f"{path}: get_config must return an ml_collections.ConfigDict, "
                        f"got {type(given).__name__}")
    return given.to_dict()


def _set(values, name, value):
    """Sets a dotted field of a ConfigDict whose type the default may not share (None, lists)."""
    *path, last = name.split(".")
    for part in path:
        values = values[part]
    with values.ignore_type():
        values[last] = value


def _override(values, overrides):
    """Applies --config.x=y flags through ml_collections, which knows each field's type."""
    if not overrides:
        return
    argv = ["lm", *(f"--config.{name}={value}" for name, value in overrides.items())]
    holder = flags.FlagValues()
    config_flags.DEFINE_config_dict("config", values, flag_values=holder, sys_argv=argv)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            holder(argv)
    except flags.Error as error:
        name = next((n for n in overrides if f"config.{n}=" in str(error)), "")
        hint = FIELDS[name][0] if name else None
        kind = getattr(hint, "__name__", str(hint))
        raise UserError(f"config.{name} must be of type {kind}, got '{overrides.get(name)}'"
                        if name else str(error)) from None


def describe(parsed: Parsed) -> str:
    """Returns the effective config: what was set with its source, then the defaults in brief."""
    values = options.flatten(dataclasses.asdict(parsed.experiment))
    lines = [f"  {name} = {value!r}  ({parsed.sources[name]})" for name, value in values.items()
             if parsed.sources[name] != "default"]
    rest = " ".join(f"{name}={value!r}" for name, value in values.items()
                    if parsed.sources[name] == "default")
    return "\n".join(["config:", *lines, f"  defaults: {rest}"])


def help_text(name: str, verb: Verb) -> str:
    """Returns `lm VERB --help`: what it does, its own flags, every config field."""
    def row(flag, field):
        choices = field.metadata.get("choices")
        among = f" ({', '.join(map(str, choices))})" if choices else ""
        return f"  --{flag}={field.default!r}: {field.metadata['help']}{among}"
    lines = [f"lm {name}{' ' * bool(verb.takes)}{verb.takes.upper()}: {verb.doc}", ""]
    if verb.config:
        lines += ["  --config=FILE[:ARG]: its get_config(ARG) returns what differs from the "
                  "defaults"]
    lines += [row(n, field).replace("--" + n, n.upper(), 1) if n == verb.takes else row(n, field)
              for n, _, field in options.walk(verb.flags)]
    lines += [f"  --{n}: short for --config.{full}" for n, full in verb.short.items() if n != full]
    if "run" in verb.short:
        read = " that the config is read from" if verb.from_run else ""
        lines += [f"  --run=DIR: the run directory{read}"]
    if verb.config:
        lines += ["", "config fields with their defaults:"]
        lines += [row("config." + n, field) for n, (_, field) in FIELDS.items()]
    return "\n".join(lines)
