"""Training on one GPU: tokens/s and utilisation of a Llama-1B-like model, by what is chosen.

    launch/local.sh python benchmarks/gpu.py

trains Llama 3.2 1B (bfloat16, T = 2048, random packed tokens) a few steps in each variant, prints
a line for each, the best beside the aim of 50 % (model FLOPs, causal convention, of the chip's
dense bf16 peak), and where its time goes. `--tiny` does the same with a tiny model, anywhere.
"""

import argparse
import collections
import contextlib
import dataclasses
import glob
import json
import tempfile
import time

import jax

from lm.cost import utilisation
from lm.experiment import flags, parts, tiny, trial
from lm.train import step as program
from lm.verbs import VERBS

AIM = 0.5
VARIANTS = {
    "dots, 8 rows": dict(remat="dots", B=8),
    "dots, 16 rows": dict(remat="dots", B=16),
    "attention, 16 rows": dict(remat="attention", B=16),
    "full, 16 rows": dict(remat="full", B=16),
    "full, 32 rows": dict(remat="full", B=32),
    "none, 8 rows": dict(remat="none", B=8),
    "dots, 8 rows, fp8": dict(remat="dots", B=8, precision="fp8_current"),
    "dots, 8 rows, unrolled": dict(remat="dots", B=8, unroll=16),
    "dots, 8 rows, no packing": dict(remat="dots", B=8, packing=False),
}


def experiment(args, remat, B, precision="bfloat16", packing=True, unroll=0):
    """Returns the experiment of a variant."""
    e = flags.parse([f"--config={args.config}"], VERBS["train"]).experiment
    data = dataclasses.replace(e.data, T=args.T, B=B, packing=packing)
    model = dataclasses.replace(e.model, remat=remat, precision=precision, T=args.T, unroll=unroll)
    e = dataclasses.replace(e, data=data, model=model)
    return tiny.tiny(e) if args.tiny else e


def measure(e, steps, trace=None):
    """Returns (seconds of a step, utilisation, peak bytes) of training on random tokens."""
    with parts.on_mesh(e) as mesh:
        m = parts.model(e, 1 if e.model.V > 0 else tiny.V)
        batches = tiny.text(e, m.config.V, 4)
        optimizer, step, _ = trial.assemble(e, m, steps, mesh)
        state = program.init(m.declaration, optimizer, jax.random.key(0), mesh)
        with contextlib.closing(parts.feed(batches, 0, 2, mesh)) as feed:
            held = [next(feed) for _ in range(2)]
        for i in range(3):
            state, means = step(state, held[i % 2])
        jax.block_until_ready(state)
        with jax.profiler.trace(trace) if trace else contextlib.nullcontext():
            began = time.perf_counter()
            for i in range(steps):
                state, means = step(state, held[i % 2])
            jax.block_until_ready((state, means))
            seconds = (time.perf_counter() - began) / steps
        flops = parts.flops_per_token(m, e.data.T, mesh)
        rate = e.data.B * e.data.T / seconds
        stats = mesh.devices.flat[0].memory_stats() or {}
        share = utilisation.utilisation(flops, rate, list(mesh.devices.flat))
        return seconds, share, stats.get("peak_bytes_in_use", 0)


def summary(folder, most=12):
    """Returns [(share of the device's time, kernel)] of a trace, the largest first."""
    import gzip
    sums = collections.Counter()
    for path in glob.glob(f"{folder}/**/*.trace.json.gz", recursive=True):
        with gzip.open(path) as file:
            events = json.load(file)["traceEvents"]
        names = {(e["pid"]): e["args"]["name"] for e in events if e.get("name") == "process_name"}
        streams = {(e["pid"], e["tid"]) for e in events if e.get("name") == "thread_name"
                   and "Stream" in e["args"]["name"]}
        for e in events:
            own = "/device:" in names.get(e.get("pid"), "")
            if e.get("ph") == "X" and own and (e["pid"], e["tid"]) in streams:
                sums[e["name"]] += e.get("dur", 0)
    total = sum(sums.values()) or 1
    return [(time / total, name) for name, time in sums.most_common(most)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="configs/llama3.py:1b")
    parser.add_argument("--T", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--only", default="", help="variants whose name begins so")
    args = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {args.config}, T = {args.T}")
    best = (0.0, None)
    for name, choice in VARIANTS.items():
        if not name.startswith(args.only):
            continue
        try:
            seconds, share, peak = measure(experiment(args, **choice), args.steps)
        except jax.errors.JaxRuntimeError as error:
            print(f"{name:28s} {str(error).splitlines()[0][:90]}")
            continue
        e = experiment(args, **choice)
        used = "-" if share is None else f"{share:.1%}"
        print(f"{name:28s} {seconds * 1e3:9.1f} ms  {e.data.B * e.data.T / seconds:12,.0f} tokens/s"
              f"  utilisation {used}  peak {peak / 2**30:.1f} GiB", flush=True)
        best = max(best, (share or 0.0, name))
    print(f"best: {best[1]}, {best[0]:.1%} beside {AIM:.0%}")
    if best[1]:
        with tempfile.TemporaryDirectory() as folder:
            measure(experiment(args, **VARIANTS[best[1]]), 3, folder)
            for share, kernel in summary(folder):
                print(f"{share:7.1%}  {kernel[:100]}")


if __name__ == "__main__":
    main()
