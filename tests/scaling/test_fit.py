"""From a table of runs to fit.json, by the command."""

import numpy as np
import pytest

from lm.base.records import read_json
from lm.law import chinchilla


def test_what_made_the_runs_is_found(known, fitted):
    tree = read_json(fitted)
    assert sum(run["used"] for run in tree["runs"]) == 35
    fit = tree["fit"]
    for name in ("E", "alpha", "beta"):
        assert abs(fit["values"][name] - known.values[name]) < 3 * fit["errors"][name]
        assert fit["profiles"][name]["identified"]
    truth = known.values["beta"] / (known.values["alpha"] + known.values["beta"])
    assert fit["intervals"]["exponent"][0] < truth < fit["intervals"]["exponent"][1]
    assert tree["noise"] == pytest.approx(0.002, rel=0.3)
    assert tree["cross"]["agrees"]


def test_the_objective_is_that_of_the_rows(known, fitted):
    """Huber's loss of the rows that the file holds, summed anew."""
    tree = read_json(fitted)
    r = np.array([np.log(run["loss"] / run["predicted"]) for run in tree["runs"] if run["used"]])
    huber = np.where(np.abs(r) <= 1e-3, r**2 / 2, 1e-3 * (np.abs(r) - 5e-4))
    assert tree["fit"]["objective"] == pytest.approx(huber.sum(), rel=1e-9)
    values = tree["fit"]["values"]
    for run in tree["runs"]:
        assert run["predicted"] == pytest.approx(
            chinchilla.loss(run["N"], run["D"], **values), rel=1e-9)


def test_runs_held_out_are_predicted(fitted):
    held = read_json(fitted)["held_out"]
    assert [run["run"] for run in held] == ["r35", "r36"]
    for run in held:
        assert run["low"] <= run["loss"] <= run["high"]
        assert run["high"] - run["low"] < 0.1


def test_approach_two_stands_beside(known, fitted):
    tree = read_json(fitted)["isoflop"]
    assert [m["C"] for m in tree["minima"]] == pytest.approx(np.geomspace(1e18, 1e20, 5))
    for m in tree["minima"]:
        best = chinchilla.optimum(m["C"], **known.values)[0]
        assert m["N"] == pytest.approx(best, rel=0.25)
    assert "beta/(alpha+beta)" in tree["bias"]["words"]


def test_its_pictures_lie_beside_it(fitted):
    names = {path.name for path in fitted.with_suffix("").iterdir()}
    assert {"fit.html", "isoflop.png", "contours.png", "ratio.png", "predicted.png",
            "residuals.png", "profile-alpha.png"} <= names


def test_what_is_fixed_stays_and_what_is_tied_is_equal(lm, known, tmp_path):
    out = tmp_path / "fit.json"
    ended = lm("scaling", "fit", known.path, f"--out={out}", "--fixed=E=1.8", "--tied=alpha=beta",
               "--bootstraps=0", "--drop=2", "--starts=50")
    assert ended.code == 0, ended.err
    tree = read_json(out)
    values = tree["fit"]["values"]
    assert values["E"] == pytest.approx(1.8)
    assert values["alpha"] == values["beta"]
    assert "E" not in tree["fit"]["profiles"]
    assert sum(not run["used"] for run in tree["runs"]) == 2
    worst = sorted(run["loss"] for run in tree["runs"])[-2:]
    assert sorted(run["loss"] for run in tree["runs"] if not run["used"]) == worst
    assert "fixed" in ended.out


def table(known, change):
    """The CSV with its lines changed."""
    lines = known.path.read_text().splitlines()
    return "\n".join(change(lines)) + "\n"


@pytest.mark.parametrize(("change", "says"), [
    (lambda x: [*x[:3], x[3].rsplit(",", 1)[0] + ",nan", *x[4:]], "r2"),
    (lambda x: [*x[:3], x[3].rsplit(",", 1)[0] + ",-1", *x[4:]], "r2"),
    (lambda x: [*x, x[5]], "r4"),
    (lambda x: [",".join([*row.split(",")[:3], "9e19", row.split(",")[4]]) if i else row
                for i, row in enumerate(x)], "6N"),
    (lambda x: [row if i % 3 or not i else row.rsplit(",", 1)[0] + "," + str(
        float(row.rsplit(",", 1)[1]) / np.log(2)) for i, row in enumerate(x)], "bits"),
    (lambda x: x[:4], "3 runs cannot tell the 5 parameters"),
    (lambda x: [row.rsplit(",", 1)[0] for row in x], "loss"),
])
def test_bad_tables(refused, lm, known, undrawn, tmp_path, change, says):
    path = tmp_path / "runs.csv"
    path.write_text(table(known, change))
    if says == "r4":   # a run that stands there twice is a warning
        assert "r4" in lm("scaling", "fit", path, "--bootstraps=0", "--starts=30").out
        return
    refused("scaling", "fit", path, says=says)
    assert not (tmp_path / "fit.json").exists()


@pytest.mark.parametrize(("given", "says"), [
    ([], "RUNS is missing"), (["none.csv"], "none.csv"),
    (["{}", "--law=chinchila"], "did you mean 'chinchilla'?"),
    (["{}", "--fixed=F=1"], "the law has A, B, E, alpha, beta"),
    (["{}", "--tied=alpha"], "ties no two parameters"),
    (["{}", "--where=N>1e30"], "leaves no row"),
    (["{}", "--law=repeats"], "U"),
    (["{}", "--held_out=N>0"], "0 runs cannot tell"),
    (["{}", "--out=/dev/null/fit.json"], "cannot write"),
])
def test_bad_flags(refused, known, given, says):
    refused("scaling", "fit", *(word.format(known.path) for word in given), says=says)


def few(lm, known, tmp_path, *more, change=None):
    """A quick fit of the known runs, or of their lines changed."""
    path, out = tmp_path / "runs.csv", tmp_path / "fit.json"
    path.write_text(table(known, change or (lambda x: x)))
    ended = lm("scaling", "fit", path, "--starts=30", "--bootstraps=20", *more)
    assert ended.code == 0, ended.err
    return read_json(out), ended.out


def test_rows_without_a_name_are_called_by_their_place_in_the_file(lm, known, undrawn, tmp_path):
    tree, _ = few(lm, known, tmp_path, "--held_out=C>=5e20", "--where=N>1e8",
                  change=lambda x: [row.split(",", 1)[1] for row in x])
    lines = known.path.read_text().splitlines()[1:]
    large = [i for i, row in enumerate(lines, 1) if float(row.split(",")[1]) > 1e8]
    assert [run["run"] for run in tree["runs"]] == [f"row {i}" for i in large]
    assert [run["run"] for run in tree["held_out"]] == ["row 36", "row 37"]


def test_noise_is_of_the_logarithm_whatever_the_residual(lm, known, undrawn, tmp_path):
    linear, _ = few(lm, known, tmp_path, "--residual=linear", "--squares")
    assert linear["noise"] == pytest.approx(0.002, rel=0.3)


@pytest.mark.parametrize("fixed", ["alpha=.34 beta=.36", "A=400 B=1200 E=1.8 alpha=.34", "E=0"])
def test_whatever_is_fixed(lm, known, undrawn, tmp_path, fixed):
    tree, out = few(lm, known, tmp_path, f"--fixed={fixed}")
    assert tree["fixed"].keys() == {word.split("=")[0] for word in fixed.split()}
    assert out.count(" fixed") == len(tree["fixed"])
    ended = lm("scaling", "predict", tmp_path / "fit.json", "--params=1e9", "--tokens=2e10")
    assert ended.code == 0, ended.err
    assert "nan" not in ended.out


def test_as_many_rows_as_numbers_are_too_few(refused, lm, known, undrawn, tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(table(known, lambda x: [x[0], *x[1:30:6]]))   # five rows
    refused("scaling", "fit", path, says="5 runs cannot tell the 5 parameters")
    ended = lm("scaling", "fit", path, "--tied=alpha=beta", "--starts=30", "--bootstraps=0")
    assert ended.code == 0, ended.err
    refused("scaling", "fit", known.path, "--drop=33", says="4 runs cannot tell the 5 parameters")
    refused("scaling", "fit", known.path, "--held_out=C>0",
            says="0 runs cannot tell the 5 parameters")


def test_one_budget_says_nothing_of_how_n_grows(lm, known, undrawn, tmp_path):
    """The law is still fitted, and what these runs do not tell is said."""
    tree, out = few(lm, known, tmp_path, "--where=C<2e18")
    assert "one budget only" in out
    assert "not identified by these runs" in out
    assert tree["isoflop"] is None


def sweep():
    """A sweep of five learning rates at eight sizes, the best as a power of size and tokens."""
    lines = ["N,N_noemb,D,lr,loss"]
    for i, N in enumerate((1e7, 3e7, 1e8, 3e8)):
        for D in (1e9 * 2**i, 1e10 * 2**i):
            best = 2 * N**-0.7 * D**0.3
            lines += [f"{N},{N},{D},{best * x},{3 + 0.5 * np.log(x)**2}" for x in (
                .25, .5, 1, 2, 4)]
    return "\n".join(lines) + "\n"


def test_learning_rates_of_a_sweep(lm, refused, tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(sweep())
    ended = lm("scaling", "fit", path, "--law=lr", "--bootstraps=20", "--starts=30")
    assert ended.code == 0, ended.err
    values = read_json(tmp_path / "fit.json")["fit"]["values"]
    assert values == pytest.approx(dict(coefficient=2, n=-0.7, d=0.3), rel=1e-3)
    refused("scaling", "fit", path, "--law=lr", "--drop=2", says="--drop is of losses")
