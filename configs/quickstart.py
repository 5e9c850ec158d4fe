"""A small decoder on the source and documentation of Python's standard library; no download."""

from ml_collections import ConfigDict


def get_config():
    return ConfigDict(dict(
        data=dict(corpus="python_stdlib", tokenizer="bpe", V=2048, T=128, B=16),
        model=dict(L=4, D=128, N=4, F=384, activation="swiglu", qk_norm=True, init="zero"),
        train=dict(length="60 steps", optimizer="muon", lr=3e-3, evaluate_every="50%"),
        infer=dict(prompt="def ", num_samples=2),
    ))
