"""What the engine makes is the forward pass, whatever runs beside, on whatever devices."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny import CONTEXT, GREEDY, TOKENIZER, made, model, prompts

from lm.base.errors import UserError
from lm.experiment.llm import LLM
from lm.infer import compiles
from lm.infer.request import Sampling
from lm.infer.speculate import Gate
from lm.mesh.config import Config as Mesh

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def engine():
    """A begun engine with everything compiled, whose pool is too small for what comes."""
    core = model("llama").core(pages=24)
    core.begin()
    got = LLM.__new__(LLM)
    got.core, got.tokenizer, got._ids = core, TOKENIZER, iter(range(10**6))
    return got


def check(llm, m, rows, count=10, sampling=GREEDY):
    """Asserts that greedy text is the forward pass', and that the scheduler is in order after."""
    right = [m.text(tuple(row), count) for row in rows]
    compiled = llm.core.status().compiles_after_ready
    assert made(llm, rows, dataclasses.replace(sampling, max_tokens=count)) == right
    llm.core.scheduler.check()
    assert llm.core.scheduler.pages.used == 0
    return llm.core.status().compiles_after_ready - compiled


@pytest.mark.parametrize("family", [
    "gpt2", "gemma", pytest.param("llama", marks=slow), pytest.param("experts", marks=slow)])
def test_greedy_is_the_forward_pass(family):
    """Chunks of prompts among tokens that decode, of every family."""
    m = model(family, **(dict(E=4, F=32) if family == "experts" else {}))
    check(LLM(m.core()), m, prompts(0, 3, 30, 1, 17, 9, 50))


def test_it_is_so_in_any_company(engine):
    """Again and again: alone, among many, with prefixes found, and thrown out for want of pages."""
    m, rows = model("llama"), prompts(1, 5, 26, 1, 40, 12, 12, 33, 2)
    rows.append(rows[3][:22] + rows[1])   # begins as another
    for own in ([rows[3]], rows, rows[::-1], rows * 2):
        assert check(engine, m, own) == 0   # nothing was compiled
    status = engine.core.status()
    assert status.preemptions > 0 and status.prefix_hits > 50
    assert compiles.count() > 0


@pytest.mark.parametrize("options", [
    dict(budget=5), dict(budget=64, page=16), dict(page=1, ahead=1),
    *(pytest.param(o, marks=slow) for o in (
        dict(budget=4), dict(slots=1), dict(reserve=True, pages=30), dict(prefix_cache=False),
        dict(ahead=1, pages=22, budget=7), dict(page=64)))])
def test_budgets_pages_and_steps_ahead(options):
    m = model("llama")
    llm = LLM(m.core(**options))
    rows = prompts(2, 4, 31, 1, 19, 31)
    check(llm, m, rows)
    check(llm, m, rows[::-1])


@pytest.mark.parametrize("ahead", [0, pytest.param(1, marks=slow)])
def test_drafts_change_nothing(ahead, monkeypatch):
    """Where text repeats drafts are right, and where it does not they are wrong."""
    monkeypatch.setattr(Gate, "allows", lambda self, sequences: self.k)
    m = model("llama")
    llm = LLM(m.core(speculate="lookup", drafts=3, ahead=ahead, budget=24))
    rows = prompts(3, 6, 20, 3) + [[7, 8, 9] * 8, [5] * 11]
    check(llm, m, rows)
    twice = [row + m.text(tuple(row), 10) + row for row in rows[:2]]  # what follows is known
    check(llm, m, twice)
    status = llm.core.status()
    assert 0 < status.accepted < status.drafted


@pytest.mark.parametrize("draft", ["itself", pytest.param("another", marks=slow)])
def test_drafts_of_a_model_change_nothing(draft, monkeypatch):
    """Drawn or greedy; a model that drafts for itself is always right."""
    monkeypatch.setattr(Gate, "allows", lambda self, sequences: self.k)
    m = model("llama")
    llm = LLM(m.core(speculate="draft", drafts=3, budget=16, pages=60,
                     draft=m if draft == "itself" else model("gpt2")))
    rows = prompts(12, 6, 33, 1, 20, 9, 30)
    check(llm, m, rows)
    status = llm.core.status()
    if draft == "itself":
        assert status.accepted == status.drafted > 20
    drawn = [Sampling(max_tokens=9, seed=i, top_k=20, ignore_eos=True) for i in range(6)]
    right = made(LLM(m.core()), rows, drawn)
    assert made(llm, rows, drawn) == right


MESHES = {
    "tensor 2": Mesh(data=1, tensor=2), "tensor 4": Mesh(data=1, tensor=4),
    "stage 2": Mesh(data=1, stage=2), "expert 2": Mesh(data=1, expert=2),
    "stage 2, tensor 2": Mesh(data=1, stage=2, tensor=2),
    "expert 2, tensor 2": Mesh(data=1, expert=2, tensor=2), "fsdp 2": Mesh(data=1, fsdp=2),
}


@slow
def test_stages_of_whole_cycles_of_windows():
    """Six layers in cycles of two lie in stages of four and two."""
    m = model("gemma", windows=(5, 0), deep=6)
    check(LLM(m.core(Mesh(data=1, stage=2))), m, prompts(13, 3, 21, 9, 40))


@pytest.mark.parametrize("mesh", [
    pytest.param(name, marks=[slow] * (name not in ("tensor 4", "stage 2, tensor 2", "expert 2")))
    for name in MESHES])
def test_any_mesh_is_one_device(mesh):
    """Two kv heads on four devices are kept twice."""
    m = model("llama", **(dict(E=4, F=32) if "expert" in mesh else {}))
    check(LLM(m.core(MESHES[mesh], budget=8)), m, prompts(4, 3, 21, 9, 40), count=6)


def test_a_seeded_draw_is_the_same_alone_and_among_sixteen():
    m = model("llama")
    llm = LLM(m.core(slots=16, budget=32))
    rows = prompts(5, *range(3, 19))
    drawn = Sampling(max_tokens=8, temperature=1.0, top_k=40, ignore_eos=True)
    each = [dataclasses.replace(drawn, seed=i) for i in range(16)]
    together = made(llm, rows, each)
    for i in (0, 7, 15):
        assert made(llm, [rows[i]], each[i]) == [together[i]]
    again = made(llm, [rows[0]] * 2, [dataclasses.replace(drawn, seed=s) for s in (0, 1)])
    assert again[0] == together[0] != again[1]


def test_logprobs_are_the_models():
    """Of the token and of the likeliest, whatever shifts the draw."""
    m, row = model("llama"), prompts(6, 9)[0]
    llm = LLM(m.core())
    asked = Sampling(max_tokens=5, temperature=0.0, logprobs=3, logit_bias=((65, 100.0),),
                     ignore_eos=True)
    events = [event for _, event in llm.stream([row], asked)]
    assert [token for event in events for token in event.tokens] == [65] * 5
    for i, probs in enumerate(p for event in events for p in event.logprobs):
        right = np.asarray(jax.nn.log_softmax(m.logits(row + [65] * i)[-1]))
        assert probs.token == 65 and probs.logprob == pytest.approx(right[65], abs=1e-3)
        order = np.argsort(-right)[:3]
        assert [token for token, _ in probs.top] == order.tolist()
        np.testing.assert_allclose([p for _, p in probs.top], right[order], atol=1e-3)


def test_penalties_see_prompt_and_output():
    """Against the definitions, token by token; through a prefix that is found, too."""
    m, row = model("llama"), prompts(7, 12)[0]
    llm = LLM(m.core())
    c = Sampling(max_tokens=12, temperature=0.0, repetition_penalty=1.7, presence_penalty=1.5,
                 frequency_penalty=1.0, ignore_eos=True)
    out = []
    for _ in range(12):
        x = m.logits(row + out)[-1].astype(np.float64)
        seen = np.bincount(row + out, minlength=len(x)) > 0
        x = np.where(seen, np.where(x > 0, x / 1.7, x * 1.7), x)
        times = np.bincount(out, minlength=len(x))
        x -= 1.0 * times + 1.5 * (times > 0)
        out.append(int(x.argmax()))
    assert made(llm, [row, row[:6], row], c)[::2] == [out, out]
    assert made(llm, [row], c) == [out] and llm.core.status().prefix_hits >= 8


def test_ends():
    m, row = model("llama"), prompts(8, 7)[0]
    llm = LLM(m.core())
    whole = m.text(tuple(row), 10)
    end = next(t for t in whole if t < 256)
    at = whole.index(end)
    events = list(llm.stream([row], dataclasses.replace(GREEDY, stop_ids=(end,))))
    assert sum((e.tokens for _, e in events), []) == whole[:at + 1]
    assert events[-1][1].finish == "stop"
    assert [e.finish for _, e in llm.stream([row], GREEDY)][-1] == "length"
    eos = dataclasses.replace(GREEDY, logit_bias=((TOKENIZER.eos, 100.0),), ignore_eos=False)
    events = [e for _, e in llm.stream([row], eos)]
    assert [e.finish for e in events] == ["stop"] and events[0].tokens == [TOKENIZER.eos]
    assert events[0].text == ""


def test_ids_that_the_tokenizer_lacks_are_not_made():
    m, rows = model("llama"), prompts(9, 5, 8)
    assert max(map(max, made(LLM(m.core()), rows))) >= 100
    assert max(map(max, made(LLM(m.core(V=100)), rows))) < 100


@pytest.mark.parametrize("prompt, count, says", [
    ([], 1, "the prompt is empty"), ([1] * CONTEXT, 1, "leaves no room"),
    ([1] * 60, 5, "ask for 4 at most"), ([300], 1, "token 300 is not one of"),
    ([-1], 1, "token -1 is not one of")])
def test_what_can_never_be_computed_is_refused(engine, prompt, count, says):
    with pytest.raises(UserError, match=says):
        list(engine.stream([prompt], Sampling(max_tokens=count)))


def test_more_prompts_than_may_wait(engine):
    rows = prompts(10, *[3] * 40)
    assert len(made(engine, rows, dataclasses.replace(GREEDY, max_tokens=2))) == 40
    assert not len(engine.core.scheduler)


def test_a_generator_that_is_left_gives_everything_back(engine):
    stream = engine.stream(prompts(11, 30, 30, 30, 30, 30, 30, 30), GREEDY)
    next(stream)
    stream.close()
    assert not len(engine.core.scheduler) and engine.core.scheduler.pages.used == 0
