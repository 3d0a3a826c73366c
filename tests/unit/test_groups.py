"""Groups by themselves: what the host file may say, when they are due, what is left of one, what is sent and when."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError, ConfigError, NotFoundError
from nanumpay_backupd.model import (
    LOCAL,
    Backup,
    BackupState,
    Copy,
    CopyState,
    ErrorInfo,
    GroupManifest,
    GroupMember,
    Kind,
    Outcome,
    Run,
    Trigger,
    from_json,
    to_json,
)
from nanumpay_backupd.pipeline.backup import interrupt
from nanumpay_backupd.pipeline.groups import (
    WORST,
    Part,
    adopt_groups,
    conclude,
    concluded_run,
    described,
    drop_groups,
    fault_of,
    members_as_they_are,
    parted,
    read_group,
    read_groups,
    send_groups,
    state_of,
    worst_of,
)
from nanumpay_backupd.pipeline.layout import Layout, backup_id, group_id, group_of, parse_artifact
from nanumpay_backupd.pipeline.prune import delete_copy
from nanumpay_backupd.plans import Plans, Task
from nanumpay_backupd.settings.grouping import build_groups
from nanumpay_backupd.settings.hostfile import parse_host_file
from nanumpay_backupd.settings.merge import build_jobs
from nanumpay_backupd.settings.schema import AppSettings, Destination, GroupOrder, LocalDestination, SourceKind
from nanumpay_backupd.settings.selection import members_of
from nanumpay_backupd.settings.sources import FilesSource
from nanumpay_backupd.stores.base import Store
from nanumpay_backupd.stores.local import LocalStore
from tests.workbench import NOW, SetClock, job_spec

JOBS = """
[[job]]
name = "files"
type = "files"
path = ["/srv/app"]
[[job]]
name = "cache"
type = "redis"
url = "redis://localhost"
"""

LEDGER = '[[job]]\nname = "b"\ntype = "sqlite"\npath = "/b"\n'
OTHER = '[[job]]\nname = "c"\ntype = "sqlite"\npath = "/c"\n'
_NIGHTS = 'limits = { blackout = ["mon-sun 00:00-12:00"] }\n'
_DAYS = 'limits = { blackout = ["mon-sun 12:00-24:00"] }\n'


def parse(text: str) -> Any:
    """Read a host file of two jobs and more."""
    return parse_host_file(JOBS + text, "host.toml", environ={})


@pytest.mark.parametrize(
    "text,reason,fix",
    [
        ('[group.a]\njobs = ["files", "cach"]', 'group.a.jobs names "cach"', "did you mean cache?"),
        ('[group.a]\njobs = ["files", "xyz"]', "there is no such job", "the jobs are: nanumpay, files, cache"),
        ('[group.a]\njobs = ["files"]', "names one job only", "drop the group"),
        ("[group.a]\njobs = []", "group.a.jobs names no job", ""),
        ('[group.a]\njobs = ["files", "files"]', "names the same thing twice", "name each once"),
        ('[group.a]\nschedule = "0 2 * * *"', "group.a.jobs is missing", "add for example"),
        (
            '[group.a]\njobs = ["files", "cache"]\n[group.b]\njobs = ["nanumpay", "cache"]',
            'group.b.jobs names "cache", which is in group a already',
            "in one group at most",
        ),
        (
            f'{LEDGER}schedule = "0 1 * * *"\n[group.a]\njobs = ["files", "b"]',
            "job.b.schedule is set, but the job is in group a",
            "take it out",
        ),
        (
            '[group.a]\njobs = ["files", "nanumpay"]\nschedule = "0 1 * * *"',
            "the application's form says when nanumpay runs",
            "leave it out",
        ),
        ('[nanumpay]\nenabled = false\n[group.a]\njobs = ["files", "nanumpay"]', "no such job", "under [nanumpay]"),
        ('[group.files]\njobs = ["files", "cache"]', "group.files has the name of a job", "another name"),
        ('[group.nanumpay]\njobs = ["files", "cache"]', "which the daemon uses itself", ""),
        ('[group.A]\njobs = ["files", "cache"]', "group.A has a name that", ""),
        ('[group.a]\njobs = ["files", "cache"]\nsources = []', "group.a.sources is not a known key", "known keys"),
        ("[group]\na = 5", "group.a is 5, but must be a table", "[group.a]"),
        ("group = 5", "group", "[group.NAME]"),
        (
            f"{LEDGER}{_NIGHTS}{OTHER}{_DAYS}[group.a]\njobs = ['b', 'c']",
            "whose blackouts together leave no time",
            "leave some hours free",
        ),
    ],
)
def test_a_group_that_makes_no_sense_is_refused(text: str, reason: str, fix: str) -> None:
    """Each mistake is told with its path and what to write instead."""
    with pytest.raises(ConfigError) as caught:
        parse_host_file(text, "host.toml", environ={}) if text == "group = 5" else parse(text)
    assert reason in caught.value.message
    assert fix in caught.value.hint


def test_a_group_is_due_as_its_own_table_says() -> None:
    """Its jobs have its schedule, and are due with it."""
    host = parse('[group.a]\njobs = ["cache", "files"]\nschedule = "0 4 * * *"\ncatch_up = "1d"')
    jobs = build_jobs(host, None)
    (group,) = build_groups(host, jobs)
    assert (group.jobs, group.catch_up, group.enabled) == (("cache", "files"), 86400.0, True)
    assert group.schedule is not None
    assert group.schedule.cron == ("0 4 * * *",)
    assert {job.name: job.group for job in jobs} == {"nanumpay": "", "files": "a", "cache": "a"}
    assert [job.schedule for job in jobs[1:]] == [group.schedule] * 2
    assert group.notes == ()
    by_name = {job.name: job for job in jobs}
    assert [job.name for job in members_of(group, by_name)] == ["cache", "files"]
    assert [job.name for job in members_of(group, by_name, SourceKind.FILES)] == ["files"]
    del by_name["files"]
    with pytest.raises(NotFoundError, match="no job that saves files"):
        members_of(group, by_name, SourceKind.FILES)


def test_a_group_with_the_applications_job_is_due_as_its_form_says() -> None:
    """Before the form is known it is due never; switched off there, the group is not due by itself."""
    host = parse('[group.a]\njobs = ["nanumpay", "files"]\n[job.retention]\ncount = 3')
    (unknown,) = build_groups(host, build_jobs(host, None))
    assert unknown.schedule is None
    jobs = build_jobs(host, AppSettings(time="05:30", storage="none"))
    (known,) = build_groups(host, jobs)
    assert known.schedule is not None
    assert known.schedule.cron == ("30 5 * * *",)
    assert next(job for job in jobs if job.name == "files").schedule == known.schedule
    (off,) = build_groups(host, build_jobs(host, AppSettings(enabled=False, storage="none")))
    assert not off.enabled


def test_different_retention_is_noted() -> None:
    """A group whose members do not go together says so, and where to look."""
    text = '[[job]]\nname = "b"\ntype = "sqlite"\npath = "/b"\nretention = { count = 99 }\n'
    host = parse(f'{text}[group.a]\njobs = ["files", "b"]')
    (group,) = build_groups(host, build_jobs(host, None))
    assert len(group.notes) == 1
    assert "in part only (backupctl list a shows which)" in group.notes[0]


def test_the_plans_have_one_entry_for_the_group(tmp_path: Path) -> None:
    """The jobs of a group are told to be due with it and are never due by themselves; out of it they are again."""
    with Catalog(tmp_path / "catalog.db") as catalog, asyncio.Runner() as runner:

        async def ask(work: Any) -> Any:
            return work(catalog)

        plans = Plans(SetClock(), ask)
        host = parse('[group.a]\njobs = ["cache", "files"]\nschedule = "0 4 * * *"')
        jobs = build_jobs(host, None)
        (group,) = build_groups(host, jobs)
        for job in jobs[1:]:
            runner.run(plans.apply(job, None))
        runner.run(plans.apply(group, None))
        due = plans.get("a")
        assert due is not None
        assert [plans.get("files"), plans.get("cache")] == [due, due]
        assert plans.planned("files") is None
        assert [name for name, task, _ in plans.items() if task is Task.BACKUP] == ["a"]
        assert (catalog.plan("a"), catalog.plan("files")) == (due, None)
        alone = msgspec.structs.replace(jobs[1], group="")
        runner.run(plans.apply(alone, jobs[1]))
        runner.run(plans.forget("a"))
        assert (plans.planned("files"), plans.get("a"), plans.get("cache")) == (due, None, None)


@given(st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True), st.integers(0, 10**9))
def test_an_id_names_its_group_and_is_no_backups(name: str, seconds: int) -> None:
    """Group and id belong to each other; no artifact is taken for a group's, and no group for a backup."""
    moment = NOW + timedelta(seconds=seconds)
    assert group_of(group_id(name, moment)) == name
    assert group_of(backup_id(name, moment)) == ""
    assert parse_artifact(f"{group_id(name, moment)}.json") is None


@given(st.lists(st.sampled_from(list(Outcome)), max_size=5))
def test_the_worst_counts(outcomes: list[Outcome]) -> None:
    """How a group ended is how its worst member did; one without members failed."""
    worst = worst_of(outcomes)
    assert worst in outcomes or (not outcomes and worst is Outcome.FAILED)
    assert all(WORST.index(worst) <= WORST.index(one) for one in outcomes)
    assert set(WORST) == set(Outcome)


class Scene:
    """A catalog, a backups folder, two jobs with a destination, and what they made."""

    def __init__(self, folder: Path) -> None:
        self.catalog = Catalog(folder / "catalog.db")
        self.layout = Layout(folder / "backups")
        self.layout.create()
        self.place = folder / "nas"
        self.place.mkdir()
        nas = LocalDestination(name="nas", path=str(self.place))
        self.jobs = (
            job_spec(name="shop", destinations=(nas,), group="all"),
            job_spec(name="files", source=FilesSource(path=("/srv",)), destinations=(nas,), group="all"),
        )
        self.opened = 0

    def open(self, destination: Destination) -> Store:
        """Open the destination."""
        assert isinstance(destination, LocalDestination)
        self.opened += 1
        return LocalStore(destination)

    def make(self, day: int, *, at_nas: bool = True) -> list[Part]:
        """Have both jobs make a backup; returns how their runs ended."""
        parts = []
        for job in self.jobs:
            made = NOW + timedelta(days=day)
            backup = backup_id(job.name, made)
            here = Copy(
                backup=backup, destination=LOCAL, state=CopyState.VERIFIED, key=f"{backup}.tar.gz", size=3, updated=made
            )
            self.catalog.save_backup(
                Backup(
                    id=backup,
                    job=job.name,
                    kind=Kind.FULL,
                    created=made,
                    state=BackupState.VERIFIED,
                    artifact=here.key,
                    size=3,
                    copies=(here,),
                )
            )
            if at_nas:
                self.send(backup)
            run = Run(id=f"{job.name}{day}", job=job.name, trigger=Trigger.GROUP, started=made, backup=backup)
            parts.append(Part(job, Outcome.SUCCEEDED, msgspec.structs.replace(run, outcome=Outcome.SUCCEEDED)))
        return parts

    def send(self, backup: str) -> None:
        """Put a copy on record at the destination."""
        self.catalog.save_copy(
            Copy(
                backup=backup, destination="nas", state=CopyState.VERIFIED, key=f"{backup}.tar.gz", size=3, updated=NOW
            )
        )

    def order(self, day: int, parts: list[Part]) -> GroupOrder:
        """Return the order to conclude a run of that day."""
        run = Run(id=f"g{day}", job="all", trigger=Trigger.MANUAL, started=NOW + timedelta(days=day))
        run = msgspec.structs.replace(run, outcome=worst_of(part.outcome for part in parts))
        return GroupOrder(described(run, parts, self.catalog, NOW), self.jobs)

    def at_place(self) -> list[str]:
        """Return the manifests of groups at the destination."""
        return sorted(path.name for path in self.place.glob("all-group-*.json"))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Give a scene."""
    made = Scene(tmp_path)
    yield made
    made.catalog.close()


def test_a_manifest_is_last_at_a_place(scene: Scene) -> None:
    """While a copy that belongs there is missing it waits; the upload that brings it brings the manifest behind it."""
    parts = scene.make(0, at_nas=False)
    done = conclude(scene.order(0, parts), scene.catalog, scene.layout, scene.open)
    assert (done.faults, done.manifest.sent, scene.opened) == ((), (), 0)
    first, second = (part.run.backup for part in parts if part.run is not None)
    assert first is not None
    assert second is not None
    scene.send(first)
    assert send_groups([scene.jobs[0]], scene.catalog, scene.layout, scene.open) == []
    assert scene.at_place() == []
    scene.send(second)
    assert send_groups([scene.jobs[1]], scene.catalog, scene.layout, scene.open) == []
    assert scene.at_place() == [f"{done.manifest.id}.json"]
    known = read_group(scene.layout, done.manifest.id)
    assert known is not None
    assert known.sent == ("nas",)
    there = from_json(GroupManifest, (scene.place / scene.at_place()[0]).read_bytes())
    assert there == msgspec.structs.replace(known, sent=())
    opened = scene.opened
    send_groups(scene.jobs, scene.catalog, scene.layout, scene.open)
    assert scene.opened == opened


def test_a_place_that_refuses_degrades_and_is_tried_again(scene: Scene) -> None:
    """Here the group is on record all the same."""
    parts = scene.make(0)
    scene.place.chmod(0o500)
    scene.place.rename(scene.place.with_name("away"))
    scene.place.write_text("no folder")
    run = Run(id="g", job="all", trigger=Trigger.MANUAL, started=NOW)
    ended = concluded_run(run, parts, scene.catalog, scene.layout, NOW, scene.open)
    assert (ended.outcome, ended.error is not None, ended.backup is not None) == (Outcome.DEGRADED, True, True)
    assert scene.catalog.run("g") == ended
    scene.place.unlink()
    scene.place.mkdir()
    assert send_groups(scene.jobs, scene.catalog, scene.layout, scene.open) == []
    assert len(scene.at_place()) == 1


def test_the_newest_whole_group_is_pinned(scene: Scene) -> None:
    """A partial one changes nothing; the next whole one takes the pins over, and pins of people stay."""
    whole = conclude(scene.order(0, scene.make(0)), scene.catalog, scene.layout, scene.open).manifest
    names = {member.backup for member in whole.members}
    assert {pin.backup for pin in scene.catalog.pins()} == names
    parts = scene.make(1)
    bad = Part(parts[1].job, Outcome.FAILED, parts[1].run, ErrorInfo(code="source-auth", message="wrong password"))
    partial = conclude(scene.order(1, [parts[0], bad]), scene.catalog, scene.layout, scene.open).manifest
    assert (partial.whole, partial.outcome, partial.members[1].code) == (False, Outcome.FAILED, "source-auth")
    assert partial.members[1].backup is None
    assert {pin.backup for pin in scene.catalog.pins()} == names
    states = members_as_they_are(partial, scene.catalog.backup)
    assert ([state.state for state in states], state_of(states)) == (["good", "never"], "partial")
    newer = conclude(scene.order(2, scene.make(2)), scene.catalog, scene.layout, scene.open).manifest
    assert {pin.backup for pin in scene.catalog.pins()} == {member.backup for member in newer.members}
    assert [one.id for one in read_groups(scene.layout)] == [newer.id, partial.id, whole.id]


def test_a_group_that_is_taken_apart_is_told_once_and_goes_with_the_last_backup(scene: Scene) -> None:
    """Before a member goes it is said; the manifests go from each place with the last copy there, then from here."""
    made = conclude(scene.order(0, scene.make(0)), scene.catalog, scene.layout, scene.open).manifest
    first, second = (str(member.backup) for member in made.members)
    told = parted(read_groups(scene.layout), scene.catalog, {first})
    assert told == [f"group {made.id} can be restored in part only: its backup of shop goes, that of files stays"]
    assert parted(read_groups(scene.layout), scene.catalog, {first, second}) == []
    assert parted(read_groups(scene.layout), scene.catalog, {"another"}) == []
    nas = scene.jobs[0].destinations[0]
    steps = [(first, "nas", True), (first, LOCAL, True), (second, "nas", False), (second, LOCAL, False)]
    for backup, place, left in steps:
        store = scene.open(nas) if place == "nas" else None
        delete_copy(scene.catalog, scene.layout, backup, place, store)
        assert drop_groups(scene.jobs[1], scene.catalog, scene.layout, scene.open) == []
        assert bool(scene.at_place()) is left
        assert bool(parted(read_groups(scene.layout), scene.catalog, {second})) is (place == "nas" and left)
    assert list(read_groups(scene.layout)) == []


def test_what_a_place_knows_is_taken_over(scene: Scene) -> None:
    """Only whole manifests of our jobs' groups, and only those that are not here; damaged ones are as none."""
    made = conclude(scene.order(0, scene.make(0)), scene.catalog, scene.layout, scene.open).manifest
    (scene.place / "all-group-2026-01-01T00-00-00.json").write_text("{}")
    (scene.place / "all-group-2026-01-02T00-00-00.json").write_bytes(to_json(made))
    (scene.place / "other.json").write_text("{}")
    scene.layout.group(made.id).unlink()
    with scene.open(scene.jobs[0].destinations[0]) as store:
        assert adopt_groups("nas", store, scene.layout, ["another"]) == 0
        assert adopt_groups("nas", store, scene.layout, ["files"]) == 1
        assert adopt_groups("nas", store, scene.layout, ["files"]) == 0
    assert [one.sent for one in read_groups(scene.layout)] == [("nas",)]


def test_two_runs_of_one_second_have_two_ids(scene: Scene) -> None:
    """No manifest takes the place of another."""
    order = scene.order(0, scene.make(0))
    first, second = (conclude(order, scene.catalog, scene.layout, scene.open).manifest.id for _ in range(2))
    assert first != second
    assert len(list(read_groups(scene.layout))) == 2


def test_a_folder_that_cannot_be_written_is_told(scene: Scene) -> None:
    """Then there is no such group, and the backups are there by themselves."""
    parts = scene.make(0)
    scene.layout.groups.write_text("in the way")
    with pytest.raises(BackupdError) as caught:
        conclude(scene.order(0, parts), scene.catalog, scene.layout, scene.open)
    assert (caught.value.code, caught.value.retryable) == ("publish-failed", True)
    assert list(read_groups(scene.layout)) == []


def test_the_fault_names_all_that_is_not_well() -> None:
    """The worst comes first with its reason, the others with how they ended; all well is no fault."""
    jobs = [job_spec(name=name) for name in ("a", "b", "c")]
    error = ErrorInfo(code="source-auth", message="wrong password", hint="look", retryable=True)
    parts = [
        Part(jobs[0], Outcome.DEGRADED),
        Part(jobs[1], Outcome.FAILED, None, error),
        Part(jobs[2], Outcome.SUCCEEDED),
    ]
    fault = fault_of(parts)
    assert fault == ErrorInfo(code="source-auth", message="job b failed: wrong password; a degraded", hint="look")
    assert fault_of([parts[2]]) is None


def test_a_manifest_outlives_a_newer_format() -> None:
    """Unknown keys are passed over; what is whole is worked out, never believed."""
    member = GroupMember(job="a", type="files", holds="files", run="r", outcome=Outcome.SUCCEEDED, backup="b")
    manifest = GroupManifest(
        id="g", group="all", run="r", started=NOW, ended=NOW, outcome=Outcome.SUCCEEDED, members=(member,)
    )
    raw = to_json(manifest).replace(b'"format":1', b'"format":1,"whole":false,"more":[]')
    assert from_json(GroupManifest, raw) == manifest
    assert manifest.whole


def test_a_restore_that_was_cut_off_says_how_far_it_came(scene: Scene) -> None:
    """What the daemon finds after its own death: which members are restored, and which was begun."""
    done = Run(id="m1", job="shop", trigger=Trigger.GROUP, started=NOW, action="restore", outcome=Outcome.SUCCEEDED)
    cut = Run(id="m2", job="files", trigger=Trigger.GROUP, started=NOW, action="restore", outcome=Outcome.INTERRUPTED)
    run = Run(
        id="g", job="all", trigger=Trigger.MANUAL, started=NOW, action="group-restore", members=("m1", "m2", "gone")
    )
    for one in (done, cut, run):
        scene.catalog.save_run(one)
    ended = interrupt(scene.catalog, run, NOW)
    assert ended.error is not None
    assert "restored by then: shop; begun and not finished: files" in ended.error.message
    made = interrupt(scene.catalog, msgspec.structs.replace(run, action="group"), NOW)
    assert made.error is not None
    assert "restored" not in made.error.message
