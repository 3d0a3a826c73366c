"""What goes wrong with a restic repository: each fault by its name, and nothing half-made that shows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest

from nanumpay_backupd.errors import StoreError
from nanumpay_backupd.stores.factory import open_store
from nanumpay_backupd.stores.restic_link import Restic
from nanumpay_backupd.system.clock import SystemClock
from nanumpay_backupd.system.secrets import Secret
from tests.servers.restic import PASSWORD, Repository
from tests.servers.s3 import S3Server, start_s3

pytestmark = pytest.mark.servers

KEY: Final = "nanumpay-backup-2026-11-21T02-00-00.tar"
LARGE: Final = Random(37).randbytes(28 << 20)
_PUT: Final = """
import os, sys
from pathlib import Path
from nanumpay_backupd.settings.destinations import ResticDestination
from nanumpay_backupd.stores.factory import open_store
from nanumpay_backupd.system.secrets import Secret

moved = 0

def progress(count):
    global moved
    moved += count
    if moved > 12 << 20:
        os.kill(os.getpid(), 9)

place = ResticDestination(name="vault", repository=sys.argv[1], password=Secret(sys.argv[2]))
open_store(place).put(sys.argv[3], Path(sys.argv[4]), progress)
"""


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository that others are made of."""
    folder = tmp_path_factory.mktemp("restic") / "vault"
    made = Repository(str(folder), folder)
    made.create()
    return made


@pytest.fixture
def repository(master: Repository, tmp_path: Path) -> Repository:
    """An empty repository."""
    return master.twin(tmp_path / "vault")


def _large(folder: Path) -> Path:
    path = folder / "source"
    path.write_bytes(LARGE)
    return path


def _fault(place: Any, call: str, *args: Any) -> StoreError:
    with open_store(place) as store, pytest.raises(StoreError) as caught:
        tuple(getattr(store, call)(*args) or ())
    assert caught.value.hint
    assert PASSWORD not in caught.value.message + caught.value.hint
    return caught.value


@pytest.mark.parametrize("call,args", [("list", ()), ("put_bytes", (KEY, b"x")), ("delete", (KEY,))])
def test_a_wrong_password(repository: Repository, call: str, args: tuple[Any, ...]) -> None:
    """A wrong password of the repository is told as such, and not."""
    fault = _fault(repository.destination(password=Secret("not-the-Secret-12345")), call, *args)
    assert (fault.code, fault.retryable) == ("destination-auth", False)
    assert "not-the-Secret" not in fault.message


def test_a_repository_that_is_not_there_is_made_only_when_asked(tmp_path: Path, repository: Repository) -> None:
    """Without `init` every call says what would make it; with it the first put does."""
    folder = tmp_path / "new"
    for call, args in (("list", ()), ("put_bytes", (KEY, b"x"))):
        fault = _fault(repository.destination(repository=str(folder)), call, *args)
        assert (fault.code, fault.retryable) == ("destination-not-found", False)
        assert f"restic -r {folder} init" in fault.hint
    assert not folder.exists()
    with open_store(repository.destination(repository=str(folder), init=True)) as store:
        assert list(store.list()) == []
        store.put_bytes(KEY, b"content")
        assert b"".join(store.get(KEY)) == b"content"


def test_restic_is_not_installed(repository: Repository) -> None:
    """A program that is not there is told with how to install it."""
    fault = _fault(repository.destination(program="/nonexistent/restic"), "list")
    assert (fault.code, fault.retryable) == ("tool-missing", False)
    assert "apt-get install restic" in fault.hint


def test_no_secret_can_be_seen_by_others(repository: Repository, tmp_path: Path) -> None:
    """While restic runs, neither its arguments nor its environment hold the password."""
    seen: list[bytes] = []

    def look(_: int) -> None:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                argv = (folder / "cmdline").read_bytes()
                if b"restic\0backup" in argv and str(KEY).encode() in argv:
                    seen.append(argv + (folder / "environ").read_bytes())
            except OSError:
                continue

    with open_store(repository.destination()) as store:
        store.put(KEY, _large(tmp_path), look)
    assert seen
    assert not any(PASSWORD.encode() in text for text in seen)


def test_a_killed_restic_leaves_no_object_and_the_next_one_works(repository: Repository, tmp_path: Path) -> None:
    """The child dies in the middle: a fault that is tried again, no object; the lock that it left hinders nobody."""
    pids: list[int] = []
    path = _large(tmp_path)

    def kill(_: int) -> None:
        for pid in _children():
            if pid not in pids:
                pids.append(pid)
                os.kill(pid, signal.SIGKILL)

    with open_store(repository.destination()) as store:
        store.put_bytes("other", b"x")
        with pytest.raises(StoreError) as caught:
            store.put(KEY, path, kill)
        assert (caught.value.code, caught.value.retryable) == ("destination-failed", True)
        assert [info.key for info in store.list()] == ["other"]
        assert any((repository.folder / "locks").iterdir())
        store.delete("other")
        assert store.put(KEY, path).size == len(LARGE)
        assert b"".join(store.get(KEY)) == LARGE
    assert pids


def test_our_own_death_makes_no_snapshot_of_a_part(repository: Repository, tmp_path: Path) -> None:
    """A worker is killed while it gives restic a file: nothing of it becomes an object."""
    path = _large(tmp_path)
    before = repository.snapshots()
    done = subprocess.run([sys.executable, "-c", _PUT, repository.name, PASSWORD, KEY, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while any(f"stdin-filename=/nanumpay-backup/{KEY}" in argv for argv in _commands()):
        assert time.monotonic() < deadline, "restic outlived its worker"
        time.sleep(0.05)
    assert repository.snapshots() == before == []


def test_only_what_was_said_to_be_the_end_is_one(repository: Repository) -> None:
    """When our side of what restic reads is gone, it goes on waiting: that is what the kernel does when we die."""
    link = Restic(repository.destination(), SystemClock())
    with link.start(["backup", "--stdin", f"--stdin-filename=/{KEY}"], "storing", fed=True) as running:
        running.write(LARGE)
        assert running._feed is not None
        running._feed.close()
        assert running._child.wait(1.5) is None
        assert repository.snapshots() == []
    with link.start(["backup", "--stdin", f"--stdin-filename=/{KEY}"], "storing", fed=True) as running:
        running.write(LARGE)
        running.end_input()
        running.finish()
    assert len(repository.snapshots()) == 1


def test_a_lock_of_the_living_is_waited_for_and_told(repository: Repository, tmp_path: Path) -> None:
    """While somebody backs up, nothing can be deleted; others may store, list and read; then it can."""
    place = repository.destination(timeout=1.0)
    environment = {"PATH": os.environ["PATH"], "RESTIC_REPOSITORY": repository.name, "RESTIC_PASSWORD": PASSWORD}
    argv = ["restic", "--no-cache", "backup", "--stdin", "--quiet"]
    with open_store(place) as store:
        store.put_bytes(KEY, b"content")
        with subprocess.Popen(argv, env=environment, stdin=subprocess.PIPE) as other:
            deadline = time.monotonic() + 10
            while not any((repository.folder / "locks").iterdir()):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            with pytest.raises(StoreError) as caught:
                store.delete(KEY)
            assert (caught.value.code, caught.value.retryable) == ("destination-busy", True)
            assert store.sweep(datetime.now(UTC), lambda _: True) == ()
            store.put_bytes("second", b"x")
            assert b"".join(store.get(KEY)) == b"content"
            other.kill()
        store.delete(KEY)
        assert [info.key for info in store.list()] == ["second"]


def test_a_damaged_pack_is_found(repository: Repository, tmp_path: Path) -> None:
    """What lies damaged in the repository is told as damage, by reading it and by the check."""
    with open_store(repository.destination(check_percent=100, timeout=2.0)) as store:
        store.put(KEY, _large(tmp_path))
        store.check(lambda: None)
        pack = repository.packs()[0]
        data = bytearray(pack.read_bytes())
        data[len(data) // 2] ^= 1
        pack.chmod(0o600)
        pack.write_bytes(data)
        for action in (lambda: list(store.get(KEY)), lambda: store.check(lambda: None)):
            with pytest.raises(StoreError) as caught:
                action()
            assert (caught.value.code, caught.value.retryable) == ("object-damaged", False)
        pack.unlink()
        with pytest.raises(StoreError) as caught:
            store.check(lambda: None)
        assert caught.value.code == "object-damaged"


def test_what_was_replaced_or_deleted_is_freed_by_the_sweep(repository: Repository, tmp_path: Path) -> None:
    """Pruning gives the room back, and leaves what is there as it is."""
    with open_store(repository.destination()) as store:
        store.put(KEY, _large(tmp_path))
        store.put_bytes(KEY, b"new")
        store.put_bytes("other", b"stays")
        assert repository.stored > len(LARGE)
        store.sweep(datetime.now(UTC), lambda _: True)
        assert repository.stored < 1 << 20
        assert len(repository.snapshots()) == 2
        assert {info.key: b"".join(store.get(info.key)) for info in store.list()} == {KEY: b"new", "other": b"stays"}


def test_a_server_that_falls_silent(master: Repository, tmp_path: Path) -> None:
    """A server that is frozen during a put is unreachable after the time limit; awake again, the next put arrives."""
    path = _large(tmp_path)
    with start_s3(tmp_path) as server:
        repository = _bucket(master, server)
        with open_store(repository.destination(timeout=2.0)) as store:
            (pid,) = (int(one.name) for one in Path("/proc").glob("[0-9]*") if _serves(one, server.root))
            frozen = threading.Event()
            moved = 0

            def freeze(count: int) -> None:
                nonlocal moved
                moved += count
                if moved > 12 << 20 and not frozen.is_set():
                    frozen.set()
                    os.kill(pid, signal.SIGSTOP)

            try:
                with pytest.raises(StoreError) as caught:
                    store.put(KEY, path, freeze)
            finally:
                os.kill(pid, signal.SIGCONT)
            assert (caught.value.code, caught.value.retryable) == ("destination-unreachable", True)
            assert store.put(KEY, path).size == len(LARGE)
            assert b"".join(store.get(KEY)) == LARGE


def _bucket(master: Repository, server: S3Server) -> Repository:
    """Make a repository in a bucket."""
    place, folder = server.destination(), server.root / server.bucket / "vault"
    master.twin(folder)
    login = {"access_key_id": place.access_key_id, "secret_access_key": place.secret_access_key}
    return Repository(f"s3:{server.endpoint}/{server.bucket}/vault", folder, login)


def test_a_server_refuses_or_is_away(master: Repository, tmp_path: Path) -> None:
    """A login that is refused, a server that is away and a name that nobody knows are told, with the place."""
    with start_s3(tmp_path) as server:
        repository = _bucket(master, server)
        with open_store(repository.destination()) as store:
            store.put_bytes(KEY, b"content")
            assert b"".join(store.get(KEY)) == b"content"
        wrong = _fault(repository.destination(secret_access_key=Secret("not-the-Secret-12345")), "stat", KEY)
        assert (wrong.code, wrong.retryable) == ("destination-auth", False)
    for host, call in (("127.0.0.1:1", "list"), ("no-such-host.invalid", "list")):
        fault = _fault(repository.destination(repository=f"s3:http://{host}/bucket"), call)
        assert (fault.code, fault.retryable) == ("destination-unreachable", True)
        assert host in fault.message


def _serves(process: Path, root: Path) -> bool:
    """Tell whether a process is the server of that folder."""
    try:
        argv = (process / "cmdline").read_bytes()
    except OSError:
        return False
    return str(root).encode() in argv and b"serve" in argv


def _commands() -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
        except OSError:
            continue
    return found


def _children() -> list[int]:
    """Return the restics that this process runs."""
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        pids = (task / "children").read_text().split()
        found += [int(pid) for pid in pids if b"restic\0backup" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return found
