"""Streams and increments through the pipeline, with GNU tar itself as the source's tool and a tree of a few files."""

# ruff: noqa: D102 - what each method promises is said in sources.base

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError, SourceError, ToolError, VerifyError
from nanumpay_backupd.model import (
    STREAM,
    Backup,
    BackupState,
    Consistency,
    Kind,
    Manifest,
    OpTime,
    Outcome,
    Part,
    Run,
    SourceInfo,
    Trigger,
)
from nanumpay_backupd.pipeline import bringback, rehearse
from nanumpay_backupd.pipeline.backup import back_up
from nanumpay_backupd.pipeline.increment import take_increment
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.pipeline.report import Recorder, new_run
from nanumpay_backupd.settings.schema import JobEncryption, Paths, RestoreOrder, RunSpec, VerifyOrder
from nanumpay_backupd.sources.base import (
    Comparison,
    Driver,
    Estimate,
    Goal,
    Harvest,
    Scratch,
    Since,
    Stream,
    StreamSource,
    StreamTarget,
    Unchanged,
    Wanted,
    Writing,
)
from tests.keys import age_key
from tests.workbench import Ear, SetClock, job_spec

_TYPE = "a-tree"


class Tarring(Stream):
    """A running tar."""

    def __init__(self, root: Path, work: Path, since: Since | None) -> None:
        self._snar = work / "snar"
        if since is not None:
            if since.state is None:
                raise SourceError("the snapshot file is gone", code="chain-broken", retryable=False)
            shutil.copyfile(since.state, self._snar)
        self._before = _listing(root) if since is None else since.manifest.source.facts["listing"]
        self._listing, self._since = _listing(root), since
        self._process = subprocess.Popen(
            ["tar", "-c", f"--listed-incremental={self._snar}", "-C", str(root), "."], stdout=subprocess.PIPE
        )

    def fileno(self) -> int:
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    @property
    def documents(self) -> int:
        return 0

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def harvest(self, size: int) -> Harvest:
        if self._process.wait() != 0:
            raise ToolError("tar failed", code="tool-failed")
        if self._since is not None and self._before == self._listing:
            raise Unchanged
        count = self._listing.count("\n")
        part = Part(name=".", kind="folder", items=0, bytes=size)
        return Harvest(
            source=SourceInfo(
                type=_TYPE,
                server_version="",
                topology="",
                databases=(),
                collections=(),
                parts=(part,),
                form=STREAM,
                facts={"listing": self._listing},
            ),
            consistency=Consistency(level="none", reason="files change"),
            tools={"tar": "1"},
            documents=count,
            state=self._snar,
        )


class Tree(StreamSource):
    """A folder."""

    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.FULL, Kind.INCREMENTAL, Kind.DIFFERENTIAL})

    def __init__(self, root: Path) -> None:
        self.root = root

    def preflight(self) -> Estimate:
        return Estimate(raw_bytes=1 << 20, summary="a tree")

    def open(self, work: Path, since: Since | None = None) -> Stream:
        return Tarring(self.root, work, since)

    def check(self, name: str) -> Callable[[bytes], None] | None:
        return Walk()


class Walk:
    """Judges a tar by its end only: two empty blocks."""

    def __init__(self) -> None:
        self._tail = b""

    def __call__(self, piece: bytes) -> None:
        self._tail = (self._tail + piece)[-1024:]
        if not piece and self._tail != bytes(1024):
            raise VerifyError("no end", code="verify-structure")


class Untarring(Writing):
    """A tar that unpacks."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            ["tar", "-x", "--listed-incremental=/dev/null", "-C", str(root)], stdin=subprocess.PIPE
        )

    documents = property(lambda _self: 0)
    tail = property(lambda _self: "")

    def write(self, piece: bytes) -> None:
        assert self._process.stdin is not None
        if piece:
            self._process.stdin.write(piece)
        else:
            self._process.stdin.close()

    def wait(self, timeout: float) -> bool:
        try:
            return self._process.wait(timeout) is not None
        except subprocess.TimeoutExpired:
            return False

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def judge(self) -> int:
        if self._process.returncode:
            raise ToolError("tar failed", code="restore-failed")
        return 0


class Folder(StreamTarget):
    """Another folder."""

    def look(self, manifest: Manifest, wanted: Wanted) -> Goal:
        return Goal(server="", place=wanted.to, parts=manifest.source.parts)

    def start(self, manifest: Manifest, wanted: Wanted, work: Path) -> Writing:
        return Untarring(Path(wanted.to))

    def compare(self, manifest: Manifest, wanted: Wanted, work: Path) -> Comparison:
        same = _listing(Path(wanted.to)) == manifest.source.facts["listing"]
        return Comparison(0, 1, () if same else ("the listing differs",))


class Place(Scratch):
    """A folder of the drill's own."""

    described = "a folder"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def start(self, check: Callable[[], None]) -> None:
        self._folder.mkdir()

    def trouble(self) -> str:
        return ""

    def stop(self) -> None:
        pass

    def target(self) -> StreamTarget:
        return Folder()

    def wanted(self) -> Wanted:
        return Wanted(to=str(self._folder))


@dataclass
class TreeDriver(Driver):
    """The rooms of a tree."""

    root: Path

    def source(self) -> StreamSource:
        return Tree(self.root)

    def target(self) -> StreamTarget:
        return Folder()

    def scratch(self, folder: Path, manifest: Manifest) -> Scratch:
        return Place(folder)


def _listing(root: Path) -> str:
    lines = []
    for path in sorted(root.rglob("*")):
        text = path.read_bytes().hex()[:200] if path.is_file() and not path.is_symlink() else ""
        lines.append(f"{path.relative_to(root)} {path.lstat().st_mode:o} {text}\n")
    return "".join(lines)


class Clock(SetClock):
    """A set clock, whose every look moves it on a little."""

    def now(self) -> Any:
        """Return the moment, a second later each time."""
        self.moment += timedelta(seconds=1)
        return self.moment


@dataclass
class Site:
    """A host with one tree."""

    home: Path
    tree: Path
    clock: Clock = field(default_factory=Clock)
    ear: Ear = field(default_factory=Ear)
    job: dict[str, Any] = field(default_factory=dict)
    count: int = 0

    def _recorder(self, catalog: Catalog, action: str) -> Recorder:
        self.count += 1
        return Recorder(
            new_run(f"run{self.count}", "nanumpay", Trigger.MANUAL, self.clock.now(), action),
            catalog,
            self.ear,
            self.clock,
        )

    def spec(self, action: str = "backup", **more: Any) -> RunSpec:
        """Return what a worker is told."""
        (self.home / "state").mkdir(parents=True, exist_ok=True)
        paths = Paths(backups=self.home / "backups", state=self.home / "state", socket=self.home / "s")
        return RunSpec(
            run=f"run{self.count + 1}",
            job=job_spec(**self.job),
            paths=paths,
            trigger="manual",
            action=action,
            **more,
        )

    def run(self, action: str = "backup", kind: str = "incremental", **more: Any) -> Run:
        """Do one run."""
        spec = self.spec(action, kind=kind, **more)
        with Catalog(self.home / "state/catalog.db") as catalog:
            recorder = self._recorder(catalog, action)
            store: Any = None
            if action == "slice":
                return take_increment(spec, Tree(self.tree), catalog, recorder, store)
            if action == "restore":
                return bringback.bring_back(spec, catalog, recorder, store)
            if action == "drill":
                return rehearse.rehearse(spec, catalog, recorder, store)
            return back_up(spec, Tree(self.tree), catalog, recorder, store)

    def backups(self) -> list[Backup]:
        """Return all backups, oldest first, with manifests."""
        with Catalog(self.home / "state/catalog.db") as catalog:
            found = [catalog.backup(one.id) for one in reversed(catalog.backups())]
        return [one for one in found if one is not None]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Give a host whose job saves a tree."""
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "a.txt").write_bytes(os.urandom(300_000))
    (tree / "sub/b.txt").write_text("b")
    (tree / "gone.txt").write_text("soon")
    driver = TreeDriver(tree)
    for module in (bringback, rehearse):
        monkeypatch.setattr(module, "open_driver", lambda _settings: driver)
    monkeypatch.setattr(bringback, "open_source", lambda _settings: driver.source())
    yield Site(tmp_path / "host", tree)
    assert threading.active_count() < 20


def good(run: Run) -> Run:
    """Return a run that succeeded."""
    assert run.outcome is Outcome.SUCCEEDED, run.error
    return run


def test_a_stream_is_archived_as_its_tool_wrote_it(site: Site) -> None:
    """The artifact is the tool's own archive: any tar reads it, and it is proven as a whole."""
    good(site.run())
    (backup,) = site.backups()
    assert backup.state is BackupState.VERIFIED
    path = Layout(site.home / "backups").artifact(backup.artifact)
    listed = subprocess.run(["tar", "-tzf", path], capture_output=True, text=True, check=True).stdout.split()
    assert {"./a.txt", "./sub/b.txt"} <= set(listed)
    assert backup.manifest is not None
    assert backup.manifest.artifact.raw_bytes % 10240 == 0


def test_increments_lead_to_each_of_their_ends(site: Site, tmp_path: Path) -> None:
    """A full and the increments after it bring back every state that was saved, deletions too."""
    good(site.run())
    states = [_listing(site.tree)]
    (site.tree / "gone.txt").unlink()
    (site.tree / "c.txt").write_text("c")
    good(site.run("slice"))
    states.append(_listing(site.tree))
    (site.tree / "sub/b.txt").write_text("changed")
    good(site.run("slice"))
    states.append(_listing(site.tree))
    backups = site.backups()
    assert [item.kind for item in backups] == [Kind.FULL, Kind.INCREMENTAL, Kind.INCREMENTAL]
    assert [item.manifest and item.manifest.parent for item in backups] == [None, backups[0].id, backups[1].id]
    assert {item.manifest and item.manifest.chain for item in backups[1:]} == {backups[0].id}
    assert all("/slices/" in str(Layout(site.home / "b").artifact(item.artifact)) for item in backups[1:])
    for at, backup in enumerate(backups):
        to = tmp_path / f"to{at}"
        good(site.run("restore", restore=RestoreOrder(backup="", at=backup.end, to_database=str(to))))
        assert _listing(to) == states[at]
    later = str(OpTime(OpTime.parse(backups[1].end).seconds, 99))
    good(site.run("restore", restore=RestoreOrder(backup="", at=later, to_database=str(tmp_path / "later"))))
    assert _listing(tmp_path / "later") == states[1], "between two increments it is as at the one before"


def test_a_differential_goes_on_from_the_full(site: Site, tmp_path: Path) -> None:
    """It holds all since the full, and stands for the increments in between."""
    good(site.run())
    (site.tree / "c.txt").write_text("c")
    good(site.run("slice"))
    (site.tree / "d.txt").write_text("d")
    good(site.run("slice", kind="differential"))
    full, increment, differential = site.backups()
    assert differential.manifest is not None
    assert (differential.kind, differential.manifest.parent) == (Kind.DIFFERENTIAL, full.id)
    Layout(site.home / "backups").artifact(increment.artifact).unlink()
    good(site.run("restore", restore=RestoreOrder(backup="", at=differential.end, to_database=str(tmp_path / "to"))))
    assert _listing(tmp_path / "to") == _listing(site.tree)


def test_nothing_new_makes_no_backup(site: Site) -> None:
    """Where nothing changed nothing is kept, and the run has succeeded, as has each of its stages."""
    good(site.run())
    nothing = good(site.run("slice"))
    assert {stage.outcome for stage in nothing.stages} == {Outcome.SUCCEEDED}
    assert nothing.stages[-1].detail == "nothing has changed"
    assert len(site.backups()) == 1


def test_only_a_full_can_follow_a_lost_snapshot_file(site: Site) -> None:
    """The state that a backup left is for this user only; without it the fault is one that a new full repairs."""
    first = site.run("slice")
    assert (first.outcome, first.error and first.error.code) == (Outcome.FAILED, "chain-missing")
    good(site.run())
    (state,) = (site.home / "state/increments").iterdir()
    assert state.stat().st_mode & 0o077 == 0 or (site.home / "state/increments").stat().st_mode & 0o077 == 0
    state.unlink()
    (site.tree / "c.txt").write_text("c")
    lost = site.run("slice")
    assert (lost.outcome, lost.error and lost.error.code) == (Outcome.FAILED, "chain-broken")
    good(site.run())
    (site.tree / "d.txt").write_text("d")
    good(site.run("slice"))


def test_states_that_nothing_needs_go(site: Site) -> None:
    """Of the increments only the newest one's state is kept; the full's stays for differentials."""
    good(site.run())
    for name in "xyz":
        (site.tree / name).write_text(name)
        good(site.run("slice"))
    backups = site.backups()
    kept = {path.name for path in (site.home / "state/increments").iterdir()}
    assert kept == {backups[0].id, backups[-1].id}


def test_a_stream_is_drilled_and_encrypted(site: Site, tmp_path: Path) -> None:
    """Through encryption as well: the archive never lies plain on the disk, and comes back as it was."""
    pair = age_key("first")
    site.job["encryption"] = JobEncryption(
        method="age", scope="all", recipients=(pair.recipient,), decrypt_with=(pair.identity,)
    )
    good(site.run())
    (site.tree / "c.txt").write_text("c")
    good(site.run("slice"))
    _, increment = site.backups()
    assert increment.artifact.endswith(".tar.gz.age")
    good(site.run("drill", verify=VerifyOrder(level="restore")))
    good(site.run("restore", restore=RestoreOrder(backup="", at=increment.end, to_database=str(tmp_path / "to"))))
    assert _listing(tmp_path / "to") == _listing(site.tree)


def test_damage_in_a_chain_is_told_before_anything_changes(site: Site, tmp_path: Path) -> None:
    """An increment that rotted is found when it is read, and the place is left alone."""
    good(site.run())
    (site.tree / "c.txt").write_text("c" * 5000)
    good(site.run("slice"))
    increment = site.backups()[-1]
    path = Layout(site.home / "backups").artifact(increment.artifact)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    run = site.run("restore", restore=RestoreOrder(backup="", at=increment.end, to_database=str(tmp_path / "to")))
    assert run.outcome is Outcome.FAILED
    assert run.error is not None
    assert "nothing was changed" in run.error.message
    assert not (tmp_path / "to").exists()


def test_a_source_without_increments_refuses_them(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for what it cannot do, it says so instead of making something else."""
    good(site.run())
    monkeypatch.setattr(Tree, "kinds", frozenset({Kind.FULL}))
    run = site.run("slice")
    assert (run.outcome, run.error and run.error.code) == (Outcome.FAILED, "not-for-this-source")
    assert isinstance(run.error, msgspec.Struct)
    assert not issubclass(type(run.error), BackupdError)
