"""Kinds of value of what is reached by SSH: the host keys that are accepted. Whether a server shows one is asked there.

Nothing of an SSH library is loaded here.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from nanumpay_backupd.settings.kinds import Names, Place

__all__ = ["HostKeys"]

_FINGERPRINT: Final = re.compile(r"SHA256:[A-Za-z0-9+/]{43}=?")
_TYPE: Final = re.compile(r"(?:ssh|ecdsa|sk)-[a-z0-9@.-]+")


class HostKeys(Names):
    """Fingerprints or public keys of a host; one may stand without the list around it."""

    expected = 'a fingerprint such as "SHA256:…" or a public key such as "ssh-ed25519 AAAA…", or a list of them'
    example = '"SHA256:…" (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub, on the server)'

    def parse(self, value: object, place: Place) -> tuple[str, ...]:  # noqa: ARG002 - the contract of Kind
        """Return them, each as a fingerprint without padding or as type and key, without a comment."""
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list):
            raise self.mismatch(value)
        return tuple(dict.fromkeys(self._one(item) for item in items if item != ""))

    def _one(self, item: object) -> str:
        if not isinstance(item, str):
            raise self.mismatch(item)
        text = item.strip()
        if _FINGERPRINT.fullmatch(text):
            return text.rstrip("=")
        words = text.split()
        if len(words) < 2 or not _TYPE.fullmatch(words[0]) or not _holds(words[0], words[1]):
            raise self.mismatch(item)
        return " ".join(words[:2])


def _holds(kind: str, key: str) -> bool:
    """Tell whether the text of a public key is one of that type, which it begins with (RFC 4253, 6.6)."""
    try:
        raw = base64.b64decode(key, validate=True)
    except binascii.Error:
        return False
    return raw[4 : 4 + len(kind)] == kind.encode("ascii") and int.from_bytes(raw[:4], "big") == len(kind)
