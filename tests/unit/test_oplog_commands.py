"""Which commands of an oplog are kept, replaced, left out or refused, as far as no server has to be asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import bson
import pytest
from bson.binary import Binary
from bson.timestamp import Timestamp
from pymongo import MongoClient

from nanumpay_backupd.sources.oplog_commands import Commands, UnreplayableError, fcv_changed
from nanumpay_backupd.sources.oplog_entry import same
from nanumpay_backupd.sources.oplog_indexes import IndexHistory
from tests.unit.oplogs import Document, encoded, entry, transaction, write

OURS = same(frozenset({b"shop"}))
NEW = Binary(b"u" * 16, 4)  # what made-up entries have
OTHER = Binary(b"o" * 16, 4)
FCV = "featureCompatibilityVersion"


@pytest.fixture
def history() -> Iterator[IndexHistory]:
    """Index history of a server that is never asked."""
    with MongoClient[dict[str, Any]]("mongodb://127.0.0.1:1", connect=False) as client:
        yield IndexHistory(client)


def command(content: Document, database: str = "shop") -> bytes:
    """Return a command's entry."""
    return encoded([entry("c", f"{database}.$cmd", content)])[0]


def commands_in(kept: bytes | None) -> list[Document]:
    """Return the commands that an entry holds."""
    assert kept is not None
    content = bson.decode(kept)["o"]
    return [item["o"] for item in content["applyOps"]] if "applyOps" in content else [content]


AS_IT_IS: list[Document] = [
    {"create": "a", "idIndex": {"v": 2, "key": {"_id": 1}, "name": "_id_"}},
    {"createIndexes": "a", "v": 2, "key": {"x": 1}, "name": "x_1"},
    {"commitIndexBuild": "a", "indexes": [{"v": 2, "key": {"x": 1}, "name": "x_1"}]},
    {"dropIndexes": "a", "index": "x_1"},
    {"deleteIndexes": "a", "index": "x_1"},
    {"drop": "a"},
    {"dropDatabase": 1},
    {"collMod": "a", "validator": {"x": 1}},
    {"convertToCapped": "a", "size": 1},
    {"emptycapped": "a"},
]


@pytest.mark.parametrize("content", AS_IT_IS, ids=lambda content: next(iter(content)))
def test_what_mongorestore_does_right_stays_byte_for_byte(history: IndexHistory, content: Document) -> None:
    """Nothing is changed without need; foreign commands are left out."""
    assert Commands(OURS, history)(command(content)) == command(content)
    assert Commands(OURS, history)(command(content, "foreign")) is None


@pytest.mark.parametrize("name", ["startIndexBuild", "abortIndexBuild", "dbCheck", "setMultikeyMetadata", "dropIdent"])
def test_what_changes_no_data_is_left_out(history: IndexHistory, name: str) -> None:
    """The restored server does such things by itself."""
    assert Commands(OURS, history)(command({name: "a"})) is None


@pytest.mark.parametrize(
    "content, sentence",
    [
        ({"importCollection": "shop.a", "numRecords": 1}, "imported"),
        ({"upgradeDowngradeViewlessTimeseries": "a"}, "upgradeDowngradeViewlessTimeseries"),
        ({"whatever": 1}, "'whatever'"),
    ],
)
def test_what_cannot_be_replayed_is_refused_with_its_reason(
    history: IndexHistory, content: Document, sentence: str
) -> None:
    """Better a slice that ends there and says so than a restore that fails; what is foreign does not matter."""
    with pytest.raises(UnreplayableError, match=sentence):
        Commands(OURS, history)(command(content))
    assert Commands(OURS, history)(command(content, "foreign")) is None


def test_a_renaming_brings_the_indexes_that_were_made_before_it(history: IndexHistory) -> None:
    """As they are after all that was done to them: made, changed, dropped; those of the target go with it."""
    keep = Commands(OURS, history)
    for content in (
        {"create": "a"},
        {"createIndexes": "a", "v": 2, "key": {"x": 1}, "name": "x_1"},
        {
            "commitIndexBuild": "a",
            "indexes": [{"v": 2, "key": {"y": 1}, "name": "y"}, {"v": 2, "key": {"z": 1}, "name": "z"}],
        },
        {"dropIndexes": "a", "index": "y"},
    ):
        keep(command(content))
    changed = commands_in(keep(command({"collMod": "a", "index": {"keyPattern": {"z": 1}, "hidden": True}})))
    hidden = {"createIndexes": "a", "v": 2, "key": {"z": 1}, "name": "z", "hidden": True}
    assert changed == [{"dropIndexes": "a", "index": "z"}, hidden]
    kept = keep(command({"renameCollection": "shop.a", "to": "shop.b", "stayTemp": False, "dropTarget": OTHER}))
    assert commands_in(kept) == [
        {"drop": "b"},
        {"renameCollection": "shop.a", "to": "shop.b", "stayTemp": False},
        {"dropIndexes": "a", "index": "*"},
        {"createIndexes": "b", "v": 2, "key": {"x": 1}, "name": "x_1"},
        {**hidden, "createIndexes": "b"},
    ]
    assert kept is not None
    assert bson.decode(kept)["ts"] == Timestamp(1, 1)


def test_indexes_made_in_a_transaction_are_known_too(history: IndexHistory) -> None:
    """A collection that a transaction created is followed like any other."""
    keep = Commands(OURS, history)
    made: list[Document] = [{"create": "a"}, {"createIndexes": "a", "v": 2, "key": {"x": 1}, "name": "x"}]
    assert keep(encoded([transaction([entry("c", "shop.$cmd", item) for item in made])])[0]) is not None
    assert commands_in(keep(command({"renameCollection": "shop.a", "to": "shop.b"})))[-1]["createIndexes"] == "b"


def test_a_change_of_an_index_that_is_not_there_any_more_leaves_the_rest(history: IndexHistory) -> None:
    """What else a collMod changes is done all the same; where nothing is left, the entry goes."""
    keep = Commands(OURS, history)
    keep(command({"create": "a"}))
    index = {"name": "gone", "hidden": True}
    assert commands_in(keep(command({"collMod": "a", "index": index, "validationLevel": "off"}))) == [
        {"collMod": "a", "validationLevel": "off"}
    ]
    assert keep(command({"collMod": "a", "index": index})) is None


def test_time_series_collections_go_by_both_names(history: IndexHistory) -> None:
    """Mongorestore knows their indexes by the collection's name or by that of its buckets."""
    keep = Commands(OURS, history)
    assert commands_in(keep(command({"dropIndexes": "system.buckets.m", "index": "x"}))) == [
        {"dropIndexes": "system.buckets.m", "index": "x"},
        {"dropIndexes": "m", "index": "x"},
    ]
    assert commands_in(keep(command({"drop": "system.buckets.m"}))) == [
        {"drop": "system.buckets.m"},
        {"dropIndexes": "m", "index": "*"},
    ]


class TestBesideADump:
    """What makes a dump unfit that is made meanwhile."""

    def test_a_renaming_is_refused_unless_all_of_it_came_meanwhile(self, history: IndexHistory) -> None:
        """A dump by names may miss what changes its name."""
        rename = command({"renameCollection": "shop.a", "to": "shop.b"})
        with pytest.raises(UnreplayableError, match="renamed while the dump"):
            Commands(OURS, history, set())(rename)
        keep = Commands(OURS, history, set())
        keep(command({"create": "a"}))
        assert keep(rename) is not None

    @pytest.mark.parametrize(
        "gone, owner",
        [
            pytest.param({"drop": "a"}, OTHER, id="drop"),
            pytest.param({"renameCollection": "shop.new", "to": "shop.a", "dropTarget": OTHER}, NEW, id="onto"),
        ],
    )
    def test_a_drop_of_what_was_written_to_is_refused(
        self, history: IndexHistory, gone: Document, owner: Binary
    ) -> None:
        """The dump may not hold the collection, and then its documents could not be replayed."""
        for written in (set(), {b"shop.a"}, {b"shop.b"}):
            keep = Commands(OURS, history, written)
            keep(command({"create": "new"}))
            dropped = encoded([{**entry("c", "shop.$cmd", gone), "ui": owner}])[0]
            if b"shop.a" in written:
                with pytest.raises(UnreplayableError, match="written to and dropped"):
                    keep(dropped)
            else:
                assert keep(dropped) is not None

    def test_documents_inside_transactions_count_as_written(self, history: IndexHistory) -> None:
        """They are replayed like others."""
        keep = Commands(OURS, history, set())
        keep(encoded([transaction([write("i", "shop.a", 1)])])[0])
        with pytest.raises(UnreplayableError, match="written to and dropped"):
            keep(command({"drop": "a"}))

    def test_what_came_and_went_meanwhile_is_fine(self, history: IndexHistory) -> None:
        """Its creation is replayed as well."""
        keep = Commands(OURS, history, {b"shop.a"})
        keep(command({"create": "a"}))
        assert keep(command({"drop": "a"})) is not None


@pytest.mark.parametrize(
    "content, more, changed",
    [
        (
            {"_id": "featureCompatibilityVersion", "version": "6.0"},
            {"o2": {"_id": "featureCompatibilityVersion"}},
            True,
        ),
        ({"$v": 2, "diff": {}}, {"o2": {"_id": "featureCompatibilityVersion"}}, True),
        ({"_id": "featureCompatibilityVersion"}, {}, True),
        ({"$v": 2, "diff": {}}, {"o2": {"_id": "authSchema"}}, False),
    ],
)
def test_a_change_of_the_feature_compatibility_version_is_told(
    content: Document, more: Document, changed: bool
) -> None:
    """By the document that is written, whatever form the write has."""
    assert fcv_changed(encoded([entry("u", "admin.system.version", content, more)])[0]) is changed
