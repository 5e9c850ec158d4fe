"""The run directory: config.json, tokenizer/, checkpoints/, metrics.jsonl, loss.png, result.json."""

import contextlib
import dataclasses
import json
import pathlib

from lm.base import options
from lm.base.errors import UserError
from lm.base.records import read_json, write_json
from lm.data import tokenizers
from lm.experiment.flags import FIELDS, Parsed


def belongs(folder: pathlib.Path, parsed: Parsed) -> None:
    """Raises UserError if the folder holds a run of another config, naming the fields that differ.

    Fields declared free (the mesh, how often to save) may differ: they do not change the result.
    """
    path = folder / "config.json"
    if not path.exists():
        return
    old = options.flatten(read_json(path)["config"])
    new = options.flatten(_plain(parsed))
    differ = [name for name, (_, field) in FIELDS.items()
              if name in old and old[name] != new[name] and not field.metadata["free"]]
    if differ:
        texts = ", ".join(f"{n} = {old[n]!r} there and {new[n]!r} now" for n in differ)
        raise UserError(f"{folder} belongs to another config: {texts}; "
                        "give --run=ANOTHER_DIR or the same values")


def begin(folder: pathlib.Path, parsed: Parsed, tokenizer) -> None:
    """Writes what a run is known by; UserError if the folder cannot be written."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "tokenizer").exists():
            tokenizers.save(tokenizer, folder / "tokenizer")
        write_json(folder / "config.json", dict(config=_plain(parsed), sources=parsed.sources))


@contextlib.contextmanager
def writing(folder: pathlib.Path):
    """Turns a failure to write into words."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {error.filename or folder}: {error.strerror}; free some "
                        "room, or give --run=DIR that can be written") from None


def _plain(parsed):
    """The config as JSON has it: lists for tuples."""
    return json.loads(json.dumps(dataclasses.asdict(parsed.experiment)))
