"""What waits to be sent: order, patience, giving up, and who is told that a channel fails."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd import outbox
from nanumpay_backupd.alerts import Delivery, Notice, Phase
from nanumpay_backupd.events import Event, Severity
from nanumpay_backupd.notifiers.base import Receipt
from nanumpay_backupd.outbox import ATTEMPTS, Outbox

NOW = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)


def notice(at: int, event: Event = Event.FAILED, when: datetime = NOW) -> Notice:
    """Make a notice."""
    return Notice(id=f"n-{at}", at=when, phase=Phase.ONCE, event=event, of=event, severity=Severity.ERROR, key=str(at))


def box(*numbers: int, channel: str = "ops", when: datetime = NOW) -> Outbox:
    """Make an outbox with notices for one channel."""
    return outbox.add(Outbox(), [Delivery(channel, notice(at, when=when)) for at in numbers])


def answered(number: int, *, ok: bool = False, retryable: bool = True, channel: str = "ops") -> Receipt:
    """Make a receipt."""
    return Receipt(channel=channel, message=f"n-{number}", ok=ok, answer="said", hint="do", retryable=retryable)


def test_what_arrived_is_gone_and_the_rest_keeps_its_order() -> None:
    """A channel that takes the first of three is asked for the others next."""
    settled = outbox.settle(box(1, 2, 3), [answered(1, ok=True)], NOW)
    assert [item.notice.id for item in settled.outbox.queue] == ["n-2", "n-3"]
    assert settled.outbox.last == {"ops": NOW}
    _, batches = outbox.batches(settled.outbox, NOW, together=3)
    assert [item.notice.id for item in batches["ops"]] == ["n-2", "n-3"]


def test_a_channel_that_fails_is_tried_ever_more_seldom_and_then_gives_up() -> None:
    """The pauses double up to half an hour; within about an hour the message is given up, and that is told."""
    waiting, now, pauses = box(1), NOW, []
    for attempt in range(1, ATTEMPTS + 1):
        settled = outbox.settle(waiting, [answered(1)], now)
        waiting = settled.outbox
        assert bool(settled.lost) is (attempt == ATTEMPTS)
        assert (outbox.faults(waiting)[0].event is None) is (attempt < ATTEMPTS)
        pause = (waiting.failing["ops"].due - now).total_seconds()
        pauses.append(pause)
        assert not outbox.batches(waiting, now, together=3)[1]
        now += timedelta(seconds=pause)
    assert pauses == [30, 60, 120, 240, 480, 960, 1800, 1800]
    assert not waiting.queue
    assert waiting.failing["ops"].lost
    assert outbox.faults(waiting)[0].event is Event.CHANNEL_FAILED
    assert "backupctl notify test ops" in outbox.faults(waiting)[0].hint


def test_a_refusal_for_good_is_given_up_at_once() -> None:
    """Trying again the same cannot help; what comes after it is tried all the same."""
    settled = outbox.settle(box(1, 2), [answered(1, retryable=False), answered(2, ok=True)], NOW)
    assert [item.notice.id for item, _ in settled.lost] == ["n-1"]
    assert (settled.outbox.queue, settled.outbox.failing) == ((), {})


def test_a_channel_that_works_again_is_no_fault_any_more() -> None:
    """Whatever arrives ends it, a test too."""
    failed = outbox.settle(box(1), [answered(1, retryable=False)], NOW).outbox
    assert [fault.key for fault in outbox.faults(failed)] == ["channel:ops"]
    assert outbox.faults(outbox.heard(failed, answered(7, ok=True), NOW, lost=False)) == []
    later = outbox.settle(
        outbox.add(failed, [Delivery("ops", notice(2))]), [answered(2, ok=True)], NOW + timedelta(hours=1)
    )
    assert outbox.faults(later.outbox) == []


def test_what_waited_too_long_is_given_up_at_its_next_try() -> None:
    """A message of yesterday is not worth a night of trying."""
    old = outbox.settle(box(1, when=NOW - timedelta(hours=7)), [answered(1)], NOW)
    assert [item.attempts for item, _ in old.lost] == [1]


def test_one_channel_does_not_hold_up_another() -> None:
    """What waits for a channel that fails is left out, the rest goes."""
    both = outbox.add(box(1), [Delivery("mail", notice(2))])
    failed = outbox.settle(both, [answered(1)], NOW).outbox
    _, batches = outbox.batches(failed, NOW, together=3)
    assert list(batches) == ["mail"]
    assert outbox.next_due(failed, NOW) == 0.0
    rest = outbox.settle(failed, [answered(2, ok=True, channel="mail")], NOW).outbox
    assert outbox.next_due(rest, NOW) == 30.0
    assert outbox.next_due(Outbox(), NOW) is None


def test_what_piled_up_arrives_as_one_message() -> None:
    """But reports stay what they are, and a channel that keeps records gets each."""
    full = outbox.add(box(1, 2, 3, 4), [Delivery("ops", notice(5, Event.REPORT))])
    full = outbox.add(full, [Delivery("database", notice(at)) for at in range(4)])
    after, batches = outbox.batches(full, NOW, together=3, whole={"database"})
    assert [item.notice.event for item in batches["ops"]] == [Event.SUMMARY, Event.REPORT]
    assert [part.id for part in batches["ops"][0].notice.parts] == ["n-1", "n-2", "n-3", "n-4"]
    assert len(batches["database"]) == 4
    # What is in the queue is what was handed out, so that its receipt finds it.
    receipt = Receipt(channel="ops", message=batches["ops"][0].notice.id, ok=True)
    assert [
        item.notice.event for item in outbox.settle(after, [receipt], NOW).outbox.queue if item.channel == "ops"
    ] == [Event.REPORT]


def test_channels_that_are_no_more_are_forgotten() -> None:
    """With everything that was known of them."""
    failed = outbox.settle(outbox.add(box(1), [Delivery("mail", notice(2))]), [answered(1)], NOW).outbox
    left = outbox.only(failed, {"mail"})
    assert ([item.channel for item in left.queue], left.failing) == (["mail"], {})


def test_a_queue_does_not_grow_for_ever() -> None:
    """Of too many for one channel the newest stay, and the others' are left alone."""
    full = outbox.add(box(*range(500)), [Delivery("mail", notice(1))])
    own = [item.notice.id for item in full.queue if item.channel == "ops"]
    assert (len(own), own[-1]) == (200, "n-499")
    assert sum(item.channel == "mail" for item in full.queue) == 1


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["ok", "later", "never", "silence"])), max_size=30))
def test_every_message_ends_as_sent_or_given_up(answers: list[tuple[int, str]]) -> None:
    """Whatever a service answers, in whatever order: nothing is lost on the way, nothing is settled twice."""
    waiting, now = box(*range(6)), NOW
    sent: list[str] = []
    lost: list[str] = []
    for number, answer in answers:
        now += timedelta(minutes=1)
        receipts = (
            [] if answer == "silence" else [answered(number, ok=answer == "ok", retryable=answer in {"ok", "later"})]
        )
        settled = outbox.settle(waiting, receipts, now)
        waiting = settled.outbox
        sent += [item.notice.id for item, _ in settled.sent]
        lost += [item.notice.id for item, _ in settled.lost]
    left = [item.notice.id for item in waiting.queue]
    assert sorted([*sent, *lost, *left]) == [f"n-{at}" for at in range(6)]


@pytest.mark.parametrize("failures", [1, 5, 40])
def test_a_pause_is_never_longer_than_half_an_hour(failures: int) -> None:
    """However long a service was away, it is found again soon."""
    waiting = box(1)
    for _ in range(failures):
        waiting = outbox.heard(waiting, answered(9), NOW, lost=False)
    assert (waiting.failing["ops"].due - NOW).total_seconds() <= 1800
    assert waiting.failing["ops"].since == NOW
    # Only who asked for a test misses it.
    assert outbox.faults(waiting)[0].event is None
    assert outbox.faults(outbox.heard(waiting, answered(9), NOW, lost=True))[0].event is Event.CHANNEL_FAILED
