"""Whatever comes, each request gets its own tokens, once, and no page or slot is lost.

A model of the device stands behind the scheduler: it keeps what each place of the cache holds, a
hash of the token and of all before it, and looks at every place that a step reads.
"""

import random
from collections import deque
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from lm.base.errors import UserError
from lm.infer.request import Request, Sampling
from lm.infer.scheduler import Scheduler
from lm.infer.speculate import Lookup
from lm.infer.steps import Limits

V = 3  # few words, so that prefixes collide and old words come again


def grow(hashes, tokens):
    """Adds what the cache holds of `tokens` to that of those before them."""
    for token in tokens:
        hashes.append(hash((hashes[-1] if hashes else 0, token)))
    return hashes


def pick(hashed):
    """The token that follows; in a model it is a function of all before it."""
    return (hashed >> 7) % V


def truth(prompt, n):
    """The n tokens that follow a prompt."""
    hashes, out = grow([], prompt), []
    for _ in range(n):
        out.append(pick(hashes[-1]))
        grow(hashes, out[-1:])
    return out


class Device:
    """Runs steps in order, and asserts that each sees what it should."""

    def __init__(self, limits):
        self.limits = limits
        self.history = [None] * limits.slots
        self.cache = {}
        self.next = {}  # (sequence, life) -> the position that is to be computed next

    def run(self, step):
        """Returns the tokens that each piece gives."""
        page = self.limits.page
        assert sum(p.count for p in step.pieces) <= self.limits.budget
        assert len({p.sequence for p in step.pieces}) == len(step.pieces)
        for s in step.admitted:
            self.history[s.slot] = list(s.tokens)
        written, reads, made = set(), [], []
        for p in step.pieces:
            s = p.sequence
            history = self.history[s.slot]
            if s not in step.admitted:  # else it starts behind the pages that were kept
                assert self.next[s, p.life] == p.start, "not in order, or not once"
            self.next[s, p.life] = p.start + p.count
            hashes = grow([], history[:p.start + p.count - len(p.drafts)] + p.drafts)
            assert len(hashes) == p.start + p.count, "a token that is not there yet"
            places = [(s.pages[i // page], i % page) for i in range(len(hashes))]
            for i in range(p.start, len(hashes)):
                assert places[i] not in written, "two write to one place"
                written.add(places[i])
                self.cache[places[i]] = hashes[i]
            reads += zip(places, hashes, strict=True)
            made.append(self._sample(p, hashes, history))
        for place, hashed in reads:  # after all of the step is written, as in a layer
            assert self.cache[place] == hashed, "another's keys, or those of a wrong guess"
        return made

    def _sample(self, p, hashes, history):
        if not p.sample:
            return []
        drawn = [pick(h) for h in hashes[-p.sample:]]
        right = 0
        while right < len(p.drafts) and p.drafts[right] == drawn[right]:
            right += 1
        del history[p.start + p.count - len(p.drafts):]
        history += drawn[:right + 1]
        if p.drafts:
            self.next[p.sequence, p.life] = p.start + right + 1
        return drawn[:right + 1]


class Guess:
    """Knows what comes, and is wrong now and then."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.known = set()

    def drafts(self, sequence, limit):
        assert limit > 0
        self.known.add(sequence)
        right = truth(sequence.tokens, sequence.pending + self.random.randint(0, min(limit, 4)))
        return [(t + (self.random.random() < 0.3)) % V for t in right[sequence.pending:]]

    def ended(self, sequence):
        self.known.discard(sequence)


class World:
    """A scheduler, its device and its clients."""

    def __init__(self, limits, drafter=None):
        self.limits, self.drafter = limits, drafter
        self.scheduler = Scheduler(limits, drafter)
        self.device = Device(limits)
        self.due = deque()   # (step, tokens made)
        self.here, self.gone = {}, {}  # requests by id
        self.output, self.first = {}, []
        self.log = []

    def add(self, prompt, n):
        request = Request(f"{len(self.here) + len(self.gone):04}", prompt,
                          Sampling(max_tokens=n), print)
        self.here[request.id] = request
        self.output[request.id] = []
        try:
            self.scheduler.add(request)
        except UserError:
            limits = self.limits
            assert len(prompt) + n > limits.context or (
                len(prompt) + n - 1 > limits.pages * limits.page)
            self.gone[request.id] = self.here.pop(request.id)
        return request

    def plan(self):
        step = self.scheduler.plan()
        if step is None:
            self._nothing_can_run()
            return None
        assert step.pieces and all(p.sample == p.count for p in step.pieces[:step.decode])
        assert step.prefill == sum(n for _, n in step.chunks)
        chunks = [s.request.id for s, _ in step.chunks]
        assert chunks == sorted(chunks)
        assert all(p.sample for p in step.pieces[step.decode:-1]), "one begun before one is done"
        self.log.append([(p.sequence.request.id, p.start, p.count, p.sample, tuple(p.drafts),
                          p.sequence.slot, tuple(p.sequence.pages)) for p in step.pieces])
        self.due.append((step, self.device.run(step)))
        return step

    def _nothing_can_run(self):
        scheduler = self.scheduler
        if not self.due:
            assert not len(scheduler) and not self.here
        for s in scheduler.running:
            assert not s.filling
            assert s.held or s.length + s.pending == s.limit or (
                s.computed == len(s.pages) * self.limits.page and not scheduler.pages.available)

    def commit(self, stops=()):
        """Commits the oldest step; `stops`: for each piece, whether a stop comes now."""
        step, made = self.due.popleft()
        ended = []
        for i, (piece, tokens) in enumerate(zip(step.pieces, made, strict=True)):
            if piece.live and piece.sample:
                self.output[piece.sequence.request.id] += tokens
                if i < len(stops) and stops[i]:
                    ended.append(piece.sequence)
        done = self.scheduler.commit(step, made, ended)
        self.first += [r.id for r in done.first]
        assert len(self.first) == len(set(self.first))
        assert {s.request.id for s in ended} <= {r.id for r in done.finished}
        for request in done.finished:
            self.gone[request.id] = self.here.pop(request.id)
            got = self.output[request.id]
            assert got and len(got) == request.sampling.max_tokens or any(
                s.request is request for s in ended)
        return done

    def check(self):
        scheduler, here = self.scheduler, self.here
        scheduler.check()
        for id, got in self.output.items():
            request = here.get(id) or self.gone[id]
            assert got == truth(request.prompt, len(got)), "not its own tokens"
            assert len(got) <= request.sampling.max_tokens
            assert (id in self.first) == bool(got)
        ids = [s.request.id for s in [*scheduler.running, *scheduler.waiting]]
        assert ids == sorted(here), "one overtakes another, or is lost"
        everyone = [*here.values(), *self.gone.values()]
        assert scheduler.hits == sum(r.cached for r in everyone)
        assert scheduler.thrown == sum(r.preempted for r in everyone)
        assert all(r.cached < len(r.prompt) and r.cached % self.limits.page == 0 for r in everyone)
        if self.limits.reserve:
            assert not scheduler.thrown
        if not self.limits.prefix:
            assert not scheduler.queries and not scheduler.hits and not scheduler.pages.idle
        known = getattr(self.drafter, "known", None) or getattr(self.drafter, "_indices", {})
        assert {s.request.id for s in known} <= here.keys(), "a drafter keeps the dead"

    def drain(self, behind=1):
        """Runs to the end with `behind` steps planned before the oldest is committed."""
        for _ in range(10000):
            step = self.plan()
            if step is None and not self.due:
                break
            if step is None or len(self.due) > behind:
                self.commit()
            self.check()
        assert not self.here
        self.scheduler.pages.check([])
        assert len(self.scheduler.slots) == self.limits.slots
        assert self.scheduler.queued_tokens == 0


@st.composite
def limits(draw):
    """Room for one sequence of any length, and for little more."""
    slots, page = draw(st.integers(1, 4)), draw(st.sampled_from([2, 1, 3, 4]))
    context = draw(st.integers(16, 24))
    return Limits(slots, -(-(context - 1) // page) + draw(st.integers(-1, 4)), page,
                  slots + draw(st.integers(0, 12)), context,
                  prefix=draw(st.integers(0, 3)) > 0, reserve=draw(st.integers(0, 5)) == 5,
                  spare=draw(st.integers(0, 2)))


TEXT = [0, 1, 2, 1, 0, 0, 2, 2, 0, 1, 1, 1]
DRAFTERS = [lambda: None, lambda: Lookup(3, 3), lambda: Guess(0)]
PROMPTS = st.builds(lambda n, rest: TEXT[:n] + rest, st.integers(0, 12),
                    st.lists(st.integers(0, V - 1), min_size=1, max_size=3))


class Events(RuleBasedStateMachine):
    """Clients come and go, and up to three steps are under way, in any order."""

    @initialize(limits=limits(), drafter=st.sampled_from(DRAFTERS))
    def begin(self, limits, drafter):
        self.world = World(limits, drafter())

    @precondition(lambda self: len(self.world.here) < 6)
    @rule(requests=st.lists(st.tuples(PROMPTS, st.integers(1, 12)), min_size=1, max_size=5))
    def add(self, requests):
        for prompt, n in requests:
            self.world.add(prompt, n)

    @precondition(lambda self: len(self.world.due) < 3)
    @rule()
    def plan(self):
        self.world.plan()

    @precondition(lambda self: self.world.due)
    @rule(stops=st.lists(st.integers(0, 5).map(lambda i: i == 5), max_size=4))
    def commit(self, stops):
        self.world.commit(stops)

    @precondition(lambda self: len(self.world.due) < 3)
    @rule(stops=st.lists(st.booleans(), min_size=3, max_size=12))
    def serve(self, stops):
        """Goes on as an engine does; a stop comes now and then."""
        for stop in stops:
            self.world.plan()
            if self.world.due:
                self.world.commit([False, stop])
            self.world.check()

    @rule(i=st.integers(0, 30))
    def abort(self, i):
        world, id = self.world, f"{i:04}"
        request = world.scheduler.abort(id)
        assert request is world.here.get(id)
        if request is not None:
            world.gone[id] = world.here.pop(id)

    @invariant()
    def nothing_is_lost(self):
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self):
        if hasattr(self, "world"):
            self.world.drain()


def test_any_events_in_any_order():
    run_state_machine_as_test(Events, settings=settings(
        max_examples=120, stateful_step_count=40, deadline=None))


@pytest.mark.slow
def test_many_more_events_in_any_order():
    run_state_machine_as_test(Events, settings=settings(
        max_examples=1500, stateful_step_count=80, deadline=None))


def words(n, seed=0):
    rng = random.Random(seed)
    return [rng.randrange(V) for _ in range(n)]


def prompts(n, seed=0):
    """Prompts that begin alike."""
    rng = random.Random(seed)
    return [TEXT[:rng.randint(0, 12)] + words(rng.randint(1, 3), rng.random()) for _ in range(n)]


@settings(max_examples=60, deadline=None)
@given(limits(), st.sampled_from(DRAFTERS), st.integers(0, 3), st.integers(0, 99))
def test_everyone_gets_all_their_tokens_and_all_alike_gives_equal_plans(limits, drafter, behind,
                                                                        seed):
    logs = []
    for _ in range(2):
        world = World(limits, drafter())
        for i, prompt in enumerate(prompts(8, seed)):
            world.add(prompt, 1 + (seed + 3 * i) % 9)
        asked = dict(world.here)
        world.drain(behind)
        for id, request in asked.items():
            assert world.output[id] == truth(request.prompt, request.sampling.max_tokens)
        logs.append(world.log)
    assert logs[0] == logs[1]


def test_500_aborts_in_any_state_leave_nothing_behind():
    rng, states = random.Random(1), set()
    for seed in range(5):
        world = World(Limits(4, 12, 2, 8, 20), DRAFTERS[seed % 3]())
        for i, prompt in enumerate(prompts(100, seed)):
            request = world.add(prompt, rng.randint(1, 6))
            for _ in range(rng.randint(0, 4)):
                if world.plan() is None and world.due or len(world.due) > 2:
                    world.commit()
            id = request.id if i % 2 else rng.choice([*world.gone, *world.here])
            states |= {("waits" if s.slot < 0 else "fills" if s.filling else "held" if s.held
                        else "pending" if s.pending else "decodes")
                       for s in [*world.scheduler.running, *world.scheduler.waiting]
                       if s.request.id == id} or {"gone"}
            if world.scheduler.abort(id) is not None:
                world.gone[id] = world.here.pop(id)
            world.check()
        for id in [*world.here]:
            world.gone[id] = world.here.pop(id)
            world.scheduler.abort(id)
        world.check()
        world.scheduler.pages.check([])
        assert world.scheduler.pages.available == 12 and not len(world.scheduler)
        world.drain()  # the steps under way are committed to nobody
    assert states == {"waits", "fills", "decodes", "pending", "held", "gone"}


def test_a_stop_at_the_last_token_ends_it_once():
    world = World(Limits(2, 12, 2, 8, 20))
    one, other = world.add([0], 1), world.add([0, 1], 2)
    world.plan()
    assert world.commit([True, False]).finished == [one]
    world.plan()
    assert world.commit([True]).finished == [other] and not world.here


def test_an_unknown_id_is_nobody():
    world = World(Limits(1, 4, 4, 4, 8))
    assert world.scheduler.abort("x") is None
    world.add([0], 1)
    world.drain()
    assert world.scheduler.abort("0000") is None


def shape(step):
    """(request, start, tokens, samples) of each piece."""
    return [(int(p.sequence.request.id), p.start, p.count, p.sample) for p in step.pieces]


def test_decoding_goes_first_and_prompts_fill_the_rest_in_order():
    world = World(Limits(3, 99, 4, 6, 30, prefix=False))
    for n in (4, 7, 2, 1):
        world.add(words(n), 3)
    assert shape(world.plan()) == [(0, 0, 4, 1), (1, 0, 2, 0)]
    world.commit()
    # One row, then the long prompt, with nothing left for the short one behind it.
    assert shape(world.plan()) == [(0, 4, 1, 1), (1, 2, 5, 1)]
    # Planned on a step that is not committed: both last tokens are on the device only.
    assert shape(world.plan()) == [(0, 5, 1, 1), (1, 7, 1, 1), (2, 0, 2, 1)]
    assert world.scheduler.running and shape(world.plan()) == [(1, 8, 1, 1), (2, 2, 1, 1)]
    for _ in range(3):
        world.commit()  # 0 has got its three, 1 too
        world.check()
    assert shape(world.plan()) == [(2, 3, 1, 1), (3, 0, 1, 1)]
    world.drain()


def test_no_row_is_planned_beyond_what_was_asked_for():
    world = World(Limits(1, 99, 4, 6, 30))
    world.add([0, 1], 2)
    assert shape(world.plan()) == [(0, 0, 2, 1)]
    assert shape(world.plan()) == [(0, 2, 1, 1)]
    assert world.plan() is None
    world.drain()


def test_the_youngest_is_thrown_out_and_goes_on_where_it_was():
    limits = Limits(2, 8, 4, 64, 32, prefix=False)
    world = World(limits)
    old, young = world.add([0] * 8, 20), world.add([1] * 8, 20)
    world.drain(0)
    assert (old.preempted, young.preempted) == (0, 1)
    assert list(world.gone) == [old.id, young.id]
    # Eight decoding steps fill the pool; what it had was its prompt, their tokens and one more.
    again = [piece for step in world.log for piece in step if piece[0] == young.id][9]
    assert again[1:4] == (0, 17, 1)


def test_what_was_thrown_out_finds_its_own_pages_again():
    world = World(Limits(2, 8, 4, 64, 32))
    old, young = world.add([0] * 8, 20), world.add([1] * 8, 20)
    world.drain(0)
    assert (old.preempted, young.preempted) == (0, 1)
    # The old one took the last three of the four that were kept.
    again = [piece for step in world.log for piece in step if piece[0] == young.id][9]
    assert again[1:4] == (4, 13, 1)
    assert young.cached == 0 and world.scheduler.hits == 0  # by its own prompt, once computed


def test_a_sequence_that_has_drawn_its_last_token_is_waited_for_and_not_thrown_out():
    world = World(Limits(2, 5, 4, 64, 32, prefix=False))
    old, young = world.add([0] * 7, 6), world.add([1] * 8, 2)
    for _ in range(2):
        world.plan()  # young's last token is drawn, its pages are its own until the commit
    # old has two pages for eight positions and asks for a third; young has the other three.
    assert world.plan() is None
    world.commit()
    assert world.plan() is None
    world.commit()
    assert shape(world.plan()) == [(0, 8, 1, 1)]
    world.drain()
    assert not old.preempted and not young.preempted


def test_pages_reserved_are_never_taken_away():
    world = World(Limits(4, 10, 4, 64, 40, reserve=True))
    for prompt in prompts(6, 3):
        world.add(prompt, 20)
    world.drain()
    assert world.scheduler.thrown == 0


def test_a_prompt_of_nothing_but_known_pages_is_still_computed_by_one_token():
    world = World(Limits(2, 20, 4, 64, 40))
    prompt = words(12)
    first = world.add(prompt, 1)
    world.drain()
    same, longer, other = (world.add(p, 2) for p in (prompt, prompt + [0], [0] + prompt))
    world.drain()
    assert (first.cached, same.cached, longer.cached, other.cached) == (0, 8, 12, 0)
    assert world.scheduler.queries == 12 + 12 + 13 + 13 and world.scheduler.hits == 8 + 12


def test_pages_are_found_while_their_owner_still_decodes():
    world = World(Limits(2, 20, 4, 8, 40))
    first = world.add([0, 1, 2, 0] * 2, 9)
    world.plan()
    world.commit()
    second = world.add([0, 1, 2, 0] * 2 + truth(first.prompt, 1), 2)
    world.plan()
    assert second.cached == 8 and world.scheduler.pages.used == 4
    world.drain()


def test_the_oldest_prefix_makes_room():
    world = World(Limits(1, 4, 4, 16, 16))
    one, other = [0] * 8, [1] * 8
    for prompt, cached in ((one, 0), (other, 0), (one, 4), ([2] * 16, 0), (one, 0)):
        request = world.add(prompt[:15], 1)
        world.drain()
        assert request.cached == cached


def test_who_does_not_fit_is_not_overtaken():
    world = World(Limits(3, 6, 4, 64, 24, prefix=False))
    for n in (14, 12, 1):
        world.add(words(n), 4)
    assert shape(world.plan()) == [(0, 0, 14, 1)]  # four pages; the second needs three
    assert shape(world.plan()) == [(0, 14, 1, 1)]
    world.drain()
    assert list(world.gone) == ["0000", "0001", "0002"]


def test_spare_pages_are_left_to_those_that_decode():
    for spare, step in ((0, [(0, 4, 1, 1), (1, 0, 8, 1)]), (1, [(0, 4, 1, 1)])):
        world = World(Limits(2, 4, 4, 64, 16, spare=spare))
        world.add([0] * 4, 3)
        world.plan()
        world.add([1] * 8, 1)
        assert shape(world.plan()) == step
        world.drain()


def test_a_masked_sequence_waits_for_its_last_token():
    world = World(Limits(2, 20, 4, 8, 40), Guess(0))
    request = world.add([0, 1], 3)
    world.scheduler.waiting[0].masked = True
    assert shape(world.plan()) == [(0, 0, 2, 1)]
    for position in (2, 3):
        assert world.plan() is None
        world.commit()
        assert shape(world.plan()) == [(0, position, 1, 1)]
    world.drain()
    assert world.output[request.id] == truth([0, 1], 3)
    masked = Request("m", [0], Sampling(), print, mask=SimpleNamespace())
    assert world.scheduler.add(masked).masked


class Fixed:
    """Proposes the same for all; a gate too."""

    def __init__(self, ids, allowed=9):
        self.ids, self.allowed = ids, allowed
        self.asked = []

    def drafts(self, sequence, limit):
        return self.ids[:limit]

    def ended(self, sequence):
        pass

    def allows(self, sequences):
        self.asked.append(sequences)
        return self.allowed


def test_wrong_drafts_are_taken_back_and_nothing_goes_on_before_that_is_known():
    right = truth([0, 1], 4)
    drafter = Fixed([right[1], (right[2] + 1) % V, 0])
    world = World(Limits(1, 20, 4, 8, 40), drafter)
    world.add([0, 1], 4)
    world.plan()
    world.commit()
    assert shape(world.plan()) == [(0, 2, 3, 3)]  # of four, one was given: two drafts at most
    assert world.plan() is None
    world.commit()
    sequence = next(iter(world.scheduler.running))
    assert sequence.computed == 2 + 2 and sequence.given == 3
    assert (world.scheduler.drafted, world.scheduler.accepted) == (2, 1)
    assert shape(world.plan()) == [(0, 4, 1, 1)]
    world.drain()


def test_the_place_of_a_wrong_draft_is_no_page_to_be_found():
    right = truth([0, 1], 2)
    world = World(Limits(1, 20, 4, 8, 40), Fixed([(right[1] + 1) % V] * 2))
    first = world.add([0, 1], 9)
    for _ in range(2):
        world.plan()
        world.commit()
    assert world.output[first.id] == right  # all tokens of a page, but the last is not computed
    world.scheduler.abort(first.id)
    world.gone[first.id] = world.here.pop(first.id)
    second = world.add([0, 1, *right, 0], 1)
    world.drain()
    assert second.cached == 0


def test_drafts_leave_room_for_rows_and_prompts():
    drafter = Fixed([0] * 9)
    world = World(Limits(3, 99, 4, 12, 80), drafter)
    for _ in range(3):
        world.add([0, 1], 40)
    world.plan()
    world.commit()
    step = world.plan()
    assert [p.count for p in step.pieces] == [4, 4, 4]
    world.commit()
    world.add([0] * 20, 1)  # it has no slot; yet who waits gets one soon
    assert [p.count for p in world.plan().pieces] == [2, 2, 2]
    world.drain()


def test_the_gate_is_asked_how_many_drafts_a_step_of_that_size_may_have():
    gate = Fixed([], 2)
    scheduler = Scheduler(Limits(3, 99, 4, 60, 80), Fixed([0] * 9), gate)
    for i in range(3):
        scheduler.add(Request(str(i), [0], Sampling(max_tokens=9), print))
    scheduler.commit(scheduler.plan(), [[0]] * 3)
    assert [p.count for p in scheduler.plan().pieces] == [3] * 3
    assert gate.asked == [3]
    gate.allowed = 0
    scheduler.check()


def test_a_guess_throws_nobody_out():
    world = World(Limits(2, 4, 4, 64, 16, prefix=False), Guess(3))
    first, second = world.add([0] * 4, 4), world.add([1] * 4, 4)
    world.drain()
    assert first.preempted == second.preempted == 0


def test_what_can_never_be_computed_is_refused_in_one_line():
    scheduler = Scheduler(Limits(2, 4, 4, 8, 20))
    for prompt, n, words in (([], 1, "at least one token"), ([0] * 20, 1, "shorten it to 19"),
                             ([0] * 12, 9, "ask for 8 at most"), ([0] * 10, 8, "to 17 in all")):
        with pytest.raises(UserError, match=words) as error:
            scheduler.add(Request("a", prompt, Sampling(max_tokens=n), print))
        assert "\n" not in str(error.value)
    scheduler.add(Request("a", [0] * 10, Sampling(max_tokens=7), print))  # 16 are computed
    assert len(scheduler) == 1
    with pytest.raises(UserError, match="give at least 5"):
        Limits(5, 9, 4, 4, 20)


def test_the_queue_is_full_by_tokens_or_by_number():
    limits = Limits(1, 50, 4, 8, 200, queued_tokens=30, queued=3)
    scheduler = Scheduler(limits)
    assert not scheduler.full(100)  # nobody waits: whatever fits the cache may come
    assert scheduler.full(29, 2) and not scheduler.full(29, 1)  # but one who is on the way does
    assert scheduler.full(1, 1, 3) and not scheduler.full(1, 1, 2)
    scheduler.add(Request("0", [0] * 20, Sampling(), print))
    assert not scheduler.full(10) and scheduler.full(11)
    step = scheduler.plan()
    assert scheduler.queued_tokens == 12 and scheduler.full(19) and not scheduler.full(18)
    scheduler.commit(step, [[]])
    for i in range(1, 4):
        assert not scheduler.full(1)
        scheduler.add(Request(str(i), [0], Sampling(), print))
    assert scheduler.full(1)
    scheduler.abort("2")
    assert not scheduler.full(1) and scheduler.queued_tokens == 14


def test_steps_are_committed_in_order():
    scheduler = Scheduler(Limits(1, 50, 4, 8, 200))
    scheduler.add(Request("0", [0] * 20, Sampling(), print))
    first, second = scheduler.plan(), scheduler.plan()
    with pytest.raises(ValueError, match="in the order"):
        scheduler.commit(second, [[]])
    with pytest.raises(ValueError, match="in the order"):
        Scheduler(Limits(1, 50, 4, 8, 200)).commit(first, [[]])


def test_check_sees_what_is_wrong():
    for harm in (lambda s: s.slots.append(0), lambda s: s.pages.take(),
                 lambda s: setattr(s, "queued_tokens", 3),
                 lambda s: setattr(next(iter(s.running)), "pending", 0),
                 lambda s: next(iter(s.running)).pages.pop(),
                 lambda s: setattr(s.waiting[0], "computed", 1)):
        scheduler = Scheduler(Limits(1, 5, 4, 8, 20))
        for i in range(2):
            scheduler.add(Request(str(i), [0, 1], Sampling(), print))
        scheduler.plan()
        scheduler.check()
        harm(scheduler)
        with pytest.raises(AssertionError):
            scheduler.check()
