"""Averages that add up exactly over microbatches, devices, hosts and evaluation batches."""

from typing import NamedTuple


class Mean(NamedTuple):
    """A sum and the weight it was summed over; numbers or arrays. A pytree, as every NamedTuple."""

    total: object
    count: object

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.total + other.total, self.count + other.count)

    @property
    def value(self) -> float:
        """total / count as a Python float; nan when nothing was counted."""
        count = float(self.count)
        return float(self.total) / count if count else float("nan")
