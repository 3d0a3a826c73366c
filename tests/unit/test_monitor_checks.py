"""The checks of jobs and places, from what is known of them; which of them people are told of, and which not again."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.events import Event, Fault, Severity
from nanumpay_backupd.health.room import Sample
from nanumpay_backupd.lookout import Ending, Sight
from nanumpay_backupd.model import (
    LOCAL,
    Backup,
    BackupState,
    Copy,
    CopyState,
    ErrorInfo,
    Kind,
    OddityRecord,
    Policy,
)
from nanumpay_backupd.monitoring.checks import Check
from nanumpay_backupd.monitoring.faults import faults_of, shown_too
from nanumpay_backupd.monitoring.forecast import needs
from nanumpay_backupd.monitoring.judging import allowed_ages, gather, judge
from nanumpay_backupd.monitoring.memory import Memory, keep, learned, recall
from nanumpay_backupd.pipeline.layout import backup_id
from nanumpay_backupd.pipeline.outlook import look
from nanumpay_backupd.settings.schema import HealthLimits, JobSpec, LocalDestination, Schedule
from tests.workbench import NOW, job_spec

GIB = 1 << 30
DAY = timedelta(days=1)
DAILY = Schedule(cron=("0 2 * * *",), timezone="UTC")
USB = LocalDestination(name="usb", path="/mnt/usb")
AWAY = ErrorInfo(code="destination-unreachable", message="no answer", hint="plug it in")


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    """An empty catalog."""
    with Catalog(tmp_path / "catalog.db") as opened:
        yield opened


def job(**changes: Any) -> JobSpec:
    """Return a daily job with a second place."""
    return job_spec(**{"schedule": DAILY, "timezone": "UTC", "destinations": (USB,), **changes})


def full(
    age: float,
    size: int = 1000,
    state: BackupState = BackupState.VERIFIED,
    **places: CopyState | tuple[CopyState, float],
) -> Backup:
    """Return a full that is so many days old; ``places`` are its copies' states, with the days since they were read."""
    created = NOW - DAY * age
    name = backup_id("nanumpay", created)
    copies = []
    for place, found in (places or {"local": CopyState.VERIFIED, "usb": CopyState.UPLOADED}).items():
        kind, read = found if isinstance(found, tuple) else (found, age)
        copies.append(
            Copy(backup=name, destination=place, state=kind, key=f"{name}.tar", size=size, updated=NOW - DAY * read)
        )
    return Backup(
        id=name,
        job="nanumpay",
        kind=Kind.FULL,
        created=created,
        state=state,
        artifact=f"{name}.tar",
        size=size,
        copies=tuple(copies),
    )


def sight(place: str, fault: ErrorInfo | None = None, **fields: Any) -> Sight:
    """Return what was seen of a place a moment ago."""
    return Sight(place=place, at=NOW, fault=fault, seconds=0.2, **fields)


def shown(stream: str = "off", problem: Any = None, age: float | None = None) -> dict[str, Any]:
    """Return the part of the interface's type Job that is judged."""
    return {"protection": {"stream": stream, "problem": problem, "age": age}}


def judged(
    catalog: Catalog,
    spec: JobSpec,
    fulls: list[Backup],
    memory: Memory | None = None,
    how: dict[str, Any] | None = None,
) -> dict[tuple[str, str], Check]:
    """Return the checks of a job by place and name."""
    catalog.save_backups(fulls)
    facts = gather(catalog, spec, thorough=True)
    found = judge(spec, how or shown(), facts, memory or Memory(), NOW)
    return {(check.destination, check.check): check for check in found}


def states(checks: dict[tuple[str, str], Check], name: str) -> dict[str, str]:
    """Return the states of one check by place."""
    return {place: check.state for (place, check_name), check in checks.items() if check_name == name}


@pytest.mark.parametrize(
    "fulls,local,usb",
    [
        ([full(0.2)], "ok", "ok"),
        ([full(2.0)], "ok", "ok"),
        ([full(2.1)], "failed", "failed"),
        ([full(0.1, state=BackupState.COMMITTED), full(2.1)], "failed", "failed"),
        ([full(0.1, local=CopyState.VERIFIED, usb=CopyState.PENDING), full(3)], "ok", "failed"),
        ([full(0.1, local=CopyState.MISSING, usb=CopyState.VERIFIED)], "failed", "ok"),
        ([full(0.1, local=CopyState.VERIFIED)], "ok", "warning"),
        ([full(0.1, local=CopyState.VERIFIED, usb=CopyState.PENDING)], "ok", "warning"),
        ([full(0.1, local=CopyState.CORRUPT, usb=CopyState.CORRUPT)], "failed", "failed"),
    ],
)
def test_the_age_of_the_newest_good_backup(catalog: Catalog, fulls: list[Backup], local: str, usb: str) -> None:
    """Without any setting a daily job's may be 49 hours old at each place; only what is verified and there counts."""
    assert states(judged(catalog, job(), fulls), "age") == {"local": local, "usb": usb}


@pytest.mark.parametrize(
    "spec,age,verify",
    [
        (job(), 49 * 3600.0, 0.0),
        (job(schedule=None), 0.0, 0.0),
        (job(enabled=False), 0.0, 0.0),
        (job(health=HealthLimits(max_age=5.0, max_verify_age=6.0)), 5.0, 6.0),
        (job(enabled=False, health=HealthLimits(max_age=5.0)), 5.0, 0.0),
        (job(health=HealthLimits(max_age=0.0)), 0.0, 0.0),
        (job(verify=("0 4 * * 0",)), 49 * 3600.0, 14 * 86400 + 3600.0),
        (job(verify=("0 4 * * 0",), health=HealthLimits(max_verify_age=0.0)), 49 * 3600.0, 0.0),
    ],
)
def test_the_limits_that_schedules_make(spec: JobSpec, age: float, verify: float) -> None:
    """What is not said follows from the schedules; a job that makes nothing by itself has no limit."""
    assert allowed_ages(spec, spec.health, NOW) == (age, verify)


def test_size_and_reading(catalog: Catalog) -> None:
    """Both are held against the limits of the place, the reading of the copy that was not read for the longest time."""
    spec = job(
        health=HealthLimits(max_verify_age=10 * 86400.0),
        healths={"usb": HealthLimits(max_total_size=1999, max_verify_age=30 * 86400.0)},
    )
    fulls = [
        full(1, local=(CopyState.VERIFIED, 1), usb=(CopyState.VERIFIED, 1)),
        full(20, local=(CopyState.VERIFIED, 9), usb=(CopyState.UPLOADED, 20)),
        full(40, local=(CopyState.MISSING, 40), usb=(CopyState.CORRUPT, 40)),
    ]
    checks = judged(catalog, spec, fulls)
    assert states(checks, "size") == {"local": "ok", "usb": "failed"}
    assert states(checks, "verified") == {"local": "ok", "usb": "ok"}
    stricter = msgspec.structs.replace(spec, healths={"usb": HealthLimits(max_verify_age=19 * 86400.0)})
    assert states(judged(catalog, stricter, []), "verified") == {"local": "ok", "usb": "failed"}


def test_what_a_disk_will_hold_one_day(catalog: Catalog) -> None:
    """Of a made-up history: a daily full of 1 GiB, 30 kept, 3 there: so many days until the disk is full."""
    spec = job(retention=Policy(count=30, days=60), destinations=())
    catalog.save_backups([full(at + 0.1, GIB, local=CopyState.VERIFIED) for at in range(3)])
    ahead = needs(spec, look(catalog, "nanumpay"), NOW, 14.0)
    assert ahead == {LOCAL: pytest.approx(14 * GIB, rel=0.1)}
    for free, days in ((9 * GIB, 9), (20 * GIB, None), (GIB // 2, 0)):
        memory = Memory(
            sights={"nanumpay": (sight(LOCAL, free=free, device=7),)}, needs={"nanumpay": ahead}, horizon=14.0
        )
        check = judged(catalog, spec, [], memory)["local", "room"]
        if days is None:
            assert check.state == "ok"
        elif days == 0:
            assert (check.state, "the next backup takes" in check.message) == ("failed", True)
        else:
            assert (check.state, check.value) == ("warning", f"{days} days")
            assert check.message.startswith("the disk is full in 9 days")


def test_retention_that_is_full_needs_no_more(catalog: Catalog) -> None:
    """Where each new full pushes out an old one the disk lasts, unless they grow."""
    spec = job(retention=Policy(count=7, days=60), destinations=())
    catalog.save_backups([full(at + 0.1, GIB, local=CopyState.VERIFIED) for at in range(7)])
    assert needs(spec, look(catalog, "nanumpay"), NOW, 14.0) == {LOCAL: 0.0}
    catalog.save_backups([full(at + 0.1, GIB * (10 - at), local=CopyState.VERIFIED) for at in range(7)])
    grown = needs(spec, look(catalog, "nanumpay"), NOW, 14.0)
    # 49 GiB are there; the last seven of two weeks on, a GiB larger each day, are seven of some 20 GiB.
    assert grown[LOCAL] > 90 * GIB
    still = msgspec.structs.replace(spec, enabled=False)
    assert needs(still, look(catalog, "nanumpay"), NOW, 14.0)[LOCAL] <= 0


def test_others_on_the_disk_count(catalog: Catalog) -> None:
    """Whoever fills the disk: by the looks of the last days it is full in nine."""
    samples = tuple(Sample(NOW - DAY * (9 - at), (18 - at) * GIB, 0) for at in range(10))
    memory = Memory(sights={"nanumpay": (sight("usb", free=9 * GIB, device=7),)}, disks={"7": samples})
    check = judged(catalog, job(), [full(0.1)], memory)["usb", "room"]
    assert (check.state, check.value) == ("warning", "9 days")


@pytest.mark.parametrize(
    "left,harmless,state",
    [(60, False, "ok"), (13, False, "warning"), (-1, False, "failed"), (-1, True, "warning"), (13, True, "warning")],
)
def test_what_ends_one_day(catalog: Catalog, left: int, harmless: bool, state: str) -> None:
    """Soon is a warning, over a failure, unless its end hinders nothing."""
    one = Ending(what="the key of kim", expires=NOW + DAY * left, hint="extend it", harmless=harmless)
    memory = Memory(sights={"nanumpay": (sight("", endings=(one,)),)})
    check = judged(catalog, job(), [full(0.1)], memory)["", "expiry"]
    assert check.state == state
    assert check.message.startswith("the key of kim end")


def test_of_the_slices(catalog: Catalog) -> None:
    """Broken is a failure, what else is wrong a warning; late is more than three pauses and a quarter of an hour."""
    spec = job(pitr=60.0)
    trouble = {"code": "chain-broken", "message": "the oplog rolled over", "hint": ""}
    for how, state, silent in (
        (shown("ok", age=100.0), "ok", False),
        (shown("ok", age=1081.0), "warning", False),
        (shown("waiting"), "warning", True),
        (shown("failing", trouble), "warning", True),
        (shown("broken", trouble), "failed", True),
        (shown("ok", {"code": "oplog-short", "message": "short", "hint": ""}, 10.0), "warning", True),
    ):
        check = judged(catalog, spec, [full(0.1)], how=how)["", "changes"]
        assert (check.state, check.silent) == (state, silent)
    assert ("", "changes") not in judged(catalog, spec, [], how=shown("off"))


def told(*keys: str, code: str = "") -> list[Fault]:
    """Return faults that are told anyway."""
    return [Fault(key=key, text=key, severity=Severity.WARNING, code=code) for key in keys]


def test_what_is_told_otherwise_is_not_told_again(catalog: Catalog) -> None:
    """A place that is away, an old backup: told by the monitor, unless uploads, a failed run or the RPO tell it."""
    memory = Memory(sights={"nanumpay": (sight(LOCAL), sight("usb", AWAY))})
    checks = judged(catalog, job(), [full(5)], memory).values()
    assert [fault.key for fault in faults_of(checks, ())] == ["age-local:nanumpay", "reachable-usb:nanumpay"]
    assert [fault.key for fault in faults_of(checks, told("backup:nanumpay"))] == ["reachable-usb:nanumpay"]
    assert [fault.key for fault in faults_of(checks, told("rpo:nanumpay"))] == ["reachable-usb:nanumpay"]
    waiting = [full(0.1, local=CopyState.VERIFIED, usb=CopyState.PENDING), full(1)]
    checks = judged(catalog, job(), waiting, memory).values()
    assert faults_of(checks, told("copies:nanumpay")) == []
    assert [fault.key for fault in faults_of(checks, told("copies:shop"))] == ["reachable-usb:nanumpay"]


def test_the_folder_is_told_by_a_run_that_failed_for_it_only(catalog: Catalog) -> None:
    """That the last run failed for another reason says nothing of the backups folder."""
    fault = ErrorInfo(code="folder-unusable", message="read-only", hint="")
    memory = Memory(sights={"nanumpay": (sight(LOCAL, fault),)})
    checks = judged(catalog, job(), [full(0.1)], memory).values()
    assert [item.key for item in faults_of(checks, told("backup:nanumpay", code="source-failed"))] == [
        "reachable-local:nanumpay"
    ]
    assert faults_of(checks, told("backup:nanumpay", code="folder-unusable")) == []


def test_what_the_status_says_is_shown_too() -> None:
    """A failed run is a check as well, which nobody is told again; what has a check of its own is left out."""
    failed = Fault(
        key="backup:nanumpay",
        text="job nanumpay: the last run failed: no mongodump",
        severity=Severity.ERROR,
        event=Event.FAILED,
        job="nanumpay",
        hint="install it",
        code="tool-missing",
    )
    others = [msgspec.structs.replace(failed, key=key) for key in ("none:nanumpay", "chain:nanumpay", "copies:shop")]
    others[-1] = msgspec.structs.replace(others[-1], job="shop")
    (check,) = shown_too("nanumpay", [failed, *others])
    assert (check.check, check.state, check.silent, check.value) == ("runs", "failed", True, "backup")
    assert (check.message, check.hint) == ("the last run failed: no mongodump", "install it")
    assert [one.state for one in shown_too("nanumpay", others)] == ["ok"]


def test_a_fault_says_what_is_wrong_where_and_what_to_do(catalog: Catalog) -> None:
    """It is unhealthy, of the job, with the place in the sentence; a place must be silent for two looks."""
    memory = Memory(sights={"nanumpay": (sight("usb", AWAY),)})
    (fault,) = faults_of(judged(catalog, job(), [full(0.1)], memory).values(), ())
    assert (fault.event, fault.severity, fault.job) == (Event.UNHEALTHY, Severity.ERROR, "nanumpay")
    assert (fault.text, fault.reason) == ("job nanumpay, usb: no answer", "usb: no answer")
    assert (fault.hint, fault.code) == ("plug it in", "destination-unreachable")
    assert fault.patience > 900


def test_a_disk_and_a_certificate_are_one_fault_for_all_jobs() -> None:
    """Two jobs that keep copies at one place: what is wrong with the place is told once."""
    disk: dict[str, Any] = {"check": "room", "state": "warning", "message": "full soon", "about": "7"}
    ends: dict[str, Any] = {
        "check": "expiry",
        "state": "warning",
        "message": "ends",
        "about": "the certificate of h:21",
    }
    both = [
        Check(job=name, destination=place, **said)
        for name, place in (("nanumpay", "local"), ("nanumpay", "usb"), ("shop", "local"))
        for said in (disk, ends)
    ]
    found = faults_of(both, ())
    assert [(fault.event, fault.job) for fault in found] == [(Event.DISK_LOW, ""), (Event.UNHEALTHY, "nanumpay")]
    assert faults_of([Check(job="a", destination=LOCAL, told=("disk",), **disk)], told("disk")) == []


def test_one_finding_for_an_event(catalog: Catalog) -> None:
    """However many fulls lack the same, the first one is named, and the backup that is pinned."""
    fulls = [full(0.1), full(1), full(2)]
    catalog.save_backups(fulls)
    for odd in fulls[:2]:
        record = OddityRecord(
            backup=odd.id,
            job="nanumpay",
            created=odd.created,
            text="collection a is gone",
            loses=True,
            documents=1,
            size=1,
            collections={},
            event=fulls[1].id,
        )
        catalog.save_oddity(record)
    check = judged(catalog, job(), [])["", "content"]
    assert (check.state, check.backup, check.code) == ("failed", fulls[1].id, "backup-odd")
    assert f"--accept {fulls[1].id}" in check.hint


def test_what_looks_saw_is_kept(catalog: Catalog) -> None:
    """Jobs that were not looked at keep what was seen; those that are gone are forgotten, and their disks."""
    first = learned(
        Memory(),
        NOW,
        {"a": [sight(LOCAL, free=100, device=7)], "b": [sight(LOCAL, free=100, device=7)]},
        {"a": {LOCAL: 5.0}, "b": {LOCAL: 6.0}},
        {"a": {LOCAL: 30}, "b": {LOCAL: 12}},
        jobs=["a", "b"],
        horizon=14.0,
    )
    assert (first.at, first.need(7)) == (NOW, 11.0)
    assert first.disks == {"7": (Sample(NOW, 100, 42),)}
    keep(catalog, first)
    assert recall(catalog) == first
    later = NOW + DAY
    second = learned(first, later, {"a": [sight(LOCAL, AWAY)]}, {}, {}, jobs=["a", "b"], horizon=14.0)
    assert second.at == NOW
    assert second.sight("a", LOCAL) == sight(LOCAL, AWAY)
    assert second.sight("b", LOCAL) == first.sight("b", LOCAL)
    third = learned(second, later, {"a": []}, {}, {}, jobs=["a"], horizon=14.0)
    assert (third.at, third.sights, third.disks) == (later, {"a": ()}, {})


@pytest.mark.parametrize("data", [b"", b"{", b'{"at": 5}', b"[]", b"null"])
def test_a_memory_of_another_version_is_forgotten(catalog: Catalog, data: bytes) -> None:
    """It is looked anew; nobody is kept from a status by it."""
    catalog.remember("monitor", data)
    assert recall(catalog) == Memory()
