"""Frozen records that every room speaks: Run, Backup, Manifest, Copy, Policy. No behaviour beyond reading them.

All times are aware datetimes in UTC; all sizes are bytes; durations are seconds. Records turn into JSON and
back with `to_json` and `from_json`; unknown keys of a newer format are ignored when reading.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple, Self, TypeVar

import msgspec

from nanumpay_backupd.errors import BackupdError

__all__ = [
    "ACCEPTED",
    "BY_DAEMON",
    "FOLDER",
    "FULLS",
    "SLICES",
    "STREAM",
    "Artifact",
    "Backup",
    "BackupState",
    "CollectionStat",
    "Consistency",
    "Content",
    "Copy",
    "CopyState",
    "ErrorInfo",
    "GroupManifest",
    "GroupMember",
    "Kind",
    "Lock",
    "Manifest",
    "Objectives",
    "OddityRecord",
    "OpTime",
    "Outcome",
    "Part",
    "Pin",
    "Policy",
    "Run",
    "Seal",
    "SourceInfo",
    "Stage",
    "StageRecord",
    "Stream",
    "Tiers",
    "Trigger",
    "Verification",
    "error_info",
    "from_json",
    "to_builtins",
    "to_json",
]

MANIFEST_FORMAT = 1
GROUP_FORMAT: Final = 1
BUCKETS: Final = "system.buckets."
"""Begins the name of the collection in which MongoDB keeps what a time-series collection shows."""
BY_DAEMON: Final = "daemon:"
"""Begins the owner of a pin that the daemon made and lets go by itself; no login has a colon in it."""
ACCEPTED: Final = "accepted"
"""State of an oddity of which somebody said that it is meant."""
LOCAL = "local"
"""Name of the copy in the backups folder itself, beside the named destinations."""


class OpTime(NamedTuple):
    """A place in MongoDB's oplog: seconds since 1970 (UTC) and a counter within them. Written ``seconds:counter``."""

    seconds: int
    counter: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``seconds:counter``; raises ValueError."""
        seconds, colon, counter = text.partition(":")
        if not colon or not seconds.isdecimal() or not counter.isdecimal():
            raise ValueError(f"{text!r} is not an oplog time (seconds:counter)")
        return tuple.__new__(cls, (int(seconds), int(counter)))  # a third as long as by the class, and there are many

    @property
    def moment(self) -> datetime:
        """Return it as a time of day; the oplog counts whole seconds."""
        return datetime.fromtimestamp(self.seconds, UTC)

    def __str__(self) -> str:
        return f"{self.seconds}:{self.counter}"


class Trigger(StrEnum):
    """Why a run was started. ``repair``: a chain broke or a verification failed, so a new full is made.

    ``retry`` is of queued uploads; ``again``: a run by schedule failed for a passing reason, and is made again;
    ``group``: it is part of the run of a group.
    """

    SCHEDULE = "schedule"
    MANUAL = "manual"
    CATCH_UP = "catch-up"
    RETRY = "retry"
    AGAIN = "again"
    REPAIR = "repair"
    GROUP = "group"


class Outcome(StrEnum):
    """How a run ended. ``degraded``: good local copy, some destination failed."""

    SUCCEEDED = "succeeded"
    DEGRADED = "degraded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    SKIPPED = "skipped"


class Stage(StrEnum):
    """The pipeline's stages, in the order of what they promise; ``fetch`` and what follows are those of a restore."""

    BEFORE = "before"
    PREFLIGHT = "preflight"
    DUMP = "dump"
    CAPTURE = "capture"
    COMPRESS = "compress"
    ENCRYPT = "encrypt"
    PUBLISH = "publish"
    VERIFY = "verify"
    UPLOAD = "upload"
    RETENTION = "retention"
    FETCH = "fetch"
    CHECK = "check"
    RESTORE = "restore"
    COMPARE = "compare"
    SWAP = "swap"
    AFTER = "after"


class Proof(StrEnum):
    """How a copy is known to be whole: the place told its ``size``, confirmed a ``checksum``, or it was ``read``."""

    SIZE = "size"
    CHECKSUM = "checksum"
    READ = "read"


class Kind(StrEnum):
    """What a backup holds (docs/architecture.md, Words). ``legacy``: made by the old program, no manifest.

    ``incremental`` and ``differential`` are slices of the oplog; ``collection`` is one collection by itself.
    """

    FULL = "full"
    INCREMENTAL = "incremental"
    DIFFERENTIAL = "differential"
    COLLECTION = "collection"
    LEGACY = "legacy"


FULLS: Final = frozenset({Kind.FULL, Kind.LEGACY})
"""The kinds that hold everything of a job: what is meant where no other kind is named, as in ``restore latest``."""
SLICES: Final = frozenset({Kind.INCREMENTAL, Kind.DIFFERENTIAL})
"""The kinds that restore nothing by themselves: they lead on from a full."""


class BackupState(StrEnum):
    """What is known of a backup's content. Only ``verified`` was read back and compared."""

    COMMITTED = "committed"
    VERIFIED = "verified"
    CORRUPT = "corrupt"
    LEGACY = "legacy"


class CopyState(StrEnum):
    """What is known of one copy of a backup at one place."""

    PENDING = "pending"
    UPLOADED = "uploaded"
    VERIFIED = "verified"
    MISSING = "missing"
    CORRUPT = "corrupt"


class _Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """Common shape of all records: immutable, keyword-only."""


class ErrorInfo(_Record, frozen=True):
    """A fault as it is stored and sent: see `errors.BackupdError` for the meaning of each field."""

    code: str
    message: str
    hint: str = ""
    retryable: bool = False


class StageRecord(_Record, frozen=True):
    """One stage of one run; ``outcome`` is None while it is running."""

    stage: Stage
    started: datetime
    ended: datetime | None = None
    outcome: Outcome | None = None
    detail: str = ""


class Run(_Record, frozen=True):
    """One execution of a job; ``outcome`` is None while it is running.

    ``action`` is what it is to do: ``backup``, ``collection`` (a backup of one collection), ``slice``, ``upload``
    (queued copies only), ``copy`` (one more copy of a backup), ``verify``, ``drill`` or ``restore``; ``backup`` is what
    it made, in a restore the safety backup, in ``verify``, ``drill`` and ``copy`` what was proven or copied. A run of a
    group has its name as ``job`` and the action ``group`` (or ``group-restore``), ``members`` are the ids of the runs
    that it began, and ``backup`` is the id of its `GroupManifest`. In each of those ``group`` is the id of that run.
    ``host`` and ``token`` are of the fleet: which host made it under which number of the lease.
    """

    id: str
    job: str
    trigger: Trigger
    started: datetime
    ended: datetime | None = None
    outcome: Outcome | None = None
    backup: str | None = None
    stages: tuple[StageRecord, ...] = ()
    error: ErrorInfo | None = None
    warnings: tuple[str, ...] = ()
    action: str = "backup"
    group: str = ""
    members: tuple[str, ...] = ()
    host: str = ""
    token: int = 0


class Content(_Record, frozen=True):
    """What a collection holds: documents, and a digest of them that does not depend on their order."""

    documents: int
    digest: str


class CollectionStat(_Record, frozen=True):
    """One collection in a dump: documents as mongodump itself reported them, bytes of BSON, number of indexes.

    ``digest`` (`Content.digest`) is of the documents in the dump, empty until they were read back. ``settled`` is what
    the collection held at the backup's moment, where the oplog changed it after it was dumped; None: not known.
    """

    database: str
    name: str
    documents: int
    bytes: int
    indexes: int
    type: str = "collection"
    digest: str = ""
    settled: Content | None = None

    @property
    def namespace(self) -> str:
        """Return ``database.name``, of a time-series collection the name that people know."""
        return f"{self.database}.{self.name.removeprefix(BUCKETS)}"


class Part(_Record, frozen=True, gc=False):
    """One part of what a source other than MongoDB holds: a database, a table, a folder of files, a workflow.

    ``name`` is unique in a backup. ``kind`` says which of these, in the source's own word. ``file`` is the file inside
    the archive that holds it (several parts may be in one), empty: it has none of its own. ``items`` counts what is in
    it; ``bytes`` are those of its file, or of its content in the archive. ``digest`` is of what the items say, empty
    until they were read back.
    """

    name: str
    kind: str = ""
    items: int = 0
    bytes: int = 0
    file: str = ""
    digest: str = ""


FOLDER: Final = "folder"
STREAM: Final = "stream"


class SourceInfo(_Record, frozen=True):
    """What was read, from where. ``type`` is that of the settings (`settings.sources`).

    ``topology`` is, of MongoDB, ``replica-set``, ``standalone`` or ``sharded``, of others the way it was read, in a
    word. ``collections`` are MongoDB's, ``parts`` those of all others. ``form`` is `FOLDER` (the archive holds a folder
    that is named as the backup) or `STREAM` (the archive is as the source's own tool wrote it). ``facts`` are further
    things that a restore has to know, in the source's own words; no secrets. ``by_hand`` are the lines of a shell that
    bring it back without this software: ``{folder}`` is where the archive was unpacked, ``{plain}`` a command that
    writes the plain archive (of a stream).
    """

    type: str
    server_version: str
    topology: str
    databases: tuple[str, ...]
    collections: tuple[CollectionStat, ...]
    parts: tuple[Part, ...] = ()
    form: str = FOLDER
    by_hand: tuple[str, ...] = ()
    facts: dict[str, str] = {}

    @property
    def documents(self) -> int:
        """Return how many documents (rows, keys, files) all parts hold."""
        return sum(item.documents for item in self.collections) + sum(item.items for item in self.parts)


class Consistency(_Record, frozen=True):
    """``level`` is ``none`` (``reason`` says why) or ``point-in-time``: all is of the one ``moment``.

    ``start`` and ``end`` are oplog times (`OpTime`); ``entries`` counts what is in ``oplog.bson``, or in a slice, which
    holds what was written after ``start`` and up to ``end``. Of other sources that make increments, both are times of
    day, as such: an increment's ``start`` is the ``end`` of the backup that it goes on from. ``position`` is the end in
    the source's own log, in its own words.
    """

    level: str
    reason: str = ""
    start: str = ""
    end: str = ""
    moment: datetime | None = None
    entries: int = 0
    position: str = ""


class Seal(_Record, frozen=True):
    """Who can open an encrypted artifact, and what was encrypted.

    ``recipients`` are OpenPGP fingerprints, age recipients or ssh fingerprints, empty: a passphrase; ``header`` is what
    the file itself says of them (`transforms.sealing.Framing.header`). ``check`` (base64) is a small message on which a
    key can be tried. ``plain_size`` and ``plain_sha256`` are of the file before it was encrypted.
    """

    recipients: tuple[str, ...] = ()
    header: tuple[str, ...] = ()
    check: str = ""
    plain_size: int = 0
    plain_sha256: str = ""


class Artifact(_Record, frozen=True):
    """The file that holds the data. ``size`` is its bytes, ``raw_bytes`` those of the data before compression.

    ``encryption`` is the method (none, openpgp, age); size and SHA-256 are of the file as it is stored, encrypted.
    """

    name: str
    size: int
    sha256: str
    compression: str
    level: int
    raw_bytes: int
    encryption: str = "none"
    seal: Seal | None = None


class Verification(_Record, frozen=True):
    """One reading-back of an artifact; ``level`` is ``checksum``, ``structure`` or ``restore``."""

    level: str
    at: datetime
    ok: bool
    seconds: float
    documents: int = 0
    bytes: int = 0
    detail: str = ""


class Manifest(_Record, frozen=True):
    """The commit record of a backup: it exists if and only if the artifact is whole.

    Of a slice, ``parent`` is the backup that it follows, ``chain`` the full that it belongs to.

    ``elsewhere`` is the artifact as the destinations have it, None: they have the same file. ``forms`` are further ones
    that single places have, because they were encrypted anew, oldest first; their names differ. ``closed`` (base64) is
    the whole manifest, encrypted: then this one names no database, collection or host, and ``artifact`` is the file
    beside which it was found. ``only_to`` names the destinations it was meant for, None: all that the job had.
    """

    backup: str
    job: str
    kind: Kind
    run: str
    host: str
    started: datetime
    ended: datetime
    source: SourceInfo
    consistency: Consistency
    artifact: Artifact
    tools: dict[str, str]
    parent: str | None = None
    chain: str | None = None
    verification: tuple[Verification, ...] = ()
    elsewhere: Artifact | None = None
    closed: str = ""
    only_to: tuple[str, ...] | None = None
    forms: tuple[Artifact, ...] = ()
    format: int = MANIFEST_FORMAT

    @property
    def stored_elsewhere(self) -> Artifact:
        """Return the artifact as the destinations have it."""
        return self.elsewhere or self.artifact

    def at(self, key: str) -> Manifest:
        """Return the manifest of the file that is stored under ``key``: its ``artifact`` is that file."""
        for form in (self.elsewhere, *self.forms):
            if form is not None and key == form.name:
                return msgspec.structs.replace(self, artifact=form, elsewhere=None, forms=())
        return self

    @property
    def collection(self) -> str:
        """Return ``database.name`` of what a snapshot of one collection holds, empty for other kinds."""
        if self.kind is not Kind.COLLECTION or not self.source.collections:
            return ""
        return self.source.collections[0].namespace


class GroupMember(_Record, frozen=True):
    """What one job made in a run of its group. ``type`` and ``holds`` are those of its source.

    ``backup`` is None where it made none; ``code`` then is that of the fault. ``places`` are the destinations that its
    copies go to, ``local`` among them.
    """

    job: str
    type: str
    holds: str
    run: str
    outcome: Outcome
    backup: str | None = None
    created: datetime | None = None
    code: str = ""
    places: tuple[str, ...] = ()


class GroupManifest(_Record, frozen=True):
    """What belongs together: written when all members of a run are committed, and last of all at each destination.

    ``group`` is the name, ``id`` that of what was made (`pipeline.layout.group_id`), ``outcome`` the worst of the
    members'. ``sent`` are the destinations that have this manifest. It is stored as it is also where backups are
    encrypted, and names no database, folder or host.
    """

    id: str
    group: str
    run: str
    started: datetime
    ended: datetime
    outcome: Outcome
    members: tuple[GroupMember, ...]
    sent: tuple[str, ...] = ()
    format: int = GROUP_FORMAT

    @property
    def whole(self) -> bool:
        """Tell whether every member made a backup."""
        return bool(self.members) and all(member.backup is not None for member in self.members)


class Lock(_Record, frozen=True, gc=False):
    """A place does not let a copy go, as it said at ``asked``: ``until`` then, None: until somebody lifts it."""

    until: datetime | None
    asked: datetime


class Pin(_Record, frozen=True):
    """Retention must leave a backup alone. ``owner`` is a person's login, or begins with `BY_DAEMON`.

    Each owner has at most one pin on a backup, and lets go its own only.
    """

    backup: str
    owner: str
    reason: str
    made: datetime

    @property
    def by_daemon(self) -> bool:
        """Tell whether the daemon made it, because a newer backup is damaged or odd."""
        return self.owner.startswith(BY_DAEMON)

    @property
    def told(self) -> str:
        """Return why and, of a person's, by whom."""
        return self.reason if self.by_daemon else f"{self.reason or 'asked for'} ({self.owner})"


class OddityRecord(_Record, frozen=True):
    """A backup that differs from those before it: ``text`` says how, ``loses`` whether something is not there any more.

    ``state`` is ``open``, `ACCEPTED`, or ``over``: a later backup was as usual again. What was usual is kept, because
    retention deletes the backups that it was learned from: ``documents``, ``size`` (bytes of BSON) and, by name, the
    documents of collections. ``event`` is the backup at which it was told: later ones may lack the same.
    """

    backup: str
    job: str
    created: datetime
    text: str
    loses: bool
    documents: int
    size: int
    collections: dict[str, int]
    event: str
    state: str = "open"
    by: str = ""


class Copy(_Record, frozen=True, gc=False):
    """A backup at one destination. ``attempts`` and ``next_attempt`` belong to the upload queue.

    ``lock`` is what hindered its deletion, None: nothing did. ``proof`` is how it is known to be what it should be, as
    of ``updated``, where it is there at all.
    """

    backup: str
    destination: str
    state: CopyState
    key: str
    size: int
    updated: datetime
    attempts: int = 0
    next_attempt: datetime | None = None
    error: ErrorInfo | None = None
    lock: Lock | None = None
    proof: Proof | None = None


class Backup(_Record, frozen=True, gc=False):
    """A backup as the catalog knows it; ``created`` is the moment in its name.

    ``start`` and ``end`` are the oplog times of its consistency, empty where it has none. ``pinned`` says why retention
    must leave it alone, empty: it is not pinned. ``collection`` is ``database.name`` of a snapshot of one collection.
    ``only_to`` names the destinations it was meant for, None: all; at the others no copy of it is wanted.
    ``odd`` says how it differs from those before it, so that data may be lost (`pipeline.oddities`), else empty.
    """

    id: str
    job: str
    kind: Kind
    created: datetime
    state: BackupState
    artifact: str
    size: int
    documents: int = 0
    run: str | None = None
    start: str = ""
    end: str = ""
    pinned: str = ""
    collection: str = ""
    only_to: tuple[str, ...] | None = None
    odd: str = ""
    copies: tuple[Copy, ...] = ()
    manifest: Manifest | None = None


class Stream(_Record, frozen=True):
    """How far a job's changes are captured: ``position`` is the oplog time up to which all is in backups.

    ``parent`` is the newest backup on the way there, ``since`` its end (nothing was written between that and
    ``position``), ``chain`` its full. ``first`` and ``newest`` are the oldest and
    the newest oplog entry that the server held when it was looked at (``checked``). ``broken`` says why nothing can
    follow on, empty: all is well. ``window`` is how many seconds the full oplog will hold, at the present rate
    of writes (0: not known).
    """

    job: str
    position: str
    parent: str
    since: str
    chain: str
    checked: datetime
    first: str = ""
    newest: str = ""
    window: float = 0.0
    broken: str = ""


class Objectives(_Record, frozen=True):
    """What a job promises, in seconds: ``rpo`` the most that may be lost, ``rto`` the longest a restore may take.

    0: nothing is promised.
    """

    rpo: float = 0.0
    rto: float = 0.0


class Tiers(_Record, frozen=True):
    """How long to keep, in windows stacked back from now: all backups, then one a day, one an ISO week, and so on.

    Of each period the newest is kept. 0: there is no such window.
    """

    keep_all_for_days: int
    keep_daily_for_days: int = 0
    keep_weekly_for_weeks: int = 0
    keep_monthly_for_months: int = 0
    keep_yearly_for_years: int = 0


class Policy(_Record, frozen=True):
    """How long to keep: the newest ``count``, and of those none older than ``days`` (the application's rule).

    ``tiers``, where they are set, take the place of both. Then as many of the oldest go as it takes to stay within
    ``max_total_size`` bytes (0: any size). The newest ``min_keep`` that are verified always stay.
    """

    count: int = 7
    days: int = 30
    tiers: Tiers | None = None
    max_total_size: int = 0
    min_keep: int = 1


T = TypeVar("T")


def to_json(record: object) -> bytes:
    """Encode a record as compact JSON (UTF-8)."""
    return msgspec.json.encode(record)


def from_json(kind: type[T], data: bytes | str) -> T:
    """Decode a record; raises msgspec.ValidationError or msgspec.DecodeError on anything else."""
    return msgspec.json.decode(data, type=kind)


def to_builtins(record: object) -> Any:
    """Turn a record into plain dicts, lists and strings, as the control protocol sends it."""
    return msgspec.to_builtins(record)


def error_info(error: BackupdError) -> ErrorInfo:
    """Describe a fault for storage and for the wire."""
    return ErrorInfo(code=error.code, message=error.message, hint=error.hint, retryable=error.retryable)
