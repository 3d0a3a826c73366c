"""A host whose job saves one tree of files, run by run as a worker does them. No tests."""

from __future__ import annotations

import gzip
import os
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.model import Backup, BackupState, Outcome, Run
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.pipeline.listing import Listing, list_tree
from nanumpay_backupd.settings.schema import Destination, JobSpec, Paths, RestoreOrder, RunSpec
from nanumpay_backupd.settings.sources import FilesSource
from nanumpay_backupd.stores.factory import open_store
from nanumpay_backupd.transforms.encryption import Encryption
from nanumpay_backupd.worker import execute
from tests.trees import ODD, fill_tree
from tests.workbench import Ear, SetClock, job_spec

__all__ = ["LEFT_OUT", "Site", "evolve", "filled", "good"]


LEFT_OUT = (".env", "vendor", "storage/other.log")


class Site:
    """A host whose job saves one tree."""

    def __init__(
        self,
        root: Path,
        *,
        destinations: tuple[Destination, ...] = (),
        encryption: Encryption | None = None,
        **settings: Any,
    ) -> None:
        self.tree = root / "srv" / "app"
        self.tree.mkdir(parents=True)
        self.settings = FilesSource(**{"path": (str(self.tree),), **settings})
        self.layout = Layout(root / "backups")
        self.clock = SetClock()
        self.paths = Paths(backups=root / "backups", state=root / "state", socket=root / "socket")
        (root / "state").mkdir()
        self.runs = 0
        self.ear = Ear()
        self._destinations = destinations
        self._encryption = encryption

    @property
    def job(self) -> JobSpec:
        """Return the job."""
        return job_spec(name="app", source=self.settings, destinations=self._destinations, encryption=self._encryption)

    def run(self, action: str = "backup", **more: Any) -> Run:
        """Do one run as a worker does."""
        self.runs += 1
        self.clock.moment += timedelta(seconds=5)
        spec = RunSpec(run=f"run{self.runs}", job=self.job, paths=self.paths, trigger="manual", action=action, **more)
        return execute(spec, self.ear, self.clock)

    def full(self) -> Backup:
        """Make a full and return it."""
        return self._made(self.run())

    def increment(self, kind: str = "incremental") -> Backup:
        """Make an increment and return it."""
        return self._made(self.run("slice", kind=kind))

    def restore(self, backup: Backup, to: Path | None = None, **order: Any) -> Run:
        """Restore a backup, an increment with all before it."""
        return self.run("restore", restore=_order(backup, to_database=str(to or ""), **order))

    def listed(self, backup: Backup, path: Path | None = None, **options: str) -> Listing:
        """List what is in a backup."""
        order = _order(backup, only=(str(path),) if path is not None else (), options=options)
        spec = RunSpec(run="none", job=self.job, paths=self.paths, trigger="manual", action="ls", restore=order)
        with Catalog(self.paths.state / "catalog.db") as catalog:
            return list_tree(spec, catalog, self.clock, partial(open_store))

    def plain(self, backup: Backup) -> bytes:
        """Return the archive of a backup."""
        return gzip.decompress(self.layout.artifact(backup.artifact).read_bytes())

    def _made(self, run: Run) -> Backup:
        assert run.outcome is Outcome.SUCCEEDED, run.error
        with Catalog(self.paths.state / "catalog.db") as catalog:
            found = [catalog.backup(one.id) for one in catalog.backups()]
        (backup,) = [one for one in found if one is not None and one.run == run.id]
        assert backup.state is BackupState.VERIFIED
        return backup


def _order(backup: Backup, **more: Any) -> RestoreOrder:
    if backup.kind == "full":
        return RestoreOrder(backup=backup.id, **more)
    return RestoreOrder(backup="", at=backup.end, **more)


def filled(root: Path, **more: Any) -> Site:
    """Make a host whose tree has everything in it; `LEFT_OUT` is what its rules leave out."""
    site = Site(root, exclude=(".env", "/vendor/", "*.log"), include=("keep.log",), **more)
    fill_tree(site.tree)
    (site.tree / "vendor").mkdir()
    (site.tree / "vendor" / "code").write_text("code")
    (site.tree / ".env").write_text("secret")
    (site.tree / "storage" / "keep.log").write_text("kept")
    (site.tree / "storage" / "other.log").write_text("not kept")
    return site


def good(run: Run) -> Run:
    """Return a run that succeeded."""
    assert run.outcome is Outcome.SUCCEEDED, run.error
    return run


def evolve(tree: Path) -> None:
    """Change a tree in every way that an increment has to notice."""
    (tree / "public" / "none").write_text("no longer empty")
    (tree / "public" / "zeros").unlink()
    os.unlink(os.fsencode(tree / "public") + b"/" + ODD[2])
    (tree / "storage").rename(tree / "store room")
    (tree / "public" / "deep").rename(tree / "deep")
    (tree / "empty").rmdir()
    (tree / "empty").write_text("a folder before")
    (tree / "public" / "fifo").unlink()
    (tree / "public" / "fifo").mkdir()
    (tree / "public" / "fifo" / "in it").write_text("a file in what was a fifo")
    (tree / "restricted").chmod(0o700)
    (tree / "public" / "hard two").hardlink_to(tree / "public" / "a")
