"""What fewer bits of weights and of keys and values cost: quality, memory and speed, beside bf16.

    launch/local.sh lm train --config=configs/quickstart.py
    launch/local.sh python benchmarks/weights.py --run=runs/quickstart

Scores the run's held-out split by the engine's own step, over its own paged cache, in each pair of
formats. Prints bits per byte, the bytes of weights and, for each token, of cache on one device, and
the tokens a second of one stream, the best of turns that the pairs take one after the other.
--rows=N scores N rows of data.T tokens, spread over the split, in place of all.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from lm.data import tasks
from lm.data.batches import Evaluation
from lm.experiment import flags, folder, llm, parts, restore
from lm.infer import engine as engines
from lm.infer import shape as shapes
from lm.infer import turn as turns
from lm.infer.config import Engine as Config
from lm.infer.core import Core
from lm.infer.request import Request, Sampling
from lm.infer.steps import Piece, Sequence, Step
from lm.mesh import devices, runtime
from lm.mesh.config import Config as Mesh

PAIRS = [("bfloat16", "bfloat16"), ("auto", "auto"), ("int8", "bfloat16"), ("fp8", "bfloat16"),
         ("int4", "bfloat16"), ("bfloat16", "int8"), ("bfloat16", "fp8"), ("int8", "int8"),
         ("int4", "int8")]
SLOTS, TURNS = 32, 5


def scored(model, V: int, T: int, dtype: str, kind: str, batches, mesh) -> tuple[float, float]:
    """Returns the sum of -log p(target), in nats, over the batches' tokens, and their weights'."""
    shape = shapes.Shape(slots=SLOTS, context=T, page=16, pages=SLOTS + T // 16, budget=T, ahead=0,
                         queued=1, queued_tokens=1, kind=kind, dtype=dtype, rows=T)
    engine = engines.Engine(model, shape, V)
    forward = engines.lowered(model, shape, T, V, mesh).compile()
    history = jnp.zeros((SLOTS, T + 1), jnp.int32)

    @jax.jit
    def nll(logits_RV, targets_R, weights_R):
        share = jax.nn.log_softmax(logits_RV)
        return -(jnp.take_along_axis(share, targets_R[:, None], 1)[:, 0] * weights_R).sum()

    pools, total, count = engine.pools, 0.0, 0.0
    for tokens_T, targets_T, weights_T, positions_T in batches:
        starts = np.flatnonzero(positions_T == 0)
        ends = [*starts[1:], T]
        for i in range(0, len(starts), SLOTS):  # each document's part is a sequence
            step = _step(tokens_T, list(zip(starts, ends, strict=True))[i:i + SLOTS])
            first, last = starts[i], ends[min(i + SLOTS, len(starts)) - 1]
            turn = turns.pack(step, shape, V).turn
            if turn.size != turns.size(turns.turn_shapes(shape, T)):
                raise SystemExit("a row of so many documents is not scored; raise SLOTS")
            pools, history, logits_RV = forward(model.params, model.scales, pools, history, turn)
            own = slice(0, last - first)
            padded = [np.zeros(T, x.dtype) for x in (targets_T, weights_T)]
            padded[0][own], padded[1][own] = targets_T[first:last], weights_T[first:last]
            total += float(nll(logits_RV, *padded))
        count += float(weights_T.sum())
    return total, count


def _step(tokens_T, spans):
    """A step that computes spans of a row, each in a slot and in pages of its own."""
    step, page = Step(), 0
    for slot, (start, end) in enumerate(spans):
        n = int(end - start)
        pages = list(range(page, page + -(-n // 16)))
        page += len(pages)
        ids = tokens_T[start:end].tolist()
        request = Request(str(slot), ids, Sampling(), print)
        sequence = Sequence(request, n, n + 1, ids, n, slot=slot, pages=pages)
        step.pieces.append(Piece(sequence, 0, n, n, [], 0))
    return step


def speed(stream, prompt, count: int) -> float:
    """Returns the tokens a second of one stream."""
    sampling = Sampling(max_tokens=count, temperature=0.0, ignore_eos=True)
    begun = time.perf_counter()
    made = sum(len(event.tokens) for _, event in stream.stream([prompt], sampling))
    return made / (time.perf_counter() - begun)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True)
    parser.add_argument("--rows", type=int, default=0)
    args = parser.parse_args()
    runtime.settle()
    e = flags.of_run(args.run)
    tokenizer, task = folder.tokenizer(parts.directory(e)), tasks.prepare(e.data)
    mesh = devices.make(Mesh(data=1), jax.devices()[:1])
    with devices.use(mesh):
        m = llm.model(e, tokenizer.V)
        params, _ = restore.params(e, m, "best", mesh)
    source, T = Evaluation(task.validation, 1, e.data.T, e.data.packing), e.data.T
    chosen = np.linspace(0, len(source) - 1, args.rows or len(source)).astype(int)
    names = "tokens_BT", "targets_BT", "weights_BT", "positions_BT"
    rows = [tuple(batch[name][0] for name in names) for batch in map(source.batch, chosen)]
    prompt = rows[0][0][:T // 4].tolist()
    lines, streams, base = [], [], None
    for formats in PAIRS:
        c = Config(slots=1, weights=formats[0], cache=formats[1], prefix_cache=False)
        with devices.use(mesh):
            engine = llm.build(m, params, c, mesh, V=tokenizer.V, context=llm.context(e, m))
            size = engine.shape
            total, count = scored(engine.model, tokenizer.V, T, size.dtype, size.kind, rows, mesh)
            each = shapes.page_bytes(
                m.config, size.page, size.dtype, size.kind) // size.page
        bits = task.validation.bits_per_byte(total / count)
        base = base or bits
        lines.append(f"| {formats[0]} | {formats[1]} | {bits:.4f} | {bits / base - 1:+.2%} | "
                     f"{engine.nbytes()['weights']:,} | {each:,} |")
        print(lines[-1], flush=True)
        streams.append(llm.LLM(Core(lambda: engine, c, tokenizer, mesh=mesh,  # noqa: B023
                                    context=size.context)))
    speeds = [[speed(stream, prompt, T // 2) for stream in streams] for _ in range(TURNS + 1)]
    print("| weights | cache | bits/byte | more | weights, bytes | cache, bytes/token | tokens/s |")
    print("|---|---|---|---|---|---|---|")
    for line, *own in zip(lines, *speeds[1:], strict=True):
        print(f"{line} {max(own):,.0f} |")


if __name__ == "__main__":
    main()
