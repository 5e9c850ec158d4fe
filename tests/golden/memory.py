"""What the compiler's heap takes of a device, beside what `lm.cost.memory` predicts: memory.tsv.

    python tests/golden/memory.py            # what is predicted; compiles only what has no heap yet
    python tests/golden/memory.py --all      # compiles every row again, two at a time

Compiling needs libtpu, no TPU. A row is a config, a topology and changes of the config; new rows
have `-` for what is to be found. A heap is known as soon as the compiler has laid it out, some
seconds after it begins, and then it is stopped. `why` says what a prediction is known to miss.
"""

import importlib.metadata
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
TABLE = HERE / "memory.tsv"
sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402

from lm.cost import heap, memory  # noqa: E402
from lm.cost.layout import Setting  # noqa: E402
from lm.experiment import flags, topology  # noqa: E402
from lm.mesh import devices  # noqa: E402
from lm.plan import steps, trace  # noqa: E402
from lm.verbs import VERBS  # noqa: E402

LIMIT = 600.0  # seconds for the compiler to lay out a heap


class Row(NamedTuple):
    """A program and its bytes on one device, as text."""

    config: str
    topology: str
    changes: str
    heap: str        # arguments and temporaries
    arguments: str
    predicted: str
    ratio: str
    why: str

    @property
    def experiment(self):
        """The config with its changes, of a whole vocabulary and length."""
        changes = [] if self.changes == "-" else self.changes.split()
        argv = [f"--config={ROOT / 'configs' / self.config}", *(f"--config.{x}" for x in changes)]
        return topology.whole(flags.parse(argv, VERBS["verify"]).experiment)


def rows() -> list[Row]:
    """Returns the table."""
    lines = TABLE.read_text().splitlines()
    return [Row(*line.split("\t")) for line in lines if line and not line.startswith("#")][1:]


_programs: dict[str, object] = {}


def predict(row: Row) -> dict:
    """Returns what `lm.cost.memory.predict` does."""
    e = row.experiment
    chip, count = topology.parse(row.topology)
    mesh = devices.fill({axis: getattr(e.mesh, axis) for axis in devices.AXES}, count)
    s = trace.sizes(e, count)
    how = ("tpu", chip.kinds[0], mesh["fsdp"] > 1, s["p"] > 1)
    key = repr((trace.signature(e, how[-1])[0], *how))  # programs that differ in sizes are one
    if key not in _programs:
        _programs[key] = trace.trace(e, *how)[0]
    p = steps.plan(e, mesh, e.data.B // e.train.accumulate)
    pipe = p and memory.Pipe(p.M, p.ticks, 2 * p.S - 1 if e.model.schedule == "1f1b" else 0)
    return memory.predict(memory.plan(_programs[key], chip), Setting(s, mesh), chip,
                          trace.state(e, "tpu", chip.kinds[0]), pipe or None)


def lay_out(number: int, folder: str) -> None:
    """Has the compiler report on a row into a folder, in a process that another one ends."""
    row = rows()[number]
    e = row.experiment
    mesh = devices.make(e.mesh, topology.chips(row.topology)[1])
    lowered = topology.lower(e, mesh)
    with devices.use(mesh):
        lowered.compile(heap.options(folder))


def compiled(number: int) -> tuple[int, int]:
    """Returns (bytes of the heap, bytes of arguments) of a row."""
    with tempfile.TemporaryDirectory(prefix="lm-") as folder:
        command = [sys.executable, __file__, "--lay-out", str(number), folder]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as child:
            began, found = time.monotonic(), None
            while time.monotonic() - began < LIMIT and not (found and found.held):
                over = child.poll() is not None
                time.sleep(1.0)
                found = heap.read(folder)
                if over:
                    break
            child.kill()
    if found is None:
        raise RuntimeError(f"the compiler laid out no heap of row {number}: {rows()[number]}")
    return found.total, found.arguments


def write(table: list[Row]) -> None:
    """Writes the table with what is predicted now."""
    head = [f"# jax {jax.__version__}, libtpu {_libtpu()}; bytes of one device; refreshed by",
            "# python tests/golden/memory.py --all", "\t".join(Row._fields)]
    TABLE.write_text("\n".join([*head, *("\t".join(row) for row in table)]) + "\n")


def _libtpu():
    """The version of the compiler; if it is not here, that of the table."""
    try:
        return importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        return TABLE.read_text().partition("libtpu ")[2].partition(";")[0]


def main(argv: list[str]) -> None:
    """Refreshes the table."""
    if argv[:1] == ["--lay-out"]:
        lay_out(int(argv[1]), argv[2])
        return
    table = rows()
    wanted = [i for i, row in enumerate(table) if row.heap == "-" or argv == ["--all"]]
    with ThreadPoolExecutor(2) as pool:
        for i, (total, arguments) in zip(wanted, pool.map(compiled, wanted), strict=True):
            table[i] = table[i]._replace(heap=str(total), arguments=str(arguments))
            print(f"{table[i].config} {table[i].topology}: {total / 2**30:.2f} GiB", flush=True)
            write(table)
    for i, row in enumerate(table):
        total = memory.total(predict(row))
        table[i] = row._replace(predicted=f"{total:.0f}", ratio=f"{total / int(row.heap):.3f}")
    write(table)


if __name__ == "__main__":
    main(sys.argv[1:])
