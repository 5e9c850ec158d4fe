"""What follows from a plan in words: thresholds, prices, and whether to part prompts from decoding.
"""

from lm.cost.figure import Figure, known
from lm.load.lengths import lengths
from lm.plan.serving.schedule import Step


def prices(replicas: int, chips: int, price: float, question,
           source: str = "") -> tuple[Figure, ...]:
    """Returns $ an hour of all replicas and $ per million tokens of output at the asked rate."""
    hour = (known("serve.replicas", replicas) * known("serve.chips_per_replica", chips)
            * known("chip.price", price, "$/h", "as given" if question.price else source)).called(
        "price.per_hour", "$/h")
    tokens = (known("serve.rate", question.rate, "/s")
              * known("serve.output_mean", lengths(question.output_tokens).mean, "tokens"))
    return hour, (hour / (3600 * tokens) * 1e6).called(
        "price.per_million_tokens", "$", "spares and headroom paid, prompts free")


def disaggregation(prefill: float, decode: float, batch: float, output: float) -> Figure:
    """Returns replicas for prompts per replica that decodes: P / t_pre = B G / (t_dec O).

    prefill: seconds of one prompt; decode: of one step of `batch` sequences. Scaling book, applied
    inference.
    """
    return (known("serve.batch", batch) * known("serve.prompt_seconds", prefill, "s")
            / (known("serve.step_seconds", decode, "s")
               * known("serve.output_mean", output, "tokens"))).called(
        "serve.prefill_per_decode", "", "scaling book, applied inference: P / t_pre = B G / (t O)")


def advise(best, question) -> list[str]:
    """Returns lines for the person who asked, the most important first."""
    c, numbers = best.candidate, best.numbers
    p = f"p{question.percentile:g}"
    out = [f"{best.replicas} x {c.layout.chips} {c.layout.chip.name} carry {question.rate:g} "
           f"requests/s; {question.spares} spare and {best.headroom} for growth come on top."]
    if c.price is None:
        out.append(f"The price of {c.layout.chip.name} is not known: give --price to compare it.")
    if c.layout.weights in ("int8", "int4", "fp8") and not question.weights:
        out.append(f"{c.layout.weights} weights change what the model says: measure it, or fix "
                   "--weights=bf16.")
    near = numbers["ttft_" + p][0] / question.ttft, numbers["tpot_" + p][0] / question.tpot
    out.append("What binds is the time to the first token; a larger chunk or one more replica "
               "helps." if near[0] > near[1] else
               "What binds is the time per token; fewer slots, smaller chunks or more tensor "
               "parallelism help.")
    I, O = lengths(question.prompt_tokens).mean, lengths(question.output_tokens).mean
    step = c.clock(Step(decode=max(1.0, c.most.batch), context=c.most.batch * (I + O / 2)))
    ratio = disaggregation(c.ttft.value, step, max(1.0, c.most.batch), O).value
    slow = numbers["itl_p99"][0]
    out.append(f"Prompts on replicas of their own: {ratio:.2g} for each that decodes. "
               + (f"Tokens then come every {step * 1e3:.3g} ms, not up to {slow * 1e3:.3g} ms as "
                  "here (p99)." if slow > 1.5 * question.tpot and best.replicas > 1 else
                  "Not needed: chunks keep the gaps between tokens short enough."
                  if slow <= 1.5 * question.tpot else "One replica is too few to split."))
    if c.most.limit == "cache" or c.most.held > 0.9 * c.pages * 128:
        out.append("The cache limits the batch: a cache of 8 bits or more chips would raise it.")
    return out
