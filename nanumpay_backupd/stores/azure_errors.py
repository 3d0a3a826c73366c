"""What the errors of Azure Blob Storage and of its library mean to us: code, hint, retry. No calls to a server."""

from __future__ import annotations

import re
from typing import Final

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    IncompleteReadError,
    ServiceRequestError,
    ServiceResponseError,
)

from nanumpay_backupd.stores.said import plain
from nanumpay_backupd.stores.tls import TLS_HINT, about_tls
from nanumpay_backupd.system.secrets import redact

__all__ = ["classify", "error_code", "reason", "says_locked", "status"]

_KEY_HINT: Final = "check the account's name and its key, connection string or SAS, and this host's clock"
_LOGIN_HINT: Final = "set account_key, sas_token or connection_string, or give this host a managed identity"
_RIGHTS_HINT: Final = (
    "the login needs to read, write, delete and list blobs: Storage Blob Data Contributor (docs/destinations/azure.md)"
)
_CONTAINER_HINT: Final = "check the container's name, or make the container"
_NETWORK_HINT: Final = "check the network, name resolution, firewall and the account's name"
_PASSING: Final = "the provider has a passing problem; it is tried again"
_CHANGED_HINT: Final = "somebody else wrote a blob of this name meanwhile: two hosts with one prefix? It is tried again"
_DAMAGED_HINT: Final = "data were damaged on the way: check network and memory"

# learn.microsoft.com, "Common REST API error codes" and "Blob Storage error codes".
_CODES: Final[dict[str, tuple[str, str, bool | None]]] = {
    "AuthenticationFailed": ("destination-auth", _KEY_HINT, None),
    "InvalidAuthenticationInfo": ("destination-auth", _KEY_HINT, None),
    "NoAuthenticationInformation": ("destination-auth", _KEY_HINT, None),
    "AccountIsDisabled": ("destination-denied", "the storage account is disabled: look there", None),
    "ContainerNotFound": ("destination-not-found", _CONTAINER_HINT, None),
    "ContainerBeingDeleted": ("destination-not-found", _CONTAINER_HINT, None),
    "ContainerDisabled": ("destination-not-found", _CONTAINER_HINT, None),
    "ResourceNotFound": ("destination-not-found", _CONTAINER_HINT, None),
    "Md5Mismatch": ("destination-mismatch", _DAMAGED_HINT, None),
    "ConditionNotMet": ("destination-failed", _CHANGED_HINT, True),
    "BlobAlreadyExists": ("destination-failed", _CHANGED_HINT, True),
    "InvalidBlockList": ("destination-failed", _CHANGED_HINT, True),
    "InvalidBlobOrBlock": ("destination-failed", "another program left an unfinished upload of that name there", False),
    "BlobArchived": (
        "destination-failed",
        "the blob is in tier Archive: rehydrate it first (az storage blob set-tier)",
        False,
    ),
    "KeyVaultEncryptionKeyNotFound": ("destination-denied", "the key for encryption is gone: see the key vault", None),
}
_LOCKS: Final = frozenset({"BlobImmutableDueToPolicy", "BlobImmutableDueToLegalHold", "ContainerImmutableDueToPolicy"})
_NOT_AUTHENTICATED: Final = re.compile(r"failed to authenticate|signature", re.IGNORECASE)
_QUERY: Final = re.compile(r"\?[^\s'\")]*")
"""What follows a question mark in an address may be a signature."""


def error_code(error: Exception) -> str:
    """Return the server's own code for an error, empty when there is none."""
    code = getattr(error, "error_code", "") or ""
    return str(getattr(code, "value", code))


def status(error: Exception) -> int:
    """Return the HTTP status of an error answer, 0 when there was none."""
    return int(getattr(error, "status_code", 0) or 0)


def says_locked(error: Exception) -> bool:
    """Tell whether a blob may not go yet: an immutability policy or a legal hold."""
    return error_code(error) in _LOCKS


def reason(error: Exception) -> str:
    """Say in a few words, without secrets, what the server or the library said."""
    text = (str(getattr(error, "message", "") or error) if status(error) else plain(error)).strip()
    first = text.splitlines()[0] if text else type(error).__name__
    code = error_code(error)
    return redact(_QUERY.sub("", f"{code} ({first})" if code and code not in first else first))


def classify(error: AzureError) -> tuple[str, str, bool | None]:
    """Return our code, a hint, and whether a retry helps (None: as usual for the code)."""
    if about_tls(error):
        return "destination-tls", TLS_HINT, None
    if isinstance(error, HttpResponseError) and status(error):
        return _classify_answer(error)
    match error:
        case ClientAuthenticationError():
            return "destination-auth", _LOGIN_HINT, None
        case ServiceRequestError() | ServiceResponseError() | IncompleteReadError():
            return "destination-unreachable", _NETWORK_HINT, None
        case _:
            return "destination-failed", "check the settings of the destination", False


def _classify_answer(error: HttpResponseError) -> tuple[str, str, bool | None]:
    code, number = error_code(error), status(error)
    if code in _CODES:
        return _CODES[code]
    if number == 507:
        return "destination-full", "make room at the provider, or keep fewer backups", None
    if number in (408, 429) or number >= 500:
        return "destination-failed", _PASSING, None
    if number == 401 or (number == 403 and _NOT_AUTHENTICATED.search(str(error.message))):
        return "destination-auth", _KEY_HINT, None
    if number == 403:
        return "destination-denied", _RIGHTS_HINT, None
    if number == 412:
        return _CODES["ConditionNotMet"]
    return "destination-failed", "check the settings of the destination", False
