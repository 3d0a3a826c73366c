"""File trees, saved by GNU tar: what is saved, how an archive or an increment is begun, and the judgement of it.

Where they go back to is next door (`files_target`). Every archive is incremental in tar's sense
(``--listed-incremental``), a full one too: then it says of each folder what was in it, and stock tar applies a chain.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar, Final

from nanumpay_backupd.errors import BackupdError, SourceError, ToolError
from nanumpay_backupd.model import STREAM, Consistency, Kind, Manifest, Part, SourceInfo
from nanumpay_backupd.settings.sources import FilesSource
from nanumpay_backupd.sources.base import (
    Driver,
    Estimate,
    Harvest,
    Scratch,
    Since,
    Stream,
    StreamSource,
    StreamTarget,
    Unchanged,
)
from nanumpay_backupd.sources.files_rules import ALWAYS, PRESETS, Rules, for_tar, parse_rules
from nanumpay_backupd.sources.files_state import (
    add_unread,
    begun,
    count_listed,
    forget_folders,
    forget_moved,
    is_state,
    take_unread,
)
from nanumpay_backupd.sources.files_stream import Faults, TarStream
from nanumpay_backupd.sources.files_survey import Survey, survey
from nanumpay_backupd.sources.files_tar import CHANGED, SOCKET, UNREADABLE, VANISHED, create_command, tar_version
from nanumpay_backupd.sources.files_target import FilesScratch, FilesTarget
from nanumpay_backupd.sources.files_walk import TarCheck
from nanumpay_backupd.system.process import find_tool, run_text
from nanumpay_backupd.system.sandbox import hidden, way_out
from nanumpay_backupd.system.units import human_size

__all__ = ["FileTrees", "FilesDriver"]

_TAR_HINT: Final = "install it: apt-get install tar"
_SHOWN: Final = 5
_FAIL: Final = "fail"


class FilesDriver(Driver):
    """The rooms of the type ``files``."""

    def __init__(self, settings: FilesSource) -> None:
        self._settings = settings

    def source(self) -> StreamSource:
        """See `Driver.source`."""
        return FileTrees(self._settings)

    def target(self) -> StreamTarget:
        """See `Driver.target`."""
        return FilesTarget(self._settings)

    def scratch(self, folder: Path, manifest: Manifest) -> Scratch:
        """See `Driver.scratch`."""
        return FilesScratch(self._settings, folder, manifest)


class FileTrees(StreamSource):
    """The trees below the settings' paths."""

    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.FULL, Kind.INCREMENTAL, Kind.DIFFERENTIAL})

    def __init__(self, settings: FilesSource) -> None:
        self._settings = settings
        self._rules = Rules(())
        self._roots: tuple[str, ...] = ()
        self._found = Survey()
        self._version = ""
        self._unread: list[bytes] = []
        """What could not be read the last time, nor now."""

    def preflight(self) -> Estimate:
        """Find tar and look over the trees. See `Source.preflight`."""
        settings = self._settings
        find_tool(settings.tar, hint=_TAR_HINT)
        self._version = tar_version(run_text([settings.tar, "--version"]), settings.tar)
        self._roots = tuple(dict.fromkeys(_root(path) for path in settings.path))
        self._rules = rules_of(settings)
        found = self._found = survey(
            self._roots, self._rules, settings.ignore_file, one_file_system=settings.one_file_system
        )
        if not found.files:
            raise SourceError(
                f"there is no file in {', '.join(self._roots)}: there is nothing to back up",
                hint="check path and the rules of this job in backupd.toml, and whether the disk is mounted",
                code="source-empty",
                retryable=False,
            )
        if found.unreadable_count and settings.unreadable == _FAIL:
            raise _unreadable(", ".join(found.unreadable[:_SHOWN]), found.unreadable_count)
        return Estimate(
            raw_bytes=found.bytes,
            summary=f"GNU tar {self._version}: {', '.join(self._roots)}, {found.files:,} files in {found.folders:,} "
            f"folders, {human_size(found.bytes)}, {len(found.left_out):,} paths left out",
            warnings=tuple(self._warnings()),
        )

    def open(self, work: Path, since: Since | None = None) -> Stream:
        """Start tar. See `StreamSource.open`."""
        assert self._roots, "preflight comes first"
        settings, found = self._settings, self._found
        state, before, self._unread = work / "snapshot", 0, []
        if since is not None:
            state = self._follow_on(since)
            before = begun(state)
        plain, odd = _for_a_file(found.left_out)
        excludes = work / "left-out"
        excludes.write_bytes(b"".join(os.fsencode(path) + b"\n" for path in plain))
        below = [part for root in self._roots for part in Path(root).parts]
        command = create_command(
            settings.tar,
            self._roots,
            state=str(state),
            excludes=str(excludes),
            odd_excludes=odd,
            # Also the folders above a root would fit.
            names=[name for name in for_tar(self._rules) if not _fits_any(name, below)],
            xattrs=settings.xattrs,
            one_file_system=settings.one_file_system,
            check_device=settings.check_device,
        )
        return TarStream(
            command,
            tar=settings.tar,
            roots=self._roots,
            work=work,
            state=state,
            xattrs=settings.xattrs,
            retries=settings.retries,
            judge=partial(self._judge, before=before),
        )

    def check(self, name: str) -> Callable[[bytes], None] | None:  # noqa: ARG002 - there is one file
        """Walk the archive. See `Source.check`."""
        return TarCheck()

    def _follow_on(self, since: Since) -> Path:
        """Return the snapshot file to go on from, made fit; raises SourceError (``chain-broken``)."""
        if since.state is None or not since.state.exists() or not is_state(since.state):
            raise _full_needed("what tar kept of the last backup is not here any more")
        if since.manifest.source.facts.get("rules") != self._identity():
            raise _full_needed("what is saved, or what is left out, was changed since the last backup")
        unread = take_unread(since.state)
        # Without any change of its own a file may have become readable, and tar would not notice.
        self._unread = [name for name in unread if not os.access(name, os.R_OK, effective_ids=True)]
        if now := set(unread) - set(self._unread):
            forget_folders(since.state, {os.fsencode(_folder_of(Path(os.fsdecode(name)))) for name in now})
        forget_moved(since.state, check_device=self._settings.check_device)
        return since.state

    def _identity(self) -> str:
        """Return a digest of all that decides what is in a backup."""
        settings = self._settings
        said = [
            self._roots,
            [rule.text for rule in self._rules.rules],
            [(rule.back, rule.folders, rule.rooted) for rule in self._rules.rules],
            sorted(self._found.rule_files),
            settings.one_file_system,
            settings.xattrs,
        ]
        return hashlib.sha256(json.dumps(said).encode("utf-8", "surrogatepass")).hexdigest()

    def _warnings(self) -> Iterator[str]:
        found = self._found
        if found.unreadable_count:
            yield f"{found.unreadable_count:,} folders cannot be read: {', '.join(found.unreadable[:_SHOWN])}"
        for folder in found.backups:
            yield f"{folder} is left out: it is a backups folder of this program"

    def _judge(self, stream: TarStream, before: int) -> Harvest:
        """Judge an archive by what tar listed, said, and kept for the next time.

        Raises Unchanged for an increment since ``before`` (nanoseconds since 1970; 0: a full) that holds nothing new.
        """
        faults, listing = stream.faults, stream.listing
        _judge_faults(self._settings, faults, stream.still_changing())
        if not stream.state.exists() or not is_state(stream.state):
            raise ToolError(
                "tar ended without an error, but did not write down what it meant to save",
                hint="is the program that tar in [tools] or in the job names GNU tar? nothing was published",
                code="dump-incomplete",
                retryable=True,
            )
        wanted = count_listed(stream.state)
        missing = sum(faults.counts[what] for what in (VANISHED, UNREADABLE, SOCKET))
        lost = wanted - listing.items - missing
        if lost > 0 and not (faults.counts[VANISHED] or faults.counts[UNREADABLE]):
            raise ToolError(
                f"tar ended without an error, but lists {listing.items:,} files of {wanted:,} that it meant to save",
                hint="run again; nothing was published",
                code="dump-incomplete",
                retryable=True,
            )
        for tally in listing.tallies:
            if not tally.folders:
                raise ToolError(f"{tally.name} is not in what tar wrote", code="dump-incomplete", retryable=True)
        # What is removed from a folder, or renamed in it, changes that.
        if before and not listing.items and self._found.changed < before and not missing:
            raise Unchanged
        return Harvest(
            source=self._info(stream),
            consistency=Consistency(level="none", reason="files are of the moment at which each was read"),
            tools={"tar": self._version},
            documents=listing.items,
            warnings=(*_told(faults, stream), *self._still_unread(stream)),
            state=self._kept_state(stream),
        )

    def _still_unread(self, stream: TarStream) -> Iterator[str]:
        """Tell of what tar does not try again, since it is as it was."""
        now = set(stream.faults.names(UNREADABLE))
        there = [os.fsdecode(name) for name in self._unread if name not in now and os.path.lexists(name)]
        if there:
            more = f" and {len(there) - _SHOWN:,} more" if len(there) > _SHOWN else ""
            yield (
                f"{len(there):,} files that could not be read before still cannot, and are not in this chain: "
                f"{', '.join(there[:_SHOWN])}{more}"
            )

    def _kept_state(self, stream: TarStream) -> Path | None:
        """Return the snapshot file to be kept; None: a full has to come next."""
        names = stream.faults.names(UNREADABLE)
        if len(names) < stream.faults.counts[UNREADABLE]:
            return None
        add_unread(stream.state, dict.fromkeys([*names, *self._unread]))
        return stream.state

    def _info(self, stream: TarStream) -> SourceInfo:
        counts = stream.faults.counts
        parts = tuple(
            Part(name=tally.name, kind="folder", items=tally.items, bytes=tally.bytes, digest=tally.content.digest)
            for tally in stream.listing.tallies
        )
        facts = {
            "rules": self._identity(),
            "folders": str(sum(tally.folders for tally in stream.listing.tallies)),
            "left_out": str(len(self._found.left_out)),
            **{what: str(counts[what]) for what in (CHANGED, VANISHED, UNREADABLE, SOCKET) if counts[what]},
        }
        return SourceInfo(
            type="files",
            server_version=self._version,
            topology="",
            databases=(),
            collections=(),
            parts=parts,
            form=STREAM,
            by_hand=tuple(_by_hand(self._roots, xattrs=self._settings.xattrs)),
            facts=facts,
        )


def rules_of(settings: FilesSource) -> Rules:
    """Return the rules of a job: its preset's, what it leaves out besides, what it takes in all the same."""
    back = [f"!{line}" for line in settings.include]
    return parse_rules([*PRESETS[settings.preset], *settings.exclude, *back, *ALWAYS])


def _root(path: str) -> str:
    """Return where a path of the settings really is; raises SourceError."""
    real = os.path.realpath(path)
    try:
        real.encode("utf-8")
        with os.scandir(real):
            return real
    except UnicodeEncodeError:
        reason, code, hint = "its name is not UTF-8", "source-failed", "save a folder above it"
    except NotADirectoryError:
        reason, code = "it is no folder", "source-failed"
        hint = "name the folder in path, and the files by rules (docs/sources/files.md)"
    except FileNotFoundError:
        reason, code = "it is not there", "source-unreachable"
        hint = "check path of this job in backupd.toml, and whether the disk is mounted"
        if hidden(Path(real)):
            hint = way_out(Path(real))
    except PermissionError as error:
        reason, code = os.strerror(error.errno or 0), "source-auth"
        hint = "give the service the right to read it: docs/sources/files.md, Rights"
    except OSError as error:
        reason, code, hint = os.strerror(error.errno or 0), "source-failed", "name another folder in path"
    raise SourceError(f"{path} cannot be backed up: {reason}", hint=hint, code=code, retryable=False)


def _folder_of(path: Path) -> Path:
    return path if path.is_dir() and not path.is_symlink() else path.parent


def _for_a_file(paths: list[str]) -> tuple[list[str], list[str]]:
    """Part paths into those that can stand as lines in a file for tar, and those that cannot."""
    plain: list[str] = []
    odd: list[str] = []
    for path in paths:
        (odd if "\n" in path or path[-1:].isspace() else plain).append(path)
    return plain, odd


def _fits_any(name: str, parts: list[str]) -> bool:
    rules = parse_rules([name])
    return any(rules.verdict(part, folder=True) for part in parts)


def _judge_faults(settings: FilesSource, faults: Faults, changing: list[str]) -> None:
    """Raise SourceError where the settings want something that tar said to be a failure."""
    if faults.counts[UNREADABLE] and settings.unreadable == _FAIL:
        raise _unreadable(faults.told(UNREADABLE), faults.counts[UNREADABLE])
    if faults.counts[VANISHED] and settings.vanished == _FAIL:
        raise SourceError(
            f"{faults.counts[VANISHED]:,} files vanished while they were read: {faults.told(VANISHED)}",
            hint='leave them out (exclude), or accept that: vanished = "warn"',
        )
    if changing and settings.changed == _FAIL:
        raise SourceError(
            f"{len(changing):,} files changed each time they were read: {', '.join(changing[:_SHOWN])}",
            hint="save a snapshot of the filesystem (docs/sources/files.md), leave them out (exclude), or accept that: "
            'changed = "warn"',
        )


def _told(faults: Faults, stream: TarStream) -> Iterator[str]:
    """Yield what is told of a backup that is good all the same."""
    if count := faults.counts[UNREADABLE]:
        yield f"{count:,} files or folders could not be read and are not in this backup: {faults.told(UNREADABLE)}"
    if count := faults.counts[VANISHED]:
        yield f"{count:,} files vanished before they were read: {faults.told(VANISHED)}"
    changing = stream.still_changing()
    if stream.looked_again:
        yield f"{stream.looked_again:,} files changed while they were read, and were read again"
    if changing:
        more = f" and {len(changing) - _SHOWN:,} more" if len(changing) > _SHOWN else ""
        yield (
            f"{len(changing):,} files changed each time they were read, what is saved of them may be of two moments: "
            f"{', '.join(changing[:_SHOWN])}{more}"
        )


def _unreadable(which: str, count: int) -> BackupdError:
    return SourceError(
        f"{count:,} files or folders cannot be read: {which}",
        hint="give the service the right to read them (docs/sources/files.md, Rights), leave them out (exclude), or "
        'accept that: unreadable = "warn"',
        code="source-auth",
        retryable=False,
    )


def _full_needed(why: str) -> BackupdError:
    return SourceError(
        f"an increment cannot follow on: {why}",
        hint="a full is needed: backupctl run --kind full",
        code="chain-broken",
        retryable=False,
    )


def _by_hand(roots: tuple[str, ...], *, xattrs: bool) -> Iterator[str]:
    more = " --xattrs --xattrs-include='*' --acls" if xattrs else ""
    names = " ".join(shlex.quote(root.lstrip("/")) for root in roots)
    yield "# into the folder restored, as root so that owners come back; of a chain the full first, then each increment"
    yield "mkdir -p restored"
    yield f"{{plain}} | tar --extract --listed-incremental=/dev/null -C restored -p{more} -f - {names}"
