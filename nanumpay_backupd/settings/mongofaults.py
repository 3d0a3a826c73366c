"""Puts the MongoDB driver's faults into words for an operator. What is done about them is decided elsewhere."""

from __future__ import annotations

import os
import re
from typing import Final

from bson.errors import BSONError
from pymongo.errors import ConfigurationError, OperationFailure

from nanumpay_backupd.model import ErrorInfo
from nanumpay_backupd.system.secrets import redact

__all__ = ["AUTH_FAILED", "describe", "reason"]

AUTH_FAILED: Final = frozenset({18, 13, 8000})
"""AuthenticationFailed, Unauthorized, and what MongoDB Atlas says instead."""
_REASON_CHARACTERS: Final = 300
# "[Errno 111] Connect call failed ('127.0.0.1', 27017)": asyncio's words for "Connection refused".
_ERRNO: Final = re.compile(r"\[Errno (\d+)\] Connect call failed(?: \([^)]*\))?")


def describe(error: Exception, place: str) -> ErrorInfo:
    """Put a fault into words for an operator; ``place`` is host and database without secrets."""
    text = reason(error)
    if isinstance(error, OperationFailure) and error.code in AUTH_FAILED:
        return ErrorInfo(
            code="settings-auth",
            message=f"MongoDB at {place} refuses the login or the right to read: {text}",
            hint="check user, password and authSource in mongodb.uri (or MONGODB_URI); the user needs the role read",
        )
    if isinstance(error, ConfigurationError):
        return ErrorInfo(
            code="settings-uri",
            message=f"the connection string for MongoDB at {place} cannot be used: {text}",
            hint="correct mongodb.uri in the host file (or MONGODB_URI), then: systemctl reload nanumpay-backupd",
        )
    if isinstance(error, (OperationFailure, BSONError)):
        return ErrorInfo(
            code="settings-failed",
            message=f"MongoDB at {place} does not give out the settings: {text}",
            hint="see mongod's own log; the daemon goes on trying",
            retryable=True,
        )
    return ErrorInfo(
        code="settings-unreachable",
        message=f"MongoDB at {place} does not answer: {text}",
        hint="is it running (systemctl status mongod), and is mongodb.uri right? The daemon goes on trying",
        retryable=True,
    )


def reason(error: Exception) -> str:
    """Return what the driver says, without its lists of timeouts, servers and replies."""
    text = _ERRNO.sub(lambda match: os.strerror(int(match[1])), str(error))
    for mark in (" (configured timeouts:", ", Timeout: ", ", full error: "):
        text = text.partition(mark)[0]
    text = redact(text)
    return text if len(text) <= _REASON_CHARACTERS else text[: _REASON_CHARACTERS - 1] + "…"
