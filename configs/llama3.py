"""Llama 3 shapes for pre-training on text of your own.

    lm train --config=configs/llama3.py:8b --config.data.corpus='data/*.jsonl.zst' \
        --config.data.tokenizer=tokenizer.json

what      :1b (Llama 3.2) :8b :70b with the published shapes and exact parameter counts, four
          million tokens a step, and :tiny, the same choices at a size for tests and laptops
data      text files by glob or tfds:NAME; the tokenizer.json of the release (128,256 ids)
hardware  chips of TPU v5p, for which the step was compiled: :1b 32, :8b 64, :70b 512; :tiny 1 CPU
time      :8b, 1e12 tokens on 64 v5p at 50 % utilisation: about 41 days; :tiny 1 minute; only
          :tiny was run here
loss      none published for these tokens; :tiny reaches 2.18 nats/byte on Python source
"""

from ml_collections import ConfigDict

from lm.base.errors import pick
from lm.models.decoder.presets import PRESETS

TINY = dict(PRESETS["llama3_8b"], L=4, D=64, N=8, K=2, F=224, V=256, T=128)
MODELS = {"1b": PRESETS["llama3.2_1b"], "8b": PRESETS["llama3_8b"], "70b": PRESETS["llama3_70b"],
          "tiny": TINY}
TARGETS = {"1b": "v5p:2x4x4", "8b": "v5p:4x4x4", "70b": "v5p:8x8x8", "tiny": "v5e:1x1"}


def get_config(arg="8b"):
    c = ConfigDict(dict(
        data=dict(corpus="data/*.jsonl.zst", tokenizer="tokenizer.json", T=8192, B=512,
                  validation=0.0005),
        model=dict(pick(MODELS, arg, "size"), precision="bfloat16", remat="full"),
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
