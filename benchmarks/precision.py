"""Loss curves of every precision side by side, each with its distance to float32's.

    python benchmarks/precision.py shared/data/tinyshakespeare.txt --steps=400

Trains `configs/shakespeare_char.py` by `lm train` in each row of `lm.nn.precision.PRECISIONS`, with
the same first parameters and batches, and prints the loss along the way (each a mean since the one
before), the validation loss at the end and its relative distance to float32's beside the distance
that the row states. --steps=2000 is the whole run; the schedule of the learning rate is fitted to
the steps. Exits with 1 where a distance is larger than stated.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

from lm.base.records import read_lines
from lm.nn.precision import PRECISIONS

ROOT = pathlib.Path(__file__).parent.parent
POINTS = 8


def train(corpus: str, setting: str, steps: int, precision: str, run: str) -> list[dict]:
    """Returns the records of a run."""
    flags = {"data.corpus": corpus, "model.precision": precision, "train.length": steps,
             "train.log_every": steps // POINTS, "train.evaluate_every": steps,
             "train.warmup": "5%", "train.tensorboard": False, "infer.max_tokens": 1}
    config = ROOT / "configs" / "shakespeare_char.py"
    ended = subprocess.run(
        [sys.executable, "-m", "lm", "train", f"--config={config}:{setting}", f"--run={run}",
         *(f"--config.{name}={value}" for name, value in flags.items())],
        capture_output=True, text=True)
    if ended.returncode:
        sys.exit(ended.stderr)
    return list(read_lines(pathlib.Path(run) / "metrics.jsonl"))


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--setting", default="gpt2")
    parser.add_argument("--steps", type=int, default=400)
    args = parser.parse_args()
    exact, far = None, False
    for precision, row in PRECISIONS.items():
        with tempfile.TemporaryDirectory() as run:
            records = train(args.corpus, args.setting, args.steps, precision, run)
        curve = [r for r in records if "loss" in r]
        end = next(r["validation_loss"] for r in records if "validation_loss" in r)
        if exact is None:
            exact = end
            print("precision       " + " ".join(f"{r['step']:6d}" for r in curve)
                  + "  validation  distance  stated")
        distance = abs(end / exact - 1)
        far |= distance > row.tolerance
        print(f"{precision:16s}" + " ".join(f"{r['loss']:6.3f}" for r in curve)
              + f"  {end:10.4f}  {distance:8.2%}  {row.tolerance:6.1%}", flush=True)
    return int(far)


if __name__ == "__main__":
    sys.exit(main())
