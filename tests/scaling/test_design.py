"""Ladders: what is laid out, written and read again."""

import dataclasses
import itertools

import pytest

from lm.base.errors import UserError
from lm.base.records import read_json
from lm.cost.conventions import CONVENTIONS
from lm.experiment import flags, parts
from lm.experiment.config import Experiment
from lm.law import chinchilla, rates
from lm.models.decoder.config import Config as Model
from lm.scaling import config, design, ladder, price, shapes
from lm.verbs import VERBS

GRID = ("--budget=1e10:4e10", "--budgets=3", "--sizes=3")


@pytest.fixture
def made(lm, tiny, tmp_path, monkeypatch):
    """A small ladder as the command makes it: the folder, and what was printed."""
    def make(*more, name="ladder", priced=False):
        with monkeypatch.context() as patched:
            if not priced:   # each size is a program to count
                patched.setattr(price, "price", lambda *_: [])
                patched.setattr(price, "table", lambda _: "")
            ended = lm("scaling", "design", tiny, *GRID, f"--out={tmp_path / name}", *more)
        assert ended.code == 0, ended.err
        return tmp_path / name, ended.out
    return make


def test_each_run_spends_its_budget(made):
    folder, out = made("--held_out=1e11", priced=True)
    rungs = ladder.read(folder).rungs
    assert len(rungs) == 3 * 3 + 1
    assert [r.budget for r in rungs if r.held_out] == [1e11]
    for r in rungs:
        assert pytest.approx(r.budget, rel=1 / r.steps) == r.C
        assert pytest.approx(6 * r.N * r.D) == r.C
        assert r.steps * r.batch == r.D
    budgets = sorted({r.budget for r in rungs if not r.held_out})
    assert budgets == pytest.approx([1e10, 2e10, 4e10])
    for budget in budgets:
        sizes = [r.N for r in rungs if r.budget == budget]
        assert sizes == sorted(set(sizes))
        middle = chinchilla.optimum(budget, **chinchilla.EPOCH)[0]
        assert sizes[0] < middle * 1.25
        assert sizes[-1] > middle * 0.8
    assert "10 runs, " in out
    assert "on cpu: " in out


def test_a_run_is_a_config_that_lm_train_takes(made):
    folder, _ = made("--lr_law=DeepSeek", "--lr_scale=0.5")
    for r in ladder.read(folder).rungs:
        e = flags.parse([f"--config={folder}/{r.run}.py"], VERBS["train"]).experiment
        m = parts.model(e, 256)
        assert m.declaration.count == r.N
        assert e.train.lr == r.lr == pytest.approx(
            0.5 * 0.3118 * r.budget**-0.125, rel=0.01)
        assert e.train.length == f"{r.steps} steps"
        assert r.batch == e.data.B * e.data.T


@pytest.mark.parametrize("rule", ["6N_noemb", "matmul+causal", "chinchilla"])
def test_budgets_are_counted_by_the_rule(made, rule):
    folder, _ = made(f"--rule={rule}", "--budgets=2")
    for r in ladder.read(folder).rungs:
        e = flags.parse([f"--config={folder}/{r.run}.py"], VERBS["train"]).experiment
        size = parts.sizes(parts.model(e, 256), e.data.T)
        assert pytest.approx(CONVENTIONS[rule](**size) * r.D) == r.C
        assert pytest.approx(r.budget, rel=1 / r.steps) == r.C


def test_the_same_ladder_may_be_laid_out_again_and_no_other(made, lm, tiny):
    folder, _ = made()
    before = read_json(folder / ladder.FILE)["runs"]
    made()
    assert read_json(folder / ladder.FILE)["runs"] == before
    ended = lm("scaling", "design", tiny, "--budget=1e10,3e10", "--sizes=3", f"--out={folder}")
    assert ended.code == 2
    assert "holds another ladder; give --out=ANOTHER_DIR" in ended.err


def test_rates_follow_the_law_and_batches_are_powers_of_two(made):
    folder, _ = made("--batch_law=DeepSeek", "--lr_law=Step Law")
    for r in ladder.read(folder).rungs:
        known = dict(params=r.N, body=r.N_noemb, tokens=r.D, flops=r.budget)
        assert r.lr == pytest.approx(rates.said("Step Law", **known)[0], rel=0.02)
        advised = rates.said("DeepSeek", **known)[1]
        assert (r.batch / 128) in [2**k for k in range(10)]
        assert 0.7 < r.batch / advised < 1.42


def test_what_is_warned_of(made):
    _, out = made("--config.train.warmup=30%")
    assert "warning: " in out
    assert "the warm-up is more than 20% of the run" in out
    assert "one learning rate, 0.01, for all sizes" in out
    assert "on one side of the expected minimum" in out or "at the edge" in out


def test_muons_own_rate_stays_in_proportion(made):
    folder, _ = made("--lr_law=DeepSeek", "--config.train.optimizer=muon",
                     "--config.train.hidden_lr=0.03")
    for r in ladder.read(folder).rungs:
        assert r.fields["train.hidden_lr"] / 0.03 == pytest.approx(r.lr / 0.01, rel=0.01)


@pytest.mark.parametrize(("given", "says"), [
    ([], "--budget=LOW:HIGH is missing"), (["--budget=1e10"], None),
    (["--budget=x:y"], "is no list of FLOPs"), (["--budget=-1"], "is no list of FLOPs"),
    (["--budget=,"], "is no list of FLOPs"), (["--budget=1e10", "--held_out=,"], "is no list"),
    (["--budget=1e10,1e10"], "2 runs would have the name 1e10-"),
    (["--budget=1e10", "--lr_scale=0.5"], "give --lr_law too"),
    (["--budget=1e10", "--lr_law=Power Lines"], "that law says no learning rate; take one of: "),
    (["--budget=4e10:1e10"], "is not LOW:HIGH"), (["--budget=1:2:3"], "is not LOW:HIGH"),
    (["--budget=1e10", "--rule=7N"], "unknown FLOP rule '7N'"),
    (["--budget=1e10", "--lr_law=Step"], "unknown law of learning rates 'Step'"),
    (["--budget=1e10", "--hardware=v55"], "unknown chip 'v55'"),
    (["--budget=1e10", "--fit=none.json"], "no fit 'none.json'"),
    (["--budget=1e6"], "no shape of"), (["--budget=1e10", "--ratio=1e6"], "no shape of"),
    (["--budget=1e10", "--config.data.T=4096"], "are "),
])
def test_bad_input(lm, tiny, tmp_path, given, says):
    ended = lm("scaling", "design", tiny, "--sizes=2", f"--out={tmp_path / 'x'}", *given)
    assert ended.code == (2 if says else 0), ended
    if says:
        assert says in ended.err
        assert ended.err.count("\n") == 1
        assert not (tmp_path / "x").exists()


def test_ratio_and_fit_say_where_the_middle_is(fitted):
    own = config.Design(ratio=50.0)
    N = design.centre(own, Experiment())(6e18)
    assert pytest.approx(50) == 6e18 / 6 / N**2
    own = dataclasses.replace(own, ratio=0.0, fit=str(fitted))
    tree = read_json(fitted)["fit"]["values"]
    assert design.centre(own, Experiment())(1e20) == pytest.approx(
        chinchilla.optimum(1e20, **tree)[0], rel=1e-4)


def test_a_changed_ladder_is_no_ladder(made, tmp_path):
    folder, _ = made()
    (folder / ladder.FILE).write_text('{"rule": "6N", "runs": [{"run": "a"}]}')
    with pytest.raises(UserError, match="it was changed"):
        ladder.read(folder)
    with pytest.raises(UserError, match="holds no ladder"):
        ladder.read(tmp_path)


def test_names_differ(made):
    folder, _ = made("--sizes=4", "--spacing=1.2")
    names = [r.run for r in ladder.read(folder).rungs]
    assert not [pair for pair in itertools.combinations(names, 2) if pair[0] == pair[1]]


def test_a_batch_is_the_configs_unless_a_law_is_asked(made):
    folder, _ = made("--config.data.B=12")
    assert {r.batch for r in ladder.read(folder).rungs} == {12 * 16}


def test_a_batch_by_a_law_divides_over_mesh_and_microbatches(made):
    folder, _ = made("--batch_law=DeepSeek", "--config.train.accumulate=3",
                     "--config.mesh.fsdp=2", "--config.data.B=12", "--sizes=1")
    for r in ladder.read(folder).rungs:
        assert r.batch / 16 / 6 in [2**k for k in range(10)]


def test_a_law_without_a_batch_is_none_for_batches(refused, tiny, monkeypatch):
    monkeypatch.setitem(rates.SOURCES, "silent", rates.SOURCES["Porian"])
    refused("scaling", "design", tiny, "--budget=1e10", "--batch_law=silent",
            says="that law says no batch; take one of: Step Law, DeepSeek")


def test_fields_of_several_values_are_the_same_ladder_again(made):
    given = ("--config.model.windows=8,0", "--config.model.L=2", "--budget=1e12", "--sizes=1")
    made(*given)
    made(*given)


SMALL = Model(V=256, T=64, L=4, D=64, N=2, F=192, tied=True)


@pytest.mark.parametrize(("rule", "model"), [
    ("chinchilla", SMALL), ("6N_noemb", dataclasses.replace(SMALL, V=2048)),
    ("6N", dataclasses.replace(SMALL, E=8, experts_top=2))])
@pytest.mark.parametrize("ratio", [0.0, 30.0])
def test_the_middle_is_of_flops_by_the_rule(rule, model, ratio):
    """As many tokens a parameter as asked, or the law's optimum of the same 6 N D."""
    e, C = Experiment(model=model), 2e13
    N = design.centre(config.Design(ratio=ratio, rule=rule), e)(C)
    m = parts.model(dataclasses.replace(e, model=dataclasses.replace(
        model, **shapes.shape(N, e, model.V).fields)), model.V)
    per = CONVENTIONS[rule](**parts.sizes(m, e.data.T)) / m.declaration.count
    assert abs(per / 6 - 1) > 0.05
    D = C / per / N
    assert pytest.approx(ratio or chinchilla.optimum(6 * N * D, **chinchilla.EPOCH)[1] / N,
                         rel=0.02) == D / N


def test_a_fit_by_another_rule_is_asked_by_its_own(fitted):
    e = Experiment(model=SMALL)
    N, by_6N = (design.centre(config.Design(fit=str(fitted), rule=rule), e)
                for rule in ("palm", "6N"))
    N = N(1e20)
    m = parts.model(dataclasses.replace(e, model=dataclasses.replace(
        SMALL, **shapes.shape(N, e, 256).fields)), 256)
    size = parts.sizes(m, e.data.T)
    same = 1e20 * CONVENTIONS["6N"](**size) / CONVENTIONS["palm"](**size)
    assert pytest.approx(by_6N(same), rel=0.01) == N
    assert by_6N(1e20) / N > 1.01
