"""What the simulator drives: a scheduler, (state, events) -> plan, on a clock that it never reads.

Any object with these methods will do, the scheduler of a real engine too:

    add(request)            a request has arrived
    plan() -> Step | None   what the next step computes; None: there is nothing to do
    commit(step) -> Done    that step has ended: who got its first token, who its last one

Only the counts of a Step decide how long it takes. `Scheduler` is a plain one: continuous batching,
first come first served, prompts in chunks beside the tokens being decoded, pages of cache handed
out as needed or reserved, and, where they run out, the youngest thrown out and computed again.
"""

import heapq
import itertools
from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Request:
    """One request: tokens of its prompt and of its output. Times are filled in by a simulation."""

    arrival: float
    prompt: int
    output: int
    scheduled: float = -1.0   # start of its first step
    first: float = -1.0       # end of the step that gave its first token
    finish: float = -1.0
    thrown: int = 0           # times that its cache was thrown out


@dataclass(slots=True)
class Step:
    """Counts of one step of one replica."""

    prefill: int = 0          # prompt tokens computed
    decode: int = 0           # sequences that get one more token
    context: int = 0          # tokens of cache that are read, of all sequences
    attended: int = 0         # (query, key) pairs of the prompt tokens
    chunks: list = field(default_factory=list)  # (sequence, tokens)


@dataclass(slots=True)
class Done:
    """Requests that a step gave their first token, and those that it ended."""

    first: list
    finished: list


@dataclass(slots=True, eq=False)
class _Sequence:
    request: Request
    prompt: int               # tokens to compute before it decodes
    left: int                 # tokens that it still has to give
    done: int = 0             # prompt tokens computed
    last: int = 0             # the tick at which it ends
    pages: int = 0
    answered: bool = False    # whether its first token was given
    phase: int = 0            # ticks at which it needs another page, modulo the page


class Scheduler:
    """Plans the steps of one replica. Every call costs no more than what enters or leaves.

    slots: sequences at once. pages: of `page` tokens, in the pool. chunk: prompt tokens a step.
    mixed: prompts share a step with decoding; else such a step computes nothing but prompts.
    reserve: pages for the whole output are kept from the start, so that nothing is thrown out.
    """

    def __init__(self, slots: int, pages: int, page: int = 128, chunk: int = 512,
                 mixed: bool = True, reserve: bool = False):
        self.slots, self.pages, self.page, self.chunk = slots, pages, page, chunk
        self.mixed, self.reserve = mixed, reserve
        self.free = pages
        self.spare = 0 if reserve else pages // 100  # or who comes in is thrown out at once
        self.waiting: deque[_Sequence] = deque()
        self.filling: deque[_Sequence] = deque()      # prompts begun and not ended
        self.decoding: dict[_Sequence, None] = {}     # oldest first
        self.context = 0                              # tokens in the cache of those that decode
        self.tick = 0                                 # decoding steps so far
        self.thrown = 0
        self._ends, self._order = [], itertools.count()
        self._crossing = [0] * page

    def __len__(self) -> int:
        """Returns the number of requests here, waiting ones too."""
        return len(self.waiting) + len(self.filling) + len(self.decoding)

    def add(self, request: Request) -> None:
        """Takes a request. Raises ValueError if the pool is too small to ever hold it."""
        if -(-(request.prompt + request.output) // self.page) > self.pages:
            raise ValueError(f"{request.prompt} + {request.output} tokens need more than the "
                             f"{self.pages} pages of {self.page} tokens that there are")
        self.waiting.append(_Sequence(request, request.prompt, request.output))

    def plan(self) -> Step | None:
        """Returns what the next step computes."""
        step = Step()
        if self.mixed:
            self._decode(step)
        if self.waiting or self.filling:
            self._fill(step)
        if not self.mixed and not step.prefill:
            self._decode(step)
        return step if step.prefill or step.decode else None

    def commit(self, step: Step) -> Done:
        """Enters that the step has ended."""
        done = Done([], [])
        if step.decode:
            self._decoded(done)
        for sequence, tokens in step.chunks:
            sequence.done += tokens
            if sequence.done == sequence.prompt:
                self.filling.remove(sequence)
                if not sequence.answered:
                    sequence.answered = True
                    done.first.append(sequence.request)
                self._begin(sequence, done)
        return done

    def _decoded(self, done):
        """One more token for all that decode; those whose last it was leave."""
        self.tick += 1
        self.context += len(self.decoding)
        ends = self._ends
        while ends and ends[0][0] <= self.tick:
            last, _, sequence = heapq.heappop(ends)
            if sequence in self.decoding and sequence.last == last:
                done.finished.append(sequence.request)
                self._leave(sequence)

    def _begin(self, sequence, done):
        """Its prompt is computed, and that gave a token: it decodes, unless that was all."""
        sequence.left -= 1
        if not sequence.left:
            self.free += sequence.pages
            done.finished.append(sequence.request)
            return
        sequence.last = self.tick + sequence.left
        sequence.phase = (self.tick + 1 - sequence.prompt) % self.page
        self._crossing[sequence.phase] += not self.reserve
        self.decoding[sequence] = None
        self.context += sequence.prompt
        heapq.heappush(self._ends, (sequence.last, next(self._order), sequence))

    def _leave(self, sequence) -> int:
        """Takes a sequence out of those that decode; returns the tokens that it has given."""
        del self.decoding[sequence]
        given = sequence.left - (sequence.last - self.tick)
        self.context -= sequence.prompt + given
        if not self.reserve:
            self._crossing[sequence.phase] -= 1
            self.free += -(-(sequence.prompt + given) // self.page)
        else:
            self.free += sequence.pages
        return given

    def _decode(self, step):
        """Adds a token for all that decode."""
        if self.decoding and not self.reserve:
            self._grow()
        step.decode = len(self.decoding)
        step.context += self.context

    def _grow(self):
        """Takes the pages that the next tokens need; where there are none, the youngest leave."""
        at = (self.tick + 1) % self.page
        while self._crossing[at] > self.free and (len(self.decoding) > 1 or self.filling):
            if self.filling:  # younger than any that decodes
                sequence = self.filling.pop()
                self.free += sequence.pages
                sequence.done = sequence.pages = 0
            else:
                sequence = next(reversed(self.decoding))
                given = self._leave(sequence)
                sequence.prompt += given + 1  # the token that was to be computed next, too
                sequence.left -= given
                sequence.done = 0
            sequence.request.thrown += 1
            self.thrown += 1
            self.waiting.appendleft(sequence)
        self.free -= self._crossing[at]

    def _fill(self, step):
        """Adds chunks of prompts to a step, in order of arrival."""
        budget = self.chunk
        for sequence in self.filling:
            budget -= self._chunk(step, sequence, budget)
            if not budget:
                return
        while budget and self.waiting and len(self.filling) + len(self.decoding) < self.slots:
            sequence = self.waiting[0]
            pages = -(-(sequence.prompt + self.reserve * (sequence.left - 1)) // self.page)
            if pages > self.free - (self.spare if self.decoding else 0):
                return
            self.free -= pages
            sequence.pages = pages
            self.filling.append(self.waiting.popleft())
            budget -= self._chunk(step, sequence, budget)

    def _chunk(self, step, sequence, budget) -> int:
        tokens = min(budget, sequence.prompt - sequence.done)
        step.chunks.append((sequence, tokens))
        step.prefill += tokens
        step.context += sequence.done + tokens
        step.attended += tokens * sequence.done + tokens * (tokens + 1) // 2
        return tokens
