"""What the scheduler and the engine speak in: sequences, and the steps that compute them.

The device keeps a table of token ids by slot and position. A step writes there what it samples, so
the next may be planned while the host does not know those tokens yet.
"""

from dataclasses import dataclass, field
from typing import Any

from lm.base.errors import UserError


@dataclass(frozen=True)
class Limits:
    """What a scheduler has to go round."""

    slots: int                    # sequences at once
    pages: int                    # in the pool
    page: int                     # tokens of one
    budget: int                   # tokens of one step
    context: int                  # tokens of one sequence, prompt and output
    queued_tokens: int = 1 << 62  # prompt tokens that may wait to be computed
    queued: int = 1 << 62         # requests that may wait for a slot
    prefix: bool = True           # keep pages for prompts that begin alike
    reserve: bool = False         # pages of the whole output from the start: none is thrown out
    spare: int = 0                # pages that one who comes in leaves to those that decode

    def __post_init__(self):
        """Refuses what could never be planned."""
        if self.budget < self.slots:
            raise UserError(f"budget = {self.budget} tokens a step are less than one for each of "
                            f"{self.slots} slots; give at least {self.slots}")

    def check(self, prompt: int, output: int) -> None:
        """Raises UserError if so many tokens can never be computed. Any thread may ask."""
        if not prompt:
            raise UserError("the prompt is empty; give at least one token")
        if prompt >= self.context:
            raise UserError(f"a prompt of {prompt} tokens leaves no room in a context of "
                            f"{self.context}; shorten it to {self.context - 1} at most")
        if prompt + output > self.context:
            raise UserError(f"{prompt} tokens of prompt and {output} to make are more than the "
                            f"context of {self.context}; ask for {self.context - prompt} at most")
        room = self.pages * self.page  # the last token is never computed
        if prompt + output - 1 > room:
            raise UserError(f"{prompt} tokens of prompt and {output} to make need more than the "
                            f"cache's {self.pages} pages of {self.page} tokens; shorten them to "
                            f"{room + 1} in all")


@dataclass(slots=True, eq=False)
class Sequence:
    """A request on its way. Positions count from the first token of its prompt, 0."""

    request: Any
    prompt: int                  # tokens of its prompt
    limit: int                   # tokens that it may come to, prompt and output
    tokens: list[int]            # known ids of prompt and output; fewer than `length` where the
    length: int                  # scheduler was told how many there are and not which
    masked: bool = False         # what may come next depends on its last token
    slot: int = -1               # -1: it waits
    pages: list[int] = field(default_factory=list)
    computed: int = 0            # positions whose keys are in the cache after the steps planned
    pending: int = 0             # tokens at most that are sampled in steps not committed
    filling: bool = True         # its known tokens are not all computed, or planned to be
    held: bool = False           # nothing can be planned before a commit
    life: int = 0                # goes up when it is thrown out; -1: it has ended
    named: int = 0               # its first pages that have names
    names: list[bytes] = field(default_factory=list)

    @property
    def given(self) -> int:
        """Tokens of its output that are known."""
        return self.length - self.prompt


def sequence_of(request) -> Sequence:
    """Returns the sequence of a request of the engine, or of one that is nothing but counts.

    The planner's requests have numbers for `prompt` and `output`; what they say of prefixes and of
    being thrown out is not entered in them.
    """
    if isinstance(request.prompt, int):
        return Sequence(request, request.prompt, request.prompt + request.output, [],
                        request.prompt)
    n = len(request.prompt)
    return Sequence(request, n, n + request.sampling.max_tokens, list(request.prompt), n,
                    request.mask is not None)


@dataclass(slots=True, eq=False)
class Piece:
    """What a step computes of one sequence: a chunk of its prompt, or its last token and drafts."""

    sequence: Sequence
    start: int                   # position of the first token
    count: int                   # tokens: a chunk, 1, or 1 + drafts
    sample: int                  # the last so many positions give a token: 0, 1, or 1 + drafts
    drafts: list[int]            # ids; -1: one that is on the device
    life: int

    @property
    def live(self) -> bool:
        """Whether what it gives counts: since it was planned, nothing has ended its sequence."""
        return self.life == self.sequence.life


@dataclass(slots=True, eq=False)
class Step:
    """One step. Those that decode come first; its counts decide how long it takes."""

    pieces: list[Piece] = field(default_factory=list)
    admitted: list[Sequence] = field(default_factory=list)  # new in their slots
    prefill: int = 0             # prompt tokens computed
    decode: int = 0              # sequences that decode
    context: int = 0             # tokens of cache that are read, of all sequences
    attended: int = 0            # (query, key) pairs of the prompt tokens

    @property
    def chunks(self) -> list[tuple[Sequence, int]]:
        """Prompts that are computed, or parts of them: (sequence, tokens)."""
        return [(piece.sequence, piece.count) for piece in self.pieces[self.decode:]]


@dataclass(slots=True)
class Done:
    """Requests that a step gave their first token, and those that it ended."""

    first: list
    finished: list
