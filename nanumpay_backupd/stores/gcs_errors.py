"""What the errors of Google Cloud Storage and of its library mean to us: code, hint, retry. No calls to a server."""

from __future__ import annotations

import re
from typing import Any, Final

import requests
import urllib3
from google.api_core.exceptions import GoogleAPICallError, GoogleAPIError, from_http_response
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError

from nanumpay_backupd.stores.said import plain
from nanumpay_backupd.stores.tls import TLS_HINT, about_tls
from nanumpay_backupd.system.secrets import redact

__all__ = ["FAULTS", "answered", "classify", "reason", "reasons", "says_locked", "status"]

FAULTS: Final = (GoogleAPIError, GoogleAuthError, requests.RequestException, urllib3.exceptions.HTTPError)
"""All that the libraries raise when a request fails."""

_KEY_HINT: Final = (
    "check the service account's key file: the account exists, the key is not deleted; and this host's clock"
)
_LOGIN_HINT: Final = (
    "name a key file by service_account, or give this host a service account (application default credentials)"
)
_RIGHTS_HINT: Final = "the service account needs roles/storage.objectUser on the bucket (docs/destinations/gcs.md)"
_BUCKET_HINT: Final = "check the bucket's name, or make the bucket"
_NETWORK_HINT: Final = "check the network, name resolution, firewall and the endpoint's address"
_PASSING: Final = "the provider has a passing problem; it is tried again"
_CHANGED_HINT: Final = (
    "somebody else wrote an object of this name meanwhile: two hosts with one prefix? It is tried again"
)

_ADDRESS: Final = re.compile(r"^[A-Z]+ https?://\S+: ")
_QUERY: Final = re.compile(r"\?[^\s'\")]*")
"""The address of an upload's session, from the question mark on, lets anybody write that object."""
_LOCKS: Final = frozenset({"retentionPolicyNotMet", "objectUnderActiveHold", "objectRetentionNotMet"})
_TOO_FAST: Final = frozenset({"rateLimitExceeded", "userRateLimitExceeded"})
_FULL: Final = frozenset({"quotaExceeded", "storageQuotaExceeded"})


def answered(response: requests.Response) -> GoogleAPICallError:
    """Make the error that an answer is."""
    return from_http_response(response)  # type: ignore[no-untyped-call, no-any-return]


def status(error: Exception) -> int:
    """Return the HTTP status of an error answer, 0 when there was none."""
    return int(error.code or 0) if isinstance(error, GoogleAPICallError) else 0


def reasons(error: Exception) -> frozenset[str]:
    """Return the server's own words for what it refused (``reason`` of the JSON API's errors)."""
    found: Any = getattr(error, "errors", ())
    return frozenset(str(entry.get("reason", "")) for entry in found if isinstance(entry, dict))


def says_locked(error: Exception) -> bool:
    """Tell whether an object may not go yet: a retention policy or a hold."""
    text = str(getattr(error, "message", "")).lower()
    return bool(reasons(error) & _LOCKS) or "retention policy" in text or "active hold" in text


def reason(error: Exception) -> str:
    """Say in a few words, without secrets, what the server or the library said."""
    if isinstance(error, GoogleAPICallError):
        words = ", ".join(sorted(reasons(error) - {""}))
        text = _ADDRESS.sub("", str(error.message)) or "no explanation"
        return redact(f"{status(error)}{' ' + words if words else ''} ({text})")
    return redact(_QUERY.sub("", plain(error)))


def classify(error: Exception) -> tuple[str, str, bool | None]:
    """Return our code, a hint, and whether a retry helps (None: as usual for the code)."""
    if isinstance(error, GoogleAPICallError):
        return _classify_answer(error)
    if about_tls(error):
        return "destination-tls", TLS_HINT, None
    match error:
        case TransportError() | requests.ConnectionError() | requests.Timeout() | urllib3.exceptions.HTTPError():
            return "destination-unreachable", _NETWORK_HINT, None
        case requests.exceptions.ChunkedEncodingError() | requests.exceptions.ContentDecodingError():
            return "destination-unreachable", _NETWORK_HINT, None
        case DefaultCredentialsError():
            return "destination-auth", _LOGIN_HINT, None
        case GoogleAuthError():
            return "destination-auth", _KEY_HINT, None
        case _:
            return "destination-failed", "check the settings of the destination", False


def _classify_answer(error: GoogleAPICallError) -> tuple[str, str, bool | None]:
    words, number, text = reasons(error), status(error), str(error.message).lower()
    if words & _FULL or number == 507:
        return "destination-full", "raise the quota at the provider, or keep fewer backups", None
    if words & _TOO_FAST or number in (408, 429) or number >= 500:
        return "destination-failed", _PASSING, None
    match number:
        case 400 if "crc32c" in text or "md5" in text or "hash" in text:
            return "destination-mismatch", "data were damaged on the way: check network and memory", None
        case 401:
            return "destination-auth", _KEY_HINT, None
        case 403:
            return "destination-denied", _RIGHTS_HINT, None
        case 404:
            return "destination-not-found", _BUCKET_HINT, None
        case 412:
            return "destination-failed", _CHANGED_HINT, True
        case _:
            return "destination-failed", "check the settings of the destination", False
