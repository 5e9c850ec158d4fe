"""`lm generate`: text from a checkpoint, on the terminal as it comes."""

import itertools
import sys

from lm.base.errors import UserError
from lm.data.tokenizers import Stream
from lm.experiment import flags, folder, llm, parts, restore
from lm.experiment.config import Experiment
from lm.infer.config import Config, Engine
from lm.infer.core import Core
from lm.infer.request import Sampling

SLOTS = 16  # samples made at once


def run(parsed: flags.Parsed) -> int:
    """Continues the prompt; the first sample streams, the others follow whole."""
    e = parsed.experiment
    tokenizer = folder.tokenizer(parts.directory(e))
    with parts.on_mesh(e) as mesh:
        m = llm.model(e, tokenizer.V)
        llm.check(m, mesh)
        params, _ = restore.params(e, m, parsed.flags.checkpoint, mesh)
        show(e, params, tokenizer, mesh)
    return 0


def show(e: Experiment, params: dict, tokenizer, mesh) -> None:
    """Prints the experiment's samples, each after its prompt."""
    c, m = e.infer, llm.model(e, tokenizer.V)
    context = llm.context(e, m)
    engine = Engine(slots=min(c.num_samples, SLOTS))
    core = Core(lambda: llm.build(m, params, engine, mesh, V=tokenizer.V, context=context), engine,
                tokenizer, mesh=mesh, context=context)
    texts = [c.prompt] * c.num_samples
    _say(_title(0, c) + c.prompt)
    for i, text in _texts(llm.LLM(core), c, context):
        texts[i] += text
        if i == 0:
            _say(text)
    _say("\n")
    for i in range(1, c.num_samples):
        _say(_title(i, c) + texts[i] + "\n")


def _texts(model: llm.LLM, c: Config, context: int):
    """Yields (sample, text) as it comes; a full row goes on from the last half of its context."""
    prompt = model.tokenizer.encode(c.prompt).tolist()
    if not prompt and model.tokenizer.eos is not None:
        prompt = [model.tokenizer.eos]  # what stands before a document
    if not prompt:
        raise UserError("the prompt is empty and the tokenizer has no end token to start from; "
                        "give --prompt")
    rows = {i: list(prompt) for i in range(c.num_samples)}
    streams = [Stream(model.tokenizer) for _ in rows]
    left = [c.max_tokens] * c.num_samples
    for turn in itertools.count():
        for row in rows.values():
            if len(row) >= context:
                del row[:len(row) - max(context // 2, 1)]
        order = list(rows)
        asked = [Sampling(
            max_tokens=min(left[i], context - len(rows[i])), temperature=c.temperature,
            top_k=c.top_k, top_p=c.top_p, min_p=c.min_p,
            seed=(c.seed + i + turn * 65537) % 2**32) for i in order]
        ended = []
        for j, event in model.stream([rows[i] for i in order], asked):
            i = order[j]
            rows[i] += event.tokens
            left[i] -= len(event.tokens)
            yield i, streams[i].feed(event.tokens)
            if event.finish and (event.finish != "length" or not left[i]):
                ended.append(i)
        for i in ended:
            yield i, streams[i].end()
            del rows[i]
        if not rows:
            return


def _title(i, c):
    return f"--- sample {i + 1} (seed {c.seed + i})\n" if c.num_samples > 1 else ""


def _say(text):
    encoding = sys.stdout.encoding or "utf-8"  # not every text has a form in it: lone surrogates
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()
