"""The time model's constants are those that published steps give, and predict steps left out."""

import functools
import pathlib

import numpy as np
import pytest

from lm.base.errors import UserError
from lm.cost.constants import ATTENTION, MATMUL, PLATFORMS, PRIOR, SPREAD
from lm.plan import fit
from lm.plan.published import rows

GOLDEN = (pathlib.Path(__file__).parent.parent / "golden" / "steps.json").read_text()
ACCEPT = "if that is meant: python benchmarks/plan.py --golden, and its constants"


@functools.cache
def samples(csv=None):
    """All steps with the counts that were kept; without MosaicML's table the built-in ones."""
    return fit.read(GOLDEN, rows(csv))


@pytest.fixture(scope="module")
def every(shared):
    return samples(str(shared / "mosaic_h100_throughput.csv"))


@pytest.fixture(scope="module")
def found(every):
    return fit.fit(every)


def errors(ratios):
    return np.abs(np.asarray(ratios) - 1)


def test_constants_are_what_the_fit_gives(found):
    for p, own in found.platforms.items():
        assert own == pytest.approx({name: PLATFORMS[p][name] for name in PRIOR}, abs=0.02), ACCEPT
    for name, kept in dict(matmul=MATMUL, attention=ATTENTION).items():
        assert {chip: own[name] for chip, own in found.chips.items() if name in own} == (
            pytest.approx(kept, abs=0.02)), ACCEPT


def test_listed_steps_left_out(every):
    listed = [s for s in every if s.row.fit]
    off = errors(fit.left_out(listed))
    assert len(off) == 96 and np.median(off) <= 0.05 and off.max() <= 0.25


def test_other_steps_by_constants_of_the_listed_ones(every):
    """TPUs without experts, of which no listed step tells; the other GPUs are no listed steps'."""
    listed = fit.fit([s for s in every if s.row.fit])
    others = [s for s in every if not s.row.fit and s.platform == "tpu"
              and not s.row.model.get("E") and s.row.precision == "bfloat16"]
    off = errors(fit.predict(listed, others) / [s.row.seconds for s in others])
    assert len(others) > 30 and np.median(off) <= 0.07 and off.max() <= 0.25


def test_all_steps_left_out(every):
    ratios = fit.left_out(every)
    assert np.median(errors(ratios)) <= 0.05 and np.quantile(errors(ratios), 0.9) <= 0.15
    for p in ("tpu", "gpu"):
        mine = np.log([x for x, s in zip(ratios, every, strict=True) if s.platform == p])
        assert np.std(mine) == pytest.approx(SPREAD[p], abs=0.011), ACCEPT


def test_built_in_steps_alone_give_about_the_same():
    """What a checkout without MosaicML's table can see of it."""
    own = fit.fit(samples())
    seconds = np.array([s.row.seconds for s in samples()])
    assert own.platforms["tpu"]["matmul"] == pytest.approx(PLATFORMS["tpu"]["matmul"], abs=0.02)
    assert own.platforms["gpu"]["matmul"] == pytest.approx(PLATFORMS["gpu"]["matmul"], abs=0.12)
    assert np.median(errors(fit.predict(own, samples()) / seconds)) <= 0.06
    here = fit.Fit(PLATFORMS, {
        chip: {name: x[chip] for name, x in dict(matmul=MATMUL, attention=ATTENTION).items()
               if chip in x} for chip in MATMUL})
    assert np.median(errors(fit.predict(here, samples()) / seconds)) <= 0.06


@pytest.mark.parametrize("name", [
    "llama3.1-8B v6e-4x8", "mixtral-8x22B v6e-16x16", "maxtext-128B 4xv5e-16x16",
    "maxtext-llama2-7B 16xh100", "megatron-175B-selective 64xa100-80"])
def test_counts(name):
    kept = next(s for s in samples() if s.row.name == name)
    assert fit.sample(kept.row).ideal == pytest.approx(kept.ideal, rel=1e-3), ACCEPT


def test_counts_of_the_table(every):
    """The last one: fp8."""
    kept = every[-1]
    assert kept.row.precision == "fp8"
    assert fit.sample(kept.row).ideal == pytest.approx(kept.ideal, rel=1e-3), ACCEPT


def test_text_of_counts():
    some = samples()[:3]
    again = fit.read(fit.kept(some), [s.row for s in samples()])
    assert again == some and fit.kept(some).count("\n") == 5


def test_steps_that_cannot_be_counted_are_named():
    odd = [row for row in rows() if row.name == "maxtext-22B 2xv4-4x4x4"]
    found, without = fit.samples(odd)
    assert not found and "nic=" in without["maxtext-22B 2xv4-4x4x4"]
    with pytest.raises(UserError, match="v4"):
        fit.sample(odd[0])


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_the_fit_finds_what_made_the_steps(platform):
    """Steps made by known constants near the prior are fitted to within half a percent."""
    mine = [s for s in samples() if s.platform == platform and s.row.precision != "int8"]
    chips = {s.row.chip for s in mine}
    k = {name: 0.95 * x for name, (x, _) in PRIOR.items()}
    made = fit.Fit({platform: k}, {chip: dict(matmul=0.7) for chip in chips})
    known = [s._replace(row=type(s.row)(**vars(s.row) | dict(seconds=float(x))))
             for s, x in zip(mine, fit.predict(made, mine), strict=True)]
    ratios = fit.predict(fit.fit(known), known) / fit.predict(made, mine)
    assert errors(ratios).max() <= 0.01
