"""Goes through a tar archive as it comes, piece by piece: every header checked, nothing believed. Writes nothing.

It knows the forms that GNU tar writes with ``--format=posix`` (ustar headers, pax records, ``GNU.dumpdir``,
``GNU.sparse`` 1.0). What an archive of this program cannot hold is refused: names out of the tree, what lies below a
link or below nothing, links out of the tree, renamings.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from isal.isal_zlib import adler32, crc32

from nanumpay_backupd.errors import VerifyError
from nanumpay_backupd.model import Content
from nanumpay_backupd.sources.files_tar import AGAIN, Tally, escape, line_of

__all__ = ["Member", "TarCheck", "TarWalk", "dump_entries", "headers_before"]

_BLOCK: Final = 512
_ZEROS: Final = bytes(_BLOCK)
_BLANKS: Final = 8 * 32
_ADLER: Final = 65521
_AGAIN: Final = AGAIN.encode()
_FOR_NEXT: Final = ord("x")
_LARGEST_RECORDS: Final = 256 << 20
"""Bytes of pax records: the names of one folder are among them."""
_DAY: Final = 86400
_KINDS: Final = {
    ord("0"): "-",
    0: "-",
    ord("7"): "-",
    ord("1"): "h",
    ord("2"): "l",
    ord("3"): "c",
    ord("4"): "b",
    ord("5"): "d",
    ord("6"): "p",
}
_HINT: Final = "do not rely on this backup; older verified ones are kept; run a new one now: backupctl run"


class Member:
    """One member: its name and that of a link's target as the archive has them, without a slash at their ends.

    ``kind`` is as in ``ls -l``, ``h`` a further name of a file that came before. ``size`` is that of the content,
    ``stored`` what of it is in the archive (`sparse`). ``seconds`` since 1970 and their ``fraction``, as digits, are
    its time of modification. ``records`` are the pax records.
    """

    __slots__ = ("_block", "fraction", "kind", "link", "mode", "name", "records", "seconds", "size", "sparse", "stored")

    def __init__(self, block: bytes, kind: str, size: int, records: dict[bytes, bytes]) -> None:
        """Put it together from its header and the pax records before that; raises ValueError, KeyError."""
        self._block = block
        self.kind = kind
        self.records = records
        self.mode = _number(block[100:108]) & 0o7777
        self.stored = self.size = 0 if kind != "-" else int(records[b"size"]) if b"size" in records else size
        self.sparse = b"GNU.sparse.major" in records
        if self.sparse:
            if records[b"GNU.sparse.major"] != b"1":
                raise ValueError("an unknown form of a sparse file")
            self.size = int(records[b"GNU.sparse.realsize"])
            name = records[b"GNU.sparse.name"]
        else:
            name = records.get(b"path") or _joined(block)
        self.name = name.rstrip(b"/")
        self.link = records.get(b"linkpath") or _text(block[157:257]) if kind in "lh" else b""
        time = records.get(b"mtime")
        if time is None:
            self.seconds, self.fraction = _number(block[136:148]), ""
        else:
            seconds, _, self.fraction = time.decode().partition(".")
            self.seconds = int(seconds)

    @property
    def entries(self) -> bytes | None:
        """Return what tar wrote of a folder's content (`dump_entries`), None: nothing."""
        return self.records.get(b"GNU.dumpdir")

    @property
    def device(self) -> str:
        """Return ``major,minor`` of a device, else nothing."""
        block = self._block
        return f"{_number(block[329:337])},{_number(block[337:345])}" if self.kind in "cb" else ""

    @property
    def user(self) -> int:
        """Return the number of its owner."""
        return int(self.records[b"uid"]) if b"uid" in self.records else _number(self._block[108:116])

    @property
    def group(self) -> int:
        """Return the number of its group."""
        return int(self.records[b"gid"]) if b"gid" in self.records else _number(self._block[116:124])

    @property
    def user_name(self) -> bytes:
        """Return the name of its owner, empty: it has none."""
        return self.records.get(b"uname") or _text(self._block[265:297])

    @property
    def group_name(self) -> bytes:
        """Return the name of its group, empty: it has none."""
        return self.records.get(b"gname") or _text(self._block[297:329])


def dump_entries(dumpdir: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the flag and the name of everything in a folder: ``Y`` archived, ``N`` not, ``D`` a folder."""
    for entry in dumpdir.split(b"\0"):
        if entry:
            yield chr(entry[0]), entry[1:]


class TarWalk:
    """Takes an archive in pieces, then ``b""``. Raises VerifyError. For subclasses: `member`, `content`, `ended`."""

    reads_content = True
    """Whether `content` is called at all."""

    def __init__(self) -> None:
        self._rest = b""
        self._skip = 0  # bytes of content, with its padding, still to come
        self._inside = 0  # of these, content
        self._collect: list[bytes] | None = None  # records of a header
        self._for = 0
        self._records: dict[bytes, bytes] = {}
        self._zeros = 0
        self._again = False
        self._days: dict[int, str] = {}

    def member(self, member: Member, *, again: bool) -> None:
        """Take a member; ``again``: it was there before, and this is what counts."""

    def content(self, piece: memoryview) -> None:
        """Take a piece of the last member's content, as it is stored."""

    def ended(self) -> None:
        """Take note that the last member's content is complete."""

    def __call__(self, piece: bytes, /) -> None:
        """Take the next piece of the archive."""
        if not piece:
            self._finish()
            return
        data = self._rest + piece if self._rest else piece
        at, size = 0, len(data)
        try:
            while True:
                if self._skip:
                    at = self._go_on(data, at, size)
                    if self._skip:
                        break
                if size - at < _BLOCK:
                    break
                at = self._header(data, at, size)
        except (ValueError, KeyError, IndexError) as error:
            raise _damaged(f"a header in it is nonsense ({error})") from None
        self._rest = data[at:]

    def text_of(self, member: Member) -> bytes:
        """Return what tar's listing says of a member (`files_tar.line_of`)."""
        day, second = divmod(member.seconds, _DAY)
        date = self._days.get(day)
        if date is None:
            date = self._days[day] = time.strftime("%Y-%m-%d", time.gmtime(member.seconds))
        clock = f"{date} {second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
        if member.fraction:
            clock = f"{clock}.{member.fraction}"
        name = escape(member.name)
        if member.kind == "d":
            name += b"/"
        elif member.kind == "l":
            name += b" -> " + escape(member.link)
        elif member.kind == "h":
            name += b" link to " + escape(member.link)
        return line_of(_mode(member.kind, member.mode), member.device or str(member.size), clock, name)

    def _go_on(self, data: bytes, at: int, size: int) -> int:
        """Take more of what came after a header before; returns where it goes on."""
        step = min(self._skip, size - at)
        take = min(self._inside, step)
        if self._collect is not None:
            self._collect.append(data[at : at + take])
        elif take and self.reads_content:
            self.content(memoryview(data)[at : at + take])
        self._inside -= take
        self._skip -= step
        if not self._skip:
            if self._collect is None:
                self.ended()
            else:
                records, self._collect = b"".join(self._collect), None
                self._note(self._for, records)
        return at + step

    def _header(self, data: bytes, at: int, size: int) -> int:
        """Take a header and, where all of it is there, what comes after it; returns where it goes on."""
        block = data[at : at + _BLOCK]
        at += _BLOCK
        if block == _ZEROS:
            self._zeros += 1
            return at
        if self._zeros:
            raise _damaged("something follows its end")
        # The sum of all bytes, its own counted as blanks; the lower half of Adler-32 is that, by its modulus.
        own = block[148:156]
        if adler32(block) & 0xFFFF != (int(own.strip(b"\0 "), 8) + sum(own) - _BLANKS + 1) % _ADLER:
            raise _damaged("a header in it is not what it was")
        kind = block[156]
        count = _number(block[124:136])
        if kind in b"xg":
            if not 0 < count <= _LARGEST_RECORDS:
                raise _damaged(f"a header claims {count} bytes")
            padded = -(-count // _BLOCK) * _BLOCK
            if padded <= size - at:
                self._note(kind, data[at : at + count])
                return at + padded
            self._collect, self._for, self._inside, self._skip = [], kind, count, padded
            return at
        stored = self._begin_member(block, kind, count)
        padded = -(-stored // _BLOCK) * _BLOCK
        if padded > size - at:
            self._inside, self._skip = stored, padded
            return at
        if stored and self.reads_content:
            self.content(memoryview(data)[at : at + stored])
        self.ended()
        return at + padded

    def _note(self, kind: int, data: bytes) -> None:
        """Keep the records that came with a header for the member that follows."""
        records = _records(data)
        if kind == _FOR_NEXT:
            self._records = records
        elif records.get(b"comment") == _AGAIN:
            self._again = True

    def _begin_member(self, block: bytes, kind: int, size: int) -> int:
        """Take a member's header; returns how many bytes of content follow."""
        records, self._records = self._records, {}
        shown = _KINDS.get(kind)
        if shown is None or block[257:262] != b"ustar":
            raise _damaged(f"it holds a member of the unknown kind {chr(kind)!r}")
        member = Member(block, shown, size, records)
        if member.stored < 0:
            raise _damaged(f"a header claims {member.stored} bytes")
        _check_name(member.name)
        self.member(member, again=self._again)
        return member.stored

    def _finish(self) -> None:
        if self._skip or self._rest:
            raise _damaged("it is cut off")
        if self._zeros < 2:
            raise _damaged("its end is missing")


class TarCheck(TarWalk):
    """The checker of a whole archive (`sources.base.Checker`): what it holds by root, and that all of it is in order.

    A root is a folder that is in no other one. Takes memory for the names of folders and links.
    """

    reads_content = False

    def __init__(self) -> None:
        super().__init__()
        self._crc = 0
        self._tallies: dict[bytes, Tally] = {}
        self._folders: dict[bytes, Tally] = {}
        self._links: set[bytes] = set()

    def __call__(self, piece: bytes, /) -> None:
        """See `TarWalk`."""
        self._crc = crc32(piece, self._crc)
        super().__call__(piece)

    @property
    def digest(self) -> str:
        """Return the CRC-32 of the archive so far; the SHA-256 of the artifact is the pipeline's."""
        return f"{self._crc:08x}"

    @property
    def count(self) -> int:
        """Return how many members are no folders, each counted once."""
        return sum(tally.items for tally in self._tallies.values())

    @property
    def parts(self) -> dict[str, Content]:
        """Return what was found, by root."""
        return {tally.name: tally.content for tally in self._tallies.values()}

    def member(self, member: Member, *, again: bool) -> None:
        """See `TarWalk.member`."""
        name = member.name
        tally = self._folders.get(name[: name.rfind(b"/")]) if b"/" in name else None
        if tally is None:
            if member.kind != "d":
                raise _refused(name, "is in no folder of the archive")
            tally = self._tallies[name] = Tally(name)
        if member.kind == "d":
            if name in self._links:
                raise _refused(name, "is a link and a folder")
            self._folders[name] = tally
            _check_entries(member)
        elif name in self._folders:
            raise _refused(name, "is a folder and something else")
        elif member.kind == "l":
            self._links.add(name)
        elif member.kind == "h":
            _check_name(member.link)
            if member.link[: member.link.rfind(b"/")] not in self._folders:
                raise _refused(name, f"is a link to {member.link!r}, out of the tree")
        tally.add(member.kind, member.size, self.text_of(member), again=again)


def headers_before(data: bytes) -> int:
    """Return how many blocks the headers of an archive's first member have; 0: there is none, or it is sparse."""
    at = 0
    while len(block := data[at : at + _BLOCK]) == _BLOCK and block != _ZEROS:
        at += _BLOCK
        if block[156] not in b"xg":
            return at // _BLOCK
        size = _number(block[124:136])
        if b"GNU.sparse." in data[at : at + size]:
            return 0
        at += -(-size // _BLOCK) * _BLOCK
    return 0


def _joined(block: bytes) -> bytes:
    name, prefix = _text(block[:100]), _text(block[345:500])
    return prefix + b"/" + name if prefix else name


def _text(data: bytes) -> bytes:
    return data.partition(b"\0")[0]


def _number(data: bytes) -> int:
    """Read a number of a header: octal, or in base 256 where the first bit says so."""
    if data[-1] in b"\0 " and data[:-1].isdigit():
        return int(data[:-1], 8)
    if data[0] & 0x80:
        value = int.from_bytes(data, "big")
        bits = 8 * len(data)
        return value - (1 << bits) if data[0] == 0xFF else value & ~(1 << (bits - 1))
    return int(data.strip(b"\0 ") or b"0", 8)


def _records(data: bytes) -> dict[bytes, bytes]:
    """Read pax records: ``length key=value`` and a line feed, each."""
    found, at = {}, 0
    try:
        while at < len(data):
            blank = data.index(b" ", at, at + 20)
            end = at + int(data[at:blank])
            key, equals, value = data[blank + 1 : end - 1].partition(b"=")
            if end <= blank or data[end - 1 : end] != b"\n" or not equals:
                raise ValueError("a record that does not end")
            found[key] = value
            at = end
    except ValueError as error:
        raise _damaged(f"a header in it is nonsense ({error})") from None
    return found


_modes: dict[tuple[str, int], str] = {}


def _mode(kind: str, mode: int) -> str:
    """Return it as ``ls -l`` does."""
    text = _modes.get((kind, mode))
    if text is None:
        letters = ["r", "w", "x"] * 3
        for at in range(9):
            if not mode & (0o400 >> at):
                letters[at] = "-"
        for bit, at, letter in ((0o4000, 2, "s"), (0o2000, 5, "s"), (0o1000, 8, "t")):
            if mode & bit:
                letters[at] = letter if letters[at] == "x" else letter.upper()
        text = _modes[kind, mode] = kind + "".join(letters)
    return text


def _check_name(name: bytes) -> None:
    """Refuse a name that leads out of the place where the archive is unpacked."""
    if not name or name.startswith(b"/") or b"//" in name or b"\0" in name:
        raise _refused(name, "is no name in a tree")
    if b"." in name and not {b"..", b"."}.isdisjoint(name.split(b"/")):
        raise _refused(name, "leads out of the tree")


def _check_entries(member: Member) -> None:
    """Refuse what tar would do to other names than those in a folder when it goes on with a chain."""
    entries = member.entries
    if entries is None:
        return
    for flag, name in dump_entries(entries):
        if flag not in "YND":
            raise _refused(member.name, f"says that something was renamed ({flag})")
        if b"/" in name or name in (b".", b".."):
            raise _refused(member.name, f"lists {name!r}")


def _damaged(what: str) -> VerifyError:
    return VerifyError(f"the archive is damaged: {what}", hint=_HINT, code="verify-structure")


def _refused(name: bytes, what: str) -> VerifyError:
    shown = escape(name[:200]).decode("ascii", "replace")
    return VerifyError(f"the archive is not one of this program: {shown!r} {what}", hint=_HINT, code="verify-structure")
