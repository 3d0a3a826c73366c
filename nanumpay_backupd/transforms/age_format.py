"""An age file as far as it can be read without a key: its header, and whether all of it is there. Decrypts nothing.

The format is https://age-encryption.org/v1: a text header with one stanza for each recipient, 16 bytes of nonce, then
pieces of 64 KiB, each with its authentication code. An X25519 stanza does not tell whose it is, an ssh stanza names the
key by four bytes of its hash.
"""

from __future__ import annotations

import re
from typing import Final

from nanumpay_backupd.transforms.sealing import Framing

__all__ = ["SCRYPT", "X25519", "AgeFraming"]

SCRYPT: Final = "scrypt"
X25519: Final = "X25519"
_INTRO: Final = b"age-encryption.org/v1\n"
_LARGEST_HEADER: Final = 64 << 10
_STANZA: Final = re.compile(rb"-> ([\x21-\x7e]+)((?: [\x21-\x7e]+)*)\n((?:[A-Za-z0-9+/]{64}\n)*[A-Za-z0-9+/]{0,63}\n)")
_MAC: Final = re.compile(rb"--- [A-Za-z0-9+/]{43}\n")
_NONCE: Final = 16
_CODE: Final = 16
_PIECE: Final = 64 << 10


class AgeFraming(Framing):
    """Reads the header, then counts."""

    def __init__(self, label: str) -> None:
        super().__init__(label)
        self._head = b""
        self._header: tuple[str, ...] = ()
        self._payload = -1
        """Bytes behind the header, -1 before its end was seen."""

    @property
    def header(self) -> tuple[str, ...]:
        """Return the stanzas' types, of ssh keys with the key's mark."""
        return self._header

    @property
    def plain_size(self) -> int:
        """Return the bytes that are encrypted."""
        body = max(self._payload - _NONCE, _CODE)
        return body - _CODE * -(-body // (_PIECE + _CODE))

    def feed(self, data: bytes) -> None:
        """Go on with these bytes."""
        if self._payload >= 0:
            self._payload += len(data)
            return
        self._head += data
        if not self._head.startswith(_INTRO[: len(self._head)]):
            raise self.damaged("it does not begin as an age file does")
        end = self._head.find(b"\n--- ")
        close = self._head.find(b"\n", end + 1) if end >= 0 else -1
        if close < 0:
            if len(self._head) > _LARGEST_HEADER:
                raise self.damaged("its header has no end")
            return
        self._header = self._stanzas(self._head[len(_INTRO) : end + 1])
        if not _MAC.fullmatch(self._head, end + 1, close + 1):
            raise self.damaged("the end of its header is not one")
        self._payload = len(self._head) - close - 1
        self._head = b""

    def end(self) -> None:
        """Make sure that nothing is missing."""
        if self._payload < 0:
            raise self.damaged("it is cut off" if self._head else "it is empty")
        body = self._payload - _NONCE
        last = body % (_PIECE + _CODE)
        # An empty piece is only there where nothing was encrypted.
        if body < _CODE or (0 < last <= _CODE and body != _CODE):
            raise self.damaged("it is cut off")

    def _stanzas(self, text: bytes) -> tuple[str, ...]:
        found, at = [], 0
        while at < len(text):
            match = _STANZA.match(text, at)
            if match is None:
                raise self.damaged("its header cannot be read")
            kind, mark = match[1].decode("ascii"), match[2].split()[:1]
            found.append(f"{kind} {mark[0].decode('ascii')}" if kind.startswith("ssh-") and mark else kind)
            at = match.end()
        if not found:
            raise self.damaged("its header names nobody")
        return tuple(found)
