"""MariaDB beyond the contract: rights, several databases, the binary log, restores to a moment and by hand."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from nanumpay_backupd.errors import BackupdError, RefusedError, SourceError, VerifyError
from nanumpay_backupd.settings.sources import MariadbSource
from nanumpay_backupd.sources.base import Unchanged
from nanumpay_backupd.sources.mariadb import MariadbDriver
from tests.dumped import Backup, bring_back
from tests.servers.certs import make_certificate
from tests.servers.mariadb import Mariadb, start_mariadb
from tests.servers.mongod import free_port
from tests.servers.tools import tools_path

pytestmark = pytest.mark.servers

_ENOUGH: Final = 60.0
_FILL: Final = """
CREATE DATABASE shop; CREATE DATABASE other; CREATE DATABASE aside;
CREATE TABLE shop.t (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(50)); CREATE TABLE other.u (id INT);
INSERT INTO shop.t (v) VALUES ('one'), ('two'); INSERT INTO other.u VALUES (1);
CREATE VIEW other.of_shop AS SELECT v FROM shop.t; CREATE VIEW aside.of_other AS SELECT * FROM other.of_shop;
CREATE TABLE aside.kept (id INT);
"""


@pytest.fixture(scope="module")
def running() -> Iterator[Mariadb]:
    """Run one server for all tests here."""
    with start_mariadb() as server:
        yield server


@pytest.fixture
def server(running: Mariadb) -> Mariadb:
    """Give the server with three small databases that look at each other."""
    names = [row[0] for row in running.run("SHOW DATABASES")]
    own = {"mysql", "sys", "information_schema", "performance_schema"}
    running.run("".join(f"DROP DATABASE `{name}`;" for name in names if name not in own) + _FILL)
    return running


def _values(server: Mariadb, query: str = "SELECT v FROM shop.t ORDER BY id") -> list[str]:
    return [row[0] for row in server.run(query)]


def test_the_documented_rights_are_enough(server: Mariadb, tmp_path: Path) -> None:
    """A user with the rights of the documentation, and no other, makes fulls and increments without a warning."""
    settings = server.settings()
    full = Backup(settings, tmp_path / "full")
    assert full.warnings == ()
    assert full.manifest.source.databases == ("aside", "other", "shop")
    assert full.manifest.consistency.level == "point-in-time"
    assert full.manifest.consistency.position
    server.run("INSERT INTO shop.t (v) VALUES ('three')")
    increment = Backup(settings, tmp_path / "increment", full)
    assert [part.items for part in increment.manifest.source.parts] == [1]


def test_what_a_user_may_not_see_is_told(server: Mariadb, tmp_path: Path) -> None:
    """Without TRIGGER the tool leaves triggers out in silence: a warning says so. Some columns only are a fault."""
    server.run("CREATE OR REPLACE USER less; GRANT SELECT, SHOW VIEW, EVENT ON shop.* TO less")
    less = server.settings("shop", user="less", password="")
    assert any("TRIGGER" in line for line in Backup(less, tmp_path / "less").warnings)
    server.run("REVOKE SELECT ON shop.* FROM less; GRANT SELECT (v) ON shop.t TO less")
    with pytest.raises(BackupdError) as caught:
        Backup(less, tmp_path / "none")
    assert caught.value.code == "source-auth"


def test_a_wrong_password_is_told(server: Mariadb) -> None:
    """The server's own refusal is told, with a hint and without the password."""
    wrong = server.settings("shop", password="certainly wrong")
    with pytest.raises(SourceError) as caught:
        MariadbDriver(wrong).source().preflight()
    assert caught.value.code == "source-auth"
    assert "certainly" not in caught.value.message


def _fault(settings: MariadbSource) -> BackupdError:
    with pytest.raises(BackupdError) as caught:
        MariadbDriver(settings).source().preflight()
    assert caught.value.hint
    return caught.value


def test_what_cannot_be_reached_is_told(server: Mariadb, tmp_path: Path) -> None:
    """A server that is down, by port and by socket, a database and a tool that are not there: each has its code."""
    down = _fault(server.settings("shop", socket="", host="127.0.0.1", port=free_port()))
    assert (down.code, down.retryable) == ("source-unreachable", True)
    assert _fault(server.settings("shop", socket=str(tmp_path / "none"))).code == "source-unreachable"
    missing = _fault(server.settings("shop", "shpo"))
    assert missing.code == "source-empty"
    assert "'shpo'" in missing.message
    absent = _fault(server.settings("shop", mariadb_dump=str(tmp_path / "none")))
    assert absent.code == "tool-missing"
    assert "mariadb-client" in absent.hint
    (tmp_path / "odd").write_text("#!/bin/sh\necho something else\n", encoding="ascii")
    (tmp_path / "odd").chmod(0o755)
    assert "tells no version" in _fault(server.settings("shop", mariadb_dump=str(tmp_path / "odd"))).message


def test_a_binary_log_that_is_required_has_to_be_there(server: Mariadb, tmp_path: Path) -> None:
    """With ``binlog = "required"`` a server without a log, or a user who may not see it, is a fault before the dump."""
    server.run("CREATE OR REPLACE USER less; GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON *.* TO less")
    less = _fault(server.settings("shop", user="less", password="", binlog="required"))
    assert (less.code, less.retryable) == ("source-auth", False)
    full = Backup(server.settings("shop", user="less", password=""), tmp_path / "full")
    assert full.manifest.consistency.position == "", "without that right it is a full that nothing follows on from"
    with pytest.raises(SourceError, match="notes no position") as caught:
        Backup(server.settings("shop"), tmp_path / "increment", full)
    assert caught.value.code == "chain-broken"
    with start_mariadb(extra=["--skip-log-bin"]) as silent:
        silent.run("CREATE DATABASE shop; CREATE TABLE shop.t (id INT)")
        off = _fault(silent.settings("shop", binlog="required"))
        assert "log_bin" in off.hint
        assert Backup(silent.settings("shop"), tmp_path / "off").manifest.consistency.position == ""


def test_an_older_server_for_drills_is_refused(server: Mariadb, tmp_path: Path) -> None:
    """A mariadbd of an older series than the backup's server, or MySQL's, cannot be drilled into: both are named."""
    full = Backup(server.settings("shop"), tmp_path / "full")
    for said in ("mariadbd  Ver 10.3.1-MariaDB for Linux", "mysqld  Ver 8.0.36 for Linux"):
        old = tmp_path / "mariadbd"
        old.write_text(f"#!/bin/sh\necho '{said}'\n", encoding="ascii")
        old.chmod(0o755)
        with pytest.raises(BackupdError) as caught:
            MariadbDriver(server.settings("shop", mariadbd=str(old))).scratch(tmp_path / "drill", full.manifest)
        assert caught.value.code == "tool-too-old"
        assert full.manifest.source.server_version in caught.value.message


def test_a_dump_that_the_server_ends_is_no_backup(server: Mariadb, tmp_path: Path) -> None:
    """A dump whose connection is killed in the middle is a fault that can pass, and nothing is believed of it."""
    server.run("USE shop; CREATE TABLE bulk SELECT seq, REPEAT(MD5(seq), 500) AS t FROM seq_1_to_4000")
    source = MariadbDriver(server.settings("shop")).source()
    source.preflight()
    (tmp_path / "dump").mkdir()
    dump = source.start(tmp_path / "dump")
    query = "SELECT id FROM information_schema.processlist WHERE user = 'backup' AND info LIKE '%bulk%'"
    try:
        dump.pause()
        while not (found := server.run(query)):
            dump.resume()
            dump.pause()
        server.run(f"KILL {found[0][0]}")
        dump.resume()
        assert dump.wait(_ENOUGH)
        with pytest.raises(BackupdError) as caught:
            dump.harvest({"databases/shop.sql": 1})
    finally:
        dump.kill()
    assert caught.value.retryable
    assert caught.value.code in ("source-unreachable", "tool-failed")


def test_tls_is_what_the_job_says(tmp_path: Path) -> None:
    """A certificate of the trusted authority is taken, one of another is not, and required is encrypted or fails."""
    trusted, foreign = make_certificate(tmp_path / "ours"), make_certificate(tmp_path / "foreign")
    extra = [f"--ssl-cert={trusted.certificate}", f"--ssl-key={trusted.key}"]
    with start_mariadb(extra=extra) as server:
        server.run("CREATE DATABASE shop; CREATE TABLE shop.t (id INT); ALTER USER backup@'%' REQUIRE SSL")
        reach: dict[str, Any] = {"socket": "", "host": "127.0.0.1", "port": server.port}
        verified = {**reach, "tls": "verify", "tls_ca": str(trusted.authority)}
        full = Backup(server.settings("shop", **verified), tmp_path / "full")
        server.run("INSERT INTO shop.t VALUES (1)")
        Backup(server.settings("shop", **verified), tmp_path / "increment", full)
        Backup(server.settings("shop", **reach, tls="required"), tmp_path / "required")
        wrong = _fault(server.settings("shop", **{**verified, "tls_ca": str(foreign.authority)}))
        assert wrong.code == "source-unreachable"
        assert "certificate" in wrong.message.lower()
    with start_mariadb(extra=["--skip-ssl"]) as plain:
        plain.run("CREATE DATABASE shop; CREATE TABLE shop.t (id INT)")
        reach = {"socket": "", "host": "127.0.0.1", "port": plain.port, "tls": "required"}
        assert "does not encrypt" in _fault(plain.settings("shop", **reach)).message
        assert "SSL is required" in _fault(plain.settings("shop", **{**reach, "tls": "verify"})).message


def test_option_files_of_the_host_change_nothing(
    server: Mariadb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a ~/.my.cnf says to every dump does not thin out a backup."""
    (tmp_path / ".my.cnf").write_text("[mysqldump]\nwhere=1=0\n[client]\nuser=nobody\n", encoding="ascii")
    monkeypatch.setenv("HOME", str(tmp_path))
    full = Backup(server.settings("shop"), tmp_path / "full")
    assert [part.items for part in full.manifest.source.parts] == [2]


def test_tables_that_stand_still_for_nobody_are_told(server: Mariadb, tmp_path: Path) -> None:
    """A table that is not transactional is named, and the backup is not said to be of one moment."""
    server.run("CREATE TABLE shop.old (id INT) ENGINE=MyISAM")
    full = Backup(server.settings("shop"), tmp_path / "full")
    assert "shop.old" in full.warnings[0]
    assert full.manifest.consistency.level == "none"
    assert "shop.old" in full.manifest.consistency.reason


def test_databases_that_look_at_each_other_come_back(server: Mariadb, tmp_path: Path) -> None:
    """Views over other databases are restored after all tables, whatever the order of the databases is."""
    full = Backup(server.settings(), tmp_path / "full")
    server.run("DROP DATABASE shop; DROP DATABASE other; DROP DATABASE aside")
    bring_back(server.root(), [full], tmp_path / "work")
    assert _values(server, "SELECT v FROM aside.of_other ORDER BY v") == ["one", "two"]


def test_only_tables_that_are_wanted_are_replaced(server: Mariadb, tmp_path: Path) -> None:
    """One table comes back; what else is in its database stays as it is."""
    full = Backup(server.settings("shop"), tmp_path / "full")
    server.run("DELETE FROM shop.t; CREATE TABLE shop.later (id INT)")
    bring_back(server.root("shop"), [full], tmp_path / "work", only=("shop.t",))
    assert _values(server) == ["one", "two"]
    assert _values(server, "SHOW TABLES IN shop") == ["later", "t"]


def test_it_comes_back_to_any_moment(server: Mariadb, tmp_path: Path) -> None:
    """A full and two increments lead to any second: what was written in it is there, what came after is not."""
    settings = server.settings("shop", "other")
    full = Backup(settings, tmp_path / "full")
    server.run("USE shop; INSERT INTO t (v) VALUES ('three'); UPDATE t SET v = 'ONE' WHERE id = 1;")
    first = Backup(settings, tmp_path / "first", full)
    server.run("FLUSH BINARY LOGS; USE aside; INSERT INTO shop.t (v) VALUES ('from aside')")
    server.run("CREATE TABLE shop.made (id INT); CREATE USER IF NOT EXISTS new_one; GRANT SELECT ON shop.* TO new_one")
    moment = int(_values(server, "SELECT UNIX_TIMESTAMP()")[0])
    time.sleep(2.1)
    server.run("DELETE FROM shop.t; DROP TABLE other.u; INSERT INTO aside.kept VALUES (7)")
    second = Backup(settings, tmp_path / "second", first)
    bring_back(server.root(), [full, first, second], tmp_path / "work", until=f"{moment}:0")
    assert _values(server) == ["ONE", "two", "three", "from aside"]
    assert _values(server, "SHOW TABLES IN shop") == ["made", "t"]
    assert _values(server, "SELECT COUNT(*) FROM other.u") == ["1"]
    assert _values(server, "SELECT id FROM aside.kept") == ["7"], "of other databases nothing is replayed"
    bring_back(server.root(), [full, first, second], tmp_path / "again", until=f"{moment + 60}:0")
    assert _values(server) == []


def test_changes_that_a_later_full_has_are_not_replayed_again(server: Mariadb, tmp_path: Path) -> None:
    """An increment that began before the full on which it is brought back adds only what came after that."""
    settings = server.settings("shop")
    full = Backup(settings, tmp_path / "full")
    server.run("INSERT INTO shop.t (v) VALUES ('three')")
    later = Backup(settings, tmp_path / "later")
    server.run("INSERT INTO shop.t (v) VALUES ('four')")
    increment = Backup(settings, tmp_path / "increment", full)
    bring_back(server.root(), [later, increment], tmp_path / "work")
    assert _values(server) == ["one", "two", "three", "four"]
    server.run("INSERT INTO shop.t (v) VALUES ('five')")
    far = Backup(settings, tmp_path / "far", increment)
    with pytest.raises(BackupdError, match="what was brought back ends at"):
        bring_back(server.root(), [full, far], tmp_path / "gap")


def test_nothing_new_is_no_increment(server: Mariadb, tmp_path: Path) -> None:
    """Where nothing was written there is nothing to be kept."""
    settings = server.settings("shop")
    full = Backup(settings, tmp_path / "full")
    with pytest.raises(Unchanged):
        Backup(settings, tmp_path / "increment", full)


@pytest.mark.parametrize("what", ["", "RESET MASTER", "RESET MASTER; {much}"], ids=["purged", "anew", "grown"])
def test_a_log_that_is_gone_breaks_the_chain(server: Mariadb, tmp_path: Path, what: str) -> None:
    """Purged or begun anew, also grown beyond the old position since, only a full can follow: that is told."""
    settings = server.settings("shop")
    full = Backup(settings, tmp_path / "full")
    server.run("INSERT INTO shop.t (v) VALUES ('three')")
    if what:
        server.run(what.format(much="INSERT INTO shop.t (v) VALUES ('many');" * 200))
    else:
        server.purge()
    with pytest.raises(SourceError) as caught:
        Backup(settings, tmp_path / "increment", full)
    assert caught.value.code == "chain-broken"
    assert not caught.value.retryable


def test_increments_keep_their_names(server: Mariadb, tmp_path: Path) -> None:
    """To another name only a full goes: statements of the log name the database, so that would hit the real one."""
    full = Backup(server.settings("shop"), tmp_path / "full")
    with pytest.raises(RefusedError) as caught:
        bring_back(server.root(), [full], tmp_path / "work", to="copy", until="1:0")
    assert caught.value.code == "target-refused"


def test_a_spoilt_log_is_found(server: Mariadb, tmp_path: Path) -> None:
    """A flipped byte anywhere in an increment, or its missing end within an event, is refused by the reader."""
    settings = server.settings("shop")
    full = Backup(settings, tmp_path / "full")
    server.run("INSERT INTO shop.t (v) VALUES ('three')")
    increment = Backup(settings, tmp_path / "increment", full)
    (path,) = (increment.folder / "binlog").iterdir()
    data, source = path.read_bytes(), MariadbDriver(settings).source()
    for at in range(0, len(data), 5):
        check = source.check(f"binlog/{path.name}")
        assert check is not None
        with pytest.raises(VerifyError):
            _through(check, data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :])
    check = source.check(f"binlog/{path.name}")
    with pytest.raises(VerifyError):
        _through(check, data[:-3])


def _through(check: object, data: bytes) -> None:
    assert callable(check)
    check(data)
    check(b"")


def test_accounts_come_back(server: Mariadb, tmp_path: Path) -> None:
    """The file of accounts, run by the stock client, makes users, roles and rights as they were."""
    server.run("CREATE ROLE IF NOT EXISTS clerks; CREATE USER IF NOT EXISTS kim@'10.%' IDENTIFIED BY 'x''y';")
    server.run("GRANT SELECT ON shop.* TO clerks; GRANT clerks TO kim@'10.%'; GRANT INSERT ON shop.t TO kim@'10.%'")
    before = server.run("SHOW CREATE USER kim@'10.%'; SHOW GRANTS FOR kim@'10.%'; SHOW GRANTS FOR clerks")
    full = Backup(server.settings("shop", accounts=True), tmp_path / "full")
    server.run("DROP USER kim@'10.%'; DROP ROLE clerks")
    server.run((full.folder / "accounts.sql").read_text(encoding="utf-8"))
    assert server.run("SHOW CREATE USER kim@'10.%'; SHOW GRANTS FOR kim@'10.%'; SHOW GRANTS FOR clerks") == before
    server.run("DROP USER kim@'10.%'; DROP ROLE clerks")


def test_it_comes_back_by_hand(server: Mariadb, tmp_path: Path) -> None:
    """The commands that a backup carries with it, typed into a shell, bring back full and increment."""
    settings = server.settings("shop")
    full = Backup(settings, tmp_path / "full")
    server.run("INSERT INTO shop.t (v) VALUES ('three')")
    increment = Backup(settings, tmp_path / "increment", full)
    server.run("DROP DATABASE shop")
    (tmp_path / ".my.cnf").write_text(f"[client]\nsocket={server.socket}\nuser=root\n", encoding="ascii")
    environment = {**os.environ, "PATH": tools_path(), "HOME": str(tmp_path)}
    for backup in (full, increment):
        lines = "\n".join(line.replace("{folder}", str(backup.folder)) for line in backup.manifest.source.by_hand)
        subprocess.run(["bash", "-euo", "pipefail", "-c", lines], check=True, env=environment, capture_output=True)
    assert _values(server) == ["one", "two", "three"]
