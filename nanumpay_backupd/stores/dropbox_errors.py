"""What Dropbox's error answers mean to us: code, hint, retry. No calls to a server."""

from __future__ import annotations

import json
from typing import Any, Final

import urllib3
from urllib3.exceptions import HTTPError

from nanumpay_backupd.stores.said import plain
from nanumpay_backupd.stores.tls import TLS_HINT, about_tls
from nanumpay_backupd.system.secrets import redact

__all__ = ["FAULTS", "NO_DROPBOX", "AnswerError", "classify", "reason"]

_LOGIN_HINT: Final = (
    "check app_key, app_secret and refresh_token; a token that was revoked is got anew (docs/destinations/dropbox.md)"
)
_RIGHTS_HINT: Final = (
    "give the app files.content.write, files.content.read and files.metadata.read, then get a new token"
)
_NETWORK_HINT: Final = "check the network, name resolution and firewall"
NO_DROPBOX: Final = b"what answers is not Dropbox"
"""In place of the body of an answer that says yes, and not in JSON."""
_PASSING: Final = "the provider has a passing problem; it is tried again"

# What the summary of an answer 409 has in it; the first that fits counts. (Dropbox, "Error handling guide" and the
# documentation of each call.)
_SUMMARIES: Final[tuple[tuple[str, str, str, bool | None], ...]] = (
    ("insufficient_space", "destination-full", "make room in the Dropbox, or keep fewer backups", None),
    ("insufficient_quota", "destination-full", "make room in the Dropbox, or keep fewer backups", None),
    ("content_hash_mismatch", "destination-mismatch", "data were damaged on the way: check network and memory", None),
    ("no_write_permission", "destination-denied", "the account may only read this folder", None),
    ("no_permission", "destination-denied", "the account may not do this there", None),
    ("team_folder", "destination-denied", "choose a folder below the team's", None),
    ("malformed_path", "destination-not-found", "check the destination's path", None),
    ("disallowed_name", "destination-not-found", "check the destination's path", None),
    ("not_folder", "destination-not-found", "there is a file where the destination's path wants a folder", None),
    ("file_ancestor", "destination-not-found", "there is a file where the destination's path wants a folder", None),
    ("conflict", "destination-failed", "somebody else wrote a file of this name meanwhile; it is tried again", True),
    ("too_many_write_operations", "destination-failed", _PASSING, None),
    ("too_many_requests", "destination-failed", _PASSING, None),
    ("internal_error", "destination-failed", _PASSING, None),
)


class AnswerError(Exception):
    """Dropbox answered that it did not do something. ``summary`` is its own word, such as ``path/not_found/..``."""

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self.body: dict[str, Any] = {}
        text = body.decode("utf-8", "replace").strip()
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if isinstance(found, dict):
            self.body = found
            text = str(found.get("error_summary") or found.get("error_description") or found.get("error") or text)
        self.summary = text[:300]
        super().__init__(f"{status} {self.summary}")

    def says(self, *words: str) -> bool:
        """Tell whether one of Dropbox's words is in its summary."""
        return self.status == 409 and any(word in self.summary for word in words)


def reason(error: Exception) -> str:
    """Say in a few words, without secrets, what the server or the library said."""
    if isinstance(error, AnswerError):
        return redact(f"{error.status} ({error.summary or 'no explanation'})")
    return redact(plain(error))


def classify(error: Exception) -> tuple[str, str, bool | None]:
    """Return our code, a hint, and whether a retry helps (None: as usual for the code)."""
    if isinstance(error, AnswerError):
        return _classify_answer(error)
    if about_tls(error):
        return "destination-tls", TLS_HINT, None
    if isinstance(error, urllib3.exceptions.LocationValueError):
        return "destination-failed", "check the settings of the destination", False
    return "destination-unreachable", _NETWORK_HINT, None


def _classify_answer(error: AnswerError) -> tuple[str, str, bool | None]:
    found: tuple[str, str, bool | None] = ("destination-failed", "check the settings of the destination", False)
    match error.status:
        case 200:
            hint = "does a login page of the network, or a proxy, answer in its place? check endpoint_url"
            found = ("destination-failed", hint, None)
        case 400 | 401 if "missing_scope" in error.summary or "required scope" in error.summary:
            found = ("destination-denied", _RIGHTS_HINT, None)
        case 400 if error.body.get("error") in ("invalid_grant", "invalid_client", "unauthorized_client"):
            found = ("destination-auth", _LOGIN_HINT, None)
        case 401:
            found = ("destination-auth", _LOGIN_HINT, None)
        case 403:
            found = ("destination-denied", "the account or the team's administrator does not allow this", None)
        case 409:
            for word, code, hint, retryable in _SUMMARIES:
                if word in error.summary:
                    return code, hint, retryable
        case 507:
            found = ("destination-full", "make room in the Dropbox, or keep fewer backups", None)
        case status if status in (408, 429) or status >= 500:
            found = ("destination-failed", _PASSING, None)
        case _:
            pass
    return found


FAULTS: Final = (AnswerError, HTTPError)
"""All that `dropbox_link` raises when a request fails."""
