"""Characters of Shakespeare: the smallest model that is worth looking at.

    lm train --config=configs/shakespeare_char.py:ours --config.data.corpus=input.txt

what      :published  nanoGPT's setting for a small CPU to the letter: GPT-2-like, AdamW, 0.80 M
                      parameters, 2,000 steps of 12 windows of 64 characters
          :gpt2       the same with twice its learning rate; the default
          :ours       as many parameters and tokens, spent better: rotary positions, qk-norm,
                      SwiGLU, zero-initialised outputs, smaller batches, Muon
data      tinyshakespeare (1.1 MB), given by its path; the last tenth is held out
hardware  2 CPU cores
time      4 min, 4 min, 5.5 min, each beside other work on the machine
loss      1.90, 1.82, 1.55 over all held-out characters in windows of 64; nanoGPT publishes 1.88
          for :published, a mean over 20 random batches: PyTorch gives 1.89 so and 1.90 over all
"""

from ml_collections import ConfigDict

from lm.base.errors import pick

DATA = dict(corpus="input.txt", tokenizer="characters", packing=False, split="tail",
            validation=0.1, T=64)

PUBLISHED = dict(
    data=dict(DATA, B=12),
    model=dict(L=4, D=128, N=4, norm="layernorm", positions="learned", activation="gelu",
               tied=True, init="gpt2"),
    train=dict(length="2000 steps", optimizer="adamw", lr=1e-3, warmup="100 steps", final=0.1,
               b2=0.99, weight_decay=0.1, clip=1.0, evaluate_every="500 steps",
               save_every="500 steps", log_every="50 steps"),
    infer=dict(prompt="\n", num_samples=1, max_tokens=300),
)

GPT2 = PUBLISHED | dict(train=PUBLISHED["train"] | dict(lr=2e-3))

OURS = dict(
    data=dict(DATA, B=6),
    model=dict(L=4, D=128, N=4, F=341, positions="rotary", activation="swiglu", qk_norm=True,
               tied=True, init="zero"),
    train=dict(length="4000 steps", optimizer="muon", lr=3e-3, hidden_lr=0.02, warmup="50 steps",
               final=0.0, schedule="linear", b1=0.9, b2=0.99, weight_decay=0.0, clip=1.0,
               evaluate_every="1000 steps", save_every="1000 steps", log_every="50 steps"),
    infer=dict(prompt="\n", num_samples=1, max_tokens=300),
)


def get_config(arg="gpt2"):
    c = ConfigDict(pick(dict(published=PUBLISHED, gpt2=GPT2, ours=OURS), arg, "setting"))
    c.mesh = dict(target="v5e:1x1")
    return c
