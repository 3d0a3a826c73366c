"""Logging through structlog: native journald fields under systemd, readable lines elsewhere, secrets masked."""

from __future__ import annotations

import io
import logging
import os
import socket
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import structlog

from nanumpay_backupd.system.secrets import redact

__all__ = ["configure", "under_journald"]

_SOCKET: Final = "/run/systemd/journal/socket"
_PRIORITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
_FIELD_NAMES: Final = {"run": "RUN_ID", "job": "JOB", "stage": "STAGE", "code": "ERROR_CODE"}
_EventDict = MutableMapping[str, Any]


def under_journald() -> bool:
    """Tell whether standard error is connected to the journal."""
    stream = os.environ.get("JOURNAL_STREAM", "")
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return stream == f"{status.st_dev}:{status.st_ino}"


def configure(level: str = "info", *, journald: bool | None = None) -> None:
    """Set up structlog, and the standard library's logging through it. May be called again to change the level."""
    native = under_journald() if journald is None else journald
    processors: list[Any] = [structlog.processors.add_log_level, structlog.processors.format_exc_info, _mask]
    factory: Any
    if native:
        sink = _Journal()
        processors.append(sink.render)
        factory = lambda *_: sink  # noqa: E731 - structlog wants a callable
    else:
        processors += [
            structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0),
        ]
        factory = structlog.PrintLoggerFactory(sys.stderr)
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=factory,
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_Bridge()], level=logging.WARNING, force=True)


def _mask(_logger: object, _method: str, event: _EventDict) -> _EventDict:
    for key in [key for key, value in event.items() if value is None]:
        del event[key]
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = redact(value)
    return event


class _Bridge(logging.Handler):
    """Takes what libraries log and gives it to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        """Pass one record on."""
        log = structlog.get_logger()
        method = {"CRITICAL": "error", "ERROR": "error", "WARNING": "warning"}.get(record.levelname, "info")
        getattr(log, method)(record.getMessage(), logger=record.name, exc_info=record.exc_info or None)


class _Journal:
    """Sends entries to journald by its native protocol, so that fields are fields and not text."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def render(self, _logger: object, _method: str, event: _EventDict) -> bytes:
        """Turn an event into the native wire form; the text keeps what has no field of its own."""
        message = str(event.pop("event", ""))
        level = str(event.pop("level", "info"))
        trace = event.pop("exception", None)
        fields = {"PRIORITY": str(_PRIORITIES.get(level, 6)), "SYSLOG_IDENTIFIER": "nanumpay-backupd"}
        extra = []
        for key, value in event.items():
            if value is None:
                continue
            name = _FIELD_NAMES.get(key)
            if name is None:
                name = "NANUMPAY_" + "".join(ch if ch.isalnum() else "_" for ch in key.upper())
                extra.append(f"{key}={value}")
            fields[name] = str(value)
        fields["MESSAGE"] = " ".join([message, *extra]) if extra else message
        if trace:
            fields["MESSAGE"] += f"\n{trace}"
        return b"".join(_field(name, value.encode("utf-8", "replace")) for name, value in fields.items())

    def msg(self, entry: bytes) -> None:
        """Send one entry; where the journal cannot take it, plain text on standard error must do."""
        try:
            self._socket.sendto(entry, _SOCKET)
        except OSError:
            self._send_large(entry)

    debug = info = warning = warn = error = critical = fatal = exception = log = msg

    def _send_large(self, entry: bytes) -> None:
        """Hand an entry that is too large for a datagram over as a sealed memory file, as journald wants it."""
        try:
            fd = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            with io.open(fd, "wb", buffering=0) as stream:  # noqa: UP020 - takes the descriptor over
                stream.write(entry)
                socket.send_fds(self._socket, [b""], [fd], address=_SOCKET)
        except OSError:
            sys.stderr.buffer.write(entry)


def _field(name: str, value: bytes) -> bytes:
    if b"\n" in value:
        return name.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"
    return name.encode() + b"=" + value + b"\n"
