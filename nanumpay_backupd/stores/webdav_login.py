"""Who a WebDAV server takes us for: Basic (RFC 7617) and Digest (RFC 7616). Sends nothing: webdav_link does."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.request import parse_http_list, parse_keqv_list

from nanumpay_backupd.system.secrets import Secret

__all__ = ["Login"]

_HASHES: Final = {"sha-256": "sha256", "md5": "md5"}
"""Of Digest, the best first; each also with "-sess"."""
_SCHEMES: Final = re.compile(r",\s*(?=[A-Za-z][A-Za-z0-9-]*\s+[A-Za-z0-9-]+\s*=)")
"""Where one challenge ends and the next begins, in a header with several."""


class Login:
    """One account at one server, for all connections to it. Used by one thread at a time.

    ``private``: the way there is encrypted, so that Basic may be sent unasked. Else the server is asked first what it
    wants, and one that knows Digest never sees the password.
    """

    def __init__(self, username: str, password: Secret, *, private: bool) -> None:
        self._username = username
        self._password = password
        self._basic = private
        self._digest: dict[str, str] = {}
        self._count = 0

    def header(self, method: str, uri: str, *, must: bool = False) -> str | None:
        """Return what to say about ourselves in a request; None: nothing (yet).

        ``must``: it cannot be sent twice, as its content is large, so that something is said even unasked.
        """
        if not self._username:
            return None
        if self._digest:
            return self._answer(method, uri)
        if self._basic or must:
            login = f"{self._username}:{self._password.reveal()}".encode()
            return f"Basic {base64.b64encode(login).decode('ascii')}"
        return None

    def learn(self, headers: Iterable[str]) -> bool:
        """Take up what the answer 401 asks for; tells whether the request may do better a second time."""
        if not self._username:
            return False
        challenges = _challenges(headers)
        digests = [fields for scheme, fields in challenges if scheme == "digest" and _algorithm(fields) in _HASHES]
        if digests:
            order = list(_HASHES)
            best = min(digests, key=lambda fields: order.index(_algorithm(fields)))
            # Refused with what was asked for: it is the wrong password, unless the server only wants a new number.
            if self._digest.get("realm") == best.get("realm") and best.get("stale", "").lower() != "true":
                return False
            self._digest, self._count = best, 0
            return True
        if self._basic or not any(scheme == "basic" for scheme, _ in challenges):
            return False
        self._basic = True
        return True

    def _answer(self, method: str, uri: str) -> str:
        asked = self._digest
        self._count += 1
        own = secrets.token_hex(16)
        realm, nonce = asked.get("realm", ""), asked.get("nonce", "")
        account = self._hash(f"{self._username}:{realm}:{self._password.reveal()}")
        if asked.get("algorithm", "").lower().endswith("-sess"):
            account = self._hash(f"{account}:{nonce}:{own}")
        what = self._hash(f"{method}:{uri}")
        said = {"username": self._username, "realm": realm, "nonce": nonce, "uri": uri}
        plain = {"algorithm": asked["algorithm"]} if "algorithm" in asked else {}
        if "auth" in (word.strip() for word in asked.get("qop", "").split(",")):
            count = f"{self._count:08x}"
            said["response"] = self._hash(f"{account}:{nonce}:{count}:{own}:auth:{what}")
            said["cnonce"] = own
            plain |= {"qop": "auth", "nc": count}
        else:
            said["response"] = self._hash(f"{account}:{nonce}:{what}")
        if "opaque" in asked:
            said["opaque"] = asked["opaque"]
        quoted = [f'{name}="{_escaped(value)}"' for name, value in said.items()]
        return "Digest " + ", ".join([*quoted, *(f"{name}={value}" for name, value in plain.items())])

    def _hash(self, text: str) -> str:
        # What is hashed is what the protocol says; with MD5 it is no worse than Basic.
        return hashlib.new(_HASHES[_algorithm(self._digest)], text.encode(), usedforsecurity=False).hexdigest()


def _challenges(headers: Iterable[str]) -> list[tuple[str, dict[str, str]]]:
    """Return scheme (in small letters) and fields of each challenge."""
    found = []
    for header in headers:
        for challenge in _SCHEMES.split(header):
            scheme, _, rest = challenge.strip().partition(" ")
            pairs = [pair for pair in parse_http_list(rest) if "=" in pair]
            fields = {name.lower(): value for name, value in parse_keqv_list(pairs).items()}
            found.append((scheme.lower(), fields))
    return found


def _algorithm(fields: Mapping[str, str]) -> str:
    return fields.get("algorithm", "MD5").lower().removesuffix("-sess")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
