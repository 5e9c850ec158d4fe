"""The record beside a checkpoint's arrays: what they are, their checksums, the caller's meta."""

import contextlib
import hashlib
import json

from lm.checkpoint.arrays import kind


class Damaged(Exception):
    """A checkpoint that cannot be trusted, and why."""


def seal(step: int, metric: float | None, meta: dict, leaves: dict, sums: dict) -> dict:
    """Returns the record, with a digest of itself. leaves: their kinds by path; meta: JSON."""
    record = {"step": step, "metric": metric, "meta": meta, "leaves": leaves, "sums": sums}
    record = json.loads(json.dumps(record))
    return record | {"digest": _digest(record)}


def read(directory, step: int) -> dict:
    """Returns the record of `step`; raises Damaged if it is missing or was changed."""
    try:
        record = json.loads((directory / str(step) / "meta" / "metadata").read_text())
        digest = record.pop("digest")
    except FileNotFoundError:
        raise Damaged("its record is missing") from None
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise Damaged(f"its record is unreadable, {type(error).__name__}") from None
    if digest != _digest(record) or record["step"] != step:
        raise Damaged("its record was changed")
    return record


def metrics(directory, steps) -> dict[int, float]:
    """Returns the metrics of those `steps` that have one and whose record is whole."""
    out = {}
    for step in steps:
        with contextlib.suppress(Damaged):
            out[step] = read(directory, step)["metric"]
    return {step: metric for step, metric in out.items() if metric is not None}


def difference(found: dict[str, str], wanted: dict, part: str) -> str | None:
    """Returns a line on the first leaf that the template has otherwise, or None.

    found: the kinds of the checkpoint's leaves. part: the subtree outside which all may differ.
    """
    inside = [n for n in found if not part or n == part or n.startswith(part + "/")]
    lines = [f"{n} is {found[n]} in the checkpoint but {kind(x)} here"
             for n, x in wanted.items() if n in found and found[n] != kind(x)]
    lines += [f"{n} is not in the checkpoint" for n in wanted if n not in found]
    lines += [f"{n} is in the checkpoint but not here" for n in inside if n not in wanted]
    more = f", and {len(lines) - 1} more differ" if len(lines) > 1 else ""
    return lines[0] + more if lines else None


def verify(recorded: dict[str, str], found: dict[str, str]) -> None:
    """Raises Damaged that names the first leaf whose checksum is not the recorded one."""
    for name, checksum in found.items():
        if recorded[name] != checksum:
            raise Damaged(f"the checksum of {name} differs")


def _digest(record: dict) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
