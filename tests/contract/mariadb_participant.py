"""MariaDB for the contract suite: one database with a little of everything that it can hold."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from nanumpay_backupd.settings.sources import Source
from nanumpay_backupd.sources.base import Wanted
from tests.contract.participants import Participant
from tests.servers.mariadb import PASSWORD, Mariadb, start_mariadb
from tests.servers.tools import find_tool

__all__ = ["CONTENT", "MariadbParticipant", "mariadb"]

CONTENT = r"""
SET NAMES utf8mb4;
DROP DATABASE IF EXISTS `con tract-é`;
CREATE DATABASE `con tract-é` CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;
USE `con tract-é`;
CREATE TABLE users (id INT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(200), photo BLOB, born DATE, seen TIMESTAMP NULL,
  money DECIMAL(20,4), ratio DOUBLE, kind ENUM('a','b'), tags SET('x','y'), flags BIT(9), j JSON,
  age INT AS (money + 1) VIRTUAL, hidden INT INVISIBLE DEFAULT 3, UNIQUE (name), KEY (born)) COMMENT='it''s\n; odd';
INSERT INTO users (name, photo, born, seen, money, ratio, kind, tags, flags, j)
  SELECT CONCAT('사용자 ', seq, ' ''"\\\n\r\t;(),', CHAR(26), REPEAT('글', 30)),
  UNHEX(CONCAT('00FF0A0D1A27', LPAD(HEX(seq), 8, 0))),
  '2024-02-29', IF(seq % 3, '2026-01-01 00:00:00', NULL), seq / 7, seq / 3, 'b', 'x,y', b'101', '{"a": "(1),\\n(2)"}'
  FROM seq_1_to_3000;
CREATE TABLE `odd ``table` (`a b` INT, `INSERT INTO ``x``` TEXT, FOREIGN KEY (`a b`) REFERENCES users (id));
INSERT INTO `odd ``table` VALUES (1, 'x'), (NULL, NULL), (2, ');\n'), (3, '),\n('), (4, '\\');
CREATE TABLE empty_one (id INT);
CREATE TABLE one_row (t LONGTEXT); INSERT INTO one_row VALUES ("it's (one");
CREATE TABLE place (p POINT NOT NULL, SPATIAL INDEX (p)); INSERT INTO place VALUES (POINT(1, 2)), (POINT(-3.5, 4));
CREATE TABLE parts (id INT, at DATE) PARTITION BY RANGE (YEAR(at))
  (PARTITION old VALUES LESS THAN (2020), PARTITION rest VALUES LESS THAN MAXVALUE);
INSERT INTO parts VALUES (1, '2010-01-01'), (2, '2026-01-01');
CREATE SEQUENCE numbers START WITH 5; SELECT NEXT VALUE FOR numbers INTO @used;
CREATE VIEW a_view AS SELECT id, name FROM users WHERE id > 5;
CREATE VIEW b_view AS SELECT id FROM a_view;
DELIMITER //
CREATE TRIGGER upper BEFORE INSERT ON one_row FOR EACH ROW BEGIN SET NEW.t = UPPER(NEW.t); END//
CREATE PROCEDURE count_them(OUT n INT) BEGIN
  SELECT COUNT(*) INTO n FROM users; -- ;
  SELECT '
INSERT INTO `users` VALUES (1);
-- Current Database: `mysql`
';
END//
CREATE FUNCTION twice(n INT) RETURNS INT DETERMINISTIC RETURN n * 2//
CREATE EVENT tidy ON SCHEDULE EVERY 1 DAY STARTS '2030-01-01 00:00:00' DO DELETE FROM empty_one//
DELIMITER ;
"""
_DATABASE = "con tract-é"


class MariadbParticipant(Participant):
    """A database of odd names and odd content. Its user may restore too; with fewer rights: test_mariadb_source."""

    secret = PASSWORD

    def __init__(self, server: Mariadb) -> None:
        self.server = server
        server.run("GRANT ALL ON *.* TO backup@'%'")

    @property
    def settings(self) -> Source:
        """See `Participant.settings`."""
        return self.server.settings(_DATABASE)

    @property
    def broken(self) -> Source:
        """See `Participant.broken`."""
        return self.server.settings(_DATABASE, socket=str(self.server.folder / "no-socket"))

    def fill(self) -> None:
        """See `Participant.fill`."""
        self.server.run(CONTENT)

    def count(self) -> int:
        """See `Participant.count`."""
        names = [
            row[0] for row in self.server.run(f"SHOW FULL TABLES IN `{_DATABASE}` WHERE table_type = 'BASE TABLE'")
        ]
        counts = [f"SELECT COUNT(*) FROM `{_DATABASE}`.`{name.replace('`', '``')}`;" for name in names]
        return sum(int(row[0]) for row in self.server.run("".join(counts)))

    def grow(self, megabytes: int) -> None:
        """See `Participant.grow`."""
        self.server.run(
            f"USE `{_DATABASE}`; CREATE TABLE bulk (at INT, t LONGTEXT) "
            f"SELECT seq AS at, CONCAT(seq, REPEAT(MD5(seq), 2047)) AS t FROM seq_1_to_{megabytes * 16};"
        )

    def content(self) -> object:
        """See `Participant.content`."""
        return self.dumped(_DATABASE)

    def dumped(self, database: str) -> object:
        """Return all of a database as statements, without what differs at each dump."""
        argv = [str(find_tool("mariadb-dump")), "--no-defaults", f"--socket={self.server.socket}", "--user=root"]
        argv += ["--routines", "--events", "--skip-comments", "--skip-dump-date", "--order-by-primary", database]
        done = subprocess.run(argv, capture_output=True, check=False)
        if done.returncode != 0:
            return done.stderr
        made = self.server.run(f"SHOW CREATE DATABASE `{database}`")
        return made[0][1].replace(database, "X"), re.sub(rb"AUTO_INCREMENT=\d+ ", b"", done.stdout)

    def spoil(self) -> None:
        """See `Participant.spoil`."""
        self.server.run(
            f"USE `{_DATABASE}`; SET foreign_key_checks=0; DELETE FROM users WHERE id % 2; DROP TABLE one_row; "
            "CREATE TABLE more (id INT); DROP VIEW b_view; DROP PROCEDURE count_them;"
        )

    def elsewhere(self, folder: Path) -> tuple[Wanted, Callable[[], object]]:
        """See `Participant.elsewhere`."""
        self.server.run("DROP DATABASE IF EXISTS `else where`")
        return Wanted(to="else where"), lambda: self.dumped("else where")


@contextlib.contextmanager
def mariadb(_folder: Path) -> Iterator[Participant]:
    """Start a server with the participant."""
    with start_mariadb() as server:
        yield MariadbParticipant(server)
