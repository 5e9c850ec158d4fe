"""Published decoders by name, as fields of `Config`. Parameter counts are those of the releases."""

_GPT2 = dict(V=50257, T=1024, norm="layernorm", positions="learned", bias="all",
             activation="gelu_tanh", tied=True, init="gpt2")
_LLAMA = dict(norm="rmsnorm", positions="rotary", activation="swiglu", init="llama")
_LLAMA1 = dict(_LLAMA, V=32000, T=2048, norm_eps=1e-6)
_LLAMA2 = dict(_LLAMA, V=32000, T=4096)
_LLAMA3 = dict(_LLAMA, V=128256, T=8192, rotary_base=500000.0)
_LLAMA32 = dict(_LLAMA3, T=131072, tied=True, rotary_stretch=(32.0, 1.0, 4.0, 8192.0))
_MIXTRAL = dict(_LLAMA, rotary_base=1e6, K=8, E=8, experts_top=2)
_QWEN2 = dict(_LLAMA, bias="qkv", T=32768, rotary_base=1e6, norm_eps=1e-6)
_QWEN3 = dict(_LLAMA, qk_norm=True, T=40960, rotary_base=1e6, norm_eps=1e-6, V=151936, H=128, K=8)
_GEMMA = dict(V=256000, T=8192, H=256, norm="rmsnorm", norm_eps=1e-6, norm_zero_centred=True,
              positions="rotary", activation="geglu", tied=True, embedding_scale=True, init="llama")
_GEMMA2 = dict(_GEMMA, post_norm=True, logit_softcap=30.0, attention_softcap=50.0,
               windows=(4096, 0))
_PYTHIA = dict(V=50304, T=2048, norm="layernorm", positions="rotary", rotary_share=0.25,
               bias="all", activation="gelu", parallel=True, init="gpt2")

# balance_loss: the release's router_aux_loss_coef times k where its sum over f is k and not 1.
PRESETS = {
    "gpt2_124m": dict(_GPT2, L=12, D=768, N=12),
    "gpt2_355m": dict(_GPT2, L=24, D=1024, N=16),
    "gpt2_774m": dict(_GPT2, L=36, D=1280, N=20),
    "gpt2_1.5b": dict(_GPT2, L=48, D=1600, N=25),
    # All layers of GPT-3 see the whole sequence here; of the paper's, every other a band of it.
    "gpt3_175b": dict(_GPT2, T=2048, L=96, D=12288, N=96),
    "llama1_7b": dict(_LLAMA1, L=32, D=4096, N=32, F=11008),
    "llama1_13b": dict(_LLAMA1, L=40, D=5120, N=40, F=13824),
    "llama1_33b": dict(_LLAMA1, L=60, D=6656, N=52, F=17920),
    "llama1_65b": dict(_LLAMA1, L=80, D=8192, N=64, F=22016),
    "llama2_7b": dict(_LLAMA2, L=32, D=4096, N=32, F=11008),
    "llama2_13b": dict(_LLAMA2, L=40, D=5120, N=40, F=13824),
    "llama2_70b": dict(_LLAMA2, L=80, D=8192, N=64, K=8, F=28672),
    "llama3_8b": dict(_LLAMA3, L=32, D=4096, N=32, K=8, F=14336),
    "llama3_70b": dict(_LLAMA3, L=80, D=8192, N=64, K=8, F=28672),
    "llama3_405b": dict(_LLAMA3, L=126, D=16384, N=128, K=8, F=53248),
    "llama3.2_1b": dict(_LLAMA32, L=16, D=2048, N=32, K=8, F=8192),
    "llama3.2_3b": dict(_LLAMA32, L=28, D=3072, N=24, K=8, F=8192),
    "mistral_7b": dict(_LLAMA, V=32000, T=32768, L=32, D=4096, N=32, K=8, F=14336,
                       windows=(4096,)),
    "qwen2_0.5b": dict(_QWEN2, V=151936, L=24, D=896, N=14, K=2, F=4864, tied=True),
    "qwen2_1.5b": dict(_QWEN2, V=151936, L=28, D=1536, N=12, K=2, F=8960, tied=True),
    "qwen2_7b": dict(_QWEN2, V=152064, L=28, D=3584, N=28, K=4, F=18944),
    "qwen2_72b": dict(_QWEN2, V=152064, L=80, D=8192, N=64, K=8, F=29568),
    "qwen3_0.6b": dict(_QWEN3, L=28, D=1024, N=16, F=3072, tied=True),
    "qwen3_1.7b": dict(_QWEN3, L=28, D=2048, N=16, F=6144, tied=True),
    "qwen3_4b": dict(_QWEN3, L=36, D=2560, N=32, F=9728, tied=True),
    "qwen3_8b": dict(_QWEN3, L=36, D=4096, N=32, F=12288),
    "qwen3_14b": dict(_QWEN3, L=40, D=5120, N=40, F=17408),
    "qwen3_32b": dict(_QWEN3, L=64, D=5120, N=64, F=25600),
    "mixtral_8x7b": dict(_MIXTRAL, V=32000, T=32768, L=32, D=4096, N=32, F=14336,
                         balance_loss=0.04),
    "mixtral_8x22b": dict(_MIXTRAL, V=32768, T=65536, L=56, D=6144, N=48, F=16384,
                          balance_loss=0.002),
    "qwen3_30b_a3b": dict(_QWEN3 | dict(K=4), L=48, D=2048, N=32, F=768, E=128, experts_top=8,
                          balance_loss=0.008),
    "qwen3_235b_a22b": dict(_QWEN3 | dict(K=4), L=94, D=4096, N=64, F=1536, E=128, experts_top=8,
                            balance_loss=0.008),
    "deepseek_moe_16b": dict(_LLAMA, V=102400, T=4096, norm_eps=1e-6, L=28, D=2048, N=16, F=1408,
                             E=64, experts_top=6, experts_shared=2, experts_renormalise=False,
                             dense_layers=1, dense_F=10944, balance_loss=0.001),
    "gemma_2b": dict(_GEMMA, L=18, D=2048, N=8, K=1, F=16384),
    "gemma_7b": dict(_GEMMA, L=28, D=3072, N=16, F=24576),
    "gemma2_2b": dict(_GEMMA2, L=26, D=2304, N=8, K=4, F=9216),
    "gemma2_9b": dict(_GEMMA2, L=42, D=3584, N=16, K=8, F=14336),
    "pythia_70m": dict(_PYTHIA, L=6, D=512, N=8),
    "pythia_160m": dict(_PYTHIA, L=12, D=768, N=12),
    "pythia_410m": dict(_PYTHIA, L=24, D=1024, N=16),
    "pythia_1b": dict(_PYTHIA, L=16, D=2048, N=8),
    "pythia_1.4b": dict(_PYTHIA, L=24, D=2048, N=16),
    "pythia_2.8b": dict(_PYTHIA, L=32, D=2560, N=32),
    "pythia_6.9b": dict(_PYTHIA, V=50432, L=32, D=4096, N=32),
    "pythia_12b": dict(_PYTHIA, V=50688, L=36, D=5120, N=40),
    "gpt_neox_20b": dict(_PYTHIA, V=50432, L=44, D=6144, N=64, activation="gelu_tanh"),
}
