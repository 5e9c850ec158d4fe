"""A process that is alone does what the first of many does, and asks nobody."""

from lm.mesh import processes
from lm.mesh.config import Config


def test_alone():
    with processes.joined(Config()):
        assert processes.first()
        assert processes.from_first(lambda: (1, "a")) == (1, "a")
        assert processes.in_turn(dict) == {}


def test_alone_the_highest_number_is_its_own_at_once(one):
    highest = processes.Highest(one)
    assert [highest(n) for n in (0, 15, 2)] == [0, 15, 2]
