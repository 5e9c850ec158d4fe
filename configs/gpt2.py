"""GPT-2 of four sizes on text of your own, as nanoGPT trains it.

    lm train --config=configs/gpt2.py:124m --config.data.corpus='data/*.jsonl.zst' \
        --config.data.tokenizer=tokenizer.json

what      :124m :355m :774m :1.5b  GPT-2 with its published shapes (vocabulary padded to 50304),
          half a million tokens a step
data      text files by glob (.txt .md .py .jsonl, .gz .zst) or tfds:NAME; the figures below are
          for OpenWebText with GPT-2's own tokenizer.json (for lack of one: tokenizer=bpe)
hardware  :124m 8 x A100 80 GB
time      about 4 days for :124m, 300e9 tokens; not run here
loss      published for :124m: 2.85 on held-out OpenWebText
"""

from ml_collections import ConfigDict

from lm.base.errors import pick
from lm.models.decoder.presets import PRESETS

SIZES = {size: f"gpt2_{size}" for size in ("124m", "355m", "774m", "1.5b")}
TARGETS = {"124m": "v5e:2x4", "355m": "v5p:2x2x2", "774m": "v5p:2x2x2", "1.5b": "v5p:2x2x2"}


def get_config(arg="124m"):
    preset = PRESETS[pick(SIZES, arg, "size")]
    return ConfigDict(dict(
        mesh=dict(target=TARGETS[arg]),
        data=dict(corpus="data/*.jsonl.zst", tokenizer="bpe", V=50257, T=1024, B=480,
                  packing=False, validation=0.0005),
        model=dict(preset, V=50304, precision="bfloat16", remat="dots"),
        train=dict(length="600000 steps", optimizer="adamw", lr=6e-4, warmup="2000 steps",
                   final=0.1, b2=0.95, weight_decay=0.1, clip=1.0, accumulate=4,
                   log_every="100 steps", evaluate_every="2000 steps", save_every="1000 steps"),
        infer=dict(prompt="The meaning of life is"),
    ))
