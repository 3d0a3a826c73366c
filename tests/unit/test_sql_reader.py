"""The reader of SQL dumps: however it is cut into pieces, it counts the rows and finds what is missing."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.errors import VerifyError
from nanumpay_backupd.sources.mariadb import missing_rights
from nanumpay_backupd.sources.sql_reader import SqlReader

_HEAD: Final = (
    b"/*M!999999\\- enable the sandbox mode */ \n-- MariaDB dump\n\n/*!40101 SET NAMES utf8mb4 */;\n"
    b"-- CHANGE MASTER TO MASTER_LOG_FILE='bin.000007', MASTER_LOG_POS=342;\n\n"
    b"--\n-- Current Database: `a``b`\n--\n\nUSE `a``b`;\n\n"
)
_TABLE: Final = (
    b"--\n-- Table structure for table `%b`\n--\n\nDROP TABLE IF EXISTS `%b`;\nCREATE TABLE `%b` (\n  `id` int\n);\n"
)
_PROGRAM: Final = (
    b"DELIMITER ;;\nCREATE PROCEDURE `p`()\nbegin\nselect ';\nINSERT INTO `x` VALUES (1);\n';\nend ;;\nDELIMITER ;\n"
)
_TAIL: Final = b"/*!40103 SET TIME_ZONE=@OLD_TIME_ZONE */;\n\n-- Dump completed on 2026-01-01\n"

_values = st.lists(st.text(alphabet="ab'\\\n();,-` \"é", max_size=8), min_size=1, max_size=4)
_tables = st.lists(st.lists(_values, max_size=6), min_size=1, max_size=4)


def _literal(text: str) -> bytes:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace('"', '\\"').replace("\n", "\\n")
    return b"'" + escaped.encode() + b"'"


def _written(tables: list[list[list[str]]], *, lines: bool) -> bytes:
    """Write a dump as MariaDB does (a line for each row) or as MySQL does (a line for each INSERT)."""
    found = [_HEAD]
    for number, rows in enumerate(tables):
        name = b"t`%d" % number
        found.append(_TABLE.replace(b"%b", name.replace(b"`", b"``")))
        tuples = [b"(" + b",".join([b"1", b"NULL", b"0xFF", *map(_literal, row)]) + b")" for row in rows]
        if tuples:
            begins = b"INSERT INTO `t``%d` VALUES%b" % (number, b"\n" if lines else b" ")
            found.append(begins + (b",\n" if lines else b",").join(tuples) + b";\n")
    return b"".join([*found, _PROGRAM, _TAIL])


def _read(data: bytes, size: int, *, hashing: bool = True) -> SqlReader:
    reader = SqlReader(hashing=hashing)
    spans = [span for at in range(0, len(data), size) for _, span in reader.feed(data[at : at + size])]
    reader.finish()
    assert b"".join(spans) == data, "there is no gap"
    return reader


@given(tables=_tables, lines=st.booleans(), size=st.integers(1, 400))
def test_rows_are_counted_in_any_pieces(tables: list[list[list[str]]], lines: bool, size: int) -> None:
    """Whatever stands in the values and wherever the pieces end, each table has the rows that were written."""
    data = _written(tables, lines=lines)
    reader = _read(data, size)
    assert reader.tables == {("a`b", f"t`{number}"): len(rows) for number, rows in enumerate(tables)}
    assert reader.rows == sum(map(len, tables))
    assert reader.programs["a`b"] == 1
    assert reader.facts["position"] == "bin.000007:342"
    assert reader.digest == _read(data, len(data)).digest
    assert _read(data, size, hashing=False).tables == reader.tables


@given(tables=_tables, lines=st.booleans(), share=st.floats(0, 1))
def test_a_dump_that_was_cut_off_is_found(tables: list[list[list[str]]], lines: bool, share: float) -> None:
    """Without its last bytes a dump is refused, wherever it ends."""
    data = _written(tables, lines=lines)
    with pytest.raises(VerifyError):
        _read(data[: int(share * (len(data) - 1))], 64)


@pytest.mark.parametrize(
    "what,instead",
    [
        (b"(1,", b"1,"),
        (b"),\n(", b"),\n"),
        (b"INSERT INTO `t``0`", b"INSERT INTO `t``9`"),
        (b"DROP TABLE", b"FROP TABLE"),
        (b"DELIMITER ;\n", b""),
        (b"-- Dump completed", b"-- Dump compLeted"),
    ],
)
def test_what_no_tool_writes_is_refused(what: bytes, instead: bytes) -> None:
    """A statement, a row or an end that is spoilt is a fault, or changes the count."""
    data = _written([[["a"], ["b"], ["c"]]], lines=True)
    assert what in data
    try:
        reader = _read(data.replace(what, instead, 1), 50)
    except VerifyError:
        return
    assert reader.rows != 3


@pytest.mark.parametrize(
    "grants,missing",
    [
        (["GRANT ALL PRIVILEGES ON *.* TO `a`@`%`"], ()),
        (["GRANT USAGE ON *.* TO `a`@`%`", "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON `my\\_shop`.* TO `a`@`%`"], ()),
        (["GRANT SELECT, EVENT ON *.* TO `a`@`%` IDENTIFIED BY PASSWORD 'x'"], ("SHOW VIEW", "TRIGGER")),
        (["GRANT ALL PRIVILEGES ON `other`.* TO `a`@`%`"], ("SELECT", "SHOW VIEW", "TRIGGER", "EVENT")),
        ([], ("SELECT", "SHOW VIEW", "TRIGGER", "EVENT")),
    ],
)
def test_missing_rights_are_named(grants: list[str], missing: tuple[str, ...]) -> None:
    """What a user may not see of a database is told from what the server says of its rights."""
    assert missing_rights(grants, "my_shop") == missing
