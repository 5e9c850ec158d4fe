"""Our engine's decoding beside Hugging Face transformers' `generate` on PyTorch, same weights.

    LM_EXTRAS=dev,bench launch/local.sh python benchmarks/decode.py [small] [large]

float32 on this machine's CPU, all cores, greedy. Two processes take turns of some tokens, so that
whatever else the machine does slows both. Prints how many of the first tokens agree and, as medians
over turns: (a) transformers' time a token over ours, one stream; (b) our tokens a second with 16
streams over those with one; (c) the bytes of weights that a step of one stream reads a second,
beside a plain copy of memory (its bytes read; and read and written) in the same turn.
"""

import dataclasses
import json
import statistics
import subprocess
import sys
import time

import numpy as np

from lm.models.decoder.config import Config

SHAPES = {  # the quickstart's size; 100 M parameters
    "small": Config(L=4, D=256, N=4, F=680, V=4096, T=256),
    "large": Config(L=12, D=768, N=12, F=2048, V=16384, T=256),
}
LLAMA = dict(tied=True, init="llama", norm_eps=1e-5)
PROMPT, TOKENS, STREAMS, TURNS = 16, 32, 16, 7


def shape(name):
    return dataclasses.replace(SHAPES[name], **LLAMA)


def prompt(c, seed=0):
    return np.random.default_rng(seed).integers(0, c.V, PROMPT).tolist()


def parameters(c):
    """Our declaration and its parameters, larger than at the start, so that text varies."""
    import jax

    from lm.models.decoder import model
    declaration = model.build(c)
    made = jax.jit(declaration.init)(jax.random.key(0))
    return declaration, jax.tree.map(lambda p, s: 4 * p if s.hidden else p, made,
                                     declaration.specs)


def ours(name):
    """Returns a function of (streams) -> (seconds a step that decodes, the tokens), and bytes."""
    import jax

    from lm.data.tokenizers.plain import Characters
    from lm.experiment import llm, parts
    from lm.infer import weights
    from lm.infer.config import Engine
    from lm.infer.core import Core
    from lm.infer.request import Sampling
    from lm.mesh import devices, runtime
    from lm.mesh.config import Config as Mesh
    from lm.models.decoder import model
    runtime.settle()
    c = shape(name)
    declaration, params = parameters(c)
    mesh = devices.make(Mesh(data=1), jax.devices()[:1])
    options = Engine(slots=STREAMS, prefix_cache=False)
    tokenizer = Characters("".join(map(chr, range(c.V))), eos=False)  # an id of any kind has a text
    core = Core(lambda: llm.build(parts.Model(c, declaration, model.loss), params, options, mesh,
                                  V=c.V, context=c.T), options, tokenizer, mesh=mesh, context=c.T)
    engine = llm.LLM(core)
    steps = []
    core.observe = lambda step: steps.append(step) if not step.prefill else None
    greedy = Sampling(max_tokens=TOKENS, temperature=0.0, ignore_eos=True)

    def run(streams):
        steps.clear()
        made = [[] for _ in range(streams)]
        for i, event in engine.stream([prompt(c, i) for i in range(streams)], greedy):
            made[i] += event.tokens
        full = [s.seconds for s in steps if s.decode == streams]
        return statistics.median(full), made[0]
    run(1), run(STREAMS)
    return run, weights.nbytes(core.engine.model.params)


def theirs(name):
    """The same by transformers, for one stream."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    c = shape(name)
    _, params = parameters(c)
    own = LlamaConfig(
        vocab_size=c.V, hidden_size=c.D, intermediate_size=c.F, num_hidden_layers=c.L,
        num_attention_heads=c.N, num_key_value_heads=c.K, max_position_embeddings=c.T,
        rms_norm_eps=c.norm_eps, rope_theta=c.rotary_base, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=None, pad_token_id=0)
    model = LlamaForCausalLM(own).eval()

    def put(parameter, value, inputs):
        value = np.asarray(value).reshape(inputs, -1).T if inputs else np.asarray(value)
        parameter.data = torch.tensor(np.ascontiguousarray(value))
    put(model.model.embed_tokens.weight, params["embedding"], 0)
    model.tie_weights()
    put(model.model.norm.weight, params["norm"]["scale"], 0)
    layers = params["layers"]
    for i, layer in enumerate(model.model.layers):
        for part in "qkvo":
            put(getattr(layer.self_attn, part + "_proj").weight, layers["attention"][part][i],
                c.N * c.H if part == "o" else c.D)
        for part in ("gate", "up", "down"):
            put(getattr(layer.mlp, part + "_proj").weight, layers["mlp"][part][i],
                c.F if part == "down" else c.D)
        put(layer.input_layernorm.weight, layers["attention_norm"]["scale"][i], 0)
        put(layer.post_attention_layernorm.weight, layers["mlp_norm"]["scale"][i], 0)
    ids = torch.tensor([prompt(c)])

    def generate(count):
        start = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(ids, max_new_tokens=count, min_new_tokens=count, do_sample=False)
        return time.perf_counter() - start, out[0, PROMPT:].tolist()

    def run(_):
        most, made = generate(TOKENS)      # the first of its tokens is the prompt's
        least, _ = generate(1)
        return (most - least) / (TOKENS - 1), made
    run(1)
    return run, 0


def copied():
    """Bytes a second that a plain copy of memory reads, by all cores."""
    import os
    from concurrent.futures import ThreadPoolExecutor
    count = os.cpu_count()
    arrays = [(np.ones(2**24, np.float32), np.empty(2**24, np.float32)) for _ in range(count)]
    with ThreadPoolExecutor(count) as pool:
        def once():
            start = time.perf_counter()
            list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), arrays))
            return time.perf_counter() - start
        once()
        return sum(a.nbytes for a, _ in arrays) / min(once() for _ in range(5))


def worker(framework, name):
    """Answers each line, a number of streams, with a turn's result."""
    run, nbytes = dict(ours=ours, theirs=theirs)[framework](name)
    print(json.dumps(nbytes), flush=True)
    for line in sys.stdin:
        print(json.dumps(run(int(line))), flush=True)


def compare(name):
    both = {who: subprocess.Popen([sys.executable, __file__, "--worker", who, name], text=True,
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for who in ("ours", "theirs")}

    def ask(who, streams):
        both[who].stdin.write(f"{streams}\n")
        both[who].stdin.flush()
        return json.loads(both[who].stdout.readline())
    nbytes = json.loads(both["ours"].stdout.readline())
    json.loads(both["theirs"].stdout.readline())
    rows = []
    for _ in range(TURNS):
        one, made = ask("ours", 1)
        other, right = ask("theirs", 1)
        many, _ = ask("ours", STREAMS)
        rows.append((other / one, STREAMS * one / many, nbytes / one / copied(), one, other, many))
    for process in both.values():
        process.kill()
    same = next((i for i, (x, y) in enumerate(zip(made, right, strict=True)) if x != y), TOKENS)
    a, b, copies, one, other, many = (statistics.median(x) for x in zip(*rows, strict=True))
    spread = lambda i: "-".join(f"{x:.2f}" for x in statistics.quantiles(  # noqa: E731
        [row[i] for row in rows], n=4)[::2])
    print(f"{name}: {nbytes / 2**20:.0f} MiB of weights; the first {same} of {TOKENS} tokens agree")
    print(f"  (a) transformers / ours, a token: {a:.2f} (quartiles {spread(0)}); "
          f"{other * 1e3:.1f} and {one * 1e3:.1f} ms")
    print(f"  (b) tokens a second, {STREAMS} streams / 1: {b:.2f} ({spread(1)}); "
          f"a step {many * 1e3:.1f} and {one * 1e3:.1f} ms")
    print(f"  (c) weights read / bytes copied, a second: {copies:.2f} ({spread(2)}); where a copy "
          f"counts twice, read and written: {copies / 2:.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(*sys.argv[2:])
    else:
        for name in sys.argv[1:] or SHAPES:
            compare(name)
