"""One layer of a decoder."""

from functools import partial

import jax

from lm.mesh.rules import shard
from lm.models.decoder.config import Config
from lm.nn.attention import Attention
from lm.nn.experts import Experts
from lm.nn.linear import dropout
from lm.nn.mlp import MLP
from lm.nn.module import Module, Normal
from lm.nn.norm import Norm
from lm.nn.precision import PRECISIONS
from lm.nn.remat import named


def initialisers(c: Config):
    """Returns (inner, output): those of matrices that read the residual stream and that add to it.

    gpt2: 0.02 and 0.02/sqrt(2L) (Radford et al. 2019). llama: 0.02 for both. zero: 1/sqrt(fan-in)
    and 0, so that every layer starts as the identity.
    """
    return dict(
        gpt2=(Normal(0.02), Normal(0.02 / (2 * c.L) ** 0.5)),
        llama=(Normal(0.02), Normal(0.02)),
        zero=(Normal(c.D ** -0.5), Normal(0.0)),
    )[c.init]


class Block(Module):
    """One layer: attention and feed-forward, each around the residual stream."""

    def __init__(self, c: Config, experts: bool = True):
        """experts: whether the layer has them, if the model does."""
        inner, output = initialisers(c)
        norm = partial(Norm, c.norm, "D", c.D, eps=c.norm_eps, zero_centred=c.norm_zero_centred,
                       bias=c.bias == "all")
        self.config = c
        self.attention_norm, self.mlp_norm = norm(), norm()
        self.attention_post = norm() if c.post_norm else None
        self.mlp_post = norm() if c.post_norm else None
        self.attention = Attention(
            c.D, c.N, c.K, c.H, bias_qkv=c.bias != "none", bias_out=c.bias == "all",
            qk_norm=c.qk_norm, eps=c.norm_eps, softcap=c.attention_softcap,
            drop=c.dropout_attention, how=c.attention, context=c.context, init=inner,
            init_out=output, precision=PRECISIONS[c.precision])
        self.experts = bool(c.E and experts)
        if self.experts:
            self.mlp = Experts(
                c.D, c.F, c.activation, E=c.E, top=c.experts_top, shared=c.experts_shared,
                renormalise=c.experts_renormalise, capacity=c.experts_capacity, init=inner,
                init_out=output, precision=PRECISIONS[c.precision])
        else:
            self.mlp = MLP(c.D, c.F if experts else c.dense_F, c.activation, bias=c.bias == "all",
                           init=inner, init_out=output, precision=PRECISIONS[c.precision])

    def __call__(self, x_BTD, cache, key, *, index_BT=None, weights_BT=None, **places):
        """Returns (x_BTD, cache, aux): aux is sums over tokens, by weights_BT, of what experts did.

        aux["objective"] is what that adds to the objective. places: where the tokens are, as
        `Attention` takes it.
        """
        c = self.config
        keys = (None,) * 3 if key is None else jax.random.split(key, 3)

        def add(x, y, post, key):
            y = y if post is None else post(y)
            return shard(x + dropout(y, c.dropout_residual, key, index_BT), "BTD")

        x_BTD = named(x_BTD, "input")
        y, cache = self.attention(self.attention_norm(x_BTD), cache=cache, key=keys[0],
                                  index_BT=index_BT, **places)
        if c.parallel:
            z, aux = self._feed(x_BTD, index_BT, weights_BT)
            return add(x_BTD, y + z, None, keys[1]), cache, aux
        x_BTD = add(x_BTD, y, self.attention_post, keys[1])
        z, aux = self._feed(x_BTD, index_BT, weights_BT)
        return add(x_BTD, z, self.mlp_post, keys[2]), cache, aux

    def _feed(self, x_BTD, index_BT, weights_BT):
        x_BTD = self.mlp_norm(x_BTD)
        if not self.experts:
            return self.mlp(x_BTD), {}
        c = self.config
        y_BTD, aux = self.mlp(x_BTD, index_BT=index_BT, weights_BT=weights_BT)
        extra = c.balance_loss * aux["balance"] + c.router_z_loss * aux["router_z"]
        return y_BTD, dict(aux, objective=extra)
