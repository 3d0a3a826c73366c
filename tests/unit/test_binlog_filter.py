"""Which statements of a binary log belong to a database: by what they change, not by what they mention."""

from __future__ import annotations

import pytest

from nanumpay_backupd.sources.binlog import in_order
from nanumpay_backupd.sources.binlog_filter import _changed


@pytest.mark.parametrize(
    "statement,database",
    [
        ("INSERT INTO shop.t VALUES ('other.x')", "shop"),
        ("insert into `sh``op` . `t` values (1)", "sh`op"),
        ("/* c.d */ CREATE TABLE IF NOT EXISTS shop.t (a int)", "shop"),
        ("CREATE OR REPLACE DEFINER=`root`@`10.0.0.1` VIEW shop.v AS SELECT 1", "shop"),
        ("CREATE DEFINER=`root`@`10.0.0.1` VIEW v AS SELECT * FROM shop.t", ""),
        ("CREATE TRIGGER t BEFORE INSERT ON shop.t FOR EACH ROW SET @a = other.x", "shop"),
        ("CREATE INDEX i ON shop.t (a)", "shop"),
        ("UPDATE t SET a = 'shop.x'", ""),
        ("UPDATE t JOIN shop.x SET t.a = 1", ""),
        ("DELETE FROM t WHERE a IN (SELECT a FROM shop.t)", ""),
        ("INSERT INTO t SELECT * FROM shop.t", ""),
        ("CREATE TABLE t LIKE shop.t", ""),
        ("DROP TABLE `a`,`shop`.`b`", "shop"),
        ("TRUNCATE shop.t", "shop"),
        ("", ""),
    ],
)
def test_what_a_statement_changes(statement: str, database: str) -> None:
    """The first thing that is named with a database, before whatever is only read, tells where a statement belongs."""
    assert _changed(statement.encode()).decode() == database


def test_log_files_are_ordered_by_their_number() -> None:
    """After bin.999999 comes bin.1000000."""
    assert in_order(["b.1000000", "b.999999", "b.000002"]) == ["b.000002", "b.999999", "b.1000000"]
