"""A small decoder on the source and documentation of Python's standard library; no download.

    launch/local.sh lm train --config=configs/quickstart.py

what      1.4 M parameters (4 layers, width 128, 2,048 SentencePiece pieces), Muon, 1.5 M tokens
data      the standard library of the Python that runs it, about 11 MB; 5 % of its files held out
hardware  2 CPU cores
time      under 5 minutes, the installation included
loss      3.11 nats/token, 1.51 bits/byte on the held-out files, where xz -9 needs 1.64
"""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(dict(
        data=dict(corpus="python_stdlib", tokenizer="bpe", V=2048, T=128, B=8, validation=0.05),
        model=dict(L=4, D=128, N=4, F=384, activation="swiglu", qk_norm=True, init="zero"),
        mesh=dict(target="v5e:1x1"),
        train=dict(length="1500 steps", optimizer="muon", lr=3e-3, hidden_lr=0.02,
                   schedule="linear", final=0.0, warmup="20 steps", weight_decay=0.0, b2=0.99,
                   evaluate_every="50%", save_every="50%", log_every="25 steps"),
        infer=dict(prompt="def ", num_samples=2, max_tokens=150, temperature=0.6),
    ))
