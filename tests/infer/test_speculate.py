"""Lookup copies what a plain search finds; the gate keeps to the faster way."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.infer import speculate
from lm.infer.speculate import FIRST, LAST, PROBE, Gate, Lookup
from lm.infer.steps import Sequence


class Told:
    """A sequence, as far as a drafter sees it."""

    def __init__(self, tokens):
        self.tokens, self.pending = tokens, 0

    @property
    def length(self):
        return len(self.tokens)


def search(tokens, k, longest, shortest):
    """The k tokens after the latest earlier place of the last n, for the greatest n, by search."""
    for n in range(min(longest, len(tokens)), shortest - 1, -1):
        for end in range(len(tokens) - 1, n - 1, -1):
            if tokens[end - n:end] == tokens[-n:]:
                text = list(tokens)
                for i in range(k):
                    text.append(text[end + i])
                return text[len(tokens):]
    return []


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 6), st.integers(1, 4),
       st.integers(0, 3), st.lists(st.integers(1, 9), min_size=1), st.integers(0, 3),
       st.integers(1, 9))
def test_it_copies_what_a_search_finds(tokens, k, shortest, more, pieces, pending, limit):
    lookup, longest = Lookup(k, shortest + more, shortest), shortest + more
    sequence = Told([])
    while len(sequence.tokens) < len(tokens):
        n = pieces[len(sequence.tokens) % len(pieces)]  # as many come at once
        sequence.tokens += tokens[len(sequence.tokens):len(sequence.tokens) + n]
        sequence.pending = pending
        copied = search(sequence.tokens, pending + min(k, limit), longest, shortest)
        assert lookup.drafts(sequence, limit) == copied[pending:]


def test_what_repeats_goes_on_repeating():
    assert Lookup(5).drafts(Told([7, 8, 9, 7, 8]), 9) == [9, 7, 8, 9, 7]
    assert Lookup(5).drafts(Told([7, 7]), 9) == [7] * 5
    assert Lookup(5).drafts(Told([7, 8]), 9) == []


def test_the_latest_of_the_longest_runs_counts():
    # 1 2 came twice, 9 1 2 once: the longer run wins over the later place.
    assert Lookup(1).drafts(Told([9, 1, 2, 5, 1, 2, 6, 9, 1, 2]), 1) == [5]
    assert Lookup(1, 2).drafts(Told([9, 1, 2, 5, 1, 2, 6, 9, 1, 2]), 1) == [6]


def test_sequences_are_apart_and_forgotten():
    lookup = Lookup(2)
    one, other = Told([1, 2, 1]), Told([1, 3, 1])
    assert lookup.drafts(one, 2) == [2, 1] and lookup.drafts(other, 2) == [3, 1]
    assert len(lookup) == 2
    lookup.ended(one)
    lookup.ended(one)
    assert len(lookup) == 1 and lookup.drafts(other, 1) == [3]


def test_tokens_that_the_host_does_not_know_are_not_guessed_at():
    sequence = Told([7, 7, 7])
    assert Lookup(2).drafts(sequence, 2) == [7, 7]
    counted = Sequence(None, 3, 9, [7, 7, 7], 4)  # of its four tokens, three have names
    assert Lookup(2).drafts(counted, 2) == []


class Counted(list):
    """Tokens that count how often they are read."""

    def __init__(self, *args):
        super().__init__(*args)
        self.reads = 0

    def __getitem__(self, i):
        got = super().__getitem__(i)
        self.reads += len(got) if isinstance(i, slice) else 1
        return got


def test_no_token_is_indexed_twice():
    rng = random.Random(0)
    lookup, sequence = Lookup(4), Told(Counted(rng.randrange(5) for _ in range(1000)))
    lookup.drafts(sequence, 4)
    for _ in range(500):
        sequence.tokens.append(rng.randrange(5))
        before = sequence.tokens.reads
        lookup.drafts(sequence, 4)
        assert sequence.tokens.reads - before <= 4 + 3 + 2 + 1 + 4
    assert sequence.tokens.reads < 1500 * 10 + 501 * 4


def test_a_long_history_is_indexed_in_parts(monkeypatch):
    monkeypatch.setattr(speculate, "READ", 40)
    lookup = Lookup(2)
    some = [Told([1, 2] * 30) for _ in range(2)]
    lookup.drafts(some[0], 2), lookup.drafts(some[1], 2)
    # 40 of 60 when it was alone; since there are two, 20 each.
    for one, other in (([1, 2], []), ([1, 2], [1, 2])):
        assert lookup.drafts(some[0], 2) == one and lookup.drafts(some[1], 2) == other


def seconds(sequences, tokens, fixed=10.0, each=0.1):
    """A step: the weights are read once, and each token costs something."""
    return fixed + each * sequences * tokens


def serve(gate, sequences, steps, right, cost=seconds, rng=None):
    """Lets a gate decide over so many steps; returns those with drafts, and seconds per token."""
    rng = rng or random.Random(0)
    with_drafts, time, made = 0, 0.0, 0
    for _ in range(steps):
        k = gate.allows(sequences)
        accepted = 0
        for _ in range(sequences if k else 0):
            n = 0
            while n < k and rng.random() < right:
                n += 1
            accepted += n
        spent = cost(sequences, 1 + k) * rng.uniform(0.9, 1.1)
        gate.observe(spent, sequences, sequences * k, accepted)
        with_drafts += k > 0
        time += spent
        made += sequences + accepted
    return with_drafts, time / made


@pytest.mark.parametrize("sequences,right,pays", [
    (1, 0.8, True), (1, 0.0, False), (8, 0.8, True), (64, 0.02, False), (500, 0.4, False)])
def test_the_faster_way_is_found_and_kept_to(sequences, right, pays):
    gate = Gate(4, 4096)
    serve(gate, sequences, 400, right)
    with_drafts, _ = serve(gate, sequences, 2000, right)
    # The other way is tried PROBE steps at a time, at intervals that double.
    assert with_drafts > 1900 if pays else 0 < with_drafts < 100


def test_it_costs_little_over_the_better_of_both():
    for sequences in (1, 2, 16, 100, 400):
        for right in (0.0, 0.3, 0.6, 0.9):
            _, mixed = serve(Gate(4, 4096), sequences, 3000, right)
            never = seconds(sequences, 1) / sequences
            gained = 1 + sum(right**i for i in range(1, 5))
            always = seconds(sequences, 5) / sequences / gained
            assert mixed < 1.05 * min(never, always)


def test_it_sees_when_things_change():
    gate = Gate(4, 4096)
    assert serve(gate, 4, 1000, 0.9)[0] > 900
    assert serve(gate, 4, 200, 0.0)[0] < 80     # its memory is short
    assert serve(gate, 4, 1000, 0.9)[0] > 500   # and is soon tried again


def test_the_other_way_is_tried_more_and_more_rarely():
    gate = Gate(2, 4096)
    tried = []
    for step in range(20000):
        k = gate.allows(1)
        gate.observe(3.0 if k else 1.0, 1, k, 0)
        tried += [step] * (k > 0)
    starts = [a for a, b in zip(tried, [-9, *tried], strict=False) if a > b + 1]
    gaps = [b - a - PROBE for a, b in zip(starts, starts[1:], strict=False)]
    doubled = [min(2 * FIRST * 2**i, LAST) for i in range(len(gaps))]
    assert starts[0] == PROBE and gaps == doubled and gaps[-1] == LAST
    assert len(tried) == PROBE * len(starts)


def test_a_trial_counts_alone():
    gate = Gate(4, 4096)
    tokens = iter([0] * PROBE + [3] * PROBE)  # accepted of ten sequences: first none, then enough
    for _ in range(PROBE + PROBE + 2 * FIRST + PROBE):
        k = gate.allows(10)
        gate.observe(1.2 if k else 1.0, 10, k, next(tokens) if k else 0)
    assert next(tokens, None) is None and gate.allows(10) == 4  # 13 / 1.2 > 10


def test_sizes_of_batches_are_judged_apart():
    gate = Gate(4, 4096)
    for _ in range(10):
        few, many = serve(gate, 2, 100, 0.8)[0], serve(gate, 512, 100, 0.2)[0]
    assert few > 80 and many < 20


def test_what_does_not_fit_the_budget_is_not_allowed():
    gate = Gate(4, 32)
    for sequences, most in ((1, 4), (6, 4), (8, 3), (16, 1), (17, 0), (32, 0), (0, 0)):
        for _ in range(PROBE):
            gate.observe(1.0, sequences, 0, 0)
        assert gate.allows(sequences) == most


def test_steps_without_a_proposal_are_no_trial_of_drafts():
    gate = Gate(4, 4096)
    for _ in range(PROBE):
        gate.observe(1.0, 1, 0, 0)
    for _ in range(500):  # there is nothing to copy for long, which costs nothing
        assert gate.allows(1) == 4
        gate.observe(1.0, 1, 0, 0)
    for _ in range(PROBE):
        assert gate.allows(1) == 4
        gate.observe(2.0, 1, 4, 0)
    assert gate.allows(1) == 0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 40), st.integers(0, 9),
                          st.integers(0, 9)), max_size=200), st.integers(1, 8))
def test_whatever_it_is_told_it_allows_what_there_is(events, k):
    gate = Gate(k, 64)
    for time, sequences, drafted, accepted in events:
        assert 0 <= gate.allows(sequences) <= k
        assert sequences * (1 + gate.allows(sequences)) <= max(64, sequences)
        gate.observe(time, sequences, drafted, accepted)
