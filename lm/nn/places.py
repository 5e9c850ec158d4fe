"""Whose the tokens of a step are, and where in the pages their keys and values go. No jax here.

A step computes tokens of many sequences at once: one of each that decodes, several of one whose
drafts are verified, a chunk of a prompt. They stand one after the other along T.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Places(NamedTuple):
    """Where the T tokens of a step belong; B sequences of P pages each at most.

    A block is up to Q tokens of one sequence, queries that look over the same pages together. Past
    the end: page_T is beyond the pool, count_M is 0.
    """

    position_T: np.ndarray  # in its own sequence, from 0
    page_T: np.ndarray      # page of the pool that its keys go to
    offset_T: np.ndarray    # its place in the page
    table_BP: np.ndarray    # pages of each sequence in order
    length_B: np.ndarray    # tokens of each sequence after the step
    start_B: np.ndarray     # [B + 1]: index in T of each sequence's first token
    count: np.ndarray       # [1]: sequences
    row_M: np.ndarray       # whose tokens a block has
    first_M: np.ndarray     # index in T of its first one
    count_M: np.ndarray     # how many, up to Q
    block_T: np.ndarray     # the block of each token
    lane_T: np.ndarray      # its place in the block


@dataclass(frozen=True)
class Sizes:
    """Of the Places of a step: see there. page: tokens of a page."""

    T: int
    B: int
    P: int
    Q: int
    page: int

    @property
    def M(self) -> int:
        """Blocks that T tokens of B sequences have at most."""
        return self.T if self.Q == 1 else self.B + self.T // self.Q

    def fill(self, pieces: list[tuple[list[int], int, int]]) -> Places:
        """Returns the Places of pieces (pages of the sequence, first position, tokens)."""
        zeros = lambda *n: np.zeros(n, np.int32)  # noqa: E731
        p = Places(zeros(self.T), np.full(self.T, 2**30, np.int32), zeros(self.T),
                   zeros(self.B, self.P), zeros(self.B), zeros(self.B + 1), zeros(1),
                   zeros(self.M), zeros(self.M), zeros(self.M), zeros(self.T), zeros(self.T))
        t = m = 0
        for b, (pages, start, n) in enumerate(pieces):
            p.table_BP[b, :len(pages)] = pages
            p.length_B[b] = start + n
            if n == 1:
                p.position_T[t], p.offset_T[t] = start, start % self.page
                p.page_T[t] = pages[start // self.page]
                p.row_M[m], p.first_M[m], p.count_M[m], p.block_T[t] = b, t, 1, m
                m += 1
            else:
                at = np.arange(start, start + n)
                p.position_T[t:t + n], p.offset_T[t:t + n] = at, at % self.page
                p.page_T[t:t + n] = p.table_BP[b, at // self.page]
                i = np.arange(n)
                p.block_T[t:t + n], p.lane_T[t:t + n] = m + i // self.Q, i % self.Q
                blocks = -(-n // self.Q)
                p.row_M[m:m + blocks] = b
                p.first_M[m:m + blocks] = t + self.Q * np.arange(blocks)
                p.count_M[m:m + blocks] = self.Q
                p.count_M[m + blocks - 1] = n - self.Q * (blocks - 1)
                m += blocks
            t += n
            p.start_B[b + 1] = t
        p.start_B[len(pieces) + 1:] = t
        p.count[0] = len(pieces)
        return p
