"""Compares a server that loaded append-only files with what those files say for certain. Replays no command itself.

What commands lead to only a server can tell. But a key of the base whose name stands in no command after it is as the
base has it: type, time of expiry, value. Those are compared; the others are counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from xxhash import xxh3_64_intdigest

from nanumpay_backupd.model import Manifest
from nanumpay_backupd.settings.sources import RedisSource
from nanumpay_backupd.sources.base import Comparison
from nanumpay_backupd.sources.redis_aof import AofWalk
from nanumpay_backupd.sources.redis_compare import compare_lots
from nanumpay_backupd.sources.redis_keys import Keys, keys_in
from nanumpay_backupd.sources.redis_link import Link, look_at

__all__ = ["Named", "compare_aof"]

_PIECE: Final = 1 << 20
_BITS: Final = 1 << 26
_ANYTHING: Final = frozenset({b"FLUSHALL", b"FLUSHDB", b"SWAPDB", b"EVAL", b"EVALSHA", b"FCALL", b"DEBUG"})
"""Commands that change keys that they do not name; before 7.0 scripts stand in the file as they were called."""


class Named:
    """The words in commands, of which some are names of keys; in 8 MiB however many they are.

    It forgets none, and takes a few for known that are not: those keys are counted only.
    """

    def __init__(self) -> None:
        self.anything = False
        """A command is among them that can change any key."""
        self._bits = bytearray(_BITS >> 3)

    def add(self, data: bytes, at: int) -> None:
        """Take the command at ``at``, which is whole."""
        stop = data.index(b"\r\n", at)
        count, at = int(data[at + 1 : stop]), stop + 2
        bits = self._bits
        for number in range(count):
            stop = data.index(b"\r\n", at)
            begin = stop + 2
            end = begin + int(data[at + 1 : stop])
            at = end + 2
            if number:
                mark = xxh3_64_intdigest(data[begin:end])
                for place in (mark % _BITS, (mark >> 32) % _BITS):
                    bits[place >> 3] |= 1 << (place & 7)
            elif data[begin:end].upper() in _ANYTHING:
                self.anything = True

    def __contains__(self, name: bytes) -> bool:
        mark = xxh3_64_intdigest(name)
        return all(self._bits[place >> 3] >> (place & 7) & 1 for place in (mark % _BITS, (mark >> 32) % _BITS))


def compare_aof(settings: RedisSource, folder: Path, manifest: Manifest) -> Comparison:
    """Compare the server that loaded the files in ``folder``; raises SourceError, VerifyError, OSError.

    What is compared is counted; ``unknown`` are the other keys that the server has.
    """
    with Link(settings) as link:
        server = look_at(link)
    total = sum(server.keys.values())
    if server.info.get("aof_enabled") != "1" or server.info.get("aof_last_write_status") != "ok":
        return Comparison(total, len(server.keys), ("the server did not load the append-only files",))
    files = [folder / part.file for part in manifest.source.parts]
    named = Named()
    for path in files:
        _walk(path, named)
    if named.anything or not files or not _has_keys(files[0]):
        return Comparison(0, len(server.keys), unknown=total)
    found = compare_lots(settings, lambda: _sure(files[0], named))
    compared = found.documents - found.unknown
    return Comparison(compared, len(server.keys), found.differences, unknown=max(0, total - compared))


def _walk(path: Path, named: Named) -> None:
    walk = AofWalk(path.name, on_command=named.add)
    with path.open("rb", buffering=0) as stream:
        while piece := stream.read(_PIECE):
            walk(piece)


def _has_keys(path: Path) -> bool:
    """Tell whether a file begins with keys, as in an RDB file, and not with commands."""
    with path.open("rb") as stream:
        return stream.read(5) == b"REDIS"


def _sure(path: Path, named: Named) -> Iterator[Keys]:
    for keys in keys_in(path):
        if isinstance(keys, Keys):
            yield keys.at([at for at, name in enumerate(keys.names) if name not in named])
