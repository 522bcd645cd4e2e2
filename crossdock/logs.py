"""Logs: one JSON object a line on stderr, control characters escaped, so that hostile text stays text."""

import json
import logging
import sys
from datetime import UTC, datetime

LARGEST = 4096


class JsonLines(logging.Formatter):
    """`{"at", "level", "logger", "event", ...}`; a traceback stands in `trace`."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage()[:LARGEST],
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)[-LARGEST:]
        return json.dumps(line)


def write_logs(level: int = logging.INFO) -> None:
    """Sends all logs of this process to stderr, once."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("mode", "faust", "kafka", "zeep", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
