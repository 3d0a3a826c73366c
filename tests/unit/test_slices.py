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


def test_after_a_full_was_reached_slices_are_of_its_chain() -> None:
    """A full whose moment the stream has passed is the chain's beginning; the slice still touches the one before."""
    (start,) = choose_start(Kind.INCREMENTAL, _stream("30:1", "20:1"), _full("25:1"))
    assert start == Start(_op(30), _op(20), "s1", "full-25:1")


def test_a_slice_ends_at_a_full_that_was_made_meanwhile() -> None:
    """The stream is cut at a newer full's moment; if the oplog no longer reaches back, it begins anew there."""
    first, second = choose_start(Kind.INCREMENTAL, _stream("30:1", "30:1"), _full("40:1"))
    assert first == Start(_op(30), _op(30), "s1", "full-10:1", until=_op(40))
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
