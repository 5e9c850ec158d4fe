"""Our training step beside a plain PyTorch one of the same shape, alternating in one run.

    LM_EXTRAS=dev,bench launch/local.sh python benchmarks/train_step.py [a] [b]    # with torch

Two processes, one a framework, take turns of a few steps on the same weights and data, so that
whatever else the machine does slows both. Prints the median time of a step and the median over
turns of the ratio torch/ours; the first losses must agree. Both wait for every step's loss, use all
cores, float32, AdamW, clipping at 1, no dropout.
"""

import dataclasses
import json
import statistics
import subprocess
import sys
import time

import numpy as np

from lm.models.decoder.config import Config

SHAPES = {  # the shakespeare setting; a small language model
    "a": (12, Config(L=4, D=128, N=4, T=64, V=65)),
    "b": (8, Config(L=8, D=512, N=8, T=256, V=8192)),
}
GPT = dict(norm="layernorm", positions="learned", activation="gelu", tied=True, init="gpt2")
LR, BETAS, DECAY, CLIP = 1e-3, (0.9, 0.99), 0.1, 1.0
TURNS, STEPS = dict(a=20, b=8), dict(a=10, b=2)


def shape(name):
    B, config = SHAPES[name]
    return B, dataclasses.replace(config, **GPT)


def weights(name):
    """The same numbers for both, [in, out]."""
    _, c = shape(name)
    rng = np.random.default_rng(0)

    def normal(*size, std=0.02):
        return (std * rng.standard_normal(size)).astype(np.float32)
    last = 0.02 / (2 * c.L) ** 0.5
    return dict(embedding=normal(c.V, c.D), positions=normal(c.T, c.D),
                q=normal(c.L, c.D, c.D), k=normal(c.L, c.D, c.D), v=normal(c.L, c.D, c.D),
                o=normal(c.L, c.D, c.D, std=last), up=normal(c.L, c.D, c.F),
                down=normal(c.L, c.F, c.D, std=last))


def tokens(name, number):
    B, c = shape(name)
    # Skewed, so that there is something to learn.
    rng = np.random.default_rng(1000 + number % 4)
    return np.minimum(rng.geometric(0.05, (B, c.T + 1)), c.V - 1).astype(np.int32)


def ours(name):
    """Returns (step() -> loss, seconds to compile)."""
    import jax
    import jax.numpy as jnp

    from lm.mesh import devices, runtime
    from lm.mesh.config import Config as Mesh
    from lm.models.decoder import model
    from lm.train import optimizers
    from lm.train import step as program
    from lm.train.config import Config as Train

    runtime.settle()
    jax.config.update("jax_enable_compilation_cache", False)  # what is timed is compiling
    B, c = shape(name)
    mesh = devices.make(Mesh())
    with devices.use(mesh):
        declaration = model.build(c)
        train = Train(b1=BETAS[0], b2=BETAS[1], weight_decay=DECAY)
        optimizer = optimizers.make(train, declaration, lambda step: LR, None)
        state = program.init(declaration, optimizer, jax.random.key(0), mesh)
        w = weights(name)
        heads = (c.L, c.D, c.N, c.H)
        state.params["embedding"] = jnp.asarray(w["embedding"])
        state.params["positions"] = jnp.asarray(w["positions"])
        layers = state.params["layers"]
        layers["attention"] |= {x: jnp.asarray(w[x].reshape(heads)) for x in "qkv"}
        layers["attention"]["o"] = jnp.asarray(w["o"].reshape(c.L, c.N, c.H, c.D))
        layers["mlp"] |= {x: jnp.asarray(w[x]) for x in ("up", "down")}
        step_fn = program.compiled(program.make(declaration, model.loss, optimizer,
                                                key=jax.random.key(0), clip=CLIP))
        positions = np.broadcast_to(np.arange(c.T, dtype=np.int32), (B, c.T))
        batches = [jax.device_put(dict(
            tokens_BT=x[:, :-1], targets_BT=x[:, 1:], positions_BT=positions,
            weights_BT=np.ones((B, c.T), np.float32))) for x in (tokens(name, i) for i in range(4))]
        start = time.perf_counter()
        step_fn = step_fn.lower(state, batches[0]).compile()
        seconds = time.perf_counter() - start
        turn = iter(range(10**9))

        def step():
            nonlocal state
            state, means = step_fn(state, batches[next(turn) % 4])
            return means["loss"].value
        return step, seconds


def torch_model(name):
    """Returns (net(x, y) -> loss, its AdamW), a plain GPT with the weights of `weights`."""
    import torch
    from torch import nn
    from torch.nn import functional as F
    B, c = shape(name)
    w = {k: torch.tensor(v) for k, v in weights(name).items()}

    class Block(nn.Module):
        def __init__(self, i):
            super().__init__()
            self.norm1, self.norm2 = (nn.LayerNorm(c.D, bias=False) for _ in range(2))
            self.qkv, self.o, self.up, self.down = (nn.Linear(*s, bias=False) for s in (
                (c.D, 3 * c.D), (c.D, c.D), (c.D, c.F), (c.F, c.D)))
            with torch.no_grad():
                self.qkv.weight.copy_(torch.cat([w[x][i].T for x in "qkv"]))
                for x in ("o", "up", "down"):
                    getattr(self, x).weight.copy_(w[x][i].T)

        def forward(self, x):
            q, k, v = (y.view(B, c.T, c.N, c.H).transpose(1, 2)
                       for y in self.qkv(self.norm1(x)).split(c.D, 2))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.o(y.transpose(1, 2).reshape(B, c.T, c.D))
            return x + self.down(F.gelu(self.up(self.norm2(x))))

    class GPT(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.positions = nn.Embedding(c.V, c.D), nn.Embedding(c.T, c.D)
            self.blocks = nn.ModuleList(Block(i) for i in range(c.L))
            self.norm = nn.LayerNorm(c.D, bias=False)
            with torch.no_grad():
                self.embedding.weight.copy_(w["embedding"])
                self.positions.weight.copy_(w["positions"])

        def forward(self, x, y):
            h = self.embedding(x) + self.positions.weight
            for block in self.blocks:
                h = block(h)
            logits = F.linear(self.norm(h), self.embedding.weight)
            return F.cross_entropy(logits.view(-1, c.V), y.reshape(-1))

    net = GPT()
    decays = [p for p in net.parameters() if p.dim() > 1]
    others = [p for p in net.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW([dict(params=decays, weight_decay=DECAY),
                                   dict(params=others, weight_decay=0.0)],
                                  lr=LR, betas=BETAS, fused=True)
    return net, optimizer


def torchs(name):
    """Returns (step() -> loss, 0)."""
    import torch
    net, optimizer = torch_model(name)
    batches = [torch.tensor(tokens(name, i)).long() for i in range(4)]
    turn = iter(range(10**9))

    def step():
        x = batches[next(turn) % 4]
        loss = net(x[:, :-1], x[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()
    return step, 0.0


def work(kind, name):
    """The process of one framework: a line of steps to take comes in, their times go out."""
    step, seconds = dict(ours=ours, torch=torchs)[kind](name)
    losses = [step() for _ in range(10)]
    print(json.dumps(dict(seconds=seconds, losses=losses)), flush=True)
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        print(json.dumps(times), flush=True)


def compare(name):
    """Alternates the two and prints a line."""
    workers = {kind: subprocess.Popen([sys.executable, __file__, kind, name], text=True, bufsize=1,
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE)
               for kind in ("torch", "ours")}
    first = {kind: json.loads(p.stdout.readline()) for kind, p in workers.items()}
    times = {kind: [] for kind in workers}
    for _ in range(TURNS[name] + 1):
        for kind, p in workers.items():
            p.stdin.write(f"{STEPS[name]}\n")
            times[kind].append(statistics.median(json.loads(p.stdout.readline())))
    for p in workers.values():
        p.stdin.close()
        p.wait()
    ratios = [t / o for t, o in zip(times["torch"][1:], times["ours"][1:], strict=True)]
    gap = max(abs(a - b) for a, b in zip(first["torch"]["losses"], first["ours"]["losses"],
                                         strict=True))
    print(f"({name}) torch {1e3 * statistics.median(times['torch'][1:]):.1f} ms  ours "
          f"{1e3 * statistics.median(times['ours'][1:]):.1f} ms  torch/ours "
          f"{statistics.median(ratios):.2f} (quartiles {statistics.quantiles(ratios, n=4)[0]:.2f}-"
          f"{statistics.quantiles(ratios, n=4)[2]:.2f})  ours compiles in "
          f"{first['ours']['seconds']:.1f} s  first losses within {gap:.1e}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] in (["ours"], ["torch"]):
        work(*sys.argv[1:3])
    else:
        for shape_name in sys.argv[1:] or SHAPES:
            compare(shape_name)
