"""The packets of an OpenPGP message as far as they can be read without a key (RFC 4880, section 4). Decrypts nothing.

Only messages such as gpg makes for us are whole here: session keys first (one for each recipient, or of a passphrase),
then one packet of encrypted data with integrity protection, and nothing behind it.
"""

from __future__ import annotations

from typing import Final

from nanumpay_backupd.transforms.sealing import Framing

__all__ = ["PASSPHRASE", "PacketFraming"]

PASSPHRASE: Final = "passphrase"  # noqa: S105 - a word, not one
"""The mark of a session key that a passphrase gives; others are the key's id, 16 hexadecimal digits."""
_PUBLIC_KEY_SESSION: Final = 1
_PASSPHRASE_SESSION: Final = 3
_PROTECTED: Final = 18
"""Data with a modification detection code; a packet without one (tag 9) is not accepted."""
_AEAD: Final = 20
"""What GnuPG 2.3 and later writes where a key asks for it; protected as well."""
_LARGEST_SESSION: Final = 64 << 10
_LEAST_PROTECTED: Final = 1 + 18 + 22
"""Version, the random prefix of AES, and the detection code."""
_CUT_OFF: Final = "it is cut off"


class PacketFraming(Framing):
    """Walks the packets. Nothing is kept but the header: of the data only the lengths are looked at."""

    def __init__(self, label: str) -> None:
        super().__init__(label)
        self._rest = b""
        self._skip = 0
        self._header: list[str] = []
        self._tag = 0
        self._more = False
        """Whether a further piece of the packet of data follows the present one."""
        self._data = 0
        self._complete = False

    @property
    def header(self) -> tuple[str, ...]:
        """Return the marks of those who can open it."""
        return tuple(self._header)

    def feed(self, data: bytes) -> None:
        """Go on with these bytes."""
        if self._skip >= len(data) and not self._rest:
            self._skip -= len(data)
            return
        data = self._rest + data
        at, self._rest = min(self._skip, len(data)), b""
        self._skip -= at
        while at < len(data):
            step = self._step(data, at)
            if step is None:
                self._rest = data[at:]
                if len(self._rest) > _LARGEST_SESSION:
                    raise self.damaged("a packet in its header is too large")
                return
            self._skip = max(0, at + step - len(data))
            at = min(at + step, len(data))

    def end(self) -> None:
        """Make sure that nothing is missing."""
        if not self._header and not self._data and not self._rest:
            raise self.damaged("it is empty")
        if self._rest or self._skip or not self._complete or self._more:
            raise self.damaged(_CUT_OFF)

    def _step(self, data: bytes, at: int) -> int | None:
        """Read the packet, or the piece of one, that begins at ``at``; returns its length, None: more has to come."""
        if self._more:
            found = _new_length(data, at)
            if found is None:
                return None
            size, length, self._more = found
            return self._piece(size, length)
        if self._complete:
            raise self.damaged("something follows what was encrypted")
        head = _head(data, at)
        if head is None:
            return None
        tag, size, length, more = head
        if tag in (_PUBLIC_KEY_SESSION, _PASSPHRASE_SESSION) and not more and 0 < length <= _LARGEST_SESSION:
            if len(data) < at + size + length:
                return None
            self._session(tag, data[at + size : at + size + length])
            return size + length
        if tag not in (_PROTECTED, _AEAD) or length < 0 or not self._header:
            raise self.damaged(f"it holds a packet (type {tag}) that does not belong there")
        if len(data) <= at + size:
            return None
        if data[at + size] != 1:
            raise self.damaged(f"its data is of version {data[at + size]}, which is not known")
        self._more = more
        return self._piece(size, length)

    def _piece(self, size: int, length: int) -> int:
        """Pass over a piece of the data; the last one completes it."""
        self._data += length
        if not self._more:
            if self._data < _LEAST_PROTECTED:
                raise self.damaged(_CUT_OFF)
            self._complete = True
        return size + length

    def _session(self, tag: int, body: bytes) -> None:
        """Note who can open a session key: version 3 names the key, a passphrase has no name."""
        if tag == _PASSPHRASE_SESSION and body[0] in (4, 5):
            self._header.append(PASSPHRASE)
        elif tag == _PUBLIC_KEY_SESSION and body[0] == 3 and len(body) > 9:
            self._header.append(body[1:9].hex().upper())
        else:
            raise self.damaged("a session key in its header is of a version that is not known")


def _head(data: bytes, at: int) -> tuple[int, int, int, bool] | None:
    """Read a packet's head: (type, bytes of the head, bytes of the body, whether more pieces follow).

    The type is -1 where it is no head; the length -1 where it is not told (it reaches to the end). None: it goes on.
    """
    first = data[at]
    if not first & 0x80:
        return -1, 0, -1, False
    if first & 0x40:
        found = _new_length(data, at + 1)
        return None if found is None else (first & 0x3F, found[0] + 1, found[1], found[2])
    width = 1 << (first & 3)
    if width == 8:
        return (first >> 2) & 0x0F, 1, -1, False
    if len(data) < at + 1 + width:
        return None
    return (first >> 2) & 0x0F, 1 + width, int.from_bytes(data[at + 1 : at + 1 + width], "big"), False


def _new_length(data: bytes, at: int) -> tuple[int, int, bool] | None:
    """Read a length of the new format: (bytes it takes, length, whether it is that of a piece). None: it goes on."""
    if at >= len(data):
        return None
    first = data[at]
    if first < 192:
        return 1, first, False
    if first >= 224 and first != 255:
        return 1, 1 << (first & 0x1F), True
    width = 5 if first == 255 else 2
    if len(data) < at + width:
        return None
    if first == 255:
        return 5, int.from_bytes(data[at + 1 : at + 5], "big"), False
    return 2, ((first - 192) << 8) + data[at + 1] + 192, False
