"""Files of an n8n backup as files: put into a folder, compared there; also as the scratch place of a drill."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from nanumpay_backupd.errors import BackupdError, RefusedError, SpaceError, ToolError
from nanumpay_backupd.model import Manifest
from nanumpay_backupd.sources.base import Comparison, FolderTarget, Goal, Restoring, Wanted
from nanumpay_backupd.sources.json_items import parse
from nanumpay_backupd.sources.n8n_dump import PRINT, WORKFLOW
from nanumpay_backupd.sources.n8n_plan import OPTIONS, Plan, plan_of
from nanumpay_backupd.sources.n8n_workflow import portrait
from nanumpay_backupd.sources.own_place import OwnFolder
from nanumpay_backupd.system.files import is_disk_full

__all__ = ["N8nFolder", "N8nScratch"]


class N8nFolder(FolderTarget):
    """A folder into which the files go as they are; what has the same name there is replaced, nothing else."""

    options: ClassVar[Mapping[str, str]] = OPTIONS

    def look(self, manifest: Manifest, wanted: Wanted) -> Goal:
        """See `Target.look`."""
        plan = plan_of(manifest, wanted)
        folder = Path(plan.folder)
        if folder.exists() and not folder.is_dir():
            raise RefusedError(f"{folder} is no folder", hint="name a folder: --to", code="target-refused")
        there = [part for part in plan.parts if os.path.lexists(folder / part.file)]
        if there and not wanted.overwrite:
            more = f" and {len(there) - 1} more" if len(there) > 1 else ""
            raise RefusedError(
                f"{folder / there[0].file}{more} is there already",
                hint="name another folder, or replace these files: --overwrite",
                code="target-exists",
            )
        return Goal(
            server=os.uname().nodename, place=str(folder), parts=plan.parts, there=tuple(part.name for part in there)
        )

    def start(self, folder: Path, manifest: Manifest, wanted: Wanted, work: Path) -> Restoring:  # noqa: ARG002
        """See `FolderTarget.start`."""
        return _Placed(folder, plan_of(manifest, wanted))

    def compare(self, manifest: Manifest, wanted: Wanted, work: Path) -> Comparison:  # noqa: ARG002
        """Read every file: its bytes are those of the backup, and each workflow says what the manifest says of it."""
        plan, found, count = plan_of(manifest, wanted), [], 0
        for part in plan.parts:
            path = Path(plan.folder) / part.file
            try:
                data = path.read_bytes()
            except OSError as error:
                found.append(f"{path} cannot be read: {error.strerror}")
                continue
            if hashlib.sha256(data).hexdigest() != part.digest:
                found.append(f"{path} has another content than the backup")
            elif part.kind == WORKFLOW:
                count += 1
                kept = manifest.source.facts.get(f"{PRINT}{part.name}")
                if kept and portrait(parse(data)).whole != plan.prints[part.name].whole:
                    found.append(f"{path} is another workflow than the manifest says")
        return Comparison(documents=count, parts=len(plan.parts), differences=tuple(found))


class _Placed(Restoring):
    """Files, which are in their place as soon as this is made."""

    def __init__(self, source: Path, plan: Plan) -> None:
        self._count = 0
        self._fault: BackupdError | None = None
        try:
            for part in plan.parts:
                place = Path(plan.folder) / part.file
                place.parent.mkdir(parents=True, exist_ok=True)
                place.unlink(missing_ok=True)
                with (source / part.file).open("rb") as reading, place.open("xb") as writing:
                    # There may be secrets in them, and credentials are.
                    os.fchmod(writing.fileno(), 0o600)
                    shutil.copyfileobj(reading, writing)
                self._count += part.items
        except OSError as error:
            self._fault = _fault(error)

    @property
    def documents(self) -> int:
        """See `Restoring.documents`."""
        return self._count

    @property
    def tail(self) -> str:
        """See `Restoring.tail`."""
        return ""

    def wait(self, timeout: float) -> bool:  # noqa: ARG002 - the contract
        """See `Restoring.wait`."""
        return True

    def kill(self) -> None:
        """See `Restoring.kill`."""

    def judge(self) -> int:
        """See `Restoring.judge`."""
        if self._fault is not None:
            raise self._fault
        return self._count


class N8nScratch(OwnFolder):
    """A folder of our own: files are taken apart and compared, but no n8n is started."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, N8nFolder(), wanted=str(folder))


def _fault(error: OSError) -> BackupdError:
    if is_disk_full(error):
        return SpaceError(f"the disk of {error.filename or 'the folder'} is full", hint="free space there")
    return ToolError(
        f"{error.filename or 'a file'} cannot be written: {os.strerror(error.errno or 0)}",
        hint="check the folder's rights and its room; with ProtectSystem the unit needs ReadWritePaths for it",
        code="restore-failed",
    )
