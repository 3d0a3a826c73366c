"""What was told, and what has to be remembered so that it is told once: kept in the catalog. Decides nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
import structlog

from nanumpay_backupd.alerts import Notice, NoticeRecord, Sent, State
from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.events import News, news_of
from nanumpay_backupd.model import Run, from_json, to_json
from nanumpay_backupd.notifiers.base import Receipt
from nanumpay_backupd.outbox import Outbox, Outgoing

__all__ = ["KEPT", "Change", "Memory", "ended", "hushed", "keep", "note", "recall"]

KEPT: Final = 100
"""Runs among which those are looked for that ended since the last look."""
_MEMORY: Final = "announcer"
log = structlog.get_logger()

Change = tuple[Outgoing, str, Receipt]
"""What became of a message: waiting, sent or failed."""


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept over a restart. ``seen`` are runs whose news was told; ``muted`` those of which nothing is told."""

    alerts: State = State()
    outbox: Outbox = Outbox()
    seen: tuple[str, ...] = ()
    muted: tuple[str, ...] = ()
    report_due: datetime | None = None
    report_cron: tuple[str, ...] = ()


def recall(catalog: Catalog, started: datetime) -> Memory:
    """Return what is remembered. At the first start nothing is, and what ended before ``started`` is no news."""
    data = catalog.remembered(_MEMORY)
    if data is None:
        runs = catalog.runs(limit=KEPT, slices=False)
        old = [run.id for run in reversed(runs) if run.ended is not None and run.ended < started]
        return Memory(seen=tuple(old))
    try:
        return from_json(Memory, data)
    except msgspec.MsgspecError:
        # That of another version is worth less than being told twice.
        log.warning("what people were told before cannot be read and is forgotten", code="internal")
        return Memory()


def keep(catalog: Catalog, notices: Iterable[Notice], memory: Memory) -> None:
    """Write down what is to be told and what is remembered, both or neither."""
    records = [NoticeRecord(notice=notice, sent=_waiting(memory, notice.id)) for notice in notices]
    with catalog.together():
        if records:
            catalog.save_notices(records)
        catalog.remember(_MEMORY, to_json(memory))


def _waiting(memory: Memory, identity: str) -> tuple[Sent, ...]:
    """Return for which channels a notice waits: to be sent now, or when they may be told."""
    waiting = [(item.channel, item.notice) for item in memory.outbox.queue]
    waiting += [(item.channel, item.notice) for item in memory.alerts.held]
    return tuple(Sent(channel=channel) for channel, notice in waiting if identity in _names(notice))


def _names(notice: Notice) -> set[str]:
    return {notice.id, *(part.id for part in notice.parts)}


def note(catalog: Catalog, changes: Sequence[Change], memory: Memory) -> None:
    """Write on the records of notices what became of them; of a summary, on those of its parts."""
    with catalog.together():
        for item, state, receipt in changes:
            sent = Sent(channel=item.channel, state=state, attempts=item.attempts, answer=receipt.answer)
            for notice in item.notice.parts or (item.notice,):
                record = catalog.notice(notice.id)
                if record is not None:
                    others = [other for other in record.sent if other.channel != item.channel]
                    catalog.save_notices([msgspec.structs.replace(record, sent=(*others, sent))])
        catalog.remember(_MEMORY, to_json(memory))


def ended(catalog: Catalog, seen: frozenset[str], fresh: Iterable[str]) -> list[tuple[Run, News | None]]:
    """Return the runs that ended since the last look, oldest first, each with what is to be told of it.

    ``fresh`` are those that were heard of: one that took long may have begun before many others.
    """
    runs = {run.id: run for run in reversed(catalog.runs(limit=KEPT, slices=False))}
    for identity in fresh:
        run = runs.get(identity) or catalog.run(identity)
        if run is not None:
            runs[identity] = run
    return [
        (run, news_of(run, catalog.backup(run.backup) if run.backup else None))
        for run in runs.values()
        if run.outcome is not None and run.id not in seen
    ]


def hushed(jobs: Sequence[dict[str, Any]], muted: frozenset[str]) -> set[str]:
    """Return the keys of the faults that a muted run has changed, where it is the last of its job."""
    names = [job["name"] for job in jobs if job["last_run"] and job["last_run"]["id"] in muted]
    return {f"{key}:{name}" for name in names for key in ("backup", "copies", "cleanup")}
