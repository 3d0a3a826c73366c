"""What is noted of uploads in sessions, and how far it is believed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.pipeline.unfinished import KeptNotes
from nanumpay_backupd.stores.base import Notes, Resumed, ShortNotes
from nanumpay_backupd.stores.dropbox_session import ContentHash
from nanumpay_backupd.stores.gcs_session import Crc32c
from nanumpay_backupd.stores.payload import Counted, Payload
from nanumpay_backupd.stores.sessions import RunningHash, Session, Sessions, proven
from nanumpay_backupd.system.clock import SystemClock

NOW: Final = datetime(2026, 11, 22, tzinfo=UTC)


class _At(SystemClock):
    """A clock that stands."""

    def __init__(self, now: datetime) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now


def _digest(kind: str, payload: Payload) -> RunningHash:
    return Crc32c(payload) if kind == "crc32c" else ContentHash(payload)


@pytest.mark.parametrize("kind", ["crc32c", "content hash"])
@given(data=st.binary(min_size=1, max_size=300), ends=st.sets(st.integers(0, 300)), stands=st.integers(0, 310))
def test_a_beginning_is_believed_that_is_the_files(kind: str, data: bytes, ends: set[int], stands: int) -> None:
    """A session of this file goes on wherever it stands, and all before that is told as found; none beyond its end."""
    payload = Payload(Path("x"), data)
    known = {end: _digest(kind, payload).up_to(end) for end in ends if end <= len(data)}
    moved: list[int] = []
    counted = Counted(moved.append)
    session = Session("here", len(data), NOW, beginnings=known)
    assert proven(session, stands, payload, _digest(kind, payload), counted) is (stands <= len(data))
    found = sum(size for size in moved if isinstance(size, Resumed))
    assert found == sum(moved) == counted.resumed == (stands if stands <= len(data) else 0)


@pytest.mark.parametrize("kind", ["crc32c", "content hash"])
@given(data=st.binary(min_size=2, max_size=300), at=st.floats(0, 0.999), beyond=st.integers(0, 50))
def test_another_files_beginning_is_not_believed(kind: str, data: bytes, at: float, beyond: int) -> None:
    """One other byte before the place that the note tells of, and nothing of it is told as found."""
    end = max(1, len(data) // 2)
    changed = int(at * end)
    other = data[:changed] + bytes([data[changed] ^ 1]) + data[changed + 1 :]
    session = Session("here", len(data), NOW, beginnings={end: _digest(kind, Payload(Path("x"), data)).up_to(end)})
    payload, moved = Payload(Path("x"), other), list[int]()
    stands = min(len(data), end + beyond)
    assert not proven(session, stands, payload, _digest(kind, payload), Counted(moved.append))
    assert sum(moved) == 0


def test_a_file_of_another_size_is_another() -> None:
    """A session for more or fewer bytes is of no use, whatever it begins with."""
    payload = Payload(Path("x"), b"abc")
    assert not proven(Session("here", 4, NOW), 0, payload, Crc32c(payload), Counted(lambda _: None))


def test_what_is_found_and_then_not_believed_is_counted_once() -> None:
    """Progress adds up to the size where what was found turns out to be of no use, and resumed is nothing then."""
    moved: list[int] = []
    counted = Counted(moved.append)
    counted.found(60)
    counted.anew()
    for end in range(10, 101, 10):
        counted.at(end)
    assert (sum(moved), min(moved), counted.resumed) == (100, 0, 0)


@pytest.mark.parametrize("kept", [False, True], ids=["short", "catalog"])
def test_only_old_sessions_of_ours_are_ended(kept: bool, tmp_path: Path) -> None:
    """A sweep ends and forgets those that were last added to before a moment, whoever keeps the notes."""
    notes: Notes = KeptNotes(tmp_path / "catalog.db", "place") if kept else ShortNotes()
    sessions = Sessions(notes, _At(NOW))
    for key, age in (("old", 8), ("others", 8), ("new", 1)):
        Sessions(notes, _At(NOW - timedelta(days=age))).begun(key, f"at-{key}", 5)
    added = Sessions(notes, _At(NOW - timedelta(days=9))).begun("added", "at-added", 5)
    sessions.sending("added", added, {5: "hash"})
    notes.write("damaged", b"{")
    ended: list[str] = []
    before = NOW - timedelta(days=7)
    gone = sessions.sweep(before, lambda key: key != "others", lambda session: ended.append(session.address))
    assert (gone, ended) == (("old",), ["at-old"])
    assert set(notes.keys()) == {"others", "new", "added", "damaged"}
    found = sessions.read("added")
    assert found is not None
    assert (found.at, found.beginnings) == (NOW, {5: "hash"})
    assert sessions.read("damaged") is None


def test_notes_of_one_place_are_not_anothers(tmp_path: Path) -> None:
    """The keys of a destination's notes are its own, also where a name begins with another's."""
    path = tmp_path / "catalog.db"
    KeptNotes(path, "a").write("one", b"x")
    KeptNotes(path, "ab").write("two", b"x")
    assert (list(KeptNotes(path, "a").keys()), list(KeptNotes(path, "ab").keys())) == (["one"], ["two"])
    (tmp_path / "file").touch()
    assert list(KeptNotes(tmp_path / "file/catalog.db", "a").keys()) == []
