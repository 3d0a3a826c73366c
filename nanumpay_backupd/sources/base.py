"""The contract of what can be backed up, written once. No source's own knowledge here.

A type of source is a `Driver`: it gives the `Source` (how it is read), the `Target` (where it is brought back to) and
the `Scratch` place in which a drill does so without harm. A source is one of two forms:

- `FolderSource`: a tool writes files into a folder, which is archived while they grow (`transforms.growing`).
- `StreamSource`: a tool writes one tar archive itself, which is compressed on its way and never lies raw on the disk.

All that follows (staging, manifest, encryption, destinations, retention, verification, restore, drill) is the
pipeline's. Every record counts ``documents`` in parts, whatever the source calls them (`wording`). What is promised
here is asked of every source on its real server (tests/contract/test_sources.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Final, NamedTuple, Protocol

import msgspec

from nanumpay_backupd.errors import RefusedError
from nanumpay_backupd.model import Consistency, Kind, Manifest, Part, SourceInfo
from nanumpay_backupd.settings.sources import SourceSettings

__all__ = [
    "WHOLE",
    "Checker",
    "Comparison",
    "Driver",
    "Dump",
    "Estimate",
    "Expected",
    "FolderSource",
    "FolderTarget",
    "Goal",
    "Harvest",
    "Need",
    "Restoring",
    "Scratch",
    "Since",
    "Source",
    "Stream",
    "StreamSource",
    "StreamTarget",
    "Target",
    "TargetFacts",
    "Unchanged",
    "Wanted",
    "Writing",
]

WHOLE: Final = ""
"""The name under which `Source.check` is asked for the checker of the whole archive of a `StreamSource`."""


class Estimate(msgspec.Struct, frozen=True):
    """What preflight learned: ``raw_bytes`` expected before compression, and the lines worth telling the operator.

    ``work_bytes`` are those on the disk that the dump takes besides, while it is made.
    """

    raw_bytes: int
    summary: str
    warnings: tuple[str, ...] = ()
    work_bytes: int = 0


class Harvest(msgspec.Struct, frozen=True):
    """What a finished dump holds, as the dump tool itself reported it; goes into the manifest.

    ``documents`` counts all there is, and ``source.parts`` says what of it is where. ``leave_out`` names files of the
    folder that do not belong into the archive. ``state`` is a file outside of the folder that the next increment needs
    (`Since.state`), None: it needs none; it is kept on this host, for this user only, and never leaves it.
    """

    source: SourceInfo
    consistency: Consistency
    tools: dict[str, str]
    documents: int
    leave_out: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    state: Path | None = None


class Since(msgspec.Struct, frozen=True):
    """What an increment goes on from: the manifest of the backup before, and what that left for it.

    ``state`` is a copy of that backup's `Harvest.state`, which may be written to, None: it left none. A position in the
    source's own log, where it has one, is ``manifest.consistency.position``.
    """

    manifest: Manifest
    state: Path | None = None


class Unchanged(Exception):  # noqa: N818 - no error: there is nothing to be kept
    """Raised by `Dump.harvest` or `Stream.harvest` of an increment: nothing at all has changed since."""


class Checker(Protocol):
    """Judges one file of a dump, or the archive of a stream, as it is read piece by piece; then ``b""`` for its end.

    It raises VerifyError when the content is not what this source writes: cut off, damaged, of another kind. It reads
    untrusted bytes, and needs the same memory for any size of file.

    It may have, each compared with the manifest where it is there: ``count``, the documents seen so far; ``digest``, a
    digest of what they say, as in `Part.digest`; ``parts``, a `Content` for each part in this file by its name, where
    it holds several. ``detail`` says on what the judgement rests, where that is not the content itself.
    """

    def __call__(self, piece: bytes, /) -> None:
        """Take the next piece; raises VerifyError."""


class Dump(ABC):
    """A dump that is being written into a folder. Files are only ever appended to; their names do not change."""

    @property
    @abstractmethod
    def running(self) -> bool:
        """Tell whether it is still being written."""

    @property
    @abstractmethod
    def documents(self) -> int:
        """Return the documents (rows, keys) reported so far; may lag behind."""

    @abstractmethod
    def pause(self) -> None:
        """Hold the writer until `resume`; for seconds at most. Harmless when it has ended."""

    @abstractmethod
    def resume(self) -> None:
        """Let a held writer go on; harmless when it is not held."""

    @abstractmethod
    def wait(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds; tells whether it has ended."""

    @abstractmethod
    def kill(self) -> None:
        """End it at once, with all its children; may be called at any time and twice."""

    @abstractmethod
    def harvest(self, sizes: dict[str, int]) -> Harvest:
        """Judge an ended dump. An exit code of 0 is not believed: what was written is compared with what was there.

        ``sizes`` gives the bytes of every file written, by its path below the folder. Small files are still readable
        in the folder; large ones may have been given back to the disk. Raises ToolError (died, failed, incomplete),
        SourceError (connection lost) or SpaceError.
        """


class Stream(ABC):
    """An archive that a tool is writing into a pipe. Only the pipeline reads that pipe; not to read it holds the tool.

    It begins when it is made. At the end of the pipe the tool has ended, or is about to.
    """

    @abstractmethod
    def fileno(self) -> int:
        """Return the reading end of the pipe, open until `kill`."""

    @property
    @abstractmethod
    def documents(self) -> int:
        """Return the documents (files) reported so far; may lag behind."""

    @abstractmethod
    def kill(self) -> None:
        """End it at once, with all its children, and close the pipe; may be called at any time and twice."""

    @abstractmethod
    def harvest(self, size: int) -> Harvest:
        """Judge an archive of ``size`` bytes whose end was read. As `Dump.harvest`; `Checker` proves its content."""


class Source(ABC):
    """Something that can be backed up. Errors are `errors.BackupdError`.

    ``kinds`` are the kinds of backup it can make; one that makes increments gets what they go on from (`Since`).
    ``exact``: an increment can be brought back up to any moment in it (`Wanted.until`), not only as a whole.

    The changes of increments may overlap: one that goes on from a backup is also brought back on top of a later one,
    as long as that one began before this one did.
    """

    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.FULL})
    exact: ClassVar[bool] = False

    @abstractmethod
    def preflight(self) -> Estimate:
        """Check that it can be reached and read and that the tools are there, without writing anything.

        Raises SourceError (``source-unreachable``, ``source-auth``, ``source-empty``, …), ToolError (``tool-missing``
        with the install hint, ``tool-too-old``). May be called again.
        """

    @abstractmethod
    def check(self, name: str) -> Callable[[bytes], None] | None:
        """Return a fresh `Checker` for the file ``name`` of a dump (`WHOLE` of a stream), or None: any content is fine.

        Where there is none, a file ``….json`` has to be JSON all the same. Called without a preflight, of a backup of
        any age, so what it needs is in the content or the name.
        """


class FolderSource(Source):
    """A source whose tool writes files into a folder."""

    @abstractmethod
    def start(self, folder: Path) -> Dump:
        """Begin to write a full dump into ``folder`` (exists, empty). `preflight` was called before."""

    def follow_on(self, folder: Path, since: Since) -> Dump:  # noqa: ARG002 - the contract
        """Begin to write what changed since. Raises SourceError (``chain-broken``) where only a full can follow."""
        raise _no_increments(since)


class StreamSource(Source):
    """A source whose tool writes a tar archive itself."""

    @abstractmethod
    def open(self, work: Path, since: Since | None = None) -> Stream:
        """Begin to write the archive: a full one, or of what changed since. `preflight` was called before.

        ``work`` is a folder (exists, empty) for files of its own, which are not archived, such as `Harvest.state`.
        Raises SourceError (``chain-broken``) where only a full can follow.
        """


def _no_increments(since: Since) -> RefusedError:
    return RefusedError(
        f"job {since.manifest.job} saves something of which only whole backups are made",
        hint="leave out --kind, and incremental, differential and pitr of its table",
        code="not-for-this-source",
    )


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be brought back, and how. ``to`` and ``only`` are in the source's own words.

    ``to`` is another place (a database, a folder, a file), empty: where it came from. ``only`` names parts, or paths in
    them, empty: everything. ``overwrite``: what is there may be replaced. ``options`` are further choices that the
    target knows (`Target.options`). ``until`` is the moment (`model.OpTime`) up to which the last increment is applied,
    empty: all of it.
    """

    to: str = ""
    only: tuple[str, ...] = ()
    overwrite: bool = False
    options: dict[str, str] = {}
    until: str = ""


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """What bringing back a backup would do, after a look at what is there. Nothing was changed.

    ``server`` says at which server or host, ``place`` where there, both for people and without secrets. ``parts`` are
    those that are brought back. ``there`` names what stands at their place now, holding ``there_documents`` (0 also
    where nobody counts); ``drops`` what of it the backup does not hold, and goes. ``changes`` says, one line for each
    thing, what becomes of it, where that can be told beforehand.
    """

    server: str
    place: str
    parts: tuple[Part, ...]
    there: tuple[str, ...] = ()
    there_documents: int = 0
    drops: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Comparison(msgspec.Struct, frozen=True):
    """What a comparison with the backup found: how much was compared, what differs in words, what nobody can know."""

    documents: int
    parts: int
    differences: tuple[str, ...] = ()
    unknown: int = 0


class Restoring(ABC):
    """A tool that is bringing something back."""

    @property
    @abstractmethod
    def documents(self) -> int:
        """Return the documents brought back so far; may lag behind."""

    @property
    @abstractmethod
    def tail(self) -> str:
        """Return the last lines that the tool said, without secrets."""

    @abstractmethod
    def wait(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds; tells whether it has ended."""

    @abstractmethod
    def kill(self) -> None:
        """End it at once, with all its children; may be called at any time and twice."""

    @abstractmethod
    def judge(self) -> int:
        """Return how many documents were brought back, once it has ended.

        Raises ToolError or SourceError when not all were: ``restore-failed``, ``tool-killed``, ``source-auth``, ….
        """


class Writing(Restoring):
    """A tool that is fed an archive; it was proven before."""

    @abstractmethod
    def write(self, piece: bytes) -> None:
        """Give it the next piece, then ``b""`` for the end. Raises as `judge` where the tool takes no more."""


class Target(ABC):
    """Where backups of a source go back to. Nothing changes before the first piece is given to it."""

    options: ClassVar[Mapping[str, str]] = {}
    """The keys of `Wanted.options` that it knows, each with a sentence on what it does."""

    @abstractmethod
    def look(self, manifest: Manifest, wanted: Wanted) -> Goal:
        """See what is there and say what a restore would do; find the tool, and try that it can be reached.

        Raises SourceError, ToolError; NotFoundError for a part that the backup does not hold; RefusedError for a place
        that cannot be (``target-refused``), and (``target-exists``) where something there would be replaced or mixed
        with what comes and ``wanted.overwrite`` is not set.
        """

    def safety(self, manifest: Manifest, wanted: Wanted) -> SourceSettings | None:  # noqa: ARG002 - the contract
        """Return the source that is backed up first because a restore changes it, None: what is there is kept aside.

        Asked only where `look` found something there.
        """
        return None

    @abstractmethod
    def compare(self, manifest: Manifest, wanted: Wanted, work: Path) -> Comparison:
        """Compare what is there now with what was brought back, by reading it. ``work`` is that of the restore.

        Raises SourceError, ToolError. ``manifest`` is of the last backup that was brought back.
        """

    @property
    def untouched(self) -> bool:
        """Tell whether nothing of what is there was changed yet, also after a restore has begun."""
        return False

    def undo(self) -> str:
        """Say, after a restore that failed, what of before is left and how to get it back; empty: nothing to say."""
        return ""


class FolderTarget(Target):
    """A target that takes the files of a `FolderSource`."""

    @abstractmethod
    def start(self, folder: Path, manifest: Manifest, wanted: Wanted, work: Path) -> Restoring:
        """Begin to bring back what was unpacked into ``folder``: a full, or the next increment by its manifest.

        ``folder`` may be changed; ``work`` is a folder for files of its own, the same for all steps of a restore.
        """

    def needs(self, name: str, wanted: Wanted) -> bool:  # noqa: ARG002 - the contract
        """Tell whether the file ``name`` of the dump has to be unpacked; by default all are."""
        return True


class StreamTarget(Target):
    """A target that takes the archive of a `StreamSource`."""

    @abstractmethod
    def start(self, manifest: Manifest, wanted: Wanted, work: Path) -> Writing:
        """Begin to bring back an archive: a full, or the next increment by its manifest. ``work`` as in `FolderTarget`.

        On the first of them what is there gives way (is kept aside, dropped) as `look` said.
        """


class Scratch(ABC):
    """A place to restore into, thrown away afterwards."""

    described: str
    """What it is, for a sentence that says into what was restored."""

    @abstractmethod
    def start(self, check: Callable[[], None]) -> None:
        """Make it ready; ``check`` is called while that takes its time, and may raise. Raises BackupdError."""

    @property
    def gone(self) -> bool:
        """Tell, at no cost, whether it is known to have ended."""
        return False

    @abstractmethod
    def trouble(self) -> str:
        """Return why nothing can be restored there any more, empty: all is well."""

    @abstractmethod
    def stop(self) -> None:
        """Throw it away; may be called at any time and twice. Raises BackupdError where something had to be left."""

    @abstractmethod
    def target(self) -> FolderTarget | StreamTarget:
        """Return the target to restore into, once it was started."""

    def wanted(self) -> Wanted:
        """Return what to ask of that target."""
        return Wanted()


class Need(NamedTuple):
    """Tools of this host for one thing, such as ``drills``.

    ``find`` returns their names and versions, and raises ToolError (``tool-missing``) where one is not there.
    """

    what: str
    find: Callable[[], str]


class Driver(ABC):
    """One type of source with given settings: the door to its rooms. Making one connects to nothing."""

    @abstractmethod
    def source(self) -> FolderSource | StreamSource:
        """Return what is backed up."""

    @abstractmethod
    def target(self) -> FolderTarget | StreamTarget:
        """Return where its backups go back to."""

    @abstractmethod
    def scratch(self, folder: Path, manifest: Manifest) -> Scratch:
        """Return a place for a drill of that backup below ``folder`` (not there yet).

        Raises ToolError (``tool-missing``, ``tool-too-old``), RefusedError (``drill-impossible``).
        """

    def release(self, manifest: Manifest) -> None:  # noqa: B027 - most have nothing of the kind
        """Delete what that backup is outside of its artifact, which goes next; what is gone already is none's fault.

        Of settings that say ``kept_outside`` only. Raises LockedError where it has to stay for now, StoreError
        (``destination-failed``, …).
        """

    def needs(self) -> Iterator[Need]:
        """Yield what is needed besides making a full backup, for which `Source.preflight` looks itself."""
        return iter(())


class TargetFacts(msgspec.Struct, frozen=True):
    """What stands where a restore of MongoDB would go: collections and views, documents, and how the server is called.

    ``may_replay`` tells whether this user is allowed to replay an oplog there.
    """

    address: str
    collections: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    documents: int = 0
    may_replay: bool = True


class Expected(msgspec.Struct, frozen=True):
    """What a restored collection has to hold; ``documents`` None: not known (the oplog changed it afterwards)."""

    database: str
    name: str
    documents: int | None
    indexes: int = 0
