"""Logging: stdlib records with constant dotted names and fields, as logfmt or JSON lines."""

import json
import logging
import sys
from pathlib import Path

_RESERVED = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields = dict(getattr(record, "fields", {}))
    fields.update(
        {k: v for k, v in record.__dict__.items() if k not in _RESERVED and k != "fields"}
    )
    return fields


def _quote(value: object) -> str:
    """Quote what a terminal or a parser could misread; peers choose some of these texts."""
    text = str(value)
    plain = text.isascii() and text.isprintable() and not set(text) & set(' "=')
    return text if plain and text else json.dumps(text)


class LogfmtFormatter(logging.Formatter):
    """`2026-01-31T12:00:00 INFO expert.serving stage=tail outer_step=3`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one logfmt line, a traceback after it if there is one."""
        head = f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}"
        pairs = [f"{key}={_quote(value)}" for key, value in _fields(record).items()]
        message = record.getMessage().replace("\n", "\\n")
        line = " ".join([head, record.levelname, message, *pairs])
        return line if not record.exc_info else f"{line}\n{self.formatException(record.exc_info)}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line, for journald and log collectors."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one JSON line."""
        entry: dict[str, object] = {
            "time_unix_s": round(record.created, 3),
            "level": record.levelname,
            "event": record.getMessage(),
            "logger": record.name,
            **_fields(record),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def configure_logging(level: str, *, file: Path | None = None, as_json: bool = False) -> None:
    """Send our logs to `file`, or to standard error; called once, by the composition root."""
    handler: logging.Handler
    if file is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(file)
    handler.setFormatter(JsonFormatter() if as_json else LogfmtFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("distqatd").setLevel(level.upper())
