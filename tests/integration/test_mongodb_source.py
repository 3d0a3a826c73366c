"""The MongoDB source on real servers: facts before, counts after, every way in which mongodump can fail or lie."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest
from pymongo import MongoClient

from nanumpay_backupd.errors import BackupdError, ConfigError, SourceError, ToolError, VerifyError
from nanumpay_backupd.model import CollectionStat
from nanumpay_backupd.settings.schema import MongoSource
from nanumpay_backupd.sources import mongodb
from nanumpay_backupd.sources.base import Dump, Harvest
from nanumpay_backupd.sources.factory import open_source
from nanumpay_backupd.sources.mongodb import INSTALL_HINT, MongoDatabase
from nanumpay_backupd.system.secrets import Secret
from tests import sample_data
from tests.sample_data import Document
from tests.servers.mongod import PASSWORD, USER, Mongod, free_port, start_mongod

pytestmark = pytest.mark.servers

DB: Final = "source_test"
ROOT: Final = f"{USER}:{quote(PASSWORD, safe='')}"
ODD: Final = (
    "급여 지급",
    "blank and (parentheses)",
    "dumping x (3 documents)",
    "a to b",
    "100%",
    "%2F escaped",
    "slash/inside",
    "dots.in.the.name",
    'it\'s "quoted"',
    "back\\slash",
    "가" * 60,
    "n" * 230,
)


@pytest.fixture(scope="module", params=["mongod_standalone", "mongod_rs"])
def server(request: pytest.FixtureRequest) -> Iterator[Mongod]:
    """Both kinds of server, with the sample data and collections of odd names."""
    server = request.getfixturevalue(request.param)
    assert isinstance(server, Mongod)
    with server.client() as client:
        client.drop_database(DB)
        sample_data.load(client[DB], scale=0.02)
        for count, name in enumerate(ODD):
            client[DB].create_collection(name)
            if count:
                client[DB][name].insert_many([{"n": at, "name": name} for at in range(count)])
        yield server
        client.drop_database(DB)


@pytest.fixture(scope="module")
def locked() -> Iterator[Mongod]:
    """A server that asks for a user, with a few documents."""
    with start_mongod(auth=True) as server:
        with server.client() as client:
            client[DB].users.insert_many([{"n": at} for at in range(10)])
            client["other"].things.insert_one({})
            client[DB].command("createUser", "local", pwd="local password", roles=["read"])
            client.admin.command("createUser", "keeper", pwd="keeper password", roles=["backup"])
            client.admin.command("createUser", "nobody", pwd="nobody password", roles=[])
        yield server


def settings(server: Mongod, **changes: Any) -> MongoSource:
    """Return settings that reach a server's test database."""
    return MongoSource(**{"uri": Secret(server.uri_for(DB)), "database": DB, **changes})


def sizes_of(folder: Path) -> dict[str, int]:
    """Return the bytes of every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def begin(source: MongoDatabase, folder: Path) -> Dump:
    """Start a dump after its preflight."""
    source.preflight()
    folder.mkdir()
    return source.start(folder)


def finished(dump: Dump, folder: Path) -> Harvest:
    """Wait for a dump and judge it."""
    try:
        assert dump.wait(60)
        return dump.harvest(sizes_of(folder))
    finally:
        dump.kill()


def test_what_preflight_tells(server: Mongod) -> None:
    """Version, topology, address, collections and an estimate of the bytes, in one line for the operator."""
    source = open_source(settings(server))
    estimate = source.preflight()
    assert estimate.summary.startswith("MongoDB 6.0.5 (")
    assert ("replica-set" if server.replica_set else "standalone") in estimate.summary
    assert server.address in estimate.summary
    assert "mongodump 100." in estimate.summary
    with server.client() as client:
        assert estimate.raw_bytes == client[DB].command("dbStats")["dataSize"]
    assert source.preflight() == estimate, "it may be called again"


def test_counts_are_those_of_the_database(server: Mongod, tmp_path: Path) -> None:
    """Every collection, also with an odd name, is in the harvest with its documents, bytes, indexes and type."""
    source = MongoDatabase(settings(server))
    folder = tmp_path / "dump"
    dump = begin(source, folder)
    harvest = finished(dump, folder)
    assert not dump.running
    info = harvest.source
    assert (info.type, info.server_version, info.databases) == ("mongodb", "6.0.5", (DB,))
    assert info.topology == ("replica-set" if server.replica_set else "standalone")
    level = "point-in-time" if server.replica_set else "none"
    assert (harvest.consistency.level, bool(harvest.consistency.reason)) == (level, level == "none")
    found = {stats.name: stats for stats in info.collections}
    with server.client() as client:
        expected = {entry["name"]: entry for entry in client[DB].list_collections()}
        for name in ("activeusers", "system.views", "systemmetrics"):
            del expected[name]
        assert found.keys() == expected.keys()
        for name, stats in found.items():
            assert stats.documents == client[DB][name].count_documents({}), name
            if not name.startswith("system."):
                assert stats.indexes == len(list(client[DB][name].list_indexes())), name
    assert found["system.buckets.systemmetrics"].type == "timeseries"
    assert found["activitylogs"].documents > 0, "the capped collection"
    assert found["documents.chunks"].documents > 1, "GridFS"
    assert found["급여 지급"] == CollectionStat(database=DB, name="급여 지급", documents=0, bytes=0, indexes=1)
    assert harvest.documents == dump.documents == sum(stats.documents for stats in info.collections)
    # Each file walks to the count and the bytes that were reported for it.
    walked = sorted(walk(source, path) for path in folder.glob("*/*.bson"))
    assert walked == sorted((stats.documents, stats.bytes) for stats in info.collections)
    assert source.check("source_test/users.metadata.json") is None


def walk(source: MongoDatabase, path: Path) -> tuple[int, int]:
    """Walk one file with the source's own checker; returns documents and bytes."""
    checker = source.check(path.name)
    assert checker is not None
    data = path.read_bytes()
    if data:
        checker(data)
    checker(b"")
    return getattr(checker, "count"), len(data)  # noqa: B009 - the contract's attribute


def test_all_databases_are_dumped_when_none_is_named(locked: Mongod, tmp_path: Path) -> None:
    """Without a database the server's own ones stay out, and all others are in, whatever the URI names."""
    folder = tmp_path / "dump"
    source = MongoDatabase(settings(locked, database=""))
    harvest = finished(begin(source, folder), folder)
    assert set(harvest.source.databases) == {DB, "other"}
    ours = {(stats.database, stats.name, stats.documents) for stats in harvest.source.collections}
    assert {(DB, "users", 10), ("other", "things", 1)} <= ours


def test_the_role_backup_is_enough(locked: Mongod, tmp_path: Path) -> None:
    """A user with nothing but the role that the hint asks for can be backed up with."""
    folder = tmp_path / "dump"
    uri = f"mongodb://keeper:{quote('keeper password')}@{locked.address}/{DB}?authSource=admin"
    source = MongoDatabase(settings(locked, uri=Secret(uri)))
    assert source.preflight().raw_bytes > 0, "without dbStats the size is estimated from the disk's"
    assert finished(begin(source, folder), folder).documents == 10


@pytest.mark.parametrize(
    "userinfo, tail",
    [
        pytest.param(
            f"{USER}:{quote(PASSWORD, safe='')}", "other?authSource=admin", id="other database, authSource named"
        ),
        pytest.param(ROOT, "admin", id="authSource by the URI's database"),
        pytest.param(ROOT, "?authSource=admin&directConnection=true", id="no database"),
        pytest.param(ROOT, "admin?directConnection=true", id="database with options"),
        pytest.param(f"local:{quote('local password')}", DB, id="user of that very database"),
    ],
)
def test_a_uri_that_names_another_database_keeps_its_login(
    locked: Mongod, tmp_path: Path, userinfo: str, tail: str
) -> None:
    """Mongodump refuses a URI with another database than --db; where the user is looked up stays as it was meant."""
    folder = tmp_path / "dump"
    uri = Secret(f"mongodb://{userinfo}@{locked.address}/{tail}")
    harvest = finished(begin(MongoDatabase(settings(locked, uri=uri)), folder), folder)
    assert {(stats.name, stats.documents) for stats in harvest.source.collections} >= {("users", 10)}
    assert {stats.database for stats in harvest.source.collections} == {DB}


@pytest.mark.promise("Secrets stand in no command line, no environment, no log, no record and no error.", item=14)
def test_the_password_is_in_no_command_line_and_no_environment(locked: Mongod, tmp_path: Path) -> None:
    """While mongodump runs, nobody who lists processes sees the password, in any spelling."""
    folder = tmp_path / "dump"
    dump = begin(MongoDatabase(settings(locked)), folder)
    try:
        dump.pause()
        pid = dump._child.pid  # type: ignore[attr-defined]
        seen = {name: Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ")}
        assert b"--config=/dev/fd/" in seen["cmdline"]
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                seen[entry.name] = _read(entry / "cmdline")
        for secret in (PASSWORD, quote(PASSWORD, safe=""), quote(PASSWORD)):
            for where, content in seen.items():
                assert secret.encode() not in content, where
        variables = {line.partition(b"=")[0] for line in seen["environ"].split(b"\0") if line}
        assert variables <= {b"PATH", b"HOME", b"LANG", b"LC_ALL", b"LC_CTYPE", b"TZ", b"TMPDIR"}
        dump.resume()
        assert finished(dump, folder).documents == 10
    finally:
        dump.kill()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_held_dump_waits_and_goes_on(server: Mongod, tmp_path: Path) -> None:
    """Paused it stands still, resumed it ends; both are harmless twice and after the end."""
    folder = tmp_path / "dump"
    dump = begin(MongoDatabase(settings(server)), folder)
    dump.pause()
    dump.pause()
    assert not dump.wait(0.3)
    assert dump.running
    dump.resume()
    dump.resume()
    assert finished(dump, folder).documents > 0
    dump.pause()
    dump.resume()
    dump.kill()


# Expected faults before the dump


def test_a_wrong_password_is_told_without_the_password(locked: Mongod) -> None:
    """The server's refusal names the place and the three settings to look at, and is not worth a retry."""
    uri = Secret(f"mongodb://{USER}:wrong-secret-word@{locked.address}/{DB}?authSource=admin")
    with pytest.raises(SourceError, match=f"MongoDB at {locked.address} refused") as caught:
        MongoDatabase(settings(locked, uri=uri)).preflight()
    assert (caught.value.code, caught.value.retryable) == ("source-auth", False)
    assert "wrong-secret-word" not in caught.value.message + caught.value.hint
    assert "authSource" in caught.value.hint


def test_a_user_without_rights_is_refused_before_the_dump(locked: Mongod) -> None:
    """A login that works but may not read says which role is needed."""
    uri = Secret(f"mongodb://nobody:{quote('nobody password')}@{locked.address}/{DB}?authSource=admin")
    with pytest.raises(SourceError) as caught:
        MongoDatabase(settings(locked, uri=uri)).preflight()
    assert caught.value.code == "source-auth"
    assert "'backup'" in caught.value.hint


def test_a_server_that_is_away_is_unreachable(server: Mongod, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listening is a passing fault that names the address."""
    monkeypatch.setattr(mongodb, "_TIMEOUT_MS", 300)
    port = free_port()
    source = MongoDatabase(settings(server, uri=Secret(f"mongodb://user:hidden-word@127.0.0.1:{port}/{DB}")))
    with pytest.raises(SourceError, match=rf"MongoDB at 127\.0\.0\.1:{port} cannot be reached") as caught:
        source.preflight()
    assert (caught.value.code, caught.value.retryable) == ("source-unreachable", True)
    assert "hidden-word" not in caught.value.message
    assert "Topology" not in caught.value.message, "the driver's report is shortened"


def test_an_empty_database_is_nothing_to_back_up(server: Mongod) -> None:
    """A misspelled name is the likeliest reason, and is told; only the name can be mended."""
    with pytest.raises(SourceError, match=r"'no_such_database' .* is empty") as caught:
        MongoDatabase(settings(server, database="no_such_database")).preflight()
    assert (caught.value.code, caught.value.retryable) == ("source-empty", False)
    assert "MONGODB_URI" in caught.value.hint


@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://user:p/w@host:27017/nanumpay",
        "http://localhost/nanumpay",
        "mongodb://localhost:99999/nanumpay",
        "mongodb://localhost/nanumpay?tlsCAFile=/not/there.pem&tls=true",
    ],
)
def test_a_uri_that_cannot_be_used_is_a_setting_to_mend(server: Mongod, uri: str) -> None:
    """What the driver says about a bad URI becomes one sentence with the form it should have."""
    with pytest.raises(ConfigError, match="MONGODB_URI cannot be used") as caught:
        MongoDatabase(settings(server, uri=Secret(uri))).preflight()
    assert "p/w" not in caught.value.message
    assert "mongodb://" in caught.value.hint


# mongodump that is missing, dies or lies


def test_a_missing_mongodump_says_how_to_install_it(server: Mongod, tmp_path: Path) -> None:
    """Neither on PATH nor at a path: the package's name and the setting are in the hint."""
    for name in ("no-such-mongodump", str(tmp_path / "mongodump")):
        with pytest.raises(ToolError, match=f"{name} was not found") as caught:
            MongoDatabase(settings(server, mongodump=name)).preflight()
        assert caught.value.code == "tool-missing"
        assert caught.value.hint == INSTALL_HINT
        assert "mongodb-database-tools" in caught.value.hint


def test_another_program_of_that_name_is_not_believed(server: Mongod, tmp_path: Path) -> None:
    """What does not tell mongodump's version is no mongodump."""
    with pytest.raises(ToolError, match="does not look like mongodump"):
        MongoDatabase(settings(server, mongodump=script(tmp_path, "true", version="hello"))).preflight()


def script(folder: Path, body: str, version: str = "mongodump version: 100.7.0") -> str:
    """Write a program that answers --version and otherwise does ``body``; ``$OUT`` is the folder it should write to."""
    path = folder / "mongodump"
    path.write_text(
        f"""#!/bin/bash
[ "$1" = --version ] && {{ echo "{version}"; exit 0; }}
for word; do case "$word" in --out=*) OUT="${{word#--out=}}";; esac; done
say() {{ printf '2026-11-21T02:00:00.000+0000\\t%s\\n' "$1" >&2; }}
{body}
"""
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.fixture
def plain(mongod_standalone: Mongod) -> Iterator[tuple[Mongod, MongoClient[Document]]]:
    """A database with one collection of ten documents."""
    with mongod_standalone.client() as client:
        client.drop_database("liar")
        client["liar"].users.insert_many([{"n": at} for at in range(10)])
        yield mongod_standalone, client
        client.drop_database("liar")


def faulty(plain: tuple[Mongod, MongoClient[Document]], tmp_path: Path, body: str) -> BackupdError:
    """Dump with a faulty mongodump and return the error that says so."""
    folder = tmp_path / "dump"
    source = MongoDatabase(settings(plain[0], database="liar", mongodump=script(tmp_path, body)))
    dump = begin(source, folder)
    with pytest.raises(BackupdError) as caught:
        finished(dump, folder)
    assert caught.value.hint
    assert not dump.running
    return caught.value


@pytest.mark.promise("The exit code of a tool is not believed: what is short, missing or garbage is no backup.", item=3)
@pytest.mark.parametrize(
    "body, code, sentence",
    [
        pytest.param("exit 0", "dump-incomplete", "liar.users of 1 collections were not dumped", id="nothing written"),
        pytest.param(
            'say "done dumping liar.users (10 documents)"',
            "dump-incomplete",
            "mongodump reported 10 documents of liar.users, but its file is not there",
            id="reported but not written",
        ),
        pytest.param(
            'mkdir "$OUT/liar"; say "writing liar.users to $OUT/liar/users.bson"; head -c 370 /dev/zero > '
            '"$OUT/liar/users.bson"; exit 0',
            "dump-incomplete",
            "were not dumped",
            id="written but never reported done",
        ),
        pytest.param(
            'say "Failed: error dumping metadata: something is odd"; say "goodbye"; exit 1',
            "tool-failed",
            "mongodump failed with exit code 1: Failed: error dumping metadata: something is odd",
            id="says why and exits 1",
        ),
        pytest.param("exit 7", "tool-failed", "failed with exit code 7: it said nothing", id="exits without a word"),
        pytest.param("kill -9 $$", "tool-killed", "mongodump was killed by signal 9", id="SIGKILL"),
        pytest.param(
            'say "Failed: write /x/users.bson: no space left on device"; exit 1',
            "no-space",
            "filled up",
            id="disk full",
        ),
        pytest.param(
            'say "Failed: error getting collections: (Unauthorized) not authorized on liar to execute"; exit 1',
            "source-auth",
            "mongodump was refused by the server",
            id="rights taken away meanwhile",
        ),
    ],
)
def test_a_mongodump_that_fails_or_lies(
    plain: tuple[Mongod, MongoClient[Document]], tmp_path: Path, body: str, code: str, sentence: str
) -> None:
    """Exit code, words and files are all looked at, and each way to fail has its own code and sentence."""
    error = faulty(plain, tmp_path, body)
    assert error.code == code
    assert sentence in error.message


@pytest.mark.promise("Secrets stand in no command line, no environment, no log, no record and no error.", item=14)
def test_what_a_failing_mongodump_says_is_shown_without_secrets(
    plain: tuple[Mongod, MongoClient[Document]], tmp_path: Path
) -> None:
    """A tool that prints its URI does not put the password into our record."""
    error = faulty(plain, tmp_path, 'say "Failed: cannot connect to mongodb://me:open-sesame@host/x"; exit 1')
    assert "open-sesame" not in error.message
    assert "mongodb://me:***@host/x" in error.message


@pytest.mark.promise("The exit code of a tool is not believed: what is short, missing or garbage is no backup.", item=3)
def test_a_short_file_is_found_when_it_is_walked(plain: tuple[Mongod, MongoClient[Document]], tmp_path: Path) -> None:
    """Mongodump may report ten documents and write less: the harvest has its word, the walk has the truth."""
    body = (
        'mkdir "$OUT/liar"; say "writing liar.users to $OUT/liar/users.bson"; '
        f'printf \'{_first_document()}\' > "$OUT/liar/users.bson"; say "done dumping liar.users (10 documents)"'
    )
    folder = tmp_path / "dump"
    source = MongoDatabase(settings(plain[0], database="liar", mongodump=script(tmp_path, body)))
    harvest = finished(begin(source, folder), folder)
    (stats,) = harvest.source.collections
    assert (stats.documents, stats.bytes) == (10, 5)
    assert walk(source, folder / "liar" / "users.bson") == (1, 5)
    os.truncate(folder / "liar" / "users.bson", 4)
    with pytest.raises(VerifyError, match="cut off"):
        walk(source, folder / "liar" / "users.bson")


def _first_document() -> str:
    return "\\005\\000\\000\\000\\000"


def test_a_collection_that_is_dropped_during_the_dump_is_not_missed(
    plain: tuple[Mongod, MongoClient[Document]], tmp_path: Path
) -> None:
    """What was there before and is gone after cannot be in the dump; what is still there must be."""
    server, client = plain
    client["liar"].temporary.insert_one({})
    folder = tmp_path / "dump"
    body = (
        f'while [ ! -e "{tmp_path}/go" ]; do sleep 0.02; done; mkdir "$OUT/liar"; '
        'say "writing liar.users to $OUT/liar/users.bson"; : > "$OUT/liar/users.bson"; '
        'say "done dumping liar.users (0 documents)"'
    )
    source = MongoDatabase(settings(server, database="liar", mongodump=script(tmp_path, body)))
    dump = begin(source, folder)
    client["liar"].drop_collection("temporary")
    (tmp_path / "go").touch()
    assert [stats.name for stats in finished(dump, folder).source.collections] == ["users"]


@pytest.mark.promise(
    "A tool that is killed or hangs ends its run with a sentence and leaves no process behind.", item=3
)
def test_killing_a_dump_leaves_no_process(server: Mongod, tmp_path: Path) -> None:
    """A cancelled run ends mongodump at once, also a held one, and the judgement says that it was killed."""
    folder = tmp_path / "dump"
    dump = begin(MongoDatabase(settings(server)), folder)
    dump.pause()
    pid = dump._child.pid  # type: ignore[attr-defined]
    dump.kill()
    dump.kill()
    assert not dump.running
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(ToolError, match=f"killed by signal {signal.SIGKILL.value}"):
        dump.harvest(sizes_of(folder))
