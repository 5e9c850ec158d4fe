"""Published mixtures of experts for pre-training on text of your own.

    lm train --config=configs/moe.py:mixtral --config.data.corpus='data/*.jsonl.zst' \
        --config.data.tokenizer=tokenizer.json

what      :mixtral (8x7B), :qwen3 (30B-A3B) and :deepseek (DeepSeekMoE 16B) with the published
          shapes and exact parameter counts, no token dropped, and :tiny, the last one's choices
          at a size for tests and laptops
data      text files by glob or tfds:NAME; the tokenizer.json of the release
hardware  :mixtral 128 chips of TPU v5p, :qwen3 and :deepseek 64; :tiny 1 CPU
time      :tiny 3.5 minutes beside other work on the machine; the others were not run here
loss      none published for these tokens; :tiny reaches 2.13 nats/byte on Python source
"""

from ml_collections import ConfigDict

from lm.base.errors import pick
from lm.models.decoder.presets import PRESETS

TINY = dict(PRESETS["deepseek_moe_16b"], L=4, D=64, N=8, F=32, V=256, T=128, E=16, experts_top=4,
            experts_shared=1, dense_F=160)
MODELS = {"mixtral": PRESETS["mixtral_8x7b"], "qwen3": PRESETS["qwen3_30b_a3b"],
          "deepseek": PRESETS["deepseek_moe_16b"], "tiny": TINY}
TARGETS = {"mixtral": "v5p:4x4x8", "qwen3": "v5p:4x4x4", "deepseek": "v5p:4x4x4", "tiny": "v5e:2x2"}


def get_config(arg="mixtral"):
    c = ConfigDict(dict(
        data=dict(corpus="data/*.jsonl.zst", tokenizer="tokenizer.json", T=4096, B=1024,
                  validation=0.0005),
        model=dict(pick(MODELS, arg, "model"), precision="bfloat16", remat="full"),
        mesh=dict(data=1, fsdp=-1, target=TARGETS[arg]),
        train=dict(length="1e12 tokens", optimizer="adamw", lr=3e-4, warmup="2000 steps",
                   final=0.1, b2=0.95, weight_decay=0.1, clip=1.0, log_every="10 steps",
                   evaluate_every="1000 steps", save_every="500 steps"),
    ))
    if arg == "tiny":
        c.data = dict(corpus="python_stdlib", tokenizer="bytes", T=128, B=16, limit=2_000_000)
        c.model.precision, c.model.remat = "float32", "none"
        c.train.update(length="200 steps", lr=3e-3, warmup="20 steps", evaluate_every="100 steps",
                       save_every="100 steps")
    return c
