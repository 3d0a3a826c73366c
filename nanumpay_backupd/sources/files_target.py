"""Where file trees go back to: their own place or another folder, all of it or paths of it, also for a drill.

tar unpacks the chain into a folder beside the place. What is there then is compared with the archives, and only what is
right takes the place; what was there is kept aside. So until that moment nothing has changed.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, Final

from nanumpay_backupd.errors import BusyError, NotFoundError, RefusedError, SpaceError, ToolError
from nanumpay_backupd.model import Manifest, Part
from nanumpay_backupd.settings.sources import FilesSource
from nanumpay_backupd.sources.base import Comparison, Goal, Scratch, StreamTarget, Wanted, Writing
from nanumpay_backupd.sources.files_index import TreeIndex
from nanumpay_backupd.sources.files_place import Placement, exists, place, working_folder
from nanumpay_backupd.sources.files_rules import WORKING
from nanumpay_backupd.sources.files_tar import extract_command, tar_version
from nanumpay_backupd.system.files import free_bytes, remove_tree
from nanumpay_backupd.system.filter import Filter
from nanumpay_backupd.system.locks import FileLock
from nanumpay_backupd.system.process import find_tool, may_give_away, run_text
from nanumpay_backupd.system.sandbox import way_out
from nanumpay_backupd.system.units import human_size

__all__ = ["FilesScratch", "FilesTarget"]

_KEEP: Final = "keep_old"
_RIGHTS: Final = "restore as root (docs/sources/files.md, Rights), or to another folder: --to"
_SHOWN: Final = 3
_LOCK: Final = "lock"
"""Held by the restore that works in a folder; one that is not held was left by a restore that was cut off."""
_FULL: Final = re.compile(r"No space left on device|Disk quota exceeded|Wrote only \d+ of \d+ bytes")
"""What tar says of a full disk: the last is a write that the disk took a part of."""
_HARMLESS: Final = ("Not found in archive", "Exiting with failure status", "Operation not permitted")


class FilesTarget(StreamTarget):
    """The places of the trees, or a folder in ``to``."""

    options: ClassVar[Mapping[str, str]] = {
        _KEEP: "no: what was there before is deleted once the restored files have taken its place (else it is kept)"
    }

    def __init__(self, settings: FilesSource) -> None:
        self._settings = settings
        self._kept: list[Path] = []
        self._placing = False
        self._unpacking: _Unpacking | None = None

    def look(self, manifest: Manifest, wanted: Wanted) -> Goal:
        """See `Target.look`."""
        find_tool(self._settings.tar, hint="install it: apt-get install tar")
        tar_version(run_text([self._settings.tar, "--version"]), self._settings.tar)
        if wanted.options.get(_KEEP, "yes") not in ("yes", "no"):
            raise RefusedError(f"{_KEEP} is yes or no", hint=f"{_KEEP}: {self.options[_KEEP]}")
        places = _placements(manifest, wanted)
        for one in places:
            _refuse_place(one.to)
        there = [one for one in places if one.occupied]
        if there and not wanted.overwrite:
            more = f" and {len(there) - 1} more" if len(there) > 1 else ""
            raise RefusedError(
                f"{there[0].to}{more} is there already",
                hint="restore to another folder (--to), or add --overwrite: what is there is kept under another name",
                code="target-exists",
            )
        _refuse_several_disks(places)
        parts = _parts(manifest, places, wanted)
        # Of files with holes the archive has the content only, and so will the disk.
        _make_sure_of_room(places, min(sum(part.bytes for part in parts), manifest.artifact.raw_bytes))
        return Goal(
            server="",
            place=wanted.to or _some([str(one.to) for one in places]),
            parts=parts,
            there=tuple(str(one.to) for one in there),
            warnings=tuple(self._warnings(there, manifest, wanted)),
        )

    def start(self, manifest: Manifest, wanted: Wanted, work: Path) -> Writing:
        """See `StreamTarget.start`."""
        if self._unpacking is None:
            places = _placements(manifest, wanted)
            self._unpacking = _Unpacking(places, working_folder(places[0].to, _stamp(manifest)), work)
        return _Extracting(self._settings, self._unpacking)

    def compare(self, manifest: Manifest, wanted: Wanted, work: Path) -> Comparison:  # noqa: ARG002 - the contract
        """Compare what was unpacked with the archives; where it is right it takes its place."""
        unpacking = self._unpacking
        assert unpacking is not None, "something was restored"
        missing = [one for one in unpacking.places if not unpacking.index.has(one.name)]
        if missing:
            raise NotFoundError(
                f"{manifest.backup} holds no path {missing[0].path!r}",
                hint=f"see what it holds: backupctl ls {manifest.backup}",
            )
        owners = may_give_away()
        try:
            found = unpacking.index.compare(unpacking.tree, owners=owners)
            if not found.differences:
                self._place(unpacking, manifest, wanted)
        except OSError as error:
            raise _disk_fault(error) from None
        return Comparison(
            documents=found.items, parts=len(unpacking.places), differences=found.differences, unknown=found.unknown
        )

    @property
    def untouched(self) -> bool:
        """See `Target.untouched`: only names are changed, and that comes last."""
        return not self._placing

    def undo(self) -> str:
        """Throw away what was unpacked. See `Target.undo`."""
        if self._unpacking is not None:
            self._unpacking.throw_away()
        if self._kept:
            return f"what was there before is kept: {_some([str(path) for path in self._kept])}"
        return ""

    def _place(self, unpacking: _Unpacking, manifest: Manifest, wanted: Wanted) -> None:
        self._placing = True
        for one in unpacking.places:
            skip = len(one.name) + 1
            left_out = (name[skip:] for name in unpacking.index.left_out(one.name))
            place(unpacking.tree / os.fsdecode(one.name), one.to, _stamp(manifest), left_out, self._kept)
        unpacking.throw_away()
        if wanted.options.get(_KEEP) == "no":
            while self._kept:
                remove_tree(self._kept.pop())

    def _warnings(self, there: list[Placement], manifest: Manifest, wanted: Wanted) -> list[str]:
        found = []
        if there and wanted.options.get(_KEEP) != "no":
            found.append(f"what is there is kept beside it, as {there[0].to.name}.before-{_stamp(manifest)}")
        if not may_give_away():
            found.append("owners and devices are not brought back: that takes root (docs/sources/files.md, Rights)")
        return found


class FilesScratch(Scratch):
    """A folder of our own, into which any tree can be unpacked."""

    described = "a folder of its own"

    def __init__(self, settings: FilesSource, folder: Path, manifest: Manifest) -> None:
        self._folder = folder
        self._manifest = manifest
        self._target = FilesTarget(settings)

    def start(self, check: Callable[[], None]) -> None:
        """See `Scratch.start`."""
        check()
        self._folder.mkdir(mode=0o700, parents=True)

    def trouble(self) -> str:
        """See `Scratch.trouble`."""
        return "" if self._folder.is_dir() else "its folder is gone"

    def stop(self) -> None:
        """See `Scratch.stop`."""
        self._target.undo()
        remove_tree(self._folder)

    def target(self) -> StreamTarget:
        """See `Scratch.target`."""
        return self._target

    def wanted(self) -> Wanted:
        """See `Scratch.wanted`."""
        return Wanted(to=str(self._folder / "tree"))


class _Unpacking:
    """A chain that is being unpacked: what of it, into which folder, and what should be there then."""

    def __init__(self, places: tuple[Placement, ...], folder: Path, work: Path) -> None:
        self.places = places
        self._folder = folder
        self.tree = folder / "tree"
        self.index = TreeIndex(work / "index", [one.name for one in places])
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / _LOCK, f"the restore in {folder}")
        folder.mkdir(mode=0o700, exist_ok=True)
        self._lock.acquire()
        for left in folder.iterdir():
            if left.name != _LOCK:
                remove_tree(left)
        _sweep(folder)
        self.tree.mkdir()

    def throw_away(self) -> None:
        """Remove all that was not put into place; may be called twice."""
        self.index.close()
        remove_tree(self._folder)
        self._lock.release()


class _Extracting(Writing):
    """tar, unpacking one archive of the chain."""

    def __init__(self, settings: FilesSource, unpacking: _Unpacking) -> None:
        names = [os.fsdecode(one.name) for one in unpacking.places]
        self._reader = unpacking.index.follow()
        command = extract_command(
            settings.tar, str(unpacking.tree), names, xattrs=settings.xattrs, owners=may_give_away()
        )
        self._filter = Filter(command)
        self._code: int | None = None

    @property
    def documents(self) -> int:
        """See `Restoring.documents`."""
        return self._reader.items

    @property
    def tail(self) -> str:
        """See `Restoring.tail`."""
        return "\n".join(self._filter.said[-10:])

    def write(self, piece: bytes) -> None:
        """See `Writing.write`."""
        self._reader(piece)
        if not piece:
            self._filter.end_input()
            return
        try:
            self._filter.write(piece)
        except BrokenPipeError:
            self._code = self._filter.wait()
            if self._code:
                self.judge()
            # With all that was asked for unpacked it may leave before the end.

    def wait(self, timeout: float) -> bool:
        """See `Restoring.wait`."""
        if not self._filter.ended(timeout):
            return False
        self._code = self._filter.wait()
        return True

    def kill(self) -> None:
        """See `Restoring.kill`."""
        self._filter.close()

    def judge(self) -> int:
        """See `Restoring.judge`; what tar could not bring back shows in the comparison."""
        code, said = self._code, self._filter.said
        bad = [line for line in said if not any(word in line for word in _HARMLESS)]
        if code is None or code < 0:
            raise ToolError(
                f"tar was ended by signal {-(code or 0)} while it unpacked", code="tool-killed", retryable=True
            )
        if full := [line for line in bad if _FULL.search(line)]:
            raise SpaceError(
                f"the disk filled up while tar unpacked: {_some(full)}",
                hint="what is there stays until all is unpacked; free space, or restore to another disk: --to",
            )
        if code and bad:
            raise ToolError(
                f"tar failed with exit code {code}: {_some(bad)}",
                hint="the folder needs room and rights; what has further names (hard links) comes back only with them",
                code="restore-failed",
            )
        return self._reader.items


def _placements(manifest: Manifest, wanted: Wanted) -> tuple[Placement, ...]:
    """Say what goes where; raises NotFoundError, RefusedError."""
    roots = [part.name for part in manifest.source.parts]
    if wanted.to and not wanted.to.startswith("/"):
        raise RefusedError(
            f"{wanted.to!r} is no absolute path",
            hint="write the folder as /…: --to /srv/restored",
            code="target-refused",
        )
    to = Path(os.path.realpath(wanted.to)) if wanted.to else None
    if not wanted.only:
        if to is None:
            return tuple(Placement(root, Path(root)) for root in roots)
        return tuple(Placement(root, to if len(roots) == 1 else to / root.strip("/")) for root in roots)
    found = []
    for word in wanted.only:
        path = os.path.normpath(word)
        if not any(path == root or path.startswith(f"{root}/") for root in roots):
            raise NotFoundError(
                f"{manifest.backup} holds no path {word!r}",
                hint=f"write it as a whole path in {_some(roots)}; see what is there: backupctl ls {manifest.backup}",
            )
        found.append(Placement(path, to / Path(path).name if to is not None else Path(path)))
    for one in found:
        if any(other is not one and (other.to == one.to or one.to.is_relative_to(other.to)) for other in found):
            raise RefusedError(
                f"two of what is wanted would come to {one.to}", hint="restore one at a time", code="target-refused"
            )
    return tuple(found)


def _parts(manifest: Manifest, places: tuple[Placement, ...], wanted: Wanted) -> tuple[Part, ...]:
    if not wanted.only:
        return manifest.source.parts
    known = {part.name: part for part in manifest.source.parts}
    return tuple(known.get(one.path) or Part(name=one.path, kind="path") for one in places)


def _refuse_place(path: Path) -> None:
    """Raise RefusedError where nothing can be put."""
    above = path if path.is_dir() else path.parent
    while not exists(above):
        above = above.parent
    if not above.is_dir():
        raise RefusedError(f"{above} is no folder", hint="another folder: --to", code="target-refused")
    if not os.access(above, os.W_OK | os.X_OK, effective_ids=True):
        raise RefusedError(f"nothing may be written in {above}", hint=way_out(above) or _RIGHTS, code="target-refused")


def _refuse_several_disks(places: tuple[Placement, ...]) -> None:
    devices = {}
    for one in places:
        folder = working_folder(one.to, "").parent
        devices[folder.stat().st_dev] = one.to
    if len(devices) > 1:
        raise RefusedError(
            f"{_some([str(path) for path in devices.values()])} are on several filesystems",
            hint="restore one at a time: --only PATH",
            code="target-refused",
        )


def _make_sure_of_room(places: tuple[Placement, ...], needed: int) -> None:
    folder = working_folder(places[0].to, "").parent
    while not folder.is_dir():
        folder = folder.parent
    free = free_bytes(folder)
    if free < needed:
        raise SpaceError(
            f"not enough room in {folder}: this needs about {human_size(needed)}, {human_size(free)} are free",
            hint="what is there stays until all is unpacked; free space, or restore to another disk: --to",
        )


def _sweep(folder: Path) -> None:
    """Remove what restores to the same place that were cut off have left beside ``folder``."""
    for left in folder.parent.glob(f"{WORKING}*"):
        if left == folder or not (left / _LOCK).is_file():
            continue
        with contextlib.suppress(BusyError, OSError), FileLock(left / _LOCK, "a restore"):
            remove_tree(left)


def _disk_fault(error: OSError) -> ToolError:
    named = os.fsdecode(error.filename) if error.filename else "what was unpacked"
    return ToolError(
        f"{named} cannot be read or moved: {os.strerror(error.errno or 0)}",
        hint="check the disk (journalctl -k) and the rights of the folder",
        code="restore-failed",
    )


def _stamp(manifest: Manifest) -> str:
    """Return what tells apart what different restores keep: the moment of the backup that was restored."""
    return f"{manifest.started:%Y-%m-%dT%H-%M-%S}"


def _some(items: list[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
