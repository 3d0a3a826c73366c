"""Logging through structlog: native journald fields under systemd, readable lines elsewhere, secrets masked."""

from __future__ import annotations

import errno
import fcntl
import io
import logging
import os
import socket
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import structlog

from nanumpay_backupd.messages import Message
from nanumpay_backupd.system.secrets import redact

__all__ = ["JOURNAL_SOCKET", "configure", "under_journald"]

JOURNAL_SOCKET: Final = "/run/systemd/journal/socket"
_PRIORITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
_FIELD_NAMES: Final = {
    "run": "RUN_ID",
    "job": "JOB",
    "stage": "STAGE",
    "code": "ERROR_CODE",
    "ERROR_CODE": "ERROR_CODE",
}
_TOO_LARGE: Final = frozenset({errno.EMSGSIZE, errno.ENOBUFS})
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_AS_IT_IS: Final = (int, float, Message)
_EventDict = MutableMapping[str, Any]


def under_journald() -> bool:
    """Tell whether standard error is connected to the journal."""
    stream = os.environ.get("JOURNAL_STREAM", "")
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return stream == f"{status.st_dev}:{status.st_ino}"


def configure(
    level: str = "info",
    *,
    journald: bool | None = None,
    socket_path: str = JOURNAL_SOCKET,
    identifier: str = "nanumpay-backupd",
) -> None:
    """Set up structlog, and the standard library's logging through it. May be called again to change the level.

    A line that is one of the main events is logged with ``message=Message.…``; the journal gets its MESSAGE_ID.
    ``journald`` None finds out by itself where the log goes; ``socket_path`` is where journald takes native entries;
    ``identifier`` is what the entries are marked with.
    """
    native = under_journald() if journald is None else journald
    processors: list[Any] = [structlog.processors.add_log_level, structlog.processors.format_exc_info, _tidy]
    factory: Any
    if native:
        sink = _Journal(socket_path, identifier)
        processors.append(sink.render)
        factory = lambda *_: sink  # noqa: E731 - structlog wants a callable
    else:
        processors += [
            _without_message,
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


def _tidy(_logger: object, _method: str, event: _EventDict) -> _EventDict:
    """Leave out what has no value, and mask secrets in all that will be text."""
    kept = {key: value for key, value in event.items() if value is not None}
    return {key: value if isinstance(value, _AS_IT_IS) else redact(str(value)) for key, value in kept.items()}


def _without_message(_logger: object, _method: str, event: _EventDict) -> _EventDict:
    """Leave out what only the journal can be searched by."""
    event.pop("message", None)
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

    def __init__(self, path: str, identifier: str) -> None:
        self._path = path
        self._identifier = identifier
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def render(self, _logger: object, _method: str, event: _EventDict) -> tuple[tuple[bytes, str], dict[str, Any]]:
        """Turn an event into the native wire form and plain text; the text keeps what has no field of its own."""
        message = str(event.pop("event", ""))
        level = str(event.pop("level", "info"))
        trace = event.pop("exception", None)
        kind = event.pop("message", None)
        fields = {"PRIORITY": str(_PRIORITIES.get(level, 6)), "SYSLOG_IDENTIFIER": self._identifier}
        extra = []
        for key, value in event.items():
            name = _FIELD_NAMES.get(key)
            if name is None:
                name = "NANUMPAY_" + "".join(ch if ch.isascii() and ch.isalnum() else "_" for ch in key.upper())
                extra.append(f"{key}={value}")
            fields[name] = str(value)
        text = " ".join([message, *extra]) + (f"\n{trace}" if trace else "")
        fields["MESSAGE"] = text
        if isinstance(kind, Message):
            fields["MESSAGE_ID"] = kind.id
            # The catalog's text names these fields; where one is missing it would show its bare name.
            fields |= {name: "-" for name in kind.fields if name not in fields}
        wire = b"".join(_field(name, value.encode("utf-8", "replace")) for name, value in fields.items())
        return (wire, text), {}

    def msg(self, entry: bytes, text: str) -> None:
        """Send one entry; where the journal cannot take it, plain text on standard error must do."""
        try:
            try:
                self._socket.sendto(entry, self._path)
            except OSError as error:
                if error.errno not in _TOO_LARGE:
                    raise
                self._send_large(entry)
        except OSError:
            sys.stderr.write(f"{text}\n")

    debug = info = warning = warn = error = critical = fatal = exception = log = msg

    def _send_large(self, entry: bytes) -> None:
        """Hand over an entry that is too large for a datagram as a memory file; journald takes only a sealed one."""
        fd = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with io.open(fd, "wb", buffering=0) as stream:  # noqa: UP020 - takes the descriptor over
            stream.write(entry)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            # socket.send_fds would leave out the address.
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, fd.to_bytes(4, sys.byteorder))
            self._socket.sendmsg([], [rights], 0, self._path)


def _field(name: str, value: bytes) -> bytes:
    if b"\n" in value:
        return name.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"
    return name.encode() + b"=" + value + b"\n"
