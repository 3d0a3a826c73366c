"""Locks on a disk that is full: they hold all the same, and helpers that cannot take one say why."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import msgspec
import pytest

from nanumpay_backupd import worker
from nanumpay_backupd.errors import BusyError, SpaceError
from nanumpay_backupd.settings.schema import Paths, RunSpec
from nanumpay_backupd.system.locks import FileLock
from tests.workbench import job_spec, small_disk

pytestmark = pytest.mark.servers


def fill(disk: Path) -> None:
    """Leave not one byte on a disk, nor room for another file."""
    free = os.statvfs(disk)
    with (disk / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize)


def test_a_lock_holds_on_a_full_disk(tmp_path: Path) -> None:
    """Who takes it has it, although nobody can be told by whom it is held; the second one is refused."""
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        first = FileLock(disk / "job.lock", "job nanumpay")
        first.acquire()
        first.release()
        fill(disk)
        with first, pytest.raises(BusyError, match="job nanumpay is in use by process unknown"):
            FileLock(disk / "job.lock", "job nanumpay").acquire()


def test_a_helper_that_finds_the_disk_full_says_so(tmp_path: Path) -> None:
    """What is no run (a deletion, copies learnt) ends with the code of a full disk and not as a defect."""
    with small_disk(tmp_path / "backups", 1 << 20) as disk:
        paths = Paths(backups=disk, state=tmp_path / "state", socket=tmp_path / "socket")
        spec = RunSpec(run="none", job=job_spec(), paths=paths, trigger="manual", action="prune")
        assert worker._changed(spec) == []
        subprocess.run(["mount", "-o", "remount,nr_inodes=64", disk], check=True)
        with contextlib.suppress(OSError):
            for number in range(100):
                (disk / f"file{number}").touch()
        other = msgspec.structs.replace(spec, job=msgspec.structs.replace(spec.job, name="other"))
        with pytest.raises(SpaceError) as caught:
            worker._changed(other)
    assert caught.value.code == "no-space"
