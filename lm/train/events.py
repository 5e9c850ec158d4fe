"""TensorBoard's event files, written as the records come.

tensorboardX' own writer hands events to a thread; when the disk is full that thread dies and the
next events wait for it for ever. Here the error reaches the caller.
"""

import pathlib
import struct
import time

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c


class Events:
    """An event file of a run that starts, or starts again, after step `start`."""

    def __init__(self, directory: pathlib.Path, start: int):
        """Makes a new file; TensorBoard drops what earlier files say of steps above `start`."""
        directory.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{start}"
        self.file = (directory / name).open("ab")
        self._put(file_version="brain.Event:2")
        if start:
            self._put(step=start + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, record: dict) -> None:
        """Writes the numbers of a record as scalars of its step."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in record.items()
                  if name != "step" and isinstance(value, (int, float))]
        self._put(step=record["step"], summary=Summary(value=values))

    def close(self) -> None:
        self.file.close()

    def _put(self, **fields):
        data = Event(wall_time=time.time(), **fields).SerializeToString()
        size = struct.pack("<Q", len(data))
        for part in (size, data):
            self.file.write(part + struct.pack("<I", masked_crc32c(part)))
        self.file.flush()
