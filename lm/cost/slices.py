"""Slices: the groups of chips that can be had, as the clouds document them.

TPU: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}, `types-topologies` (A <= B <= C, all at
most 4 or all multiples of 4), and MaxText's accelerator_to_spec_map.py. GPU: 1, 2, 4, 8 of a host,
or whole hosts. Slices of one shape are joined by the data-centre network: 2x(16x16).
"""

import functools
import math
import re
from dataclasses import dataclass

from lm.base.errors import UserError
from lm.cost.chips import Chip, Torus

_FLAT = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_PARTS = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))  # of a cube of 4x4x4
_GPUS = 4096  # the most that are listed; clusters have no shape that would end them


@dataclass(frozen=True)
class Slice:
    """Chips joined by their own network, `count` times, joined by a slower one.

    shape: chips along each axis of the torus; of GPUs, hosts and GPUs of each.
    """

    chip: Chip
    shape: tuple[int, ...]
    count: int = 1

    @property
    def chips(self) -> int:
        return math.prod(self.shape) * self.count

    @property
    def devices(self) -> int:
        """The devices that jax sees."""
        return self.chips * self.chip.devices

    @property
    def hosts(self) -> int:
        return self.count * -(-math.prod(self.shape) // self.chip.host)

    @property
    def name(self) -> str:
        text = "x".join(map(str, self.shape))
        return text if self.count == 1 else f"{self.count}x({text})"

    @property
    def wraps(self) -> tuple[bool, ...]:
        """Whether the ring along each axis is closed; of GPUs, which have no rings, False."""
        torus = isinstance(self.chip.network, Torus)
        return self.chip.network.wraps(self.shape) if torus else (False,) * len(self.shape)


def slices(chip: Chip, chips: int | None = None) -> list[Slice]:
    """Returns the legal slices, the smallest first, and of one size the one nearest to a cube.

    chips: only those of as many. Where no slice holds them, the fewest equal ones that together do;
    UserError if there are none either.
    """
    if chips is None:
        return [Slice(chip, shape) for shape in _shapes(chip)]
    largest = math.prod(_shapes(chip)[-1])
    # More than twice as many as the largest slices that would do are not worth their network.
    for count in range(1, 2 * -(-chips // largest) + 1):
        found = [Slice(chip, shape, count) for shape in _shapes(chip)
                 if math.prod(shape) * count == chips]
        if found and (count == 1 or chips > largest):
            return found
    raise UserError(f"no slice of {chip.name} has {chips} chips; nearest: "
                    f"{', '.join(_near(chip, (chips,)))}")


def parse(chip: Chip, text: str, count: int = 1) -> Slice:
    """Returns the slice of `4x8`, `2x(16x16)` or a number of chips; UserError names the nearest.

    count: slices joined by the slow network, where the text does not say.
    """
    found = re.fullmatch(r"(?:(\d+)x)?\((\d+(?:x\d+)*)\)|(\d+(?:x\d+)*)", text.strip().lower())
    if not found:
        raise UserError(f"slice '{text}' is no shape; e.g. {_example(chip)}")
    shape = tuple(map(int, (found[2] or found[3]).split("x")))
    count = int(found[1] or 1) if found[2] else count
    if min(*shape, count, 1) < 1:
        raise UserError(f"slice '{text}': a length is 0")
    if len(shape) == 1 and not found[2]:
        first = slices(chip, shape[0])[0]
        return first if count == 1 else Slice(chip, first.shape, count * first.count)
    if shape not in _known(chip):
        raise UserError(f"impossible slice: {chip.name} has no {'x'.join(map(str, shape))}; "
                        f"nearest: {', '.join(_near(chip, shape))}")
    return Slice(chip, shape, count)


def _example(chip):
    """A middling slice's name, and how several are written."""
    shapes = _shapes(chip)
    name = "x".join(map(str, shapes[len(shapes) // 2]))
    return f"{name} or 2x({name})"


@functools.lru_cache(64)
def _shapes(chip):
    """All legal shapes, the smallest first."""
    network = chip.network
    if not isinstance(network, Torus):
        parts = [(1, 2**i) for i in range(chip.host.bit_length()) if 2**i < chip.host]
        return (*parts, *((n, chip.host) for n in range(1, max(1, _GPUS // chip.host) + 1)))
    if network.axes == 2:
        return tuple(shape for shape in _FLAT if math.prod(shape) <= network.largest)
    cubes = network.largest // 64
    found = [(4 * a, 4 * b, 4 * c) for a in range(1, cubes + 1) for b in range(a, cubes // a + 1)
             for c in range(b, cubes // (a * b) + 1)]
    return (*_PARTS, *sorted(found, key=lambda shape: (math.prod(shape), sum(shape))))


@functools.lru_cache(64)
def _known(chip):
    return frozenset(_shapes(chip))


def _near(chip, shape):
    """The names of three legal slices: the same in another order, then those of near sizes."""
    size, order = math.prod(shape), sorted(shape)

    def distance(legal):
        return (sorted(legal) != order, abs(math.log(math.prod(legal) / size)), sum(legal))

    names = ["x".join(map(str, legal)) for legal in sorted(_shapes(chip), key=distance)[:3]]
    largest = max(_shapes(chip), key=lambda legal: (math.prod(legal), -sum(legal)))
    if size > math.prod(largest):
        times = max(2, round(size / math.prod(largest)))
        names = [f"{times}x({'x'.join(map(str, largest))})", *names[:2]]
    return names
