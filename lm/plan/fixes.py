"""What to change in a config whose step does not fit, ranked."""

from collections.abc import Callable, Iterator, Mapping

from lm.base.errors import UserError
from lm.experiment.config import Experiment

_REMAT = ("none", "dots", "attention", "full")   # each keeps less than the one before it


def candidates(e: Experiment, mesh: Mapping[str, int]) -> Iterator[tuple[dict, str]]:
    """Yields (overrides of the config, what they mean), what costs least first.

    mesh: devices along each axis. What changes the result of training comes last.
    """
    c, T = e.model, e.data.T
    chunk = max(T // 16, 128)
    if chunk < T and (not c.loss_chunk or chunk < c.loss_chunk):
        yield {"model.loss_chunk": chunk}, "logits of fewer tokens at once"
    if mesh["data"] > 1:
        yield {"mesh.data": 1, "mesh.fsdp": mesh["data"] * mesh["fsdp"]}, (
            "parameters and optimizer state over all copies")
    at = _REMAT.index(c.remat) if c.remat in _REMAT else len(_REMAT)
    for name in _REMAT[at + 1:]:
        yield {"model.remat": name}, "activations computed again rather than kept"
    yield {"train.accumulate": 2 * e.train.accumulate}, "microbatches of half the size"
    if mesh["fsdp"] % 2 == 0 and c.N % (2 * mesh["tensor"]) == 0:
        yield {"mesh.fsdp": mesh["fsdp"] // 2, "mesh.tensor": 2 * mesh["tensor"]}, (
            "each layer over more devices")
    if c.remat in _REMAT:
        yield {"model.remat": "offload"}, "layers' inputs kept by the host"
    if e.train.offload == "none" and not (e.train.local_steps or e.train.staleness):
        yield {"train.offload": "optimizer"}, "optimizer state kept by the host"
    if c.precision != "bfloat16_stored":
        yield {"model.precision": "bfloat16_stored"}, (
            "no float32 copy of the parameters; changes training")
    if e.train.optimizer in ("adamw", "muon"):
        yield {"train.optimizer": "adafactor"}, "hardly any optimizer state; changes training"
    if e.data.B % 2 == 0:
        yield {"data.B": e.data.B // 2}, "half the batch; changes training"


def ranked(e: Experiment, mesh: Mapping[str, int], peak: float, limit: float,
           predict: Callable[[dict], float] | None = None) -> list[dict]:
    """Returns changes that save memory, best first: overrides, why, bytes, fits.

    bytes: what `predict` says for the overrides; a UserError of it says that they cannot be. fits:
    whether that, corrected by how far `predict` is from the compiler's `peak` for the config as it
    is, is within `limit`. First those that fit, the cheapest before; if one change is not enough,
    several together. Without `predict` both are None, the order is that of `candidates`.
    """
    tries = [dict(overrides=changes, why=why, bytes=None, fits=None)
             for changes, why in candidates(e, mesh)]
    if predict is None:
        return tries
    now = float(predict({}))
    right = peak / now

    def judged(row):
        try:
            size = float(predict(row["overrides"]))
        except UserError:
            return None
        return row | dict(bytes=size, fits=bool(size * right <= limit)) if size < now else None

    out = list(filter(None, map(judged, tries)))
    if not any(row["fits"] for row in out):
        out += _together(out, judged)
    return sorted(out, key=lambda row: (not row["fits"], 0 if row["fits"] else row["bytes"]))


def _together(rows, judged):
    """Changes added to each other, in their order, as long as they help: the last one alone."""
    best = None
    for row in rows:
        if best is None:
            best = row
            continue
        both = judged(dict(overrides=best["overrides"] | row["overrides"],
                           why=f"{best['why']}; {row['why']}"))
        if both and both["bytes"] < best["bytes"]:
            best = both
        if best["fits"]:
            break
    return [best] if best and best not in rows else []
