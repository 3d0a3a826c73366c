"""The way back of a backup by pbm: its own restore, ordered and watched. No data passes through here.

pbm restores the cluster in place. A physical restore stops every mongod of it, and pbm with them, so nobody could watch
it from here: it is planned, and its commands are told.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Final

from nanumpay_backupd.errors import BackupdError, NotFoundError, RefusedError, SourceError, ToolError
from nanumpay_backupd.model import Manifest
from nanumpay_backupd.settings.sources import PbmSource, SourceSettings
from nanumpay_backupd.sources.base import Comparison, FolderTarget, Goal, Restoring, Wanted
from nanumpay_backupd.sources.pbm_dump import NAME
from nanumpay_backupd.sources.pbm_link import DONE, ENDED, PbmLink, Restored, Status, moment_of
from nanumpay_backupd.system.clock import SystemClock

__all__ = ["PbmTarget"]

_TIME: Final = "%Y-%m-%dT%H:%M:%S"
_REST: Final = 2.0
_PATIENCE: Final = 300.0
_CLUSTER: Final = "the cluster"
_BEFORE: Final = (
    "before: stop the balancer (sh.stopBalancer()), all mongos and the application; after: start them again, and make "
    "a new backup, since pbm's PITR begins anew"
)


class PbmTarget(FolderTarget):
    """The cluster from which it came."""

    options: ClassVar[Mapping[str, str]] = {
        "time": "a moment (UTC, such as 2026-11-21T14:05:00) to which pbm goes on from the backup by its saved oplog",
        "ns": "which namespaces, as pbm takes them, such as shop.*,crm.users; of logical backups only",
    }

    def __init__(self, settings: PbmSource) -> None:
        self._settings = settings
        self._link = PbmLink(settings)
        self._restore: _PbmRestore | None = None

    def look(self, manifest: Manifest, wanted: Wanted) -> Goal:
        """See `Target.look`: whether pbm has it and is free, and what it would do."""
        if wanted.to:
            raise _refused("pbm restores a cluster in its place", "leave out --to; or name another cluster in uri")
        if wanted.only:
            raise _refused("pbm restores namespaces, not replica sets", "take --option ns=DATABASE.* instead of --only")
        name = manifest.source.facts.get(NAME, "")
        found = self._link.describe(name)
        if found is None:
            raise NotFoundError(f"pbm has no backup {name} any more", hint="see: pbm list; backupctl list")
        if found.trouble:
            raise _refused(f"{name} cannot be relied on: {found.trouble}", "take another one: backupctl list")
        status = self._link.status()
        if (busy := status.busy) is not None:
            raise SourceError(
                f"pbm is busy with {busy.type} {busy.name}".rstrip(),
                hint="wait for its end, or end it: pbm cancel-backup",
                code="source-busy",
                retryable=True,
            )
        moment = _moment(status, wanted, found.last_write)
        if not wanted.overwrite:
            raise RefusedError(
                f"{_CLUSTER} would be replaced by what it was at {moment:%Y-%m-%d %H:%M:%S} UTC",
                hint="look at the plan: --dry-run --overwrite; then restore with --overwrite",
                code="target-exists",
            )
        words = " ".join(("pbm", "restore", *_words(name, wanted)))
        sets = len(found.members)
        changes = [f"pbm's agents restore {sets} replica sets to {moment:%Y-%m-%d %H:%M:%S} UTC: {words}"]
        if wanted.options.get("ns"):
            changes.append(f"only {wanted.options['ns']}; everything else stays as it is")
        return Goal(
            server=f"pbm {self._link.version()}, {len(status.cluster or ())} replica sets",
            place=_CLUSTER,
            parts=manifest.source.parts,
            there=tuple(one.rs for one in status.cluster or ()) or (_CLUSTER,),
            changes=tuple(changes),
            warnings=tuple(_warnings(manifest, status, words)),
        )

    def safety(self, manifest: Manifest, wanted: Wanted) -> SourceSettings | None:  # noqa: ARG002 - the contract
        """See `Target.safety`: pbm makes a backup of what is there now."""
        return None if _physical(manifest) else self._settings

    def needs(self, name: str, wanted: Wanted) -> bool:  # noqa: ARG002 - the contract
        """See `FolderTarget.needs`: the receipt was read, and pbm has the data."""
        return False

    def start(self, folder: Path, manifest: Manifest, wanted: Wanted, work: Path) -> Restoring:  # noqa: ARG002
        """See `FolderTarget.start`."""
        name = manifest.source.facts[NAME]
        words = _words(name, wanted)
        if _physical(manifest):
            raise _refused(
                f"{name} is a physical backup: its restore stops every mongod and pbm itself, so it is done by hand",
                f"pbm restore {' '.join(words)}; then pbm describe-restore NAME -c CONFIG.yaml (docs/sources/pbm.md)",
            )
        self._restore = _PbmRestore(self._link, words, len(manifest.source.parts))
        return self._restore

    def compare(self, manifest: Manifest, wanted: Wanted, work: Path) -> Comparison:  # noqa: ARG002 - the contract
        """See `Target.compare`: no more can be said than pbm says of its restore, replica set by replica set."""
        found = self._restore.found if self._restore is not None else None
        if found is None:
            return Comparison(documents=0, parts=0, differences=("pbm says nothing of the restore",))
        bad = [f"{one.name} is {one.status} {one.error}".strip() for one in found.replsets or () if one.status != DONE]
        return Comparison(
            documents=len(found.replsets or ()) - len(bad), parts=len(found.replsets or ()), differences=tuple(bad)
        )

    @property
    def untouched(self) -> bool:
        """See `Target.untouched`."""
        return self._restore is None or not self._restore.name

    def undo(self) -> str:
        """See `Target.undo`."""
        if self._restore is None or not self._restore.name:
            return ""
        return f"what pbm does goes on whether it is watched or not: pbm describe-restore {self._restore.name}"


class _PbmRestore(Restoring):
    """A restore in pbm's hands."""

    def __init__(self, link: PbmLink, words: tuple[str, ...], sets: int) -> None:
        self.name = ""
        self.found: Restored | None = None
        self._link = link
        self._words = words
        self._sets = sets
        self._clock = SystemClock()
        self._stop = threading.Event()
        self._fault: BackupdError | None = None
        self._thread = threading.Thread(target=self._work, name="pbm-restore", daemon=True)
        self._thread.start()

    @property
    def documents(self) -> int:
        """See `Restoring.documents`: replica sets that are restored."""
        found = self.found
        return sum(one.status == DONE for one in found.replsets or ()) if found is not None else 0

    @property
    def tail(self) -> str:
        """See `Restoring.tail`."""
        return self.found.trouble if self.found is not None else ""

    def wait(self, timeout: float) -> bool:
        """See `Restoring.wait`."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def kill(self) -> None:
        """See `Restoring.kill`: pbm has no way to end a restore; it is watched no longer."""
        self._stop.set()

    def judge(self) -> int:
        """See `Restoring.judge`."""
        if self._fault is not None:
            raise self._fault
        found = self.found
        if found is None or found.status != DONE or found.trouble:
            said = f"{found.status} {found.trouble}".strip() if found is not None else "nothing"
            raise ToolError(
                f"pbm did not finish its restore {self.name}: it says {said}",
                hint=f"pbm describe-restore {self.name}; pbm logs -e restore",
                code="restore-failed",
            )
        return self.documents

    def _work(self) -> None:
        try:
            self.name = self._link.restore(*self._words)
            answered = self._clock.monotonic()
            while not self._stop.wait(_REST):
                try:
                    self.found = self._link.restored(self.name) or self.found
                except BackupdError:
                    if self._clock.monotonic() - answered > _PATIENCE:
                        raise
                    continue
                answered = self._clock.monotonic()
                if self.found is not None and self.found.status in ENDED:
                    return
        except BackupdError as error:
            self._fault = error


def _words(name: str, wanted: Wanted) -> tuple[str, ...]:
    """Return what ``pbm restore`` is told."""
    time, names = wanted.options.get("time", ""), wanted.options.get("ns", "")
    what = (f"--time={time}", f"--base-snapshot={name}") if time else (name,)
    return (*what, *((f"--ns={names}",) if names else ()))


def _moment(status: Status, wanted: Wanted, ends: int) -> datetime:
    """Return the moment to which is restored; raises RefusedError where pbm has no oplog that leads there."""
    time = wanted.options.get("time", "")
    if not time:
        return moment_of(ends)
    try:
        moment = datetime.strptime(time, _TIME).replace(tzinfo=UTC)
    except ValueError:
        raise _refused(f"{time!r} is no moment", "write it as 2026-11-21T14:05:00, in UTC") from None
    at = int(moment.timestamp())
    if at < ends or not any(span.start <= ends <= span.end and at <= span.end for span in status.spans):
        told = "; ".join(
            f"{moment_of(max(span.start, ends)):{_TIME}} to {moment_of(span.end):{_TIME}}"
            for span in status.spans
            if span.start <= ends <= span.end
        )
        raise _refused(
            f"pbm's saved oplog does not lead from this backup to {time}",
            f"it leads to any moment (UTC) of {told}" if told else "see: pbm list; backupctl list",
        )
    return moment


def _warnings(manifest: Manifest, status: Status, words: str) -> list[str]:
    found = [_BEFORE, "no more is compared afterwards than what pbm says of its restore"]
    if status.pitr.conf:
        found.append("PITR is on: pbm before 2.3.1 has to be told to stop it: pbm config --set pitr.enabled=false")
    if _physical(manifest):
        found.append(
            f"a physical backup: its restore stops every mongod, so it is not done from here, but by hand: {words}"
        )
    return found


def _physical(manifest: Manifest) -> bool:
    return manifest.source.facts.get("pbm.type") != "logical"


def _refused(what: str, fix: str) -> RefusedError:
    return RefusedError(what, hint=fix, code="target-refused")
