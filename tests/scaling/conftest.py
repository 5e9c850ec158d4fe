"""The commands and the tiny config of tests/experiment, and surfaces that are known."""

import pathlib
from types import SimpleNamespace

import numpy as np
import pytest
from commands import command, lm, place, refused, start, tiny, until

from lm.law import chinchilla
from lm.scaling import pictures
from lm.scaling.table import table

__all__ = ["command", "lm", "place", "refused", "start", "tiny", "until"]


@pytest.fixture(scope="session")
def known(tmp_path_factory):
    """Runs on a surface that is known, with .2 % of noise: their CSV and what made them.

    5 budgets of 7 sizes, and two runs of ten times the largest budget.
    """
    values = dict(A=400.0, B=1200.0, E=1.8, alpha=0.34, beta=0.36)
    random = np.random.default_rng(0)
    rows = []
    for C in [*np.geomspace(1e18, 1e20, 5), 1e21]:
        best = chinchilla.optimum(C, **values)[0]
        scale = np.geomspace(0.25, 4, 7) if C < 1e21 else np.array([0.5, 1.0])
        rows += [(N, C / 6 / N, C) for N in best * scale]
    N, D, C = np.array(rows).T
    loss = chinchilla.loss(N, D, **values) * np.exp(0.002 * random.standard_normal(len(N)))
    path = tmp_path_factory.mktemp("known") / "runs.csv"
    lines = [f"r{i},{n!r},{d!r},{c!r},{x!r}" for i, (n, d, c, x) in enumerate(zip(
        *(column.tolist() for column in (N, D, C, loss)), strict=True))]
    path.write_text("\n".join(["run,N,D,C,loss", *lines]) + "\n")
    return SimpleNamespace(path=path, values=values, runs=table(
        run=[f"r{i}" for i in range(len(N))], N=N, D=D, C=C, loss=loss))


@pytest.fixture(scope="session")
def fitted(known, tmp_path_factory):
    """The fit.json of those runs, the two largest held out."""
    from lm.__main__ import main
    path = pathlib.Path(tmp_path_factory.mktemp("fit")) / "fit.json"
    assert main(["scaling", "fit", str(known.path), "--held_out=C>=5e20", f"--out={path}",
                 "--bootstraps=200", "--starts=200"]) == 0
    return path


@pytest.fixture
def undrawn(monkeypatch):
    """A fit's pictures are not drawn: for tests of its numbers."""
    monkeypatch.setattr(pictures, "write", lambda tree, folder: [folder])
