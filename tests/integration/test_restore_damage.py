"""Damage of every kind to every kind of file: a restore is refused before anything is dropped, or takes another way.

A table of kinds and damages, over copies of one host's folders. A refusal names the file, says that nothing was changed
and offers what else is good; what it offers is done, and has to work.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.cli.options import parse
from nanumpay_backupd.model import Backup, Kind, Outcome, Run
from nanumpay_backupd.pipeline.chains import known, parse_moment, within
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.settings.schema import CollectionOrder
from tests.chain_story import Content, Story
from tests.servers.mongod import Mongod
from tests.servers.mongoexport import find_mongoexport

pytestmark = [
    pytest.mark.servers,
    pytest.mark.promise("Damage of one copy costs no other one, and no restore takes it for good.", item=5),
]

DATABASE: Final = "damage_me"


@dataclass(frozen=True)
class Subject:
    """A file to damage, another one of its kind, and the restore that needs it; ``state`` is what that brings."""

    victim: str
    other: str
    order: dict[str, str]
    state: str
    story: Story


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory, mongod_rs: Mongod) -> Iterator[dict[str, Subject]]:
    """Make one of each kind: begin | one | two || three | four (differential) |, collections, archives of old."""
    root = tmp_path_factory.mktemp("damage")
    story = Story(mongod_rs, DATABASE, root / "gz", export=find_mongoexport(root), paced=False)
    story.mark("begin")
    older = story.full()
    slices = []
    for name in ("one", "two"):
        story.mark(name)
        slices.append(story.slice())
    newer = story.full()
    story.mark("three")
    slices.append(story.slice())
    story.mark("four")
    differential = story.slice(Kind.DIFFERENTIAL)
    slices.append(story.slice())
    bson = [collection(story, "bson") for _ in range(2)]
    json = [collection(story, "json") for _ in range(2)]
    old = [archive_of_old(story, newer, f"2099-01-0{day}") for day in (1, 2)]
    alone = copied(story, root / "alone", catalog=False)
    for one in slices[2:]:
        for path in (alone.layout.artifact(one.artifact), alone.layout.manifest(one.id)):
            path.unlink()
    plain = Story(mongod_rs, DATABASE, root / "tar", compress=False, states=story.states)
    tars = [plain.full(), plain.full()]

    def moment(name: str) -> dict[str, str]:
        return {"at": str(story.moment(name))}

    yield {
        "tar.gz full": Subject(newer.id, older.id, {"backup": newer.id}, "two", story),
        "tar full": Subject(tars[1].id, tars[0].id, {"backup": tars[1].id}, "four", plain),
        "full, for a moment": Subject(newer.id, older.id, moment("three"), "three", story),
        "slice": Subject(slices[0].id, slices[1].id, moment("one"), "one", story),
        "differential": Subject(differential.id, slices[0].id, moment("four"), "four", story),
        "differential alone": Subject(differential.id, slices[0].id, moment("four"), "four", alone),
        "collection as BSON": Subject(bson[1].id, bson[0].id, {"backup": bson[1].id}, "four", story),
        "collection as JSON": Subject(json[1].id, json[0].id, {"backup": json[1].id}, "four", story),
        "archive of old": Subject(old[1], old[0], {"backup": old[1]}, "two", story),
    }
    with mongod_rs.client() as client:
        client.drop_database(DATABASE)


def collection(story: Story, form: str) -> Backup:
    """Back up one collection."""
    return story.made("backup", collection=CollectionOrder("notes", form))


def archive_of_old(story: Story, full: Backup, day: str) -> str:
    """Make an archive as the old program did, of what a full holds; returns its name."""
    name = f"nanumpay-backup-{day}T02-00-00"
    with (
        tarfile.open(story.layout.artifact(full.artifact)) as source,
        tarfile.open(story.layout.artifact(f"{name}.tar.gz"), "w:gz") as target,
    ):
        for member in source:
            if not member.name.endswith("/oplog.bson"):
                content = source.extractfile(member)
                member.name = member.name.replace(full.id, name)
                target.addfile(member, content)
    return name


def copied(story: Story, root: Path, *, catalog: bool) -> Story:
    """Return another host with the same files, and the catalog if it has one."""
    shutil.copytree(story.root, root, ignore=None if catalog else shutil.ignore_patterns("state"))
    return dataclasses.replace(story, root=root)


def artifact(layout: Layout, name: str) -> Path:
    """Return where the artifact of a backup is."""
    (found,) = (path for folder in (layout.backups, layout.slices) for path in folder.glob(f"{name}.*"))
    return found


def flip(layout: Layout, victim: str, _: str) -> None:
    """Change one byte in the middle."""
    path = artifact(layout, victim)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x20
    path.write_bytes(data)


def cut(layout: Layout, victim: str, _: str) -> None:
    """Take the end away."""
    path = artifact(layout, victim)
    os.truncate(path, path.stat().st_size - 9)


def lose(layout: Layout, victim: str, _: str) -> None:
    """Delete the file."""
    artifact(layout, victim).unlink()


def swap(layout: Layout, victim: str, other: str) -> None:
    """Give each file the other's name."""
    mine, theirs = artifact(layout, victim), artifact(layout, other)
    between = mine.rename(mine.with_name("between"))
    theirs.rename(mine)
    between.rename(theirs)


def garble(layout: Layout, victim: str, _: str) -> None:
    """Make the manifest no JSON."""
    layout.manifest(victim).write_bytes(layout.manifest(victim).read_bytes()[3:])


def exchange(layout: Layout, victim: str, other: str) -> None:
    """Put another backup's manifest in the place of its own."""
    shutil.copy(layout.manifest(other), layout.manifest(victim))


Damage = Callable[[Layout, str, str], None]
FILE: Final[tuple[Damage, ...]] = (flip, cut, lose, swap)
MANIFEST: Final[tuple[Damage, ...]] = (garble, exchange)
KINDS: Final = (
    "tar.gz full",
    "tar full",
    "full, for a moment",
    "slice",
    "differential",
    "differential alone",
    "collection as BSON",
    "collection as JSON",
)
# What is known to be damaged before it is read leaves the other ways open; they lead to the same state.
OTHER_WAY: Final = {"full, for a moment", "differential"}


def text(run: Run) -> str:
    """Return a run's fault as an operator reads it."""
    assert run.error is not None, f"{run.outcome}"
    return f"{run.error.message} → {run.error.hint}"


def spoil(story: Story) -> Content:
    """Change the database; returns what is there then, which a refused restore leaves alone."""
    with story.server.client() as client:
        client[DATABASE].notes.update_one({"_id": "spoilt"}, {"$inc": {"times": 1}}, upsert=True)
    return story.content()


@pytest.mark.parametrize("damage", [*FILE, *MANIFEST], ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_damage(subjects: dict[str, Subject], tmp_path: Path, kind: str, damage: Damage) -> None:
    """Refused with the file's name and with what else is good, nothing changed; or the same state by another way."""
    subject = subjects[kind]
    # A manifest is read by who has no catalog: with it, the record there is the manifest.
    host = copied(subject.story, tmp_path / "host", catalog=damage in FILE)
    damage(host.layout, subject.victim, subject.other)
    before = spoil(host)
    run = host.restore(**subject.order)
    if run.outcome is Outcome.SUCCEEDED:
        assert kind in OTHER_WAY
        assert damage is not flip
        assert host.content() == subject.story.held(subject.state)
        return
    refused(run, host, subject, before)
    # Where two files changed places, both are damaged, and hardly anything is left to be offered.
    if damage is not swap:
        offered(run, host, subject)


@pytest.mark.parametrize("damage", [flip, cut, lose], ids=lambda damage: damage.__name__)
def test_damage_to_an_archive_of_the_old_program(subjects: dict[str, Subject], tmp_path: Path, damage: Damage) -> None:
    """It has no manifest, but its compression has sums of its own."""
    subject = subjects["archive of old"]
    host = copied(subject.story, tmp_path / "host", catalog=True)
    assert host.restore(**subject.order).outcome is Outcome.SUCCEEDED  # it is known from now on
    damage(host.layout, subject.victim, subject.other)
    before = spoil(host)
    run = host.restore(**subject.order)
    refused(run, host, subject, before)
    offered(run, host, subject)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_manifest_does_no_harm_where_the_catalog_is_whole(
    subjects: dict[str, Subject], tmp_path: Path, kind: str
) -> None:
    """What it said is in the catalog, and the artifact is proven by that."""
    subject = subjects[kind]
    host = copied(subject.story, tmp_path / "host", catalog=True)
    if not (host.root / "state").exists():
        assert host.restore(**subject.order).outcome is Outcome.SUCCEEDED  # makes the catalog
    garble(host.layout, subject.victim, subject.other)
    spoil(host)
    run = host.restore(**subject.order)
    assert (run.outcome, run.error) == (Outcome.SUCCEEDED, None)
    assert host.content()["notes"] == subject.story.held(subject.state)["notes"]


def refused(run: Run, host: Story, subject: Subject, before: Content) -> None:
    """Check that nothing was changed, and that the fault says so and names the file."""
    assert run.outcome is Outcome.FAILED
    assert run.backup is None  # not even a safety backup was made
    said = text(run)
    assert subject.victim in said
    assert f"nothing was changed in database {DATABASE}" in said
    assert host.content() == before
    assert list(host.layout.staging.iterdir()) == []


def offered(run: Run, host: Story, subject: Subject) -> None:
    """Do what the fault offers."""
    said = text(run)
    assert subject.victim not in said.partition(" → ")[2] or "out of the way" in said
    if "out of the way" in said:
        artifact(host.layout, subject.victim).unlink()
        again = host.restore(**subject.order)
        assert (again.outcome, host.content()) == (Outcome.SUCCEEDED, subject.story.held(subject.state))
    elif found := re.search(r"backupctl (restore [^;→]+)", said):
        done = host.restore(**as_order(host, shlex.split(found[1])))
        assert (done.outcome, done.error) == (Outcome.SUCCEEDED, None)
    elif found := re.search(r"what can be restored \(UTC\): ([-\d]+ [:\d]+) to ", said):
        done = host.restore(**as_order(host, ["restore", "latest", "--at", f"{found[1].replace(' ', 'T')}Z"]))
        assert (done.outcome, done.error) == (Outcome.SUCCEEDED, None)
    else:
        assert "another backup: backupctl list" in said


def as_order(host: Story, words: list[str]) -> dict[str, Any]:
    """Make a restore's order of what is typed, as the daemon does."""
    args = parse(words)
    order: dict[str, Any] = {"backup": "" if args.backup == "latest" else args.backup}
    if args.at:
        with Catalog(host.paths.state / "catalog.db") as catalog:
            moment = within(known(catalog, host.job).ranges, parse_moment(args.at))
        assert moment is not None, f"{args.at} is in no range"
        order["at"] = str(moment)
    return {**order, "source": args.source or "", "collection": args.collection or ""}
