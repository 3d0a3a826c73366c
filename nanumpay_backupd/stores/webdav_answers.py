"""What a WebDAV server answers to PROPFIND: one entry for each thing, as servers write them. Asks nobody."""

from __future__ import annotations

import email.utils
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree as ET

__all__ = ["FIND", "Entry", "read_multistatus"]

_DAV: Final = "{DAV:}"
_OWNCLOUD: Final = "{http://owncloud.org/ns}"
FIND: Final = (
    b'<?xml version="1.0" encoding="utf-8"?><propfind xmlns="DAV:" xmlns:o="http://owncloud.org/ns"><prop>'
    b"<getcontentlength/><resourcetype/><getlastmodified/><quota-available-bytes/><o:checksums/></prop></propfind>"
)
"""What is asked for."""


class Entry:
    """What a server says of one thing: its name (the last part of its address), its size, whether it is a folder.

    ``sha1``: the checksum that ownCloud worked out, in small hex; ``modified`` is in UTC; empty or None: not told.
    """

    __slots__ = ("folder", "modified", "name", "room", "sha1", "size")

    def __init__(
        self,
        name: str,
        size: int,
        room: int | None,
        *,
        folder: bool,
        sha1: str = "",
        modified: datetime | None = None,
    ) -> None:
        self.name = name
        self.size = size
        self.room = room
        self.folder = folder
        self.sha1 = sha1
        self.modified = modified


def read_multistatus(chunks: Iterator[bytes], own: str | None) -> Iterator[Entry]:
    """Yield the entries of an answer to PROPFIND, without the one whose path is ``own``; what was read is let go.

    Raises ET.ParseError or ValueError where it is none.
    """
    parser: ET.XMLPullParser[ET.Element] = ET.XMLPullParser(("end",))
    for chunk in chunks:
        parser.feed(chunk)
        yield from _entries(parser, own)
    parser.close()
    yield from _entries(parser, own)


def _entries(parser: ET.XMLPullParser[ET.Element], own: str | None) -> Iterator[Entry]:
    for event in parser.read_events():
        element: object = event[-1]
        assert isinstance(element, ET.Element)
        if element.tag != f"{_DAV}response":
            continue
        # Whole addresses are as good as paths (RFC 4918, 8.3).
        path = unquote(urlsplit((element.findtext(f"{_DAV}href") or "").strip()).path).rstrip("/")
        if path != own:
            yield _entry(path, element)
        element.clear()


def _entry(path: str, element: ET.Element) -> Entry:
    size, room, folder, sha1, modified = 0, None, False, "", None
    for found in element.iter(f"{_DAV}propstat"):
        if " 200 " not in f"{found.findtext(f'{_DAV}status') or ' 200'} ":
            continue
        folder = folder or found.find(f"{_DAV}prop/{_DAV}resourcetype/{_DAV}collection") is not None
        size = int(found.findtext(f"{_DAV}prop/{_DAV}getcontentlength") or size)
        free = found.findtext(f"{_DAV}prop/{_DAV}quota-available-bytes")
        # Nextcloud says -3 for no limit.
        room = int(free) if free and not free.startswith("-") else room
        modified = _moment(found.findtext(f"{_DAV}prop/{_DAV}getlastmodified")) or modified
        for sums in found.iter(f"{_OWNCLOUD}checksum"):
            words = (word.lower() for word in (sums.text or "").split())
            sha1 = next((word.removeprefix("sha1:") for word in words if word.startswith("sha1:")), sha1)
    return Entry(path.rpartition("/")[2], size, room, folder=folder, sha1=sha1, modified=modified)


def _moment(text: str | None) -> datetime | None:
    """Return the moment of a date as HTTP writes it, None: it is none."""
    try:
        found = email.utils.parsedate_to_datetime(text or "")
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
