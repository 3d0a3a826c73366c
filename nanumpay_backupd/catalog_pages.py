"""Questions to the catalog that pages have: backups that fit, a page at a time, and figures by day. Only reads."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, tzinfo
from typing import Final

import msgspec

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.model import SLICES, Backup, Kind, Outcome

__all__ = ["SORTS", "Found", "HistoryDay", "Wanted", "history", "named_artifact", "search"]

SORTS: Final = {
    "created": "created {0}, id {0}",
    "size": "size {0}, created DESC, id DESC",
    "documents": "documents {0}, created DESC, id DESC",
    "job": "job {0}, created DESC, id DESC",
    "name": "artifact {0}, id {0}",
}
"""What a listing can be sorted by."""
_RANK: Final = {
    Outcome.SKIPPED: 0,  # of a day with a good backup nobody minds one that was not needed
    Outcome.SUCCEEDED: 1,
    Outcome.CANCELLED: 2,
    Outcome.DEGRADED: 3,
    Outcome.INTERRUPTED: 4,
    Outcome.FAILED: 5,
}


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which backups; empty fields do not matter. ``text`` is part of a name. ``since`` and ``until`` are moments (UTC).

    ``copies``: at least one copy is in that state, at ``destination`` where that is named.
    """

    job: str = ""
    kind: str = ""
    state: str = ""
    destination: str = ""
    copies: str = ""
    text: str = ""
    since: datetime | None = None
    until: datetime | None = None
    pinned: bool = False
    slices: bool = False
    sort: str = "created"
    ascending: bool = False
    skip: int = 0
    limit: int = 50


class Found(msgspec.Struct, frozen=True):
    """One page of the backups that fit; ``total`` and ``size`` (bytes) are of all that fit."""

    backups: list[Backup]
    total: int
    size: int


class HistoryDay(msgspec.Struct, frozen=True):
    """One local day of a job: how many backups were tried and the worst of how they ended.

    ``size`` is the bytes of the largest that was made, ``seconds`` what the longest that made one took.
    """

    date: str
    runs: int = 0
    outcome: str = ""
    size: int = 0
    seconds: float = 0.0


def search(catalog: Catalog, wanted: Wanted) -> Found:
    """Return one page of the backups that fit."""
    where, values = _conditions(wanted)
    (total, size), *_ = catalog.select(f"SELECT count(*), coalesce(sum(size), 0) FROM backups WHERE {where}", *values)
    order = SORTS[wanted.sort].format("ASC" if wanted.ascending else "DESC")
    names = catalog.select(
        f"SELECT id FROM backups WHERE {where} ORDER BY {order} LIMIT ? OFFSET ?",
        *values,
        wanted.limit,
        wanted.skip,
    )
    return Found(catalog.backups_named([name for (name,) in names]), int(total), int(size))


def named_artifact(catalog: Catalog, name: str) -> tuple[str, str] | None:
    """Return the id of the backup and the key of the file that is called ``name``, None: there is none."""
    rows = catalog.select("SELECT id FROM backups WHERE artifact = ? LIMIT 1", name)
    if rows:
        return str(rows[0][0]), name
    # A copy that is encrypted on its way has another name than the file here.
    rows = catalog.select(
        "SELECT backup FROM copies WHERE json_extract(CAST(record AS TEXT), '$.key') = ? LIMIT 1", name
    )
    return (str(rows[0][0]), name) if rows else None


def history(catalog: Catalog, job: str, since: datetime, until: datetime, zone: tzinfo) -> list[HistoryDay]:
    """Return one entry for each local day between two moments, oldest first, also for those without a run."""
    rows = catalog.select(
        "SELECT runs.started, runs.outcome, json_extract(CAST(record AS TEXT), '$.ended'), coalesce(backups.size, 0) "
        "FROM runs LEFT JOIN backups ON backups.id = json_extract(CAST(record AS TEXT), '$.backup') "
        "WHERE runs.job = ? AND runs.action = 'backup' AND runs.outcome IS NOT NULL AND runs.started >= ? "
        "AND json_extract(CAST(record AS TEXT), '$.trigger') != 'retry'",
        job,
        since.isoformat(timespec="microseconds"),
    )
    found: dict[str, HistoryDay] = {}
    for started, outcome, ended, size in rows:
        begun = datetime.fromisoformat(str(started))
        day = begun.astimezone(zone).date().isoformat()
        seconds = (datetime.fromisoformat(str(ended)) - begun).total_seconds() if ended else 0.0
        found[day] = _more(found.get(day, HistoryDay(day)), Outcome(outcome), int(str(size)), seconds)
    return _filled(found, since, until, zone)


def _more(day: HistoryDay, outcome: Outcome, size: int, seconds: float) -> HistoryDay:
    worse = not day.outcome or _RANK[outcome] > _RANK[Outcome(day.outcome)]
    return HistoryDay(
        day.date,
        day.runs + 1,
        outcome.value if worse else day.outcome,
        max(day.size, size),
        max(day.seconds, seconds if size else 0.0),
    )


def _filled(found: Mapping[str, HistoryDay], since: datetime, until: datetime, zone: tzinfo) -> list[HistoryDay]:
    first, last = (since.astimezone(zone) + timedelta(days=1)).date(), until.astimezone(zone).date()
    days = ((first + timedelta(days=at)).isoformat() for at in range((last - first).days + 1))
    return [found.get(day, HistoryDay(day)) for day in days]


def _conditions(wanted: Wanted) -> tuple[str, list[object]]:
    """Return the condition in SQL, and what stands for its marks."""
    parts: list[str] = []
    values: list[object] = []

    def add(sql: str, *given: object) -> None:
        parts.append(sql)
        values.extend(given)

    for column, value in (("job", wanted.job), ("kind", wanted.kind), ("state", wanted.state)):
        if value:
            add(f"{column} = ?", value)
    if not wanted.slices and not wanted.kind:
        hidden = [kind.value for kind in Kind if kind in SLICES]
        add(f"kind NOT IN ({', '.join('?' * len(hidden))})", *hidden)
    if wanted.text:
        literal = wanted.text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        add("(artifact LIKE ? ESCAPE '\\' OR collection LIKE ? ESCAPE '\\')", f"%{literal}%", f"%{literal}%")
    if wanted.since is not None:
        add("created >= ?", wanted.since.isoformat(timespec="microseconds"))
    if wanted.until is not None:
        add("created < ?", wanted.until.isoformat(timespec="microseconds"))
    if wanted.pinned:
        add("pinned != ''")
    if wanted.destination or wanted.copies:
        here = "EXISTS (SELECT 1 FROM copies WHERE copies.backup = backups.id AND (?1 = '' OR destination = ?1) AND {})"
        marks = [wanted.destination] * 2
        state = "copies.state = ?" if wanted.copies else "copies.state IN ('uploaded', 'verified')"
        add(
            here.replace("?1", "?").format(state),
            *marks,
            *([wanted.copies] if wanted.copies else []),
        )
    return " AND ".join(parts) or "1", values
