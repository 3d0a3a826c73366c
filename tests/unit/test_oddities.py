"""A full from which data may be missing: told once, the last good one pinned, until it is as usual or accepted."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError, RefusedError
from nanumpay_backupd.model import LOCAL, Backup, Copy, CopyState, Kind, OddityRecord, Policy
from nanumpay_backupd.pipeline.inventory import backup_from_manifest, rebuild
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.pipeline.oddities import OPEN, accept, examine
from nanumpay_backupd.pipeline.outlook import look, plan
from nanumpay_backupd.pipeline.pins import BY_ANOMALY, pin
from nanumpay_backupd.settings.schema import HealthLimits
from tests.workbench import NOW, job_spec, manifest_of, published

GOOD = {"pay.users": 500, "pay.orders": 2000, "pay.roles": 4}
POOR = {"pay.users": 500, "pay.roles": 4}


class Story:
    """A backup a day of a database that changes."""

    def __init__(self, folder: Path, catalog: Catalog, **limits: Any) -> None:
        self.layout = Layout(folder)
        self.layout.create()
        self.catalog = catalog
        self.job = job_spec(health=HealthLimits(**limits))
        self.day = 0

    def back_up(self, held: dict[str, int], *, job: str = "nanumpay") -> Backup:
        """Make the next day's full, proven."""
        created = NOW + timedelta(days=self.day)
        self.day += 1
        sizes = {name: (count, count * 100) for name, count in held.items()}
        manifest = manifest_of(b"x", created, collections=sizes, proven=True, job=job)
        key = manifest.artifact.name
        copy = Copy(backup=manifest.backup, destination=LOCAL, state=CopyState.VERIFIED, key=key, size=1, updated=NOW)
        backup = backup_from_manifest(manifest, copy)
        self.catalog.save_backup(backup)
        return backup

    def tell(self, held: dict[str, int]) -> tuple[OddityRecord, list[str]] | None:
        """Make the next full and hold it against those before it."""
        return examine(self.job, self.back_up(held), self.catalog, self.layout, NOW)

    def pinned(self) -> list[str]:
        """Return what the daemon keeps because of what is odd."""
        return [item.backup for item in self.catalog.pins() if item.owner == BY_ANOMALY]

    def odd(self) -> list[str]:
        """Return the backups that listings show as odd, oldest first."""
        return [backup.id for backup in reversed(self.catalog.backups()) if backup.odd]


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    """A database that was as it is for three days."""
    with Catalog(tmp_path / "state" / "catalog.db") as catalog:
        found = Story(tmp_path / "backups", catalog)
        assert [found.tell(GOOD) for _ in range(3)] == [None] * 3
        yield found


def test_a_lost_collection_is_told_once_and_marks_those_after_it(story: Story) -> None:
    """The first one that lacks it is an event, the next ones are marked; the last good one is pinned throughout."""
    last = story.catalog.backups()[0].id
    found = story.tell(POOR)
    assert found is not None
    record, kept = found
    assert (kept, record.loses, record.state) == ([last], True, OPEN)
    assert record.text.startswith("collection pay.orders is gone (it held 2,000)")
    assert [story.tell(POOR) for _ in range(10)] == [None] * 10
    assert story.pinned() == [last]
    assert len(story.odd()) == 11
    assert all(record.backup in (backup.odd or record.backup) for backup in story.catalog.backups()[:9])


def test_retention_keeps_the_last_good_one(story: Story) -> None:
    """Whatever the rule says: the newest full that has the data stays for as long as nobody says that it may go."""
    last = story.catalog.backups()[0].id
    for _ in range(20):
        story.tell(POOR)
    job = job_spec(retention=Policy(count=2, days=30))
    kept = [
        line.backup
        for line in plan(job, look(story.catalog, job.name), NOW + timedelta(days=30))
        if line.action == "keep"
    ]
    assert last in kept
    assert len(kept) == 3


def test_it_ends_by_itself_when_a_full_is_as_usual_again(story: Story) -> None:
    """The pin is let go, nothing is open; the odd ones stay marked, and say nothing about what is usual."""
    story.tell(POOR)
    story.tell(POOR)
    assert story.tell(GOOD) is None
    assert story.pinned() == []
    assert story.catalog.oddities(state=OPEN) == []
    assert len(story.odd()) == 2
    found = story.tell(POOR)
    assert found is not None
    assert found[0].collections == GOOD


def test_another_loss_is_another_event(story: Story) -> None:
    """What is lost later is told too, and the last one that has that is pinned beside the first."""
    story.tell(POOR)
    good = story.pinned()
    newest = story.catalog.backups()[0].id
    found = story.tell({"pay.users": 20, "pay.roles": 4})
    assert found is not None
    assert "pay.users holds 20 instead of 500" in found[0].text
    assert found[1] == [newest, *good]
    assert sorted(story.pinned()) == sorted([newest, *good])
    # On its way back it is no news.
    assert story.tell({"pay.users": 480, "pay.roles": 4}) is None


def test_what_was_accepted_is_what_is_usual(story: Story) -> None:
    """From then on fulls are held against it, at once and whatever older ones held; its pins are gone."""
    story.tell(POOR)
    newest = story.back_up(POOR)
    examine(story.job, newest, story.catalog, story.layout, NOW)
    odd = story.odd()
    assert accept(story.catalog, story.layout, _backup(story, odd[0]), "kim") == [
        story.catalog.backups()[2].id,
    ]
    assert (story.pinned(), story.odd(), story.catalog.oddities(state=OPEN)) == ([], [], [])
    assert {item.by for item in story.catalog.oddities()} == {"kim"}
    assert story.tell(POOR) is None
    found = story.tell({"pay.users": 500})
    assert found is not None
    assert found[0].text == "collection pay.roles is gone (it held 4)"
    with pytest.raises(RefusedError, match="nothing is odd"):
        accept(story.catalog, story.layout, _backup(story, odd[0]), "kim")


def _backup(story: Story, name: str) -> Backup:
    backup = story.catalog.backup(name)
    assert backup is not None
    return backup


def test_growth_is_no_loss(story: Story) -> None:
    """It is told too, as what it is, and keeps the last one before it."""
    found = story.tell({**GOOD, "pay.logs": 90_000})
    assert found is not None
    assert (found[0].loses, found[0].text) == (False, "92,504 documents instead of 2,504")
    assert story.tell({**GOOD, "pay.logs": 95_000}) is None
    assert story.tell({**GOOD, "pay.logs": 900_000}) is not None


def test_a_pin_of_somebody_else_stays(story: Story) -> None:
    """Neither an end nor an acceptance lets go what was pinned by others, nor what is of another job."""
    older = story.catalog.backups()[0]
    shop = story.back_up(GOOD, job="shop")
    pin(story.catalog, story.layout, older.id, "kim", "mine", NOW)
    pin(story.catalog, story.layout, shop.id, BY_ANOMALY, "of shop", NOW)
    story.tell(POOR)
    story.tell(GOOD)
    assert {(item.backup, item.owner) for item in story.catalog.pins()} == {(older.id, "kim"), (shop.id, BY_ANOMALY)}


def test_retention_that_keeps_next_to_nothing_does_not_blind_it(story: Story) -> None:
    """What fulls held is remembered when they are gone: with one left the loss is seen, and that one is kept."""
    for old in story.catalog.backups()[1:]:
        story.catalog.forget_backup(old.id)
    (last,) = story.catalog.backups()
    found = story.tell(POOR)
    assert found is not None
    assert found[1] == [last.id]
    # Nor is it told anew when the one at which it was is gone.
    story.tell(POOR)
    story.catalog.forget_backup(found[0].backup)
    assert story.tell(POOR) is None
    assert {item.event for item in story.catalog.oddities()} == {found[0].backup}


@pytest.mark.parametrize("fulls", [0, 1, 2])
def test_the_first_backups_say_nothing(tmp_path: Path, fulls: int) -> None:
    """With fewer than three before it, nothing is usual yet."""
    with Catalog(tmp_path / "catalog.db") as catalog:
        story = Story(tmp_path / "backups", catalog)
        for _ in range(fulls):
            story.tell(GOOD)
        assert story.tell({}) is None


@pytest.mark.parametrize("kind", [Kind.LEGACY, Kind.COLLECTION, Kind.INCREMENTAL])
def test_other_kinds_say_nothing(tmp_path: Path, kind: Kind) -> None:
    """Only fulls with a manifest are a history."""
    with Catalog(tmp_path / "catalog.db") as catalog:
        story = Story(tmp_path / "backups", catalog)
        for at in range(5):
            made = story.back_up(GOOD)
            catalog._db.execute("UPDATE backups SET kind = ? WHERE id = ?", (kind.value, made.id))
            assert at >= 0
        assert story.tell({}) is None


def test_it_can_be_switched_off(tmp_path: Path) -> None:
    """With both factors 0 nothing is looked at."""
    with Catalog(tmp_path / "catalog.db") as catalog:
        story = Story(tmp_path / "backups", catalog, shrink_factor=0.0, grow_factor=0.0)
        for _ in range(3):
            story.tell(GOOD)
        assert story.tell({}) is None
        assert story.odd() == []


def test_switching_it_off_ends_what_is_open(story: Story) -> None:
    """The next full lets go what was pinned: nothing would say any more that it is, or why."""
    story.tell(POOR)
    assert story.pinned()
    story.job = msgspec.structs.replace(story.job, health=HealthLimits(shrink_factor=0.0, grow_factor=0.0))
    assert story.tell(POOR) is None
    assert story.pinned() == []
    assert story.catalog.oddities(state=OPEN) == []


def test_a_rebuilt_catalog_knows_it_still(tmp_path: Path) -> None:
    """What is odd, what is pinned because of it, and what was usual outlive a rebuild."""
    with Catalog(tmp_path / "state" / "catalog.db") as catalog:
        story = Story(tmp_path / "backups", catalog)
        real = [published(story.layout, catalog, NOW - timedelta(days=day)) for day in (2, 1, 0)]
        pin(catalog, story.layout, real[1].id, BY_ANOMALY, "because", NOW)
        record = OddityRecord(
            backup=real[2].id,
            job="nanumpay",
            created=real[2].created,
            text="less",
            loses=True,
            documents=500,
            size=9,
            collections=GOOD,
            event=real[2].id,
        )
        catalog.save_oddity(record)
        rebuild(catalog, story.layout, NOW)
        assert catalog.oddities("nanumpay", OPEN) == [record]
        assert story.odd() == [real[2].id]
        assert story.pinned() == [real[1].id]
        # With the backup its record goes.
        catalog.forget_backup(real[2].id)
        assert catalog.oddities() == []


def test_what_cannot_be_pinned_is_not_on_record(story: Story) -> None:
    """An event that could not be written down as a whole is found again at the next full."""
    story.layout.pinned.write_text("not a folder", encoding="ascii")
    with pytest.raises(BackupdError, match="cannot be written"):
        story.tell(POOR)
    assert story.odd() == []
    story.layout.pinned.unlink()
    assert story.tell(POOR) is not None
