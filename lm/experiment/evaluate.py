"""`lm eval`: a checkpoint on the held-out split."""

from lm.data import tasks
from lm.data.batches import Evaluation
from lm.experiment import flags, folder, parts, restore
from lm.mesh import processes


def run(parsed: flags.Parsed) -> int:
    """Prints the loss in nats per token and in bits per byte of text."""
    e = parsed.experiment
    where = parts.directory(e)
    with parts.on_mesh(e) as mesh:
        m = parts.model(e, folder.tokenizer(where).V)
        parts.check(m.config, mesh, e.data.B, e.data.T)
        params, step = restore.params(e, m, parsed.flags.checkpoint, mesh)
        task = processes.in_turn(lambda: tasks.prepare(e.data))
        folder.same_language(where, task)
        source = Evaluation(task.validation, e.data.B, e.data.T, e.data.packing)
        loss = parts.evaluator(m)(params, source, mesh)["loss"]
        print(f"step {step}  validation loss {loss.value:.4f} nats/token  "
              f"{task.validation.bits_per_byte(loss.value):.4f} bits/byte  "
              f"over {int(loss.count):,} tokens")
    return 0
