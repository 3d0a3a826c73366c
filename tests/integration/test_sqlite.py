"""SQLite through a real daemon: run, told of, encrypted to S3, verified, drilled, restored by command and by hand."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from nanumpay_backupd.errors import BackupdError, RefusedError, SourceError
from nanumpay_backupd.model import Manifest, Part
from nanumpay_backupd.settings.sources import SqliteSource
from nanumpay_backupd.sources.base import Wanted
from nanumpay_backupd.sources.sqlite import SqliteDatabases, SqliteDriver
from tests.integration.test_cli import backupctl
from tests.keys import age_key
from tests.servers.daemon import Site, open_site
from tests.servers.s3 import ACCESS_KEY, SECRET_KEY, S3Server, start_s3
from tests.servers.tools import PROJECT
from tests.workbench import manifest_of

pytestmark = pytest.mark.servers
_ROWS: Final = 500


class Nowhere:
    """A site without a MongoDB: the daemon serves a host that has only files."""

    def uri_for(self, database: str) -> str:
        """Return a connection string that nobody answers."""
        return f"mongodb://127.0.0.1:1/{database}"

    def client(self, **_options: Any) -> Any:
        """Nobody asks."""
        raise AssertionError


def make(path: Path, rows: int = _ROWS, *, mode: str = "wal") -> None:
    """Make a database."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute(f"PRAGMA journal_mode = {mode}")
        db.execute("CREATE TABLE things (at INTEGER PRIMARY KEY, text TEXT)")
        db.executemany("INSERT INTO things VALUES (?, ?)", [(at, f"thing {at}") for at in range(rows)])


def rows(path: Path) -> int:
    """Count the things in a database."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        return int(db.execute("SELECT count(*) FROM things").fetchone()[0])


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server."""
    with start_s3(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(scope="module")
def site(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A daemon with one job, two databases and a bucket."""
    data = tmp_path_factory.mktemp("data")
    make(data / "app.db")
    make(data / "more/second.db", 7, mode="delete")
    (data / "notes.db").write_text("this is no database")
    pair = age_key("first")
    with open_site(Nowhere(), fill=False) as site:
        (site.folder / "identity").touch(mode=0o600)
        (site.folder / "identity").write_text(pair.identity.reveal())
        site.write_config(
            f"""
            [nanumpay]
            enabled = false
            [[job]]
            name = "app"
            type = "sqlite"
            path = ["{data}/**/*.db"]
            destinations = ["cloud"]
            [job.encryption]
            method = "age"
            scope = "remote"
            recipients = ["{pair.recipient}"]
            decrypt_with = {{ file = "{site.folder}/identity" }}
            [destination.cloud]
            type = "s3"
            bucket = "{s3.bucket}"
            endpoint_url = "{s3.endpoint}"
            path_style = true
            access_key_id = "{ACCESS_KEY}"
            secret_access_key = "{SECRET_KEY}"
            """
        )
        site.start()
        site.data = data  # type: ignore[attr-defined]
        yield site


def data_of(site: Site) -> Path:
    """Return where the databases are."""
    return Path(site.data)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def backup(site: Site) -> dict[str, Any]:
    """Make one backup and return what is told of it."""
    done = backupctl(site.socket, "run", "app")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{_ROWS + 7} rows" in done.stdout
    found: dict[str, Any] = site.call("DescribeBackup", backup="latest")["backup"]
    return found


def test_what_is_told_is_in_its_own_words(site: Site, backup: dict[str, Any]) -> None:
    """A list, a backup and a job speak of rows and databases, and nothing of documents."""
    listed = backupctl(site.socket, "list").stdout
    assert "ROWS" in listed
    assert f"{_ROWS + 7}" in listed
    shown = backupctl(site.socket, "show", backup["id"]).stdout
    assert f"{_ROWS + 7} rows in 2 databases" in shown
    assert str(data_of(site) / "app.db") in shown
    assert "PRAGMA integrity_check" in shown
    assert "mongorestore" not in shown
    status = backupctl(site.socket, "status").stdout
    assert f"{_ROWS + 7} rows" in status
    assert "document" not in listed + shown + status
    assert site.job("app")["type"] == backup["source"] == "sqlite"
    assert (backup["state"], {copy["destination"] for copy in backup["copies"]}) == ("verified", {"local", "cloud"})
    run = site.call("DescribeRun", run=backup["run"])["run"]
    assert any("notes.db is left out: it is no SQLite database" in text for text in run["warnings"])


def test_it_comes_back_from_the_bucket(site: Site, backup: dict[str, Any], tmp_path: Path) -> None:
    """The copy elsewhere is decrypted, proven and restored to another folder, as the plan says."""
    to = tmp_path / "restored"
    words = ("restore", backup["id"], "--from", "cloud", "--to", f"{to}/")
    plan = backupctl(site.socket, *words, "--dry-run")
    assert plan.returncode == 0, plan.stderr
    assert f"{_ROWS + 7} rows" in plan.stdout
    assert "nothing to save" in plan.stdout
    assert not to.exists()
    done = backupctl(site.socket, *words, "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows(to / str(data_of(site) / "app.db").lstrip("/")) == _ROWS
    only = backupctl(
        site.socket, "restore", backup["id"], "--only", "second.db", "--to", str(tmp_path / "one.db"), "--yes"
    )
    assert only.returncode == 0, only.stdout + only.stderr
    assert rows(tmp_path / "one.db") == 7


def test_in_place_it_takes_a_word_and_keeps_what_was_there(site: Site, backup: dict[str, Any]) -> None:
    """What is there is refused to be replaced, then kept beside with its name; an open database is refused."""
    path = data_of(site) / "app.db"
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("DELETE FROM things WHERE at > 9")
    refused = backupctl(site.socket, "restore", backup["id"], "--only", "app.db", "--yes")
    assert refused.returncode != 0
    assert "--overwrite" in refused.stderr
    held = sqlite3.connect(path)
    held.execute("SELECT count(*) FROM things").fetchone()
    busy = backupctl(site.socket, "restore", backup["id"], "--only", "app.db", "--overwrite", "--yes")
    held.close()
    assert busy.returncode != 0
    assert "is open in process" in busy.stderr
    assert rows(path) == 10
    done = backupctl(site.socket, "restore", backup["id"], "--only", "app.db", "--overwrite", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows(path) == _ROWS
    (kept,) = [one for one in data_of(site).glob("app.db.before-*") if not one.name.endswith(("-wal", "-shm"))]
    assert rows(kept) == 10
    for left in data_of(site).glob("app.db.before-*"):
        left.unlink()


def test_it_is_verified_and_drilled_by_command(site: Site, backup: dict[str, Any]) -> None:
    """All copies are read again, and a drill proves that it can be restored."""
    verified = backupctl(site.socket, "verify", backup["id"], "--level", "structure")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    drilled = backupctl(site.socket, "drill", "app")
    assert drilled.returncode == 0, drilled.stdout + drilled.stderr
    manifest = site.call("DescribeBackup", backup=backup["id"])["backup"]["manifest"]
    assert manifest["verification"][-1]["detail"].endswith(f"{_ROWS + 7} rows in 2 databases as backed up")
    checked = backupctl(site.socket, "doctor")
    assert "SQLite" in checked.stdout


def test_slices_and_swaps_are_not_for_it(site: Site, backup: dict[str, Any]) -> None:
    """What only MongoDB has is refused in a sentence, and nothing is made instead."""
    sliced = backupctl(site.socket, "run", "app", "--kind", "incremental")
    assert sliced.returncode != 0
    assert "whole backups" in sliced.stdout + sliced.stderr
    swapped = backupctl(site.socket, "restore", backup["id"], "--swap", "--dry-run")
    assert swapped.returncode != 0
    assert "for MongoDB" in swapped.stderr
    assert backupctl(site.socket, "swaps").returncode == 0


def test_the_lines_of_the_page_restore_it_by_hand(site: Site, backup: dict[str, Any], tmp_path: Path) -> None:
    """With tar and sqlite3 alone, as docs/sources/sqlite.md has it."""
    page = (PROJECT / "docs/sources/sqlite.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"^<!-- test: by-hand -->\n```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    path = data_of(site) / "more/second.db"
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("DELETE FROM things")
    (tmp_path / f"{backup['id']}.tar.gz").write_bytes((site.backups / backup["artifact"]).read_bytes())
    lines = lines.replace("DB=/srv/app/app.db", f"DB={path}")
    lines = lines.replace("BACKUP=app-backup-2026-11-21T03-00-00", f"BACKUP={backup['id']}")
    done = subprocess.run(["bash", "-euc", lines], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "ok"
    assert rows(path) == 7


# The source itself, where it is its own kind of thing


def copied(paths: SqliteSource, folder: Path) -> BackupdError | None:
    """Dump and judge; returns the fault, if there is one."""
    source = SqliteDatabases(paths)
    source.preflight()
    target = folder / "dump"
    target.mkdir()
    dump = source.start(target)
    try:
        assert dump.wait(60)
        sizes = {str(file.relative_to(target)): file.stat().st_size for file in target.rglob("*") if file.is_file()}
        dump.harvest(sizes)
    except BackupdError as error:
        return error
    finally:
        dump.kill()
    return None


def test_a_database_that_is_written_all_the_time_is_of_one_moment(tmp_path: Path) -> None:
    """Two tables that always change together have the same number of rows in the copy."""
    path = tmp_path / "busy.db"
    make(path, 5000)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE twins (at INTEGER PRIMARY KEY)")
        db.execute("INSERT INTO twins SELECT at FROM things")
    stop = threading.Event()

    def write() -> None:
        with contextlib.closing(sqlite3.connect(path, timeout=30)) as db:
            at = 10_000
            while not stop.is_set():
                with db:
                    db.execute("INSERT INTO things VALUES (?, 'new')", (at,))
                    db.execute("INSERT INTO twins VALUES (?)", (at,))
                at += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for at in range(3):
            (tmp_path / f"round{at}").mkdir()
            fault = copied(SqliteSource(path=(str(path),)), tmp_path / f"round{at}")
            assert fault is None, fault
            copy = tmp_path / f"round{at}/dump" / str(path).lstrip("/")
            with contextlib.closing(sqlite3.connect(copy)) as db:
                things, twins = (db.execute(f"SELECT count(*) FROM {name}").fetchone() for name in ("things", "twins"))
                assert things == twins
                assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    finally:
        stop.set()
        writer.join()


def test_a_damaged_database_is_no_backup(tmp_path: Path) -> None:
    """A database whose pages are damaged is told as such: by SQLite's own words, and nothing can help but a repair."""
    path = tmp_path / "bad.db"
    make(path, 5000, mode="delete")
    data = bytearray(path.read_bytes())
    data[8192 : 8192 + 200] = bytes(200)
    path.write_bytes(data)
    fault = copied(SqliteSource(path=(str(path),)), tmp_path)
    assert isinstance(fault, SourceError)
    assert (fault.code, fault.retryable) == ("source-damaged", False)
    assert "bad.db" in fault.message


@pytest.mark.parametrize("content", [b"", b"no database at all", b"SQLite format 3"], ids=["empty", "text", "cut off"])
def test_what_is_named_has_to_be_a_database(tmp_path: Path, content: bytes) -> None:
    """A path without a pattern that is no database fails; an empty file is a database without tables."""
    path = tmp_path / "thing"
    path.write_bytes(content)
    if not content:
        assert SqliteDatabases(SqliteSource(path=(str(path),))).preflight().raw_bytes == 0
        return
    with pytest.raises(SourceError, match="no SQLite database"):
        SqliteDatabases(SqliteSource(path=(str(path),))).preflight()


def test_a_lock_that_does_not_end_is_told(tmp_path: Path) -> None:
    """Another program that holds the database exclusively is waited for as long as the job says, and no longer."""
    path = tmp_path / "locked.db"
    make(path, mode="delete")
    # A process of its own: locks of a process go when it closes the file anywhere.
    hold = f"import sqlite3; sqlite3.connect({str(path)!r}).execute('BEGIN EXCLUSIVE'); print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        fault = copied(SqliteSource(path=(str(path),), timeout=0.2), tmp_path)
        holder.kill()
    assert isinstance(fault, SourceError)
    assert "locked" in fault.message
    assert fault.retryable
    assert "timeout" in fault.hint


def test_places_that_cannot_be(tmp_path: Path) -> None:
    """A relative path and a link are refused before anything is written."""
    path = tmp_path / "a.db"
    make(path, 3)
    manifest = _manifest(path)
    target = SqliteDriver(SqliteSource(path=(str(path),))).target()
    with pytest.raises(RefusedError, match="no absolute path"):
        target.look(manifest, Wanted(to="here"))
    (tmp_path / "link.db").symlink_to(path)
    with pytest.raises(RefusedError, match="no plain file"):
        target.look(manifest, Wanted(to=str(tmp_path / "link.db")))
    with pytest.raises(RefusedError, match="is there already"):
        target.look(manifest, Wanted())


def _manifest(path: Path) -> Manifest:
    part = Part(name=str(path), kind="database", items=3, bytes=1, file=str(path).lstrip("/"))
    manifest = manifest_of(b"x")
    return msgspec.structs.replace(
        manifest, source=msgspec.structs.replace(manifest.source, type="sqlite", parts=(part,), collections=())
    )
