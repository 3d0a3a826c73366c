"""MariaDB and PostgreSQL through a real daemon: S3, encryption, a moment, a purged log, the bucket alone, by hand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.integration.test_cli import backupctl
from tests.integration.test_sqlite import Nowhere
from tests.keys import age_key
from tests.servers.daemon import Site, open_site, wait_for
from tests.servers.mariadb import PASSWORD as MARIADB_PASSWORD
from tests.servers.mariadb import Mariadb, start_mariadb
from tests.servers.postgres import PASSWORD as POSTGRES_PASSWORD
from tests.servers.postgres import Postgres, start_postgres, tool
from tests.servers.s3 import ACCESS_KEY, SECRET_KEY, S3Server, start_s3
from tests.servers.tools import PROJECT, find_tool, tools_path

pytestmark = pytest.mark.servers

_PREFIX: Final = "nanumpay-backup"
_MARIADB_TOOLS: Final = ("mariadb-dump", "mariadb", "mariadb-binlog", "mariadbd", "mariadb-install-db")
_POSTGRES_TOOLS: Final = ("pg_dump", "pg_dumpall", "pg_restore", "psql", "initdb", "postgres")
_SHOP: Final = """
CREATE DATABASE shop CHARACTER SET utf8mb4; USE shop;
CREATE TABLE orders (id INT AUTO_INCREMENT PRIMARY KEY, who VARCHAR(80), at TIMESTAMP(3) DEFAULT NOW(3), raw BLOB);
INSERT INTO orders (who, raw) SELECT CONCAT('손님 ', seq), UNHEX(MD5(seq)) FROM seq_1_to_5000;
CREATE TABLE stock (id INT PRIMARY KEY, n INT); INSERT INTO stock SELECT seq, seq FROM seq_1_to_100;
CREATE VIEW short AS SELECT * FROM stock WHERE n < 10;
CREATE TRIGGER sold AFTER INSERT ON orders FOR EACH ROW UPDATE stock SET n = n - 1 WHERE id = NEW.id % 100 + 1;
"""
_BOOKS: Final = """
CREATE TABLE entries (id serial PRIMARY KEY, what text, amount numeric(20, 4), many int[], j jsonb);
INSERT INTO entries (what, amount, many, j)
  SELECT '분개 ' || g, g / 7.0, ARRAY[g, NULL], jsonb_build_object('n', g) FROM generate_series(1, 5000) g;
ALTER TABLE entries OWNER TO keeper;
"""


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server."""
    with start_s3(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(scope="module")
def mariadb() -> Iterator[Mariadb]:
    """A server with a shop, whose user may restore too."""
    with start_mariadb() as server:
        server.run(_SHOP)
        server.run(
            "GRANT ALL ON *.* TO backup@'%'; CREATE USER clerk IDENTIFIED BY 'x'; GRANT SELECT ON shop.* TO clerk"
        )
        yield server


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A server with books, whose user may restore too."""
    with start_postgres() as server:
        server.make_user("SUPERUSER")
        server.run("CREATE ROLE keeper")
        server.run("CREATE DATABASE books OWNER keeper")
        server.run(_BOOKS, "books")
        yield server


@pytest.fixture(scope="module")
def site(mariadb: Mariadb, postgres: Postgres, s3: S3Server) -> Iterator[Site]:
    """A daemon that saves both, encrypted for elsewhere, into a bucket."""
    pair = age_key("first")
    with open_site(Nowhere(), fill=False) as site:
        for name, text in (
            ("identity", pair.identity.reveal()),
            ("mariadb", MARIADB_PASSWORD),
            ("postgres", POSTGRES_PASSWORD),
        ):
            (site.folder / name).touch(mode=0o600)
            (site.folder / name).write_text(text, encoding="utf-8")
        tools = {name.replace("-", "_"): find_tool(name) for name in _MARIADB_TOOLS}
        tools |= {name: tool(name) for name in _POSTGRES_TOOLS}
        encryption = (
            f'[job.encryption]\nmethod = "age"\nscope = "remote"\nrecipients = ["{pair.recipient}"]\n'
            f'decrypt_with = {{ file = "{site.folder}/identity" }}\n'
        )
        site.write_config(
            "[nanumpay]\nenabled = false\n[tools]\n"
            + "".join(f'{name} = "{path}"\n' for name, path in tools.items())
            + f"""
            [[job]]
            name = "shop"
            type = "mariadb"
            socket = "{mariadb.socket}"
            user = "backup"
            password = {{ file = "{site.folder}/mariadb" }}
            database = ["shop"]
            accounts = true
            binlog = "required"
            incremental = "0 0 1 1 *"
            destinations = ["cloud"]
            {encryption}
            [[job]]
            name = "books"
            type = "postgresql"
            host = "{postgres.folder}"
            user = "backup"
            password = {{ file = "{site.folder}/postgres" }}
            database = ["books"]
            destinations = ["cloud"]
            {encryption}
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
        yield site


def _good(site: Site, *words: str) -> str:
    """Run backupctl, which has to succeed, and return what it said."""
    done = backupctl(site.socket, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _newest(site: Site, job: str) -> dict[str, Any]:
    """Return the newest backup of a job, with its manifest; a copy of it is verified in the bucket."""
    listed = site.call("ListBackups", job=job, slices=True)["backups"]
    found: dict[str, Any] = site.call("DescribeBackup", backup=listed[0]["id"])["backup"]
    assert (found["state"], {copy["destination"] for copy in found["copies"]}) == ("verified", {"local", "cloud"})
    return found


def _increment(site: Site) -> dict[str, Any]:
    """Make an increment of the shop and return it; the daemon may be making one of its own accord just now."""
    busy = 5

    def made() -> bool:
        done = backupctl(site.socket, "run", "shop", "--kind", "incremental")
        assert done.returncode in (0, busy), done.stdout + done.stderr + site.log()
        return done.returncode == 0

    wait_for(made, "an increment")
    return _newest(site, "shop")


def _sums(mariadb: Mariadb) -> list[list[str]]:
    """Return what the server itself says of the content: a checksum of each table, and what views and triggers are."""
    return mariadb.run(
        "CHECKSUM TABLE shop.orders, shop.stock EXTENDED; SELECT COUNT(*), SUM(n) FROM shop.short; "
        "SELECT trigger_name, action_statement FROM information_schema.triggers WHERE trigger_schema = 'shop'"
    )


def _digest(postgres: Postgres) -> list[list[str]]:
    """Return a digest of all rows, who owns the table, and its sequence."""
    return postgres.run(
        "SELECT count(*), md5(string_agg(e::text, '|' ORDER BY id)) FROM entries e; SELECT last_value FROM "
        "entries_id_seq; SELECT tableowner FROM pg_tables WHERE tablename = 'entries'",
        "books",
    )


class Story:
    """A full and two increments of the shop: what was there after each, and at a moment between the last two."""

    def __init__(self, site: Site, mariadb: Mariadb) -> None:
        _good(site, "run", "shop")
        self.full = _newest(site, "shop")
        mariadb.run("USE shop; INSERT INTO orders (who) SELECT CONCAT('late ', seq) FROM seq_1_to_300; ")
        mariadb.run("FLUSH BINARY LOGS; DELETE FROM shop.orders WHERE id < 50; ALTER TABLE shop.stock ADD note TEXT")
        self.first = _increment(site)
        mariadb.run("USE shop; UPDATE stock SET note = 'as it should be'; CREATE TABLE extra (id INT)")
        self.sums = _sums(mariadb)
        self.moment = int(mariadb.run("SELECT UNIX_TIMESTAMP()")[0][0])
        time.sleep(1.1)
        mariadb.run("DELETE FROM shop.orders; DROP TABLE shop.extra; UPDATE shop.stock SET n = 0")
        self.second = _increment(site)
        self.last = _sums(mariadb)


@pytest.fixture(scope="module")
def story(site: Site, mariadb: Mariadb) -> Story:
    """Make backups for the tests here."""
    return Story(site, mariadb)


@pytest.fixture(scope="module")
def books(site: Site) -> dict[str, Any]:
    """Make a backup of the books."""
    _good(site, "run", "books")
    return _newest(site, "books")


def test_increments_are_told_of_in_their_own_words(site: Site, story: Story) -> None:
    """A full is told in rows and tables, an increment in transactions; nothing speaks of documents or an oplog."""
    assert (story.full["kind"], story.first["kind"], story.second["kind"]) == ("full", "incremental", "incremental")
    assert {one["manifest"]["chain"] for one in (story.first, story.second)} == {story.full["id"]}
    assert "5,100 rows in 2 tables" in _good(site, "show", story.full["id"])
    said = _good(site, "list") + _good(site, "show", story.second["id"]) + _good(site, "status")
    assert "mariadb-binlog" in said
    assert "document" not in said
    assert "mongorestore" not in said


def test_the_shop_comes_back_to_a_moment(site: Site, mariadb: Mariadb, story: Story) -> None:
    """By the server's own checksums, the second before the accident is brought back; then the state of the end."""
    at = ("restore", "latest", "--job", "shop", "--at", f"{story.moment}:0", "--overwrite")
    plan = _good(site, *at, "--dry-run")
    assert story.full["id"] in plan
    assert _sums(mariadb) == story.last, "a dry run changes nothing"
    _good(site, *at, "--yes")
    assert _sums(mariadb) == story.sums
    assert mariadb.run("SHOW TABLES IN shop LIKE 'extra'") == [["extra"]]
    end = story.second["manifest"]["consistency"]["end"]
    _good(site, "restore", "latest", "--job", "shop", "--at", end, "--from", "cloud", "--overwrite", "--yes")
    assert _sums(mariadb) == story.last


def test_both_are_verified_and_drilled(site: Site, story: Story, books: dict[str, Any]) -> None:
    """Every copy is read again, and a drill restores into a server of its own; doctor knows the tools for that."""
    for backup in (story.full, story.second, books):
        _good(site, "verify", backup["id"], "--level", "structure")
    assert "5,100 rows" in _good(site, "drill", "shop", "--backup", story.full["id"])
    assert "5,000 rows" in _good(site, "drill", "books")
    said = backupctl(site.socket, "doctor").stdout
    assert "shop: tools" in said
    assert "books: tools" in said
    assert "would fail" not in said


def test_books_come_back(site: Site, postgres: Postgres, books: dict[str, Any]) -> None:
    """From the bucket, decrypted, in place of what is there: by a digest of every row, owner and sequence too."""
    before = _digest(postgres)
    postgres.run("DELETE FROM entries WHERE id > 10; ALTER TABLE entries OWNER TO backup", "books")
    refused = backupctl(site.socket, "restore", books["id"], "--yes")
    assert "--overwrite" in refused.stderr
    _good(site, "restore", books["id"], "--from", "cloud", "--overwrite", "--yes")
    assert _digest(postgres) == before


def test_on_a_machine_that_has_nothing_but_the_bucket(
    site: Site, mariadb: Mariadb, postgres: Postgres, s3: S3Server, story: Story, books: dict[str, Any], tmp_path: Path
) -> None:
    """With a host file that says how the servers are reached, the bucket and the key, both are restored without us."""
    mariadb.run("DROP DATABASE shop")
    before = _digest(postgres)
    postgres.run("DELETE FROM entries", "books")
    own = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_ENDPOINT_URL": s3.endpoint}
    for words in (["latest", "--job", "shop", "--at", f"{story.moment}:0"], [books["id"]]):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "nanumpay_backupd", "--config", str(site.config), "restore", *words),
                *("--from", f"s3://{s3.bucket}/{_PREFIX}/", "--identity", str(site.folder / "identity")),
                *("--work", str(tmp_path), "--overwrite", "--yes"),
            ],
            env={**os.environ, **own},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert _sums(mariadb) == story.sums
    assert _digest(postgres) == before


def _from_bucket(s3: S3Server, backup: dict[str, Any], folder: Path, identity: Path) -> None:
    """Fetch an artifact from the bucket and decrypt it with the stock age."""
    (found,) = (path for path in (s3.root / s3.bucket).rglob(f"{backup['id']}.*") if path.suffix == ".age")
    plain = folder / found.name.removesuffix(".age")
    subprocess.run(
        [str(find_tool("age")), "--decrypt", "--identity", str(identity), "--output", str(plain), str(found)],
        check=True,
        capture_output=True,
    )


def _page(name: str, mark: str) -> str:
    page = (PROJECT / "docs/sources" / name).read_text(encoding="utf-8")
    (lines,) = re.findall(rf"^<!-- test: {mark} -->\n```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return str(lines)


def _typed(lines: str, folder: Path, **environment: str) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", lines],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_lines_of_the_page_restore_the_shop_by_hand(
    site: Site, mariadb: Mariadb, s3: S3Server, story: Story, tmp_path: Path
) -> None:
    """With age, tar and MariaDB's own client alone, out of the bucket: full, then increments up to a moment."""
    slices = [one for one in site.call("ListBackups", job="shop", slices=True)["backups"] if one["kind"] != "full"]
    for backup in (story.full, *slices):
        _from_bucket(s3, backup, tmp_path, site.folder / "identity")
    mariadb.run("DROP DATABASE IF EXISTS shop; DROP USER clerk")
    (tmp_path / ".my.cnf").write_text(f"[client]\nsocket={mariadb.socket}\nuser=root\n", encoding="ascii")
    lines = _page("mariadb.md", "by-hand").replace("shop-backup-2026-11-21T03-00-00", story.full["id"])
    stop = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(story.moment + 1))
    more = _page("mariadb.md", "by-hand-increments").replace("2026-11-21 14:03:21", stop)
    _typed(lines + more, tmp_path, HOME=str(tmp_path), PATH=tools_path(), TZ="UTC")
    assert _sums(mariadb) == story.sums
    assert any("ON `shop`.*" in row[0] for row in mariadb.run("SHOW GRANTS FOR clerk"))


def test_the_lines_of_the_page_restore_the_books_by_hand(
    site: Site, postgres: Postgres, s3: S3Server, books: dict[str, Any], tmp_path: Path
) -> None:
    """With age, tar and PostgreSQL's own tools alone, out of the bucket."""
    _from_bucket(s3, books, tmp_path, site.folder / "identity")
    before = _digest(postgres)
    postgres.run("DELETE FROM entries", "books")
    escaped = POSTGRES_PASSWORD.replace("\\", "\\\\").replace(":", "\\:")
    (tmp_path / "pass").touch(mode=0o600)
    (tmp_path / "pass").write_text(f"*:*:*:*:{escaped}\n", encoding="utf-8")
    lines = _page("postgresql.md", "by-hand").replace("shop-backup-2026-11-21T03-00-00", books["id"])
    _typed(
        lines.replace("-- shop", "-- books").replace("/shop.dump", "/books.dump"),
        tmp_path,
        PATH=os.pathsep.join([str(tool("psql").parent), os.environ["PATH"]]),
        PGHOST=str(postgres.folder),
        PGUSER="postgres",
        PGPASSFILE=str(tmp_path / "pass"),
    )
    assert _digest(postgres) == before


def test_a_purged_log_is_told_and_a_full_is_made(site: Site, mariadb: Mariadb, story: Story) -> None:
    """The increment fails with the reason, a full begins a new chain by itself, and increments go on from that."""
    mariadb.run("CREATE TABLE IF NOT EXISTS shop.lost (id INT)")
    mariadb.purge()
    failed = backupctl(site.socket, "run", "shop", "--kind", "incremental")
    assert failed.returncode != 0
    assert "no increment can follow" in failed.stdout + failed.stderr
    assert "keep the log longer" in failed.stdout + failed.stderr

    def repaired() -> bool:
        fulls = [one for one in site.list_backups() if (one["job"], one["kind"]) == ("shop", "full")]
        return bool(fulls[0]["id"] != story.full["id"] and fulls[0]["state"] == "verified")

    wait_for(repaired, "a full that begins a new chain")
    wait_for(lambda: not site.workers(), "its end")
    mariadb.run("INSERT INTO shop.lost VALUES (1)")
    assert _increment(site)["manifest"]["chain"] != story.full["id"]
