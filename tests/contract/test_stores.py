"""What stores.base.Store promises, asked of every kind of store on its real server."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import anycrc
import pytest

from nanumpay_backupd.errors import CancelledError, StoreError
from nanumpay_backupd.stores.base import CHUNK, ObjectInfo, Resumed, Store, aside_name, is_hidden, part_name
from nanumpay_backupd.stores.factory import open_store
from nanumpay_backupd.system.shared_file import SharedFile
from tests.contract.places import REMOTE, Place
from tests.servers.process import free_port

pytestmark = pytest.mark.servers

KEY: Final = "nanumpay-backup-2026-11-21T02-00-00.tar.gz"
_random = random.Random(20261121)
LARGE: Final = _random.randbytes((12 << 20) + 4321)
"""For S3 three parts of 5 MiB, the last one short, of which two at a time go up."""
SMALL: Final = _random.randbytes(70_001)
BAD_KEYS: Final = ("", ".", "..", "../x", "a/b", ".hidden", "a b", "a\nb", "백업", "x" * 201)

_CRC32C: Final = anycrc.Model("CRC32C")

Operation = Callable[[Store], Any]
OPERATIONS: Final[tuple[Operation, ...]] = (
    lambda store: store.put(KEY, Path(__file__)),
    lambda store: store.put_bytes(KEY, b"x"),
    lambda store: b"".join(store.get(KEY)),
    lambda store: store.stat(KEY),
    lambda store: tuple(store.list()),
    lambda store: store.delete(KEY),
)


def _file(folder: Path, data: bytes) -> Path:
    path = folder / "source"
    path.write_bytes(data)
    return path


def _checksum(info: ObjectInfo | None, data: bytes, *, wanted: bool = False) -> str:
    """Return the checksum that ``info`` should have: of the algorithm that it names; empty where it names none."""
    algorithm, _, _ = (info.checksum if info else "").partition(":")
    assert algorithm or not wanted
    if algorithm == "crc32c":
        return f"crc32c:{_CRC32C.calc(data):08x}"
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}" if algorithm else ""


def _content(store: Store, key: str = KEY, offset: int = 0) -> bytes:
    return b"".join(store.get(key, offset))


def _refuses_empty(place: Place, folder: Path, before: frozenset[str] | set[str] = frozenset()) -> None:
    """Something empty is refused for good, and what was there stays."""
    with pytest.raises(StoreError) as caught:
        place.store.put(KEY, _file(folder, b""))
    assert (caught.value.code, caught.value.retryable) == ("destination-failed", False)
    assert "empty" in caught.value.message
    assert place.names() == before


@pytest.mark.parametrize("data", [LARGE, SMALL, b"x", b""], ids=["large", "small", "one-byte", "empty"])
def test_what_was_put_is_what_is_got(place: Place, tmp_path: Path, data: bytes) -> None:
    """An object of any size comes back as it was, is on the server as it was, and its size is confirmed."""
    if not (data or place.participant.takes_empty):
        _refuses_empty(place, tmp_path)
        return
    result = place.store.put(KEY, _file(tmp_path, data))
    assert result.size == len(data)
    assert result.proven is place.store.properties.proves_content
    assert result.durable is place.participant.durable
    assert _content(place.store) == data
    assert place.content(KEY) == data
    info = place.store.stat(KEY)
    assert info == ObjectInfo(key=KEY, size=len(data), checksum=_checksum(info, data))
    assert [(item.key, item.size) for item in place.store.list()] == [(KEY, len(data))]
    assert place.names() == {KEY}


def test_a_file_that_several_are_sent_at_once(place: Place, tmp_path: Path) -> None:
    """A file that is shared with other places arrives as any other, and is not read more than once by who shares."""
    shared = SharedFile.of(_file(tmp_path, LARGE))
    for key in (KEY, f"other-{KEY}"):
        assert place.store.put(key, shared).size == len(LARGE)
        assert place.content(key) == LARGE
    assert shared.taken in {0, len(LARGE)}


def test_progress_counts_every_byte_once(place: Place, tmp_path: Path) -> None:
    """The progress of a put adds up to the size of the file, and no call is negative."""
    moved: list[int] = []
    place.store.put(KEY, _file(tmp_path, LARGE), moved.append)
    assert sum(moved) == len(LARGE)
    assert min(moved) >= 0
    assert len(moved) >= 2


@pytest.mark.parametrize("second", [LARGE, SMALL[:100], b""], ids=["longer", "shorter", "empty"])
def test_put_replaces_the_whole_object(place: Place, tmp_path: Path, second: bytes) -> None:
    """After a second put under the same name there is the second content and nothing of the first."""
    place.store.put(KEY, _file(tmp_path, SMALL))
    if not (second or place.participant.takes_empty):
        _refuses_empty(place, tmp_path, before={KEY})
        return
    place.store.put(KEY, _file(tmp_path, second))
    assert _content(place.store) == second
    assert place.names() == {KEY}


@pytest.mark.parametrize("data", [b'{"format":1}', b"", SMALL], ids=["manifest", "empty", "larger"])
def test_put_bytes_stores_what_is_in_memory(place: Place, tmp_path: Path, data: bytes) -> None:
    """A small object given as bytes is stored, confirmed and replaced like a file."""
    place.store.put_bytes(KEY, b"before")
    if not (data or place.participant.takes_empty):
        _refuses_empty(place, tmp_path, before={KEY})
        return
    result = place.store.put_bytes(KEY, data)
    assert (result.size, result.proven) == (len(data), place.store.properties.proves_content)
    assert _content(place.store) == data
    assert place.names() == {KEY}


@pytest.mark.parametrize("offset", [1, 65_536, len(SMALL) - 1, len(SMALL), len(SMALL) + 10])
def test_get_begins_at_the_offset(place: Place, offset: int) -> None:
    """Reading from an offset gives the rest of the object, and nothing at or behind its end."""
    place.store.put_bytes(KEY, SMALL)
    assert _content(place.store, offset=offset) == SMALL[offset:]


@pytest.mark.parametrize(
    "offset,length", [(0, 1), (0, 65_536), (1, 65_536), (len(SMALL) - 1, 1), (100, len(SMALL)), (len(SMALL), 5)]
)
def test_get_gives_no_more_than_it_is_asked_for(place: Place, offset: int, length: int) -> None:
    """Reading a range gives these bytes, fewer only at the object's end, and the store goes on working."""
    place.store.put_bytes(KEY, SMALL)
    assert b"".join(place.store.get(KEY, offset, length)) == SMALL[offset : offset + length]
    assert _content(place.store) == SMALL


def test_a_range_of_a_large_object(place: Place, tmp_path: Path) -> None:
    """A range from the middle of a large object is that range, in chunks of at most 1 MiB."""
    place.store.put(KEY, _file(tmp_path, LARGE))
    chunks = list(place.store.get(KEY, 5 << 20, (3 << 20) + 7))
    assert b"".join(chunks) == LARGE[5 << 20 : (8 << 20) + 7]
    assert max(map(len, chunks)) <= CHUNK


def test_stat_tells_the_checksum_that_the_place_promises(place: Place) -> None:
    """Where a place keeps checksums stat has the one of the content; any that it has is right."""
    place.store.put_bytes(KEY, SMALL)
    info = place.store.stat(KEY)
    assert info is not None
    assert info.checksum == _checksum(info, SMALL, wanted=place.store.properties.tells_checksum)


def test_room_is_told_where_it_is_promised(place: Place) -> None:
    """The bytes that may still be written are known wherever the server tells them, before the first put too."""
    before = place.store.room()
    assert (before is not None) is place.participant.tells_room
    assert place.store.properties.tells_room or not place.participant.tells_room
    place.store.put_bytes(KEY, SMALL)
    after = place.store.room()
    assert (before is None) is (after is None)
    assert after is None or after > 0


def test_get_gives_chunks_of_bounded_size(place: Place, tmp_path: Path) -> None:
    """No chunk is empty or larger than 1 MiB, so that reading takes little memory."""
    place.store.put(KEY, _file(tmp_path, LARGE))
    sizes = [len(chunk) for chunk in place.store.get(KEY)]
    assert sum(sizes) == len(LARGE)
    assert min(sizes) > 0
    assert max(sizes) <= CHUNK


def test_get_that_nobody_finishes_leaves_the_store_usable(place: Place, tmp_path: Path) -> None:
    """After a reader went away in the middle, the next calls work and give whole objects."""
    place.store.put(KEY, _file(tmp_path, LARGE))
    reader = place.store.get(KEY)
    assert LARGE.startswith(next(reader))
    reader.close()  # type: ignore[attr-defined]  # every store's is a generator
    assert place.store.stat(KEY) is not None
    assert _content(place.store) == LARGE


def test_other_calls_work_while_an_object_is_read(place: Place, tmp_path: Path) -> None:
    """Asking for and storing other objects does not disturb a reading in progress."""
    place.store.put(KEY, _file(tmp_path, LARGE))
    reader = place.store.get(KEY)
    head = next(reader)
    assert place.store.stat(KEY) is not None
    place.store.put_bytes("other", SMALL)
    assert head + b"".join(reader) == LARGE
    assert _content(place.store, "other") == SMALL


def test_missing_objects(place: Place) -> None:
    """An object that is not there: get says so, stat gives None, delete is content, other objects stay."""
    place.store.put_bytes("other", b"x")
    with pytest.raises(StoreError) as caught:
        next(place.store.get(KEY))
    assert (caught.value.code, caught.value.retryable) == ("object-missing", False)
    assert KEY in caught.value.message
    assert place.store.stat(KEY) is None
    place.store.delete(KEY)
    assert place.names() == {"other"}


def test_delete_removes_one_object_and_may_be_repeated(place: Place) -> None:
    """After delete the object is gone and others are not; a second delete does nothing."""
    place.store.put_bytes(KEY, b"x")
    place.store.put_bytes(f"{KEY}.manifest.json", b"{}")
    place.store.delete(KEY)
    place.store.delete(KEY)
    assert place.store.stat(KEY) is None
    assert [info.key for info in place.store.list()] == [f"{KEY}.manifest.json"]


def test_nothing_is_locked_where_nobody_locks(place: Place) -> None:
    """An object may be deleted that nobody locked, also one that is not there; nothing is kept of what was deleted."""
    place.store.put_bytes(KEY, b"x")
    for key in (KEY, f"{KEY}.manifest.json"):
        place.store.must_be_free(key)
    assert place.store.keeping() == place.participant.keeping


def test_a_root_that_does_not_exist_is_empty(place: Place) -> None:
    """Before the first put there is nothing to list or find, nothing fails, and nothing is made by looking."""
    assert list(place.store.list()) == []
    assert place.store.stat(KEY) is None
    place.store.delete(KEY)
    with pytest.raises(StoreError) as caught:
        next(place.store.get(KEY))
    assert caught.value.code == "object-missing"
    assert not place.made()


def test_list_shows_objects_of_the_root_only(place: Place) -> None:
    """Folders, what lies in them and unfinished uploads are not objects; foreign files are, with their sizes."""
    place.store.put_bytes(KEY, SMALL)
    foreign = {"somebody's own file.txt": b"345", "백업 사본 (1).tar": b"6789", "100%+#?.bin": b"x"}
    place.plant({"folder/inside": b"1", f".{KEY}.part": b"2", **foreign})
    found = {info.key: info.size for info in place.store.list()}
    assert found == {KEY: len(SMALL), **{name: len(data) for name, data in foreign.items()}}


def test_list_is_complete_beyond_one_page(place: Place) -> None:
    """All of 1,100 objects are listed, each once (S3 gives 1,000 at a time)."""
    many = place.participant.many
    place.store.put_bytes("object-0000", b"x")
    place.plant({f"object-{number:04}": b"x" for number in range(1, many)})
    names = [info.key for info in place.store.list()]
    assert sorted(names) == [f"object-{number:04}" for number in range(many)]


def test_stores_of_different_roots_do_not_see_each_other(place: Place) -> None:
    """An object belongs to the folder or prefix it was put under, and to no other, even if one name begins another."""
    place.store.put_bytes(KEY, b"x")
    place.plant({"../subway/foreign": b"y", "../above": b"z"})
    assert [info.key for info in place.store.list()] == [KEY]


class _EnoughError(Exception):
    """The callback had enough."""


def _break_off(store: Store, path: Path, after: int = 8 << 20) -> None:
    """Break a put off once so many bytes were moved."""
    moved = 0

    def stop(size: int) -> None:
        nonlocal moved
        moved += size
        if moved >= after:
            raise _EnoughError

    with pytest.raises(_EnoughError):
        store.put(KEY, path, stop)


def test_a_put_that_was_broken_off_is_gone_on_with(place: Place, tmp_path: Path) -> None:
    """Another store, as after the death of the process, sends the rest only, and tells how much was there.

    Where the place tells nobody of unfinished uploads, it is one with the notes of the first.
    """
    path = _file(tmp_path, LARGE)
    place.store.put_bytes(KEY, SMALL)
    _break_off(place.store, path)
    assert _content(place.store) == SMALL
    assert [info.key for info in place.store.list()] == [KEY]
    moved: list[int] = []
    notes = place.notes if place.store.properties.needs_notes else None
    with open_store(place.destination(), notes=notes) as other:
        result = other.put(KEY, path, moved.append)
        assert _content(other) == LARGE
    there = sum(size for size in moved if isinstance(size, Resumed))
    assert result.resumed == there
    assert (there >= 2 << 20) is place.store.properties.resumes_put
    assert sum(moved) == len(LARGE)
    assert place.names() == {KEY}
    # A store that still knows of the first try may find that just this is there, whole.
    assert place.store.put(KEY, path).resumed in {0, len(LARGE)}


@pytest.mark.parametrize("changed", [0, 3 << 20, 7 << 20], ids=["first", "middle", "late"])
def test_what_was_left_of_another_content_is_not_believed(place: Place, tmp_path: Path, changed: int) -> None:
    """A file of the same name and size, but with another byte somewhere, arrives as it is."""
    _break_off(place.store, _file(tmp_path, LARGE))
    other = bytearray(LARGE)
    other[changed] ^= 1
    place.store.put(KEY, _file(tmp_path, bytes(other)))
    assert _content(place.store) == other
    assert place.names() == {KEY}


def test_a_longer_rest_of_an_earlier_put_does_not_get_into_a_shorter_file(place: Place, tmp_path: Path) -> None:
    """A file that is a beginning of what was left there arrives as it is."""
    _break_off(place.store, _file(tmp_path, LARGE))
    place.store.put(KEY, _file(tmp_path, LARGE[: 6 << 20]))
    assert _content(place.store) == LARGE[: 6 << 20]
    assert place.names() == {KEY}


def test_a_sweep_removes_what_nobody_goes_on_with(place: Place, tmp_path: Path) -> None:
    """Only what is old and ours goes; objects stay, and the next put begins anew."""
    path = _file(tmp_path, LARGE)
    place.store.put_bytes("other", SMALL)
    _break_off(place.store, path)
    now = datetime.now(UTC)
    hour = timedelta(hours=1)
    assert place.store.sweep(now - hour, lambda _: True) == ()
    assert place.store.sweep(now + hour, lambda key: key != KEY) == ()
    swept = place.store.properties.resumes_put and not place.store.properties.forgets
    left = (KEY,) if swept else ()
    assert place.store.sweep(now + hour, lambda key: key == KEY) == left
    assert place.store.sweep(now + hour, lambda _: True) == ()
    assert place.names() == {"other"}
    assert (place.store.put(KEY, path).resumed == 0) is not place.store.properties.forgets
    assert _content(place.store) == LARGE


def test_an_object_that_stepped_aside_goes_once_its_successor_is_there(place: Place) -> None:
    """Of a process that died between two renames: without a successor it is all there is, and stays."""
    if place.kind.partition("-")[0] not in ("ftp", "ftps", "sftp"):
        pytest.skip("objects are replaced in one step there")
    place.store.put_bytes("other", SMALL)
    place.plant({aside_name(KEY): SMALL, aside_name("other"): SMALL})
    later = datetime.now(UTC) + timedelta(hours=1)
    assert place.store.sweep(later, lambda _: True) == ("other",)
    assert place.names() == {aside_name(KEY), "other"}


def test_a_deleted_object_leaves_nothing_of_files(place: Place, tmp_path: Path) -> None:
    """Where an unfinished upload is a file, it goes with the object, also when that was never whole."""
    _break_off(place.store, _file(tmp_path, LARGE))
    place.store.delete(KEY)
    assert {KEY, part_name(KEY)}.isdisjoint(place.names())


def test_abort_by_progress_leaves_the_old_object(place: Place, tmp_path: Path) -> None:
    """When the callback raises, that error comes out, the old object stays, nothing else shows, the store works."""
    place.store.put_bytes(KEY, SMALL)

    def stop(_: int) -> None:
        raise CancelledError("stopped")

    with pytest.raises(CancelledError):
        place.store.put(KEY, _file(tmp_path, LARGE), stop)
    assert _content(place.store) == SMALL
    assert [info.key for info in place.store.list()] == [KEY]
    place.store.put(KEY, _file(tmp_path, LARGE))
    assert _content(place.store) == LARGE
    assert place.names() == {KEY}


def test_abort_in_the_middle_makes_no_new_object(place: Place, tmp_path: Path) -> None:
    """When the callback raises after some megabytes, there is no object of that name, and nothing else that shows."""
    moved = 0

    def stop(size: int) -> None:
        nonlocal moved
        moved += size
        if moved > 4 << 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        place.store.put(KEY, _file(tmp_path, LARGE), stop)
    assert place.store.stat(KEY) is None
    assert list(place.store.list()) == []
    assert all(is_hidden(name) for name in place.names())


def test_closed_store_connects_again(place: Place) -> None:
    """A store may be closed twice, before use and after, and the store goes on working."""
    place.store.close()
    place.store.put_bytes(KEY, b"1")
    place.store.close()
    place.store.close()
    assert _content(place.store) == b"1"


def test_names_that_could_escape_are_refused(place: Place) -> None:
    """Only plain file names are taken, by every method, and the refusal is not worth a retry."""
    calls: list[Callable[[str], Any]] = [
        lambda key: place.store.put(key, Path(__file__)),
        lambda key: place.store.put_bytes(key, b"x"),
        lambda key: next(place.store.get(key)),
        place.store.stat,
        place.store.delete,
    ]
    for key in BAD_KEYS:
        for call in calls:
            with pytest.raises(StoreError) as caught:
                call(key)
            assert caught.value.retryable is False
    assert place.names() == set()


def test_a_file_that_cannot_be_read_is_not_blamed_on_the_destination(place: Place, tmp_path: Path) -> None:
    """A source that vanished is a StoreError that names it, is not retryable, and leaves nothing behind."""
    with pytest.raises(StoreError) as caught:
        place.store.put(KEY, tmp_path / "gone")
    assert str(tmp_path / "gone") in caught.value.message
    assert caught.value.retryable is False
    assert place.names() == set()


@pytest.mark.parametrize("store_server", REMOTE, indirect=True)
def test_wrong_password(place: Place) -> None:
    """A wrong password is told as destination-auth by every method, without the password, with the place and a hint."""
    wrong = "not-the-Secret-12345"
    with open_store(place.destination(**place.participant.wrong_login(wrong))) as store:
        for operation in OPERATIONS:
            with pytest.raises(StoreError) as caught:
                operation(store)
            assert (caught.value.code, caught.value.retryable) == ("destination-auth", False)
            assert wrong not in caught.value.message + caught.value.hint
            assert "127.0.0.1" in caught.value.message
            assert caught.value.hint


@pytest.mark.parametrize("store_server", REMOTE, indirect=True)
def test_nobody_listens(place: Place) -> None:
    """A server that is away is destination-unreachable by every method, retryable, naming the place."""
    port = free_port()
    with open_store(place.destination(**place.participant.elsewhere("127.0.0.1", port))) as store:
        for operation in OPERATIONS:
            with pytest.raises(StoreError) as caught:
                operation(store)
            assert (caught.value.code, caught.value.retryable) == ("destination-unreachable", True)
            assert f"127.0.0.1:{port}" in caught.value.message
            assert caught.value.hint


@pytest.mark.parametrize("store_server", REMOTE, indirect=True)
def test_unknown_host(place: Place) -> None:
    """A name that nobody knows is destination-unreachable, and the message has the name."""
    host = "no-such-host.invalid"
    changes = place.participant.elsewhere(host, free_port())
    with open_store(place.destination(**changes)) as store, pytest.raises(StoreError) as caught:
        store.stat(KEY)
    assert caught.value.code == "destination-unreachable"
    assert host in caught.value.message
