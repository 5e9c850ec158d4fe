"""Published fits, made again by the command that a user has, and what they predicted."""

import pytest

from lm.base.records import read_json


@pytest.fixture
def fit(lm, shared, undrawn, tmp_path):
    """Fits a file of the shared data; returns fit.json as a tree and what was said."""
    def run(file, *more):
        out = tmp_path / "fit.json"
        ended = lm("scaling", "fit", shared / "scaling" / file, f"--out={out}", "--bootstraps=10",
                   "--starts=300", *more)
        assert ended.code == 0, ended.err
        return read_json(out), ended.out
    return run


def test_redpajama_five_runs_and_two_held_out(fit):
    """Gadre et al. 2024: four models at 20 tokens a parameter and one at 320."""
    used = "dataset=rpj N<1e9 tok_mult=20, dataset=rpj N<2e7 tok_mult=320"
    held = "dataset=rpj N>6e9 tok_mult=20, dataset=rpj N>1e9 tok_mult=640"
    tree, _ = fit("gadre_models.csv", "--law=overtrained", "--columns=loss=loss_c4_val",
                  f"--where={used}, {held}", "--held_out=N>1e9", "--squares",
                  "--residual=linear")
    assert sum(run["used"] for run in tree["runs"]) == 5
    assert tree["fit"]["values"] == pytest.approx(
        dict(a=166.211, b=366.687, eta=0.272851, E=1.83665), rel=1e-5)
    errors = sorted(run["predicted"] / run["loss"] - 1 for run in tree["held_out"])
    assert errors == pytest.approx([0.00710, 0.00732], abs=1e-5)


def test_the_13b_of_the_olmo_ladder(fit):
    """OLMo ladder, step 1: 16 runs up to 1.3B, absolute Huber 1e-3 on logarithms."""
    tree, _ = fit("olmo_ladder_c4.csv", "--law=olmo", "--columns=loss=c4_ma5", "--rule=olmo",
                  "--held_out=mode=eval")
    assert tree["fit"]["objective"] == pytest.approx(3.2998572045e-5, rel=1e-6)
    held = {run["run"]: run for run in tree["held_out"]}
    assert held["13B-5T"]["predicted"] == pytest.approx(2.34438731, rel=1e-6)
    assert held["13B-5T"]["predicted"] / held["13B-5T"]["loss"] - 1 == pytest.approx(
        -0.038348, abs=1e-6)


@pytest.mark.slow   # test_profile has the ridge without the command
def test_repeated_data_and_its_ridge(fit):
    """Muennighoff et al. 2023: only the two decays are free, and they lie on a ridge."""
    tree, out = fit("datablations_fit182.csv", "--law=repeats",
                    "--fixed=A=520.824952 B=1487.716094 E=1.869144 alpha=0.3526596 beta=0.3526596")
    assert tree["fit"]["objective"] <= 0.0158259353 * (1 + 1e-6)
    for name in ("R_D", "R_N"):
        assert not tree["fit"]["profiles"][name]["identified"]
    assert out.count("not identified by these runs") >= 2
