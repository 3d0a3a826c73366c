"""Kinds of value that say where figures and pages are to be had: addresses of this host, public ones, paths, a file."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Final

from nanumpay_backupd.settings.kinds import Kind, Place
from nanumpay_backupd.settings.problems import Mismatch, show

__all__ = ["BasePath", "LoopbackAddress", "PublicAddress", "TextFile"]

_LONGEST: Final = 90
"""Bytes of a socket's path; the kernel takes 107, and a temporary name is made beside it."""
_ADDRESS: Final = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<four>[^:\s\[\]/]+)):(?P<port>[0-9]{1,5})")
_PUBLIC: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?/?"
)
_PORTS: Final = {"https": 443, "http": 80}
_PATH: Final = re.compile(r"(?:/[A-Za-z0-9._~-]*[A-Za-z0-9_~-])+")
_PROXY: Final = (
    "write 127.0.0.1:PORT; who shall fetch from elsewhere goes through a reverse proxy with TLS and a password, "
    "or through node_exporter (docs/monitoring.md)"
)


class LoopbackAddress(Kind):
    """A loopback address with its port, or the path of a Unix socket; empty for none."""

    expected = "127.0.0.1:PORT, [::1]:PORT, the absolute path of a socket, or empty"
    example = '"127.0.0.1:9618"'

    def __init__(self, fix: str = _PROXY) -> None:
        """``fix`` is the advice to who wants it to be reached from elsewhere."""
        self._fix = fix

    def parse(self, value: object, place: Place) -> str:  # noqa: ARG002 - the contract of Kind
        """Return the address as ``host:port``, of IPv6 with brackets, or the path."""
        if value == "":
            return ""
        if not isinstance(value, str):
            raise self.mismatch(value)
        text = value.strip()
        if text.startswith("/"):
            return self._path(text)
        match = _ADDRESS.fullmatch(text)
        if match is None or not 0 < int(match["port"]) < 1 << 16:
            raise self.mismatch(value)
        return self._address(text, match["four"] or match["six"], int(match["port"]))

    def _path(self, text: str) -> str:
        if "\0" in text or ".." in Path(text).parts:
            raise self.mismatch(text)
        if len(text.encode()) > _LONGEST:
            raise Mismatch(f"is longer than {_LONGEST} bytes, which no socket's path may be", "write a shorter path")
        return str(Path(text))

    def _address(self, text: str, host: str, port: int) -> str:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            # What a name means is decided elsewhere, and may change.
            raise Mismatch(f"is {show(text)}, but a name is no address", "write 127.0.0.1 instead of a name") from None
        if not address.is_loopback:
            raise Mismatch(f"is {show(text)}, which is not an address of this host only", self._fix)
        return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


class PublicAddress(Kind):
    """Scheme, host and port as people type them; empty for none."""

    expected = "https://HOST or https://HOST:PORT, without a path, or empty"
    example = '"https://backup.example.com"'

    def parse(self, value: object, place: Place) -> str:  # noqa: ARG002 - the contract of Kind
        """Return it in lower case, without a port that the scheme means anyway."""
        if value == "":
            return ""
        if not isinstance(value, str) or (match := _PUBLIC.fullmatch(value.strip().lower())) is None:
            raise self.mismatch(value)
        port = int(match["port"]) if match["port"] else _PORTS[match["scheme"]]
        if not 0 < port < 1 << 16:
            raise self.mismatch(value)
        shown = "" if port == _PORTS[match["scheme"]] else f":{port}"
        return f"{match['scheme']}://{match['host']}{shown}"


class BasePath(Kind):
    """The path of a page at its server; empty for the root."""

    expected = "a path such as /backup, or empty"
    example = '"/backup"'

    def parse(self, value: object, place: Place) -> str:  # noqa: ARG002 - the contract of Kind
        """Return it without a slash at its end."""
        if not isinstance(value, str):
            raise self.mismatch(value)
        text = value.strip().rstrip("/")
        if text and _PATH.fullmatch(text) is None:
            raise self.mismatch(value)
        return text


class TextFile(Kind):
    """The path of a file that node_exporter reads; empty for none."""

    expected = "an absolute path that ends in .prom, or empty"
    example = '"/var/lib/prometheus/node-exporter/nanumpay-backupd.prom"'

    def parse(self, value: object, place: Place) -> str:  # noqa: ARG002 - the contract of Kind
        """Return the path."""
        if value == "":
            return ""
        path = Path(value) if isinstance(value, str) else None
        if path is None or not path.is_absolute() or "\0" in str(value) or ".." in path.parts or path.suffix != ".prom":
            raise self.mismatch(value)
        return str(path)
