import itertools
import threading
import time

import pytest

from lm.data.prefetch import prefetch


def running():
    return [t for t in threading.enumerate() if t.name == "prefetch"]


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_in_order_from_the_start(ahead):
    made = prefetch(lambda step: step * 10, 7, ahead)
    assert list(itertools.islice(made, 5)) == [70, 80, 90, 100, 110]
    made.close()
    assert not running()


def test_no_more_than_ahead():
    asked = []
    made = prefetch(asked.append, 0, 2)
    next(made)
    deadline = time.monotonic() + 5
    while len(asked) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert asked == [0, 1, 2]
    made.close()
    assert asked == [0, 1, 2]


def test_errors_arrive_in_their_turn():
    def make(step):
        if step == 2:
            raise ValueError("step 2")
        return step

    made = prefetch(make, 0, 4)
    assert [next(made), next(made)] == [0, 1]
    with pytest.raises(ValueError, match="step 2"):
        next(made)
    assert not running()


def test_dropping_the_iterator_stops_the_thread():
    made = prefetch(lambda step: step, 0, 2)
    next(made)
    assert running()
    del made
    assert not running()
