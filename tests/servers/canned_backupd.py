"""A control server that answers from a script: for tests of clients, and to look at their output by hand.

The server, its wire format and its checks against the interface are the real ones; only what it tells is made up.
By hand: ``python -m tests.servers.canned_backupd SOCKET [ok|warning|failing|empty]``.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any, Final

from nanumpay_backupd.control.server import Call, ControlServer
from nanumpay_backupd.errors import BackupdError, BusyError, NotFoundError, RefusedError

__all__ = [
    "BACKUP",
    "LIVE",
    "NOW",
    "RUN",
    "SLICE",
    "SWAP",
    "CannedDaemon",
    "backup",
    "canned_daemon",
    "job",
    "oplog_time",
    "protection",
    "run",
    "slice_backup",
    "slice_manifest",
    "slices",
    "status",
    "timeline",
]

Record = dict[str, Any]
_PAGE: Final = "<!DOCTYPE html><html><body>백업 보고서</body></html>"

NOW: Final = datetime(2026, 11, 20, 20, 0, tzinfo=UTC)
BACKUP: Final = "nanumpay-backup-2026-11-20T17-00-00"
SLICE: Final = "nanumpay-slice-2026-11-20T19-59-07"
"""The newest slice."""
SWAP: Final = "2026-11-20T19-50-00"
RUN: Final = "20261120T170000Z-7f3a"
LIVE: Final = "20261120T195950Z-aaaa"
"""The run that events are about."""
UPLOAD_FAULT: Final[Record] = {
    "code": "destination-login",
    "message": "nas: the FTP server nas.example.kr refused the login (530 Login incorrect)",
    "hint": "check user name and password of destination nas, then: backupctl test nas",
    "retryable": False,
}


def moment(**before: float) -> str:
    """Write a moment so far before NOW (keywords of timedelta) as the protocol does."""
    return (NOW - timedelta(**before)).isoformat().replace("+00:00", "Z")


def checks_of_places() -> list[Record]:
    """Make up what Monitor says: one place is well, one is away, data may be missing."""
    rows = [
        ("", "content", "failed", "data missing", f"{BACKUP} is odd: collection pay.orders is gone", "look into it"),
        ("local", "reachable", "ok", "0.0 s", "answered in 0.0 s", ""),
        ("local", "age", "ok", "6h", "the newest verified backup is 6h old (limit 2d1h)", ""),
        ("local", "room", "warning", "9 days", "the disk is full in 9 days, as things go", "take a larger disk"),
        ("nas", "reachable", "failed", "no", "connecting failed at FTP server nas:21", "is it up?"),
        ("nas", "expiry", "ok", "300 days", "the key of kim ends on 2027-09-17", ""),
        ("nas", "expiry", "ok", "61 days", "the certificate of nas:21 ends on 2027-01-21", ""),
    ]
    names = ("destination", "check", "state", "value", "message", "hint")
    return [{"job": "nanumpay", "code": "", "backup": "", **dict(zip(names, row, strict=True))} for row in rows]


def notices() -> list[Record]:
    """Make what was told: a failure that is mended, another that is not, and a success that nobody asked for."""
    about: Record = {
        "severity": "error",
        "job": "nanumpay",
        "run": RUN,
        "backup": "",
        "reason": "MongoDB at localhost:27017 did not answer",
        "hint": "systemctl status mongod",
        "code": "source-unreachable",
        "since": moment(hours=30),
        "count": 2,
    }
    sent = [
        {"channel": "ops-mail", "state": "sent", "attempts": 1, "answer": "E-Mail took it"},
        {"channel": "team", "state": "waiting", "attempts": 2, "answer": "Slack did not answer within 15 s"},
    ]
    failed = {"event": "failed", "of": "failed"}
    return [
        {**about, **failed, "id": "n-4", "at": moment(hours=2), "phase": "changed", "sent": sent},
        {
            **about,
            "id": "n-3",
            "at": moment(hours=3),
            "phase": "once",
            "event": "succeeded",
            "of": "succeeded",
            "severity": "info",
            "reason": "",
            "hint": "",
            "code": "",
            "since": None,
            "count": 1,
            "sent": [],
        },
        {
            **about,
            "id": "n-2",
            "at": moment(hours=28),
            "phase": "ended",
            "event": "healthy",
            "of": "failed",
            "severity": "info",
            "sent": sent[:1],
        },
        {**about, **failed, "id": "n-1", "at": moment(hours=30), "phase": "began", "sent": sent[:1]},
    ]


def channels() -> list[Record]:
    """Make a channel that works, one that does not, the record, and a switch."""
    base: Record = {"severity": "", "events": [], "jobs": [], "state": "ok", "last": moment(hours=2), "waiting": 0}
    problem = {
        "code": "notify-timeout",
        "message": "Slack did not answer within 15 s",
        "hint": "is the service up, and reachable from this host?",
        "retryable": True,
    }
    return [
        {**base, "name": "ops-mail", "type": "apprise", "severity": "warning", "events": ["report"]},
        {
            **base,
            "name": "team",
            "type": "apprise",
            "severity": "none",
            "events": ["failed"],
            "jobs": ["nanumpay"],
            "state": "failing",
            "last": None,
            "waiting": 1,
            "problem": problem,
        },
        {**base, "name": "database", "type": "database"},
        {**base, "name": "heartbeat/nanumpay", "type": "heartbeat", "state": "unused", "last": None},
    ]


def oplog_time(counter: int = 1, **before: float) -> str:
    """Write the oplog time so far before NOW."""
    return f"{int((NOW - timedelta(**before)).timestamp())}:{counter}"


def stage(name: str, start: float, seconds: float | None, detail: str = "", outcome: str = "succeeded") -> Record:
    """Make a stage that began ``start`` seconds after 17:00 and took ``seconds`` (None: is going on)."""
    began = NOW - timedelta(hours=3) + timedelta(seconds=start)
    record: Record = {"stage": name, "started": began.isoformat(), "detail": detail}
    if seconds is not None:
        record |= {"ended": (began + timedelta(seconds=seconds)).isoformat(), "outcome": outcome}
    return record


STAGES: Final = (
    stage("preflight", 0, 0.2, "MongoDB 6.0.5, replica set; needs 210 MB, 12.3 GB free"),
    stage("dump", 0.2, 2.4, "12,345 documents in 9 collections, 1.17 GB"),
    stage("compress", 0.2, 2.6, "160 MB, level 2"),
    stage("publish", 2.8, 0.1, f"{BACKUP}.tar.gz"),
    stage("verify", 2.9, 1.1, "12,345 documents read back"),
    stage("upload", 4.0, 0.9, "2 of 2 destinations"),
    stage("retention", 4.9, 0.1),
)


def run(**changes: Any) -> Record:
    """Make a run that succeeded three hours before NOW."""
    record = {
        "id": RUN,
        "job": "nanumpay",
        "trigger": "schedule",
        "started": moment(hours=3),
        "ended": moment(hours=3, seconds=-5.0),
        "outcome": "succeeded",
        "backup": BACKUP,
        "stages": list(STAGES),
        "warnings": [],
    }
    return record | changes


def copies(identifier: str, **states: str) -> list[Record]:
    """Make copies of a backup; keywords are destination=state."""
    made = []
    for destination, state in states.items():
        record = {
            "backup": identifier,
            "destination": destination,
            "state": state,
            "key": f"{identifier}.tar.gz",
            "size": 160_432_128,
            "updated": moment(hours=3),
            "attempts": 0,
        }
        if state == "pending":
            record |= {"attempts": 2, "next_attempt": moment(minutes=-3), "error": UPLOAD_FAULT}
        made.append(record)
    return made


def backup(identifier: str = BACKUP, **changes: Any) -> Record:
    """Make a verified backup with three good copies."""
    record = {
        "id": identifier,
        "job": "nanumpay",
        "kind": "full",
        "created": moment(hours=3),
        "state": "verified",
        "artifact": f"{identifier}.tar.gz",
        "size": 160_432_128,
        "documents": 12_345,
        "run": RUN,
        "start": oplog_time(1, hours=3, seconds=5),
        "end": oplog_time(7, hours=3),
        "pinned": "",
        "copies": copies(identifier, local="verified", app="verified", nas="uploaded"),
    }
    return record | changes


def slice_backup(hour: float, **changes: Any) -> Record:
    """Make the slice that ends so many hours before NOW (and 53 s) and follows the one an hour before it."""
    made = NOW - timedelta(hours=hour, seconds=53)
    name = f"nanumpay-slice-{made:%Y-%m-%dT%H-%M-%S}"
    record = backup(
        name,
        kind="incremental",
        created=moment(hours=hour, seconds=53),
        artifact=f"{name}.bson.zst",
        size=12_345,
        documents=0,
        start=oplog_time(7, hours=hour + 1),
        end=oplog_time(7, hours=hour),
        copies=copies(name, local="verified", app="verified"),
    )
    return record | changes


def slices() -> list[Record]:
    """Make the slices since BACKUP, the newest first."""
    return [slice_backup(hour) for hour in (0, 1, 2)]


def slice_manifest() -> Record:
    """Make the manifest of SLICE."""
    shown = manifest()
    return shown | {
        "backup": SLICE,
        "kind": "incremental",
        "parent": slices()[1]["id"],
        "chain": BACKUP,
        "source": shown["source"] | {"collections": []},
        "consistency": {
            "level": "point-in-time",
            "reason": "",
            "start": oplog_time(7, hours=1),
            "end": oplog_time(7),
            "moment": moment(),
            "entries": 12,
        },
        "artifact": shown["artifact"] | {"name": f"{SLICE}.bson.zst", "compression": "zstd", "raw_bytes": 34_567},
    }


def protection(**changes: Any) -> Record:
    """Make the protection of a job with slices every minute, promises that are kept, and a good drill."""
    drill = run(id="20261115T200000Z-d001", action="drill", started=moment(days=5), ended=moment(days=5, seconds=-58))
    record = {
        "recoverable_until": moment(seconds=12),
        "age": 12.0,
        "stream": "ok",
        "slices": 143,
        "next_slice": moment(seconds=-48),
        "next_drill": moment(days=-2),
        "window": 90_000.0,
        "rpo": 900.0,
        "rto": 3600.0,
        "rpo_kept": True,
        "rto_kept": True,
        "last_drill": drill,
        "restore_seconds": 41.0,
        "spread": spread(backup=""),
    }
    return record | changes


def spread(**changes: Any) -> Record:
    """Say how copies are spread: here and in a bucket, and nothing is demanded."""
    counted = {"backup": BACKUP, "copies": 3, "media": ["disk", "s3"], "offsite": 1, "lacking": []}
    return counted | {"wanted_copies": 0, "wanted_media": 0, "wanted_offsite": 0} | changes


def timeline(**changes: Any) -> Record:
    """Make a timeline: an old backup of no moment, a stretch, a gap of two hours, and a stretch up to now."""
    first, second = (f"nanumpay-backup-2026-11-{day}T17-00-00" for day in (18, 19))
    record = {
        "job": "nanumpay",
        "now": moment(),
        "ranges": [
            {
                "first": moment(hours=75),
                "last": moment(hours=75),
                "bases": ["nanumpay-backup-2026-11-17T17-00-00"],
                "slices": 0,
                "exact": False,
            },
            {"first": moment(hours=51), "last": moment(hours=29), "bases": [first], "slices": 1320, "exact": True},
            {
                "first": moment(hours=27),
                "last": moment(seconds=12),
                "bases": [second, BACKUP],
                "slices": 143,
                "exact": True,
            },
        ],
        "gaps": [{"after": moment(hours=29), "before": moment(hours=27)}],
        "stream": "ok",
    }
    return record | changes


def manifest() -> Record:
    """Make the manifest of BACKUP, as far as clients look at it."""
    names = (("admins", 2), ("users", 4_120), ("weeklypaymentplans", 8_223))
    return {
        "format": 1,
        "backup": BACKUP,
        "kind": "full",
        "host": "nanum-web-1",
        "source": {
            "type": "mongodb",
            "server_version": "6.0.5",
            "topology": "replica-set",
            "databases": ["nanumpay"],
            "collections": [
                {"database": "nanumpay", "name": name, "documents": count, "bytes": count * 91_000, "indexes": 3}
                for name, count in names
            ],
        },
        "consistency": {"level": "none", "reason": "no oplog is taken yet"},
        "artifact": {
            "name": f"{BACKUP}.tar.gz",
            "size": 160_432_128,
            "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "compression": "gzip",
            "raw_bytes": 1_170_000_000,
            "encryption": "none",
        },
        "tools": {"mongodump": "100.7.0", "nanumpay-backupd": "0.1.0"},
        "verification": [
            {"level": "structure", "at": moment(hours=3, seconds=-4), "ok": True, "seconds": 1.1, "detail": ""}
        ],
    }


def swap(**changes: Any) -> Record:
    """Make what a restore with swap kept ten minutes before NOW."""
    record = {
        "stamp": SWAP,
        "job": "nanumpay",
        "server": "localhost:27017",
        "database": "nanumpay",
        "state": "swapped",
        "at": moment(minutes=10),
        "backup": BACKUP,
        "run": LIVE,
        "collections": 3,
        "documents": 12_001,
        "bytes": 1_100_000_000,
        "strays": [],
    }
    return record | changes


def backups() -> list[Record]:
    """Make a list as it is in real life: one good, one half uploaded, one vanished locally, one of the old program."""
    names = [f"nanumpay-backup-2026-11-{day}T17-00-00" for day in (19, 18, 17)]
    return [
        backup(),
        backup(
            names[0],
            created=moment(hours=27),
            end=oplog_time(7, hours=27),
            copies=copies(names[0], local="verified", app="verified", nas="pending"),
        ),
        backup(
            names[1],
            created=moment(hours=51),
            end=oplog_time(7, hours=51),
            copies=copies(names[1], local="missing", app="verified"),
        ),
        backup(
            names[2],
            created=moment(hours=75),
            kind="legacy",
            state="legacy",
            documents=0,
            start="",
            end="",
            copies=copies(names[2], local="uploaded"),
        ),
    ]


def retention(destination: str, **changes: Any) -> Record:
    """Make what holds at one place: the application's rule, and nothing is locked."""
    record = {
        "destination": destination,
        "rule": "7, at most 30 days",
        "count": 7,
        "days": 30,
        "max_total_size": 0,
        "min_keep": 1,
        "locked": 0,
        "locked_bytes": 0,
    }
    return record | changes


def job(**changes: Any) -> Record:
    """Make the application's job: daily at 02:00 in Seoul, everything well."""
    record = {
        "name": "nanumpay",
        "enabled": True,
        "source": "mongodb localhost:27017/nanumpay",
        "schedule": ["0 2 * * *"],
        "timezone": "Asia/Seoul",
        "next_run": moment(hours=-21),
        "last_run": run(),
        "last_success": run(),
        "newest_backup": backup(),
        "backups": 7,
        "total_size": 1_123_024_896,
        "destinations": ["app", "nas"],
        "pending_uploads": 0,
        "retention_count": 7,
        "retention_days": 30,
        "retention": [retention(place) for place in ("local", "app", "nas")],
        "warnings": [],
        "protection": protection(),
    }
    return record | changes


def status(health: str = "ok", **changes: Any) -> Record:
    """Make a status: ``ok``, ``warning`` (an upload is late), ``failing`` (no MongoDB, failed run) or ``empty``."""
    settings: Record = {
        "mode": "change-stream",
        "origin": "database",
        "connected": True,
        "server": "localhost:27017 (replica set rs0)",
        "since": moment(hours=76),
    }
    problems: list[Any] = []
    jobs = [job()]
    if health == "warning":
        late = backup(copies=copies(BACKUP, local="verified", app="verified", nas="pending"))
        ended = run(outcome="degraded", error=UPLOAD_FAULT)
        jobs = [job(last_run=ended, newest_backup=late, pending_uploads=1)]
        problems = [f"nanumpay: the last run was degraded: {UPLOAD_FAULT['message']}"]
    elif health == "failing":
        fault = {
            "code": "source-unreachable",
            "message": "MongoDB at localhost:27017 does not answer (connection refused)",
            "hint": "systemctl status mongod; is the URI in backupd.toml right?",
            "retryable": True,
        }
        settings |= {"mode": "connecting", "origin": "cache", "connected": False, "problem": fault}
        failed = run(
            id="20261120T180000Z-0001",
            outcome="failed",
            backup=None,
            error=fault,
            stages=[stage("preflight", 0, 30, outcome="failed")],
        )
        jobs = [job(last_run=failed, last_success=run())]
        problems = [fault["message"], "nanumpay: the last 3 runs failed"]
    elif health == "empty":
        health, jobs = "warning", []
        problems = ["no settings have been found in the application's database yet"]
    record = {
        "version": "0.1.0",
        "pid": 812,
        "started": moment(hours=76),
        "now": NOW.isoformat(),
        "timezone": "Asia/Seoul",
        "health": health,
        "problems": problems,
        "backups_path": "/opt/nanumpay/data/backups",
        "free_bytes": 12_345_678_901,
        "settings": settings,
        "jobs": jobs,
    }
    return record | changes


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    return [_without_none(inner) for inner in value] if isinstance(value, list) else value


class CannedDaemon:
    """Answers every method; ``calls`` keeps (method, parameters) of what was asked.

    Job names choose what a run does: ``shop`` ends degraded, ``broken`` fails, ``busy`` is refused, ``late`` is
    skipped, ``forever`` goes on until it is cancelled, anything else succeeds. ``step`` is the seconds between events.
    ``replies`` replaces the whole reply of a method; an exception in it is raised.
    """

    def __init__(self, health: str = "ok", step: float = 0.0) -> None:
        self.health = health
        self.step = step
        self.calls: list[tuple[str, Record]] = []
        self.replies: dict[str, Record | BackupdError] = {}
        self.cancelled = asyncio.Event()
        self.started = threading.Event()

    def handlers(self) -> dict[str, Any]:
        """Return one handler for each method of the interface."""
        names = [name.removeprefix("_on_") for name in dir(self) if name.startswith("_on_")]
        proofs = {"Verify": self._prove, "Drill": self._prove, "CopyBackup": self._copy}
        return dict.fromkeys(names, self._answer) | {"Run": self._run, "Watch": self._watch} | proofs

    async def _answer(self, call: Call) -> Record:
        self.calls.append((call.method, call.params))
        fixed = self.replies.get(call.method)
        if isinstance(fixed, BackupdError):
            raise fixed
        reply = fixed if fixed is not None else getattr(self, f"_on_{call.method}")(**call.params)
        clean: Record = _without_none(copy.deepcopy(reply))
        return clean

    def _on_GetStatus(self) -> Record:
        return status(self.health)

    def _on_ListJobs(self) -> Record:
        return {"jobs": status(self.health)["jobs"]}

    def _on_Cancel(self, run: str | None = None) -> Record:
        self.cancelled.set()
        return {"run": globals()["run"](id=run or RUN, outcome="cancelled", backup=None)}

    def _on_ListRuns(self, job: str | None = None, limit: int = 20, slices: bool = False) -> Record:
        failed = run(
            id="20261119T170000Z-11c0",
            started=moment(hours=27),
            ended=moment(hours=26.99),
            outcome="failed",
            backup=None,
            error=UPLOAD_FAULT,
        )
        going = run(id=LIVE, started=moment(seconds=10), ended=None, outcome=None, backup=None)
        idle = run(
            id="20261120T195907Z-0007",
            action="slice",
            started=moment(seconds=53),
            ended=moment(seconds=52),
            backup=None,
            stages=[stage("capture", 10_747, 0.1, "nothing new up to 2026-11-20 19:59:06 UTC")],
        )
        return {"runs": [going, *([idle] if slices else []), run(), failed][:limit]}

    def _on_DescribeRun(self, run: str) -> Record:
        if run != RUN:
            raise NotFoundError(f"there is no run {run}")
        return {"run": globals()["run"]()}

    def _on_ListBackups(self, job: str | None = None, limit: int | None = None, slices: bool = False) -> Record:
        if job not in {None, "nanumpay"}:
            raise NotFoundError(f"there is no job '{job}'", hint="the jobs are: nanumpay")
        if self.health == "empty":
            return {"backups": [], "hidden_slices": 0}
        some = globals()["slices"]() if slices else []
        return {"backups": [*some, *backups()][:limit], "hidden_slices": 0 if slices else 143}

    def _on_DescribeBackup(self, backup: str) -> Record:
        found = next((one for one in [*backups(), *slices()] if backup in {one["id"], "latest"}), None)
        if found is None:
            raise NotFoundError(f"there is no backup '{backup}'", hint="see: backupctl list")
        known = {BACKUP: manifest, SLICE: slice_manifest}
        return {"backup": found | ({"manifest": known[found["id"]]()} if found["id"] in known else {})}

    def _on_ListFiles(
        self, backup: str, path: str | None = None, recursive: bool | None = None, skip: int | None = None
    ) -> Record:
        above = path or "/srv/app"
        at = skip or 0
        more = bool(recursive) and at == 0
        kinds = (("-rw-r--r--", ""), ("lrwxrwxrwx", "there\x1b[31m"), ("drwxr-x---", ""))
        entries = [
            {
                "path": f"{above}/{at + number}\x1b[2J",
                "mode": mode,
                "size": 1_234_567 * number,
                "modified": moment(),
                "owner": "www-data",
                "group": "nanumpay",
                "target": target,
            }
            for number, (mode, target) in enumerate(kinds)
        ]
        return {"backup": BACKUP, "entries": entries, "more": more}

    def _on_Timeline(
        self, job: str | None = None, spots: int | None = None, since: str | None = None, until: str | None = None
    ) -> Record:
        if job not in {None, "nanumpay"}:
            raise NotFoundError(f"there is no job '{job}'", hint="the jobs are: nanumpay")
        if self.health == "empty":
            return {"job": "nanumpay", "now": moment(), "ranges": [], "gaps": [], "stream": "waiting"}
        return timeline()

    def _on_Delete(self, backup: str, destination: str | None = None, force: bool = False) -> Record:
        if backup == BACKUP and not force:
            raise RefusedError(
                f"{backup} is the newest verified backup of job nanumpay", hint="add --force to delete it nevertheless"
            )
        places = [destination] if destination else ["local", "app"]
        return {"deleted": [self._line(backup, place, "delete", "asked for by hand") for place in places]}

    def _on_Send(self, backup: str, destination: str | None = None) -> Record:
        return {"backup": BACKUP if backup == "latest" else backup, "queued": [destination] if destination else []}

    def _on_Sync(self, destination: str | None = None, job: str | None = None) -> Record:
        """Of destination ``nas`` there is one backup without a file."""
        place = destination or "app"
        lost = [SLICE] if place == "nas" else []
        found = {"job": job or "nanumpay", "destination": place, "queued": [BACKUP], "size": 161_000_000}
        return {"places": [found | {"waiting": 2, "lost": lost}]}

    def _on_ListCopies(self, backup: str) -> Record:
        place = {"size": 161_000_000, "key": f"{BACKUP}.tar.gz", "recipients": [], "encryption": "none"}
        here = {"destination": "local", "type": "folder", "proof": "structure", "media": "disk", "offsite": False}
        there = {"destination": "app", "type": "s3", "proof": "checksum", "media": "s3", "offsite": True}
        gone = {"destination": "old", "type": "", "proof": "none", "media": "", "state": "missing", "encryption": ""}
        sealed = {"encryption": "openpgp", "recipients": ["0123456789ABCDEF"], "key": f"{BACKUP}.tar.gz.gpg"}
        good = {"state": "verified", "proven": moment(hours=3)}
        name = BACKUP if backup == "latest" else backup
        return {"backup": name, "copies": [place | good | here, place | good | there | sealed, place | gone]}

    def _on_Restore(
        self,
        backup: str,
        job: str | None = None,
        at: str | None = None,
        swap: bool = False,
        to_database: str | None = None,
        collection: str | None = None,
        source: str | None = None,
        dry_run: bool = False,
        safety: bool = True,
    ) -> Record:
        if not dry_run:
            brought = [stage("restore", 0, 3.0, "12,345 documents restored into nanumpay")]
            if swap:
                brought.append(stage("swap", 3, 0.1, "nanumpay was there before and is nanumpay_old now"))
            kept = None if swap else "nanumpay-safety-backup-2026-11-20T19-59-50"
            return {"run": run(action="restore", backup=kept, stages=brought)}
        plan = {
            "backup": BACKUP if backup == "latest" else backup,
            "copy": source or "local",
            "server": "localhost:27017",
            "database": to_database or "nanumpay",
            "collections": [collection] if collection else ["admins", "users", "weeklypaymentplans"],
            "documents": 12_345,
            "bytes": 1_123_395_000,
            "moment": (at if at.endswith("Z") else moment()) if at else moment(hours=3),
            "replays_oplog": not to_database and not collection,
            "slices": [one["id"] for one in reversed(slices())] if at else [],
            "drops": [],
            "swap": swap,
            "target_exists": not to_database,
            "target_collections": 0 if to_database else 3,
            "target_documents": 0 if to_database else 12_001,
            "safety_backup": safety and not to_database and not swap,
            "warnings": ["not in the backup, stays as it is: drafts"],
        }
        return {"plan": plan}

    def _on_ListSwaps(self, job: str | None = None) -> Record:
        return {"swaps": [] if self.health == "empty" else [swap()], "problems": []}

    def _on_UndoSwap(self, swap: str, redo: bool = False) -> Record:
        return {"swap": globals()["swap"](stamp=swap, state="swapped" if redo else "undone")}

    def _on_DropSwap(self, swap: str) -> Record:
        return {"swap": globals()["swap"](stamp=swap)}

    def _on_ListNotices(self, job: str | None = None, limit: int = 20) -> Record:
        if self.health == "empty":
            return {"notices": [], "channels": []}
        return {"notices": notices()[:limit], "channels": channels()}

    def _on_TestNotify(self, channel: str | None = None) -> Record:
        if self.health == "empty" and channel is None:
            return {"results": []}
        answers: list[Record] = [
            {"channel": "ops-mail", "ok": True, "answer": "E-Mail took it", "hint": "", "code": "", "seconds": 0.41},
            {
                "channel": "team",
                "ok": False,
                "answer": "Slack: Failed to send Slack notification: Invalid token., error=403.",
                "hint": "check the address of this channel: login, token, recipient",
                "code": "notify-failed",
                "seconds": 0.2,
            },
        ]
        known = [answer["channel"] for answer in answers]
        if channel not in {None, *known}:
            raise NotFoundError(f"there is no channel '{channel}'", hint=f"the channels are: {', '.join(known)}")
        return {"results": [answer for answer in answers if channel in {None, answer["channel"]}]}

    def _on_GetReport(self, days: int = 7, language: str = "en", html: bool = False) -> Record:
        about = {"since": moment(days=days), "until": moment(), "timezone": "Asia/Seoul", "host": "db1"}
        report = {**about, "health": "ok", "problems": [], "jobs": []}
        return {"report": report, "text": f"Backup report of {days} days in {language}\nAll is well", "html": _PAGE}

    @staticmethod
    def _line(backup: str, destination: str, action: str, reason: str) -> Record:
        return {
            "backup": backup,
            "destination": destination,
            "action": action,
            "reason": reason,
            "size": 160_432_128,
        }

    def _on_Prune(
        self,
        job: str | None = None,
        apply: bool = False,
        at: str | None = None,
        assume_schedule: bool = False,
        together: bool = False,
    ) -> Record:
        if self.health == "empty":
            return {"lines": [], "applied": apply, "notes": []}
        old = "nanumpay-backup-2026-10-01T17-00-00"
        lines = [
            self._line(BACKUP, "local", "keep", "newest verified"),
            self._line(old, "local", "delete", "older than 30 days"),
            self._line(old, "app", "delete", "older than 30 days"),
        ]
        if assume_schedule:
            lines.append(self._line("nanumpay-backup-2027-01-01T17-00-00", "app", "keep", "young") | {"assumed": True})
        return {"lines": lines, "applied": apply, "notes": [], "at": at}

    def _on_Pin(self, backup: str, reason: str = "") -> Record:
        pin = {"backup": backup, "owner": "root", "reason": reason, "made": moment()}
        return {"backup": backup, "pins": [pin]}

    def _on_Unpin(self, backup: str, all: bool = False) -> Record:  # noqa: A002 - the protocol's name
        reason = f"{BACKUP} is corrupt; this is the next older good one"
        pin = {"backup": backup, "owner": "daemon:verify", "reason": reason, "made": moment()}
        return {"backup": backup, "pins": [] if all else [pin]}

    def _on_Monitor(self, job: str | None = None, recorded: bool = False) -> Record:
        found = checks_of_places()
        bad = self.health == "failing"
        if not bad:
            found = [check | {"state": "ok", "hint": "", "code": ""} for check in found]
        health = "failing" if bad else "ok"
        return {"health": health, "checks": found, "looked": moment(hours=3 if recorded else 0), "now": moment()}

    def _on_AcceptBackup(self, backup: str) -> Record:
        return {"backup": backup, "released": [BACKUP]}

    def _on_GetSettings(self) -> Record:
        settings = {
            "paths": {"backups": "/opt/nanumpay/data/backups", "state": "/var/lib/nanumpay-backupd"},
            "jobs": [
                {
                    "name": "nanumpay",
                    "enabled": True,
                    "schedule": {"cron": ["0 2 * * *"], "timezone": ""},
                    "destinations": [{"name": "app", "type": "s3", "bucket": "나눔-backup", "secret": "***"}],
                }
            ],
            "admins": [],
        }
        return {"settings": settings, "state": status(self.health)["settings"]}

    def _on_TestDestination(self, destination: str, job: str | None = None) -> Record:
        if destination not in {"app", "nas"}:
            raise NotFoundError(f"there is no destination '{destination}'", hint="the destinations are: app, nas")
        good = {"state": "ok", "hint": ""}
        checks = [{"name": "put", "message": "1 kB in 0.1 s", **good}]
        if destination == "nas":
            hint = UPLOAD_FAULT["hint"]
            checks.append({"name": "login", "state": "failed", "message": "530 Login incorrect", "hint": hint})
        return {"checks": checks}

    def _on_Doctor(self) -> Record:
        checks = [
            {"name": "MongoDB", "state": "ok", "message": "6.0.5, replica set rs0, may read", "hint": ""},
            {
                "name": "clock",
                "state": "warning",
                "message": "not synchronised by NTP",
                "hint": "systemctl enable --now systemd-timesyncd",
            },
        ]
        if self.health == "failing":
            hint = "install mongodb-database-tools"
            checks.append({"name": "mongodump", "state": "failed", "message": "not found on PATH", "hint": hint})
        return {"checks": checks}

    def _on_Reload(self) -> Record:
        return {"message": "The host file was read again; 1 job, 2 destinations."}

    def _on_RebuildCatalog(self) -> Record:
        return {"backups": 12, "runs": 1}

    async def _run(self, call: Call) -> AsyncIterator[Record]:
        self.calls.append((call.method, call.params))
        name = call.params.get("job") or "nanumpay"
        if name == "busy":
            raise BusyError("a run of job busy is going on already", hint="watch it: backupctl status --watch")
        record = run(job=name, trigger="manual", ended=None, outcome=None, backup=None, stages=[])
        events = self._skipped(record) if name == "late" else self._events(record, name)
        if call.params.get("kind", "full") != "full":
            events = self._slice(record, name)
        for reply in events:
            yield _without_none(copy.deepcopy(reply))
            self.started.set()
            if self.step:
                await asyncio.sleep(self.step)
            if name == "forever" and (reply["event"] or {}).get("kind") == "progress":
                await self.cancelled.wait()

    @staticmethod
    def _skipped(record: Record) -> Iterator[Record]:
        fault = {"code": "busy", "message": "job late is running already", "hint": "", "retryable": True}
        yield {"run": record | {"outcome": "skipped", "ended": record["started"], "error": fault}, "event": None}

    @staticmethod
    def _slice(record: Record, name: str) -> Iterator[Record]:
        """Tell of a slice; job ``idle`` has nothing new."""
        found = "nothing new up to 2026-11-20 19:59:06 UTC" if name == "idle" else "12 oplog entries, 12.3 kB"
        done = {"stages": [stage("capture", 0, 0.1, found)], "backup": None if name == "idle" else SLICE}
        record |= {"action": "slice"}
        yield {"run": record, "event": None}
        ended = run(**record) | done | {"outcome": "succeeded", "ended": moment(hours=3, seconds=-0.2)}
        yield {"run": ended, "event": {"kind": "run-ended", "time": moment(hours=3), "run": ended}}

    @staticmethod
    def _events(record: Record, name: str) -> Iterator[Record]:
        """Tell a whole run: every stage begins, makes progress and ends; dump and compress go side by side."""
        clock = moment(hours=3)
        yield {"run": record, "event": {"kind": "run-started", "time": clock, "run": record}}
        going: list[Record] = []
        for number, done in enumerate(STAGES):
            if name == "broken" and done["stage"] == "publish":
                break
            began = {key: done[key] for key in ("stage", "started")} | {"detail": ""}
            going.append(began)
            yield {"run": record | {"stages": [*going]}, "event": {"kind": "stage", "time": clock, "stage": began}}
            for part in (1, 2, 3):
                progress = {
                    "run": RUN,
                    "job": name,
                    "stage": done["stage"],
                    "bytes": part * 40_000_000,
                    "total": 160_000_000 if done["stage"] in {"upload", "verify"} else None,
                    "documents": part * 4_000 if done["stage"] == "dump" else 0,
                    "rate": 48_200_000.0,
                    "text": "",
                }
                event = {"kind": "progress", "time": clock, "progress": progress}
                yield {"run": record | {"stages": [*going]}, "event": event}
            going[number] = done
            yield {"run": record | {"stages": [*going]}, "event": {"kind": "stage", "time": clock, "stage": done}}
        message = {"kind": "message", "time": clock, "message": "1 collection was skipped: system.profile"}
        yield {"run": record | {"stages": [*going]}, "event": message}
        ended = run(job=name, trigger="manual", stages=going, warnings=["admins 1 and 2 carry different settings"])
        if name == "shop":
            ended |= {"outcome": "degraded", "error": UPLOAD_FAULT}
        elif name == "broken":
            fault = {
                "code": "tool-failed",
                "message": "mongodump ended with exit code 1: auth failed",
                "hint": "check the user's rights: backupctl doctor",
                "retryable": False,
            }
            ended |= {"outcome": "failed", "error": fault, "backup": None}
        elif name == "forever":
            ended |= {"outcome": "cancelled", "backup": None}
        yield {"run": ended, "event": {"kind": "run-ended", "time": clock, "run": ended}}

    async def _prove(self, call: Call) -> AsyncIterator[Record]:
        """Prove something: job ``shop`` ends degraded, ``broken`` fails, ``busy`` is refused, others pass."""
        self.calls.append((call.method, call.params))
        name = call.params.get("job") or "nanumpay"
        if name == "busy":
            raise BusyError("a verification of job busy is going on already", hint="watch it: backupctl status --watch")
        action = "drill" if call.method == "Drill" or call.params.get("level") == "restore" else "verify"
        done = stage("verify", 0, 4.1, "14 copies, 2.25 GB read at 548 MB/s")
        if action == "drill":
            done = stage("compare", 0, 41.0, "12,345 documents and 27 indexes are the same")
        record = run(
            job=name,
            action=action,
            trigger="manual",
            ended=None,
            outcome=None,
            backup=BACKUP if action == "drill" else call.params.get("backup"),
            stages=[],
        )
        yield _without_none({"run": record, "event": {"kind": "run-started", "time": moment(hours=3), "run": record}})
        fault = None
        if name == "broken":
            fault = {
                "code": "verify-checksum",
                "message": f"the copy of {BACKUP} at nas is not what was dumped",
                "hint": "a new full is made by itself",
                "retryable": False,
            }
        outcome = {"broken": "failed", "shop": "degraded"}.get(name, "succeeded")
        ended = run(**record | {"ended": moment(hours=3, seconds=-58), "outcome": outcome, "error": fault})
        ended["stages"] = [done | {"outcome": outcome}]
        yield _without_none({"run": ended, "event": {"kind": "run-ended", "time": moment(hours=3), "run": ended}})

    async def _copy(self, call: Call) -> AsyncIterator[Record]:
        """Make a copy; one to ``old`` fails."""
        self.calls.append((call.method, call.params))
        record = run(action="copy", trigger="manual", ended=None, outcome=None, backup=BACKUP, stages=[])
        yield _without_none({"run": record, "event": {"kind": "run-started", "time": moment(hours=3), "run": record}})
        fault = {"code": "destination-full", "message": "old is full", "hint": "make room", "retryable": False}
        failed = call.params["destination"] == "old"
        outcome = "failed" if failed else "succeeded"
        change = {"ended": moment(hours=3, seconds=-9), "outcome": outcome, "error": fault if failed else None}
        ended = run(**record | change)
        ended["stages"] = [stage("upload", 0, 9.0, f"{BACKUP}.tar.gz is at nas, and was read back", outcome)]
        yield _without_none({"run": ended, "event": {"kind": "run-ended", "time": moment(hours=3), "run": ended}})

    async def _watch(self, call: Call) -> AsyncIterator[Record]:
        self.calls.append((call.method, call.params))
        while True:
            progress = {
                "run": LIVE,
                "job": "nanumpay",
                "stage": "dump",
                "bytes": 412_000_000,
                "documents": 4_000,
                "rate": 480_000_000.0,
                "text": "",
            }
            yield {"event": {"kind": "progress", "time": moment(), "progress": progress}}
            await asyncio.sleep(1)


async def _serve(daemon: CannedDaemon, path: Path, ready: threading.Event, stop: asyncio.Event) -> None:
    interface = resources.files("nanumpay_backupd.control").joinpath("com.nanumpay.Backup.varlink")
    server = ControlServer(interface.read_text(encoding="utf-8"), daemon.handlers(), path=path)
    await server.start()
    ready.set()
    await stop.wait()
    await server.close()
    # Not before: a run that waits for its end is cut off with the connection, and not cancelled.
    daemon.cancelled.set()


@contextlib.contextmanager
def canned_daemon(path: Path, health: str = "ok", step: float = 0.0) -> Iterator[CannedDaemon]:
    """Serve on ``path`` from a thread of this process until the context ends."""
    daemon, ready, loop, stop = CannedDaemon(health, step), threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    def serve() -> None:
        loop.run_until_complete(_serve(daemon, path, ready, stop))
        loop.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        if not ready.wait(10):
            raise TimeoutError("the canned daemon did not start")
        yield daemon
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


if __name__ == "__main__":
    asyncio.run(
        _serve(
            CannedDaemon(sys.argv[2] if len(sys.argv) > 2 else "ok", step=0.15),
            Path(sys.argv[1]),
            threading.Event(),
            asyncio.Event(),
        )
    )
