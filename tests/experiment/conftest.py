"""The commands and the tiny config that the tests of other rooms share."""

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

__all__ = ["alone", "command", "files", "lm", "place", "records", "refused", "start", "tiny",
           "trained", "until"]
