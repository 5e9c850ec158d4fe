"""The golden tables, and the command that accepts a change of them: `python tests/golden/make.py`.

Each is text that a person can read in a diff; test_golden.py compares.
"""

import os
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT), str(HERE.parent), str(HERE.parent / "laws")]
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import families  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from test_house import CONFIGS, parse  # noqa: E402

from lm.experiment import topology  # noqa: E402
from lm.experiment.flags import help_text  # noqa: E402
from lm.mesh import devices, rules  # noqa: E402
from lm.mesh.config import Config as Mesh  # noqa: E402
from lm.models.decoder import model as decoder  # noqa: E402
from lm.train import optimizers, step  # noqa: E402
from lm.train.config import Config as Train  # noqa: E402
from lm.verbs import VERBS  # noqa: E402

ALL = families.FAMILIES | families.OTHERS


def parameters() -> str:
    """Every parameter: its axes, sizes, where it is stored on `tensor 2 x fsdp 4`, what decays."""
    mesh = jax.sharding.AbstractMesh((1, 1, 4, 1, 1, 2), devices.AXES)
    lines = []
    for name, config in ALL.items():
        declaration = decoder.build(config)
        lines.append(f"{name}: {declaration.count:,} parameters")
        for path, shape in jax.tree_util.tree_leaves_with_path(declaration.shapes):
            spec = declaration.specs
            for part in path:
                spec = spec[part.key]
            where = [w or "-" for w in rules.spec(spec.axes, shape.shape, mesh, rules.STORAGE)]
            parameter = jax.tree_util.keystr(path, simple=True, separator=".")
            sizes = "x".join(map(str, shape.shape))
            lines.append(f"  {parameter:30s} {spec.axes:5s} {sizes:10s} {' '.join(where):28s}"
                         f"{' decay' * spec.decay}{' hidden' * spec.hidden}".rstrip())
    return "\n".join(lines) + "\n"


MIXED = dict(stage=2, data=1, fsdp=4, expert=2, context=1, tensor=2)


def shardings() -> str:
    """How every config's parameters are stored on the mesh of its target, and on a mixed one."""
    tables = {}
    for config in CONFIGS:
        e = parse(["lm", "train", f"--config={ROOT / config}"]).experiment
        declaration = decoder.build(topology.whole(e).model)
        count = topology.parse(e.mesh.target)[1]
        own = devices.fill({axis: getattr(e.mesh, axis) for axis in devices.AXES}, count)
        lines = [f"{e.mesh.target}: {devices.words(own)}; then {devices.words(MIXED)}"]
        for path, shape in jax.tree_util.tree_leaves_with_path(declaration.shapes):
            spec = declaration.specs
            for part in path:
                spec = spec[part.key]
            where = [" ".join("*".join([w] if isinstance(w, str) else w) if w else "-"
                              for w in rules.spec(spec.axes, shape.shape, jax.sharding.AbstractMesh(
                                  tuple(sizes.values()), devices.AXES), rules.STORAGE))
                     for sizes in (own, MIXED)]
            parameter = jax.tree_util.keystr(path, simple=True, separator=".")
            sizes = "x".join(map(str, shape.shape))
            lines.append(f"  {parameter:28s} {spec.axes:5s} {sizes:15s} {where[0]:20s} | "
                         f"{where[1]}")
        tables.setdefault("\n".join(lines), []).append(config)
    return "".join(f"{', '.join(names)} on {table}\n\n" for table, names in tables.items())


def losses() -> str:
    """The first three losses of each family, trained on one batch by AdamW."""
    lines = []
    with devices.use(devices.make(Mesh(), jax.devices()[:1])) as mesh:
        for name, config in ALL.items():
            declaration = decoder.build(config)
            rule = optimizers.make(Train(), declaration, 1e-2, 1e-2)
            state = step.init(declaration, rule, jax.random.key(0), mesh)
            advance = step.compiled(step.make(declaration, decoder.loss, rule, clip=1.0,
                                              key=jax.random.key(1)))
            batch = jax.tree.map(jnp.asarray, families.batch())
            found = []
            for _ in range(3):
                state, means = advance(state, batch)
                found.append(means["loss"].value)
            lines.append(f"{name:8s}" + " ".join(f"{loss:.6f}" for loss in found))
    return "\n".join(lines) + "\n"


def train_help() -> str:
    """What `lm train --help` prints."""
    return help_text("train", VERBS["train"]) + "\n"


TABLES = {"parameters.txt": parameters, "shardings.txt": shardings, "losses.txt": losses,
          "train_help.txt": train_help}

if __name__ == "__main__":
    for file, make in TABLES.items():
        (HERE / file).write_text(make())
        print(f"wrote {HERE / file}")
