"""What the libraries that speak HTTP say of a connection that failed, in plain words. No codes and no hints here."""

from __future__ import annotations

import http.client
import re
import ssl
from typing import Final

__all__ = ["plain"]

_POOL: Final = re.compile(r"^HTTPS?ConnectionPool\(host=[^)]*\): ")
_CAUSE: Final = re.compile(r" \(Caused by .*$", re.DOTALL)
_DEEP: Final = 12


def plain(error: BaseException) -> str:
    """Say why a request got no answer; where the deepest cause is none that is known, as the library says it.

    Libraries wrap what they get: as cause, as ``reason`` (urllib3), ``inner_exception`` (Azure), or first argument.
    """
    at: BaseException | None = error
    for _ in range(_DEEP):
        if at is None:
            break
        words = _words(at)
        if words:
            return words
        inner = [getattr(at, "inner_exception", None), getattr(at, "reason", None), at.__cause__, *at.args]
        at = next((one for one in inner if isinstance(one, BaseException)), None)
    text = getattr(error, "strerror", "") or _CAUSE.sub("", _POOL.sub("", str(error)))
    return text or type(error).__name__


def _words(error: BaseException) -> str:
    match error:
        case TimeoutError():
            return "no answer in time"
        case ConnectionRefusedError():
            return "connection refused: nobody listens there"
        case ConnectionResetError() | BrokenPipeError() | ssl.SSLEOFError() | http.client.RemoteDisconnected():
            return "the connection was cut"
        case _ if "timed out" in str(error) and not error.__cause__:
            return "no answer in time"
        case _:
            return ""
