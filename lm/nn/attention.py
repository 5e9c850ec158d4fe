"""The attention layer: projections, positions, cache, attention, output."""

from lm.mesh.rules import shard
from lm.nn.attend import attend
from lm.nn.linear import linear, linears
from lm.nn.module import Constant, Module, param
from lm.nn.norm import Norm
from lm.nn.precision import Precision
from lm.nn.products import make
from lm.nn.remat import named
from lm.nn.rotary import rotate


class Attention(Module):
    """Attention with K kv heads, each shared by N/K query heads (Ainslie et al. 2023)."""

    def __init__(self, D: int, N: int, K: int, H: int, *, bias_qkv: bool, bias_out: bool,
                 qk_norm: bool, eps: float, softcap: float, drop: float, how: str, context: str,
                 init, init_out, precision: Precision):
        sizes = dict(D=D, N=N, K=K, H=H)
        self.softcap, self.drop, self.how, self.context = softcap, drop, how, context
        self.q = param("DNH", sizes, init, "D")
        self.k = param("DKH", sizes, init, "D")
        self.v = param("DKH", sizes, init, "D")
        self.o = param("NHD", sizes, init_out, "NH")
        self.q_product, self.k_product = make(precision), make(precision)
        self.v_product, self.o_product = make(precision), make(precision)
        zero = Constant(0.0)
        self.q_bias = param("NH", sizes, zero, decay=False) if bias_qkv else None
        self.k_bias = param("KH", sizes, zero, decay=False) if bias_qkv else None
        self.v_bias = param("KH", sizes, zero, decay=False) if bias_qkv else None
        self.o_bias = param("D", sizes, zero) if bias_out else None
        self.q_norm = Norm("rmsnorm", "H", H, eps=eps) if qk_norm else None
        self.k_norm = Norm("rmsnorm", "H", H, eps=eps) if qk_norm else None

    def __call__(self, x_BTD, *, angle_BTH=None, segments_BT=None, index_BT=None, cache=None,
                 window: int = 0, key=None):
        """Returns (y_BTD, cache). cache: a `lm.nn.paged.Cache`, which B = 1 row goes through."""
        q, k, v = self._project(x_BTD)
        if angle_BTH is not None:
            q, k = rotate(q, angle_BTH), rotate(k, angle_BTH)
        q_BTNH, k_BSKH, v_BSKH = shard(q, "BTNH"), shard(k, "BSKH"), shard(v, "BSKH")
        if cache is not None:
            y_BTNH, cache = cache.attend(q_BTNH, k_BSKH, v_BSKH, window=window,
                                         softcap=self.softcap)
        else:
            y_BTNH = attend(q_BTNH, k_BSKH, v_BSKH, segments_BT=segments_BT, index_BT=index_BT,
                            window=window, softcap=self.softcap, drop=self.drop, key=key,
                            how=self.how, context=self.context)
        y_BTNH = named(y_BTNH, "attention")
        bias = None if self.o_bias is None else self.o_bias[...]
        y_BTD = linear(shard(y_BTNH, "BTNH"), self.o[...], 2, bias, self.o_product)
        return y_BTD, cache

    def _project(self, x_BTD):
        """The queries, keys and values of x, normalised if asked for."""
        out = []
        ys = linears(x_BTD, [self.q[...], self.k[...], self.v[...]],
                     [self.q_product, self.k_product, self.v_product])
        for name, y in zip("qkv", ys, strict=True):
            bias, norm = getattr(self, name + "_bias"), getattr(self, name + "_norm", None)
            y = y if bias is None else y + bias[...]
            out.append(y if norm is None else norm(y))
        return out
