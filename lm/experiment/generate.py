"""`lm generate`: text from a checkpoint, on the terminal as it comes."""

import sys

from lm.data.tokenizers import Stream
from lm.experiment import flags, folder, parts, restore
from lm.experiment.config import Experiment
from lm.infer.generate import generate


def run(parsed: flags.Parsed) -> int:
    """Continues the prompt; the first sample streams, the others follow whole."""
    e = parsed.experiment
    tokenizer = folder.tokenizer(parts.directory(e))
    with parts.on_mesh(e) as mesh:
        m = parts.model(e, tokenizer.V)
        parts.check(m.config, mesh)
        params, _ = restore.params(e, m, parsed.flags.checkpoint, mesh)
        show(e, m, params, tokenizer)
    return 0


def show(experiment: Experiment, m: parts.Model, params: dict, tokenizer) -> None:
    """Prints the experiment's samples, each after its prompt."""
    c = experiment.infer
    prompt = tokenizer.encode(c.prompt).tolist()
    if not prompt and tokenizer.eos is not None:
        prompt = [tokenizer.eos]  # what stands before a document
    streams = [Stream(tokenizer) for _ in range(c.num_samples)]
    later = [c.prompt] * c.num_samples
    context = min(m.config.T, max(experiment.data.T, 1))
    _say(_title(0, c) + c.prompt)
    for tokens in generate(m.declaration, params, lambda B, S: m.new_cache(m.config, B, S),
                           [prompt] * c.num_samples, c, context=context, eos=tokenizer.eos,
                           V=tokenizer.V):
        for i, token in enumerate(tokens):
            text = "" if token is None else streams[i].feed([token])
            later[i] += text
            if i == 0:
                _say(text)
    _say(streams[0].end() + "\n")
    for i in range(1, c.num_samples):
        _say(_title(i, c) + later[i] + streams[i].end() + "\n")


def _title(i, c):
    return f"--- sample {i + 1} (seed {c.seed + i})\n" if c.num_samples > 1 else ""


def _say(text):
    encoding = sys.stdout.encoding or "utf-8"  # not every text has a form in it: lone surrogates
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()
