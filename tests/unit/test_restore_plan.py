"""The restore plan: which copy is read, where it goes, what is replayed, saved and warned about. Tables, no servers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bson
import msgspec
import pytest
from bson.timestamp import Timestamp

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError
from nanumpay_backupd.model import LOCAL, Backup, BackupState, Consistency, Copy, CopyState, Kind, Outcome, Run, Trigger
from nanumpay_backupd.pipeline.backup import unfinished
from nanumpay_backupd.pipeline.inventory import backup_from_manifest
from nanumpay_backupd.pipeline.report import new_run
from nanumpay_backupd.pipeline.restore_plan import RestorePlan, choose_copy, goal, make_plan
from nanumpay_backupd.settings.schema import RestoreOrder
from nanumpay_backupd.sources.base import TargetFacts
from nanumpay_backupd.sources.oplog_replay import touched_by
from tests.workbench import NOW, manifest_of

COLLECTIONS = {"nanumpay.users": (3, 300), "nanumpay.system.buckets.readings": (2, 200), "nanumpay.admins": (1, 100)}
FULL = TargetFacts(address="db:27017", collections=("admins", "drafts", "users"), views=("actives",), documents=9)
EMPTY = TargetFacts(address="db:27017")


def backup(
    state: BackupState = BackupState.VERIFIED,
    copies: Mapping[str, CopyState] | None = None,
    *,
    entries: int | None = None,
) -> Backup:
    """Make a backup; ``entries`` gives it an oplog, ``copies`` says where it is (default: here, and good)."""
    manifest = manifest_of(b"data", collections=COLLECTIONS, proven=True)
    if entries is not None:
        consistency = Consistency(level="point-in-time", end="1:2", moment=NOW, entries=entries)
        manifest = msgspec.structs.replace(manifest, consistency=consistency)
    made = [
        Copy(backup=manifest.backup, destination=name, state=of, key=manifest.artifact.name, size=4, updated=NOW)
        for name, of in ({LOCAL: CopyState.VERIFIED} if copies is None else copies).items()
    ]
    return msgspec.structs.replace(backup_from_manifest(manifest, *made), state=state)


def plan(made: Backup, facts: TargetFacts = FULL, **order: Any) -> RestorePlan:
    """Work a plan out as a restore does."""
    wanted = RestoreOrder(backup=made.id, **order)
    copy = choose_copy(made, wanted.source, ["app", "nas"])
    return make_plan(made, wanted, copy, goal(made, wanted, "nanumpay"), facts)


GOOD, LOST, BAD, WAITING = CopyState.VERIFIED, CopyState.MISSING, CopyState.CORRUPT, CopyState.PENDING


@pytest.mark.parametrize(
    "copies,source,chosen",
    [
        ({LOCAL: GOOD, "app": GOOD}, "", LOCAL),
        ({"app": GOOD, LOCAL: CopyState.UPLOADED}, "", LOCAL),
        ({LOCAL: LOST, "app": GOOD, "nas": GOOD}, "", "app"),
        ({LOCAL: BAD, "nas": CopyState.UPLOADED}, "", "nas"),
        ({LOCAL: GOOD, "nas": GOOD}, "nas", "nas"),
        ({LOCAL: LOST, "app": WAITING, "nas": GOOD}, "", "nas"),
    ],
)
def test_the_copy_that_is_read(copies: dict[str, CopyState], source: str, chosen: str) -> None:
    """The one asked for, else the local one, else the first remote one that is there."""
    assert choose_copy(backup(copies=copies), source, ["app", "nas"]).destination == chosen


@pytest.mark.parametrize(
    "state,copies,source,code",
    [
        (BackupState.VERIFIED, {LOCAL: LOST}, "", "copy-unusable"),
        (BackupState.VERIFIED, {}, "", "copy-unusable"),
        (BackupState.VERIFIED, {LOCAL: GOOD, "app": BAD}, "app", "copy-unusable"),
        (BackupState.VERIFIED, {LOCAL: LOST, "gone": GOOD}, "", "copy-unusable"),
        (BackupState.CORRUPT, {LOCAL: BAD, "app": GOOD}, "", "copy-unusable"),
        (BackupState.VERIFIED, {LOCAL: GOOD}, "app", "not-found"),
    ],
)
def test_no_copy_that_can_be_relied_on(
    state: BackupState, copies: dict[str, CopyState], source: str, code: str
) -> None:
    """Missing, corrupt or unreachable copies are refused, with what there is instead."""
    with pytest.raises(BackupdError) as caught:
        choose_copy(backup(state, copies), source, ["app", "nas"])
    assert caught.value.code == code
    assert caught.value.hint


@pytest.mark.parametrize(
    "entries,facts,order,replays,says",
    [
        (None, FULL, {}, False, "slightly different moments"),
        (5, FULL, {}, True, ""),
        (5, FULL, {"to_database": "nanumpay"}, True, ""),
        (0, FULL, {}, False, ""),
        (5, FULL, {"to_database": "other"}, True, ""),
        (5, FULL, {"collection": "users"}, True, ""),
        (5, msgspec.structs.replace(FULL, may_replay=False), {}, False, "may not replay"),
    ],
)
def test_the_oplog_is_replayed_where_that_is_possible(
    entries: int | None, facts: TargetFacts, order: dict[str, Any], replays: bool, says: str
) -> None:
    """Only the whole database under its own name, by a user who may; otherwise the plan says what that means."""
    made = plan(backup(entries=entries), facts, **order)
    assert made.replays_oplog is replays
    told = [warning for warning in made.warnings if "moments" in warning or "replay" in warning]
    assert bool(told) is bool(says)
    assert not says or says in told[0]


def test_what_is_there_is_saved_and_what_stays_is_named() -> None:
    """A target that holds anything is backed up first unless that is not wanted; views are no leftovers."""
    made = plan(backup())
    assert (made.target_exists, made.target_collections, made.target_documents) == (True, 4, 9)
    assert made.safety_backup
    assert made.collections == ("admins", "readings", "users")
    assert (made.documents, made.bytes, made.database, made.server) == (6, 600, "nanumpay", "db:27017")
    assert any(warning.endswith("stays as it is: drafts") for warning in made.warnings)
    assert not plan(backup(), safety=False).safety_backup
    empty = plan(backup(), EMPTY)
    assert (empty.target_exists, empty.safety_backup) == (False, False)
    one = plan(backup(), collection="readings")
    assert (one.collections, one.documents) == (("readings",), 2)


@pytest.mark.parametrize("name", ["admin", "config", "local", "a.b", "a/b", "a b", "x" * 64, "$x", ".."])
def test_impossible_names_of_databases_are_refused(name: str) -> None:
    """Neither MongoDB's own databases nor what could be a path or a pattern."""
    with pytest.raises(BackupdError) as caught:
        plan(backup(), to_database=name)
    assert caught.value.code == "refused"


def test_several_databases_go_back_as_a_whole_only() -> None:
    """A backup of all databases cannot be renamed or taken apart."""
    made = backup()
    assert made.manifest is not None
    source = msgspec.structs.replace(made.manifest.source, databases=("nanumpay", "shop"))
    made = msgspec.structs.replace(made, manifest=msgspec.structs.replace(made.manifest, source=source))
    assert plan(made).database == "nanumpay, shop"
    with pytest.raises(BackupdError, match="several databases"):
        plan(made, to_database="x")
    with pytest.raises(BackupdError, match="several databases"):
        plan(made, collection="users")


def test_an_archive_of_the_old_program_goes_to_the_jobs_database() -> None:
    """It has no manifest, so its content is not promised; without a database of the job a name is needed."""
    old = msgspec.structs.replace(backup(), kind=Kind.LEGACY, state=BackupState.LEGACY, manifest=None)
    made = plan(old)
    assert (made.database, made.collections, made.documents, made.replays_oplog) == ("nanumpay", (), 0, False)
    assert any("old program" in warning for warning in made.warnings)
    with pytest.raises(BackupdError, match="no database of its own"):
        goal(old, RestoreOrder(backup=old.id), "")
    assert goal(old, RestoreOrder(backup=old.id, to_database="x"), "") == {"": "x"}


def test_what_an_oplog_touches(tmp_path: Path) -> None:
    """Writes, those inside transactions, and commands by the collection they name."""
    stamp = Timestamp(1, 1)
    entries: list[dict[str, Any]] = [
        {"ts": stamp, "op": "i", "ns": "shop.a", "o": {"_id": 1}},
        {"ts": stamp, "op": "c", "ns": "admin.$cmd", "o": {"applyOps": [{"op": "u", "ns": "shop.b", "o": {}}]}},
        {"ts": stamp, "op": "c", "ns": "shop.$cmd", "o": {"drop": "c"}},
        {"ts": stamp, "op": "c", "ns": "shop.$cmd", "o": {"dropDatabase": 1}},
    ]
    path = tmp_path / "oplog.bson"
    path.write_bytes(b"".join(bson.encode(entry) for entry in entries))
    assert touched_by(path) == {"shop.a", "shop.b", "shop.c", "shop.*"}


def test_a_restore_is_no_backup_run(tmp_path: Path) -> None:
    """The last backup run is the same after a restore; a record of an older version is a backup run."""
    with Catalog(tmp_path / "catalog.db") as catalog:
        made = msgspec.structs.replace(new_run("a", "nanumpay", Trigger.MANUAL, NOW), outcome=Outcome.SUCCEEDED)
        later = msgspec.structs.replace(made, id="b", action="restore", outcome=Outcome.FAILED)
        for run in (made, later):
            catalog.save_run(run)
        found = catalog.last_run("nanumpay", "backup", Outcome.SUCCEEDED, Outcome.FAILED)
    assert found == made
    old = {name: value for name, value in msgspec.to_builtins(made).items() if name != "action"}
    assert msgspec.convert(old, Run) == made
    assert unfinished(made) == ""
    assert "nothing was changed" in unfinished(later)


@pytest.mark.parametrize(
    "at,dropped",
    [
        ("", ()),
        ("1763769600:1", ("swap.2025-11-21T00-00-00.old.users",)),  # 2025-11-22T00:00:00Z
        ("1763683199:1", ()),
    ],
)
def test_what_swaps_keep_is_dropped_only_where_it_is_replayed(at: str, dropped: tuple[str, ...]) -> None:
    """A later restore leaves what an undo needs alone; what a replay makes again may not be there before."""
    kept = ("swap.2025-11-21T00-00-00.old.users", "swap.2025-12-01T00-00-00.old.users")
    facts = msgspec.structs.replace(FULL, collections=(*FULL.collections, *kept))
    made = plan(backup(entries=3), facts, at=at)
    assert [name for name in made.drops if name.startswith("swap.")] == list(dropped)
    assert all("swap." not in warning or at for warning in made.warnings)
    assert ("drafts" in made.drops) is bool(at)
