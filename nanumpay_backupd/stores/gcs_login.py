"""Who a bucket of Google Cloud Storage is asked as: a key file, or what this host has. No bucket is known here."""

from __future__ import annotations

import json
from typing import Any, Final

import google.auth
import requests
from google.auth.transport.requests import AuthorizedSession, Request
from google.oauth2 import service_account

from nanumpay_backupd.settings.destinations import GcsDestination
from nanumpay_backupd.stores.base import store_error
from nanumpay_backupd.system.secrets import Secret

__all__ = ["log_in"]

_SCOPE: Final = "https://www.googleapis.com/auth/devstorage.read_write"
_Verify = str | bool
"""What requests takes: a file of certificates, or True for the host's own."""


def log_in(settings: GcsDestination, place: str) -> AuthorizedSession:
    """Return a session that gets tokens as it needs them; raises what google-auth raises, and ``destination-auth``."""
    verify = settings.ca_file or True
    credentials = _credentials(settings, place, verify)
    http = AuthorizedSession(credentials, auth_request=Request(_session(verify)))  # type: ignore[no-untyped-call]
    http.verify = verify
    return http


def _credentials(settings: GcsDestination, place: str, verify: _Verify) -> Any:
    """Return the service account of the settings, or what this host has (application default credentials)."""
    text = settings.service_account.reveal()
    if not text:
        found, _ = google.auth.default(scopes=[_SCOPE], request=Request(_session(verify)))
        return found
    try:
        info = json.loads(text)
        Secret(str(info["private_key"]))  # known to `redact` from now on
        return service_account.Credentials.from_service_account_info(info, scopes=[_SCOPE])  # type: ignore[no-untyped-call]
    except (ValueError, KeyError, TypeError, google.auth.exceptions.GoogleAuthError) as error:
        raise store_error(
            "destination-auth",
            f"destination {settings.name!r}: service_account for {place} is no key file of a service account",
            'it is the JSON file that Google gives for a key, with "type": "service_account" and "private_key"',
        ) from error


def _session(verify: _Verify) -> requests.Session:
    session = requests.Session()
    session.verify = verify
    return session
