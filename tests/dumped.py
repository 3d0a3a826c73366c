"""A source's dumps and restores by its driver alone, without pipeline and archive, for tests of what is its own."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from nanumpay_backupd.model import Artifact, Kind, Manifest
from nanumpay_backupd.settings.sources import SourceSettings
from nanumpay_backupd.sources.base import FolderSource, FolderTarget, Since, Wanted
from nanumpay_backupd.sources.factory import open_driver

__all__ = ["Backup", "bring_back"]

_ENOUGH: Final = 60.0


class Backup:
    """What a dump left: its folder, and the manifest that a run would write."""

    manifest: Manifest

    def __init__(self, settings: SourceSettings, folder: Path, since: Backup | None = None) -> None:
        source = open_driver(settings).source()
        assert isinstance(source, FolderSource)
        self.warnings = source.preflight().warnings
        self.folder = folder / "dump"
        self.folder.mkdir(parents=True)
        dump = (
            source.start(self.folder)
            if since is None
            else source.follow_on(self.folder, Since(manifest=since.manifest))
        )
        try:
            assert dump.wait(_ENOUGH)
            files = [path for path in self.folder.rglob("*") if path.is_file()]
            harvest = dump.harvest({path.relative_to(self.folder).as_posix(): path.stat().st_size for path in files})
        finally:
            dump.kill()
        assert [path.name for path in folder.iterdir()] == ["dump"], "nothing is left beside it"
        now = datetime.now(UTC)
        self.manifest = Manifest(
            backup=folder.name,
            job="thing",
            kind=Kind.FULL if since is None else Kind.INCREMENTAL,
            run="run",
            host="host",
            started=now,
            ended=now,
            source=harvest.source,
            consistency=harvest.consistency,
            artifact=Artifact(name="a", size=1, sha256="", compression="gzip", level=1, raw_bytes=1),
            tools=harvest.tools,
        )


def bring_back(settings: SourceSettings, backups: list[Backup], work: Path, **wanted: object) -> None:
    """Restore a full and its increments, and compare."""
    target, asked = open_driver(settings).target(), Wanted(overwrite=True, **wanted)  # type: ignore[arg-type]
    assert isinstance(target, FolderTarget)
    work.mkdir()
    target.look(backups[0].manifest, asked)
    for backup in backups:
        running = target.start(backup.folder, backup.manifest, asked, work)
        assert running.wait(_ENOUGH)
        running.judge()
    found = target.compare(backups[-1].manifest, asked, work)
    assert found.differences == ()
