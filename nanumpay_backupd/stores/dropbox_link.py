"""Speaking with Dropbox: HTTPS, access tokens from the refresh token, calls with JSON or contents. No objects here.

Dropbox's own library is not used: it reads a whole chunk's answer the same way, but brings its classes for all of
Dropbox into memory, and cannot be paced within a chunk. What is spoken is documented at Dropbox ("HTTP documentation",
"OAuth guide").
"""

from __future__ import annotations

import base64
import json
from typing import Any, Final

import urllib3

from nanumpay_backupd.settings.destinations import DropboxDestination
from nanumpay_backupd.stores.dropbox_errors import NO_DROPBOX, AnswerError
from nanumpay_backupd.stores.payload import Body
from nanumpay_backupd.system.clock import Clock
from nanumpay_backupd.system.secrets import Secret

__all__ = ["DropboxLink"]

_API: Final = "https://api.dropboxapi.com"
_CONTENT: Final = "https://content.dropboxapi.com"
_CONNECT_TIMEOUT: Final = 10.0
_EARLY: Final = 300.0
"""Seconds before its end that an access token is replaced."""


class DropboxLink:
    """Connections to Dropbox for one app and one account. Raises `AnswerError` and what urllib3 raises."""

    def __init__(self, settings: DropboxDestination, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._api = settings.endpoint_url.rstrip("/") or _API
        self._content = settings.endpoint_url.rstrip("/") or _CONTENT
        self._pool = urllib3.PoolManager(
            num_pools=4,
            retries=False,
            timeout=urllib3.Timeout(connect=min(_CONNECT_TIMEOUT, settings.timeout), read=settings.timeout),
            cert_reqs="CERT_REQUIRED",
            ca_certs=settings.ca_file or None,
            headers={"User-Agent": "nanumpay-backupd"},
        )
        self._token: Secret | None = None
        self._until = 0.0

    @property
    def host(self) -> str:
        """Return where it speaks to, for messages."""
        return self._api

    def call(self, name: str, argument: dict[str, Any] | None) -> dict[str, Any]:
        """Call a function of the API with JSON, such as ``files/get_metadata``, and return its answer."""
        body = json.dumps(argument).encode()
        answer = self._send(f"{self._api}/2/{name}", {"Content-Type": "application/json"}, body)
        return _decoded(answer.data)

    def send(self, name: str, argument: dict[str, Any], body: Body) -> dict[str, Any]:
        """Call a function that takes a content, and return its answer."""
        headers = {
            "Dropbox-API-Arg": json.dumps(argument),  # escapes all but ASCII, as headers want it
            "Content-Type": "application/octet-stream",
            "Content-Length": str(len(body)),
        }
        return _decoded(self._send(f"{self._content}/2/{name}", headers, body).data)

    def open(self, name: str, argument: dict[str, Any], headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        """Call a function that gives a content; whoever asked reads and closes it. 416 is an answer like any other."""
        headers = {"Dropbox-API-Arg": json.dumps(argument), "Accept-Encoding": "identity", **headers}
        return self._send(f"{self._content}/2/{name}", headers, None, stream=True)

    def close(self) -> None:
        """Drop the connections."""
        self._pool.clear()

    def _send(
        self, url: str, headers: dict[str, str], body: Body | bytes | None, *, stream: bool = False
    ) -> urllib3.BaseHTTPResponse:
        token = self._access()
        answer = self._request(url, {**headers, "Authorization": f"Bearer {token}"}, body, stream=stream)
        if answer.status == 401 and "expired_access_token" in _peek(answer):
            # It ended earlier than it was to: the clock, or somebody ended it.
            self._token = None
            if isinstance(body, Body):
                body.seek(0)
            answer = self._request(url, {**headers, "Authorization": f"Bearer {self._access()}"}, body, stream=stream)
        if answer.status in (200, 206) or (stream and answer.status == 416):
            return answer
        raise AnswerError(answer.status, answer.data)

    def _request(
        self, url: str, headers: dict[str, str], body: Body | bytes | None, *, stream: bool
    ) -> urllib3.BaseHTTPResponse:
        return self._pool.request(
            "POST",
            url,
            body=body,
            headers={**self._pool.headers, **headers},
            preload_content=not stream,
            redirect=False,
        )

    def _access(self) -> str:
        """Return an access token that lasts; they end after four hours."""
        if self._token is None or self._clock.monotonic() > self._until:
            fields = {"grant_type": "refresh_token", "refresh_token": self._settings.refresh_token.reveal()}
            headers = {}
            if self._settings.app_secret:
                login = f"{self._settings.app_key}:{self._settings.app_secret.reveal()}".encode()
                headers["Authorization"] = "Basic " + base64.b64encode(login).decode("ascii")
            else:
                fields["client_id"] = self._settings.app_key
            answer = self._pool.request(
                "POST",
                f"{self._api}/oauth2/token",
                fields=fields,
                encode_multipart=False,
                headers={**self._pool.headers, **headers},
                redirect=False,
            )
            if answer.status != 200:
                raise AnswerError(answer.status, answer.data)
            found = _decoded(answer.data)
            self._token = Secret(str(found.get("access_token", "")))
            self._until = self._clock.monotonic() + float(found.get("expires_in", 14400)) - _EARLY
        return self._token.reveal()


def _peek(answer: urllib3.BaseHTTPResponse) -> str:
    """Return the text of an error answer, which stays to be read."""
    return answer.data.decode("utf-8", "replace")


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body or b"null")
    except ValueError:
        raise AnswerError(200, NO_DROPBOX) from None
    return found if isinstance(found, dict) else {}
