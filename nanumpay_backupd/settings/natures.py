"""Pure: on which medium the copies at a place lie, and whether it is off-site; by what is said of it, else by where."""

from __future__ import annotations

import ipaddress
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from nanumpay_backupd.settings.destinations import Destination, LocalDestination, ResticDestination

__all__ = ["DISK", "Standing", "standing_of"]

DISK: Final = "disk"
"""The medium of the data itself, and of the backups folder."""
_MOUNTED: Final = "mounted-disk"
_ADDRESSES: Final = ("host", "endpoint_url", "url", "endpoint")
"""Fields of a destination that may say where its server is, whatever its type."""
_OWN: Final = (".local", ".lan", ".internal", ".intranet", ".home", ".corp", ".home.arpa", ".localdomain")


class Standing(NamedTuple):
    """``media`` is what the copies lie on, ``offsite`` whether that is elsewhere than this host."""

    media: str
    offsite: bool


def standing_of(destination: Destination | None) -> Standing:
    """Return what a place counts as; None: the backups folder.

    What is said of it (`DestinationSettings`) counts first. Else a folder is on this host, and anything else
    off-site unless its address is a private one, or a name that only the own network has.
    """
    if destination is None:
        return Standing(DISK, offsite=False)
    if isinstance(destination, LocalDestination):
        media, offsite = _MOUNTED if destination.require_mount else DISK, False
    elif isinstance(destination, ResticDestination):
        media = DISK if destination.folder else "restic"
        server = destination.server
        offsite = not destination.folder and (server is None or _is_elsewhere(server.host))
    else:
        media = str(destination.__struct_config__.tag)
        offsite = all(_is_elsewhere(str(getattr(destination, name, ""))) for name in _ADDRESSES)
    said = destination.offsite
    return Standing(destination.media or media, offsite if said is None else said)


def _is_elsewhere(address: str) -> bool:
    """Tell whether an address (a host's name, or an URL) leads out of the own network; none does not lead anywhere."""
    host = (urlsplit(address).hostname if "://" in address else address) or ""
    host = host.strip("[]").rstrip(".").lower()
    if not host:
        return True
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return "." in host and not host.endswith(_OWN)
