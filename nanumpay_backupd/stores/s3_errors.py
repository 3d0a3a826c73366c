"""What the errors of S3 servers and of boto3 mean to us: code, hint, whether a retry helps. No calls to a server."""

from __future__ import annotations

import re
from typing import Final

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError

from nanumpay_backupd.system.secrets import redact

__all__ = ["classify", "error_code", "http_status", "reason"]

_KEYS_HINT: Final = "check the access key and the secret key of the destination, and that the key is active"
_RIGHTS_HINT: Final = (
    "the key needs s3:PutObject, s3:GetObject, s3:DeleteObject, s3:AbortMultipartUpload, s3:ListBucket"
)
_BUCKET_HINT: Final = "check the bucket's name, region and endpoint, or make the bucket"
_CLOCK_HINT: Final = "set this host's clock (timedatectl status)"
_CLOCK: Final = re.compile(r"request time and the .*(server's|current) time", re.IGNORECASE)
"""Of a clock that is behind some servers say AccessDenied, with these words."""
_NETWORK_HINT: Final = "check the network, name resolution, firewall and the endpoint's address"
_ROOM_HINT: Final = "make room at the provider, raise the quota, or keep fewer backups"

# What S3's error codes (docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html) and other servers' own mean to us.
_CODES: Final[dict[str, tuple[str, str]]] = {
    "NoSuchBucket": ("destination-not-found", _BUCKET_HINT),
    "NoSuchKey": ("object-missing", ""),
    "InvalidAccessKeyId": ("destination-auth", _KEYS_HINT),
    "SignatureDoesNotMatch": ("destination-auth", _KEYS_HINT),
    "InvalidToken": ("destination-auth", _KEYS_HINT),
    "ExpiredToken": ("destination-auth", _KEYS_HINT),
    "TokenRefreshRequired": ("destination-auth", _KEYS_HINT),
    "AuthorizationHeaderMalformed": ("destination-auth", "check the region of the destination"),
    "RequestTimeTooSkewed": ("destination-auth", _CLOCK_HINT),
    "RequestExpired": ("destination-auth", _CLOCK_HINT),
    "AccessDenied": ("destination-denied", _RIGHTS_HINT),
    "AllAccessDisabled": ("destination-denied", _RIGHTS_HINT),
    "AccountProblem": ("destination-denied", "the provider has a problem with the account: look there"),
    "KMS.DisabledException": ("destination-denied", "the key for encryption (sse_kms_key_id) is disabled"),
    "KMS.NotFoundException": ("destination-denied", "check sse_kms_key_id"),
    "BadDigest": ("destination-mismatch", "data were damaged on the way: check network and memory"),
    "IncompleteBody": ("destination-mismatch", _NETWORK_HINT),
    "RequestTimeout": ("destination-unreachable", _NETWORK_HINT),
    "QuotaExceeded": ("destination-full", _ROOM_HINT),
    "InsufficientStorage": ("destination-full", _ROOM_HINT),
    "XMinioStorageFull": ("destination-full", _ROOM_HINT),
    "XMinioAdminBucketQuotaExceeded": ("destination-full", _ROOM_HINT),
}


def error_code(error: ClientError) -> str:
    """Return the server's own code for an error; for an answer without a body it is the HTTP status."""
    return str(error.response.get("Error", {}).get("Code", ""))


def http_status(error: ClientError) -> int:
    """Return the HTTP status of an error answer, 0 when unknown."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def reason(error: BotoCoreError | ClientError) -> str:
    """Say in a few words, without secrets, what the server or the library said."""
    if not isinstance(error, ClientError):
        return redact(str(error))
    text = str(error.response.get("Error", {}).get("Message", "") or "no explanation")
    return redact(f"{error_code(error)} ({text})")


def classify(error: BotoCoreError | ClientError) -> tuple[str, str, bool | None]:
    """Return our code, a hint, and whether a retry helps (None: as usual for the code)."""
    if isinstance(error, ClientError):
        if _CLOCK.search(str(error.response.get("Error", {}).get("Message", ""))):
            return "destination-auth", _CLOCK_HINT, None
        return _classify_answer(error_code(error), http_status(error))
    match error:
        case SSLError():
            return "destination-tls", "if the server has its own certificate authority, name its file in ca_file", None
        case NoCredentialsError() | PartialCredentialsError() | ProfileNotFound():
            return "destination-auth", "set access_key_id and secret_access_key, or give this host a role", None
        case FlexibleChecksumError():
            return "destination-mismatch", _NETWORK_HINT, None
        case BotoConnectionError() | HTTPClientError() | IncompleteReadError():
            return "destination-unreachable", _NETWORK_HINT, None
        case _:
            return "destination-failed", "check the settings of the destination", False


def _classify_answer(code: str, status: int) -> tuple[str, str, bool | None]:
    if code in _CODES:
        return (*_CODES[code], None)
    if status == 507:
        return "destination-full", _ROOM_HINT, None
    if status in (401, 403):
        return "destination-denied", _RIGHTS_HINT, None
    if status >= 500 or status == 429 or code == "SlowDown":
        return "destination-failed", "the provider has a passing problem; it is tried again", None
    return "destination-failed", "check the settings of the destination", False
