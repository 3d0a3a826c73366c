"""Redis: what the contract suite does not ask. Append-only files, users, TLS, options of a restore, faults, by hand."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from nanumpay_backupd.errors import BackupdError
from nanumpay_backupd.model import Backup, Manifest, Outcome, Run
from nanumpay_backupd.settings.schema import VerifyOrder
from nanumpay_backupd.settings.sources import RedisMode, RedisSource
from nanumpay_backupd.sources.base import Dump, Harvest, Wanted
from nanumpay_backupd.sources.factory import open_source
from nanumpay_backupd.sources.rdb_value import decode, same
from nanumpay_backupd.sources.redis_aof_compare import compare_aof
from nanumpay_backupd.sources.redis_link import Refusal
from nanumpay_backupd.system.secrets import Secret
from tests.contract.participants import Participant
from tests.contract.test_sources import Site, good
from tests.servers.certs import make_certificate
from tests.servers.redis import (
    FAR,
    PASSWORD,
    Redis,
    content_of,
    fill_with_everything,
    find_redis,
    redis_version,
    start_redis,
)

pytestmark = pytest.mark.servers

PAGE = Path(__file__).parents[2] / "docs" / "sources" / "redis.md"
VERSION = redis_version()
seven = pytest.mark.skipif(VERSION < (7, 0), reason="rights, files, options of Redis 7")
LIBRARY = "#!lua name=mylib\nredis.register_function('mine', function() return 7 end)"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """Give a server that holds something of everything; tests do not change it."""
    with start_redis(tmp_path_factory.mktemp("redis")) as redis:
        fill_with_everything(redis)
        if VERSION >= (7, 0):
            redis.ask("FUNCTION", "LOAD", LIBRARY)
        yield redis


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """Give a server into which tests restore; it packs values in other ways."""
    packed = "listpack" if VERSION >= (7, 0) else "ziplist"
    small = {f"{kind}-max-{packed}-{what}": "1" for kind in ("hash", "zset") for what in ("entries", "value")} | {
        "set-max-intset-entries": "1",
        f"list-max-{packed}-size": "3",
        "stream-node-max-entries": "1",
    }
    with start_redis(tmp_path_factory.mktemp("other"), small) as redis:
        yield redis


@pytest.fixture
def empty(other: Redis) -> Redis:
    """Give that server without keys."""
    other.ask("FLUSHALL")
    if VERSION >= (7, 0):
        other.ask("FUNCTION", "FLUSH")
    return other


class Source(Participant):
    """Settings as `Site` wants them."""

    def __init__(self, settings: RedisSource) -> None:
        self._settings = settings

    @property
    def settings(self) -> RedisSource:
        """See `Participant.settings`."""
        return self._settings

    broken = settings

    def fill(self) -> None:
        """Do nothing: each test fills its server itself."""
        raise NotImplementedError

    count = grow = content = fill  # type: ignore[assignment]


def site_of(folder: Path, settings: RedisSource) -> Site:
    """Return a host with a job for that."""
    folder.mkdir(exist_ok=True)
    return Site(folder, Source(settings))


def saved(site: Site) -> tuple[Backup, Manifest]:
    """Run the job and return the backup."""
    good(site.run())
    backup = site.backups()[0]
    assert backup.manifest is not None
    return backup, backup.manifest


def code_of(run: Run) -> str:
    """Return the code with which a run failed."""
    assert run.outcome is Outcome.FAILED
    assert run.error is not None
    return run.error.code


def fault_of(settings: RedisSource, folder: Path) -> BackupdError:
    """Return the fault with which a backup into ``folder`` ends."""
    with pytest.raises(BackupdError) as caught:
        dumped(settings, folder)
    assert PASSWORD not in caught.value.message + caught.value.hint
    return caught.value


def dumped(settings: RedisSource, folder: Path) -> Harvest:
    """Dump into ``folder``, and judge it."""
    source = open_source(settings)
    source.preflight()
    folder.mkdir(exist_ok=True)
    dump: Dump = source.start(folder)  # type: ignore[union-attr]
    try:
        assert dump.wait(60)
        return dump.harvest({str(p.relative_to(folder)): p.stat().st_size for p in folder.rglob("*") if p.is_file()})
    finally:
        dump.kill()


# What is written


def test_values_are_decoded_as_the_server_says_them(server: Redis, empty: Redis) -> None:
    """Every type in every packing is decoded to what the type's own commands say, and the same in another packing."""
    for number, keys in content_of(server).items():
        with server.link(number) as link, empty.link(number) as there:
            for name, (kind, _, value) in keys.items():
                payload = link.ask("DUMP", name)
                found = decode(payload[0], payload[:-10], 1)
                if kind == b"stream":
                    expected: Any = [(entry, flat) for entry, flat in value[0]]
                    found = [(entry, [part for pair in fields for part in pair]) for entry, fields in found["entries"]]
                elif kind == b"zset":
                    expected = dict(zip(value[::2], map(float, value[1::2]), strict=True))
                elif kind == b"set":
                    expected = set(value)
                else:
                    expected = value
                assert found == expected, name
                there.ask("RESTORE", name, 0, payload)
                again = there.ask("DUMP", name)
                assert same(payload[:-10], again[:-10]), name


def test_people_can_read_it(server: Redis, tmp_path: Path) -> None:
    """Beside the commands there is a line of JSON for each key, in Extended JSON where a value is no text."""
    dumped(server.settings(mode=RedisMode.LOGICAL), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "db0.jsonl").read_bytes().splitlines()]
    told = {line["key"]: line for line in lines if isinstance(line["key"], str)}
    assert len(lines) == server.ask("DBSIZE")
    assert told["text"] == {"key": "text", "type": "string", "value": "안녕"}
    # Before 7.0 a server says how much is left, and what time it is.
    assert told["until 2100"]["expires"]["$date"][: 24 if VERSION >= (7, 0) else 20] in "2100-01-01T00:00:00.123Z"
    assert told["hash"]["value"] == {"이름": "값", "n": "5", "f": "1.5"}
    assert told["set"]["value"] == sorted(["하나", "둘", "3"], key=str.encode)
    assert told["zset"]["value"][1] == {"member": "하나", "score": 1}
    assert told["stream"]["value"]["entries"][0] == {"id": "1-1", "fields": [["field", "첫"]]}
    assert told["stream"]["value"]["groups"][0]["name"] == "readers"
    assert told["binary hash"]["value"] == [
        {
            "field": {"$binary": {"base64": "/g==", "subType": "00"}},
            "value": {"$binary": {"base64": "/4A=", "subType": "00"}},
        }
    ]


def test_not_for_people(server: Redis, tmp_path: Path) -> None:
    """Without the lines for people the rest is the same, of the databases that are named only."""
    harvest = dumped(server.settings(mode=RedisMode.LOGICAL, readable=False, databases=(3, 15)), tmp_path)
    assert (
        sorted(path.name for path in tmp_path.iterdir())
        == ["db15.resp", "db3.resp", "functions.resp"][: 2 + (VERSION >= (7, 0))]
    )
    assert [(part.name, part.items) for part in harvest.source.parts] == [("db3", 2), ("db15", 1)]


def test_the_address_may_name_a_database(server: Redis, tmp_path: Path) -> None:
    """Key by key, a number in the address means that database alone; an RDB file has all."""
    url = Secret(f"{server.settings().url.reveal()}/3")
    for mode, count in ((RedisMode.LOGICAL, 1), (RedisMode.SNAPSHOT, 3)):
        harvest = dumped(msgspec.structs.replace(server.settings(mode=mode), url=url), tmp_path / mode)
        assert len(harvest.source.parts) == count


def test_a_snapshot_by_way_of_the_servers_disk(tmp_path: Path) -> None:
    """A server that writes its file to the disk first sends one whose size is known: the same comes of it."""
    with start_redis(tmp_path / "redis", repl_diskless_sync="no") as redis:
        fill_with_everything(redis)
        keys = sum(len(keys) for keys in content_of(redis).values())
        assert dumped(redis.settings(), tmp_path / "dump").documents == keys
        said = subprocess.run(
            [find_redis("redis-check-rdb"), str(tmp_path / "dump" / "dump.rdb")], capture_output=True, text=True
        )
        assert said.returncode == 0, said.stdout
        assert f"[info] {keys} keys read" in said.stdout


def test_a_server_that_waits_for_more_replicas_is_waited_for(tmp_path: Path) -> None:
    """As Redis is installed, it begins some seconds later, and sends line feeds until then."""
    with start_redis(tmp_path / "redis", repl_diskless_sync_delay="3") as redis:
        redis.ask("SET", "key", "value")
        assert dumped(redis.settings(), tmp_path / "dump").documents == 1


def test_a_socket_will_do(tmp_path: Path) -> None:
    """A server that listens on a Unix socket only is saved as well."""
    with start_redis(tmp_path / "redis", unixsocket=str(tmp_path / "redis" / "s")) as redis:
        redis.ask("SET", "key", "value")
        url = Secret(f"unix://:{quote(PASSWORD, safe='')}@{tmp_path}/redis/s")
        assert dumped(RedisSource(url=url), tmp_path / "dump").documents == 1


# The way back


@pytest.mark.parametrize("mode", [RedisMode.SNAPSHOT, RedisMode.LOGICAL])
def test_only_some_keys_elsewhere(server: Redis, empty: Redis, tmp_path: Path, mode: str) -> None:
    """Keys of some names go into another database of another server, under another name; nothing else does."""
    site = site_of(tmp_path / "site", server.settings(mode=mode))
    backup, _ = saved(site)
    to = f"redis://{empty.address}"
    wanted = Wanted(to=to, only=("db0/user:*",), options={"database": "5", "prefix": "copy:"})
    good(site.restore(backup, wanted))
    names = [f"copy:user:{at}".encode() for at in range(10)]
    assert content_of(empty) == {
        5: {
            name: (b"string", FAR + at if VERSION >= (7, 0) else round(FAR, -3), f"value {at}".encode())
            for at, name in enumerate(names)
        }
    }
    assert code_of(site.restore(backup, wanted)) == "target-exists"
    assert VERSION < (7, 0) or empty.ask("FUNCTION", "LIST") == []


def test_what_is_there_is_replaced_or_stays(server: Redis, empty: Redis, tmp_path: Path) -> None:
    """Skip leaves a key that is there, replace does not; neither touches other keys. The default leaves none."""
    site = site_of(tmp_path / "site", server.settings(mode=RedisMode.LOGICAL))
    backup, _ = saved(site)
    to = f"redis://{empty.address}"
    for existing, text in (("skip", b"mine"), ("replace", "안녕".encode())):
        empty.ask("FLUSHALL")
        empty.ask("SET", "text", "mine")
        empty.ask("SET", "other", "mine")
        good(site.restore(backup, Wanted(to=to, overwrite=True, options={"existing": existing}), safety=False))
        assert (empty.ask("GET", "text"), empty.ask("GET", "other")) == (text, b"mine")
        assert empty.ask("DBSIZE") == server.ask("DBSIZE") + 1
    good(site.restore(backup, Wanted(to=to, overwrite=True)))
    assert content_of(empty) == content_of(server)
    assert VERSION < (7, 0) or b"mylib" in empty.ask("FUNCTION", "LIST")[0]


def test_a_restore_that_cannot_be_is_refused(server: Redis, empty: Redis, tmp_path: Path) -> None:
    """A database that there is not, two into one, a login in an address, a folder for keys: told before anything."""
    site = site_of(tmp_path / "site", server.settings(mode=RedisMode.LOGICAL))
    backup, _ = saved(site)
    to = f"redis://{empty.address}"
    for wanted in (
        Wanted(to=to, only=("db0",), options={"database": "99"}),
        Wanted(to=to, options={"database": "1"}),
        Wanted(to=to, options={"existing": "perhaps"}),
        Wanted(to=f"redis://me:pw@{empty.address}"),
        Wanted(to="db0x"),
        Wanted(to=str(tmp_path)),
    ):
        assert code_of(site.restore(backup, wanted)) == "target-refused", wanted
    assert empty.ask("DBSIZE") == 0


def test_a_key_that_expired_meanwhile_is_no_fault(server: Redis, empty: Redis, tmp_path: Path) -> None:
    """What would have expired since the backup does not come back, and nobody misses it."""
    server.ask("PSETEX", "soon", 1500, "gone")
    site = site_of(tmp_path / "site", server.settings())
    backup, manifest = saved(site)
    assert manifest.source.parts[0].items == server.ask("DBSIZE")
    time.sleep(1.6)
    good(site.restore(backup, Wanted(to=f"redis://{empty.address}")))
    assert empty.ask("EXISTS", "soon") == 0
    good(site.run("drill", verify=VerifyOrder(level="restore")))


def test_a_snapshot_goes_into_a_data_folder(tmp_path: Path) -> None:
    """Not while a server works there; what is there is kept; a server that is started there has everything."""
    with start_redis(tmp_path / "redis") as redis:
        fill_with_everything(redis)
        before = content_of(redis)
        site = site_of(tmp_path / "site", redis.settings())
        backup, _ = saved(site)
        redis.ask("FLUSHALL")
        redis.save()
        wanted = Wanted(to=str(redis.folder))
        assert code_of(site.restore(backup, wanted)) == "target-refused"
        redis.stop()
        assert code_of(site.restore(backup, wanted)) == "target-exists"
        run = good(site.restore(backup, msgspec.structs.replace(wanted, overwrite=True)))
        assert any("chown -R redis:redis" in warning for warning in run.warnings)
        assert list(redis.folder.glob("dump.rdb.before-restore-*"))
        redis.start()
        assert content_of(redis) == before


@seven
def test_a_server_that_does_not_say_where_it_works(server: Redis, tmp_path: Path) -> None:
    """Where the job's user may not ask for the folder, the plan says that nobody knows whether it is in use."""
    server.ask("ACL", "SETUSER", "tester", "reset", "on", ">pw", *rules()["backup-snapshot"].split())
    site = site_of(tmp_path / "site", server.settings(user="tester", password="pw"))
    backup, _ = saved(site)
    (tmp_path / "data").mkdir()
    run = good(site.restore(backup, Wanted(to=str(tmp_path / "data"))))
    assert any("stop it first" in warning for warning in run.warnings)
    server.ask("ACL", "DELUSER", "tester")


# Append-only files


@pytest.fixture
def appending(tmp_path: Path) -> Iterator[Redis]:
    """Give a server that keeps an AOF, with everything in it; by default its files lag up to two seconds behind."""
    with start_redis(tmp_path / "redis", appendonly="yes", appendfsync="always") as redis:
        fill_with_everything(redis)
        yield redis


def aof_settings(redis: Redis) -> RedisSource:
    """Return the settings that read its AOF."""
    return redis.settings(mode=RedisMode.AOF, data_folder=str(redis.folder))


@seven
def test_append_only_files_come_back(appending: Redis, tmp_path: Path) -> None:
    """Its files restored into another folder, a server started there has everything; a drill proves as much."""
    appending.rewrite()
    appending.ask("SET", "after", "the rewrite")
    site = site_of(tmp_path / "site", aof_settings(appending))
    backup, manifest = saved(site)
    names = [part.name for part in manifest.source.parts]
    assert [name.rpartition(".")[2] for name in names] == ["rdb", "aof"]
    good(site.run("drill", verify=VerifyOrder(level="restore")))
    assert code_of(site.restore(backup, Wanted())) == "target-refused"
    (tmp_path / "back").mkdir()
    good(site.restore(backup, Wanted(to=str(tmp_path / "back"))))
    with start_redis(tmp_path / "back", appendonly="yes", aof_load_truncated="no") as back:
        assert content_of(back) == content_of(appending)


def test_append_only_files_are_of_one_moment(appending: Redis, tmp_path: Path) -> None:
    """Copied while a program writes in transactions and the server rewrites, they load with whole transactions."""
    ended = threading.Event()

    def write() -> None:
        with appending.link() as link:
            at = 0
            while not ended.is_set():
                for part in (("MULTI",), ("SET", "one", at), ("SET", "two", at), ("EXEC",)):
                    link.ask(*part)
                at += 1
                if at % 200 == 0:
                    with contextlib.suppress(Refusal):  # the last one goes on
                        link.ask("BGREWRITEAOF")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        time.sleep(0.2)
        found = []
        for at in range(6):
            dumped(aof_settings(appending), tmp_path / f"dump{at}")
            time.sleep(0.05)
    finally:
        ended.set()
        writer.join()
    for at in range(6):
        with start_redis(tmp_path / f"dump{at}", appendonly="yes", aof_load_truncated="no") as back:
            one, two = back.ask("MGET", "one", "two")
            assert one == two
            found.append(int(one or 0))
    assert found == sorted(found)
    assert found[-1] > 0


@seven
def test_a_drill_of_append_only_files_compares_what_it_can(appending: Redis, tmp_path: Path) -> None:
    """Keys of the base that no command names are compared one by one, in whatever database; the rest is counted."""
    appending.rewrite()
    appending.ask("SET", "text", "written after the rewrite")
    appending.ask("RENAME", "set", "set of another name")
    appending.ask("SET", "new", "one")
    total = sum(appending.ask("DBSIZE", database=number) for number in (0, 3, 15))
    site = site_of(tmp_path / "site", aof_settings(appending))
    saved(site)
    told = stage_of(good(site.run("drill", verify=VerifyOrder(level="restore"))), "compare")
    # Named are: text (of two databases), set, its new name, and new.
    assert told == f"{total - 4} keys in 3 databases as backed up; 4 others cannot be compared"
    appending.ask("FLUSHDB", database=15)
    saved(site)
    told = stage_of(good(site.run("drill", verify=VerifyOrder(level="restore"))), "compare")
    assert told == f"0 keys in 2 databases as backed up; {total - 1} others cannot be compared"


@seven
def test_a_server_that_loads_something_else_fails_the_drill(appending: Redis, tmp_path: Path) -> None:
    """A key that is not as the base has it is found: a changed value, another time of expiry, none at all."""
    appending.rewrite()
    site = site_of(tmp_path / "site", aof_settings(appending))
    _, manifest = saved(site)
    for change in (("APPEND", "text", "x"), ("PEXPIREAT", "list", FAR), ("DEL", "hash")):
        before = appending.ask("DUMP", change[1])
        assert not compare_aof(appending.settings(), folder_of(site, manifest, tmp_path), manifest).differences
        expiry = max(0, appending.ask("PEXPIRETIME", change[1]))
        appending.ask(*change)
        (told,) = compare_aof(appending.settings(), folder_of(site, manifest, tmp_path), manifest).differences
        assert f"'{change[1]}'" in told
        appending.ask("RESTORE", change[1], expiry, before, "REPLACE", "ABSTTL")


def folder_of(site: Site, manifest: Manifest, folder: Path) -> Path:
    """Unpack a backup; returns the folder."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder / manifest.backup)
    subprocess.run(["tar", "-xzf", str(site.layout.artifact(manifest.artifact.name)), "-C", str(folder)], check=True)
    return folder / manifest.backup


def stage_of(run: Run, name: str) -> str:
    """Return what a stage of a run says."""
    (found,) = [stage.detail for stage in run.stages if stage.stage == name]
    return found


@seven
def test_the_single_file_of_older_servers(appending: Redis, tmp_path: Path) -> None:
    """One file, with keys as in an RDB file and commands behind them, is copied to its last whole transaction."""
    appending.rewrite()
    appending.ask("SET", "after", "the rewrite")
    before = content_of(appending)
    appending.stop()
    folder = appending.folder / "appendonlydir"
    (base,), (more,) = folder.glob("*.base.rdb"), folder.glob("*.incr.aof")
    whole = base.read_bytes() + more.read_bytes()
    shutil.rmtree(folder)
    cut = b"*1\r\n$5\r\nMULTI\r\n*3\r\n$3\r\nSET\r\n$3\r\none\r\n$1\r\n1\r\n*3\r\n$3\r\nSE"
    (appending.folder / "appendonly.aof").write_bytes(whole + cut)
    harvest = dumped(aof_settings(appending), tmp_path / "dump")
    assert (tmp_path / "dump" / "appendonly.aof").read_bytes() == whole
    assert harvest.source.parts[0].items > 40
    with start_redis(tmp_path / "dump", appendonly="yes", aof_load_truncated="no") as back:
        assert content_of(back) == before


@seven
def test_files_that_are_not_there_or_damaged_are_told(appending: Redis, tmp_path: Path) -> None:
    """A folder without them, and one whose file is damaged in the middle, are faults of the source."""
    (tmp_path / "none").mkdir()
    nothing = appending.settings(mode=RedisMode.AOF, data_folder=str(tmp_path / "none"))
    assert fault_of(nothing, tmp_path / "dump").code == "source-empty"
    assert fault_of(msgspec.structs.replace(nothing, data_folder="/no/such"), tmp_path / "d2").code.startswith(
        "source-"
    )
    appending.stop()
    (more,) = (appending.folder / "appendonlydir").glob("*.incr.aof")
    data = more.read_bytes()
    more.write_bytes(data[:100] + b"garbage" + data[107:])
    assert fault_of(aof_settings(appending), tmp_path / "d3").code == "source-damaged"


# Rights, logins, TLS


def rules() -> dict[str, str]:
    """Return the users that the page documents, by what they are for, as ACL SETUSER takes them."""
    found = re.findall(r"^ACL SETUSER (\S+) on >PASSWORD (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return dict(found)


@seven
@pytest.mark.parametrize("mode", [RedisMode.SNAPSHOT, RedisMode.LOGICAL])
def test_the_documented_rights_are_enough(server: Redis, tmp_path: Path, mode: str) -> None:
    """A user with the rights of the page, and no others, makes a backup; without one of them it is told so."""
    said = rules()[f"backup-{mode}"].split()
    server.ask("ACL", "SETUSER", "tester", "reset", "on", ">pw", *said)
    settings = server.settings(user="tester", password="pw", mode=mode)
    whole = dumped(settings, tmp_path / "all")
    assert whole.documents == sum(server.ask("DBSIZE", database=number) for number in (0, 3, 15))
    assert not whole.warnings
    for at, right in enumerate(one for one in said if one[0] == "+" and "function" not in one):
        server.ask("ACL", "SETUSER", "tester", f"-{right[1:]}")
        assert fault_of(settings, tmp_path / f"without{at}").code == "source-auth", right
        server.ask("ACL", "SETUSER", "tester", right)
    if mode == RedisMode.LOGICAL:
        server.ask("ACL", "SETUSER", "tester", "-function|dump")
        assert "FUNCTION DUMP" in dumped(settings, tmp_path / "warned").warnings[0]
    server.ask("ACL", "DELUSER", "tester")


@seven
def test_the_documented_rights_restore(server: Redis, empty: Redis, tmp_path: Path) -> None:
    """A user with the rights that the page gives for restoring brings everything back."""
    empty.ask("ACL", "SETUSER", "tester", "reset", "on", ">pw", *rules()["restore"].split())
    server.ask("ACL", "SETUSER", "tester", "reset", "on", ">pw", *rules()["backup-logical"].split())
    empty.ask("SET", "old", "one")
    site = site_of(tmp_path / "site", server.settings(user="tester", password="pw", mode=RedisMode.LOGICAL))
    backup, _ = saved(site)
    good(site.restore(backup, Wanted(to=f"redis://{empty.address}", overwrite=True)))
    assert content_of(empty) == content_of(server)
    for one in (server, empty):
        one.ask("ACL", "DELUSER", "tester")


@pytest.mark.parametrize("mode", list(RedisMode))
def test_a_wrong_password_is_told(server: Redis, tmp_path: Path, mode: str) -> None:
    """A wrong password, or none, is a fault that cannot be tried again, without the password in it."""
    (tmp_path / "appendonly.aof").touch()
    folder = str(tmp_path) if mode == RedisMode.AOF else ""
    for password in ("wrong-secret", ""):
        fault = fault_of(server.settings(password=password, mode=mode, data_folder=folder), tmp_path / "dump")
        assert (fault.code, fault.retryable) == ("source-auth", False)
        assert "wrong-secret" not in fault.message


@seven
def test_by_tls(tmp_path: Path) -> None:
    """Through TLS with certificates on both sides; whoever vouches for nobody is told what is not accepted."""
    own = make_certificate(tmp_path / "certs")
    options = {
        "tls_cert_file": str(own.certificate),
        "tls_key_file": str(own.key),
        "tls_ca_cert_file": str(own.authority),
    }
    redis = Redis(tmp_path / "redis", {}, password=PASSWORD, tls=True)
    try:
        redis.start(ready=False, port="0", tls_port=str(redis.port), **options)
        files: dict[str, Any] = {
            "ca_file": str(own.authority),
            "cert_file": str(own.certificate),
            "key_file": str(own.key),
        }
        for _ in range(200):
            try:
                with redis.link(**files) as link:
                    link.ask("SET", "key", "value")
                break
            except BackupdError:
                time.sleep(0.02)
        for mode in (RedisMode.SNAPSHOT, RedisMode.LOGICAL):
            assert dumped(redis.settings(mode=mode, **files), tmp_path / mode).documents == 1
        strange = fault_of(redis.settings(**{**files, "ca_file": ""}), tmp_path / "strange")
        assert "certificate" in strange.message
        assert "ca_file" in strange.hint
    finally:
        redis.stop()


# Faults


@seven
def test_a_server_that_loads_is_waited_for(tmp_path: Path) -> None:
    """While it loads its data nothing is saved, and another try may help."""
    with start_redis(tmp_path / "redis") as redis:
        fill_with_everything(redis)
        redis.ask("SAVE")
        redis.stop()
        redis.start(ready=False, key_load_delay="100000", loading_process_events_interval_bytes="1024")
        try:
            deadline = time.monotonic() + 10
            while (fault := fault_of(redis.settings(), tmp_path / "dump")).code == "source-unreachable":
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert (fault.code, fault.retryable) == ("source-loading", True)
        finally:
            redis.stop()


def test_a_server_that_is_down(server: Redis, tmp_path: Path) -> None:
    """Nobody there is a fault that names the address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        fault = fault_of(RedisSource(url=Secret(f"redis://:pw@127.0.0.1:{port}")), tmp_path / "dump")
    assert fault.code == "source-unreachable"
    assert f"127.0.0.1:{port}" in fault.message


def test_a_server_that_dies_meanwhile(tmp_path: Path) -> None:
    """A server that is killed, or hangs, while it is read is no backup, in whatever way it is read."""
    for mode in (RedisMode.SNAPSHOT, RedisMode.LOGICAL):
        with start_redis(tmp_path / mode) as redis:
            with redis.link() as link:
                for at in range(24):
                    link.ask("SET", f"large:{at}", os.urandom(1 << 20))
            for signal_number, timeout in ((signal.SIGSTOP, 1.0), (signal.SIGKILL, 60.0)):
                folder = tmp_path / f"{mode}-{signal_number}"
                folder.mkdir()
                source = open_source(redis.settings(mode=mode, timeout=timeout))
                source.preflight()
                dump = source.start(folder)  # type: ignore[union-attr]
                try:
                    dump.pause()
                    for number in _family(redis.pid):
                        os.kill(number, signal_number)
                    dump.resume()
                    assert dump.wait(20)
                    with pytest.raises(BackupdError) as caught:
                        dump.harvest({path.name: path.stat().st_size for path in folder.iterdir()})
                    assert caught.value.code.startswith("source-")
                finally:
                    dump.kill()
                    for number in _family(redis.pid):
                        os.kill(number, signal.SIGCONT)


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return [pid, *(int(number) for number in children.read_text().split())] if children.exists() else []


def test_a_server_whose_disk_is_full(tmp_path: Path) -> None:
    """A server that cannot write the file that it would send says so, and the fault names what it is."""
    with start_redis(tmp_path / "redis", repl_diskless_sync="no") as redis:
        redis.ask("SET", "key", os.urandom(100_000))
        # As a full disk: no file of its can be larger than that.
        subprocess.run(["prlimit", f"--pid={redis.pid}", "--fsize=4096"], check=True)
        fault = fault_of(redis.settings(), tmp_path / "dump")
        assert fault.code == "source-failed"
        assert "BGSAVE failed" in fault.message
        assert "repl-diskless-sync" in fault.hint


def test_an_empty_server_is_not_saved(empty: Redis, tmp_path: Path) -> None:
    """A server without keys, most likely one that lost them, takes the place of no backup."""
    assert fault_of(empty.settings(), tmp_path / "dump").code == "source-empty"
    assert fault_of(empty.settings(mode=RedisMode.LOGICAL), tmp_path / "dump").code == "source-empty"


def test_a_server_that_is_too_old(tmp_path: Path) -> None:
    """One that says a version before 5 is refused; there is none to be had, so somebody says it in its place."""
    info = b"# Server\r\nredis_version:3.2.1\r\n# Keyspace\r\ndb0:keys=1,expires=0,avg_ttl=0\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            one, _ = listener.accept()
            with one:
                one.recv(1000)
                one.sendall(b"$%d\r\n%b\r\n" % (len(info), info))
                one.recv(1000)

        thread = threading.Thread(target=answer)
        thread.start()
        port = listener.getsockname()[1]
        fault = fault_of(RedisSource(url=Secret(f"redis://127.0.0.1:{port}")), tmp_path / "dump")
        thread.join()
    assert (fault.code, fault.retryable) == ("source-too-old", False)
    assert "3.2.1" in fault.message


# By hand


@pytest.mark.parametrize("mode", list(RedisMode))
def test_by_hand(tmp_path: Path, mode: str) -> None:
    """The lines that a manifest has bring everything back with stock tools alone."""
    with start_redis(tmp_path / "redis", appendonly="yes", appendfsync="always") as redis:
        fill_with_everything(redis)
        before = content_of(redis)
        folder = str(redis.folder) if mode == RedisMode.AOF else ""
        site = site_of(tmp_path / "site", redis.settings(mode=mode, data_folder=folder))
        backup, manifest = saved(site)
        subprocess.run(["tar", "-xzf", str(site.layout.artifact(backup.artifact)), "-C", str(tmp_path)], check=True)
    data = tmp_path / "data"
    data.mkdir()
    lines = "\n".join(manifest.source.by_hand).replace("{folder}", str(tmp_path / backup.id))
    lines = lines.replace("/var/lib/redis", str(data)).replace("-o redis -g redis ", "")
    lines = re.sub(r"chown .*", "true", lines)

    def run(text: str, **environment: str) -> None:
        path = f"{Path(find_redis()).parent}:{os.environ['PATH']}"
        said = subprocess.run(["bash", "-euc", text], capture_output=True, text=True, env={"PATH": path, **environment})
        assert said.returncode == 0, said.stdout + said.stderr

    if mode != RedisMode.LOGICAL:
        run(lines)
        with start_redis(data, appendonly="yes" if mode == RedisMode.AOF else "no") as back:
            assert content_of(back) == before
        return
    with start_redis(data) as back:
        run(lines.replace("URL", f"redis://{back.address}"), REDISCLI_AUTH=PASSWORD)
        assert content_of(back) == before
