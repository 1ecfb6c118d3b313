"""Logs for machines: one JSON object a line, with the request's id and without anything of a person.

What this project logs is a constant sentence and named values. What a library logs may quote a file, so of its records
only the logger, the level and the line of code are kept; of exceptions the type and the lines, never the message.
"""

from __future__ import annotations

import contextvars
import io
import json
import logging
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")


def event(logger: logging.Logger, what: str, level: int = logging.INFO, **values: Any) -> None:
    """Log a constant sentence with named values.

    Args:
        logger: Of the module that speaks.
        what: The sentence; it quotes nothing.
        level: As in logging.
        **values: Numbers and words of this project's own; never a name, a path, an address or an identifier.
    """
    logger.log(level, what, extra={"values": values})


def printable(text: str) -> str:
    """A line for a terminal: what a server or file may have put in to steer it becomes "?"."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


class JsonLines(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        ours = record.name == "neurovision" or record.name.startswith("neurovision.")
        record_json: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "from": record.name,
        }
        if request := request_id.get():
            record_json["request"] = request
        if ours:
            record_json["message"] = record.getMessage()
            record_json.update(getattr(record, "values", {}))
        else:
            record_json["line"] = f"{record.filename}:{record.lineno}"
        if record.exc_info and record.exc_info[0] is not None:
            record_json["error"] = where(record.exc_info[0], record.exc_info[2])
        return json.dumps(record_json, ensure_ascii=False, default=str)


def where(kind: type[BaseException], trace: TracebackType | None) -> str:
    """An error's type and the lines of code that led to it, without its message, which may quote a file."""
    frames = traceback.extract_tb(trace)[-4:]
    return f"{kind.__name__} at " + " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames))


class Sparing(logging.Filter):
    """Of warnings and errors one a minute passes for each line of code: what many requests cause fills no disk."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._said: dict[tuple[str, int, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """See logging.Filter."""
        if record.levelno < logging.WARNING:
            return True
        key, now = (record.pathname, record.lineno, record.levelno), self._clock()
        if now - self._said.get(key, -60.0) < 60:
            return False
        self._said[key] = now
        return True


class Quiet(io.TextIOBase):
    """Stands in for standard error, where libraries print what they met, file names and values included.

    Of a traceback the type and the lines are logged; everything else is dropped.
    """

    def write(self, text: str) -> int:
        """See io.TextIOBase."""
        kind, _, trace = sys.exc_info()
        if kind is not None and text.startswith("Traceback"):
            event(logging.getLogger(__name__), "a library met an error", logging.WARNING, error=where(kind, trace))
        return len(text)


def to_stderr(level: int = logging.WARNING) -> None:
    """Send this project's records of ``level`` and everyone's warnings to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    handler.addFilter(Sparing())
    root = logging.getLogger()
    root.handlers, root.level = [handler], logging.WARNING
    logging.getLogger("neurovision").setLevel(level)
    logging.captureWarnings(True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
