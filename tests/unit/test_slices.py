"""Where a slice begins: a table of what the stream and the newest full allow."""

from __future__ import annotations

from nanumpay_backupd.model import Backup, BackupState, Kind, OpTime, Stream
from nanumpay_backupd.pipeline.slices import Start, choose_start
from tests.workbench import NOW


def _full(end: str) -> Backup:
    return Backup(
        id=f"full-{end}",
        job="j",
        kind=Kind.FULL,
        created=NOW,
        state=BackupState.VERIFIED,
        artifact="a",
        size=1,
        end=end,
    )


def _stream(position: str, since: str, *, broken: str = "") -> Stream:
    return Stream(job="j", position=position, parent="s1", since=since, chain="full-10:1", checked=NOW, broken=broken)


def _op(second: int) -> OpTime:
    return OpTime(second, 1)


def test_without_a_full_there_is_nowhere_to_begin() -> None:
    """No stream and no full of one moment: a full has to be made first, also for a differential."""
    assert choose_start(Kind.INCREMENTAL, None, None) == []
    assert choose_start(Kind.DIFFERENTIAL, None, None) == []


def test_the_first_slice_follows_the_full() -> None:
    """Without a stream, a slice begins at the full's end."""
    (start,) = choose_start(Kind.INCREMENTAL, None, _full("10:1"))
    assert start == Start(_op(10), _op(10), "full-10:1", "full-10:1", fresh=True)


def test_a_slice_follows_the_slice_before_and_counts_from_its_end() -> None:
    """The oplog is read from the position, but the slice says that it begins where the last one ended."""
    (start,) = choose_start(Kind.INCREMENTAL, _stream("30:1", "20:1"), _full("10:1"))
    assert start == Start(_op(30), _op(20), "s1", "full-10:1")


def test_a_later_full_changes_the_chain_but_not_the_stream() -> None:
    """A full made in between is the chain's new beginning; the slice still touches the one before."""
    (start,) = choose_start(Kind.INCREMENTAL, _stream("30:1", "20:1"), _full("25:1"))
    assert start == Start(_op(30), _op(20), "s1", "full-25:1")


def test_a_full_ahead_of_the_stream_is_the_second_choice() -> None:
    """If the oplog no longer reaches back to the stream's position, a newer full is where it may begin anew."""
    first, second = choose_start(Kind.INCREMENTAL, _stream("30:1", "30:1"), _full("40:1"))
    assert (first.read, first.fresh) == (_op(30), False)
    assert second == Start(_op(40), _op(40), "full-40:1", "full-40:1", fresh=True)


def test_a_broken_stream_waits_for_a_newer_full() -> None:
    """What broke the stream is not gone over again: only a full made after it is a beginning."""
    assert choose_start(Kind.INCREMENTAL, _stream("30:1", "30:1", broken="rolled over"), _full("10:1")) == []
    (start,) = choose_start(Kind.INCREMENTAL, _stream("30:1", "30:1", broken="rolled over"), _full("40:1"))
    assert start.fresh


def test_a_differential_begins_at_the_newest_full() -> None:
    """Whatever the stream says, a differential holds all since the full."""
    (start,) = choose_start(Kind.DIFFERENTIAL, _stream("30:1", "30:1"), _full("10:1"))
    assert start == Start(_op(10), _op(10), "full-10:1", "full-10:1")
