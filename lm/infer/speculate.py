"""Tokens proposed before the model has made them, and whether that pays. Plain Python, no clock.

What is proposed is verified in one step (Leviathan et al. 2023): right drafts are tokens gained.
The scheduler asks two objects:

    drafter.drafts(sequence, limit)  at most `limit` ids that may follow the sequence's tokens,
                                     sequence.pending ones after those known; -1 for an id that is
                                     on the device only, as those of a draft model are
    drafter.ended(sequence)          it is not asked for that one again
    gate.allows(sequences)           drafts that each of so many sequences may have in the next step

and the engine tells what came of it:

    gate.observe(seconds, sequences, drafted, accepted)   after each step that does nothing else
"""

from dataclasses import dataclass, field

READ = 2048  # tokens that the sequences it knows may index between them in a step, some 3 ms


class Lookup:
    """Proposes what followed the same words before: prompt lookup (Saxena 2023).

    Of the last `longest` tokens, or as few as `shortest`, the latest earlier occurrence is found,
    and up to k tokens that followed it are copied, as if the copy were there already: what repeats
    goes on repeating. Each token is indexed once, in constant time and up to 0.2 kB for each
    length. A sequence with much to index gets no drafts until that is done, in some steps.
    """

    def __init__(self, k: int, longest: int = 4, shortest: int = 1):
        self.k, self.longest, self.shortest = k, longest, shortest
        self._indices: dict = {}

    def __len__(self) -> int:
        """Returns the number of sequences that it knows."""
        return len(self._indices)

    def drafts(self, sequence, limit: int) -> list[int]:
        """Returns min(k, limit) ids, or none.

        Where the last tokens are still to come, the copy stands for them too.
        """
        index = self._indices.get(sequence)
        if index is None:
            index = self._indices[sequence] = _Index()
        tokens, pending = sequence.tokens, sequence.pending
        most = max(READ // len(self._indices), 16)
        index.read(tokens, min(len(tokens), index.seen + most), self.longest, self.shortest)
        if not index.found or index.seen < sequence.length:
            return []
        period = len(tokens) - index.found
        return [tokens[index.found + i % period]
                for i in range(pending, pending + min(self.k, limit))]

    def ended(self, sequence) -> None:
        """Forgets a sequence."""
        self._indices.pop(sequence, None)


@dataclass(slots=True)
class _Index:
    """Where the token runs of one sequence last ended."""

    ends: dict[tuple[int, ...], int] = field(default_factory=dict)
    seen: int = 0
    found: int = 0  # end of the latest earlier occurrence of the last tokens; 0: there is none

    def read(self, tokens, until, longest, shortest):
        """Enters the tokens that are new, up to `until` in all."""
        ends = self.ends
        for end in range(self.seen + 1, until + 1):
            found = 0
            for n in range(min(longest, end), shortest - 1, -1):
                run = tuple(tokens[end - n:end])
                found = found or ends.get(run, 0)
                ends[run] = end
            self.found = found
        self.seen = until


PROBE = 8          # steps by which a way is judged
FIRST = 64         # steps until the other way is tried; each time that it loses, twice as many
LAST = 4096        # but no more
MARGIN = 1.02      # by how much it must be faster
KEPT = 1 - 1 / 16  # weight of a step when another has come


class Gate:
    """Decides by itself whether drafting pays, for each size of batch (powers of two) apart.

    Both ways, with drafts and without, have running means of tokens and seconds of a step. The
    faster is in use and the other is tried for a few steps, at intervals that grow while it loses.
    budget: tokens of a step; what does not fit is not allowed.
    """

    def __init__(self, k: int, budget: int):
        self.k, self.budget = k, budget
        self._sizes: dict[int, _Size] = {}

    def allows(self, sequences: int) -> int:
        """Returns the drafts, 0 to k, of each sequence in a step of so many."""
        most = min(self.k, self.budget // sequences - 1) if sequences else 0
        size = self._sizes.get((sequences - 1).bit_length())
        return most if most > 0 and size is not None and size.drafting else 0

    def observe(self, seconds: float, sequences: int, drafted: int, accepted: int) -> None:
        """Enters a step that did nothing but decode, and in which so many drafts were accepted.

        seconds: since the step before ended, so that time in which the device waits for the host
        counts; leave out steps before which there was nothing to do.
        """
        if sequences:
            size = self._sizes.setdefault((sequences - 1).bit_length(), _Size())
            size.observe(drafted > 0, sequences + accepted, seconds)


@dataclass(slots=True)
class _Way:
    """Tokens and seconds of steps, older ones fading."""

    tokens: float = 0.0
    seconds: float = 0.0

    def faster(self, other: "_Way", margin: float = 1.0) -> bool:
        return self.tokens * other.seconds > margin * other.tokens * self.seconds


@dataclass(slots=True)
class _Size:
    """What is known of one size of batch. Ways: [without drafts, with drafts]."""

    ways: list[_Way] = field(default_factory=lambda: [_Way(), _Way()])
    use: bool = False        # the way in use
    trying: bool = False     # the other one, for PROBE steps
    left: int = PROBE        # steps of this phase
    interval: int = FIRST

    @property
    def drafting(self) -> bool:
        return self.use != self.trying

    def observe(self, drafted, tokens, seconds):
        way = self.ways[drafted]
        way.tokens = KEPT * way.tokens + tokens
        way.seconds = KEPT * way.seconds + seconds
        if drafted != self.drafting:
            return  # planned in the phase before, or there was nothing to propose
        self.left -= 1
        here, other = self.ways[self.use], self.ways[not self.use]
        if self.trying and not self.left:
            won = other.faster(here, MARGIN)
            self.interval = FIRST if won else min(2 * self.interval, LAST)
            self.use, self.trying, self.left = self.use != won, False, self.interval
        elif not self.trying and self.use and other.faster(here):
            self.use, self.left, self.interval = False, FIRST, FIRST
        elif not self.trying and not self.left:
            self.ways[not self.use] = _Way()
            self.trying, self.left = True, PROBE
