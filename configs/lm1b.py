"""The One Billion Word benchmark, read through TensorFlow Datasets without TensorFlow.

    lm train --config=configs/lm1b.py

what      a decoder of 74 M parameters (12 layers, width 512, 32 k pieces) on lm1b's shuffled
          sentences, packed
data      tfds:lm1b, prepared once as array_record where there is a network (1.8 GB); the command
          that does it is printed when it is missing
hardware  4 chips of TPU v5e, or 1 GPU of 24 GB
time      about 3 hours on 4 x v5e for 1.3e10 tokens; not run here
loss      about 3.3 nats a piece expected; not run here
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(dict(
        data=dict(corpus="tfds:lm1b", tokenizer="bpe", V=32000, T=256, B=512, validation=0.002),
        model=dict(L=12, D=512, N=8, F=1536, activation="swiglu", qk_norm=True,
                   precision="bfloat16", V=32000),
        mesh=dict(target="v5e:2x2"),
        train=dict(length="100000 steps", optimizer="adamw", lr=2e-3, warmup="2000 steps",
                   final=0.05, b2=0.95, weight_decay=0.1, log_every="100 steps",
                   evaluate_every="5000 steps", save_every="1000 steps"),
        infer=dict(prompt="The president said"),
    ))
