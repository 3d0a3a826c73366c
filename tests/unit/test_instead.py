"""What is offered in place of a damaged copy: other places, other fulls, other moments; as a table, without servers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.model import (
    LOCAL,
    Backup,
    BackupState,
    Copy,
    CopyState,
    Kind,
    OpTime,
    Trigger,
)
from nanumpay_backupd.pipeline.chains import known, no_such_moment, typed
from nanumpay_backupd.pipeline.instead import other_choice, other_way, strays
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.settings.schema import LocalDestination, Paths, RestoreOrder, RunSpec
from nanumpay_backupd.timeline import whole_second
from tests.workbench import NOW, job_spec

START = int(NOW.timestamp())
SPEC = RunSpec(
    run="run1",
    job=job_spec(destinations=(LocalDestination(name="nas", path="/nas"),)),
    paths=Paths(),
    trigger=Trigger.MANUAL.value,
    action="restore",
)
GOOD, BAD, GONE = CopyState.VERIFIED, CopyState.CORRUPT, CopyState.MISSING


def at(second: int) -> OpTime:
    """Return an oplog time so many seconds after the start."""
    return OpTime(START + second, 1)


def record(name: str, kind: Kind, start: int, end: int) -> Backup:
    """Make a backup, of which copies are here and at the NAS."""
    suffix = ".bson.zst" if kind is not Kind.FULL else ".tar.gz"
    copies = tuple(
        Copy(backup=name, destination=place, state=GOOD, key=f"{name}{suffix}", size=1, updated=NOW)
        for place in (LOCAL, "nas")
    )
    return Backup(
        id=name,
        job="nanumpay",
        kind=kind,
        created=NOW + timedelta(seconds=end),
        state=BackupState.VERIFIED,
        artifact=f"{name}{suffix}",
        size=1,
        start=str(at(start)) if kind is not Kind.FULL else "",
        end=str(at(end)),
        copies=copies,
    )


#  A ---s1--- ---s2--- B ---s3--- ---s4---, and d, the differential from B to the end of s4
STORY = {
    "A": record("A", Kind.FULL, 0, 10),
    "s1": record("s1", Kind.INCREMENTAL, 10, 20),
    "s2": record("s2", Kind.INCREMENTAL, 20, 30),
    "B": record("B", Kind.FULL, 0, 30),
    "s3": record("s3", Kind.INCREMENTAL, 30, 40),
    "s4": record("s4", Kind.INCREMENTAL, 40, 50),
    "d": record("d", Kind.DIFFERENTIAL, 30, 50),
}


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    """A catalog with the story's backups, all whole."""
    with Catalog(tmp_path / "catalog.db") as opened:
        opened.save_backups(list(STORY.values()))
        yield opened


def spoil(catalog: Catalog, place: str, state: CopyState, *names: str) -> None:
    """Have copies be something else than good; ``names`` empty: all."""
    for name in names or STORY:
        (copy,) = (copy for copy in STORY[name].copies if copy.destination == place)
        catalog.save_copy(msgspec.structs.replace(copy, state=state))


@pytest.mark.parametrize(
    "damaged,gone_at_nas,gone_here,offer",
    [
        ("B", (), (), "take another copy: backupctl restore B --from nas"),
        ("B", ("B",), (), f"the same moment from an older one: backupctl restore A --at {at(30)}"),
        ("B", ("B", "s2"), (), f"the same moment from an older one: backupctl restore A --at {at(30)}"),
        ("B", ("B", "s2"), ("s2",), "take the next older good backup: backupctl restore A"),
        ("B", ("B", "A"), ("A",), "there is no other copy and no older verified backup; look for the file elsewhere"),
        ("A", ("A",), (), "there is no other copy and no older verified backup; look for the file elsewhere"),
    ],
)
def test_instead_of_a_backup(
    catalog: Catalog, damaged: str, gone_at_nas: tuple[str, ...], gone_here: tuple[str, ...], offer: str
) -> None:
    """Another copy, else the same moment by way of the slices, else an older backup."""
    for place, names in (("nas", gone_at_nas), (LOCAL, gone_here)):
        if names:
            spoil(catalog, place, GONE, *names)
    backup = catalog.backup(damaged)
    assert backup is not None
    assert other_choice(backup, LOCAL, SPEC, catalog) == offer


@pytest.mark.parametrize(
    "damaged,until,at_nas,order,offer",
    [
        ("B", 40, True, {}, f"take the copies at nas: backupctl restore B --at {at(40)} --from nas"),
        ("s3", 40, True, {"to_database": "x"}, f"restore B --at {at(40)} --from nas --to-db x"),
        ("B", 40, False, {}, f"the same moment from another full: backupctl restore A --at {at(40)}"),
        ("B", 40, False, {"collection": "a b"}, f"restore A --at {at(40)} --collection 'a b'"),
        ("d", 50, False, {}, "other slices lead there as well: move d.bson.zst at local out of the way and restore"),
        ("s3", 45, False, {}, f"all up to that slice can be had: backupctl restore B --at {at(30)}"),
        ("s2", 25, False, {}, f"all up to that slice can be had: backupctl restore A --at {at(20)}"),
        ("s1", 25, False, {}, f"all up to that slice can be had: backupctl restore A --at {at(10)}"),
        ("A", 25, False, {}, "there is no other copy and no older verified backup; look for the file elsewhere"),
    ],
)
def test_instead_of_a_way_to_a_moment(
    catalog: Catalog, damaged: str, until: int, at_nas: bool, order: dict[str, Any], offer: str
) -> None:
    """The copies at one other place, else another full, else other slices, else the moment before."""
    if not at_nas:
        spoil(catalog, "nas", GONE)
    if damaged == "s3":
        spoil(catalog, LOCAL, GONE, "d")
    backup = catalog.backup(damaged)
    assert backup is not None
    wanted = RestoreOrder(**{"backup": "", **order})
    assert offer in other_way(backup, LOCAL, at(until), wanted, SPEC, catalog)


def test_a_gap_names_what_is_missing_in_it(catalog: Catalog) -> None:
    """What lies between the last moment that can be restored and the wanted one, and nothing else."""
    spoil(catalog, "nas", GONE)
    spoil(catalog, LOCAL, BAD, "s1", "s4", "B", "d")
    there = known(catalog, "nanumpay")
    said = no_such_moment(there, at(25), "nanumpay").message
    assert "it is after the last change that was captured; damaged, missing or never read back: s1" in said
    assert "s4" not in said
    everything = no_such_moment(there, at(45), "nanumpay").message
    assert "B, d, s1, s4" in everything
    spoil(catalog, LOCAL, GONE, "A")
    nothing = no_such_moment(known(catalog, "nanumpay"), at(45), "nanumpay")
    assert "no verified full of one moment; damaged, missing or never read back: A, B, d, s1 and 1 more" in (
        nothing.message
    )
    assert nothing.hint == "all that there is: backupctl list"


def test_a_moment_that_is_offered_can_be_typed() -> None:
    """A whole second is a time of day, an entry of the oplog stands by its own time."""
    assert typed(whole_second(START)) == "2026-11-21T02:00:00Z"
    assert typed(OpTime(START, 4)) == f"{START}:4"


def test_slices_without_a_record_are_strays(tmp_path: Path, catalog: Catalog) -> None:
    """Files that carry a slice's name and are of no backup: nobody could read their manifests."""
    layout = Layout(tmp_path / "backups")
    assert strays(layout, catalog) == []
    layout.slices.mkdir(parents=True)
    for name in ("nanumpay-slice-2026-11-21T02-00-00.bson.zst", "nanumpay-diff-2026-11-21T02-00-00.bson.zst", "x-y"):
        (layout.slices / name).touch()
    catalog.save_backup(msgspec.structs.replace(STORY["d"], id="nanumpay-diff-2026-11-21T02-00-00", copies=()))
    assert strays(layout, catalog) == ["nanumpay-slice-2026-11-21T02-00-00.bson.zst"]
