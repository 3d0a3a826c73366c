"""A MongoDB cluster that Percona Backup for MongoDB saves: what is looked at before, how its receipt is checked.

Its agents, one beside each mongod, do the work and store the data where pbm was told to. What is archived here is a
receipt: what pbm says of the backup. Nothing of the data is seen, so no more is claimed than pbm says, and it is asked
anew whenever the receipt is read. Having one made is next door (`pbm_dump`), as is the way back (`pbm_target`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from nanumpay_backupd.errors import NotFoundError, RefusedError, SourceError, VerifyError
from nanumpay_backupd.model import Manifest
from nanumpay_backupd.settings.sources import PbmSource
from nanumpay_backupd.sources.base import Driver, Dump, Estimate, FolderSource, FolderTarget, Need, Scratch
from nanumpay_backupd.sources.pbm_dump import NAME, RECEIPT, PbmDump, Receipt
from nanumpay_backupd.sources.pbm_link import DONE, PbmLink, Status, moment_of

__all__ = ["PbmCluster", "PbmDriver", "in_words"]

_LARGEST: Final = 4 << 20
"""Bytes of a receipt: some hundred for each replica set."""
_ROOM: Final = 1 << 20
_FEW: Final = 3


class PbmDriver(Driver):
    """The rooms of the type ``pbm``."""

    def __init__(self, settings: PbmSource) -> None:
        self._settings = settings

    def source(self) -> FolderSource:
        """See `Driver.source`."""
        return PbmCluster(self._settings)

    def target(self) -> FolderTarget:
        """See `Driver.target`."""
        from nanumpay_backupd.sources.pbm_target import PbmTarget

        return PbmTarget(self._settings)

    def scratch(self, folder: Path, manifest: Manifest) -> Scratch:  # noqa: ARG002 - there is none for any
        """See `Driver.scratch`: pbm restores a cluster into a cluster with its agents, and none can be made here."""
        raise RefusedError(
            "a backup of pbm is restored into a cluster with agents of its own, which a drill cannot make",
            hint="restore it by hand into a second cluster that uses the same storage (docs/sources/pbm.md)",
            code="drill-impossible",
        )

    def release(self, manifest: Manifest) -> None:
        """See `Driver.release`: pbm deletes what it stored."""
        if name := manifest.source.facts.get(NAME):
            PbmLink(self._settings).delete(name)

    def needs(self) -> Iterator[Need]:
        """See `Driver.needs`."""
        yield Need("restores", lambda: f"pbm {PbmLink(self._settings).version()}")


class PbmCluster(FolderSource):
    """A cluster with pbm's agents."""

    def __init__(self, settings: PbmSource) -> None:
        self._settings = settings
        self._link = PbmLink(settings)
        self._version = ""

    def preflight(self) -> Estimate:
        """Ask for the agents and the storage, and whether pbm is free. See `Source.preflight`."""
        self._version = self._link.version()
        status = self._link.status()
        if (busy := status.busy) is not None:
            what = f"{busy.type} {busy.name}".strip()
            raise SourceError(
                f"pbm is busy with another operation: {what} ({busy.status or 'running'})",
                hint="it is tried again; what it does: pbm status",
                code="source-busy",
                retryable=True,
            )
        sets = status.cluster or ()
        silent = [one.rs for one in sets if not one.working]
        if silent or not sets:
            what = f"no agent of {', '.join(silent)} is well" if silent else "pbm knows no replica set"
            raise SourceError(
                f"{what}, so pbm cannot save the cluster: {_why(status) or 'it names no reason'}",
                hint="on each member: systemctl status pbm-agent; pbm status",
                code="source-unreachable",
                retryable=True,
            )
        if not status.backups.type:
            raise SourceError(
                "pbm has no storage for its backups",
                hint="pbm config --file CONFIG.yaml (docs/sources/pbm.md)",
                code="source-failed",
                retryable=False,
            )
        agents = sum(len(one.nodes or ()) for one in sets)
        working = sum(one.working for one in sets)
        stored = sum(one.status == DONE for one in status.backups.snapshot or ())
        return Estimate(
            raw_bytes=_ROOM,
            summary=f"pbm {self._version}, {len(sets)} replica sets, {working} of {agents} agents well, storage "
            f"{status.backups.type} {status.backups.path} with {stored} backups in all; {in_words(status)}",
            warnings=tuple(_cautions(status)),
        )

    def start(self, folder: Path) -> Dump:
        """Have a backup made. See `FolderSource.start`."""
        return PbmDump(self._settings, folder, self._version)

    def check(self, name: str) -> Callable[[bytes], None] | None:
        """Judge the receipt by what pbm says now. See `Source.check`."""
        return _ReceiptCheck(self._link) if name == RECEIPT else None


class _ReceiptCheck:
    """Reads a receipt, and asks pbm for the backup that it names."""

    def __init__(self, link: PbmLink) -> None:
        self._link = link
        self._data = b""
        self.count = 0
        self.detail = ""

    def __call__(self, piece: bytes) -> None:
        """See `Checker`; raises NotFoundError where pbm has that backup no more, SourceError where it cannot tell."""
        self._data += piece
        if len(self._data) > _LARGEST:
            raise _untrue("the receipt is larger than any that pbm gives")
        if not piece:
            self._judge()

    def _judge(self) -> None:
        try:
            receipt = msgspec.json.decode(self._data, type=Receipt)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _untrue(f"the receipt is damaged: {error}") from None
        was = receipt.backup
        if was.trouble:
            raise _untrue(f"the receipt of {was.name} is not of a good backup: {was.trouble}")
        now = self._link.describe(was.name)
        if now is None:
            raise NotFoundError(
                f"pbm has no backup {was.name} any more: it was deleted there",
                hint="this receipt is of no use: backupctl delete; run a new one: backupctl run",
                code="artifact-missing",
            )
        if now.trouble:
            raise _untrue(f"{was.name}: {now.trouble}")
        if (now.last_write, len(now.members)) != (was.last_write, len(was.members)):
            raise _untrue(f"{was.name} is another backup to pbm than the one that the receipt is of")
        self.count = len(now.members)
        self.detail = (
            f"pbm says of {was.name}: done, no error, restores to {moment_of(now.last_write):%Y-%m-%d %H:%M:%S} UTC; "
            "its data was not read"
        )


def in_words(status: Status) -> str:
    """Say whether and from when to when any moment can be brought back."""
    on = "PITR is on" if status.pitr.conf else "PITR is off"
    if not status.spans:
        return on
    told = [
        f"{moment_of(one.start):%Y-%m-%d %H:%M:%S} to {moment_of(one.end):%H:%M:%S %Y-%m-%d}" for one in status.spans
    ]
    more = f" and {len(told) - _FEW} spans before" if len(told) > _FEW else ""
    return f"{on}, any moment (UTC) of {'; '.join(told[-_FEW:])}{more}"


def _cautions(status: Status) -> Iterator[str]:
    """Say what is not as it should be, and yet no reason not to begin."""
    if ill := _why(status):
        yield f"not all agents are well: {ill}"
    if status.pitr.error:
        yield f"pbm's PITR has a fault: {status.pitr.error}"
    elif status.pitr.conf and not status.pitr.run:
        yield "pbm's PITR is switched on, but does not run"


def _why(status: Status) -> str:
    """Say which agents are not well, and why."""
    ill = [
        f"{one.rs}/{node.host} ({'; '.join(node.errors) or 'not found'})"
        for one in status.cluster or ()
        for node in one.nodes or ()
        if not node.ok and node.role != "A"
    ]
    more = f" and {len(ill) - _FEW} more" if len(ill) > _FEW else ""
    return ", ".join(ill[:_FEW]) + more


def _untrue(what: str) -> VerifyError:
    return VerifyError(
        what,
        hint="do not rely on this backup; older verified ones are kept; run a new one now: backupctl run",
        code="verify-structure",
    )
