"""The commit point under fire: killed at every system call, or refused by the disk at every one, nothing is half there.

A helper process forks for each trial; strace takes hold of the fork, so that starting an interpreter is not paid for
each of them.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import pytest

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError, BusyError
from nanumpay_backupd.model import Kind, to_json
from nanumpay_backupd.pipeline.inventory import sync_local
from nanumpay_backupd.pipeline.layout import Layout, backup_id
from nanumpay_backupd.pipeline.publish import commit, open_staging, read_manifest, sweep
from nanumpay_backupd.system.locks import FileLock
from tests.servers.tools import PROJECT, find_tool
from tests.workbench import NOW, archive_bytes, documents, manifest_of, published

# Every call by which commit changes or forces something; each is tried at each of its occurrences.
CALLS: Final = ("openat", "write", "fsync", "rename", "chmod", "unlink", "close")
CONTENT: Final = documents(50)
NAME: Final = backup_id("nanumpay", NOW)
ARTIFACT: Final = archive_bytes(NAME, {f"{NAME}/nanumpay/users.bson": CONTENT})
MANIFEST: Final = manifest_of(ARTIFACT, collections={"nanumpay.users": (50, len(CONTENT))}, raw_bytes=len(CONTENT))

_HELPER: Final = """
    import os, sys
    from pathlib import Path
    from nanumpay_backupd.errors import BackupdError
    from nanumpay_backupd.pipeline.layout import Layout
    from nanumpay_backupd.pipeline.publish import commit, open_staging
    from tests.fault.test_commit import ARTIFACT, MANIFEST

    for line in sys.stdin:
        layout = Layout(Path(line.strip()))
        go, ready = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(ready)
            staging, lock = open_staging(layout, "run1")
            (staging / "artifact").write_bytes(ARTIFACT)
            print("prepared", os.getpid(), flush=True)
            os.read(go, 1)
            try:
                commit(layout, staging, staging / "artifact", MANIFEST)
            except BackupdError as error:
                os._exit(3 if error.code == "publish-failed" else 4)
            os._exit(0)
        os.close(go)
        sys.stdin.readline()
        os.write(ready, b"x")
        os.close(ready)
        _, status = os.waitpid(pid, 0)
        print("ended", os.waitstatus_to_exitcode(status), flush=True)
"""


class Helper:
    """Commits in a process of its own, with strace between it and the kernel."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def commit(self, layout: Layout, injection: str) -> int:
        """Commit the backup under an injection; returns the exit code (3: publish-failed, negative: the signal)."""
        layout.create()
        self._tell(str(layout.backups))
        word, pid = self._answer().split()
        assert word == "prepared"
        tracer = subprocess.Popen(
            [find_tool("strace"), "-p", pid, "-o", os.devnull, "-e", f"trace={','.join(CALLS)}", "-e", injection],
            stderr=subprocess.PIPE,
        )
        try:
            assert tracer.stderr is not None
            assert "attached" in _line(tracer.stderr), "strace must be allowed to trace (root, or ptrace_scope 0)"
            self._tell("go")
            word, code = self._answer().split()
            assert word == "ended"
        finally:
            tracer.wait(10)
            assert tracer.stderr is not None
            tracer.stderr.close()
        return int(code)

    def _tell(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


def _line(stream: IO[bytes]) -> str:
    ready, _, _ = select.select([stream], [], [], 20)
    assert ready, "strace says nothing"
    return stream.readline().decode()


@pytest.fixture(scope="module")
def helper() -> Iterator[Helper]:
    """Start the helper once; it forks for each trial."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_HELPER)],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Helper(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == 0


def assert_whole_or_not_there(layout: Layout, older: dict[Path, bytes], catalog: Path) -> bool:
    """After a crash and a sweep: either the whole backup or nothing of it, older ones untouched; tells which."""
    assert sweep(layout) in (["run1"], [])
    assert list(layout.staging.iterdir()) == []
    assert {path: path.read_bytes() for path in older} == older
    committed = layout.manifest(NAME).exists()
    artifact = layout.artifact(MANIFEST.artifact.name)
    assert artifact.exists() == committed
    if committed:
        assert read_manifest(layout.manifest(NAME)) == MANIFEST
        assert artifact.read_bytes() == ARTIFACT
    with Catalog(catalog) as opened:
        sync_local(opened, layout, NOW)
        assert [backup.kind for backup in opened.backups()] == [Kind.FULL] * (len(older) // 2 + committed)
    return committed


def older_backup(layout: Layout) -> dict[Path, bytes]:
    """Publish the backup of the day before and return its files."""
    backup = published(layout, created=NOW.replace(day=NOW.day - 1))
    return {path: path.read_bytes() for path in (layout.artifact(backup.artifact), layout.manifest(backup.id))}


@pytest.mark.promise(
    "Whatever is killed, and whenever: a backup is there whole or not at all, and what was committed before stays.",
    item=1,
)
def test_killed_at_any_system_call_a_backup_is_whole_or_not_there(helper: Helper, tmp_path: Path) -> None:
    """Whatever call SIGKILL meets, the sweep of the next start leaves all of the backup or none of it."""
    met: dict[str, list[bool]] = {}
    for call in CALLS:
        for when in range(1, 100):
            root = tmp_path / f"{call}-{when}"
            layout = Layout(root / "backups")
            older = older_backup(layout)
            code = helper.commit(layout, f"inject={call}:signal=SIGKILL:when={when}")
            committed = assert_whole_or_not_there(layout, older, root / "catalog.db")
            if code == 0:
                assert committed, "a commit that returned is there"
                break
            assert code == -signal.SIGKILL
            met.setdefault(call, []).append(committed)
        else:
            pytest.fail(f"{call} never ends")
    assert {call: len(hits) for call, hits in met.items()}.items() >= {"rename": 3, "fsync": 6, "chmod": 1}.items()
    everything = [hit for hits in met.values() for hit in hits]
    assert True in everything, "some of the kills must have come after the commit point"
    assert False in everything, "and some before it"


@pytest.mark.promise(
    "A disk that is full or refuses gives an error that says so; older backups stay, and the next run succeeds.", item=2
)
@pytest.mark.parametrize(
    "call, fault", [("fsync", "EIO"), ("rename", "EIO"), ("openat", "ENOSPC"), ("write", "ENOSPC")]
)
def test_a_disk_that_refuses_at_any_moment_gives_an_error_and_no_backup(
    helper: Helper, tmp_path: Path, call: str, fault: str
) -> None:
    """Whichever fsync, rename, open or write fails: publish-failed, nothing of the backup stays, older ones do."""
    for when in range(1, 100):
        root = tmp_path / f"{when}"
        layout = Layout(root / "backups")
        older = older_backup(layout)
        code = helper.commit(layout, f"inject={call}:error={fault}:when={when}")
        if code == 0:
            assert when > 1, f"no {call} was met"
            assert assert_whole_or_not_there(layout, older, root / "catalog.db")
            return
        assert code == 3, f"{fault} at {call} number {when}"
        assert not layout.manifest(NAME).exists()
        assert not layout.artifact(MANIFEST.artifact.name).exists()
        assert not assert_whole_or_not_there(layout, older, root / "catalog.db")
    pytest.fail(f"{call} never ends")


@pytest.mark.promise(
    "Whatever is killed, and whenever: a backup is there whole or not at all, and what was committed before stays.",
    item=1,
)
def test_a_file_of_that_name_is_not_replaced_and_not_deleted(tmp_path: Path) -> None:
    """Where somebody else's file has the name, the commit fails and that file stays as it was."""
    layout = Layout(tmp_path)
    layout.create()
    final = layout.artifact(MANIFEST.artifact.name)
    final.write_bytes(b"of the old program, made in the same second")
    staging, lock = open_staging(layout, "run1")
    (staging / "artifact").write_bytes(ARTIFACT)
    with lock_released(lock), pytest.raises(BackupdError, match="File exists") as caught:
        commit(layout, staging, staging / "artifact", MANIFEST)
    assert caught.value.code == "publish-failed"
    assert final.read_bytes() == b"of the old program, made in the same second"
    assert not layout.manifest(NAME).exists()
    assert sweep(layout) == ["run1"]
    assert final.exists()


class lock_released:  # noqa: N801 - reads like a verb
    """Gives a lock back at the end of a with block."""

    def __init__(self, lock: FileLock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._lock.release()


@pytest.mark.promise("The locks and sockets of those who died hold nobody up.", item=9)
def test_sweeping_leaves_a_living_run_alone(tmp_path: Path) -> None:
    """The staging folder of a run whose process lives is locked; after its end it goes, with anything loose beside."""
    layout = Layout(tmp_path)
    layout.create()
    staging, lock = open_staging(layout, "run1")
    (staging / "dump").mkdir()
    (staging / "dump" / "users.bson").write_bytes(b"...")
    (layout.staging / "loose").write_text("left by somebody")
    with lock_released(lock):
        assert sweep(layout) == []
        assert (staging / "dump" / "users.bson").exists()
        assert not (layout.staging / "loose").exists()
        with pytest.raises(BusyError, match=f"run run1 is in use by process {os.getpid()}"):
            FileLock(staging / "lock", "run run1").acquire()
    assert sweep(layout) == ["run1"]
    assert list(layout.staging.iterdir()) == []
    assert sweep(Layout(tmp_path / "not" / "there")) == []


@pytest.mark.promise(
    "Whatever is killed, and whenever: a backup is there whole or not at all, and what was committed before stays.",
    item=1,
)
@pytest.mark.parametrize(
    "state, committed",
    [
        pytest.param("artifact in place, manifest intended", True, id="between the renames"),
        pytest.param("artifact cut off, manifest intended", False, id="artifact not whole"),
        pytest.param("manifest intended only", False, id="before the first rename"),
    ],
)
def test_what_the_sweep_completes(tmp_path: Path, state: str, committed: bool) -> None:
    """Only a whole artifact in its place gets the manifest that was intended for it."""
    layout = Layout(tmp_path)
    layout.create()
    staging, lock = open_staging(layout, "run1")
    lock.release()
    (staging / "manifest.json").write_bytes(to_json(MANIFEST))
    final = layout.artifact(MANIFEST.artifact.name)
    if "artifact" in state:
        final.write_bytes(ARTIFACT[: -1 if "cut off" in state else None])
    sweep(layout)
    assert layout.manifest(NAME).exists() == committed
    assert final.exists() == ("artifact" in state)


_SWEEPER: Final = """
    import sys
    from pathlib import Path
    from nanumpay_backupd.pipeline.layout import Layout
    from nanumpay_backupd.pipeline.publish import sweep

    layout = Layout(Path(sys.argv[1]))
    print("ready", flush=True)
    while not (layout.backups / "stop").exists():
        sweep(layout)
"""


@pytest.mark.promise("The locks and sockets of those who died hold nobody up.", item=9)
def test_a_new_staging_folder_survives_sweeps_at_the_same_moment(tmp_path: Path) -> None:
    """Two jobs that begin at the same second sweep each other's folder, and neither loses its own."""
    layout = Layout(tmp_path)
    layout.create()
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_SWEEPER), tmp_path],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as sweeper:
        try:
            assert sweeper.stdout is not None
            assert sweeper.stdout.readline() == "ready\n"
            for at in range(300):
                staging, lock = open_staging(layout, f"run{at}")
                (staging / "dump").mkdir()
                (staging / "dump" / "file").write_bytes(b"x")
                assert (staging / "dump" / "file").exists()
                lock.release()
                sweep(layout)
        finally:
            (tmp_path / "stop").touch()
    assert sweeper.returncode == 0
    sweep(layout)
    assert list(layout.staging.iterdir()) == []
