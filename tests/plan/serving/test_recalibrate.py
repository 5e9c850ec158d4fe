"""A log of steps gives back what made it; a bad one is refused in words."""

import numpy as np
import pytest
from scipy.optimize import nnls

from lm.base.errors import UserError
from lm.plan.serving.recalibrate import nonnegative, recalibrate
from lm.plan.serving.schedule import Step

TRUE = np.array([4e-3, 1e-5, 5e-5, 2e-8])


def log(path, n=400, noise=0.0, header="t_start,dur,n_prefill,n_decode,ctx,bucket"):
    rng = np.random.default_rng(0)
    prefill = rng.integers(0, 2, n) * rng.integers(1, 512, n)
    decode = rng.integers(1, 64, n)
    context = decode * rng.integers(100, 3000, n)
    seconds = (np.column_stack([np.ones(n), prefill, decode, context]) @ TRUE
               * np.exp(noise * rng.normal(size=n)))
    rows = [f"0,{s!r},{p},{d},{c},64" for s, p, d, c in
            zip(seconds.tolist(), prefill, decode, context, strict=True)]
    path.write_text("\n".join([header, *rows]))
    return str(path)


def test_coefficients_come_back(tmp_path):
    x = recalibrate(log(tmp_path / "steps.csv"))
    assert [x.step, x.prefill, x.decode, x.context] == pytest.approx(TRUE)
    assert x.rows == 400 and x.r2 == pytest.approx(1) and x.error < 1e-9
    assert x.clock(Step(512, 3, 4000)) == pytest.approx(TRUE @ [1, 512, 3, 4000])
    noisy = recalibrate(log(tmp_path / "noisy.csv", noise=0.1))
    assert noisy.step == pytest.approx(TRUE[0], rel=0.15) and 0.02 < noisy.error < 0.1


def test_none_is_below_zero():
    for seed in range(50):
        rng = np.random.default_rng(seed)
        A, b = rng.normal(size=(20, 4)) ** 2, rng.normal(size=20)
        x, rest = nnls(A, b)
        assert nonnegative(A, b) == pytest.approx(x, abs=1e-9)
        assert np.linalg.norm(A @ nonnegative(A, b) - b) == pytest.approx(rest)
    assert (nonnegative(np.eye(3), -np.ones(3)) == 0).all()


@pytest.mark.parametrize("change,words", [
    ({"header": "t_start,dur,n_prefil,n_decode,ctx,bucket"}, "did you mean 'n_prefil'"),
    ({"n": 5}, "20 are the least")])
def test_bad_logs(tmp_path, change, words):
    with pytest.raises(UserError, match=words):
        recalibrate(log(tmp_path / "steps.csv", **change))


def test_logs_that_are_none(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        recalibrate(str(tmp_path / "none.csv"))
    (tmp_path / "text.csv").write_text("dur,n_prefill,n_decode,ctx\n" + "fast,1,2,3\n" * 30)
    with pytest.raises(UserError, match="must be numbers"):
        recalibrate(str(tmp_path / "text.csv"))
    (tmp_path / "minus.csv").write_text("dur,n_prefill,n_decode,ctx\n" + "-1,1,2,3\n" * 30)
    with pytest.raises(UserError, match="above zero"):
        recalibrate(str(tmp_path / "minus.csv"))
