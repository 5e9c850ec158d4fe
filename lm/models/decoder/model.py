"""The decoder: one forward pass, which training, scoring, prefill and decoding all call."""

import jax
import jax.numpy as jnp

from lm.base.errors import UserError
from lm.base.mean import Mean
from lm.mesh import devices, rules
from lm.mesh.rules import shard
from lm.models.decoder import layers
from lm.models.decoder.block import Block
from lm.models.decoder.config import Config
from lm.nn import pipeline
from lm.nn.linear import dropout
from lm.nn.loss import cross_entropy, logits
from lm.nn.module import Declaration, Module, Normal, compute, declare, param, stack
from lm.nn.norm import Norm
from lm.nn.precision import PRECISIONS
from lm.nn.rotary import frequencies


class Decoder(Module):
    """Embedding, L layers, norm, output matrix."""

    def __init__(self, c: Config):
        sizes = dict(V=c.V, D=c.D, T=c.T)
        self.config = c
        self.embedding = param("VD", sizes, Normal(0.02))
        self.positions = param("TD", sizes, Normal(0.02)) if c.positions == "learned" else None
        self.first = stack(Block(c, experts=False), c.dense_layers) if c.dense_layers else None
        self.layers = stack(Block(c), c.L - c.dense_layers)
        self.norm = Norm(c.norm, "D", c.D, eps=c.norm_eps, zero_centred=c.norm_zero_centred,
                         bias=c.bias == "all")
        output = Normal(0.0 if c.init == "zero" else 0.02)
        self.output = None if c.tied else param("DV", sizes, output, "D")

    def __call__(self, tokens_BT, positions_BT, *, segments_BT=None, index_BT=None, cache=None,
                 key=None):
        """Returns (x_BTD, cache): the last layer and, given a cache, the cache after.

        cache: a `lm.nn.paged.Cache` that knows to which sequences the tokens of the one row
        belong. key: for dropout; none without it. index_BT: the tokens' numbers in the batch, as
        `rules.place` gives them; without it they are in their own order.
        """
        x, places, key = self.enter(tokens_BT, positions_BT, segments_BT, index_BT, key)
        if cache is not None:
            return layers.paged(self.config, self.first, self.layers, x, cache, places)
        return layers.run(self.config, self.first, self.layers, x, key, places)[0], None

    def enter(self, tokens_BT, positions_BT, segments_BT, index_BT, key):
        """Returns (x_BTD, places, key): what the layers are given."""
        c = self.config
        x = shard(_table(c, self.embedding[...])[tokens_BT], "BTD")
        if c.embedding_scale:
            x = x * jnp.asarray(c.D ** 0.5, x.dtype)
        if self.positions is not None:
            x = x + self.positions[...][positions_BT].astype(x.dtype)
        if key is not None:
            key, own = jax.random.split(key)
            x = dropout(x, c.dropout_embedding, own, index_BT)
        angle_BTH = None
        if c.positions == "rotary" and c.rotated:
            w_H = frequencies(c.rotated, c.rotary_base, c.rotary_stretch)
            angle_BTH = positions_BT[..., None].astype(jnp.float32) * w_H
        places = dict(angle_BTH=angle_BTH, segments_BT=segments_BT, index_BT=index_BT)
        return shard(x, "BTD"), places, key

    @property
    def rest(self) -> tuple:
        """What follows the layers: the norm and the output matrix, or the embedding that is it."""
        return self.norm, self.embedding if self.output is None else self.output

    def logits(self, x_BTD):
        """Returns float32 logits of `__call__`'s x, soft-capped if asked for."""
        return logits(*_ready(self.config, self.rest, x_BTD), self.config.logit_softcap)


def _table(c, embedding_VD):
    """The embedding as it is computed with."""
    return shard(embedding_VD.astype(jnp.dtype(PRECISIONS[c.precision].compute)), "VD")


def _ready(c, rest, x_BTD):
    """(x_BTD normalised, the output matrix w_DV), as they are multiplied."""
    norm, matrix = rest
    dtype = jnp.dtype(PRECISIONS[c.precision].compute)
    x_BTD = compute(norm, jnp.float32)(x_BTD).astype(dtype)
    if c.tied:
        return x_BTD, _table(c, matrix[...]).T
    return x_BTD, shard(matrix[...].astype(dtype), "DV")


def build(c: Config) -> Declaration:
    """Returns the declaration of a decoder; V and T of `c` must be given."""
    return declare(Decoder(c), PRECISIONS[c.precision])


def check(c: Config, mesh, B: int = 0) -> None:
    """Raises UserError if the mesh, which is in use, cannot hold the model and batches of B rows.

    B = 0: for inference, which takes any number of rows through the stages at once.
    """
    rules.check(dict(D=c.D, N=c.N, F=c.F, E=c.E), mesh)
    if c.dense_layers:
        rules.check(dict(F=c.dense_F), mesh)
    if mesh.shape["stage"] > 1:
        layers.plan(c, B)
    if c.remat == "offload" and not devices.host_memory(mesh):
        raise UserError("model.remat = 'offload' needs devices that can use their host's memory; "
                        "set model.remat='full'")


def loss(model: Decoder, batch: dict, key=None) -> tuple[Mean, dict[str, Mean]]:
    """Returns (what is minimised, what is reported), Means over the batch's weighted tokens.

    batch: tokens_BT, targets_BT, weights_BT, positions_BT and, when packed, segments_BT; on a
    mesh index_BT too, as `rules.place` gives it.
    """
    c = model.config
    x, places, key = model.enter(batch["tokens_BT"], batch["positions_BT"],
                                 batch.get("segments_BT"), batch.get("index_BT"), key)
    aim = {name: batch[name] for name in ("targets_BT", "weights_BT")}
    if c.E:
        places["weights_BT"] = batch["weights_BT"]
    if c.schedule == "1f1b" and rules.ways("stage") > 1:
        p = layers.plan(c, x.shape[0])
        x = layers.begin(c, model.first, x, key, places)
        stage = layers.stage(c, key, p)
        run = pipeline.one_forward_one_backward(
            lambda w, x, place, first: stage(w, x, place[0], first),
            lambda rest, y, place: _score(c, rest, y, place[1]), p)
        micro = jax.tree.map(lambda a: rules.microbatches(a, p.M), (x, (places, aim)))
        objective, (means, aux) = run(layers.arrange(c, model.layers, p), model.rest, *micro)
    else:
        x, aux = layers.run(c, model.first, model.layers, x, key, places)
        objective, means = _score(c, model.rest, x, aim)
        objective = objective + aux.get("objective", 0.0)
    count = means["loss"].count
    means.update((name, Mean(aux[name], count * (c.L - c.dense_layers)))
                 for name in ("balance", "dropped", "imbalance") if name in aux)
    return Mean(objective, count), means


def _score(c, rest, x_BTD, aim):
    """(the objective's sum over tokens, Means to report) of the last layer's x."""
    nll, z = cross_entropy(*_ready(c, rest, x_BTD), aim["targets_BT"], aim["weights_BT"],
                           softcap=c.logit_softcap, chunk=c.loss_chunk)
    return nll.total + c.z_loss * z.total if c.z_loss else nll.total, dict(loss=nll)
