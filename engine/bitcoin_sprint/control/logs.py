"""Structured logs of every process: one line an event, to standard error.

The event's text is the ``message``; what belongs to it comes as fields (``extra=``). Contract
texts ("⚡ Turbo mode enabled: …") are messages word for word, so that grep finds them in either
format. Under journald each line carries its priority.
"""

from __future__ import annotations

import datetime
import logging
import os
import sys
from typing import Any, Final

import msgspec

from bitcoin_sprint.config import LogConfig

_PLAIN_FIELDS: Final = frozenset(
    [*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName", "color_message"]
)
_PRIORITIES: Final = (
    (logging.CRITICAL, "<2>"),
    (logging.ERROR, "<3>"),
    (logging.WARNING, "<4>"),
    (logging.INFO, "<6>"),
    (logging.NOTSET, "<7>"),
)
_BARE: Final = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/@+%,[]µ"
)


def configure(log: LogConfig, process: str) -> None:
    """Send this process's log to standard error; ``process`` is named in every line."""
    handler = logging.StreamHandler(sys.stderr)
    as_text = log.format == "logfmt" or (log.format == "auto" and sys.stderr.isatty())
    handler.setFormatter((Logfmt if as_text else Json)(process, journald=_is_journal(2)))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(log.level.upper())
    logging.captureWarnings(True)
    # What asyncio says at its own debug level is of no use to an operator.
    logging.getLogger("asyncio").setLevel(logging.WARNING)


class _Lines(logging.Formatter):
    def __init__(self, process: str, *, journald: bool = False) -> None:
        super().__init__()
        self._process = process
        self._journald = journald

    def format(self, record: logging.LogRecord) -> str:
        line = self.line(record, _fields(record))
        if not self._journald:
            return line
        return next(mark for level, mark in _PRIORITIES if record.levelno >= level) + line

    def line(self, record: logging.LogRecord, fields: dict[str, Any]) -> str:
        raise NotImplementedError


class Json(_Lines):
    """A line is one JSON object: ``time level process logger message``, then the fields."""

    def line(self, record: logging.LogRecord, fields: dict[str, Any]) -> str:
        event = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name.removeprefix("bitcoin_sprint."),
            "message": record.getMessage(),
        }
        # A field never hides what every line has.
        event |= {f"{key}_" if key in event else key: value for key, value in fields.items()}
        return msgspec.json.encode(event, enc_hook=str).decode()


class Logfmt(_Lines):
    """A line is time, level, process, message, then the fields as ``key=value``."""

    def line(self, record: logging.LogRecord, fields: dict[str, Any]) -> str:
        head = f"{_time(record)} {record.levelname.lower():7} {self._process}: "
        message = " ".join(record.getMessage().splitlines())
        return head + " ".join([message, *(f"{key}={_word(fields[key])}" for key in fields)])


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = {name: value for name, value in record.__dict__.items() if name not in _PLAIN_FIELDS}
    if record.exc_info and record.exc_info[1] is not None:
        error = record.exc_info[1]
        fields["error"] = f"{type(error).__name__}: {error}"
        fields["traceback"] = logging.Formatter().formatException(record.exc_info)
    return fields


def _time(record: logging.LogRecord) -> str:
    moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _word(value: object) -> str:
    text = value if isinstance(value, str) else str(value)
    if text and _BARE.issuperset(text):
        return text
    return msgspec.json.encode(text).decode()


def _is_journal(descriptor: int) -> bool:
    """Return whether the descriptor is the pipe to journald that systemd announced."""
    stream = os.environ.get("JOURNAL_STREAM", "")
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return stream == f"{status.st_dev}:{status.st_ino}"
