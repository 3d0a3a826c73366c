"""Putting together what a restore replays: every entry once, between two moments, under other names."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bson
import pytest
from bson.timestamp import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from nanumpay_backupd.errors import RefusedError, VerifyError
from nanumpay_backupd.model import OpTime
from nanumpay_backupd.sources.oplog_replay import Replay, build_replay, touched_by
from nanumpay_backupd.sources.oplog_validation import levels_in
from nanumpay_backupd.transforms.zstd import ZstdWriter
from tests.unit.oplogs import Document, decoded, encoded, entry, oplogs, time_of, together, transaction, write

SHOP = {"shop": "shop"}


def saved(folder: Path, name: str, entries: Sequence[bytes]) -> Path:
    """Save entries as a piece, compressed where the name says so."""
    path = folder / name
    if name.endswith(".zst"):
        with ZstdWriter(path) as writer:
            for raw in entries:
                writer.write(raw)
            writer.finish()
    else:
        path.write_bytes(b"".join(entries))
    return path


def built(
    folder: Path, pieces: Sequence[Path], names: dict[str, str] | None = None, **more: Any
) -> tuple[bytes, Replay]:
    """Put pieces together; returns the file's content and what was said of it."""
    output = folder / "result.bson"
    limits: dict[str, Any] = {"after": None, "until": None, "names": names or {}, **more}
    replay = build_replay(pieces, output, **limits)
    content = output.read_bytes()
    assert replay.entries == len(decoded(content))
    assert not list(folder.glob(".*.part"))
    return content, replay


def one(folder: Path, entries: Sequence[Document], names: dict[str, str] | None = None, **more: Any) -> list[Document]:
    """Put one piece through and decode the result."""
    return decoded(built(folder, [saved(folder, "slice.bson", encoded(entries))], names, **more)[0])


@settings(max_examples=40)
@given(oplogs(most=20), st.data())
def test_any_split_into_overlapping_pieces_gives_the_same(entries: list[bytes], data: st.DataObject) -> None:
    """However an oplog is cut into slices, and wherever they overlap, each entry comes once and in order."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        expected, told = built(folder, [saved(folder, "all.bson", entries)], SHOP)
        pieces: list[Path] = []
        reached = 0
        while reached < len(entries):
            start = data.draw(st.integers(0, reached))
            reached = data.draw(st.integers(max(reached, start + 1), len(entries)))
            kind = data.draw(st.sampled_from(["bson", "bson.zst"]))
            pieces.append(saved(folder, f"{len(pieces)}.{kind}", entries[start:reached]))
        assert built(folder, pieces, SHOP) == (expected, told)
    times = [item["ts"] for item in decoded(expected)]
    assert times == sorted(set(times))
    assert told.last == (None if not times else OpTime(times[-1].time, times[-1].inc))


@settings(max_examples=40)
@given(oplogs(most=20))
def test_another_name_and_back_is_where_it_began(entries: list[bytes]) -> None:
    """Renaming loses nothing: what is called back is, byte for byte, what went in and was wanted."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain, _ = built(folder, [saved(folder, "all.bson", entries)], SHOP)
        there, told = built(folder, [saved(folder, "all.bson", entries)], {"shop": "복원_shop-2"})
        back, _ = built(folder, [saved(folder, "there.bson", [there])], {"복원_shop-2": "shop"})
        assert back == plain
        assert {item.partition(".")[0] for item in told.touched} <= {"복원_shop-2"}


@settings(max_examples=40)
@given(oplogs(most=20), st.data())
def test_cut_at_both_ends(entries: list[bytes], data: st.DataObject) -> None:
    """Of a slice only what is later than ``after`` and not later than ``until`` is taken."""
    ends = st.none() | st.integers(0, 8).flatmap(lambda second: st.integers(0, 4).map(lambda at: OpTime(second, at)))
    after, until = data.draw(ends), data.draw(ends)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        piece = saved(folder, "slice.bson.zst", entries)
        cut, told = built(folder, [piece], SHOP, after=after, until=until)
        whole, _ = built(folder, [piece], SHOP)
    wanted = [
        item
        for item in decoded(whole)
        if (after is None or (item["ts"].time, item["ts"].inc) > after)
        and (until is None or (item["ts"].time, item["ts"].inc) <= until)
    ]
    assert decoded(cut) == wanted
    assert told.entries == len(wanted)


@settings(max_examples=30)
@given(oplogs(most=20))
def test_names_that_stay_change_no_byte(entries: list[bytes]) -> None:
    """What is wanted under its own name is copied."""
    with tempfile.TemporaryDirectory() as name:
        content, _ = built(Path(name), [saved(Path(name), "all.bson", entries)])
    ours = [raw for raw in entries if b"ns\0\x0b\0\0\0admin.$cmd" not in raw]
    assert [raw for raw in ours if raw not in content] == []


def test_a_fulls_own_oplog_is_taken_whole_and_the_slices_follow(tmp_path: Path) -> None:
    """The full's file begins before the moment that the slices go on from; what both hold comes once."""
    entries = encoded([write("i", "shop.a", at) for at in range(12)])
    own = saved(tmp_path, "oplog.bson", entries[2:6])
    slices = [saved(tmp_path, "1.bson.zst", entries[0:8]), saved(tmp_path, "2.bson.zst", entries[8:])]
    content, told = built(tmp_path, [own, *slices], SHOP, after=time_of(entries[5]), until=time_of(entries[9]))
    assert content == b"".join(entries[2:10])
    assert told == Replay(entries=8, last=time_of(entries[9]), touched=frozenset({"shop.a"}))


def test_the_result_may_take_the_place_of_a_piece(tmp_path: Path) -> None:
    """A dump's own oplog.bson is replaced by the longer one as a whole."""
    entries = encoded([write("i", "shop.a", at) for at in range(6)])
    own = saved(tmp_path, "oplog.bson", entries[:3])
    build_replay(
        [own, saved(tmp_path, "1.bson", entries)], own, after=time_of(entries[2]), until=None, names={"shop": "neu"}
    )
    assert [item["ns"] for item in decoded(own.read_bytes())] == ["neu.a"] * 6


def test_nothing_to_replay_is_an_empty_file(tmp_path: Path) -> None:
    """Where nothing is wanted the file is there all the same, because mongorestore wants one."""
    content, told = built(tmp_path, [saved(tmp_path, "1.bson", encoded([write("i", "foreign.a", 1)]))], SHOP)
    assert (content, told) == (b"", Replay(entries=0, last=None, touched=frozenset()))
    assert built(tmp_path, [], SHOP)[0] == b""


def test_what_is_touched_is_told_by_its_new_name(tmp_path: Path) -> None:
    """Writes, those inside transactions, commands by what they name, renamings by both names."""
    entries = [
        write("i", "shop.a", 1),
        transaction([write("u", "shop.b", 1), write("u", "foreign.b", 1)]),
        entry("c", "shop.$cmd", {"drop": "c"}),
        together([{"op": "c", "ns": "shop.$cmd", "o": {"renameCollection": "shop.d", "to": "shop.e"}}]),
        entry("c", "shop.$cmd", {"dropDatabase": 1}),
    ]
    _, told = built(tmp_path, [saved(tmp_path, "1.bson", encoded(entries))], {"shop": "neu"})
    assert told.touched == {"neu.a", "neu.b", "neu.c", "neu.d", "neu.e", "neu.*"}
    assert touched_by(tmp_path / "result.bson") == told.touched


def test_several_databases_get_their_names_at_once(tmp_path: Path) -> None:
    """Also when two of them change places; what is not named is left out."""
    entries = [write("i", "shop.a", 1), write("i", "foreign.a", 2), write("i", "shopping.a", 3)]
    found = one(tmp_path, [*entries, transaction(entries)], {"shop": "foreign", "foreign": "shop"})
    assert [item["ns"] for item in found[:2]] == ["foreign.a", "shop.a"]
    assert [item["ns"] for item in found[2]["o"]["applyOps"]] == ["foreign.a", "shop.a"]


class TestOneCollection:
    """Limiting a replay to one collection of a database."""

    def test_what_belongs_to_it_is_taken_and_nothing_else(self, tmp_path: Path) -> None:
        """Its writes and commands, its buckets and its view when it is a time-series one."""
        entries = [
            write("i", "shop.a", 1),
            write("i", "shop.ab", 1),
            write("i", "shop.system.buckets.a", 1),
            entry("c", "shop.$cmd", {"create": "system.views"}),
            entry("i", "shop.system.views", {"_id": "shop.a"}, {"o2": {"_id": "shop.a"}}),
            entry("i", "shop.system.views", {"_id": "shop.v"}, {"o2": {"_id": "shop.v"}}),
            entry("c", "shop.$cmd", {"collMod": "system.buckets.a"}),
            entry("c", "shop.$cmd", {"drop": "b"}),
            transaction([write("i", "shop.b", 1), write("i", "shop.a", 2)]),
            transaction([write("i", "shop.b", 1)]),
            entry("c", "foreign.$cmd", {"drop": "a"}),
        ]
        found = one(tmp_path, entries, {"shop": "neu"}, collection="a")
        assert [item["ns"] for item in found] == [
            "neu.a",
            "neu.system.buckets.a",
            "neu.$cmd",
            "neu.system.views",
            "neu.$cmd",
            "admin.$cmd",
        ]
        assert [item["ns"] for item in found[-1]["o"]["applyOps"]] == ["neu.a"]

    def test_dropping_the_database_drops_it_alone(self, tmp_path: Path) -> None:
        """The other collections of the database where it is restored stay."""
        entries = [
            entry("c", "shop.$cmd", {"dropDatabase": 1}),
            entry("c", "shop.$cmd", {"drop": "system.views"}),
            entry("c", "foreign.$cmd", {"dropDatabase": 1}),
        ]
        found = one(tmp_path, entries, {"shop": "neu"}, collection="a")
        assert [(item["ns"], item["o"]) for item in found] == [("neu.$cmd", {"drop": "a"})] * 2

    @pytest.mark.parametrize("source, target", [("a", "b"), ("b", "a")])
    @pytest.mark.parametrize("wrapped", [True, False])
    def test_a_renaming_of_it_is_refused(self, tmp_path: Path, source: str, target: str, wrapped: bool) -> None:
        """What it holds cannot be told without the other name, so the whole database is needed, and that is said."""
        rename = entry("c", "shop.$cmd", {"renameCollection": f"shop.{source}", "to": f"shop.{target}"})
        with pytest.raises(RefusedError, match=rf"shop\.{source} was renamed to shop\.{target}") as caught:
            one(tmp_path, [together([rename]) if wrapped else rename], SHOP, collection="a")
        assert caught.value.code == "replay-refused"
        assert "--to-db" in caught.value.hint
        assert one(tmp_path, [rename], SHOP, collection="c") == []


class TestDamage:
    """Pieces that are not whole are named, and leave no result."""

    @pytest.mark.parametrize("cut", [1, 4, 20])
    @pytest.mark.parametrize("name", ["slice.bson", "slice.bson.zst"])
    def test_a_piece_that_is_cut_off(self, tmp_path: Path, name: str, cut: int) -> None:
        """A slice that ends within an entry is not taken for one that ends there."""
        path = saved(tmp_path, name, encoded([write("i", "shop.a", at) for at in range(3)]))
        path.write_bytes(path.read_bytes()[:-cut])
        with pytest.raises(VerifyError, match=rf"^{name}"):
            built(tmp_path, [path], SHOP)
        assert [item.name for item in tmp_path.iterdir()] == [name]

    @pytest.mark.parametrize(
        "content",
        [
            b"mongodump: error\n",
            bytes(64),
            bson.encode({"ns": "shop.a", "op": "i"}),
            bson.encode({"ts": Timestamp(1, 1)}),
        ],
        ids=["text", "zeros", "no time", "no kind"],
    )
    def test_what_is_no_oplog(self, tmp_path: Path, content: bytes) -> None:
        """Anything else than entries is damage."""
        path = tmp_path / "slice.bson"
        path.write_bytes(content)
        with pytest.raises(VerifyError, match=r"slice\.bson is damaged"):
            built(tmp_path, [path], SHOP)

    def test_a_renaming_from_what_is_not_restored(self, tmp_path: Path) -> None:
        """No server writes it, but were it there, its content would be missing without a word."""
        rename = entry("c", "foreign.$cmd", {"renameCollection": "foreign.a", "to": "shop.b"})
        with pytest.raises(RefusedError, match=r"shop\.b was renamed from foreign\.a"):
            one(tmp_path, [rename], SHOP)


class TestValidation:
    """Switching validators off for the time of a replay, for mongorestore before 100.15."""

    def run(self, folder: Path, commands: Sequence[Document], levels: dict[str, str]) -> list[dict[str, Any]]:
        """Put commands on the database ``shop`` through; returns all commands of the result, unwrapped."""
        entries = [item if "op" in item else entry("c", "shop.$cmd", item) for item in commands]
        found = one(folder, entries, {"shop": "neu"}, levels=levels)
        times = [item["ts"] for item in found]
        assert times == sorted(times)
        return [inner["o"] for item in found for inner in item["o"].get("applyOps", [item])]

    def test_off_in_the_beginning_and_back_in_the_end(self, tmp_path: Path) -> None:
        """A collection that has a validator before the replay ends with the level that it had."""
        levels = {"neu.a": "moderate"}
        found = self.run(tmp_path, [write("i", "shop.a", 1)], levels)
        assert found[0] == {"collMod": "a", "validationLevel": "off"}
        assert found[-1] == {"collMod": "a", "validationLevel": "moderate"}

    def test_the_last_word_on_the_way_counts(self, tmp_path: Path) -> None:
        """Levels that the oplog sets, at creation or later, also in a transaction, are set at the end."""
        commands = [
            transaction([{"op": "c", "ns": "shop.$cmd", "o": {"create": "b", "validator": {"x": 1}}}]),
            {"create": "c", "validator": {"x": 1}, "validationLevel": "moderate"},
            {"create": "plain"},
            {"collMod": "a", "validationLevel": "strict"},
            {"collMod": "a", "cappedMax": 5},
            {"collMod": "plain", "validationAction": "warn"},
        ]
        found = self.run(tmp_path, commands, {"neu.a": "moderate"})
        assert [item.get("validationLevel") for item in found[1:-3]] == ["off", "off", None, "off", None, None]
        assert found[-3:] == [
            {"collMod": "a", "validationLevel": "strict"},
            {"collMod": "b", "validationLevel": "strict"},
            {"collMod": "c", "validationLevel": "moderate"},
        ]

    def test_levels_follow_a_renaming_and_end_with_a_drop(self, tmp_path: Path) -> None:
        """What is gone is not spoken of any more."""
        commands: list[Document] = [
            {"renameCollection": "shop.a", "to": "shop.z"},
            {"drop": "b"},
            {"create": "system.buckets.t", "validator": {"x": 1}},
        ]
        found = self.run(tmp_path, commands, {"neu.a": "strict", "neu.b": "strict"})
        assert found[-1] == {"collMod": "z", "validationLevel": "strict"}
        assert found[-2] == commands[-1]
        assert self.run(tmp_path, [{"dropDatabase": 1}], {"neu.a": "strict"})[-1] == {"dropDatabase": 1}

    def test_levels_are_found_in_a_dumps_folder(self, tmp_path: Path) -> None:
        """From the metadata beside each collection's BSON, by the names that the folder has."""
        (tmp_path / "neu").mkdir()
        for name, text in {
            "a": '{"options": {"validator": {"x": 1}, "validationLevel": "moderate"}}',
            "b%2Fc": '{"options": {"validator": {"x": 1}}}',
            "d": '{"options": {}, "indexes": []}',
            "shortened": '{"options": {"validator": {"x": 1}}, "collectionName": "a very long name"}',
            "broken": "{",
            "list": "[]",
        }.items():
            (tmp_path / "neu" / f"{name}.metadata.json").write_text(text)
        assert levels_in(tmp_path) == {"neu.a": "moderate", "neu.b/c": "strict", "neu.a very long name": "strict"}
