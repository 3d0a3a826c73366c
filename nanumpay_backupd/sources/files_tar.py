"""What GNU tar is asked, and what it says: command lines, its listing, its messages. Runs nothing.

Names in the listing are escaped (``--quoting-style=escape`` in the C locale), so every byte comes through.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final, NamedTuple

from nanumpay_backupd.errors import ToolError
from nanumpay_backupd.model import Content

__all__ = [
    "AGAIN",
    "BLOCKING",
    "CHANGED",
    "NOTHING",
    "OTHER",
    "RENAMED",
    "SOCKET",
    "UNREADABLE",
    "VANISHED",
    "Last",
    "Listing",
    "Said",
    "Tally",
    "again_command",
    "create_command",
    "escape",
    "extract_command",
    "first_command",
    "line_of",
    "read_last",
    "read_said",
    "tar_version",
    "unescape",
]

AGAIN: Final = "nanumpay-backupd: again"
"""The comment (a global header, POSIX.1-2001) before files that are in the archive a second time."""
BLOCKING: Final = 128
"""Blocks of 512 bytes that tar writes at once, and a multiple of which the archive has."""
_OLDEST: Final = (1, 30)
_LISTED: Final = re.compile(
    rb"^block \d+: (.{10}).*? (\d+(?:,\d+)?) (-?\d{4,}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?) +/?([^\n]*)\n", re.MULTILINE
)
_LAST: Final = re.compile(
    rb"block (?P<block>\d+): (?P<kind>.)(.{9}).*? (?P<size>\d+)(?:,\d+)? -?\d{4,}-\S+ \S+ +/?(?P<name>.*)\n"
)
_ESCAPE: Final = re.compile(rb"\\([0-7]{3}|.)", re.DOTALL)
_ODD: Final = re.compile(rb"[^ -\[\]-~]")
_LETTERS: Final = {b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_ESCAPES: Final = {**{byte: b"\\" + letter for letter, byte in _LETTERS.items()}, b"\\": b"\\\\"}


class Last(NamedTuple):
    """The last member that was listed: the block of 512 bytes at which it begins, its kind, bytes and name."""

    block: int
    kind: str
    size: int
    name: bytes


class Said(NamedTuple):
    """A message of tar, understood: ``what`` is one of the words below; ``text`` is for people."""

    what: str
    name: str
    text: str


CHANGED: Final = "changed"
VANISHED: Final = "vanished"
UNREADABLE: Final = "unreadable"
SOCKET: Final = "socket"
RENAMED: Final = "renamed"
NOTHING: Final = "nothing"
OTHER: Final = "other"


def create_command(
    tar: str,
    roots: Sequence[str],
    *,
    state: str,
    excludes: str,
    odd_excludes: Iterable[str],
    names: Iterable[str],
    xattrs: bool,
    one_file_system: bool,
    check_device: bool,
) -> list[str]:
    """Return the command that writes the archive of the roots to standard output.

    ``excludes`` is a file of exact paths, ``odd_excludes`` those that cannot stand in it, ``names`` patterns of names
    that are left out anywhere.
    """
    command = [tar, "--create", f"--listed-incremental={state}", *_form(xattrs=xattrs), "--index-file=/dev/fd/{index}"]
    command += ["--warning=no-new-directory"]
    command += ["--one-file-system"] if one_file_system else []
    command += [] if check_device else ["--no-check-device"]
    command += ["--anchored", "--no-wildcards", f"--exclude-from={excludes}"]
    command += [f"--exclude={path}" for path in odd_excludes]
    command += ["--no-anchored", "--wildcards", "--no-wildcards-match-slash"]
    command += [f"--exclude={name}" for name in names]
    # What is said of patterns holds for the roots as well.
    return [*command, "--anchored", "--no-wildcards", "--", *roots]


def again_command(tar: str, listed: str, *, xattrs: bool) -> list[str]:
    """Return the command that writes the files, whose names end in NUL in the file ``listed``, once more."""
    return [
        tar,
        "--create",
        *_form(xattrs=xattrs, comment=AGAIN),
        "--index-file=/dev/fd/{index}",
        "--no-recursion",
        "--null",
        f"--files-from={listed}",
    ]


def first_command(tar: str, listed: str, *, xattrs: bool) -> list[str]:
    """Return the command that writes the files named in ``listed`` as `create_command` would, and lists nothing."""
    form = _form(xattrs=xattrs)
    return [tar, "--create", *form, "--index-file=/dev/null", "--no-recursion", "--null", f"--files-from={listed}"]


def extract_command(tar: str, folder: str, names: Sequence[str], *, xattrs: bool, owners: bool) -> list[str]:
    """Return the command that brings an archive from standard input into ``folder``, as the next one of a chain."""
    command = [tar, "--extract", "--listed-incremental=/dev/null", f"--directory={folder}", "--preserve-permissions"]
    command += ["--xattrs", "--xattrs-include=*", "--acls"] if xattrs else []
    command += ["--same-owner" if owners else "--no-same-owner"]
    return [*command, "--no-wildcards", "--quoting-style=escape", "--file=-", "--", *names]


def _form(*, xattrs: bool, comment: str = "") -> list[str]:
    said = f",comment={comment}" if comment else ""
    return [
        "--format=posix",
        # Times of access say nothing, and a name that is the same each time is half as long.
        f"--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime{said}",
        "--sparse",
        *(["--xattrs", "--xattrs-include=*", "--acls"] if xattrs else []),
        "--quoting-style=escape",
        "--full-time",
        "--utc",
        "--verbose",
        "--verbose",
        "--block-number",
        f"--blocking-factor={BLOCKING}",
        "--file=-",
    ]


def tar_version(said: str, tar: str) -> str:
    """Return the version of GNU tar from what ``--version`` says; raises ToolError."""
    match = re.match(r"tar \(GNU tar\) (\d+)\.(\d+)", said)
    if match is None:
        raise ToolError(f"{tar} is not GNU tar", hint="install GNU tar (apt-get install tar), or name it: [tools] tar")
    if (int(match[1]), int(match[2])) < _OLDEST:
        raise ToolError(
            f"{tar} is {match[1]}.{match[2]}", hint="1.30 or newer is needed: apt-get install tar", code="tool-too-old"
        )
    return f"{match[1]}.{match[2]}"


def escape(name: bytes) -> bytes:
    """Write a name as tar lists it."""
    if _ODD.search(name) is None:
        return name
    return _ODD.sub(lambda match: _ESCAPES.get(match[0]) or b"\\%03o" % ord(match[0]), name)


def unescape(name: bytes) -> bytes:
    """Read a name as tar lists it."""

    def plain(match: re.Match[bytes]) -> bytes:
        code = match[1]
        return bytes([int(code, 8)]) if len(code) > 1 else _LETTERS.get(code, code)

    return _ESCAPE.sub(plain, name)


def read_last(line: bytes) -> Last | None:
    """Understand one line of a listing."""
    match = _LAST.fullmatch(line)
    if match is None:
        return None
    return Last(int(match["block"]), match["kind"].decode(), int(match["size"]), unescape(match["name"]))


def read_said(line: bytes) -> Said:
    """Understand a line of standard error."""
    text = line.decode("utf-8", "backslashreplace")
    bare = text.partition(": ")[2] or text
    if (
        bare.startswith(("Removing leading `/'", "Exiting with failure", "Total bytes", "A lone zero"))
        or "is on a different filesystem" in bare
        or "contains a cache directory tag" in bare
        or "Directory is new" in bare
    ):
        return Said(NOTHING, "", bare)
    for pattern, what in _MEANT:
        match = pattern.fullmatch(bare)
        if match is not None:
            return Said(what, match["name"], match["text"])
    return Said(OTHER, "", bare)


_MEANT: Final = (
    (re.compile(r"(?P<name>.*): (?P<text>file changed as we read it)", re.DOTALL), CHANGED),
    (re.compile(r"(?P<name>.*): (?P<text>File shrank by \d+ bytes; padding with zeros)", re.DOTALL), CHANGED),
    (re.compile(r"(?P<name>.*): (?P<text>File removed before we read it)", re.DOTALL), VANISHED),
    (
        re.compile(r"(?P<name>.*): (?:Warning: )?(?P<text>Cannot \w+: No such file or directory)", re.DOTALL),
        VANISHED,
    ),
    (re.compile(r"(?P<name>.*): (?P<text>socket ignored|door ignored)", re.DOTALL), SOCKET),
    (re.compile(r"(?P<name>.*): (?P<text>Directory has been renamed(?: from .*)?)", re.DOTALL), RENAMED),
    (re.compile(r"(?P<name>.*): (?:Warning: )?(?P<text>Cannot [^:]*: .*)", re.DOTALL), UNREADABLE),
    (re.compile(r"(?P<name>.*): (?:Warning: )?(?P<text>Read error at byte .*)", re.DOTALL), UNREADABLE),
    (re.compile(r"(?P<name>.*): (?P<text>Unknown file type; file ignored)", re.DOTALL), UNREADABLE),
)


class Tally:
    """What is in an archive below one root: how many that are no folders, and a digest of all that tar lists of them.

    The digest is fed by the listing when an archive is made, and by its headers when it is read; both have to agree.
    ``bytes`` are those of the contents.
    """

    def __init__(self, root: bytes) -> None:
        self.name = f"/{root.decode('utf-8', 'backslashreplace')}"
        self.items = 0
        self.folders = 0
        self.bytes = 0
        self._digest = hashlib.sha256()

    def add(self, kind: str, size: int, line: bytes, *, again: bool = False) -> None:
        """Count a member; one that is there ``again`` is not counted twice. ``line`` is that of `line_of`."""
        self._digest.update(line)
        if kind == "d":
            self.folders += 1
        elif not again:
            self.items += 1
            self.bytes += size

    def add_listed(self, found: list[tuple[bytes, bytes, bytes, bytes]], *, again: bool = False) -> None:
        """Count members of a listing: mode, size, time and name of each."""
        self._digest.update(b"\0".join(chain.from_iterable(found)) + b"\0")
        folders = sum(1 for mode, _, _, _ in found if mode[:1] == b"d")
        self.folders += folders
        if not again:
            self.items += len(found) - folders
            self.bytes += sum(int(size) for _, size, _, _ in found if b"," not in size)

    @property
    def content(self) -> Content:
        """Return what is compared with the manifest's part."""
        return Content(documents=self.items, digest=self._digest.hexdigest())


class Listing:
    """Takes tar's listing in pieces, as it is written, and tallies it by roots (as in the archive, in bytes)."""

    def __init__(self, roots: Sequence[bytes]) -> None:
        self.tallies = [Tally(root) for root in roots]
        self._below = tuple(escape(root) + b"/" for root in roots)
        self._rest = b""
        self._last = b""
        self.again = False
        """Set while files are listed that are in the archive a second time."""
        self.members = 0
        self.strange = 0
        """Lines that could not be understood, or are of none of the roots."""

    def __call__(self, piece: bytes) -> None:
        """Take the next piece."""
        data = self._rest + piece
        end = data.rfind(b"\n") + 1
        data, self._rest = data[:end], data[end:]
        if not data:
            return
        found = _LISTED.findall(data)
        self._last = data[data.rfind(b"\n", 0, -1) + 1 :]
        self.members += len(found)
        self.strange += data.count(b"\n") - len(found)
        if len(self.tallies) == 1:
            self._add(self.tallies[0], found)
            return
        for tally, below in zip(self.tallies, self._below, strict=True):
            self._add(tally, [item for item in found if item[3].startswith(below)])
        self.strange += sum(1 for item in found if not item[3].startswith(self._below))

    @property
    def last(self) -> Last | None:
        """Return the last line, understood."""
        return read_last(self._last)

    @property
    def items(self) -> int:
        """Return how many members are no folders."""
        return sum(tally.items for tally in self.tallies)

    def _add(self, tally: Tally, found: list[tuple[bytes, bytes, bytes, bytes]]) -> None:
        if found:
            tally.add_listed(found, again=self.again)


def line_of(mode: str, size: str, time: str, name: bytes) -> bytes:
    """Return what a listing says of a member, as `Tally` takes it. ``time`` is ``YYYY-MM-DD HH:MM:SS[.fraction]``.

    ``name`` is escaped, that of a folder with a slash at its end, and has ``-> target`` or ``link to other`` behind it.
    """
    return b"%s\0%s\0%s\0%s\0" % (mode.encode(), size.encode(), time.encode(), name)
