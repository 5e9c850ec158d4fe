"""Run records: JSON files that are never half written, and JSON lines that survive a crash."""

import json
import math
import os
import pathlib
from collections.abc import Iterator

from lm.base.errors import UserError


def write_json(path, tree) -> None:
    """Writes `tree` at `path` through a temporary file: readers see the old or the new one."""
    path = pathlib.Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(tree, indent=1, ensure_ascii=False) + "\n")
    os.replace(part, path)


def read_json(path):
    """Returns the tree in a JSON file; a file that is none is a UserError."""
    try:
        return json.loads(pathlib.Path(path).read_text())
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); it was damaged or is not of this "
                        "tool") from None


def read_lines(path) -> Iterator[dict]:
    """Yields the records of a JSON-lines file; a last line cut by a crash is left out."""
    path = pathlib.Path(path)
    if not path.exists():
        return
    with path.open() as file:
        for line in file:
            if not line.endswith("\n"):
                return
            try:
                yield json.loads(line)
            except ValueError:
                return


class Lines:
    """An append-only JSON-lines file that continues after a crash at a given step."""

    def __init__(self, path, keep_until: int):
        """Opens `path`, dropping records of steps above `keep_until`: they will be made again."""
        self.path = pathlib.Path(path)
        kept = [r for r in read_lines(self.path) if r.get("step", 0) <= keep_until]
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        part.write_text("".join(json.dumps(r) + "\n" for r in kept))
        os.replace(part, self.path)
        self.file = self.path.open("a")

    def write(self, record: dict) -> None:
        """Appends one record and hands it to the system; JSON has null for nan and inf."""
        record = {k: None if isinstance(v, float) and not math.isfinite(v) else v
                  for k, v in record.items()}
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()
