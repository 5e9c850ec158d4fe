"""What saves memory, and how much: bytes of one device as the compiler counts them.

    LM_EXTRAS=dev,tpu launch/local.sh python benchmarks/memory.py

compiles the training step of a Llama (8 layers, width 2048, T = 2048, 16 rows, bfloat16, AdamW) for
four TPU v5e chips that need not be here; with `--cpu` a small one for four devices of this CPU.
Every line changes one thing of the first.
"""

import argparse
import dataclasses
import os

from lm.base.errors import UserError
from lm.base.options import flatten
from lm.cost.chips import GIB
from lm.experiment import flags
from lm.verbs import VERBS

MODEL = ["--config.model.L=8", "--config.model.D=2048", "--config.model.N=16",
         "--config.model.K=8", "--config.model.H=128", "--config.model.F=5632",
         "--config.model.V=32768", "--config.data.T=2048", "--config.data.B=16"]
SMALL = ["--config.model.L=8", "--config.model.D=256", "--config.model.N=4", "--config.model.K=2",
         "--config.model.H=64", "--config.model.F=704", "--config.model.V=4096",
         "--config.data.T=256", "--config.data.B=16", "--config.model.unroll=1"]
CHANGES = {
    "as it is: fsdp 4, nothing computed again": {},
    "remat dots": {"model.remat": "dots"},
    "remat attention": {"model.remat": "attention"},
    "remat full": {"model.remat": "full"},
    "remat offload": {"model.remat": "offload"},
    "remat full, 4 microbatches": {"model.remat": "full", "train.accumulate": 4},
    "remat full, loss in one piece": {"model.remat": "full", "model.loss_chunk": "T"},
    "remat full, loss in 8 pieces": {"model.remat": "full", "model.loss_chunk": "T/8"},
    "remat full, optimizer in host memory": {"model.remat": "full", "train.offload": "optimizer"},
    "remat full, weights in bfloat16": {"model.remat": "full",
                                        "model.precision": "bfloat16_stored"},
    "remat full, adafactor": {"model.remat": "full", "train.optimizer": "adafactor"},
    "remat full, data 4": {"model.remat": "full", "mesh.data": 4, "mesh.fsdp": 1},
    "remat full, tensor 4": {"model.remat": "full", "mesh.tensor": 4, "mesh.fsdp": 1},
    "remat full, context 4": {"model.remat": "full", "mesh.context": 4, "mesh.fsdp": 1},
    "remat full, stage 4": {"model.remat": "full", "mesh.stage": 4, "mesh.fsdp": 1},
    "remat stage, stage 4": {"model.remat": "stage", "mesh.stage": 4, "mesh.fsdp": 1},
    "remat full, stage 4, 1f1b": {"model.remat": "full", "mesh.stage": 4, "mesh.fsdp": 1,
                                  "model.schedule": "1f1b"},
}


def experiment(small, changes):
    """Returns the experiment with the changes; T stands for the length of a sequence."""
    words = ["--config=configs/llama3.py:8b", *(SMALL if small else MODEL)]
    e = flags.parse([*words, "--config.model.remat=none"], VERBS["train"]).experiment
    values = flatten(dataclasses.asdict(e))
    T = values["data.T"]
    changes = {n: {"T": T, "T/8": T // 8}.get(v, v) for n, v in changes.items()}
    return flags.parse([*words, *(f"--config.{n}={v}" for n, v in (
        {"model.remat": "none"} | changes).items())], VERBS["train"]).experiment


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--target", default="v5e:2x2")
    parser.add_argument("--only", default="", help="lines that contain this")
    args = parser.parse_args()
    if args.cpu:
        os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
    import jax

    from lm.experiment import topology
    from lm.mesh import devices
    places = jax.devices("cpu") if args.cpu else topology.chips(args.target)[1]
    print(f"{'CPU' if args.cpu else args.target}, MiB of one of {len(places)} devices")
    print(f"{'':42s}{'arguments':>10s}{'temporary':>10s}{'peak':>10s}{'compiled in':>12s}")
    for name, changes in CHANGES.items():
        if args.only not in name:
            continue
        e = topology.whole(experiment(args.cpu, changes))
        try:
            made = topology.step(e, devices.make(e.mesh, places))
        except (UserError, jax.errors.JaxRuntimeError) as error:
            print(f"{name:42s}{' '.join(str(error).split())[:100]}", flush=True)
            continue
        print(f"{name:42s}" + "".join(f"{x / GIB * 1024:10,.0f}" for x in (
            made.arguments, made.temporaries, made.peak)) + f"{made.seconds:10.0f} s", flush=True)


if __name__ == "__main__":
    main()
