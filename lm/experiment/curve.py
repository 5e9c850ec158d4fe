"""The loss curve of a run as a picture, drawn from its record."""

import pathlib

import matplotlib

from lm.base.records import read_lines

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402  (the backend is chosen before)


def draw(folder: pathlib.Path) -> pathlib.Path:
    """Draws training and validation loss against tokens; returns the picture's path."""
    records = list(read_lines(folder / "metrics.jsonl"))
    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for name, style, label in (("loss", "-", "training"), ("validation_loss", "o-", "validation")):
        points = [(r["tokens"], r[name]) for r in records if r.get(name) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, lw=1, ms=4)
    axes.set(xlabel="tokens", ylabel="loss (nats/token)", title=str(folder))
    axes.grid(alpha=0.3)
    axes.legend()
    path = folder / "loss.png"
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path
