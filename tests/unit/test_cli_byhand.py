"""The commands that restore by hand, and which slices they need."""

from __future__ import annotations

from typing import Any

import pytest

from nanumpay_backupd.cli.byhand import (
    chain_to,
    elsewhere_commands,
    full_commands,
    import_commands,
    oplog_limit,
    replay_commands,
)
from tests.servers.canned_backupd import BACKUP, backup, backups, oplog_time, slice_backup, slices

Reply = dict[str, Any]
OLD = "nanumpay-backup-2026-11-19T17-00-00"
HOURS = [slice_backup(hour) for hour in range(27)]
"""A slice for each hour since OLD, the newest first."""
DIFFERENTIAL = slice_backup(0, id="d", kind="differential", start=oplog_time(7, hours=3))


def names(found: list[Reply]) -> list[str]:
    """Return the ids of backups."""
    return [one["id"] for one in found]


@pytest.mark.parametrize(
    "wanted,full,others,expected,whole",
    [
        (HOURS[0], BACKUP, [*slices(), *backups()], names(slices()[::-1]), True),
        (HOURS[1], BACKUP, [*slices(), *backups()], names(slices()[:0:-1]), True),
        # What ended before the full, or comes after the wanted one, is left out.
        (HOURS[1], BACKUP, [*HOURS, *backups()], names(HOURS[2:0:-1]), True),
        (HOURS[0], OLD, [*HOURS, *backups()], names(HOURS[::-1]), True),
        # A slice that began before the full's moment and ends after it is needed.
        (
            HOURS[0],
            BACKUP,
            [HOURS[0], slice_backup(1, start=oplog_time(7, hours=9)), *backups()],
            names(HOURS[1::-1]),
            True,
        ),
        # Something is missing, or corrupt.
        (HOURS[0], BACKUP, [HOURS[0], HOURS[2], *backups()], names([HOURS[2]]), False),
        (HOURS[0], BACKUP, [HOURS[0], HOURS[1] | {"state": "corrupt"}, HOURS[2], *backups()], names([HOURS[2]]), False),
        (HOURS[0], "gone", [*HOURS, *backups()], names([HOURS[0]]), False),
        (HOURS[0], BACKUP, [*HOURS, backup(end="")], names([HOURS[0]]), False),
        # A differential needs only its full.
        (DIFFERENTIAL, BACKUP, [*slices(), *backups()], ["d"], True),
        (DIFFERENTIAL, OLD, [*slices(), *backups()], ["d"], False),
    ],
)
def test_the_chain_to_a_slice(wanted: Reply, full: str, others: list[Reply], expected: list[str], whole: bool) -> None:
    """A chain is what leads from the full to the slice's end without a hole, oldest first, or it is not whole."""
    chain = chain_to(wanted, full, others)
    assert (names(chain.slices), chain.whole) == (expected, whole)
    assert (chain.full is not None) is any(one["id"] == full and one["end"] for one in others)


def test_a_plain_tar_is_unpacked_as_one() -> None:
    """A backup without compression is unpacked without it."""
    assert full_commands("a.tar", ["x", "y"]) == [
        "tar -xf a.tar",
        "mongorestore --uri=URI --db=x --drop ./a/x",
        "mongorestore --uri=URI --db=y --drop ./a/y",
    ]


def test_a_copy_that_is_encrypted_elsewhere_only_has_its_own_first_step() -> None:
    """It is unpacked where it was downloaded to; with age, the line says which key is meant."""
    assert elsewhere_commands("a.tar.gz.gpg") == ["# or, of a copy from elsewhere: gpg -d a.tar.gz.gpg | tar -xzf -"]
    assert elsewhere_commands("a.tar.age")[-1] == "# or, of a copy from elsewhere: age -d -i KEY a.tar.age | tar -xf -"
    assert "KEY: the file with the private key" in elsewhere_commands("a.tar.age")[0]


def test_many_slices_are_taken_from_the_listing() -> None:
    """More than a few slices are not named one by one but by the first and the last of them."""
    some = [f"shop-slice-2026-11-20T0{hour}-00-00.bson.zst" for hour in range(5)]
    assert len(replay_commands("f.tar.gz", some[:4], "1:1")[1].split()) == 8
    assert replay_commands("f.tar.gz", some, "1:1")[1] == (
        "(cd slices && ls shop-slice-*.bson.zst"
        " | sed -n '/^shop-slice-2026-11-20T00-00-00.bson.zst$/,/^shop-slice-2026-11-20T04-00-00.bson.zst$/p'"
        " | xargs zstd -dc) >> f/oplog.bson"
    )


def test_the_limit_lets_the_last_entry_through() -> None:
    """What mongorestore is given as limit it leaves out, so the limit is the place behind."""
    assert oplog_limit("1732156259:4") == "1732156259:5"


def test_extended_json_is_imported() -> None:
    """A file is named as it is in the archive, and what mongoimport does not bring back is said."""
    unpack, remark, load = import_commands("nanumpay-collection-x.tar.gz", "pay", "a b/c")
    file = "./nanumpay-collection-x/pay/a+b%2Fc"
    assert unpack == "tar -xzf nanumpay-collection-x.tar.gz"
    assert remark.startswith(f"# options and indexes stay in {file}.metadata.json")
    assert load == f"mongoimport --uri=URI --db=pay --collection='a b/c' --drop --file={file}.json"
    unpack, remark, load = import_commands("x.tar", "pay", "metrics", series=True)
    assert unpack == "tar -xf x.tar"
    assert remark.startswith("# make the time-series collection first")
    assert "--drop" not in load
