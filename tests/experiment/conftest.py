"""The commands and the tiny config that the tests of other rooms share."""

import pytest
from commands import (
    alone,
    command,
    files,
    lm,
    place,
    records,
    refused,
    start,
    tiny,
    trained,
    until,
)

from lm.plan import train as plan

__all__ = ["alone", "command", "files", "lm", "place", "records", "refused", "start", "tiny",
           "trained", "until"]


@pytest.fixture(autouse=True)
def unpredicted(monkeypatch):
    """Runs in this process are not predicted, which takes a while: tests/plan looks at that."""
    monkeypatch.setattr(plan, "expect", lambda *_: None)
