"""Redis and a bad day, by whole runs on real servers: each fault is told, and nothing is left of the run."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from nanumpay_backupd import worker
from nanumpay_backupd.errors import BackupdError
from nanumpay_backupd.model import ErrorInfo, Outcome
from nanumpay_backupd.settings.sources import RedisMode, RedisSource
from nanumpay_backupd.sources.base import Dump, Wanted
from nanumpay_backupd.sources.factory import open_source
from nanumpay_backupd.sources.redis_source import RedisServer
from nanumpay_backupd.system.files import free_bytes
from nanumpay_backupd.system.secrets import Secret
from tests.contract.test_sources import Site, good
from tests.integration.test_redis import saved, seven, site_of
from tests.servers.process import free_port
from tests.servers.redis import PASSWORD, Redis, content_of, fill_with_everything, start_redis
from tests.workbench import small_disk

pytestmark = pytest.mark.servers

LARGE = 1 << 20
_NO_FORK = "inject=clone,clone3,fork:error=ENOMEM"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """Give a server with something of everything and an AOF; tests leave it as it is."""
    with start_redis(tmp_path_factory.mktemp("redis"), appendonly="yes") as redis:
        fill_with_everything(redis)
        yield redis


def fill_with_noise(redis: Redis, megabytes: int) -> None:
    """Add values that no compression makes smaller."""
    with redis.link() as link:
        for at in range(megabytes):
            link.ask("SET", f"noise:{at}", os.urandom(LARGE))


def failed(site: Site) -> ErrorInfo:
    """Run the job, which fails; returns why, and looks whether anything is left of it."""
    before = [backup.id for backup in site.backups()]
    run = site.run()
    assert run.outcome is Outcome.FAILED, run
    assert run.error is not None
    assert [backup.id for backup in site.backups()] == before
    if site.layout.staging.is_dir():
        assert list(site.layout.staging.iterdir()) == []
    told = run.error.message + run.error.hint
    assert PASSWORD not in told
    assert "Traceback" not in told
    return run.error


Spoil = Callable[[Redis], RedisSource]


def down(_: Redis) -> RedisSource:
    """Name a port on which nobody listens."""
    return RedisSource(url=Secret(f"redis://:{PASSWORD[:6]}@127.0.0.1:{free_port()}"))


def no_host(_: Redis) -> RedisSource:
    """Name a host that there is not."""
    return RedisSource(url=Secret("redis://no-such-host.invalid"))


def wrong_password(redis: Redis) -> RedisSource:
    """Name another password."""
    return redis.settings(password="another")


def no_password(redis: Redis) -> RedisSource:
    """Name none."""
    return redis.settings(password="")


def no_user(redis: Redis) -> RedisSource:
    """Name a user that there is not."""
    return redis.settings(user="nobody", password="pw")


def no_right(redis: Redis) -> RedisSource:
    """Name a user who may not use PSYNC."""
    redis.ask("ACL", "SETUSER", "tester", "reset", "on", ">pw", "+info", "+replconf")
    return redis.settings(user="tester", password="pw")


def no_key(redis: Redis) -> RedisSource:
    """Name a user who may read some keys only."""
    redis.ask("ACL", "SETUSER", "tester", "reset", "on", ">pw", "%R~user:*", "+@all")
    return redis.settings(user="tester", password="pw", mode=RedisMode.LOGICAL)


def no_tls(redis: Redis) -> RedisSource:
    """Ask a server for TLS that has none."""
    return RedisSource(url=Secret(redis.settings().url.reveal().replace("redis://", "rediss://")))


def no_redis(redis: Redis) -> RedisSource:
    """Name a folder in which no append-only files are."""
    return redis.settings(mode=RedisMode.AOF, data_folder="/usr")


@seven
@pytest.mark.parametrize(
    "spoil, code, says, hints",
    [
        (down, "source-unreachable", "Connection refused", "systemctl status redis-server"),
        (no_host, "source-unreachable", "no-such-host.invalid", "url names it"),
        (wrong_password, "source-auth", "WRONGPASS", "user and password in url"),
        (no_password, "source-auth", "NOAUTH", "user and password in url"),
        (no_user, "source-auth", "WRONGPASS", "user and password in url"),
        (no_right, "source-auth", "'psync'", "docs/sources/redis.md"),
        (no_key, "source-auth", "keys", "docs/sources/redis.md"),
        (no_tls, "source-unreachable", "no TLS", "tls-port"),
        (no_redis, "source-empty", "no append-only files in /usr", "appendonly yes"),
    ],
)
def test_what_is_in_the_way_is_told(
    server: Redis, tmp_path: Path, spoil: Spoil, code: str, says: str, hints: str
) -> None:
    """A server that is down, refuses, or is not what was said: what it is, to which server, and what to do."""
    error = failed(site_of(tmp_path / "site", spoil(server)))
    assert error.code == code
    assert says in error.message
    assert hints in error.hint


def started(settings: RedisSource, folder: Path) -> Dump:
    """Begin a dump into a new folder; it is held from its first bytes on."""
    folder.mkdir()
    source = open_source(settings)
    source.preflight()
    dump: Dump = source.start(folder)  # type: ignore[union-attr]
    dump.pause()
    return dump


@pytest.mark.promise("The exit code of a tool is not believed: what is short, missing or garbage is no backup.", item=3)
def test_an_rdb_file_that_is_cut_off(tmp_path: Path) -> None:
    """When the server's child is killed in the middle of sending, what came is no backup."""
    with start_redis(tmp_path / "redis") as redis:
        fill_with_noise(redis, 24)
        dump = started(redis.settings(), tmp_path / "dump")
        try:
            deadline = time.monotonic() + 20
            while not (children := redis.children()):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            os.kill(children[0], signal.SIGKILL)
            dump.resume()
            assert dump.wait(20)
            with pytest.raises(BackupdError) as caught:
                dump.harvest({})
        finally:
            dump.kill()
        assert caught.value.code == "source-failed"
        assert "did not send all of its data" in caught.value.message
        assert caught.value.retryable
        # Nothing is wrong with the server: the next one is good.
        good(site_of(tmp_path / "site", redis.settings()).run())


def test_an_append_only_base_that_is_cut_off(tmp_path: Path) -> None:
    """A base of the AOF that ends too early is damage of the source, and not saved as if it were whole."""
    with start_redis(tmp_path / "redis", appendonly="yes") as redis:
        fill_with_everything(redis)
        redis.rewrite()
        redis.stop()
        (base,) = redis.folder.glob("appendonly*/*.base.rdb")
        os.truncate(base, base.stat().st_size - 20)
        settings = redis.settings(mode=RedisMode.AOF, data_folder=str(redis.folder))
        error = failed(site_of(tmp_path / "site", settings))
        assert error.code == "source-damaged"
        assert base.name in error.message


def test_the_servers_disk_is_full(tmp_path: Path) -> None:
    """A server without room for the file that it would send says so; sending without a file is what helps, as told."""
    with (
        small_disk(tmp_path / "disk", 2 << 20) as disk,
        start_redis(disk / "redis", repl_diskless_sync="no") as redis,
    ):
        fill_with_noise(redis, 3)
        site = site_of(tmp_path / "site", redis.settings())
        error = failed(site)
        assert error.code == "source-failed"
        assert "its last BGSAVE failed" in error.message
        assert "CONFIG SET repl-diskless-sync yes" in error.hint
        redis.ask("CONFIG", "SET", "repl-diskless-sync", "yes")
        good(site.run())


def test_the_server_cannot_fork(tmp_path: Path) -> None:
    """A server that gets no child, as with too little memory, says so, and that is told with what helps."""
    with start_redis(tmp_path / "redis", repl_diskless_sync="no") as redis:
        fill_with_everything(redis)
        tracer = subprocess.Popen(
            [
                "strace",
                "-f",
                "-qq",
                "-o",
                "/dev/null",
                "-e",
                "trace=clone,clone3,fork",
                "-e",
                _NO_FORK,
                "-p",
                str(redis.pid),
            ]
        )
        try:
            deadline = time.monotonic() + 20
            while f"TracerPid:\t{tracer.pid}" not in Path(f"/proc/{redis.pid}/status").read_text(encoding="utf-8"):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            error = failed(site_of(tmp_path / "site", redis.settings()))
        finally:
            tracer.terminate()
            tracer.wait()
        assert error.code == "source-failed"
        assert "BGSAVE failed" in error.message
        assert "vm.overcommit_memory" in error.hint
        assert error.retryable


class Filling(RedisServer):
    """Somebody else fills the disk between the look at it and the dump."""

    disk: Path

    def start(self, folder: Path) -> Dump:
        """Leave hardly any room, and start the dump."""
        with (self.disk / "foreign").open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, free_bytes(self.disk) - (64 << 10))
        return super().start(folder)


@pytest.mark.promise(
    "A disk that is full or refuses gives an error that says so; older backups stay, and the next run succeeds.", item=2
)
@pytest.mark.parametrize("mode", [RedisMode.SNAPSHOT, RedisMode.LOGICAL])
def test_our_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """With too little room nothing is begun; when it fills up meanwhile the run fails, and the backup before stays."""
    with start_redis(tmp_path / "redis") as redis, small_disk(tmp_path / "disk", 200 << 20) as disk:
        fill_with_noise(redis, 12)
        site = site_of(disk / "site", redis.settings(mode=mode))
        before, _ = saved(site)
        with monkeypatch.context() as patched:
            Filling.disk = disk
            patched.setattr(worker, "open_source", lambda settings, _=None: Filling(settings))
            error = failed(site)
        assert (error.code, "older backups are untouched" in error.hint) == ("no-space", True)
        # Now it is full before anything is begun.
        error = failed(site)
        assert error.code == "no-space"
        assert "not enough room" in error.message
        (disk / "foreign").unlink()
        good(site.run())
        assert before.id in [backup.id for backup in site.backups()]


def test_the_disk_of_a_data_folder_is_full(server: Redis, tmp_path: Path) -> None:
    """A data folder without room is told, and stays as it was."""
    site = site_of(tmp_path / "site", server.settings())
    backup, _ = saved(site)
    with small_disk(tmp_path / "disk", 64 << 10) as disk:
        (disk / "dump.rdb").write_bytes(b"the old one")
        with (disk / "foreign").open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, free_bytes(disk))
        run = site.restore(backup, Wanted(to=str(disk), overwrite=True))
        assert run.outcome is Outcome.FAILED
        assert run.error is not None
        assert run.error.code == "no-space"
        assert sorted(path.name for path in disk.iterdir()) == ["dump.rdb", "foreign"]
        assert (disk / "dump.rdb").read_bytes() == b"the old one"


def test_a_server_without_memory_for_it(server: Redis, tmp_path: Path) -> None:
    """A server that has no memory left for what comes back says so, with what helps; with it all comes back."""
    site = site_of(tmp_path / "site", server.settings())
    backup, _ = saved(site)
    with start_redis(tmp_path / "other", maxmemory="1mb", maxmemory_policy="noeviction") as other:
        wanted = Wanted(to=f"redis://{other.address}", overwrite=True)
        run = site.restore(backup, wanted)
        assert run.outcome is Outcome.FAILED
        assert run.error is not None
        assert "maxmemory" in run.error.message + run.error.hint
        assert not run.error.retryable
        other.ask("CONFIG", "SET", "maxmemory", "0")
        good(site.restore(backup, msgspec.structs.replace(wanted), safety=False))
        assert content_of(other) == content_of(server)


def test_a_read_only_server_is_told(server: Redis, tmp_path: Path) -> None:
    """A replica takes nothing back: that is told before anything else is done."""
    site = site_of(tmp_path / "site", server.settings())
    backup, _ = saved(site)
    with start_redis(tmp_path / "other", replicaof=f"127.0.0.1 {free_port()}") as other:
        run = site.restore(backup, Wanted(to=f"redis://{other.address}", overwrite=True))
        assert run.outcome is Outcome.FAILED
        assert run.error is not None
        assert run.error.code == "target-refused", run.error
        assert "replica" in run.error.message
