"""Which oplog entries concern one collection: never one that would touch another, and never one too few."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import bson
import pytest
from bson.timestamp import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.sources.oplog_collection import of_collection

Entry = dict[str, Any]
narrow = of_collection("pay", "users")
EARLIER = {"prevOpTime": {"ts": Timestamp(5, 1), "t": 1}}
FIRST = {"prevOpTime": {"ts": Timestamp(0, 0), "t": -1}}


def write(ns: str, op: str = "i") -> Entry:
    """Return an insert, or another operation on a document."""
    return {"op": op, "ns": ns, "o": {"_id": 1}}


def command(ns: str, **fields: Any) -> Entry:
    """Return a command; its name comes first."""
    return {"op": "c", "ns": f"{ns}.$cmd", "o": fields}


def together(*items: Entry, more: Mapping[str, Any] | None = None, **fields: Any) -> Entry:
    """Return a transaction's entry."""
    return {"op": "c", "ns": "admin.$cmd", "o": {"applyOps": list(items), **fields}, **(more or FIRST)}


@pytest.mark.parametrize(
    "entry,kept",
    [
        (write("pay.users"), True),
        (write("pay.users", "u"), True),
        (write("pay.users", "d"), True),
        (write("pay.system.buckets.users"), True),
        (write("pay.users2"), False),
        (write("pay.users.old"), False),
        (write("pay2.users"), False),
        (write("pay.system.views"), False),
        ({"op": "n", "ns": "", "o": {"msg": "periodic noop"}}, False),
        (command("pay", createIndexes="users", v=2, key={"a": 1}, name="a_1"), True),
        (command("pay", commitIndexBuild="users", indexBuildUUID=1, indexes=[]), True),
        (command("pay", dropIndexes="users", index="a_1"), True),
        (command("pay", collMod="system.buckets.users", expireAfterSeconds=5), True),
        (command("pay", create="users", capped=True, size=1000), True),
        (command("pay", drop="users"), True),
        (command("pay", drop="users2"), False),
        (command("pay2", drop="users"), False),
        # Would drop the other collections of the target too; a drop of each stands before it.
        (command("pay", dropDatabase=1), False),
        (command("pay", renameCollection="pay.users", to="pay.users3"), True),
        (command("pay", renameCollection="pay.tmp1", to="pay.users", dropTarget=True), True),
        (command("pay", renameCollection="pay.tmp1", to="pay.other"), False),
        (command("admin", commitTransaction=1, commitTimestamp=Timestamp(6, 1)), True),
        (command("admin", abortTransaction=1), True),
    ],
    ids=lambda value: str(value)[:60],
)
def test_an_entry_is_kept_as_it_is_or_not_at_all(entry: Entry, kept: bool) -> None:
    """Writes, indexes and options of the collection stay, what is stored behind a time-series collection included."""
    assert narrow(entry) == (bson.encode(entry) if kept else None)


@pytest.mark.parametrize(
    "entry,left",
    [
        (together(write("pay.users"), write("pay.users", "u")), 2),
        (together(write("pay.users"), write("pay.plans"), write("other.users")), 1),
        (together(write("pay.plans"), command("pay", drop="users")), 1),
        (together(write("pay.plans")), None),
        # Parts of a longer transaction: without them its chain is broken.
        (together(write("pay.plans"), partialTxn=True), 0),
        (together(write("pay.plans"), more=EARLIER), 0),
        (together(write("pay.plans"), prepare=True), 0),
        (together(write("pay.users"), write("pay.plans"), more=EARLIER), 1),
    ],
)
def test_a_transaction_is_reduced_to_the_collections_part(entry: Entry, left: int | None) -> None:
    """What else was written in it is taken out; all else of the entry stays."""
    data = narrow(entry)
    if left is None:
        assert data is None
        return
    assert data is not None
    found = bson.decode(data)
    assert len(found["o"]["applyOps"]) == left
    for inner in found["o"]["applyOps"]:
        assert inner["ns"] == "pay.users" or inner["o"] == {"drop": "users"}
    assert {**found, "o": {**found["o"], "applyOps": 0}} == {**entry, "o": {**entry["o"], "applyOps": 0}}


names = st.sampled_from(["users", "plans", "system.buckets.users", "system.buckets.plans", "users.x"])
databases = st.sampled_from(["pay", "other"])
writes = st.builds(lambda db, name, op: write(f"{db}.{name}", op), databases, names, st.sampled_from("iud"))
commands = st.builds(
    lambda db, verb, name: command(db, **{verb: name}), databases, st.sampled_from(["create", "drop"]), names
)
entries = st.one_of(writes, commands, st.builds(lambda items: together(*items), st.lists(st.one_of(writes, commands))))


@given(entries)
def test_what_is_kept_touches_no_other_collection(entry: Entry) -> None:
    """Every single operation that is left is on this collection, and none on it is lost."""

    def touched(found: Entry) -> list[str]:
        if "applyOps" in found["o"]:
            return [ns for inner in found["o"]["applyOps"] for ns in touched(inner)]
        return (
            [f"{found['ns'].partition('.')[0]}.{next(iter(found['o'].values()))}"]
            if found["op"] == "c"
            else [found["ns"]]
        )

    data = narrow(entry)
    own = {"pay.users", "pay.system.buckets.users"}
    left = [] if data is None else touched(bson.decode(data))
    assert left == [ns for ns in touched(entry) if ns in own]
