"""The checkpoints of one run: saved behind its back, whole or not at all, checked when read.

The training loop saves here and resumes from here; evaluation, generation and serving read the
parameters alone. Orbax is imported in this room only. Reading changes nothing on disk, so that
other processes may read while a run is training.
"""

import contextlib
import math
import os
from collections.abc import Callable

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from lm.base.errors import UserError
from lm.checkpoint import quiet, record
from lm.checkpoint.arrays import kind, load, named, require_shardings, stored
from lm.checkpoint.checksum import checksums

quiet.hush()


class Checkpoints:
    """The checkpoints in one directory, which the first save makes; a context manager.

    A state is a pytree of jax arrays in named parts: dicts, NamedTuples, dataclasses, optax states.
    On many processes all of them make the same calls in the same order.
    """

    def __init__(self, directory, keep: int = 3, best: bool = True,
                 warn: Callable[[str], None] = quiet.tell):
        """Keeps the newest `keep` and, if `best`, the one of the lowest metric besides.

        warn: takes one line about each damaged checkpoint that is passed over.
        """
        path = os.fspath(directory)
        self.directory = epath.Path(path if "://" in path else os.path.abspath(path))
        self._keep, self._keep_best, self._warn = keep, best, warn
        self._writer: ocp.CheckpointManager | None = None
        self._metrics: dict[int, float] = {}  # of the steps that the writer knows
        self._damaged: list[int] = []         # found by reading, moved away by the next save
        self._saving: int | None = None

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        with contextlib.suppress(UserError) if error else contextlib.nullcontext():
            self.close()

    @property
    def steps(self) -> list[int]:
        """The steps of the complete checkpoints on disk, rising."""
        try:
            return sorted(ocp.utils.checkpoint_steps(self.directory))
        except OSError as error:
            raise UserError(f"cannot read {self.directory}: {quiet.cause(error)[0]}") from error

    @property
    def latest(self) -> int | None:
        """The newest step on disk."""
        return max(self.steps, default=None)

    @property
    def best(self) -> int | None:
        """The step of the lowest metric on disk; None if none was saved with a metric."""
        return _lowest(record.metrics(self.directory, self.steps))

    def save(self, step: int, state, meta: dict, metric: float | None = None,
             force: bool = False) -> bool:
        """Starts to save and returns True; then `state` may be donated at once.

        meta: JSON. metric: a loss; one that is not finite is never the best. A step that exists
        is left alone and False returned, or replaced if `force`. Raises UserError if later steps
        exist, or if this save or the one before it failed.
        """
        self.check()
        with self._explained(step):
            writer = self._open()
            writer.wait_until_finished()
        known = writer.all_steps()
        if max(known, default=step) > step:
            raise UserError(f"{self.directory} holds later checkpoints than step {step}, up to "
                            f"step {max(known)}; resume from those, move them away, or choose "
                            "another directory")
        if step in known and not force:
            return False
        leaves = {name: jax.numpy.asarray(leaf) for name, leaf in named(state).items()}
        metric = float(metric) if metric is not None and math.isfinite(metric) else None
        sealed = record.seal(step, metric, meta, {name: kind(x) for name, x in leaves.items()},
                             dict(zip(leaves, checksums(list(leaves.values())), strict=True)))
        self._metrics = {s: m for s, m in self._metrics.items() if s in known and s != step}
        if metric is not None:
            self._metrics[step] = metric
        self._saving = step
        with self._explained(step):
            if step in known:
                writer.delete(step)
            writer.save(step, force=True, args=ocp.args.Composite(
                state=ocp.args.PyTreeSave(stored(leaves)), meta=ocp.args.JsonSave(sealed)))
        return True

    def restore(self, template, step: int | None = None, part: str = "") -> tuple | None:
        """Returns (state, meta) of the newest checkpoint that is whole, or None if none exists.

        template: the state as jax.ShapeDtypeStructs with shardings, of any mesh; or as arrays.
        part: the path of the subtree that `template` is, e.g. `params`; only that is read.
        step: this one and no other. `meta` is what was saved, and `step`. Raises UserError if
        the checkpoint's arrays are not the template's, or if every checkpoint is damaged.
        """
        self.wait()
        wanted = {f"{part}/{name}".strip("/"): leaf for name, leaf in named(template).items()}
        require_shardings(wanted)
        steps = self.steps
        if step is not None and step not in steps:
            raise UserError(f"{self.directory} has no checkpoint of step {step}; it has: "
                            f"{', '.join(map(str, steps)) or 'none'}")
        reasons = []
        for s in [step] if step is not None else reversed(steps):
            leaves, meta, reason = self._read(s, wanted, part)
            if reason is None:
                return jax.tree.unflatten(jax.tree.structure(template), leaves), meta
            reasons.append(f"step {s}: {reason}")
            self._damaged.append(s)
            if step is None and jax.process_index() == 0:
                self._warn(f"checkpoint {self.directory / str(s)} is damaged ({reason}) and "
                           "passed over")
        if not reasons:
            return None
        raise UserError(f"{'the' if step is not None else 'every'} checkpoint in {self.directory} "
                        f"is damaged ({'; '.join(reasons)}); put back a copy, or move it away")

    def meta(self, step: int | None = None) -> dict | None:
        """Returns the meta of `step`, or of the newest checkpoint whose record is whole."""
        for s in [step] if step is not None else reversed(self.steps):
            try:
                return record.read(self.directory, s)["meta"] | {"step": s}
            except record.Damaged as error:
                if step is not None:
                    raise UserError(f"{self.directory}, step {step}: {error}") from None
        return None

    def check(self) -> None:
        """Raises UserError if the save in the background has failed; does not wait for it."""
        if self._writer and not self._writer.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Returns when nothing is being saved any more; raises UserError if the save failed."""
        if self._writer:
            with self._explained(self._saving):
                self._writer.wait_until_finished()

    def close(self) -> None:
        """Waits, then ends the threads; another save starts them again."""
        self.wait()
        if self._writer:
            self._writer.close()
            self._writer = None

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        """Returns which of these stay: the writer asks, as its preservation policy."""
        steps = [c.step for c in checkpoints]
        kept = set(steps[-self._keep:])
        if self._keep_best:
            kept.add(_lowest({s: self._metrics[s] for s in steps if s in self._metrics}))
        return [s in kept for s in steps]

    def _open(self) -> ocp.CheckpointManager:
        """Returns the writer. What reading found damaged is moved away, never destroyed."""
        if self._writer and self._damaged:
            self.close()
        if self._writer is None:
            if jax.process_index() == 0:
                self.directory.mkdir(parents=True, exist_ok=True)
                self._sweep()
                for step in set(self._damaged) & set(self.steps):
                    names = (f"{step}.damaged{i or ''}" for i in range(100))
                    free = next(n for n in names if not (self.directory / n).exists())
                    (self.directory / str(step)).rename(self.directory / free)
            multihost_utils.sync_global_devices("lm.checkpoint.store")
            self._damaged = []
            self._metrics = record.metrics(self.directory, self.steps)
            # Directories made in the background would, on a disk that refuses them, leave
            # threads that hold up the exit of the process for minutes.
            threads = ocp.AsyncOptions(create_directories_asynchronously=False)
            self._writer = ocp.CheckpointManager(self.directory, options=(
                ocp.CheckpointManagerOptions(preservation_policy=self, create=False,
                                             async_options=threads)))
        return self._writer

    def _sweep(self) -> None:
        """Removes what an interrupted save left: nobody reads it, and it takes room."""
        with contextlib.suppress(OSError):
            for path in self.directory.glob("*.orbax-checkpoint-tmp*"):
                path.rmtree(missing_ok=True)

    @contextlib.contextmanager
    def _explained(self, step):
        """Turns a failure to write into words, and forgets the writer that failed."""
        try:
            yield
        except (UserError, MemoryError, jax.errors.JaxRuntimeError):
            raise
        except Exception as error:  # Orbax and its array library raise all kinds
            self._writer = None
            if jax.process_index() == 0:
                self._sweep()
            what, cure = quiet.cause(error)
            start = "the beginning" if self.latest is None else f"step {self.latest}"
            raise UserError(f"could not save step {step} in {self.directory}: {what}; {cure}run "
                            f"the same command: training continues from {start}") from error

    def _read(self, step, wanted, part):
        """Returns (leaves, meta, None), or (None, None, reason) of a damaged checkpoint."""
        leaves = meta = reason = None
        try:
            found = record.read(self.directory, step)
            other = record.difference(found["leaves"], wanted, part)
            if other:
                raise UserError(f"{other} (step {step} in {self.directory})")
            leaves = load(self.directory / str(step) / "state", wanted)
            record.verify(found["sums"], dict(zip(wanted, checksums(leaves), strict=True)))
            meta = found["meta"] | {"step": step}
        except (UserError, MemoryError, jax.errors.JaxRuntimeError):
            raise
        except Exception as error:
            reason = str(error) if isinstance(error, record.Damaged) else quiet.brief(error)
        if jax.process_count() > 1:  # one process's disk may be worse than another's
            fine = multihost_utils.process_allgather(np.asarray(reason is None))
            reason = reason if fine.all() else reason or "damaged for another process"
        return leaves, meta, reason


def _lowest(metrics: dict[int, float]) -> int | None:
    return min(metrics, key=metrics.get, default=None)
