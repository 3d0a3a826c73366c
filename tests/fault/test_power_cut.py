"""The power goes at any moment of a run: rebuilt from a recording of its calls, with what was not forced left out.

The disk of `powercut` keeps what POSIX promises and nothing else. That this test can fail is tested too: without one of
the fsyncs it must find the hole.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import pytest

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.model import Manifest, from_json
from nanumpay_backupd.pipeline.layout import MANIFEST_SUFFIX, Layout
from nanumpay_backupd.pipeline.publish import read_manifest, sweep
from nanumpay_backupd.settings.sources import FilesSource
from tests.fault.powercut import CALLS, Call, Disk, State, calls_of, materialize
from tests.fault.survivors import Host
from tests.fault.workers import stable
from tests.workbench import small_disk

MIB: Final = 1 << 20
pytestmark = pytest.mark.promise(
    "A power cut at any moment leaves no manifest without its whole artifact, and loses nothing that was committed.",
    item=1,
)


@dataclass(frozen=True)
class Recording:
    """The calls of a run, what was there before it, and the name of the backup that it made."""

    before: Path
    host: Host
    calls: tuple[Call, ...]
    made: str


def _record(root: Path, older: int) -> Recording:
    """Record a backup run of a host with so many older backups."""
    with stable(root) as workers:
        tree = root / "tree"
        tree.mkdir()
        for at in range(3):
            (tree / f"file{at}").write_bytes(os.urandom(2000))
        host = Host.made(root / "host", workers, FilesSource(path=(str(tree),)))
        for _ in range(older):
            host.good()
        shutil.copytree(host.root, root / "before")
        trace = root / "trace"
        options = ["-f", "-y", "-x", "-s", str(MIB), "-e", f"trace={','.join(CALLS)}"]
        ended = workers.run(host.spec(), options, output=str(trace))
        assert ended.code == 0, ended.said
        made = host.backups()[0].id
    return Recording(root / "before", host, tuple(calls_of(trace)), made)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk in memory."""
    with small_disk(tmp_path_factory.mktemp("power") / "disk", 512 * MIB) as folder:
        yield folder


@pytest.fixture(scope="module")
def later(disk: Path) -> Recording:
    """A run after two others."""
    (disk / "later").mkdir()
    return _record(disk / "later", 2)


@pytest.fixture(scope="module")
def first(disk: Path) -> Recording:
    """The first run of a host."""
    (disk / "first").mkdir()
    return _record(disk / "first", 0)


def states(
    recording: Recording, part: str, forgotten: Callable[[Call, str], bool] = lambda _call, _path: False
) -> Iterator[tuple[int, State]]:
    """Yield every different state that a power cut may leave of a folder of the host, with the call it comes after."""
    real = recording.host.root / part
    disk = Disk(real, recording.before / part, forgotten)
    seen: set[int] = set()
    for at, call in enumerate(recording.calls):
        if not disk.apply(call):
            continue
        for state in disk.states():
            key = hash(frozenset((path, content) for path, content in state.items() if not _of_no_matter(path)))
            if key not in seen:
                seen.add(key)
                yield at, state


def _of_no_matter(path: str) -> bool:
    return path.endswith(("lock", "-shm", "/left-out", "/snapshot")) or "/.punch-" in path


def holes_here(recording: Recording, scratch: Path, forgotten: Callable[[Call, str], bool]) -> Iterator[str]:
    """Yield what is wrong in the backups folder after a power cut, before and after the sweep of the next start."""
    older = _manifests(Layout(recording.before / "backups"))
    told = next(at for at, call in enumerate(recording.calls) if _says(call, b'"kind": "committed"'))
    for number, (at, state) in enumerate(states(recording, "backups", forgotten)):
        root = scratch / str(number)
        materialize(state, root)
        layout = Layout(root)
        promised = older | ({recording.made} if at >= told else set())
        for moment in ("before", "after"):
            yield from (f"{at} {moment} the sweep: {hole}" for hole in _holes(layout, promised))
            sweep(layout)
        shutil.rmtree(root)


def _says(call: Call, text: bytes) -> bool:
    return call.name == "write" and any(word.text and text in word.text for word in call.words)


def _manifests(layout: Layout) -> set[str]:
    return {path.stem for path in layout.manifests.glob("*.json")}


def _holes(layout: Layout, promised: set[str]) -> Iterator[str]:
    there = _manifests(layout)
    for name in promised - there:
        yield f"the manifest of {name} is lost"
    for name in there:
        manifest = read_manifest(layout.manifest(name))
        if manifest is None:
            yield f"the manifest of {name} is garbled"
            continue
        artifact = layout.artifact(manifest.artifact.name)
        if not artifact.exists():
            yield f"the artifact of {name} is lost"
        elif hashlib.sha256(artifact.read_bytes()).hexdigest() != manifest.artifact.sha256:
            yield f"the artifact of {name} is not whole"


def holes_away(recording: Recording, forgotten: Callable[[Call, str], bool]) -> Iterator[str]:
    """Yield what is wrong at the other folder, where a manifest stands beside its artifact."""
    stored = max(at for at, call in enumerate(recording.calls) if _says(call, b"is at away"))
    promised = {path.name for path in (recording.before / "away").glob(f"*{MANIFEST_SUFFIX}")}
    promised.add(f"{recording.made}.tar.gz{MANIFEST_SUFFIX}")
    for at, state in states(recording, "away", forgotten):
        for name in promised - state.keys():
            if at >= stored or not name.startswith(recording.made):
                yield f"{at}: {name} is lost"
        for path, content in state.items():
            if not path.endswith(MANIFEST_SUFFIX) or path.startswith("."):
                continue
            try:
                manifest = from_json(Manifest, content or b"")
            except msgspec.DecodeError:
                yield f"{at}: {path} is garbled"
                continue
            artifact = state.get(manifest.artifact.name)
            if artifact is None or hashlib.sha256(artifact).hexdigest() != manifest.artifact.sha256:
                yield f"{at}: the artifact of {path} is lost or not whole"


def _none(_call: Call, _path: str) -> bool:
    return False


@pytest.mark.parametrize("which", ["first", pytest.param("later", marks=pytest.mark.fault_long)])
def test_the_backups_folder(request: pytest.FixtureRequest, which: str, disk: Path) -> None:
    """In each state that a power cut can leave every manifest has its artifact, and what was told as made is there."""
    recording: Recording = request.getfixturevalue(which)
    assert list(holes_here(recording, fresh(disk), _none)) == []


@pytest.mark.parametrize("which", ["first", "later"])
def test_another_folder(request: pytest.FixtureRequest, which: str) -> None:
    """At a folder that copies go to it is the same: whoever sees the manifest finds the whole artifact."""
    recording: Recording = request.getfixturevalue(which)
    assert list(holes_away(recording, _none)) == []


@pytest.mark.fault_long
def test_the_catalog(later: Recording, disk: Path) -> None:
    """In each state that a power cut can leave the catalog opens, is sound, and has the older backups."""
    older = _manifests(Layout(later.before / "backups"))
    for number, (at, state) in enumerate(states(later, "state")):
        root = fresh(disk) / str(number)
        materialize({path: content for path, content in state.items() if not path.endswith("-shm")}, root)
        with closing(sqlite3.connect(root / "catalog.db")) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)], f"after call {at}"
        with Catalog(root / "catalog.db") as catalog:
            assert {backup.id for backup in catalog.backups()} >= older, f"after call {at}"
        shutil.rmtree(root)


def _of_the_artifact(call: Call, path: str) -> bool:
    return "/staging/" in path and path.endswith(".tar.gz")


def _of_the_manifest(call: Call, path: str) -> bool:
    return "/staging/" in path and path.endswith(".tmp")


def _of_the_backups_folder(call: Call, path: str) -> bool:
    return path.endswith("/backups")


def _of_the_manifests_folder(call: Call, path: str) -> bool:
    return path.endswith("/manifests")


LEFT_OUT = {
    "of the artifact": _of_the_artifact,
    "of the intended manifest": _of_the_manifest,
    "of the folder of artifacts": _of_the_backups_folder,
    "of the folder of manifests": _of_the_manifests_folder,
}


@pytest.mark.parametrize("left_out", LEFT_OUT.values(), ids=LEFT_OUT)
def test_an_fsync_that_is_left_out_is_found(
    later: Recording, disk: Path, left_out: Callable[[Call, str], bool]
) -> None:
    """This suite has teeth: without any one of the four fsyncs of a commit it finds a state with a hole."""
    assert any(left_out(call, call.words[0].path) for call in later.calls if call.name.startswith(("fsync", "fdata")))
    assert next(holes_here(later, fresh(disk), left_out), None) is not None


def test_an_fsync_that_is_left_out_elsewhere_is_found(later: Recording) -> None:
    """The same at another folder: without the fsync of a copy, or of its folder, there is a hole."""
    for left_out in (lambda _call, path: path.endswith(".part"), lambda _call, path: path.endswith("/away")):
        assert next(holes_away(later, left_out), None) is not None


def fresh(disk: Path) -> Path:
    """Return a new folder for states."""
    return Path(tempfile.mkdtemp(dir=disk))
