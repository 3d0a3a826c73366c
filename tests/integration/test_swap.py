"""A swap against real servers: cut off anywhere it leads back to exactly what was there, or on to what was restored."""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from bson.binary import Binary
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import OperationFailure

from nanumpay_backupd import worker
from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError, CancelledError
from nanumpay_backupd.model import Outcome, Stage, Trigger
from nanumpay_backupd.pipeline.backup import unfinished
from nanumpay_backupd.pipeline.report import Recorder, new_run
from nanumpay_backupd.pipeline.swap import beside, change_places, check_swap
from nanumpay_backupd.settings.schema import MongoSource, Paths, RestoreOrder, RunSpec
from nanumpay_backupd.sources.swap import Kept, Swap, find_swaps
from nanumpay_backupd.sources.swap_plan import Side, State, parked, record_name, side_name, stamp_of
from nanumpay_backupd.system.clock import SystemClock
from nanumpay_backupd.system.locks import FileLock
from nanumpay_backupd.system.secrets import Secret
from tests.compare import describe_database
from tests.integration.test_cli import backupctl
from tests.sample_data import load
from tests.servers.daemon import as_user, backup_settings, open_site, wait_for
from tests.servers.mongod import PASSWORD, USER, Mongod, start_mongod, start_replica_set
from tests.servers.tools import find_tool
from tests.workbench import NOW, Ear, SetClock, job_spec

pytestmark = pytest.mark.servers

LIVE: Final = "swap_me"
OTHER: Final = "swap_other"
STAMP: Final = "2026-11-21T21-07-02"
OTHER_STAMP: Final = "2026-11-22T21-07-02"
SIDE: Final = side_name(LIVE, STAMP)
Document = dict[str, Any]
Description = dict[str, dict[str, str]]


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Killer:
    """Ends the process at one of the points that a swap passes; counts them otherwise."""

    at: int = -1
    points: list[str] = field(default_factory=list)

    def __call__(self, point: str) -> None:
        """Be passed."""
        self.points.append(point)
        if len(self.points) - 1 == self.at:
            raise Killed


@dataclass
class House:
    """A server with a live database and a restored one beside it."""

    client: MongoClient[Document]
    uri: str

    @property
    def live(self) -> Database[Document]:
        """Return the live database."""
        return self.client[LIVE]

    @property
    def side(self) -> Database[Document]:
        """Return the database that was restored beside it."""
        return self.client[SIDE]

    def swap(self, **options: Any) -> Swap:
        """Return the swap."""
        return Swap(MongoSource(uri=Secret(self.uri), database=LIVE), LIVE, STAMP, **options)

    def begin(self, *, whole: bool = False, **options: Any) -> Swap:
        """Begin the swap of what is beside the live database."""
        swap = self.swap(**options)
        swap.begin(SIDE, types(self.side), whole=whole, backup="nanumpay-backup-2026-11-20T02-00-00", run="run1")
        return swap

    def prepared(self) -> Swap:
        """Begin and prepare."""
        swap = self.begin()
        swap.prepare()
        return swap

    def described(self) -> Description:
        """Describe what the application sees."""
        return {name: entry for name, entry in self.everything().items() if not name.startswith(("swap.", "tmp"))}

    def everything(self) -> Description:
        """Describe all of the database."""
        return describe_database(self.client, LIVE)

    def names(self) -> set[str]:
        """Name what of swaps is in the database."""
        return {name for name in self.live.list_collection_names() if name.startswith(("swap.", "tmp"))}

    def kept(self) -> Kept:
        """Describe the only swap."""
        (kept,) = find_swaps(MongoSource(uri=Secret(self.uri), database=LIVE))
        return kept

    def clean(self) -> None:
        """Drop both databases."""
        for name in (LIVE, SIDE):
            self.client.drop_database(name)


def types(db: Database[Document]) -> dict[str, str]:
    """Return the types of what is in a database, by name."""
    return {entry["name"]: entry["type"] for entry in db.list_collections()}


def after(before: Description, restored: Description) -> Description:
    """Return what is live after a swap: all that was restored, and what it does not have as it was."""
    return before | restored


def _house(server: Mongod) -> Iterator[House]:
    with server.client() as client:
        house = House(client, server.uri_for(LIVE))
        house.clean()
        yield house
        house.clean()


@pytest.fixture(params=["mongod_standalone", "mongod_rs"])
def any_house(request: pytest.FixtureRequest) -> Iterator[House]:
    """Either kind of server."""
    yield from _house(request.getfixturevalue(request.param))


@pytest.fixture
def house(mongod_standalone: Mongod) -> Iterator[House]:
    """The usual server."""
    yield from _house(mongod_standalone)


def fill(house: House) -> None:
    """Fill both databases with what can be different between a backup and what is live."""
    live, side = house.live, house.side
    load(live, scale=0.02)
    load(side, scale=0.03)
    side.drop_collection("systemmetrics")
    side.drop_collection("planneraccounts")
    side.drop_collection("activeusers")
    side.command({"create": "activeusers", "viewOn": "users", "pipeline": [{"$match": {"grade": "F1"}}]})
    live.command({"create": "bosses", "viewOn": "admins", "pipeline": [], "collation": {"locale": "ko"}})
    side.bosses.insert_one({"_id": "was a collection"})
    live.once.insert_one({"_id": "was a collection then"})
    side.command({"create": "once", "viewOn": "admins", "pipeline": [{"$project": {"a.b": 1}}]})
    side.create_collection("nothing", validator={"a": {"$exists": True}}, collation={"locale": "fr"})
    side.command({"insert": "nothing", "documents": [{"_id": 2}], "bypassDocumentValidation": True})
    side.create_collection("clustered", clusteredIndex={"key": {"_id": 1}, "unique": True})
    side.clustered.insert_many([{"_id": number} for number in range(5)])
    # What an earlier swap kept when the backup was made does not change places.
    side[f"swap.2025-01-01T00-00-00.{Side.OLD.value}.users"].insert_one({"_id": 1})


def fill_small(house: House) -> None:
    """Fill both databases with little: collections, a view, and a name of each kind of change."""
    live, side = house.live, house.side
    for db, word in ((live, "old"), (side, "new")):
        db.users.insert_many([{"_id": number, "is": word} for number in range(3)])
        db.users.create_index("is")
        db.command({"create": "seen", "viewOn": "users", "pipeline": [{"$match": {"is": word}}]})
    live.stays.insert_one({"_id": 1})
    side.comes.insert_one({"_id": 1})
    live.turns.insert_one({"_id": 1})
    side.command({"create": "turns", "viewOn": "users", "pipeline": []})


def test_there_and_back_and_there_again(any_house: House) -> None:
    """All kinds of collections change places and come back exactly; each side is kept until it is dropped."""
    house = any_house
    fill(house)
    before, restored = house.described(), describe_database(house.client, SIDE)
    restored = {name: entry for name, entry in restored.items() if not name.startswith("swap.")}
    counts: list[int] = []
    swap = house.begin()
    assert house.kept().state is State.PREPARING
    assert swap.prepare(counts.append) == len(restored)
    assert counts == sorted(counts)
    assert counts[-1] == sum(int(entry["documents"]) for entry in restored.values() if entry["type"] == "collection")
    assert SIDE not in house.client.list_database_names()
    assert house.described() == before, "preparing changes nothing live"

    kept = swap.flip()
    assert house.described() == after(before, restored)
    aside = {name: entry for name, entry in house.everything().items() if name.startswith(f"swap.{STAMP}.old.")}
    moved = [name for name in restored if before.get(name, {}).get("type") == "collection"]
    assert aside == {parked(STAMP, Side.OLD, name): before[name] for name in moved}
    assert kept == house.kept()
    assert (kept.state, kept.collections, kept.strays) == (State.SWAPPED, len(moved), ())
    assert kept.documents == sum(int(before[name]["documents"]) for name in moved)
    assert kept.bytes > 0
    assert (kept.database, kept.backup, kept.run) == (LIVE, "nanumpay-backup-2026-11-20T02-00-00", "run1")

    for _ in range(2):
        assert swap.undo().state is State.UNDONE
        assert house.described() == before
    for _ in range(2):
        assert swap.redo().state is State.SWAPPED
        assert house.described() == after(before, restored)
    house.live.users.insert_one({"_id": "since", "loginId": "since"})
    swap.undo()
    assert house.described() == before
    assert house.live[parked(STAMP, Side.NEW, "users")].find_one({"_id": "since"})
    dropped = swap.drop()
    assert dropped.state is State.UNDONE
    assert house.everything() == before
    with pytest.raises(BackupdError, match="there is no swap") as caught:
        swap.undo()
    assert caught.value.code == "not-found"


@pytest.mark.promise(
    "A restore that is killed or fails has changed nothing, or both ways are open: to finish it and to undo it.", item=1
)
def test_killed_at_every_step_of_changing_places_both_ways_are_open(house: House) -> None:
    """After each of them every name is of one side or nothing, and both undo and redo lead to exactly their side."""
    fill_small(house)
    before, restored = house.described(), describe_database(house.client, SIDE)
    new = after(before, restored)
    house.prepared()
    count = Killer()
    house.swap(hook=count).flip()
    assert house.described() == new
    assert len(count.points) > 12
    for at, point in enumerate(count.points):
        for method, goal, other in (("undo", before, new), ("redo", new, before)):
            with pytest.raises(Killed):
                getattr(house.swap(hook=Killer(at)), method)()
            for name, entry in house.described().items():
                # What a view shows is that of the collection behind it, which may have another one by now.
                assert entry in (before.get(name), new.get(name)) or entry["type"] == "view", f"{name} at {point}"
            if house.kept().state is State.UNFINISHED:
                with pytest.raises(BackupdError, match="stopped half-way"):
                    house.swap().drop()
            # The way back first, then the way on: the next round begins where this one wanted to go.
            way_back = {"undo": "redo", "redo": "undo"}[method]
            getattr(house.swap(), way_back)()
            assert house.described() == other, point
            getattr(house.swap(), method)()
            assert house.described() == goal, point
    house.swap().drop()
    assert house.names() == set()


@pytest.mark.promise(
    "A restore that is killed or fails has changed nothing, or both ways are open: to finish it and to undo it.", item=1
)
def test_killed_at_every_step_before_nothing_live_changed_and_nothing_is_left(house: House) -> None:
    """Beginning and preparing leave the live collections alone; dropping it removes all, the side database too."""
    count = Killer()
    at = 0
    while not count.points or at < len(count.points):
        fill_small(house)
        before = house.described()
        killer = Killer(at if count.points else -1)
        try:
            house.begin(hook=killer).prepare()
            count = killer
        except Killed:
            at += 1
        assert house.described() == before
        house.swap().abandon()
        if house.names():  # killed before it wrote anything down: only the side database is there
            assert killer.points == []
        assert house.everything() == before
        assert (SIDE in house.client.list_database_names()) is (at == 1 and len(killer.points) == 1)
        house.clean()
    assert at > 8


@pytest.mark.promise(
    "A restore that is killed or fails has changed nothing, or both ways are open: to finish it and to undo it.", item=1
)
def test_killed_while_dropping_only_dropping_goes_on(house: House) -> None:
    """Once something is deleted there is no way back any more, and the swap says so."""
    fill_small(house)
    house.prepared().flip()
    new = house.described()
    with pytest.raises(Killed):
        house.swap(hook=Killer(5)).drop()
    assert house.kept().state is State.DROPPING
    with pytest.raises(BackupdError, match="cannot be undone: it is dropping"):
        house.swap().undo()
    house.swap().drop()
    assert house.everything() == new


@pytest.mark.promise("A restore overwrites nothing unasked, and what was there can be had back.", item=13)
@pytest.mark.parametrize("method", ["flip", "undo"])
def test_what_is_written_to_a_free_name_is_kept(house: House, method: str) -> None:
    """An application that writes between the two renames hinders nothing, and what it wrote stands beside."""
    fill_small(house)
    before, restored = house.described(), describe_database(house.client, SIDE)
    swap = house.prepared()
    if method == "undo":
        swap.flip()
    wrote: list[str] = []

    def write(point: str) -> None:
        found = re.search(r"^after .*name='(users|turns)', target='swap", point)
        if found and len(wrote) < 3:
            house.live[found[1]].insert_one({"_id": f"stray {len(wrote)}"})
            wrote.append(found[1])

    kept = getattr(house.swap(hook=write), method)()
    assert wrote
    assert house.described() == (after(before, restored) if method == "flip" else before)
    assert len(kept.strays) == len(wrote)
    assert {name.rpartition(".")[2] for name in kept.strays} == set(wrote)
    assert sum(house.live[name].count_documents({}) for name in kept.strays) == len(wrote)
    house.swap().undo()
    assert house.described() == before


def test_of_a_whole_database_what_the_backup_does_not_have_goes_away_too(house: House) -> None:
    """Collections and views that are not in what was restored are kept aside, and an undo brings them back."""
    fill_small(house)
    house.live.command({"create": "shown", "viewOn": "users", "pipeline": []})
    before, restored = house.described(), describe_database(house.client, SIDE)
    swap = house.begin(whole=True)
    swap.prepare()
    swap.flip()
    assert house.described() == restored
    assert house.live[parked(STAMP, Side.OLD, "stays")].count_documents({}) == 1
    house.live.stays.insert_one({"_id": "since"})
    swap.undo()
    assert house.described() == before
    swap.redo()
    assert house.live.stays.distinct("_id") == ["since"]
    house.live.drop_collection("stays")
    assert house.described() == restored
    swap.undo()
    assert house.described() == before
    house.live.create_collection("series", timeseries={"timeField": "at"})
    with pytest.raises(BackupdError, match="series is a time-series collection"):
        Swap(MongoSource(uri=Secret(house.uri), database=LIVE), LIVE, OTHER_STAMP).begin(
            side_name(LIVE, OTHER_STAMP), {}, whole=True
        )


def test_a_view_that_the_application_changed_comes_back_as_it_changed_it(house: House) -> None:
    """The definition that is replaced is kept whenever places change, not only the first time."""
    fill_small(house)
    house.prepared().flip()
    house.live.drop_collection("seen")
    house.live.command({"create": "seen", "viewOn": "comes", "pipeline": []})
    new = house.described()
    house.swap().undo()
    house.swap().redo()
    assert house.described() == new


def test_what_cannot_change_places_is_refused_before_anything_starts(house: House) -> None:
    """Time-series collections, here or in the backup, are named with another way; nothing is written down."""
    fill(house)
    house.live.create_collection("comes", timeseries={"timeField": "at"})
    for coming, name in (({"readings": "timeseries"}, "readings"), ({"comes": "collection"}, "comes")):
        with pytest.raises(BackupdError, match=f"{name} is a time-series collection") as caught:
            house.swap().begin(SIDE, coming)
        assert caught.value.code == "swap-impossible"
        assert "--to-db" in caught.value.hint
        assert caught.value.exit_code == 7
    assert house.names() == set()


def test_one_that_became_a_time_series_since_cannot_be_undone(house: House) -> None:
    """What cannot be put aside is told before anything moves."""
    fill_small(house)
    swap = house.prepared()
    swap.flip()
    house.live.drop_collection("users")
    house.live.create_collection("users", timeseries={"timeField": "at"})
    new = house.everything()
    with pytest.raises(BackupdError, match="users is a time-series collection now"):
        swap.undo()
    assert house.everything() == new
    house.live.drop_collection("users")
    assert swap.undo().state is State.UNDONE


def test_only_what_was_prepared_is_flipped(house: House) -> None:
    """A swap is flipped once and only when it is prepared; what was not flipped cannot be undone."""
    fill_small(house)
    swap = house.begin()
    for method in ("flip", "undo", "redo"):
        with pytest.raises(BackupdError) as caught:
            getattr(swap, method)()
        assert caught.value.exit_code == 7
    swap.prepare()
    swap.flip()
    with pytest.raises(BackupdError, match="cannot be flipped: it is swapped"):
        swap.flip()
    with pytest.raises(BackupdError, match="somebody else"):
        swap.begin(SIDE, {})


def test_a_collection_that_a_transaction_holds_is_waited_for_then_all_is_taken_back(mongod_rs: Mongod) -> None:
    """A rename waits so long and no longer; then everything is as it was, and the restored side is kept."""
    for house in _house(mongod_rs):
        fill_small(house)
        before, restored = house.described(), describe_database(house.client, SIDE)
        house.prepared()
        with house.client.start_session() as session:
            session.start_transaction()
            house.live.users.insert_one({"_id": "held"}, session=session)
            with pytest.raises(BackupdError) as caught:
                house.swap(patience=0.3).flip()
            assert caught.value.code == "swap-failed"
            assert "was taken back" in caught.value.message
            assert f"backupctl swaps redo {STAMP}" in caught.value.hint
            session.abort_transaction()
        assert house.described() == before
        assert house.kept().state is State.UNDONE
        # A shorter one is only waited for.
        with house.client.start_session() as session:
            session.start_transaction()
            house.live.users.insert_one({"_id": "held"}, session=session)
            threading.Timer(0.5, session.abort_transaction).start()
            assert house.swap().redo().state is State.SWAPPED
        assert house.described() == after(before, restored)


def test_a_new_primary_in_the_middle(request: pytest.FixtureRequest) -> None:
    """The primary is killed between two renames: the swap goes on at the next one, to the end."""
    with start_replica_set() as group, group.client() as client:
        house = House(client, group.uri_for(LIVE))
        fill_small(house)
        before, restored = house.described(), describe_database(client, SIDE)
        house.prepared()
        victim = group.primary()

        def kill(point: str) -> None:
            if "name='users'" in point and point.startswith("after") and victim.running:
                victim.kill()

        assert house.swap(hook=kill).flip().state is State.SWAPPED
        assert not victim.running
        assert house.described() == after(before, restored)
        assert house.swap().undo().state is State.UNDONE
        assert house.described() == before


def test_cancelled_while_preparing_nothing_is_left(mongod_rs: Mongod) -> None:
    """A move under way is ended at the server, what it had copied is removed, and the live side never changed."""
    for house in _house(mongod_rs):
        cancel_while_preparing(house)


def cancel_while_preparing(house: House) -> None:
    """Cancel in the middle of a large collection."""
    fill_small(house)
    blob = Binary(bytes(2000))
    for at in range(0, 20000, 1000):
        house.side.big.insert_many([{"_id": number, "blob": blob} for number in range(at, at + 1000)])
    before = house.described()
    swap = house.begin()
    counts: list[int] = []

    def cancel(documents: int) -> None:
        counts.append(documents)
        if 100 < documents < 20000:
            raise CancelledError("enough")

    with pytest.raises(CancelledError):
        swap.prepare(cancel)
    assert house.live[parked(STAMP, Side.NEW, "big")].estimated_document_count() == 0
    assert house.described() == before
    swap.abandon()
    assert house.everything() == before
    assert set(house.side.list_collection_names()) <= {"system.views"}


def test_the_roles_of_a_restore_are_enough() -> None:
    """`backup` and `restore`, which docs/operations.md asks for, allow the whole way, a cancellation included."""
    with start_mongod(replica_set=True, auth=True) as server, server.client() as client:
        roles = ["backup", "restore"]
        client.admin.command({"createUser": "restorer", "pwd": PASSWORD, "roles": roles})
        client.admin.command({"createUser": "reader", "pwd": PASSWORD, "roles": ["backup"]})
        house = House(client, server.uri_for(LIVE).replace(f"//{USER}:", "//restorer:"))
        fill_small(house)
        reader = House(client, server.uri_for(LIVE).replace(f"//{USER}:", "//reader:"))
        with pytest.raises(BackupdError) as caught:
            reader.begin()
        assert caught.value.code == "source-auth"
        assert "'backup' and 'restore'" in caught.value.hint
        before, restored = house.described(), describe_database(client, SIDE)
        swap = house.prepared()
        # Such a user may not drop the collection of views, and so the side database stays, with nothing in it.
        assert swap.leftover == SIDE
        assert house.side.list_collection_names() == ["system.views"]
        swap.flip()
        assert house.described() == after(before, restored)
        swap.undo()
        swap.redo()
        assert house.kept().bytes > 0
        swap.undo()
        swap.drop()
        assert house.everything() == before
        house.clean()
        cancel_while_preparing(house)


@pytest.mark.promise(
    "A restore that is killed or fails has changed nothing, or both ways are open: to finish it and to undo it.", item=1
)
def test_where_also_the_way_back_is_refused_the_fault_says_what_is_open(house: House) -> None:
    """Half-way with no way at all just now: the database is between the sides, and undo mends it later."""
    fill_small(house)
    before = house.described()
    house.prepared()
    moved: list[str] = []

    def refuse(point: str) -> None:
        if point.startswith("before Move"):
            moved.append(point)
            if len(moved) > 3:
                raise OperationFailure("no", 13)

    with pytest.raises(BackupdError) as caught:
        house.swap(hook=refuse).flip()
    assert caught.value.code == "swap-unfinished"
    assert f"backupctl swaps undo {STAMP}" in caught.value.hint
    assert house.described() != before
    assert house.kept().state is State.UNFINISHED
    house.swap().undo()
    assert house.described() == before


def test_the_record_names_what_it_is(house: House) -> None:
    """Whoever looks into the database by hand finds the backup, the run and the moment in the record."""
    fill_small(house)
    house.prepared().flip()
    first = house.live[record_name(STAMP)].find_one({"_id": 0})
    assert first is not None
    assert (first["format"], first["side"], first["run"]) == (1, SIDE, "run1")
    assert first["backup"] == "nanumpay-backup-2026-11-20T02-00-00"


@dataclass
class Bench:
    """What a restore stands on, without the restore."""

    house: House
    recorder: Recorder
    spec: RunSpec

    @property
    def ear(self) -> Ear:
        """Return who hears the run."""
        assert isinstance(self.recorder.reporter, Ear)
        return self.recorder.reporter


@pytest.fixture
def bench(house: House, tmp_path: Path) -> Iterator[Bench]:
    """A run that is to swap."""
    source = MongoSource(uri=Secret(house.uri), database=LIVE)
    paths = Paths(backups=tmp_path / "backups", state=tmp_path / "state", socket=tmp_path / "socket")
    spec = RunSpec(run="run1", job=job_spec(source=source), paths=paths, trigger="manual", action="restore")
    run = new_run("run1", "nanumpay", Trigger.MANUAL, NOW, "restore")
    with Catalog(tmp_path / "catalog.db") as catalog:
        yield Bench(house, Recorder(run, catalog, Ear(), SetClock()), spec)
    house.client.drop_database(side_name(LIVE, stamp_of(NOW)))


def restored_small(bench: Bench, side: str) -> None:
    """Restore little into the side database."""
    db = bench.house.client[side]
    db.users.insert_many([{"_id": number, "is": "new"} for number in range(3)])
    db.comes.insert_one({"_id": 1})


def test_the_stage_of_a_restore(bench: Bench) -> None:
    """It says what changed places and how to undo it; what was written meanwhile is a warning."""
    bench.house.live.users.insert_one({"_id": "old"})
    with beside(bench.spec, LIVE, {"users": "collection"}, bench.recorder) as side:
        assert side == side_name(LIVE, stamp_of(NOW))
        assert "nothing was changed" in unfinished(bench.recorder.run)
        restored_small(bench, side)
        text = change_places(bench.spec, side, LIVE, bench.recorder)
    assert text.startswith(f"2 collections changed places with those of {LIVE} in ")
    assert text.endswith(f"backupctl swaps undo {stamp_of(NOW)}")
    run = bench.recorder.run
    assert [(stage.stage, stage.outcome) for stage in run.stages] == [(Stage.SWAP, Outcome.SUCCEEDED)] * 2
    assert run.stages[1].detail == text
    assert bench.house.live.users.count_documents({"is": "new"}) == 3
    assert "about to change places" in unfinished(run)
    assert run.warnings == ()


@pytest.mark.promise(
    "A restore that is killed or fails has changed nothing, or both ways are open: to finish it and to undo it.", item=1
)
@pytest.mark.parametrize("how", ["fault", "cancelled", "impossible"])
def test_a_restore_that_does_not_get_there_leaves_nothing(bench: Bench, how: str) -> None:
    """A fault before places change removes the side database and all that was made beside the live collections."""
    fill_small(bench.house)
    before = bench.house.everything()
    coming = {"users": "timeseries" if how == "impossible" else "collection"}

    def restore() -> None:
        with beside(bench.spec, LIVE, coming, bench.recorder) as side:
            restored_small(bench, side)
            if how == "fault":
                raise BackupdError("what was restored is not what it should be")
            bench.recorder.cancel()
            change_places(bench.spec, side, LIVE, bench.recorder)

    with pytest.raises(BackupdError) as caught:
        restore()
    if how == "impossible":
        for databases in ((LIVE,), (LIVE, OTHER), ("",)):
            with pytest.raises(BackupdError) as refused:
                check_swap(bench.spec, databases, coming)
            assert refused.value.code == "swap-impossible"
    else:
        check_swap(bench.spec, [LIVE], coming)
    assert caught.value.code == {"fault": "failed", "cancelled": "cancelled", "impossible": "swap-impossible"}[how]
    assert bench.house.everything() == before
    assert side_name(LIVE, stamp_of(NOW)) not in bench.house.client.list_database_names()


def test_moments_after_a_swap_and_after_its_undo_can_be_restored(mongod_rs: Mongod, tmp_path: Path) -> None:
    """Slices that hold the renames bring back what was there then, indexes, views and what is kept included."""
    for house in _house(mongod_rs):
        fill_small(house)
        source = MongoSource(
            uri=Secret(house.uri),
            database=LIVE,
            mongodump=str(find_tool("mongodump")),
            mongorestore=str(find_tool("mongorestore")),
        )

        numbers = itertools.count()

        def run(
            action: str,
            order: RestoreOrder | None = None,
            source: MongoSource = source,
            numbers: Iterator[int] = numbers,
        ) -> None:
            paths = Paths(backups=tmp_path / "backups", state=tmp_path / "state", socket=tmp_path / "socket")
            spec = RunSpec(
                run=f"run{next(numbers)}", job=job_spec(source=source), paths=paths, trigger="manual", action=action
            )
            ended = worker.execute(msgspec.structs.replace(spec, restore=order), Ear(), SystemClock())
            assert ended.outcome is Outcome.SUCCEEDED, ended.error

        run("backup")
        house.prepared().flip()
        told = []
        for change in (house.swap().undo, lambda: None):
            newest = house.client.admin.command("hello")["lastWrite"]["opTime"]["ts"]
            told.append((f"{newest.time}:{newest.inc}", house.everything()))
            run("slice")
            change()
        for moment, expected in told:
            house.client.drop_database(OTHER)
            run("restore", RestoreOrder(backup="", at=moment, to_database=OTHER, safety=False))
            assert describe_database(house.client, OTHER) == expected
        house.client.drop_database(OTHER)


def test_by_command_while_the_daemon_watches_its_settings(mongod_rs: Mongod, tmp_path: Path) -> None:
    """`admins` is renamed too and the settings are read anew; killed half-way, an undo says so and then mends it."""
    with open_site(mongod_rs, backup_settings(time="02:00", storage={"type": "none"})) as site, site.db() as db:
        site.write_config("[control]\ngroup = 'nogroup'")
        site.start()
        before = describe_database(db.client, site.database)
        spec = RunSpec(
            run="run1",
            job=job_spec(source=MongoSource(uri=Secret(site.uri), database=site.database)),
            paths=Paths(backups=tmp_path / "backups", state=tmp_path / "state", socket=tmp_path / "socket"),
            trigger="manual",
        )
        run = new_run("run1", "nanumpay", Trigger.MANUAL, NOW, "restore")
        with (
            Catalog(tmp_path / "catalog.db") as catalog,
            beside(spec, site.database, {}, Recorder(run, catalog, Ear(), SetClock())) as side,
        ):
            admin: Document = {"loginId": "admin", "permissions": ["full_access"]}
            settings = backup_settings(time="05:00", storage={"type": "none"})
            db.client[side].admins.insert_one({**admin, "systemSettings": {"backup": settings}})
            db.client[side].users.insert_one({"loginId": "restored"})
            change_places(spec, side, site.database, Recorder(run, catalog, Ear(), SetClock()))
        wait_for(lambda: site.job()["schedule"] == ["0 5 * * *"], "the settings of the backup")
        assert site.status()["settings"]["mode"] == "change-stream"

        stamp = stamp_of(NOW)
        listed = json.loads(backupctl(site.socket, "swaps", "--json").stdout)
        (swap,) = [swap for swap in listed["swaps"] if swap["database"] == site.database]
        assert (swap["stamp"], swap["state"], swap["job"], swap["collections"]) == (stamp, "swapped", "nanumpay", 2)
        assert listed["problems"] == []
        denied = as_user(
            site, "nobody", "nogroup", [("ListSwaps", {}), ("UndoSwap", {"swap": stamp}), ("DropSwap", {"swap": stamp})]
        )
        assert [answer.get("code") for answer in denied] == [None, "not-allowed", "not-allowed"]
        assert backupctl(site.socket, "swaps", "undo", stamp).returncode == 7
        assert backupctl(site.socket, "swaps", "undo", "2020-01-01T00-00-00", "--yes").returncode == 6
        with FileLock(site.backups / ".backupd" / "locks" / "nanumpay.lock", "the job"):
            assert backupctl(site.socket, "swaps", "undo", stamp, "--yes").returncode == 5

        site.hold("nanumpay_backupd.sources.swap_place:Place.do:after")
        thread = threading.Thread(target=backupctl, args=(site.socket, "swaps", "undo", stamp, "--yes"))
        thread.start()
        site.wait_held()
        site.kill()
        thread.join()
        site.release()
        site.start()
        assert "unfinished" in backupctl(site.socket, "swaps", COLUMNS="200").stdout
        assert backupctl(site.socket, "swaps", "drop", stamp, "--yes").returncode == 7
        undone = backupctl(site.socket, "swaps", "undo", stamp, "--yes")
        assert (undone.returncode, undone.stderr) == (0, "")
        assert "what was there before" in undone.stdout
        wait_for(lambda: site.job()["schedule"] == ["0 2 * * *"], "the settings as they were")
        assert backupctl(site.socket, "swaps", "drop", stamp, "--yes").returncode == 0
        assert describe_database(db.client, site.database) == before
