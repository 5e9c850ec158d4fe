"""The laws give the digits that papers and their repositories print, and bend the right way."""

import numpy as np
import pytest

from lm.plan import laws


def advice(params, tokens):
    return {a.law: a for a in laws.advise(params=params, body=params, tokens=tokens,
                                          flops=6 * params * tokens)}


def test_seven_billion_parameters_on_1_4_trillion_tokens():
    said = advice(7e9, 1.4e12)
    assert said["Step Law"].lr == pytest.approx(9.17e-4, abs=5e-7)
    assert said["Step Law"].batch == pytest.approx(5.0e6, abs=5e4)
    assert said["DeepSeek"].lr == pytest.approx(4.44e-4, abs=5e-7)
    assert said["DeepSeek"].batch == pytest.approx(8.19e6, abs=5e3)
    assert said["practice"].lr == pytest.approx(3e-4, rel=0.02)
    assert said["practice"].batch == pytest.approx(4e6, rel=0.02)
    assert [name for name, a in said.items() if a.inside] == ["DeepSeek", "practice"]
    rates = laws.band(a.lr for a in said.values())
    assert rates.low < 4.44e-4 < rates.likely < 9.17e-4 < rates.high
    assert 2 < rates.high / rates.low < 5  # "disagreement x3 is normal"


@pytest.mark.parametrize(("flops", "lr", "batch"), [
    (1e20, 9.860e-4, 1.0171e6), (1e22, 5.5447e-4, 4.5876e6), (3e23, 3.6244e-4, 1.3956e7)])
def test_deepseek(flops, lr, batch):
    assert laws.deepseek(flops=flops) == pytest.approx((lr, batch), rel=1e-4)


def test_the_other_laws_at_seven_billion():
    said = advice(7e9, 1.4e12)
    assert said["Porian"].lr == pytest.approx(3.7 * np.exp(-0.36 * np.log(7e9)), rel=1e-9)
    assert said["Porian"].batch / 2048 == pytest.approx(0.00037 * 7e9**0.703, rel=1e-3)
    assert said["Power Lines"].lr is None
    assert said["Power Lines"].batch / 2048 == pytest.approx(1373, abs=1)
    critical = laws.critical_batch(1.4e12, 2.0)
    assert critical["Kaplan"] == pytest.approx(7.54e6, rel=1e-3)
    assert critical["Power Lines"] / 2048 == pytest.approx(19254, abs=1)


def test_step_law_is_within_one_step_of_the_best_of_its_grid():
    grid = np.array([  # N, D, the best learning rate and batch in sequences; steps of sqrt(2)
        (2.147e8, 4e9, .002762, 128), (2.147e8, 1.14e10, .002762, 192),
        (2.147e8, 2e10, .00391, 256), (2.147e8, 1e11, .0078, 1024),
        (1.0737e9, 2e10, .001381, 256), (1.0737e9, 5.69e10, .001381, 256)])
    body, tokens, lr, sequences = grid.T
    rate, batch = laws.step_law(body=body, tokens=tokens)
    assert np.median(np.abs(np.log2(rate / lr))) < 0.5
    assert np.median(np.abs(np.log2(batch / sequences / 2048))) < 0.5


@pytest.mark.parametrize(("params", "lr", "batch"), [
    (1.904e8, 9.73e-4, 5.24e5), (6.738e9, 3e-4, 4e6), (4.059e11, 8e-5, 1.6e7)])
def test_practice_gives_what_was_used(params, lr, batch):
    assert laws.practice(params=params) == pytest.approx((lr, batch))


def test_a_law_says_whether_it_was_fitted_on_such_a_size():
    assert advice(1e9, 2e10)["Step Law"].inside
    assert not advice(1e9, 2e12)["Step Law"].inside
    assert not any(a.inside for a in advice(1e4, 1e5).values())


def test_larger_models_take_smaller_rates_and_longer_runs_larger_batches():
    small, large, long = advice(1e9, 1e11), advice(1e10, 1e11), advice(1e9, 1e12)
    for name in laws.LAWS:
        if small[name].lr:
            assert large[name].lr < small[name].lr
        assert long[name].batch >= small[name].batch
    assert (laws.critical_batch(1e12, 2.5)["Power Lines"]
            > laws.critical_batch(1e11, 2.5)["Power Lines"])
    assert laws.critical_batch(1e11, 2.0)["Kaplan"] > laws.critical_batch(1e11, 2.5)["Kaplan"]


def test_a_band_is_in_order_and_forgets_those_that_do_not_say():
    assert laws.band([None, 1e-3, 4e-3, None]) == pytest.approx((1e-3, 2e-3, 4e-3))
    assert laws.band([8.0, 1.0, 2.0]) == pytest.approx((1, 2, 8))


def test_the_square_root_rule():
    assert laws.rescale(1e-3, 4e6, 1e6) == pytest.approx(5e-4)


@pytest.mark.parametrize(("flops", "fit", "params", "ratio", "loss"), [
    (1e18, "Hoffmann", 9.4663e7, 18.60, 3.44807), (1e18, "Epoch", 8.0622e7, 25.64, 3.48900),
    (1e21, "Hoffmann", 2.217e9, 33.91, 2.29549), (1e21, "Epoch", 2.7821e9, 21.53, 2.30480),
    (5.88e23, "Hoffmann", 4.0743e10, 59.04, 1.91769),
    (5.88e23, "Epoch", 7.3125e10, 18.33, 1.97339),
    (3.8e25, "Hoffmann", 2.7324e11, 84.83, 1.81101),
    (3.8e25, "Epoch", 6.1966e11, 16.49, 1.89130)])
def test_the_compute_optimum(flops, fit, params, ratio, loss):
    n, d = laws.optimum(flops, fit)
    assert n == pytest.approx(params, rel=2e-4)
    assert d / n == pytest.approx(ratio, rel=5e-4)
    assert laws.chinchilla(n, d, fit) == pytest.approx(loss, abs=1.5e-4)
    assert laws.optimal_tokens(n, fit) == pytest.approx(d, rel=1e-9)


def test_without_inference_the_serving_optimum_is_that_of_training():
    params, tokens = laws.serving_optimum(2.1, served=0)
    assert laws.optimal_tokens(params) == pytest.approx(tokens, rel=1e-6)
    assert laws.chinchilla(params, tokens) == pytest.approx(2.1, abs=1e-9)


@pytest.mark.parametrize("served", [1e10, 1e12, 1e15])
def test_the_serving_optimum_is_the_cheapest_of_its_loss(served):
    params, tokens = laws.serving_optimum(2.1, served)
    assert laws.chinchilla(params, tokens) == pytest.approx(2.1, abs=1e-9)
    c = laws.CHINCHILLA["Epoch"]
    others = params * np.linspace(0.9, 1.1, 41)
    needed = (c["B"] / (2.1 - c["E"] - c["A"] * others**-c["alpha"])) ** (1 / c["beta"])
    assert np.argmin(6 * others * needed + 2 * others * served) == 20
    assert params < laws.serving_optimum(2.1, 0)[0]


def test_no_model_serves_below_the_least_loss():
    with pytest.raises(ValueError, match="least"):
        laws.serving_optimum(1.8, 1e12)


@pytest.mark.parametrize(("params", "ratio", "predicted", "measured"), [
    (6.8894e9, 20, 2.44275, 2.42499), (1.4398e9, 640, 2.51983, 2.50205)])
def test_overtraining_of_redpajama(params, ratio, predicted, measured):
    loss = laws.overtrained(params, ratio * params)
    assert loss == pytest.approx(predicted, abs=2e-5)
    assert loss == pytest.approx(measured, rel=0.0075)  # the 0.7 % of the paper


def test_overtraining_of_refinedweb():
    assert laws.overtrained(1.4398e9, 320 * 1.4398e9, "RefinedWeb") == pytest.approx(2.5313, 1e-4)


def test_the_penalty_grows_with_the_tokens_of_a_parameter():
    assert laws.penalty(8e9, 20 * 8e9) == pytest.approx((0, 0, 0), abs=1e-12)
    losses = [laws.penalty(8e9, m * 8e9) for m in (40, 160, 640, 1875)]
    assert all(a.likely < b.likely for a, b in zip(losses, losses[1:], strict=False))
    assert all(x.low <= x.likely <= x.high for x in losses)


@pytest.mark.parametrize(("params", "tokens", "loss"), [
    (6.34e9, 242e9, 2.2256440889984477), (8.67e9, 178e9, 2.2269634075087867)])
def test_repeated_data_of_the_readme(params, tokens, loss):
    assert laws.constrained(params, tokens, 25e9) == pytest.approx(loss, abs=5e-7)


def test_repeated_tokens_are_worth_less_and_less():
    assert set(laws.repeated(1e9, 2e9).values()) == {1e9}
    for name in laws.REPEATS:
        worth = [laws.repeated(epochs * 1e9, 1e9)[name] for epochs in (1, 2, 4, 16, 64, 1000)]
        gains = np.diff(worth) / np.diff([1, 2, 4, 16, 64, 1000])
        assert worth[0] == 1e9 and (gains > 0).all() and (np.diff(gains) < 0).all()
    four = laws.repeated(4e9, 1e9)
    assert four["data and parameters"] > 3.7e9  # "4 epochs are nearly as good"
    assert four["data alone"] < four["data and parameters"]
