"""When certificates end: those in files, and those that servers show. Whether to trust one is decided elsewhere.

Nothing but the handshake is sent to a server; its certificate is taken as it is, to read its last day.
"""

from __future__ import annotations

import re
import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

__all__ = ["certificate_of", "last_day", "last_day_in"]

_SEQUENCE: Final = 0x30
_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17
_GENERALIZED_TIME: Final = 0x18
_BLOCK: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_LONGEST_REPLY: Final = 4096


def last_day(der: bytes) -> datetime:
    """Return when a certificate (X.509, DER) is not valid any more (RFC 5280, 4.1); raises ValueError."""
    _, body, _ = _element(der, 0)
    _, start, end = _element(der, body)
    tag, _, after = _element(der, start)
    # The version comes first where there is one; then number, algorithm and issuer stand before the validity.
    at = after if tag == _VERSION else start
    for _ in range(3):
        _, _, at = _element(der, at)
    tag, inner, _ = _element(der, at)
    if tag != _SEQUENCE or at >= end:
        raise ValueError("no certificate")
    _, _, following = _element(der, inner)
    tag, first, last = _element(der, following)
    text = der[first:last].decode("ascii")
    if tag == _UTC_TIME:
        # Two digits of a year: 50 to 99 are of the last century.
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("no certificate")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def last_day_in(file: Path) -> datetime | None:
    """Return when the first certificate in a PEM file ends, None: there is none. Raises OSError, ValueError."""
    found = _BLOCK.search(file.read_text(encoding="ascii", errors="replace"))
    return last_day(ssl.PEM_cert_to_DER_cert(found[0])) if found else None


def certificate_of(
    host: str, port: int, timeout: float, *, ftp: bool = False, client: str = "", password: str | None = None
) -> bytes:
    """Return the certificate (DER) that a server shows; ``ftp``: after AUTH TLS. Raises OSError, ValueError.

    ``client`` is a PEM file with certificate and key, for servers that let nobody else in.
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if client:
        context.load_cert_chain(client, password=password or "")
    with socket.create_connection((host, port), timeout) as plain:
        if ftp:
            _read_reply(plain)
            plain.sendall(b"AUTH TLS\r\n")
            _read_reply(plain)
        with context.wrap_socket(plain, server_hostname=host) as link:
            return link.getpeercert(binary_form=True) or b""


def _read_reply(link: socket.socket) -> None:
    """Read one reply of an FTP server to its last line; raises ConnectionError where it is a refusal."""
    text = b""
    while not re.search(rb"^\d{3} [^\n]*\n\Z", text, re.MULTILINE):
        piece = link.recv(_LONGEST_REPLY)
        text += piece
        if not piece or len(text) > _LONGEST_REPLY:
            raise ConnectionError("no reply of an FTP server")
    if not text.startswith(b"2"):
        raise ConnectionError(text.decode("utf-8", "replace").strip())


def _element(data: bytes, at: int) -> tuple[int, int, int]:
    """Read one element of DER: its tag, where its content begins, where it ends. Raises ValueError."""
    if at + 2 > len(data):
        raise ValueError("cut off")
    tag, length, start = data[at], data[at + 1], at + 2
    if length & 0x80:
        count = length & 0x7F
        length = int.from_bytes(data[start : start + count], "big")
        start += count
    if start + length > len(data):
        raise ValueError("cut off")
    return tag, start, start + length
