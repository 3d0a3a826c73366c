"""Looks trees over before tar reads them: what the rules leave out, how much is to be read, what cannot be.

The exact paths that are left out are given to tar, whose own patterns cannot take anything back in. Reads names and
inodes only, and the rules' own files.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nanumpay_backupd.errors import SourceError
from nanumpay_backupd.sources.files_rules import Rules, parse_rules

__all__ = ["Survey", "survey"]

_LARGEST_RULES: Final = 1 << 20
_SHOWN: Final = 20
_BACKUPS: Final = ".backupd"
"""A folder that holds one of this name is a backups folder of this program."""
_HEADERS: Final = 1536
"""Bytes that tar writes for a member besides its content."""
_BLOCK: Final = 512
_KIND: Final = 0o170000


@dataclass
class Survey:
    """What was found in all roots. ``bytes`` are those that the archive will have."""

    files: int = 0
    folders: int = 0
    bytes: int = 0
    left_out: list[str] = field(default_factory=list)
    """The paths that are left out, each the topmost one."""
    unreadable: list[str] = field(default_factory=list)
    """The first few folders that cannot be read."""
    unreadable_count: int = 0
    mounts: list[str] = field(default_factory=list)
    """Other filesystems, where those are left out."""
    backups: list[str] = field(default_factory=list)
    """Backups folders that are left out."""
    changed: int = 0
    """When a folder was last changed (ctime), in nanoseconds since 1970."""
    rule_files: list[str] = field(default_factory=list)
    """The files of rules that were found, each with what is in it."""


_Scopes = tuple[tuple[str, Rules], ...]
"""The rules that hold in a folder, the nearest first, each with the path that they begin at (with a slash)."""


def survey(roots: Iterable[str], rules: Rules, ignore_file: str = "", *, one_file_system: bool = False) -> Survey:
    """Walk through all roots; raises SourceError for a file of rules that cannot be read or understood.

    ``rules`` count more than those of files named ``ignore_file``, of which the nearest counts most.
    """
    found = Survey()
    for root in roots:
        _Walk(found, root, rules, ignore_file, one_file_system=one_file_system).run()
    return found


class _Walk:
    """The walk through one root."""

    def __init__(self, found: Survey, root: str, rules: Rules, ignore_file: str, *, one_file_system: bool) -> None:
        self._found = found
        self._root = root
        self._skip = len(root.rstrip("/")) + 1
        self._rules = rules
        self._ignore_file = ignore_file
        known = os.lstat(root)
        found.changed = max(found.changed, known.st_ctime_ns)
        self._device = known.st_dev if one_file_system else None
        self._waiting: list[tuple[str, _Scopes]] = [(root, ())]

    def run(self) -> None:
        found, ignore_file = self._found, self._ignore_file
        while self._waiting:
            folder, scopes = self._waiting.pop()
            try:
                with os.scandir(folder) as entries:
                    listed = list(entries)
            except OSError as error:
                self._unread(folder, error)
                continue
            found.folders += 1
            found.bytes += _HEADERS
            if folder != self._root and any(entry.name == _BACKUPS for entry in listed):
                found.backups.append(folder)
                found.left_out.append(folder)
                continue
            base = f"{folder.rstrip('/')}/"
            if ignore_file and any(entry.name == ignore_file for entry in listed):
                scopes = ((base, self._read_rules(f"{base}{ignore_file}")), *scopes)
            self._take(listed, base, scopes)

    def _take(self, listed: list[os.DirEntry[str]], base: str, scopes: _Scopes) -> None:
        """Go through what is in a folder; of many files this is where the time goes."""
        found = self._found
        # Of each the rules that may fit in this folder, and where the paths for these begin.
        ways = [(self._skip, self._rules.within(base[self._skip : -1]))]
        ways += [(len(above), rules.within(base[len(above) : -1])) for above, rules in scopes]
        files = size = 0
        for entry in listed:
            path = entry.path
            try:
                is_folder = entry.is_dir(follow_symlinks=False)
                verdict = None
                for skip, rules in ways:
                    verdict = rules.verdict(entry.name, path[skip:], folder=is_folder)
                    if verdict is not None:
                        break
                if verdict:
                    found.left_out.append(path)
                    continue
                known = entry.stat(follow_symlinks=False)
            except OSError as error:
                self._unread(path, error)
                continue
            if is_folder:
                found.changed = max(found.changed, known.st_ctime_ns)
                if self._device is not None and known.st_dev != self._device:
                    found.mounts.append(path)
                else:
                    self._waiting.append((path, scopes))
                continue
            kind = known.st_mode & _KIND
            if kind != stat.S_IFSOCK:
                files += 1
                if kind == stat.S_IFREG:
                    size += -(-min(known.st_size, known.st_blocks * _BLOCK) // _BLOCK)
        found.files += files
        found.bytes += files * _HEADERS + size * _BLOCK

    def _unread(self, path: str, error: OSError) -> None:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return
        self._found.unreadable_count += 1
        if len(self._found.unreadable) < _SHOWN:
            self._found.unreadable.append(path)

    def _read_rules(self, path: str) -> Rules:
        try:
            with Path(path).open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as stream:
                text = stream.read(_LARGEST_RULES)
            rules = parse_rules(text.split("\n"))
        except OSError as error:
            raise _bad_rules(path, os.strerror(error.errno or 0)) from None
        except ValueError as error:
            raise _bad_rules(path, str(error)) from None
        self._found.rule_files.append(f"{path}\n{text}")
        return rules


def _bad_rules(path: str, reason: str) -> SourceError:
    return SourceError(
        f"{path}, which says what is left out, cannot be used: {reason}",
        hint="correct that file (gitignore(5)), or name another one: ignore_file",
        retryable=False,
    )
