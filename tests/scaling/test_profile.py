"""Profiles: what the runs tell has an interval; what they do not tell is said to be so."""

import math

import numpy as np
import pytest

from lm.base.errors import UserError
from lm.law import chinchilla, repeats
from lm.law.law import Law, Parameter
from lm.scaling import descent, profile, reading, solve
from lm.scaling.problem import HUBER, Options
from lm.scaling.table import table

LAW = chinchilla.LAW
TRUTH = dict(A=482.0, B=2085.0, E=1.82, alpha=0.348, beta=0.366)
C4 = repeats.REPEATS["data and parameters"]
REST = {name: x for name, x in C4.items() if not name.startswith("R_")}
FLAT = "not identified by these runs"


def surface(noise=0.005, sizes=10):
    C = np.repeat(np.geomspace(1e18, 1e22, 9), sizes)
    N = chinchilla.optimum(C, **TRUTH)[0] * np.tile(np.geomspace(1 / 6, 6, sizes), 9)
    loss = chinchilla.loss(N, C / 6 / N, **TRUTH)
    return table(N=N, D=C / 6 / N, C=C, loss=loss * np.exp(
        noise * np.random.default_rng(0).standard_normal(len(N))))


@pytest.fixture(scope="module")
def repeated(shared):
    """The 182 runs on data seen again, and the fit of what repeats are worth."""
    runs = reading.read(shared / "scaling" / "datablations_fit182.csv", report=lambda _: None)
    options = Options(fixed=REST)
    return runs, options, solve.fit(repeats.LAW, runs, options)


def test_what_repeats_are_worth_is_not_identified(repeated):
    """The published optimum is one of several on a ridge, and not its lowest."""
    runs, options, found = repeated
    published = solve.fit(repeats.LAW, runs, options, starts=repeats.LAW.theta(C4)[None])
    assert published.objective == pytest.approx(0.0158259353, rel=1e-6)
    assert [published.values[n] for n in ("R_D", "R_N")] == pytest.approx([15.39, 5.31], rel=2e-3)
    assert found.objective < published.objective
    near = [theta for objective, theta in found.optima if objective < 1.01 * found.objective]
    assert len(near) >= 3
    for name in ("R_D", "R_N"):
        seen = profile.profile(found, repeats.LAW, runs, options, name)
        assert not seen.identified and FLAT in seen.words and "=" not in seen.words
        assert seen.low < C4[name] < seen.high and seen.high / seen.low > 10
    # From the starts of the law alone, and not from where its neighbour ended, it is 0.01590.
    near = int(np.argmin(np.abs(seen.values - 0.749)))
    assert seen.values[near] == pytest.approx(0.749, rel=0.02) and seen.objectives[near] < 0.01587


def test_decay_of_data_alone_is_identified(repeated):
    """With all parameters as good as any, the published 2.92 has an interval."""
    runs = repeated[0]
    options = Options(fixed=REST | {"R_N": math.inf})
    found = solve.fit(repeats.LAW, runs, options)
    assert found.values["R_D"] == pytest.approx(2.9157212, rel=1e-3)
    assert found.objective == pytest.approx(0.0169223510, rel=1e-6)
    seen = profile.profile(found, repeats.LAW, runs, options, "R_D")
    assert seen.identified and 1 < seen.low < 2.92 < seen.high < 6


def test_chinchilla_is_identified(shared):
    every = reading.read(shared / "scaling" / "chinchilla.csv", report=lambda _: None)
    runs = every.take(every["loss"] < np.sort(every["loss"])[-5])
    found = solve.fit(LAW, runs, starts=LAW.theta(LAW.published["Epoch"])[None])
    # 90 % of 4,000 published draws.
    known = dict(B=(1160, 4700), alpha=(.322, .369))
    for name in known:
        seen = profile.profile(found, LAW, runs, HUBER, name)
        assert seen.identified and FLAT not in seen.words
        assert seen.words.startswith(f"{name} = ")
        assert [seen.low, seen.high] == pytest.approx(known[name], rel=0.25)
        assert seen.objectives.min() == pytest.approx(found.objective, rel=1e-7)


def test_a_profile_is_the_fit_with_one_parameter_fixed():
    runs = surface()
    found = solve.fit(LAW, runs, starts=16)
    seen = profile.profile(found, LAW, runs, HUBER, "alpha")
    assert seen.low < 0.348 < seen.high and seen.identified
    for i in (8, 20):
        fixed = solve.fit(LAW, runs, Options(fixed={"alpha": float(seen.values[i])}), starts=16)
        assert seen.objectives[i] == pytest.approx(fixed.objective, rel=1e-6)
    mean = profile.profile(found._replace(objective=found.objective / 90, scale=found.scale / 90),
                           LAW, runs, Options(mean=True), "alpha")
    assert [mean.low, mean.high] == pytest.approx([seen.low, seen.high], rel=1e-6)


def test_a_linear_parameter_has_its_textbook_interval():
    """Least squares: 1.645 standard errors either way, which are those of all noise alike."""
    law = Law(line, ("N",), (Parameter("a", (-5.0, 5.0), positive=False),
                             Parameter("b", (-5.0, 5.0), positive=False)), "", target="error")
    x = np.linspace(-1, 1, 400)
    y = 1 + 2 * x + 0.1 * np.random.default_rng(0).standard_normal(400)
    runs, options = table(N=x, error=y), Options(delta=math.inf, residual="linear")
    found = solve.fit(law, runs, options)
    assert [found.values["b"], found.values["a"]] == pytest.approx(np.polyfit(x, y, 1))
    error = math.sqrt(np.sum(found.residuals**2) / 398 / np.sum((x - x.mean()) ** 2))
    seen = profile.profile(found, law, runs, options, "b")
    own = math.sqrt(found.covariance[1, 1])
    assert own == pytest.approx(error, rel=0.1)
    assert [seen.low, seen.high] == pytest.approx(
        [found.values["b"] - 1.645 * own, found.values["b"] + 1.645 * own], abs=1e-3 * error)
    only = Options(delta=math.inf, residual="linear", fixed={"a": found.values["a"]})
    alone = profile.profile(solve.fit(law, runs, only), law, runs, only, "b")
    assert [alone.low, alone.high] == pytest.approx([seen.low, seen.high], abs=0.1 * error)


def line(x, *, a, b):
    return a + b * x


def product(N, *, a, b):
    return 2 + a * b / N


def test_a_product_tells_neither_factor():
    law = Law(product, ("N",), (Parameter("a", (0.0, 1.0)), Parameter("b", (0.0, 1.0))), "")
    N = np.geomspace(1, 100, 30)
    noise = np.exp(0.01 * np.random.default_rng(0).standard_normal(30))
    runs = table(N=N, loss=product(N, a=3, b=2) * noise)
    found = solve.fit(law, runs)
    for name in "ab":
        seen = profile.profile(found, law, runs, HUBER, name)
        assert not seen.identified and (seen.low, seen.high) == (0, math.inf)
        assert seen.words == f"{name} is {FLAT}: all values fit about as well"
    tied = Options(tied=(("a", "b"),))
    seen = profile.profile(solve.fit(law, runs, tied), law, runs, tied, "b")
    assert seen.identified and seen.low < math.sqrt(6) < seen.high


def test_runs_of_one_size_do_not_tell_the_exponent_of_size():
    runs = surface()
    runs = runs.give(N=np.full(len(runs), 1e9))
    runs = runs.give(loss=chinchilla.loss(runs["N"], runs["D"], **TRUTH) * np.exp(
        0.005 * np.random.default_rng(0).standard_normal(len(runs))))
    found = solve.fit(LAW, runs, starts=16)
    seen = {name: profile.profile(found, LAW, runs, HUBER, name) for name in ("alpha", "beta")}
    assert seen["beta"].identified and seen["beta"].low < 0.366 < seen["beta"].high
    assert not seen["alpha"].identified


def test_a_better_fit_that_a_profile_meets_is_told():
    runs = surface()
    of = solve.problem(LAW, runs)
    found = solve.fit(LAW, runs, starts=LAW.theta(TRUTH)[None])
    theta = found.theta + [0, 0, 0, 0.03, 0]
    worse = float(descent.objective(of, theta, HUBER.delta))
    lost = found._replace(theta=theta, objective=worse, optima=((worse, theta),))
    words = profile.profile(lost, LAW, runs, HUBER, "alpha").words
    assert words.endswith("fits better than the fit: fit again from more starts")
    assert "again" not in profile.profile(found, LAW, runs, HUBER, "alpha").words


def test_what_was_not_fitted_has_no_profile():
    runs = surface()
    options = Options(fixed={"E": 1.82})
    found = solve.fit(LAW, runs, options, starts=LAW.theta(TRUTH)[None])
    for name in ("E", "gamma"):
        with pytest.raises(UserError, match=f"unknown free parameter '{name}'"):
            profile.profile(found, LAW, runs, options, name)
