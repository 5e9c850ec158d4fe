"""Update rules by name, each with its treatment of every parameter read from the declaration."""

import jax
import numpy as np
import optax

from lm.nn.module import Declaration
from lm.train.config import Config


class Offloaded(optax.GradientTransformation):
    """An update rule whose moments are kept in the host's memory between steps.

    A marker: the training step brings them to the device and its output shardings back.
    """


def make(c: Config, declaration: Declaration, rate, hidden_rate) -> optax.GradientTransformation:
    """Returns the update rule of `c`; rate, hidden_rate: schedules, step -> learning rate.

    Parameters and moments are float32 whatever the model computes in. Gradients arrive clipped.
    """
    decays = jax.tree.map(lambda s: s.decay, declaration.specs)
    rule = OPTIMIZERS[c.optimizer](c, declaration.specs, decays, rate, hidden_rate)
    return Offloaded(*rule) if c.offload == "optimizer" else rule


def _adamw(c, specs, decays, rate, _):
    return optax.adamw(rate, c.b1, c.b2, c.eps, weight_decay=c.weight_decay, mask=decays)


def _adafactor(c, specs, decays, rate, _):
    """Factored second moments and no first (Shazeer & Stern 2018), with the given rate.

    optax factors an array over its two longest axes, be they those over which it is stacked: a
    vector of each layer, a narrow matrix of many experts. Such an array keeps all its moments.
    """
    def factored(s, x):
        return len(x.shape) > 1 and min(np.argsort(x.shape)[-2:]) >= len(s.stacked)

    def labels(params):
        return jax.tree.map(factored, specs, params)
    return optax.chain(
        optax.partition({matrix: optax.scale_by_factored_rms(matrix, min_dim_size_to_factor=32)
                         for matrix in (True, False)}, labels),
        optax.clip_by_block_rms(1.0),
        optax.add_decayed_weights(c.weight_decay, decays),
        optax.scale_by_learning_rate(rate))


def _lion(c, specs, decays, rate, _):
    return optax.lion(rate, c.b1, c.b2, weight_decay=c.weight_decay, mask=decays)


def _sgd(c, specs, decays, rate, _):
    return optax.chain(optax.trace(c.b1, nesterov=True),
                       optax.add_decayed_weights(c.weight_decay, decays),
                       optax.scale_by_learning_rate(rate))


def _muon(c, specs, decays, rate, hidden_rate):
    """Orthogonalised momentum for hidden matrices (Jordan 2024), AdamW for all else.

    optax by itself takes every array of two axes, which is the embedding and no stacked layer,
    and decays norm scales, so which axes are a matrix's is read from the declaration.
    """
    def numbers(s):
        return optax.contrib.MuonDimensionNumbers(
            tuple(map(s.axes.index, s.inputs)), tuple(map(s.axes.index, s.outputs)))
    none = optax.MaskedNode()
    hidden = jax.tree.map(lambda s: numbers(s) if s.hidden else none, specs)
    decays = jax.tree.map(lambda s: none if s.hidden else s.decay, specs)
    muon = optax.contrib.muon(hidden_rate, beta=c.muon_momentum, weight_decay=c.weight_decay,
                              muon_weight_dimension_numbers=hidden)
    labels = jax.tree.map(lambda s: "hidden" if s.hidden else "other", specs)
    return optax.partition(dict(hidden=muon, other=_adamw(c, specs, decays, rate, None)), labels)


OPTIMIZERS = dict(adamw=_adamw, adafactor=_adafactor, lion=_lion, muon=_muon, sgd=_sgd)
