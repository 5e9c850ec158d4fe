"""Drafts by a smaller model: it decodes some tokens ahead, which the large one then verifies.

It has keys and values of its own in pages of the same numbers, and reads and writes the same table
of tokens, so that nothing goes through the host between its steps and the verification. It draws
with the noise of the token's own seed and index, as the large model will: where both models give
alike distributions they draw alike tokens (Daliri et al. 2025, drafter-invariant speculation).
"""

from lm.infer.engine import Engine
from lm.infer.steps import Piece, Sequence, Step


class Draft:
    """Proposes ids that are on the device only; what it is behind by it catches up with first."""

    def __init__(self, engine: Engine, k: int):
        """engine: of the smaller model, of the same shape as the large one's. k: drafts."""
        self.engine, self.k = engine, k
        self._known: dict[Sequence, tuple[int, int]] = {}  # life, positions whose keys it has
        self._pieces: list[Piece] = []
        self._ahead = 0                                    # drafts of the step that is planned
        self._room = engine.shape.budget
        self.behind = False     # whether the last step was also spent on catching up

    def drafts(self, sequence: Sequence, limit: int) -> list[int]:
        """Returns -1 for each draft, min(k, limit) of them; none while it is behind by a step."""
        at, life = sequence.computed, sequence.life
        known = self._has(sequence)
        n = min(at + 1 - known, self._room)
        if n <= 0:
            return []
        self._room -= n
        last = known + n == at + 1
        self._pieces.append(Piece(sequence, known, n, int(last), [], life))
        self._known[sequence] = life, known + n
        if not last:
            return []
        drafts = [-1] * min(self.k, limit)
        self._ahead = max(self._ahead, len(drafts))
        self._known[sequence] = life, at + len(drafts)
        return drafts

    def ended(self, sequence: Sequence) -> None:
        """Forgets a sequence."""
        self._known.pop(sequence, None)

    def run(self, step: Step, history_SC):
        """Makes the drafts of a step that is planned; returns the table with them."""
        pieces, self._pieces = self._pieces, []
        ahead, self._ahead, self._room = self._ahead, 0, self.engine.shape.budget
        self.behind = not all(piece.sample for piece in pieces)
        if not pieces:
            return history_SC
        engine = self.engine
        engine.history_SC = history_SC
        engine.send(Step(pieces))
        wanted = {piece.sequence: len(piece.drafts) for piece in step.pieces}
        for i in range(1, ahead):
            more = [Piece(p.sequence, p.start + p.count - 1 + i, 1, 1, [], p.life)
                    for p in pieces if p.sample and wanted.get(p.sequence, 0) > i]
            engine.send(Step(more))
        return engine.history_SC

    def _has(self, sequence):
        """Positions from the first on whose keys it has, of the tokens that the sequence has."""
        life, known = self._known.get(sequence, (sequence.life, 0))
        return min(known, sequence.computed) if life == sequence.life else 0
