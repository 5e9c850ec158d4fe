"""One JSON line for each request."""

import json
import sys
import time

from lm.base.errors import UserError


class Log:
    """Where the lines go."""

    def __init__(self, where: str):
        """where: stderr, off or a file that is appended to; UserError if it cannot be."""
        try:
            self.file = {"off": None, "stderr": sys.stderr}[where] if where in (
                "off", "stderr") else open(where, "a", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise UserError(f"access_log {where}: {error.strerror}; give stderr, off or a file "
                            "that can be written") from None

    def write(self, record: dict) -> None:
        """Writes a record, without what it has not."""
        if self.file is None:
            return
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        kept = {name: round(v, 6) if isinstance(v, float) else v for name, v in record.items()
                if v not in (None, "")}
        line = json.dumps({"time": f"{stamp}.{int(now * 1000) % 1000:03d}Z"} | kept)
        try:
            self.file.write(line + "\n")
            self.file.flush()
        except (OSError, ValueError):  # a full disk or a closed terminal ends no request
            pass
