"""Which tokens the next step computes: (state, events) -> plan. Plain Python without a clock.

Continuous batching (Yu et al. 2022, Orca): sequences come in and leave between any two steps. Those
that decode go first, then prompts in chunks (Agrawal et al. 2024, Sarathi-Serve), in order of
arrival, under one budget of tokens. Pages (Kwon et al. 2023) come as positions need them; where
none are left, the youngest sequence is thrown out and computed again when there is room. Nobody is
overtaken: all who run came before all who wait, so the oldest always goes on.

A step is planned on what the steps before it will have done. The device runs them in order, so a
page or a slot may be handed on while a step that uses it is still under way. Per step of the
engine:

    step = scheduler.plan()       # None: nothing can run before the next commit or request
    ...                           # run it before any other call: slots and pages are of this moment
    done = scheduler.commit(step, made, ended)  # in the order of planning, some plans later

`made` has the tokens of each piece: none for a chunk that samples nothing; else the drafts that
were right, and one more. They count only if `piece.live`. The planner's simulator can drive this
same object with requests whose `prompt` is a number, and commits without `made`: one token each.
"""

from collections import deque
from itertools import chain

from lm.infer.pages import Pages, digest
from lm.infer.steps import Done, Limits, Piece, Sequence, Step, sequence_of


class Scheduler:
    """Plans the steps of one engine. One thread calls it; counts may be read from any.

    drafter: proposes tokens to verify. gate: says how many may be proposed (both in
    `lm.infer.speculate`; without a gate, as many as fit).
    """

    def __init__(self, limits: Limits, drafter=None, gate=None):
        self.limits, self.drafter, self.gate = limits, drafter, gate
        self.pages = Pages(limits.pages)
        self.waiting: deque[Sequence] = deque()
        self.running: dict[Sequence, None] = {}  # oldest first: who decodes, then who fills
        self.slots = list(range(limits.slots))[::-1]  # free ones
        self.queued_tokens = 0   # of prompts, to be computed
        self.thrown = 0          # sequences, to be computed again
        self.queries = 0         # prompt tokens looked for among the pages kept
        self.hits = 0            # and found
        self.drafted = 0         # tokens proposed
        self.accepted = 0        # and right
        self._due: deque[Step] = deque()

    def __len__(self) -> int:
        """Returns the number of requests here, waiting ones too."""
        return len(self.running) + len(self.waiting)

    def full(self, tokens: int, before: int = 0, requests: int = 0) -> bool:
        """Returns whether a prompt of so many tokens is too much to wait beside those that do.

        before: tokens of so many `requests` that are to be added first.
        """
        before += self.queued_tokens
        return (len(self.waiting) + requests >= self.limits.queued
                or before > 0 and before + tokens > self.limits.queued_tokens)

    def add(self, request) -> Sequence:
        """Takes a request. Raises UserError if it can never be computed (see `Limits.check`)."""
        sequence = sequence_of(request)
        self.limits.check(sequence.prompt, sequence.limit - sequence.prompt)
        self.waiting.append(sequence)
        self.queued_tokens += sequence.length
        return sequence

    def abort(self, id: str):
        """Ends the request of that id, whatever its state, and returns it; None: it is not here."""
        for sequence in chain(self.running, self.waiting):
            if sequence.request.id == id:
                self._end(sequence)
                return sequence.request
        return None

    def plan(self) -> Step | None:
        """Returns what the next step computes."""
        step = Step()
        running = list(self.running)
        decoding = bool(running) and not running[0].filling
        left, most = self.limits.budget, self._most(running)
        for sequence in running:
            if sequence.slot < 0 or not left:
                break  # thrown out for an older one, as were those after it
            if sequence.filling:
                left -= self._chunk(step, sequence, left)
            elif not sequence.held and sequence.length + sequence.pending < sequence.limit:
                left -= self._row(step, sequence, most)
        self._admit(step, left, decoding)
        if not step.pieces:
            return None
        self._due.append(step)
        return step

    def commit(self, step: Step, made: list[list[int]] | None = None, ended=()) -> Done:
        """Enters that a step has ended, and what it made; `ended`: sequences that stop there."""
        if not self._due or step is not self._due.popleft():
            raise ValueError("steps are committed in the order in which they were planned")
        done, page = Done([], []), self.limits.page
        for i, piece in enumerate(step.pieces):
            sequence = piece.sequence
            if not piece.live:
                continue
            settled = piece.start + piece.count
            if piece.sample:
                if not sequence.given:
                    done.first.append(sequence.request)
                new = 1
                if made is not None:
                    sequence.tokens += made[i]
                    new = len(made[i])
                sequence.length += new
                sequence.pending -= piece.sample
                if piece.drafts:  # what follows the first wrong one was computed for nothing
                    settled = sequence.computed = piece.start + new
                    self.drafted += len(piece.drafts)
                    self.accepted += new - 1
                    sequence.held = False
                elif sequence.masked:
                    sequence.held = False
            if settled // page > sequence.named:
                self._name(sequence, settled)
            if sequence.length >= sequence.limit:
                self._end(sequence)
                done.finished.append(sequence.request)
        for sequence in ended:
            if sequence.life >= 0:
                self._end(sequence)
                done.finished.append(sequence.request)
        return done

    def check(self) -> None:
        """Asserts that nothing is lost, counted twice or out of order."""
        limits, running = self.limits, list(self.running)
        self.pages.check(page for s in running for page in s.pages)
        assert sorted(self.slots + [s.slot for s in running]) == list(range(limits.slots))
        assert self.queued_tokens == sum(
            s.length - s.computed for s in chain(running, self.waiting) if s.filling)
        assert [s.filling for s in running] == sorted(s.filling for s in running)
        for s in running:
            assert s.life >= 0 and s.named <= len(s.pages)
            assert s.computed <= len(s.pages) * limits.page
            assert s.prompt <= s.length < s.limit and s.length + s.pending <= s.limit
            if s.filling:
                assert s.computed < s.length and not s.pending and not s.held
            else:
                assert s.computed == s.length + s.pending - 1
            assert len(s.pages) == -(-(s.limit - 1) // limits.page) or not limits.reserve
        for s in self.waiting:
            assert s.life >= 0 and s.slot < 0 and s.filling and not s.held
            assert not (s.pages or s.computed or s.pending or s.named)

    def _most(self, running) -> int:
        """Returns how many drafts each sequence may have in this step."""
        rows = sum(not s.filling for s in running) if self.drafter is not None else 0
        if not rows:
            return 0
        spare = self.limits.budget - rows
        if self.waiting or rows < len(running):
            spare //= 2  # drafts may be wrong; half is for prompts
        return min(spare // rows, spare if self.gate is None else self.gate.allows(rows))

    def _row(self, step, sequence, most) -> int:
        """Adds the last token of a sequence, and drafts of those to come."""
        start = sequence.computed
        page, pages = self.limits.page, sequence.pages
        if start >= len(pages) * page and not self._grow(sequence):
            return 0
        drafts = []
        if most and not sequence.masked:  # pages of others are not taken for a guess
            most = min(most, sequence.limit - sequence.length - sequence.pending - 1,
                       (len(pages) + self.pages.available) * page - start - 1)
            if most > 0:
                drafts = self.drafter.drafts(sequence, most)
        n = 1 + len(drafts)
        while len(pages) * page < start + n:
            pages.append(self.pages.take())
        step.pieces.append(Piece(sequence, start, n, n, drafts, sequence.life))
        step.decode += 1
        step.context += start
        sequence.computed = start + n
        sequence.pending += n
        sequence.held = n > 1 or sequence.masked
        return n

    def _grow(self, sequence) -> bool:
        """Gives a sequence one more page; returns whether there was one."""
        while not self.pages.available:
            if any(s.length + s.pending >= s.limit for s in self.running):
                return False  # one has drawn its last token: the next commit frees its pages
            youngest = next(reversed(self.running))
            self._throw(youngest)
            if youngest is sequence:
                return False
        sequence.pages.append(self.pages.take())
        return True

    def _chunk(self, step, sequence, left) -> int:
        """Adds the next tokens of a prompt."""
        start = sequence.computed
        n = min(left, sequence.length - start)
        last = start + n == sequence.length
        step.pieces.append(Piece(sequence, start, n, int(last), [], sequence.life))
        step.prefill += n
        step.context += start + n
        step.attended += n * start + n * (n + 1) // 2
        self.queued_tokens -= n
        sequence.computed = start + n
        if last:
            sequence.filling = False
            sequence.pending = 1
            sequence.held = sequence.masked
        return n

    def _admit(self, step, left, decoding):
        """Gives slots and pages to those that wait; who does not fit lets none pass."""
        limits = self.limits
        while left and self.waiting and self.slots:
            sequence = self.waiting[0]
            found = self._find(sequence)
            tokens = sequence.limit - 1 if limits.reserve else sequence.length
            need = -(-tokens // limits.page) - len(found)
            idle = sum(not self.pages.uses[page] for page in found)
            if need > self.pages.available - idle - decoding * limits.spare:
                return
            self.waiting.popleft()
            for page in found:
                self.pages.share(page)
            sequence.pages = found + [self.pages.take() for _ in range(need)]
            sequence.slot = self.slots.pop()
            sequence.named = len(found)
            sequence.computed = len(found) * limits.page
            self.queued_tokens -= sequence.computed
            if not sequence.life and limits.prefix and sequence.tokens:  # again: it was its own
                self.queries += sequence.prompt
                self.hits += sequence.computed
                sequence.request.cached = sequence.computed
            self.running[sequence] = None
            step.admitted.append(sequence)
            left -= self._chunk(step, sequence, left)

    def _find(self, sequence) -> list[int]:
        """Returns the pages kept of a sequence's first tokens, at least one token short of all."""
        found, page = [], self.limits.page
        if self.limits.prefix:
            for i in range(min((sequence.length - 1) // page, len(sequence.tokens) // page)):
                one = self.pages.find(self._digest(sequence, i))
                if one is None:
                    break
                found.append(one)
        return found

    def _name(self, sequence, settled):
        """Lets others find the full pages of a sequence up to a position that is computed."""
        if self.limits.prefix:
            full = min(settled, len(sequence.tokens)) // self.limits.page
            for i in range(sequence.named, full):
                self.pages.name(sequence.pages[i], self._digest(sequence, i))
                sequence.named = i + 1

    def _digest(self, sequence, i) -> bytes:
        """Returns the name of page i of a sequence; that of the page before it is known."""
        names, page = sequence.names, self.limits.page
        if len(names) == i:
            names.append(digest(names[-1] if names else b"",
                                sequence.tokens[i * page:(i + 1) * page]))
        return names[i]

    def _throw(self, sequence):
        """Takes slot and pages from a sequence; its known tokens are its prompt when it's back."""
        self.queued_tokens += sequence.computed if sequence.filling else sequence.length
        self._release(sequence)
        sequence.computed = sequence.pending = sequence.named = 0
        sequence.filling, sequence.held = True, False
        sequence.life += 1
        self.thrown += 1
        if sequence.tokens:
            sequence.request.preempted += 1
        self.waiting.appendleft(sequence)

    def _end(self, sequence):
        if sequence.filling:
            self.queued_tokens -= sequence.length - sequence.computed
        if sequence.slot < 0:
            self.waiting.remove(sequence)
        else:
            self._release(sequence)
        sequence.life = -1
        if self.drafter is not None:
            self.drafter.ended(sequence)

    def _release(self, sequence):
        del self.running[sequence]
        self.slots.append(sequence.slot)
        self.pages.drop(sequence.pages)
        sequence.slot, sequence.pages = -1, []
