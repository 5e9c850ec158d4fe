"""The shape and the choices of a decoder. No jax here: a wrong flag is answered before it loads."""

from dataclasses import dataclass

from lm.base.errors import UserError
from lm.base.options import option
from lm.nn.precision import PRECISIONS


@dataclass(frozen=True)
class Config:
    """A decoder-only Transformer; letters are the alphabet's."""

    family: str = option("decoder", "model family", choices=("decoder",))
    L: int = option(4, "layers", low=1)
    D: int = option(128, "width", low=1)
    N: int = option(4, "query heads", low=1)
    K: int = option(-1, "kv heads; -1: as many as query heads", low=-1)
    H: int = option(-1, "head width; -1: D / N", low=-1)
    F: int = option(-1, "hidden units of the feed-forward layer; -1: 4 D", low=-1)
    V: int = option(-1, "vocabulary; -1: the tokenizer's", low=-1)
    T: int = option(-1, "positions that learned embeddings have; -1: the data's T", low=-1)
    norm: str = option("rmsnorm", "normalisation", choices=("rmsnorm", "layernorm"))
    norm_eps: float = option(1e-5, "added to the variance in a norm", low=0.0)
    norm_zero_centred: bool = option(False, "norm scales are 1 + w (Gemma)")
    post_norm: bool = option(False, "normalise each block's output as well (Gemma 2)")
    positions: str = option("rotary", "positions", choices=("rotary", "learned", "none"))
    rotary_base: float = option(10000.0, "base of the rotary wavelengths", low=1.0)
    rotary_share: float = option(1.0, "share of each head that rotates", low=0.0, high=1.0)
    rotary_stretch: tuple[float, ...] = option(
        (), "Llama 3's factor, low, high and trained positions; empty: none")
    qk_norm: bool = option(False, "rmsnorm on queries and keys")
    bias: str = option("none", "which matrices have a bias", choices=("none", "qkv", "all"))
    activation: str = option("swiglu", "feed-forward activation",
                             choices=("gelu", "gelu_tanh", "relu2", "swiglu", "geglu"))
    E: int = option(0, "experts of each layer's feed-forward, each of F hidden units; 0: one MLP",
                    low=0)
    experts_top: int = option(2, "experts that act on a token", low=1)
    experts_shared: int = option(0, "experts that act on every token, beside E", low=0)
    experts_renormalise: bool = option(True, "the weights of a token's experts add up to 1")
    experts_capacity: float = option(0.0, "tokens an expert takes of each row, over the mean; what "
                                     "is over is dropped; 0: takes all", low=0.0)
    balance_loss: float = option(0.01, "weight of the experts' balance in the loss", low=0.0)
    router_z_loss: float = option(0.0, "weight of log(Z)**2 of the router (ST-MoE: 1e-3)", low=0.0)
    dense_layers: int = option(0, "first layers that have one MLP in place of experts", low=0)
    dense_F: int = option(-1, "their hidden units; -1: F", low=-1)
    parallel: bool = option(False, "attention and feed-forward read the same input (NeoX)")
    tied: bool = option(False, "the output matrix is the embedding")
    embedding_scale: bool = option(False, "embeddings are multiplied by sqrt(D) (Gemma)")
    logit_softcap: float = option(0.0, "logits are c*tanh(logits/c); 0: off", low=0.0)
    attention_softcap: float = option(0.0, "the same for attention scores", low=0.0)
    windows: tuple[int, ...] = option(
        (0,), "keys each layer looks back on, in a cycle over layers; 0: all")
    dropout_embedding: float = option(0.0, "dropout after the embedding", low=0.0, high=0.99)
    dropout_attention: float = option(0.0, "dropout of attention weights", low=0.0, high=0.99)
    dropout_residual: float = option(0.0, "dropout of each block's output", low=0.0, high=0.99)
    init: str = option("gpt2", "initialiser: std 0.02; output matrices / sqrt(2L) (gpt2), "
                       "all 0.02 (llama), fan-in with output matrices zero (zero)",
                       choices=("gpt2", "llama", "zero"))
    z_loss: float = option(0.0, "weight of log(Z)**2 in the loss (PaLM: 1e-4)", low=0.0)
    precision: str = option("float32", "number formats of parameters, activations and, but for "
                            "routed experts', products", choices=tuple(PRECISIONS))
    precision_missing: str = option(
        "refuse", "where the chip has no unit for the precision's products: end, take bfloat16, or "
        "compute the same without", choices=("refuse", "bfloat16", "emulate"), free=True)
    remat: str = option("none", "what the backward pass computes again: nothing; all but matrix "
                        "products (dots); all but attention; whole layers (full), their inputs "
                        "kept in host memory (offload); whole stages of a pipeline", free=True,
                        choices=("none", "dots", "attention", "full", "offload", "stage"))
    schedule: str = option("gpipe", "order of work in a pipeline of mesh.stage stages: all parts "
                           "forward, then all back (gpipe); each back as soon as it can be (1f1b); "
                           "as gpipe, each stage with several groups of layers (circular)",
                           choices=("gpipe", "1f1b", "circular"), free=True)
    repeats: int = option(2, "circular: groups of layers of each stage", low=2, free=True)
    microbatches: int = option(0, "parts of a batch in a pipeline; 0: up to four a stage", low=0,
                               free=True)
    attention: str = option("auto", "attention implementation; auto: by platform", free=True,
                            choices=("auto", "dense", "blocks", "cudnn", "splash"))
    context: str = option("auto", "how K and V reach the queries of other devices: round a ring "
                          "or all at once; auto: by platform", choices=("auto", "ring", "gather"),
                          free=True)
    unroll: int = option(0, "layers per turn of the loop over layers; 0: by platform", low=0,
                         free=True)
    loss_chunk: int = option(0, "tokens of each sequence whose logits are held at once; 0: by size",
                             low=0, free=True)

    def __post_init__(self):
        """Fills what follows from other fields and refuses shapes that cannot be."""
        fill = dict(K=self.N, H=self.D // self.N, F=4 * self.D)
        fill["dense_F"] = fill["F"] if self.F == -1 else self.F
        if self.H == -1 and self.D % self.N:
            raise UserError(f"width D = {self.D} does not divide into N = {self.N} heads; "
                            "change one or give H")
        for name, value in fill.items():
            if getattr(self, name) == -1:
                object.__setattr__(self, name, value)
            if getattr(self, name) < 1:
                raise UserError(f"{name} = {getattr(self, name)} must be at least 1, or -1")
        for name in "VT":
            if getattr(self, name) == 0:
                raise UserError(f"{name} = 0 must be at least 1, or -1")
        if self.schedule == "1f1b" and PRECISIONS[self.precision].loss_scale:
            raise UserError(f"the loss scale of {self.precision} does not reach the gradients that "
                            "1f1b makes on its way; set schedule='gpipe'")
        if self.N % self.K:
            raise UserError(f"query heads N = {self.N} do not divide over kv heads K = {self.K}")
        if self.E and self.experts_top > self.E:
            raise UserError(f"experts_top = {self.experts_top} of E = {self.E} experts; lower it")
        if self.E and self.bias == "all":
            raise UserError("experts have no biases; set bias to 'none' or 'qkv'")
        if self.experts_shared and not self.E:
            raise UserError(f"experts_shared = {self.experts_shared} stand beside experts: give E, "
                            "or 0")
        if self.dense_layers and not (self.E and self.dense_layers < self.L):
            raise UserError(f"dense_layers = {self.dense_layers} come before layers of experts: "
                            "give E experts and more layers, or 0")
        if self.dense_layers % len(self.windows or (0,)):
            raise UserError(f"dense_layers = {self.dense_layers} cut the cycle of "
                            f"{len(self.windows)} windows; give a multiple of it")
        if self.positions == "rotary" and self.rotated % 2:
            raise UserError(f"rotary positions turn pairs, but {self.rotated} elements of a head "
                            "do")
        if self.rotary_stretch and len(self.rotary_stretch) != 4:
            raise UserError("rotary_stretch has four numbers: factor, low, high, trained positions")
        if not self.windows or min(self.windows) < 0:
            raise UserError("windows needs at least one size, none negative; 0 looks back on all")

    @property
    def dropout(self) -> bool:
        """Whether there is any."""
        return any((self.dropout_embedding, self.dropout_attention, self.dropout_residual))

    @property
    def rotated(self) -> int:
        """Elements of a head that rotate."""
        return int(self.H * self.rotary_share)
