"""Mixture of experts: a router sends each token through a few of many feed-forward layers.

`_mix` is all of it, on one device or as each device's part in a shard_map, so that what goes from
device to device is written out (`lm/nn/dispatch.py`) and is no guess of the compiler's. The letter
R counts a token's choices here, the likeliest expert first.
"""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from lm.mesh.rules import COMPUTE, island, spec
from lm.nn.dispatch import ALONE, Places, dropless, limited, wire
from lm.nn.mlp import ACTIVATIONS, MLP
from lm.nn.module import Module, param
from lm.nn.precision import PRECISIONS, Precision


class Experts(Module):
    """The `top` of E feed-forward layers that a router picks for each token, in a weighted sum.

    The weights are the router's softmax over all experts (Shazeer et al. 2017), which `renormalise`
    makes add up to 1 over those picked: Mixtral's softmax over the top logits.
    shared: experts that every token passes beside (Dai et al. 2024, DeepSeekMoE, section 3.2), in
    one MLP of width shared*F. capacity: an expert's slots for each row over its mean load, 0 for as
    many as it takes: see `dispatch.limited` and `dispatch.dropless`. precision: that of the shared
    experts; the routed ones multiply in the dtype of their input.
    """

    def __init__(self, D: int, F: int, activation: str, *, E: int, top: int, shared: int,
                 renormalise: bool, capacity: float, init, init_out,
                 precision: Precision = PRECISIONS["float32"]):
        sizes = dict(E=E, D=D, F=F)
        self.activation, self.top = activation, top
        self.renormalise, self.capacity = renormalise, capacity
        gated = ACTIVATIONS[activation][1]
        self.router = param("DE", sizes, init, "D", exact=True)
        self.gate = param("EDF", sizes, init, "D") if gated else None
        self.up = param("EDF", sizes, init, "D")
        self.down = param("EFD", sizes, init_out, "F")
        self.shared = MLP(D, shared * F, activation, bias=False, init=init,
                          init_out=init_out, precision=precision) if shared else None

    def __call__(self, x_BTD, *, index_BT=None, weights_BT=None):
        """Returns (y_BTD, aux): aux as `balance` says, float32 sums over tokens by weights_BT.

        index_BT: a number of each token that grows with time along its row, for rows whose columns
        are in another order. weights_BT: default is 1 for each token; they weigh in aux alone.
        """
        B, T, _ = x_BTD.shape
        if index_BT is None:
            index_BT = jnp.broadcast_to(jnp.arange(T), (B, T))
        if weights_BT is None:
            weights_BT = jnp.ones((B, T), jnp.float32)
        ws = [w[...] for w in (self.up, self.down, self.gate) if w is not None]
        y_BTD, aux = self._spread(x_BTD, index_BT, weights_BT, self.router[...], *ws)
        return (y_BTD if self.shared is None else y_BTD + self.shared(x_BTD)), aux

    def _spread(self, x_BTD, index_BT, weights_BT, router_DE, *ws):
        """`_mix` on the devices of the mesh in use."""
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty or mesh.size == 1:
            return self._mix(ALONE, x_BTD, index_BT, weights_BT, router_DE, *ws)
        tokens, whole = spec("BT", x_BTD.shape[:2], mesh, COMPUTE), PartitionSpec()
        held = [spec(letters, w.shape, mesh, COMPUTE)
                for letters, w in zip(("EDF", "EFD", "EDF"), ws, strict=False)]
        p = Places(*(() if names is None else names if isinstance(names, tuple) else (names,)
                     for names in tokens))

        def local(x, index, weights, router, *ws):
            return self._mix(p, x.astype(x_BTD.dtype), index, weights, router,
                             *(w.astype(x_BTD.dtype) for w in ws))
        return island(local, (tokens, tokens, tokens, whole, *held), (tokens, whole))(
            wire(x_BTD), index_BT, weights_BT, router_DE, *map(wire, ws))

    def _mix(self, p, x_BTD, index_BT, weights_BT, router_DE, *ws):
        """The routed experts' sum for tokens whose places on the mesh are p, and aux."""
        logits_BTE = jnp.einsum("BTD,DE->BTE", x_BTD.astype(jnp.float32),
                                router_DE.astype(jnp.float32), precision="highest")
        share_BTE = jax.nn.softmax(logits_BTE, -1)
        expert_BTR = jax.lax.top_k(jax.lax.stop_gradient(share_BTE), self.top)[1]
        chosen_BTRE = expert_BTR[..., None] == jnp.arange(share_BTE.shape[-1])
        share_BTR = jnp.where(chosen_BTRE, share_BTE[..., None, :], 0).sum(-1)
        if self.renormalise:
            share_BTR = share_BTR / share_BTR.sum(-1, keepdims=True)
        if self.capacity:
            y_BTD, dropped_BT = limited(p, x_BTD, share_BTR, expert_BTR, index_BT, ws,
                                        self.capacity, self.activation)
        else:
            y_BTD = dropless(p, x_BTD, share_BTR, expert_BTR, ws, self.activation)
            dropped_BT = jnp.zeros(index_BT.shape)
        z_BT = jax.nn.logsumexp(logits_BTE, -1)
        return y_BTD, balance(share_BTE, chosen_BTRE.sum(2), z_BT, dropped_BT, weights_BT, p)


def balance(share_BTE, chosen_BTE, z_BT, dropped_BT, weights_BT, p=ALONE):
    """Returns float32 sums over tokens, each by its weight; the weights' sum makes means of them.

    Each is of a token or of its row, so that they add up over any split of a batch into rows:
    balance     E/k sum_E f P of the row, f the share of its tokens that choose an expert and P its
                mean share of them; 1 if all experts are alike (DeepSeek-V3, equations 17-20)
    router_z    log(Z)^2 of the router's logits (Zoph et al. 2022, equation 5)
    dropped     the share of a token's choices that found no slot
    imbalance   the load of the row's busiest expert over the mean load
    """
    def row(x):
        return jax.lax.psum(x, p.cols)
    E = share_BTE.shape[-1]
    weight_B = row(weights_BT.sum(1))
    load_BE = row(jnp.einsum("BT,BTE->BE", weights_BT, chosen_BTE.astype(jnp.float32)))
    load_BE *= E / jnp.maximum(load_BE.sum(1, keepdims=True), 1e-9)
    share_BE = row(jnp.einsum("BT,BTE->BE", weights_BT, share_BTE))  # P times the row's weight
    return jax.lax.psum(dict(
        balance=jnp.vdot(load_BE, share_BE), router_z=row(jnp.vdot(weights_BT, z_BT ** 2)),
        dropped=row(jnp.vdot(weights_BT, dropped_BT)),
        imbalance=jnp.vdot(weight_B, load_BE.max(1))), p.rows)
