"""Slices of a real oplog: whatever was done to a database, a full and slices bring it back with stock mongorestore."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymongo
import pytest
from bson.timestamp import Timestamp
from pymongo.client_session import ClientSession

from nanumpay_backupd.errors import SourceError
from nanumpay_backupd.model import OpTime
from nanumpay_backupd.settings.schema import MongoSource
from nanumpay_backupd.sources import oplog_range
from nanumpay_backupd.sources.oplog_replay import build_replay
from nanumpay_backupd.sources.oplog_slice import OplogReader, SliceRead
from nanumpay_backupd.sources.oplog_validation import levels_in
from nanumpay_backupd.system.secrets import Secret
from nanumpay_backupd.transforms.zstd import ZstdWriter, read_zstd
from tests.compare import describe_database
from tests.oplog_scenarios import PAST_VALIDATION, SCENARIOS
from tests.servers.mongod import Mongod, free_port, start_mongod
from tests.servers.tools import find_tool, tools_path
from tests.unit.oplogs import decoded

pytestmark = pytest.mark.servers

Described = dict[str, dict[str, str]]

# What an operator types, with nothing of this software: the full unpacked in $FULL, the slices beside it in order.
BY_HAND = """
for slice in slice-*.bson.zst; do zstd -dc "$slice" >> "$FULL/oplog.bson"; done
mongorestore --uri="$URI" --drop --bypassDocumentValidation --oplogReplay --oplogLimit="$LIMIT" "$FULL"
"""


def reader(server: Mongod) -> OplogReader:
    """Return a reader of a server's oplog."""
    return OplogReader(MongoSource(uri=Secret(server.uri), database=""))


def newest(client: pymongo.MongoClient[dict[str, Any]]) -> OpTime:
    """Return the time of the newest entry."""
    time = client.admin.command("hello")["lastWrite"]["opTime"]["ts"]
    return OpTime(time.time, time.inc)


def save(server: Mongod, path: Path, after: OpTime, databases: Sequence[str] = (), **more: Any) -> SliceRead:
    """Read a slice into a file."""
    with reader(server) as source, ZstdWriter(path) as writer:
        found = source.read(after, databases, writer.write, lambda _entries, _size: None, **more)
        written = writer.finish()
    assert written.raw_bytes == found.raw_bytes
    assert len(entries_of(path)) == found.entries
    return found


def entries_of(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a slice."""
    return decoded(b"".join(read_zstd(path)))


def plain_levels(described: Described) -> Described:
    """Leave out a validation level and action that are the defaults: naming them or not is the same."""
    found = {}
    for name, facts in described.items():
        options = json.loads(facts["options"])
        for option, usual in {"validationLevel": "strict", "validationAction": "error"}.items():
            if options.get(option) == usual:
                del options[option]
        found[name] = {**facts, "options": json.dumps(options, sort_keys=True)}
    return found


@dataclass(frozen=True)
class Story:
    """What every scenario was at the ends of the two slices, and what two restores made of them."""

    middle: dict[str, Described]
    end: dict[str, Described]
    by_hand: dict[str, Described]
    renamed: dict[str, Described]
    databases: set[str]
    expected: set[str]


@pytest.fixture(scope="module")
def source() -> Iterator[Mongod]:
    """A replica set that lets a client prepare transactions, as a sharded cluster does."""
    with start_mongod(replica_set=True, extra_args=["--setParameter", "enableTestCommands=1"]) as server:
        yield server


@pytest.fixture(scope="module")
def fresh() -> Iterator[Mongod]:
    """A replica set whose oplog and version may be spoiled."""
    with start_mongod(replica_set=True) as server:
        yield server


@pytest.fixture(scope="module")
def story(source: Mongod, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Play all scenarios at once: one full, two slices, restored by hand, and in the middle under other names."""
    folder = tmp_path_factory.mktemp("story")
    full = folder / "full"
    names = {name: f"neu_{name}" for name in SCENARIOS}
    with source.client() as client, start_mongod(replica_set=True) as target, target.client() as restored:
        plays = {name: scenario(client[name]) for name, scenario in SCENARIOS.items()}
        for play in plays.values():
            next(play)
        start = newest(client)
        subprocess.run([find_tool("mongodump"), "--uri", source.uri, "--out", full, "--quiet"], check=True)
        for found in full.iterdir():
            if found.name not in names:
                subprocess.run(["rm", "-r", found], check=True)
        for play in plays.values():
            next(play)
        first = save(source, folder / "slice-1.bson.zst", start, tuple(names))
        middle = {name: describe_database(client, name) for name in names}
        expected = {names[name] for name in client.list_database_names() if name in names}
        for play in plays.values():
            assert next(play, "ended") == "ended"
        last = save(source, folder / "slice-2.bson.zst", first.end, tuple(names))
        end = {name: describe_database(client, name) for name in names}
        expected |= names.keys() & set(client.list_database_names()) - PAST_VALIDATION
        assert (first.broken, last.broken) == ("", "")
        renamed = restore_renamed(folder, full, names, first, target, restored)
        restore_by_hand(folder, full, last.end, target)
        by_hand = {name: describe_database(restored, name) for name in names}
        yield Story(middle, end, by_hand, renamed, set(restored.list_database_names()), expected)


def restore_renamed(
    folder: Path,
    full: Path,
    names: dict[str, str],
    first: SliceRead,
    target: Mongod,
    restored: pymongo.MongoClient[dict[str, Any]],
) -> dict[str, Described]:
    """Restore the end of the first slice under other names, from pieces that hold more than that."""
    copy = folder / "renamed"
    subprocess.run(["cp", "-r", full, copy], check=True)
    for old, new in names.items():
        if (copy / old).is_dir():
            (copy / old).rename(copy / new)
    pieces = [folder / "slice-1.bson.zst", folder / "slice-2.bson.zst"]
    levels = levels_in(copy)
    build_replay(pieces, copy / "oplog.bson", after=first.start, until=first.end, names=names, levels=levels)
    options = ["--uri", target.uri, "--drop", "--bypassDocumentValidation", "--oplogReplay"]
    done = subprocess.run([find_tool("mongorestore"), *options, copy], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {old: describe_database(restored, new) for old, new in names.items()}


def restore_by_hand(folder: Path, full: Path, end: OpTime, target: Mongod) -> None:
    """Restore everything by stock tools alone; of what this mongorestore cannot do, only the full."""
    for name in PAST_VALIDATION:
        subprocess.run(["rm", "-r", full / name], check=True)
    for path in sorted(folder.glob("slice-*.bson.zst")):
        kept = {name: name for name in SCENARIOS if name not in PAST_VALIDATION}
        plain = folder / "plain.bson"
        build_replay([path], plain, after=None, until=None, names=kept)
        path.unlink()
        subprocess.run([find_tool("zstd"), "-q", "--rm", plain, "-o", path], check=True)
    environment = {
        **os.environ,
        "PATH": tools_path(),
        "FULL": full.name,
        "URI": target.uri,
        # What is at the limit itself is not replayed any more.
        "LIMIT": str(OpTime(end.seconds, end.counter + 1)),
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", BY_HAND], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", sorted(SCENARIOS.keys() - PAST_VALIDATION))
def test_a_full_and_its_slices_restore_by_hand(story: Story, name: str) -> None:
    """With zstd and mongorestore alone: documents, indexes, options, views are those of the last slice's end."""
    assert story.by_hand[name] == story.end[name]


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_a_moment_between_restores_under_another_name(story: Story, name: str) -> None:
    """Cut at the first slice's end and renamed, all is as it was then."""
    assert plain_levels(story.renamed[name]) == plain_levels(story.middle[name])


def test_nothing_else_is_left_behind(story: Story) -> None:
    """No database and no collection comes into being that was not in the source."""
    assert story.databases - {"admin", "config", "local"} == story.expected


def test_a_transaction_that_is_prepared_in_one_slice_and_ended_in_another(
    source: Mongod, mongod_rs: Mongod, tmp_path: Path
) -> None:
    """Large enough for several entries, committed or aborted: its writes count from its end on, and not before."""
    with source.client() as client, mongod_rs.client() as restored:
        db = client.prepared
        db.a.insert_one({"_id": "before"})
        start = newest(client)
        committed, moment = prepared(client, ["one", "two"], 9_000_000)
        aborted, _ = prepared(client, ["never"], 10)
        db.a.insert_one({"_id": "between"})
        first = save(source, tmp_path / "1.bson.zst", start, ("prepared",))
        client.admin.command("commitTransaction", commitTimestamp=moment, session=committed)
        aborted.abort_transaction()
        for session in (committed, aborted):
            session.end_session()
        last = save(source, tmp_path / "2.bson.zst", first.end, ("prepared",))
        restored.drop_database("prepared")
        restored.prepared.a.insert_one({"_id": "before"})
        pieces = [tmp_path / "1.bson.zst", tmp_path / "2.bson.zst"]
        found = {}
        for until in (first.end, last.end):
            (tmp_path / str(until)).mkdir()
            build_replay(pieces, tmp_path / str(until) / "oplog.bson", after=start, until=until, names={})
            options = ["--uri", mongod_rs.uri, "--oplogReplay", "--quiet"]
            subprocess.run([find_tool("mongorestore"), *options, tmp_path / str(until)], check=True)
            found[until] = set(restored.prepared.a.distinct("_id"))
        restored.drop_database("prepared")
        client.drop_database("prepared")
    assert found[first.end] == {"before", "between"}
    assert found[last.end] == {"before", "between", "one", "two"}


def prepared(
    client: pymongo.MongoClient[dict[str, Any]], identities: Sequence[str], size: int
) -> tuple[ClientSession, Timestamp]:
    """Begin a transaction, write documents of ``size`` bytes and prepare it; returns what its commit needs."""
    session = client.start_session()
    session.start_transaction()
    for identity in identities:
        client.prepared.a.insert_one({"_id": identity, "text": "x" * size}, session=session)
    reply = client.admin.command("prepareTransaction", session=session, writeConcern={"w": "majority"})
    return session, reply["prepareTimestamp"]


def test_indexes_as_they_were_at_a_renaming_are_known_although_they_changed_later(
    source: Mongod, mongod_rs: Mongod, tmp_path: Path
) -> None:
    """What happened to the indexes between the renaming and the reading is undone for the moments before it."""
    with source.client() as client, mongod_rs.client() as restored:
        db = client.later
        db.a.insert_one({"_id": 1})
        for name in ("dropped", "hidden", "ttl", "unique", "replaced"):
            options: dict[str, Any] = {"expireAfterSeconds": 500} if name == "ttl" else {}
            db.a.create_index(name, name=name, **options)
        subprocess.run(
            [find_tool("mongodump"), "--uri", source.uri, "--db", "later", "--out", tmp_path, "--quiet"], check=True
        )
        start = newest(client)
        db.a.rename("b")
        moment, then = newest(client), describe_database(client, "later")
        db.b.drop_index("dropped")
        db.command("collMod", "b", index={"name": "hidden", "hidden": True})
        db.command("collMod", "b", index={"name": "ttl", "expireAfterSeconds": 900})
        db.command("collMod", "b", index={"name": "unique", "prepareUnique": True})
        db.command("collMod", "b", index={"name": "unique", "unique": True})
        db.b.drop_index("replaced")
        db.b.create_index("other", name="replaced")
        db.b.create_index("new")
        db.b.rename("c")
        now = describe_database(client, "later")
        found = save(source, tmp_path / "slice.bson.zst", start, ("later",))
        for until, expected in ((found.end, now), (moment, then)):
            restored.drop_database("later")
            pieces = [tmp_path / "slice.bson.zst"]
            build_replay(pieces, tmp_path / "oplog.bson", after=start, until=until, names={})
            flags = ["--uri", mongod_rs.uri, "--oplogReplay", "--quiet"]
            subprocess.run([find_tool("mongorestore"), *flags, tmp_path], check=True)
            assert describe_database(restored, "later") == expected
        restored.drop_database("later")
        client.drop_database("later")


def test_a_collection_renamed_and_then_dropped_leaves_nothing(source: Mongod, tmp_path: Path) -> None:
    """Its indexes cannot be known any more; the slice says the renaming and the drop, and is whole."""
    with source.client() as client:
        client.later.a.create_index("x")
        start = newest(client)
        client.later.a.rename("b")
        client.later.b.drop()
    found = save(source, tmp_path / "slice.bson.zst", start, ("later",))
    assert found.broken == ""
    renamed, dropped = entries_of(tmp_path / "slice.bson.zst")
    assert [next(iter(item["o"])) for item in renamed["o"]["applyOps"]] == ["drop", "renameCollection", "dropIndexes"]
    assert dropped["o"] == {"drop": "b"}


class TestReading:
    """What is read, from when to when."""

    def test_only_what_concerns_the_databases_between_the_two_moments(self, source: Mongod, tmp_path: Path) -> None:
        """Neither what came before or after, nor other databases, nor the server's own."""
        with source.client() as client:
            client.one.a.insert_one({"_id": 0})
            start = newest(client)
            client.one.a.insert_one({"_id": 1})
            client.other.a.insert_one({"_id": 2})
            client["one-more"].a.insert_one({"_id": 3})
            client.one.a.insert_one({"_id": 4})
            until = newest(client)
            client.one.a.insert_one({"_id": 5})
        for number, (databases, expected) in enumerate(
            {("one",): [1, 4], ("one", "other"): [1, 2, 4], (): [1, 2, 3, 4], ("nothing",): []}.items()
        ):
            path = tmp_path / f"{number}.bson.zst"
            found = save(source, path, start, databases, until=until)
            assert [item["o"]["_id"] for item in entries_of(path) if item["op"] == "i"] == expected
            assert (found.start, found.end, found.broken) == (start, until, "")

    def test_slices_follow_each_other_without_a_gap(self, source: Mongod, tmp_path: Path) -> None:
        """Each ends where the next begins; when nothing was written, a slice is empty and ends where it began."""
        with source.client() as client:
            position = newest(client)
            numbers = []
            for number in range(5):
                client.one.b.insert_many([{"_id": f"{number}.{at}"} for at in range(3)])
                path = tmp_path / f"{number}.bson.zst"
                found = save(source, path, position, ("one",))
                numbers += [item["o"]["_id"] for item in entries_of(path) if item["op"] == "i"]
                position = found.end
        assert numbers == [f"{number}.{at}" for number in range(5) for at in range(3)]
        again = save(source, tmp_path / "again.bson.zst", position, ("one",))
        assert (again.start, again.entries, again.raw_bytes) == (position, 0, 0)

    def test_batches_of_any_size_give_the_same(
        self, source: Mongod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where a server ends a batch leaves no trace, also when entries fall out of it."""
        with source.client() as client:
            start = newest(client)
            for at in range(30):
                client.one.c.insert_one({"_id": at})
                client.one.c.update_one({"_id": at}, {"$set": {"x": at}})
                with client.start_session() as session, session.start_transaction():
                    client.one.c.insert_one({"_id": f"t{at}"}, session=session)
                    client.other.c.insert_one({"_id": f"t{at}"}, session=session)
            until = newest(client)
        contents = set()
        for size in (1, 2, 7, 4000):
            monkeypatch.setattr(oplog_range, "_BATCH", size)
            path = tmp_path / f"{size}.bson.zst"
            assert save(source, path, start, ("one",), until=until).entries == 91
            contents.add(b"".join(read_zstd(path)))
        assert len(contents) == 1

    def test_whoever_asks_can_stop_it(self, source: Mongod) -> None:
        """What ``check`` raises comes through; before, it heard how far the reading was."""
        heard = []

        def check(entries: int, size: int) -> None:
            heard.append((entries, size))
            raise KeyError("enough")

        with source.client() as client, reader(source) as oplog:
            start = newest(client)
            client.one.d.insert_one({"_id": 1})
            with pytest.raises(KeyError):
                oplog.read(start, ("one",), lambda _: None, check)
        assert heard[0][0] == 2

    def test_the_state_tells_how_far_the_oplog_reaches(self, source: Mongod) -> None:
        """Its oldest and newest entry, what a majority has, the term, and the seconds that it holds once it is full."""
        with source.client() as client, reader(source) as oplog:
            client.one.e.insert_one({})
            state = oplog.state()
            first = client.local["oplog.rs"].find_one(sort=[("$natural", 1)])
        assert first is not None
        assert state.first == OpTime(first["ts"].time, first["ts"].inc)
        assert state.first < state.majority <= state.newest
        assert 0 < state.filled < 1
        assert state.window >= state.newest.seconds - state.first.seconds
        assert state.term >= 1


class TestRefusals:
    """What cannot be read, and why."""

    def fault(self, uri: str, after: OpTime | None = None) -> SourceError:
        """Return the fault of looking at a server, or of reading from it."""
        with (
            OplogReader(MongoSource(uri=Secret(uri), database="one")) as oplog,
            pytest.raises(SourceError) as caught,
        ):
            oplog.state() if after is None else oplog.read(after, ("one",), lambda _: None, lambda _a, _b: None)
        return caught.value

    def test_a_standalone_server_has_no_oplog(self, mongod_standalone: Mongod) -> None:
        """The way to a replica set of one node is shown, when looking and when reading."""
        for after in (None, OpTime(1, 1)):
            fault = self.fault(mongod_standalone.uri, after)
            assert (fault.code, fault.retryable) == ("no-oplog", False)
            assert "standalone" in fault.message
            assert "docs/install.md" in fault.hint

    def test_a_server_that_is_not_there(self) -> None:
        """The address is named, the password is not."""
        fault = self.fault(f"mongodb://u:secret@127.0.0.1:{free_port()}/?directConnection=true&appName=x")
        assert (fault.code, fault.retryable) == ("source-unreachable", True)
        assert "127.0.0.1" in fault.message
        assert "secret" not in fault.message + fault.hint

    def test_a_user_who_may_not_read_the_oplog(self) -> None:
        """The role that is needed is named; with it, it goes."""
        with start_mongod(replica_set=True, auth=True) as server, server.client() as client:
            for name, role in (("writer", "readWrite"), ("saver", "backup")):
                database = "one" if role == "readWrite" else "admin"
                client.admin.command("createUser", name, pwd="x", roles=[{"role": role, "db": database}])
            start = newest(client)
            client.one.a.insert_one({"_id": 1})
            client.one.a.create_index("x")
            client.one.a.rename("b")
            uri = f"mongodb://%s:x@{server.address}/?replicaSet=rs0&authSource=admin"
            for after in (None, start):
                fault = self.fault(uri % "writer", after)
                assert (fault.code, fault.retryable) == ("source-auth", False)
                assert "'backup'" in fault.hint
            with OplogReader(MongoSource(uri=Secret(uri % "saver"), database="one")) as oplog:
                assert oplog.read(start, ("one",), lambda _: None, lambda _a, _b: None).entries >= 3

    @pytest.mark.promise("An oplog that rolled over or was lost is a gap that is told, and a new full follows.", item=7)
    def test_an_oplog_that_does_not_go_on_from_there(self, fresh: Mongod) -> None:
        """Rolled over, or another history: the sentence says which, and no retry can help."""
        with fresh.client() as client:
            client.one.a.insert_one({"_id": 1})
            before = newest(client)
            client.one.a.insert_one({"_id": 2})
        fresh.forget_oplog()
        with fresh.client() as client:
            now = newest(client)
            while newest(client).seconds <= now.seconds:
                client.one.a.insert_one({})
        cases = {
            before: "rolled over",
            OpTime(now.seconds + 3600, 1): "history is another one: its newest change is",
            # Between two entries: as after a restore of an older copy that was written to since.
            OpTime(now.seconds, now.counter + 500_000): "history is another one: its oplog does not hold",
        }
        for after, sentence in cases.items():
            fault = self.fault(fresh.uri, after)
            assert sentence in fault.message
            assert (fault.code, fault.retryable) == ("chain-broken", False)
        with reader(fresh) as oplog:
            assert oplog.read(now, (), lambda _: None, lambda _a, _b: None).start == now

    def test_a_change_of_the_feature_compatibility_version_ends_the_slice(self, fresh: Mongod, tmp_path: Path) -> None:
        """What comes after it cannot be replayed onto what came before; the slice ends just before, and says why."""
        with fresh.client() as client:
            start = newest(client)
            client.fcv.a.insert_one({"_id": 1})
            client.admin.command("setFeatureCompatibilityVersion", "5.0")
            client.fcv.a.insert_one({"_id": 2})
            client.admin.command("setFeatureCompatibilityVersion", "6.0")
            changed = client.local["oplog.rs"].find_one(
                {"ts": {"$gt": Timestamp(*start)}, "ns": "admin.system.version"}, sort=[("$natural", 1)]
            )
        assert changed is not None
        found = save(fresh, tmp_path / "slice.bson.zst", start, ("fcv",))
        assert "feature compatibility version" in found.broken
        assert [item["o"].get("_id") for item in entries_of(tmp_path / "slice.bson.zst")] == [None, 1]
        assert found.end == OpTime(changed["ts"].time, changed["ts"].inc - 1)
