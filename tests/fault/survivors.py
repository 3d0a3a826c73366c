"""A host for runs that are killed or refused, and what must hold afterwards, whatever happened to them.

Everything that was committed is there and as it was, nothing half is left, the catalog is sound and true, the record
says how the run ended, and the next run succeeds.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.model import LOCAL, Backup, BackupState, CopyState, Kind, Outcome, Policy, Run
from nanumpay_backupd.pipeline.backup import recover
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.settings.schema import JobSpec, LocalDestination, Paths, RunSpec
from nanumpay_backupd.system.files import remove_tree
from tests.fault.workers import Ended, Stable
from tests.workbench import job_spec

__all__ = ["CALLS", "Host", "counted", "spread"]

CALLS: Final = tuple(
    "rename fsync unlink pwrite64 write fdatasync openat close mkdir ftruncate link unlinkat rmdir chmod fchmod fchown "
    "fallocate copy_file_range flock".split()
)
"""By which a process changes what is on a disk, or lets go of it; those that matter most first."""
ALL: Final = Policy(count=1000, days=1000)
_ANY: Final = re.compile(r"^(?:\d+ +)?(\w+)\(")


@dataclass
class Host:
    """A host with one job and a further folder for copies, without a daemon."""

    root: Path
    stable: Stable
    job: JobSpec
    runs: int = 0
    kills: int = 0

    @classmethod
    def made(cls, root: Path, stable: Stable, source: Any, **job: Any) -> Host:
        """Make the folders of a host."""
        remove_tree(root)
        for name in ("state", "away"):
            (root / name).mkdir(parents=True)
        return cls(root, stable, cls.job_of(source, root / "away", **job))

    @staticmethod
    def job_of(source: Any, away: Path | None = None, **job: Any) -> JobSpec:
        """Return a job that keeps all of its backups, with a further folder for copies or without."""
        places = () if away is None else (LocalDestination(name="away", path=str(away)),)
        settings = {"name": "thing", "source": source, "retention": ALL, "destinations": places}
        return job_spec(**{**settings, **job})

    @property
    def layout(self) -> Layout:
        """Return the places in the backups folder."""
        return Layout(self.root / "backups")

    @property
    def paths(self) -> Paths:
        """Return where things lie."""
        return Paths(backups=self.root / "backups", state=self.root / "state", socket=self.root / "socket")

    def spec(self, action: str = "backup", *, job: Mapping[str, Any] | None = None, **more: Any) -> RunSpec:
        """Return an order for the next run; ``job``: what is different in its job."""
        self.runs += 1
        changed = msgspec.structs.replace(self.job, **(job or {}))
        return RunSpec(run=f"run{self.runs}", job=changed, paths=self.paths, trigger="manual", action=action, **more)

    def good(self, action: str = "backup", **more: Any) -> Ended:
        """Do a run that must succeed."""
        ended = self.stable.run(self.spec(action, **more))
        assert ended.code == 0, ended.said[-3000:]
        return ended

    # What there is

    def files(self) -> dict[str, str]:
        """Return the digest of every artifact, here and at the other folder."""
        found = {}
        for folder in (self.layout.backups, self.layout.slices, self.layout.encrypted, self.root / "away"):
            for path in folder.glob("thing-*"):
                if not path.name.endswith((".part", ".json")):
                    found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def backups(self) -> list[Backup]:
        """Return what the catalog knows, newest first, with manifests."""
        with Catalog(self.paths.state / "catalog.db") as catalog:
            found = [catalog.backup(one.id) for one in catalog.backups()]
        return [one for one in found if one is not None]

    def record(self, run: str) -> Run | None:
        """Return the record of a run."""
        with Catalog(self.paths.state / "catalog.db") as catalog:
            return catalog.run(run)

    # What must hold

    def recover(self) -> list[Run]:
        """Tidy up as the daemon does when it starts; returns the runs that it found cut off."""
        with closing(sqlite3.connect(self.paths.state / "catalog.db")) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        with Catalog(self.paths.state / "catalog.db") as catalog:
            ended = recover(catalog, self.layout, self.stable.now())
            assert catalog.unfinished_runs() == []
        return ended

    def assert_true(self, pruned: int | None = None) -> None:
        """What the catalog has is there, byte for byte as its manifest says, and nothing else; nothing is staged.

        Where pruning was cut off, copies elsewhere that are older than the newest ``pruned`` may be gone already: the
        record goes last, so that the next pruning does the rest.
        """
        assert [entry.name for entry in self.layout.staging.iterdir()] == []
        files = self.files()
        told = set()
        for number, backup in enumerate(self.backups()):
            assert backup.kind is not Kind.LEGACY, "a backup without its manifest"
            assert backup.manifest is not None
            for copy in backup.copies:
                folder = self.layout.artifact(copy.key).parent if copy.destination == LOCAL else self.root / "away"
                going = pruned is not None and number >= pruned and copy.destination != LOCAL
                if copy.state in (CopyState.UPLOADED, CopyState.VERIFIED) and not (
                    going and not (folder / copy.key).exists()
                ):
                    assert files[str(folder / copy.key)] == backup.manifest.artifact.sha256
                told.add(str(folder / copy.key))
        here = {path for path in files if not path.startswith(str(self.root / "away"))}
        assert here <= told, "the list and the folder say the same"

    def assert_kept(self, before: Mapping[str, str], newest: int | None = None) -> None:
        """All that was committed is there as it was; with ``newest``, so many of each folder, and none is changed."""
        after = self.files()
        for path, digest in before.items():
            assert after.get(path, digest) == digest, f"{path} was changed"
        if newest is None:
            assert before.keys() <= after.keys(), "a committed backup is lost"
            return
        for folder in {Path(path).parent for path in before}:
            names = sorted(path for path in before if Path(path).parent == folder)[-newest:]
            assert set(names) <= after.keys(), "retention took more than it may"

    def after_kill(
        self, spec: RunSpec, before: Mapping[str, str], again: Callable[[], object], newest: int | None = None
    ) -> None:
        """Check all of it after a run was killed; ``again`` is the next one."""
        self.kills += 1
        self.assert_kept(before, newest)
        self.recover()
        self.assert_true(newest)
        self.assert_kept(before, newest)
        record = self.record(spec.run)
        if record is not None and record.outcome is not Outcome.SUCCEEDED:
            assert record.outcome is Outcome.INTERRUPTED
            assert record.error is not None
            assert record.error.code == "interrupted"
        again()
        self.assert_true()
        for backup in self.backups():
            assert backup.state is BackupState.VERIFIED, f"{backup.id} was not proven by the next run"
        self.assert_kept(before, newest - 1 if newest is not None else None)


def counted(path: Path) -> Counter[str]:
    """Count the calls of a recording."""
    found: Counter[str] = Counter()
    with path.open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            if (match := _ANY.match(line)) and match[1] in CALLS:
                found[match[1]] += 1
    return found


def spread(counts: Counter[str], budget: int) -> list[tuple[str, int]]:
    """Choose so many of the calls, by name and number: of every name some, and these from first to last."""
    chosen: list[tuple[str, int]] = []
    left = budget
    names = sorted([name for name in CALLS if counts[name]][: max(1, budget // 2)], key=lambda name: counts[name])
    for at, name in enumerate(names):
        take = min(counts[name], max(1, left // (len(names) - at)))
        left -= take
        step = counts[name] / take
        chosen += [(name, int(step * (number + 0.5)) + 1) for number in range(take)]
    return chosen
