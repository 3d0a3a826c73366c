"""Goes through a tar archive as it comes, piece by piece: every header checked, nothing believed. Writes nothing.

It knows the forms that GNU tar writes with ``--format=posix`` (ustar headers, pax records, ``GNU.dumpdir``,
``GNU.sparse`` 1.0). What an archive of this program cannot hold is refused: names out of the tree, what lies below a
link or below nothing, links out of the tree, renamings.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from nanumpay_backupd.errors import VerifyError
from nanumpay_backupd.model import Content
from nanumpay_backupd.sources.files_tar import AGAIN, Tally, escape, line_of

__all__ = ["Member", "TarCheck", "TarWalk", "dump_entries", "headers_before"]

_BLOCK: Final = 512
_ZEROS: Final = bytes(_BLOCK)
_BLANKS_FOR_SUM: Final = 8 * 32
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


@dataclass(slots=True)
class Member:
    """One member: its name and that of a link's target as the archive has them, without a slash at their ends.

    ``kind`` is as in ``ls -l``, ``h`` a further name of a file that came before. ``size`` is that of the content,
    ``stored`` what of it is in the archive (`sparse`). ``time`` is seconds and their fraction as text. ``records`` are
    the pax records.
    """

    name: bytes
    kind: str
    mode: int
    size: int
    stored: int
    seconds: int
    fraction: str
    link: bytes
    device: str
    user: int
    group: int
    user_name: bytes
    group_name: bytes
    sparse: bool
    records: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def entries(self) -> bytes | None:
        """Return what tar wrote of a folder's content (`dump_entries`), None: nothing."""
        return self.records.get(b"GNU.dumpdir")


def dump_entries(dumpdir: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the flag and the name of everything in a folder: ``Y`` archived, ``N`` not, ``D`` a folder."""
    for entry in dumpdir.split(b"\0"):
        if entry:
            yield chr(entry[0]), entry[1:]


class TarWalk:
    """Takes an archive in pieces, then ``b""``. Raises VerifyError. For subclasses: `member`, `content`, `ended`."""

    def __init__(self) -> None:
        self._rest = b""
        self._skip = 0  # bytes of content, with its padding, still to come
        self._inside = 0  # of these, content
        self._collect: list[bytes] | None = None
        self._collected = b""
        self._for = 0
        self._records: dict[bytes, bytes] = {}
        self._member: Member | None = None
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
        while True:
            if self._skip:
                step = min(self._skip, size - at)
                if self._inside:
                    self._take(data, at, step)
                self._skip -= step
                at += step
                if self._skip:
                    break
                self._complete()
            if size - at < _BLOCK:
                break
            self._header(data[at : at + _BLOCK])
            at += _BLOCK
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

    def _take(self, data: bytes, at: int, step: int) -> None:
        take = min(self._inside, step)
        self._inside -= take
        if self._collect is not None:
            self._collect.append(data[at : at + take])
        else:
            self.content(memoryview(data)[at : at + take])

    def _complete(self) -> None:
        """Deal with what came after a header."""
        if self._collect is None:
            self._member = None
            self.ended()
            return
        data, self._collect = b"".join(self._collect), None
        if self._for == ord("x"):
            self._records = _records(data)
        elif _records(data).get(b"comment", b"").decode("utf-8", "replace") == AGAIN:
            self._again = True

    def _header(self, block: bytes) -> None:
        if block == _ZEROS:
            self._zeros += 1
            return
        if self._zeros:
            raise _damaged("something follows its end")
        try:
            kind = block[156]
            checksum = int(block[148:156].strip(b"\0 "), 8)
            if sum(block) - sum(block[148:156]) + _BLANKS_FOR_SUM != checksum:
                raise _damaged("a header in it is not what it was")
            size = _number(block[124:136])
            if kind in b"xg":
                self._begin(kind, size)
                return
            self._begin_member(block, kind, size)
        except (ValueError, IndexError) as error:
            raise _damaged(f"a header in it is nonsense ({error})") from None

    def _begin(self, kind: int, size: int) -> None:
        if not 0 < size <= _LARGEST_RECORDS:
            raise _damaged(f"a header claims {size} bytes")
        self._collect, self._for = [], kind
        self._inside, self._skip = size, -(-size // _BLOCK) * _BLOCK

    def _begin_member(self, block: bytes, kind: int, size: int) -> None:
        records, self._records = self._records, {}
        shown = _KINDS.get(kind)
        if shown is None or block[257:262] != b"ustar":
            raise _damaged(f"it holds a member of the unknown kind {chr(kind)!r}")
        member = _member(block, shown, size, records)
        _check_name(member.name)
        self._member = member
        self.member(member, again=self._again)
        if member.stored:
            self._inside, self._skip = member.stored, -(-member.stored // _BLOCK) * _BLOCK
        else:
            self.ended()

    def _finish(self) -> None:
        if self._skip or self._rest:
            raise _damaged("it is cut off")
        if self._zeros < 2:
            raise _damaged("its end is missing")


class TarCheck(TarWalk):
    """The checker of a whole archive (`sources.base.Checker`): what it holds by root, and that all of it is in order.

    A root is a folder that is in no other one. Takes memory for the names of folders and links.
    """

    def __init__(self) -> None:
        super().__init__()
        self._tallies: dict[bytes, Tally] = {}
        self._folders: dict[bytes, Tally] = {}
        self._links: set[bytes] = set()

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


def _member(block: bytes, kind: str, size: int, records: dict[bytes, bytes]) -> Member:
    """Put a member together from its header and the pax records before it."""
    stored = int(records[b"size"]) if b"size" in records else size
    if kind != "-":
        stored = 0
    sparse = b"GNU.sparse.realsize" in records
    if any(key.startswith(b"GNU.sparse.") for key in records):
        if records.get(b"GNU.sparse.major") != b"1" or not sparse:
            raise ValueError("an unknown form of a sparse file")
        name = records[b"GNU.sparse.name"]
    else:
        name = records.get(b"path") or _joined(block)
    seconds, _, fraction = (records[b"mtime"].decode() if b"mtime" in records else "").partition(".")
    device = f"{_number(block[329:337])},{_number(block[337:345])}" if kind in "cb" else ""
    return Member(
        name=name.rstrip(b"/"),
        kind=kind,
        mode=_number(block[100:108]) & 0o7777,
        size=int(records[b"GNU.sparse.realsize"]) if sparse else stored,
        stored=stored,
        seconds=int(seconds) if seconds else _number(block[136:148]),
        fraction=fraction,
        link=records.get(b"linkpath") or _text(block[157:257]),
        device=device,
        user=int(records[b"uid"]) if b"uid" in records else _number(block[108:116]),
        group=int(records[b"gid"]) if b"gid" in records else _number(block[116:124]),
        user_name=records.get(b"uname") or _text(block[265:297]),
        group_name=records.get(b"gname") or _text(block[297:329]),
        sparse=sparse,
        records=records,
    )


def _joined(block: bytes) -> bytes:
    name, prefix = _text(block[:100]), _text(block[345:500])
    return prefix + b"/" + name if prefix else name


def _text(data: bytes) -> bytes:
    return data.partition(b"\0")[0]


def _number(data: bytes) -> int:
    """Read a number of a header: octal, or in base 256 where the first bit says so."""
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
