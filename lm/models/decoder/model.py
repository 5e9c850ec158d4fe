"""The decoder: one forward pass, which training, scoring, prefill and decoding all call."""

from functools import partial

import jax
import jax.numpy as jnp

from lm.base.mean import Mean
from lm.mesh.devices import platform
from lm.mesh.rules import shard
from lm.models.decoder.config import Config
from lm.nn.attention import Attention
from lm.nn.linear import dropout
from lm.nn.loss import cross_entropy
from lm.nn.mlp import MLP
from lm.nn.module import Declaration, Module, Normal, compute, declare, param, stack
from lm.nn.norm import Norm
from lm.nn.rotary import frequencies

REMAT = dict(
    none=None,
    dots=jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    full=jax.checkpoint_policies.nothing_saveable,
)


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

    def __init__(self, c: Config):
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
            drop=c.dropout_attention, how=c.attention, init=inner, init_out=output)
        self.mlp = MLP(c.D, c.F, c.activation, bias=c.bias == "all", init=inner, init_out=output)

    def __call__(self, x_BTD, cache, key, **places):
        c = self.config
        keys = (None,) * 3 if key is None else jax.random.split(key, 3)

        def add(x, y, post, key):
            y = y if post is None else post(y)
            return shard(x + dropout(y, c.dropout_residual, key), "BTD")

        y, cache = self.attention(self.attention_norm(x_BTD), cache=cache, key=keys[0], **places)
        if c.parallel:
            return add(x_BTD, y + self.mlp(self.mlp_norm(x_BTD)), None, keys[1]), cache
        x_BTD = add(x_BTD, y, self.attention_post, keys[1])
        return add(x_BTD, self.mlp(self.mlp_norm(x_BTD)), self.mlp_post, keys[2]), cache


class Decoder(Module):
    """Embedding, L layers, norm, output matrix."""

    def __init__(self, c: Config):
        sizes = dict(V=c.V, D=c.D, T=c.T)
        self.config = c
        self.embedding = param("VD", sizes, Normal(0.02))
        self.positions = param("TD", sizes, Normal(0.02)) if c.positions == "learned" else None
        self.layers = stack(Block(c), c.L)
        self.norm = Norm(c.norm, "D", c.D, eps=c.norm_eps, zero_centred=c.norm_zero_centred,
                         bias=c.bias == "all")
        output = Normal(0.0 if c.init == "zero" else 0.02)
        self.output = None if c.tied else param("DV", sizes, output, "D")

    def __call__(self, tokens_BT, positions_BT, *, segments_BT=None, cache=None, offset_B=None,
                 key=None):
        """Returns (x_BTD, cache): the normalised last layer and, given a cache, the cache after.

        cache: keys and values by layer, (k_LBSKH, v_LBSKH), as `new_cache` makes. offset_B: where
        in S each row's tokens go. key: for dropout; none without it.
        """
        c = self.config
        dtype = jnp.dtype(c.compute)
        x = self._table(dtype)[tokens_BT]
        if c.embedding_scale:
            x = x * jnp.asarray(c.D ** 0.5, dtype)
        if self.positions is not None:
            x = x + self.positions[...][positions_BT].astype(dtype)
        if key is not None:
            key, own = jax.random.split(key)
            x = dropout(x, c.dropout_embedding, own)
        angle_BTH = None
        if c.positions == "rotary" and c.rotated:
            w_H = frequencies(c.rotated, c.rotary_base, c.rotary_stretch)
            angle_BTH = positions_BT[..., None].astype(jnp.float32) * w_H
        x, cache = self._layers(shard(x, "BTD"), cache, key, angle_BTH=angle_BTH,
                                segments_BT=segments_BT, offset_B=offset_B)
        return compute(self.norm, jnp.float32)(x), cache

    def _table(self, dtype):
        """The embedding as it is computed with."""
        return shard(self.embedding[...].astype(dtype), "VD")

    def _layers(self, x, cache, key, **places):
        """The layers in turn: a loop whose body is one cycle of window sizes."""
        c = self.config
        cycle = len(c.windows)

        def apply(x, xs, window):
            block, cache, index = xs
            own = None if key is None else jax.random.fold_in(key, index)
            return compute(block, x.dtype)(x, cache, own, window=window, **places)

        if REMAT[c.remat]:
            apply = jax.checkpoint(apply, policy=REMAT[c.remat], prevent_cse=False,
                                   static_argnums=(2,))

        def body(x, xs):
            caches = []
            for i, window in enumerate(c.windows):
                x, out = apply(x, jax.tree.map(lambda a: a[i], xs), window)  # noqa: B023
                caches.append(out)
            return x, jax.tree.map(lambda *a: jnp.stack(a), *caches)

        xs = (self.layers, cache, jnp.arange(c.L))
        whole = c.L // cycle
        if cycle == 1:
            x, out = jax.lax.scan(lambda x, xs: apply(x, xs, c.windows[0]), x, xs,
                                  unroll=self._unroll(whole))
            return x, out
        cycles = jax.tree.map(lambda a: a[:whole * cycle].reshape(whole, cycle, *a.shape[1:]), xs)
        x, out = jax.lax.scan(body, x, cycles, unroll=self._unroll(whole))
        out = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), out)
        rest = []
        for i in range(whole * cycle, c.L):
            x, last = apply(x, jax.tree.map(lambda a: a[i], xs), c.windows[i % cycle])  # noqa: B023
            rest.append(last)
        return x, jax.tree.map(lambda a, *b: jnp.concatenate([a, jnp.stack(b)]) if b else a,
                               out, *rest)

    def _unroll(self, turns: int) -> int:
        """Layers per turn of the loop.

        XLA:CPU copies stacked weights and what the backward pass needs in and out of a loop, and
        runs its body one operation at a time; chips do neither, and compile a loop once.
        """
        asked = self.config.unroll or (12 if platform() == "cpu" else 1)
        return max(1, min(asked, turns))

    def logits(self, x_BTD):
        """Returns float32 logits of `__call__`'s x, soft-capped if asked for."""
        c = self.config
        dtype = jnp.dtype(c.compute)
        w_DV = self._table(dtype).T if c.tied else shard(self.output[...].astype(dtype), "DV")
        B, T, D = x_BTD.shape
        logits = jnp.dot(x_BTD.astype(dtype).reshape(B * T, D), w_DV,
                         preferred_element_type=jnp.float32).reshape(B, T, c.V)
        return c.logit_softcap * jnp.tanh(logits / c.logit_softcap) if c.logit_softcap else logits


def build(c: Config) -> Declaration:
    """Returns the declaration of a decoder; V and T of `c` must be given."""
    return declare(Decoder(c))


def loss(model: Decoder, batch: dict, key=None) -> tuple[Mean, dict[str, Mean]]:
    """Returns (what is minimised, what is reported), Means over the batch's weighted tokens.

    batch: tokens_BT, targets_BT, weights_BT, positions_BT and, when packed, segments_BT.
    """
    c = model.config
    x_BTD, _ = model(batch["tokens_BT"], batch["positions_BT"],
                     segments_BT=batch.get("segments_BT"), key=key)
    nll, z = cross_entropy(x_BTD, model.logits, c.V, batch["targets_BT"], batch["weights_BT"],
                           c.loss_chunk)
    objective = Mean(nll.total + c.z_loss * z.total, nll.count) if c.z_loss else nll
    return objective, dict(loss=nll)


def new_cache(c: Config, B: int, S: int):
    """Returns an empty cache of S slots for B rows, (k_LBSKH, v_LBSKH).

    A token's slot is its index in its row, so a slot is overwritten before any query can see what
    an earlier, longer padding left in it.
    """
    def zeros():
        return shard(jnp.zeros((c.L, B, S, c.K, c.H), jnp.dtype(c.compute)), "LBSKH")
    return zeros(), zeros()
