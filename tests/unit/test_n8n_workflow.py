"""n8n without n8n: JSON taken apart while it comes, names of files, what meets what, what changes."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.model import Manifest, Part
from nanumpay_backupd.sources.base import Wanted
from nanumpay_backupd.sources.json_items import JsonItems
from nanumpay_backupd.sources.n8n_command import fingerprint
from nanumpay_backupd.sources.n8n_plan import Plan, meet, plan_of
from nanumpay_backupd.sources.n8n_workflow import (
    Print,
    changes,
    file_name,
    label,
    portrait,
    rewired,
    shown_name,
    without_people,
    written,
)
from nanumpay_backupd.system.secrets import Secret

TEXTS = st.text(max_size=20) | st.sampled_from(['"', "\\", "[{", '}]"', "\u2028", "🚀", '{"data": [', "\ud800"])
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(TEXTS, VALUES, max_size=4)


def taken_apart(data: bytes, level: int, size: int) -> tuple[list[Any], Any]:
    """Feed bytes in pieces of a size; returns the objects and what is around them."""
    items = JsonItems(level)
    found: list[Any] = []
    for at in range(0, len(data), size):
        found += items.feed(data[at : at + size])
    found += items.feed(b"")
    return found, items.around()


@given(st.lists(OBJECTS, max_size=4), st.sampled_from([None, "bWFyaw==", "[{"]), st.integers(1, 40), st.booleans())
def test_json_is_the_same_in_any_pieces(items: list[Any], mark: str | None, size: int, indent: bool) -> None:
    """Objects come out as they went in, whatever the size of the pieces, in an array, in a page, and alone."""
    for level, document in (
        (1, items),
        (2, {"data": items, "nextCursor": mark}),
        (2, {"nextCursor": mark, "data": items}),
    ):
        data = json.dumps(document, indent=2 if indent else None).encode()
        found, around = taken_apart(data, level, size)
        if level == 2 and next(iter(cast("dict[str, Any]", document))) != "data":
            assert around == document, "nothing is lost where another key comes first"
            continue
        assert found == items
        zeros = [0] * len(items)
        assert around == (zeros if level == 1 else {"data": zeros, "nextCursor": mark})
    for one in items:
        assert taken_apart(json.dumps(one).encode(), 0, size) == ([one], 0)


@given(st.lists(OBJECTS, min_size=1, max_size=3), st.integers(1, 40), st.data())
def test_json_that_is_cut_off_is_refused(items: list[Any], size: int, data: st.DataObject) -> None:
    """Wherever it ends too early, it is no JSON."""
    whole = json.dumps({"data": items}).encode()
    cut = data.draw(st.integers(1, len(whole) - 1))
    with pytest.raises(ValueError):
        taken_apart(whole[:cut], 2, size)


@pytest.mark.parametrize("text", ["[NaN]", "[{]}", "[{}] []", "\xff", "[" * 100_000, '{"data": [' + '{"a":' * 100_000])
def test_what_is_no_json_is_a_sentence(text: str) -> None:
    """Neither a number that is none, nor nesting without an end, nor other bytes are more than a ValueError."""
    for level in (0, 1, 2):
        with pytest.raises(ValueError):
            taken_apart(text.encode("latin-1"), level, 1 << 16)


@given(st.lists(st.tuples(st.text(max_size=30) | st.none(), st.text(max_size=100)), max_size=6))
def test_names_of_files_are_safe_and_each_is_once(rows: list[tuple[str | None, str]]) -> None:
    """No separator, no dot at the beginning, not too long, and none like another on a disk that knows no case."""
    taken: set[str] = set()
    names = [file_name({"id": number, "name": name}, taken) for number, name in rows]
    assert len({name.casefold() for name in names}) == len(names)
    for name in names:
        assert name.endswith(".json")
        assert len(name.encode()) < 200
        assert not {"/", "\\", "\0", ":", "*", "?", '"', "<", ">", "|", "\n"} & set(name)
        assert not name.startswith((".", "-")) or rows[names.index(name)][0] is not None


@pytest.mark.parametrize(
    "number, name, expected",
    [
        ("Ab1", "Order sync", "Ab1-Order-sync.json"),
        ("Ab1", "../../x", "Ab1-x.json"),
        ("../..", "x", "id-0cfd1c96cbc0-x.json"),
        ("Ab1", "", "Ab1.json"),
        ("Ab1", "🚀", "Ab1.json"),
        ("Ab1", "주문 동기화", "Ab1-주문-동기화.json"),
        ("7", "é" * 100, "7-" + "é" * 40 + ".json"),
    ],
)
def test_a_name_of_a_file(number: str, name: str, expected: str) -> None:
    """The id comes first, then what of the name can stand anywhere."""
    assert file_name({"id": number, "name": name}, set()) == expected


@given(OBJECTS)
def test_what_is_written_is_read_again(workflow: dict[str, Any]) -> None:
    """Any JSON, also with half a sign in a text, which UTF-8 cannot say."""
    for indent in (None, 2):
        data = written(workflow, indent=indent)
        assert data.endswith(b"\n")
        assert json.loads(data.decode("utf-8")) == workflow


def print_of(number: str, name: str, whole: str = "same") -> Print:
    """Return the print of a workflow."""
    return Print(id=number, name=name, whole=f"{name}-{whole}")


@pytest.mark.parametrize(
    "ours, theirs, prefix, met, unclear",
    [
        (["1 a"], ["1 b"], "", {"1": "1"}, ()),
        (["1 a"], ["9 a"], "", {"1": "9"}, ()),
        (["1 a"], ["9 b"], "", {}, ()),
        (["1 a", "2 a"], ["9 a"], "", {"1": "9"}, ()),
        (["1 a x", "2 a y"], ["8 a y", "9 a x"], "", {"1": "9", "2": "8"}, ()),
        (["1 a x"], ["8 a y", "9 a z"], "", {}, ("a",)),
        (["1 a", "2 a"], ["1 c", "9 a"], "", {"1": "1", "2": "9"}, ()),
        (["1 a"], ["1 a", "9 old a"], "old ", {"1": "9"}, ()),
        (["1 a"], ["1 a"], "old ", {}, ()),
    ],
)
def test_what_meets_what(
    ours: list[str], theirs: list[str], prefix: str, met: dict[str, str], unclear: tuple[str, ...]
) -> None:
    """By its id, else the only one of the name, else the one that is the same; nothing is met twice."""

    def read(text: str) -> Print:
        number, _, name = text.partition(" ")
        last = name.rpartition(" ")[2]
        state = last if last in ("x", "y", "z") else "same"
        return print_of(number, name.removesuffix(f" {state}"), state)

    prints = {text[0]: read(text) for text in ours}
    found = meet(Plan(parts=(), prints=prints, prefix=prefix), map(read, theirs))
    assert found == (met, unclear)


def node(name: str, **parameters: Any) -> dict[str, Any]:
    """Return a node."""
    return {"name": name, "parameters": parameters, "credentials": {"http": {"id": "1", "name": "login"}}}


BASE = {
    "id": "1",
    "name": "a",
    "nodes": [node("x"), node("y")],
    "connections": {"x": 1},
    "settings": {"s": 1},
    "active": False,
}


@pytest.mark.parametrize(
    "now, told",
    [
        ({}, []),
        ({"updatedAt": "later", "staticData": {"a": 1}, "versionId": "other"}, []),
        ({"settings": {"s": 1, "added": 2}}, []),
        ({"nodes": [{**node("x"), "credentials": {"http": {"id": "9", "name": "login"}}}, node("y")]}, []),
        ({"nodes": [node("x", a=1), node("z")]}, ["changed: x", "comes back: y", "goes: z"]),
        ({"connections": {}}, ["connections"]),
        ({"settings": {}}, ["settings s"]),
        ({"name": "b"}, ["is called b now"]),
        ({"tags": [{"name": "t"}]}, ["tags: none"]),
        ({"active": True}, ["is deactivated"]),
    ],
)
def test_what_changes_is_told(now: dict[str, Any], told: list[str]) -> None:
    """What bringing back a workflow changes, in words; nothing where it is the same for its users."""
    assert list(changes(portrait({**BASE, **now}), portrait(BASE))) == told


def test_another_version_at_work_is_another_state() -> None:
    """Where the published version is not the last one, that counts as well."""
    active = {**BASE, "active": True, "activeVersion": {"nodes": BASE["nodes"], "connections": BASE["connections"]}}
    older = {**active, "activeVersion": {"nodes": [node("x")], "connections": {}}}
    assert list(changes(portrait(active), portrait(older))) == ["what is published"]
    assert list(changes(portrait(active), portrait({**active, "updatedAt": "x"}))) == []


def test_names_for_people_are_one_line() -> None:
    """No sign moves what stands around a name, none is empty, none is endless."""
    assert shown_name({"name": "a\nb\u202ec\x1b[31m"}) == "a b c [31m"
    assert label({"id": "1", "name": None}) == "without a name (1)"
    assert len(shown_name({"name": "x" * 999})) == 60


def test_accounts_are_left_out() -> None:
    """Of a project who may see it is not kept; all else is."""
    row = {
        "shared": [{"role": "r", "project": {"id": "p", "projectRelations": [{"user": {"email": "a@b"}}]}}],
        "id": "1",
    }
    assert without_people(row) == {"shared": [{"role": "r", "project": {"id": "p"}}], "id": "1"}
    assert without_people({"id": "1"}) == {"id": "1"}


def test_only_ids_of_workflows_are_rewired() -> None:
    """A text that looks like an id elsewhere stays."""
    row = {
        "nodes": [node("x", workflowId="A", note="A"), node("y", workflowId={"value": "B"})],
        "settings": {"callerIds": "A,B"},
    }
    found = rewired(row, {"A": "1", "C": "2"})
    assert [one["parameters"] for one in found["nodes"]] == [
        {"workflowId": "1", "note": "A"},
        {"workflowId": {"value": "B"}},
    ]
    assert found["settings"] == {"callerIds": "1,B"}
    assert rewired(row, {"A": "A"}) is row


def test_too_many_nodes_are_told_as_such() -> None:
    """Without the digests of nodes it is still told that they differ."""
    before, after = portrait(BASE), portrait({**BASE, "nodes": [node("x", a=1), node("y")]})
    assert list(changes(before, msgspec.structs.replace(after, nodes={}))) == ["its nodes"]


def test_a_fingerprint_tells_keys_apart_and_nothing_else() -> None:
    """The same key gives the same one, another key another one, and neither holds it."""
    one = fingerprint(Secret("the-key-of-n8n"))
    assert one == fingerprint(Secret("the-key-of-n8n")) != fingerprint(Secret("the-key-of-n8n "))
    assert one.startswith("scrypt:")
    assert "the-key" not in one


def test_parts_are_found_by_any_name_of_theirs() -> None:
    """By name, pattern, id, file; what is not there is said."""
    parts = (
        Part(name="a b (1)", kind="workflow", items=1, file="workflows/1-a-b.json"),
        Part(name="tags.json", kind="tags", file="tags.json"),
    )
    facts = {"print:a b (1)": msgspec.json.encode(print_of("1", "a b")).decode()}
    manifest = cast("Manifest", SimpleNamespace(backup="b", source=SimpleNamespace(parts=parts, facts=facts)))
    for word in ("a b", "a*", "1", "1-a-b.json", "workflows/1-a-b.json", "a b (1)"):
        assert plan_of(manifest, Wanted(only=(word,))).parts == parts[:1]
    assert plan_of(manifest, Wanted()).parts == parts
