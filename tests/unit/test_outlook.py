"""What retention says of a job's copies: each place by its own rule, in the job's zone, now and on a day to come."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import StoreError
from nanumpay_backupd.model import LOCAL, Backup, Copy, CopyState, Kind, Lock, Policy, Tiers, to_builtins, to_json
from nanumpay_backupd.pipeline.inventory import sync_local
from nanumpay_backupd.pipeline.layout import Layout, backup_id
from nanumpay_backupd.pipeline.outlook import PruneLine, look, plan, plan_ahead, together, too_large
from nanumpay_backupd.pipeline.pins import BY_VERIFICATION, pin
from nanumpay_backupd.pipeline.prune import prune
from nanumpay_backupd.settings.schema import Destination, JobSpec, LocalDestination
from nanumpay_backupd.stores.base import Store
from nanumpay_backupd.stores.local import LocalStore
from tests.workbench import NOW, job_spec, published

DAY = timedelta(days=1)
DAILY = Policy(tiers=Tiers(keep_all_for_days=1, keep_daily_for_days=30))


@pytest.fixture
def disk(tmp_path: Path) -> LocalDestination:
    """A further disk."""
    (tmp_path / "disk2").mkdir()
    return LocalDestination(name="disk2", path=str(tmp_path / "disk2"))


def put(layout: Layout, catalog: Catalog, created: datetime, disk: LocalDestination | None = None) -> Backup:
    """Publish a backup, with a copy on the disk."""
    backup = published(layout, catalog, created)
    if disk is not None:
        path = Path(disk.path) / backup.artifact
        path.write_bytes(layout.artifact(backup.artifact).read_bytes())
        path.with_name(f"{path.name}.manifest.json").write_bytes(to_json(backup.manifest))
        copy = Copy(
            backup=backup.id,
            destination=disk.name,
            state=CopyState.VERIFIED,
            key=backup.artifact,
            size=backup.size,
            updated=NOW,
        )
        catalog.save_copy(copy)
    return backup


def verdicts(lines: list[PruneLine], place: str = LOCAL) -> str:
    """Write what is said of the copies at a place, newest first: k, d, l."""
    return "".join(line.action[0] for line in lines if line.destination == place)


def test_each_place_has_its_own_rule(layout: Layout, catalog: Catalog, disk: LocalDestination) -> None:
    """A little here, much there, and a limit of the size at one of them."""
    backups = [put(layout, catalog, NOW - at * DAY / 2, disk) for at in range(8)]
    job = job_spec(
        destinations=(disk,), retention=Policy(count=3, days=30), policies={"disk2": DAILY}, timezone="Asia/Seoul"
    )
    lines = plan(job, look(catalog, job.name), NOW)
    # In Seoul 11:00 and 23:00: three within a day, and of the days before that of the evening.
    assert (verdicts(lines), verdicts(lines, "disk2")) == ("kkkddddd", "kkkkdkdk")
    size = 2 * backups[0].size
    limited = msgspec.structs.replace(
        job, policies={"disk2": msgspec.structs.replace(DAILY, max_total_size=size, min_keep=2)}
    )
    lines = plan(limited, look(catalog, job.name), NOW)
    assert (verdicts(lines), verdicts(lines, "disk2")) == ("kkkddddd", "kkdddddd")
    assert too_large(limited, lines) == []
    tight = msgspec.structs.replace(job, policies={"disk2": Policy(count=3, max_total_size=size, min_keep=3)})
    (note,) = too_large(tight, plan(tight, look(catalog, job.name), NOW))
    assert note.startswith("at disk2, ")
    assert "stay although max_total_size is" in note


def test_days_are_those_of_the_jobs_zone(layout: Layout, catalog: Catalog) -> None:
    """The same backups are of other days elsewhere."""
    for hours in (30, 36, 42, 48):
        put(layout, catalog, NOW - timedelta(hours=hours))  # the 19th 20:00, 14:00, 08:00 and 02:00 in UTC
    for zone, expected in (("UTC", "kddd"), ("Asia/Seoul", "kkdd"), ("America/New_York", "kddk")):
        job = job_spec(retention=DAILY, timezone=zone)
        assert verdicts(plan(job, look(catalog, job.name), NOW)) == expected, zone


def test_pins_keep_and_tell_by_whom(layout: Layout, catalog: Catalog) -> None:
    """A person's and the daemon's are both reasons."""
    backups = [put(layout, catalog, NOW - at * DAY) for at in range(3)]
    pin(catalog, layout, backups[1].id, "kim", "before the move", NOW)
    pin(catalog, layout, backups[2].id, BY_VERIFICATION, "a newer one is corrupt", NOW)
    job = job_spec(retention=Policy(count=1))
    seen = look(catalog, job.name)
    assert seen.anchors == {backups[2].id}
    assert [line.reason for line in plan(job, seen, NOW)][1:] == [
        "pinned: before the move (kim)",
        "pinned: a newer one is corrupt",
    ]


def test_a_lock_is_told_until_it_ends(layout: Layout, catalog: Catalog, disk: LocalDestination) -> None:
    """Only what is to be deleted, only where it is locked, and only as long."""
    backups = [put(layout, catalog, NOW - at * DAY, disk) for at in range(3)]
    until = NOW + timedelta(hours=3)
    for backup, lock in ((backups[0], Lock(until=until, asked=NOW)), (backups[1], Lock(until=until, asked=NOW))):
        (copy,) = (one for one in (catalog.backup(backup.id) or backup).copies if one.destination == "disk2")
        catalog.save_copy(msgspec.structs.replace(copy, lock=lock))
    job = job_spec(destinations=(disk,), retention=Policy(count=1))
    lines = plan(job, look(catalog, job.name), NOW)
    assert (verdicts(lines), verdicts(lines, "disk2")) == ("kdd", "kld")
    (told,) = (line for line in lines if line.action == "locked")
    assert told.reason == "locked there until 2026-11-21 05:00 UTC; then it goes: 1 newer ones are kept"
    assert told.locked_until == until
    assert verdicts(plan(job, look(catalog, job.name), until), "disk2") == "kdd"
    # On the wire nothing is said that is not so.
    assert to_builtins(lines[0]).keys() == {"backup", "destination", "action", "reason", "size"}


def test_what_is_to_stay_after_all_is_not_told_as_locked(
    layout: Layout, catalog: Catalog, disk: LocalDestination
) -> None:
    """Once the rules keep a copy again, status does not say any more that it should be gone."""
    backups = [put(layout, catalog, NOW - at * DAY, disk) for at in range(2)]
    (copy,) = (one for one in (catalog.backup(backups[1].id) or backups[1]).copies if one.destination == "disk2")
    catalog.save_copy(msgspec.structs.replace(copy, lock=Lock(until=NOW + DAY, asked=NOW)))
    job = job_spec(destinations=(disk,), retention=Policy(count=1), policies={LOCAL: Policy(count=2)})
    for policy, locked in ((Policy(count=1), 1), (Policy(count=2), 0)):
        changed = msgspec.structs.replace(job, retention=policy)
        prune(changed, catalog, layout, NOW, lambda _: pytest.fail("nobody need connect"))
        assert [item.copies for item in catalog.locked(job.name)] == [1] * locked


def test_the_copy_that_a_place_denies_stops_no_other(layout: Layout, catalog: Catalog, disk: LocalDestination) -> None:
    """A few copies that must not be deleted there are told once; a place that denies all is left after three."""
    backups = [put(layout, catalog, NOW - at * DAY, disk) for at in range(7)]
    tried: list[str] = []

    class Picky(LocalStore):
        """A place that refuses some."""

        denied: tuple[str, ...] = (backups[5].artifact,)

        def delete(self, key: str) -> None:
            """Refuse some."""
            tried.append(key)
            if key.removesuffix(".manifest.json") in self.denied:
                raise StoreError(f"{key}: no", code="destination-denied", retryable=False)
            super().delete(key)

    def open_store(_: Destination) -> Store:
        return Picky(disk)

    job = job_spec(destinations=(disk,), retention=Policy(count=1))
    _, faults = prune(job, catalog, layout, NOW, open_store)
    assert [fault.code for fault in faults] == ["destination-denied"]
    assert verdicts(plan(job, look(catalog, job.name), NOW), "disk2") == "kd"

    for backup in backups[1:5]:
        put(layout, catalog, backup.created, disk)
    Picky.denied = tuple(backup.artifact for backup in backups)
    tried.clear()
    _, faults = prune(job, catalog, layout, NOW, open_store)
    assert [fault.code for fault in faults] == ["destination-denied"]
    assert len(tried) == 3


def test_many_slices_of_which_the_same_is_said_are_one_line() -> None:
    """Four slices that go for one reason are counted and their sizes added; few ones, and fulls, are named."""
    lines = [
        PruneLine(f"shop-slice-{kind}-2026-11-21T02-0{at}-00", place, action, "why", 10)
        for kind, place, action, count in (
            ("backup", LOCAL, "delete", 5),  # fulls of a job with such a name
            ("slice", LOCAL, "delete", 4),
            ("slice", LOCAL, "keep", 3),
            ("diff", "disk2", "delete", 2),
        )
        for at in range(count)
    ]
    found = together("shop-slice", lines)
    assert [(line.backup, line.slices, line.size) for line in found[5:]] == [
        ("shop-slice-slice-2026-11-21T02-00-00", 4, 40),
        *((line.backup, 0, 10) for line in lines[9:]),
    ]
    assert found[:5] == lines[:5]


def test_what_vanished_is_remembered_for_as_long_as_all_is_kept(layout: Layout, catalog: Catalog) -> None:
    """By windows of years, a file that the application deleted is not shown as missing for years."""
    for age in (0, 5, 8, 400):
        backup = put(layout, catalog, NOW - age * DAY)
        if age:
            layout.artifact(backup.artifact).unlink()
    sync_local(catalog, layout, NOW)
    job = job_spec(retention=Policy(tiers=Tiers(keep_all_for_days=7, keep_yearly_for_years=5)))
    prune(job, catalog, layout, NOW, lambda _: pytest.fail("nothing is remote"))
    assert [(NOW - backup.created).days for backup in catalog.backups()] == [0, 5]


def ahead(catalog: Catalog, job: JobSpec, days: int, *, assume: bool) -> list[PruneLine]:
    """Look ahead; assumed is a backup each day at the time of now."""
    due = [NOW + at * DAY for at in range(1, days + 1)] if assume else []
    return plan_ahead(job, look(catalog, job.name), NOW + days * DAY, due)


def test_looking_ahead_tells_of_each_place(layout: Layout, catalog: Catalog, disk: LocalDestination) -> None:
    """Without further backups only age deletes; with those of the schedule the older ones make room, and are named."""
    backups = [put(layout, catalog, NOW - at * DAY, disk if at < 2 else None) for at in range(4)]
    job = job_spec(destinations=(disk,), retention=Policy(count=3, days=10))
    alone = ahead(catalog, job, 8, assume=False)
    assert verdicts(alone) == "kkkd"
    assert not any(line.assumed for line in alone)
    assert verdicts(ahead(catalog, job, 11, assume=False)) == "kddd"
    full = ahead(catalog, job, 2, assume=True)
    there = [line for line in full if not line.assumed]
    assert (verdicts(there), verdicts(there, "disk2")) == ("kddd", "kd")
    made = [line for line in full if line.assumed and line.destination == "disk2"]
    assert [line.backup for line in made] == [backup_id("nanumpay", NOW + at * DAY) for at in (2, 1)]
    assert {(line.action, line.size) for line in made} == {("keep", backups[0].size)}


def test_assumed_slices_are_as_those_of_late(layout: Layout, catalog: Catalog) -> None:
    """Their bytes count in a limit of the size: as many a second as there were."""
    seconds = int((NOW - DAY).timestamp())
    full = put(layout, catalog, NOW - DAY)
    catalog.save_backup(msgspec.structs.replace(full, start=f"{seconds - 9}:1", end=f"{seconds}:1", manifest=None))
    for at in range(1, 5):
        moment = NOW - DAY + at * DAY / 4
        identifier = backup_id("nanumpay", moment, Kind.INCREMENTAL)
        copy = Copy(
            backup=identifier,
            destination=LOCAL,
            state=CopyState.VERIFIED,
            key=f"{identifier}.bson.zst",
            size=full.size,
            updated=NOW,
        )
        piece = msgspec.structs.replace(full, id=identifier, kind=Kind.INCREMENTAL, created=moment, copies=(copy,))
        ends = [f"{seconds + 21_600 * step}:1" for step in (at - 1, at)]
        catalog.save_backup(msgspec.structs.replace(piece, start=ends[0], end=ends[1], manifest=None))
    policy = Policy(tiers=Tiers(keep_all_for_days=30), max_total_size=20 * full.size)
    job = job_spec(retention=policy, pitr=60.0)
    lines = ahead(catalog, job, 10, assume=True)
    kept = [line for line in lines if line.action == "keep" and line.assumed]
    # Four slices came in three quarters of a day. What stays is whole: each full but the first with what leads to it.
    changes = [line for line in kept if line.backup.startswith("changes before ")]
    assert {line.size for line in changes} == {int(full.size * 4 / 0.75)}
    assert len(kept) == 2 * len(changes) + 1
    assert 14 * full.size < sum(line.size for line in kept) <= 20 * full.size
    without = ahead(catalog, job_spec(retention=policy), 10, assume=True)
    assert sum(line.action == "keep" and line.assumed for line in without) == 10
