"""PostgreSQL beyond the contract: rights, several databases, roles, faults, what is about a database, by hand, TLS."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanumpay_backupd.errors import BackupdError, RefusedError, SourceError, ToolError
from nanumpay_backupd.sources.base import Wanted
from nanumpay_backupd.sources.postgresql import PostgresDriver
from nanumpay_backupd.system.secrets import Secret
from tests.dumped import Backup, bring_back
from tests.servers.certs import make_certificate
from tests.servers.mongod import free_port
from tests.servers.postgres import PASSWORD, Postgres, start_postgres, tool

pytestmark = pytest.mark.servers

_FILL = """
CREATE TABLE t (id serial PRIMARY KEY, v text);
INSERT INTO t (v) VALUES ('one'), ('two');
CREATE TABLE many AS SELECT g AS id, md5(g::text) AS v FROM generate_series(1, 2000) g;
"""
_SUM = "SELECT count(*), md5(string_agg(x.*::text, '|' ORDER BY id)) FROM {} x"


@pytest.fixture(scope="module")
def running() -> Iterator[Postgres]:
    """Run one server for all tests here; ``backup`` has the rights of the documentation, ``boss`` all."""
    with start_postgres() as server:
        server.make_user()
        server.run("GRANT pg_read_all_data TO backup")
        secret = PASSWORD.replace("'", "''")
        server.run(f"CREATE ROLE boss SUPERUSER LOGIN PASSWORD '{secret}'")
        yield server


@pytest.fixture
def server(running: Postgres) -> Postgres:
    """Give the server with two databases and a role that owns one of them."""
    for row in running.run("SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres'"):
        running.run(f'DROP DATABASE "{row[0]}" WITH (FORCE)')
    running.run("DROP ROLE IF EXISTS keeper; CREATE ROLE keeper")
    running.run("CREATE DATABASE shop OWNER keeper")
    running.run("CREATE DATABASE other")
    running.run(_FILL + "ALTER TABLE t OWNER TO keeper", "shop")
    running.run("CREATE TABLE u (id int); INSERT INTO u VALUES (1)", "other")
    return running


def _names(server: Postgres) -> list[str]:
    query = "SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres' ORDER BY 1"
    return [row[0] for row in server.run(query)]


def _sums(server: Postgres, database: str = "shop") -> list[list[str]]:
    return [server.run(_SUM.format(table), database)[0] for table in ("t", "many")]


def test_the_documented_rights_are_enough(server: Postgres, tmp_path: Path) -> None:
    """A user with pg_read_all_data and nothing else saves all databases and the roles, without a warning."""
    full = Backup(server.settings(), tmp_path / "full")
    assert full.warnings == ()
    assert full.manifest.source.databases == ("other", "shop")
    assert {part.name: part.items for part in full.manifest.source.parts} == {
        "other.public.u": 1,
        "shop.public.many": 2000,
        "shop.public.t": 2,
    }
    assert full.manifest.consistency.level == "none"
    assert "not all of the same" in full.manifest.consistency.reason
    roles = (full.folder / "globals.sql").read_text(encoding="utf-8")
    assert "CREATE ROLE keeper" in roles
    assert "SCRAM" not in roles
    alone = Backup(server.settings("shop", accounts=False), tmp_path / "alone")
    assert alone.manifest.consistency.level == "point-in-time"
    assert not (alone.folder / "globals.sql").exists()


@pytest.mark.parametrize(
    "statement, undo, word",
    [
        ("REVOKE pg_read_all_data FROM backup", "GRANT pg_read_all_data TO backup", "permission denied"),
        ("ALTER TABLE t ENABLE ROW LEVEL SECURITY", "SELECT 1", "row-level security"),
        ("SELECT lo_from_bytea(4711, 'x')", "SELECT 1", "permission denied for large object"),
    ],
    ids=["tables", "rows", "large objects"],
)
def test_a_missing_right_makes_it_fail(server: Postgres, tmp_path: Path, statement: str, undo: str, word: str) -> None:
    """What a user may not read is no backup without it, but a fault that names the right."""
    server.run(statement, "shop")
    try:
        with pytest.raises(SourceError, match=word) as caught:
            Backup(server.settings("shop"), tmp_path / "full")
    finally:
        server.run(undo)
    assert (caught.value.code, caught.value.retryable) == ("source-auth", False)
    assert "docs/sources/postgresql.md" in caught.value.hint


def test_password_hashes_are_saved_where_that_is_wanted(server: Postgres, tmp_path: Path) -> None:
    """With ``passwords`` the roles' hashes are saved, by who may read them; by who may not it is refused."""
    full = Backup(server.settings("shop", passwords=True), tmp_path / "full")
    assert "SCRAM-SHA-256" in (full.folder / "globals.sql").read_text(encoding="utf-8")
    server.run("DROP OWNED BY less; DROP ROLE less", check=False)
    secret = PASSWORD.replace("'", "''")
    server.run(f"CREATE ROLE less LOGIN PASSWORD '{secret}'")
    server.run("GRANT SELECT ON ALL TABLES IN SCHEMA public TO less; GRANT SELECT ON t_id_seq TO less", "shop")
    Backup(server.settings("shop", user="less"), tmp_path / "without")
    with pytest.raises(SourceError) as caught:
        Backup(server.settings("shop", user="less", passwords=True), tmp_path / "less")
    server.run("DROP OWNED BY less", "shop")
    assert caught.value.code == "source-auth"


def _fault(server: Postgres, **settings: object) -> BackupdError:
    with pytest.raises(BackupdError) as caught:
        PostgresDriver(server.settings("shop", **settings)).source().preflight()  # type: ignore[arg-type]
    assert caught.value.hint
    assert PASSWORD not in caught.value.message
    return caught.value


def test_what_cannot_be_reached_is_told(server: Postgres) -> None:
    """A server that is down, a wrong password, an unknown user and database: each has its own code and sentence."""
    assert _fault(server, host="127.0.0.1", port=free_port()).code == "source-unreachable"
    wrong = _fault(server, password=Secret("certainly wrong"))
    assert (wrong.code, wrong.retryable) == ("source-auth", False)
    assert "certainly" not in wrong.message
    assert _fault(server, user="nobody at all").code == "source-auth"
    missing = _fault(server, database=("shop", "shpo"))
    assert missing.code == "source-empty"
    assert "'shpo'" in missing.message
    assert _fault(server, maintenance="not there").code in ("source-failed", "tool-failed", "source-unreachable")


def test_an_older_pg_dump_is_refused(server: Postgres, tmp_path: Path) -> None:
    """A pg_dump of an older series cannot dump a newer server: that is told before, with both versions."""
    old = tmp_path / "pg_dump"
    old.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.24'\n", encoding="ascii")
    old.chmod(0o755)
    fault = _fault(server, pg_dump=str(old))
    assert fault.code == "tool-too-old"
    assert "9.6.24" in fault.message
    old.write_text("#!/bin/sh\necho 'something else'\n", encoding="ascii")
    assert "tells no version" in _fault(server, pg_dump=str(old)).message
    assert _fault(server, pg_dump=str(tmp_path / "none")).code == "tool-missing"


def test_a_dump_that_the_server_ends_is_no_backup(server: Postgres, tmp_path: Path) -> None:
    """A pg_dump whose connection is ended in the middle is told as a fault that can pass."""
    server.run("CREATE TABLE bulk AS SELECT repeat(md5(g::text), 2000) FROM generate_series(1, 1000) g", "shop")
    source = PostgresDriver(server.settings("shop")).source()
    source.preflight()
    (tmp_path / "dump").mkdir()
    dump = source.start(tmp_path / "dump")
    try:
        ended = [["0"]]
        while not dump.wait(0) and ended == [["0"]]:
            ended = server.run(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'pg_dump'"
            )
        assert dump.wait(60)
        with pytest.raises(BackupdError) as caught:
            dump.harvest({"databases/shop.dump": 1})
    finally:
        dump.kill()
    assert caught.value.retryable
    assert caught.value.code == "source-unreachable"


def test_it_comes_back_with_what_is_about_the_database(server: Postgres, tmp_path: Path) -> None:
    """Rows, owner, rights on the database, its settings and its comment are as they were; connections are ended."""
    server.run(
        """ALTER DATABASE shop SET search_path = public, "o'dd";
        ALTER ROLE keeper IN DATABASE shop SET work_mem = '5MB';
        REVOKE CONNECT ON DATABASE shop FROM PUBLIC; GRANT CONNECT, TEMP ON DATABASE shop TO backup WITH GRANT OPTION;
        COMMENT ON DATABASE shop IS 'all of the
ALTER DATABASE other RENAME TO stolen;'"""
    )
    about = (
        "SELECT (SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(datacl) a), "
        "pg_get_userbyid(datdba), shobj_description(oid, 'pg_database'), "
        "(SELECT string_agg(setrole::regrole::text || setconfig::text, ' ' ORDER BY setrole) "
        "FROM pg_db_role_setting WHERE setdatabase = d.oid) FROM pg_database d WHERE datname = '{}'"
    )
    before, sums = server.run(about.format("shop")), _sums(server)
    full = Backup(server.settings("shop"), tmp_path / "full")
    server.run("DELETE FROM t; DROP TABLE many; ALTER DATABASE shop RESET search_path", "shop")
    argv = [str(tool("psql")), "-h", str(server.folder), "-U", "postgres", "-d", "shop", "-c", "SELECT pg_sleep(300)"]
    with subprocess.Popen(argv, env={**os.environ, "PGPASSWORD": PASSWORD}, stderr=subprocess.PIPE) as connected:
        while server.run("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'") == [["0"]]:
            pass
        bring_back(server.settings(user="boss"), [full], tmp_path / "work")
        assert connected.wait(30) != 0
    assert (server.run(about.format("shop")), _sums(server)) == (before, sums)
    bring_back(server.settings(user="boss"), [full], tmp_path / "copy", to="shop_copy")
    assert server.run(about.format("shop_copy")) == before
    assert _sums(server, "shop_copy") == sums
    assert _names(server) == ["other", "shop", "shop_copy"]


def test_a_restore_that_fails_keeps_what_was_there(server: Postgres, tmp_path: Path) -> None:
    """Where the archive cannot be restored whole the database of before stays, and nothing is left beside it."""
    full = Backup(server.settings("shop"), tmp_path / "full")
    server.run("INSERT INTO t (v) VALUES ('later'); REASSIGN OWNED BY keeper TO postgres", "shop")
    server.run("DROP ROLE keeper")
    now = _sums(server)
    with pytest.raises(ToolError, match='role "keeper" does not exist') as caught:
        bring_back(server.settings(user="boss"), [full], tmp_path / "work")
    assert caught.value.code in ("restore-failed", "source-auth")
    assert _sums(server) == now
    assert _names(server) == ["other", "shop"]


def test_what_a_restore_would_do_is_refused_or_told(server: Postgres, tmp_path: Path) -> None:
    """Nothing is replaced without a word; single tables and impossible names are refused with the way to do it."""
    full = Backup(server.settings("shop"), tmp_path / "full")
    target = PostgresDriver(server.settings("shop", user="boss")).target()
    for wanted, word in (
        (Wanted(), "would replace it"),
        (Wanted(only=("shop.public.t",), overwrite=True), "only whole databases"),
        (Wanted(to="template1", overwrite=True), "is the server's own"),
    ):
        with pytest.raises(RefusedError, match=word) as caught:
            target.look(full.manifest, wanted)
        assert caught.value.hint
    server.run("CREATE TABLE later (id int)", "shop")
    goal = target.look(full.manifest, Wanted(overwrite=True))
    assert goal.drops == ("shop.public.later",)


def test_it_comes_back_by_hand(server: Postgres, tmp_path: Path) -> None:
    """The commands that a backup carries with it, typed into a shell, bring back databases, owners and roles."""
    sums = _sums(server)
    full = Backup(server.settings(), tmp_path / "full")
    server.run("DROP DATABASE other")
    server.run("REASSIGN OWNED BY keeper TO postgres; DELETE FROM t", "shop")
    server.run("DROP ROLE keeper")
    secret = tmp_path / "pgpass"
    secret.touch(mode=0o600)
    escaped = PASSWORD.replace("\\", "\\\\").replace(":", "\\:")
    secret.write_text(f"*:*:*:*:{escaped}\n", encoding="utf-8")
    path = os.pathsep.join([str(tool("psql").parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PGHOST": str(server.folder), "PGUSER": "postgres"}
    lines = "\n".join(line.replace("{folder}", str(full.folder)) for line in full.manifest.source.by_hand)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", lines],
        env={**environment, "PGPASSFILE": str(secret)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert _sums(server) == sums
    assert server.run("SELECT count(*) FROM u", "other") == [["1"]]
    owners = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'shop'"
    assert server.run(owners) == [["keeper"]]


def test_tls_is_what_the_job_says(tmp_path: Path) -> None:
    """A certificate of the trusted authority is taken, one of another is not, and required is encrypted."""
    trusted, foreign = make_certificate(tmp_path / "ours"), make_certificate(tmp_path / "foreign")
    with start_postgres(trusted) as server:
        server.make_user()
        server.run("GRANT pg_read_all_data TO backup; CREATE TABLE t (id int)")
        rules = server.folder / "data/pg_hba.conf"
        rules.write_text("local all all scram-sha-256\nhostssl all all 127.0.0.1/32 scram-sha-256\n", encoding="ascii")
        server.run("SELECT pg_reload_conf()")
        reach = {"host": "127.0.0.1", "tls": "verify-full", "tls_ca": str(trusted.authority)}
        full = Backup(server.settings("postgres", **reach), tmp_path / "full")
        assert [part.name for part in full.manifest.source.parts] == ["postgres.public.t"]
        Backup(server.settings("postgres", host="127.0.0.1", tls="require"), tmp_path / "required")
        for given, word in (
            ({**reach, "tls_ca": str(foreign.authority)}, "certificate verify failed"),
            ({"host": "127.0.0.1", "tls": "disable"}, "no encryption"),
        ):
            with pytest.raises(SourceError, match=word) as caught:
                Backup(server.settings("postgres", **given), tmp_path / word)
            assert caught.value.hint
