"""The published figure of configs/shakespeare_char.py:published, measured again in PyTorch.

    LM_EXTRAS=dev,bench launch/local.sh python benchmarks/nanogpt.py input.txt

Trains a plain PyTorch GPT with nanoGPT's settings for a small CPU and prints the validation loss in
two ways: over 20 random batches, as the published 1.88 was taken, and over all of the held-out
tenth in windows of 64, as `lm` does. A few minutes on 2 cores.
"""

import math
import sys

import numpy as np
import torch
import train_step

STEPS, WARMUP, LR, T, B = 2000, 100, 1e-3, 64, 12


def main(path):
    with open(path) as file:
        text = file.read()
    ids = np.unique(list(text), return_inverse=True)[1]
    cut = int(0.9 * len(ids))
    train, held_out = torch.tensor(ids[:cut]), torch.tensor(ids[cut:])
    net, optimizer = train_step.torch_model("a")
    torch.manual_seed(1337)

    def draw(data):
        starts = torch.randint(len(data) - T, (B,))
        rows = torch.stack([data[i:i + T + 1] for i in starts])
        return rows[:, :-1], rows[:, 1:]

    for step in range(STEPS):
        share = (step - WARMUP) / (STEPS - WARMUP)
        rate = LR * (step + 1) / WARMUP if share < 0 else LR * (
            0.1 + 0.45 * (1 + math.cos(math.pi * share)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        net(*draw(train)).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), train_step.CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        some = np.mean([net(*draw(held_out)).item() for _ in range(20)])
        rows = held_out[:(len(held_out) - 1) // (T * B) * T * B + 1]
        x, y = rows[:-1].view(-1, B, T), rows[1:].view(-1, B, T)
        whole = np.mean([net(*pair).item() for pair in zip(x, y, strict=True)])
    print(f"validation loss {some:.3f} over 20 random batches, {whole:.3f} over all")


if __name__ == "__main__":
    main(*sys.argv[1:])
