"""The program ``pbm`` of Percona Backup for MongoDB: its commands, and what it answers as JSON. Decides nothing.

Built to its documentation and its sources (2.10 to 2.14, percona/percona-backup-mongodb, cmd/pbm); unknown keys of
other versions are passed over. It takes the address from its environment (PBM_MONGODB_URI), which only the same user
and root can read; in argv everybody could.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import msgspec

from nanumpay_backupd.errors import BackupdError, LockedError, NotFoundError, SourceError, StoreError, ToolError
from nanumpay_backupd.settings.sources import PbmSource
from nanumpay_backupd.system.process import Finished, find_tool, run_bytes

__all__ = ["DONE", "ENDED", "INSTALL_HINT", "Description", "PbmLink", "Restored", "Snapshot", "Status", "moment_of"]

INSTALL_HINT: Final = (
    "install percona-backup-mongodb (https://docs.percona.com/percona-backup-mongodb/), "
    "or set [tools] pbm in backupd.toml"
)
DONE: Final = "done"
ENDED: Final = frozenset({DONE, "canceled", "error", "partlyDone"})
"""The states after which nothing follows; ``partlyDone`` is of physical restores."""
_ASKS_SINCE: Final = (2, 14)
"""The version since which ``pbm restore`` wants to be told that it need not ask (``--yes``)."""
_BASE_OF_PITR: Final = "last PITR base snapshot"
_BUSY: Final = "another operation in progress"
_GONE: Final = re.compile(r"not found|no documents in result", re.IGNORECASE)
_UNSET: Final = re.compile(r"missed config|no config set", re.IGNORECASE)
_AUTH: Final = re.compile(r"auth error|authentication failed|not authorized|Unauthorized", re.IGNORECASE)
_AWAY: Final = re.compile(r"connect to mongodb|server selection|connection refused|no such host", re.IGNORECASE)


class _Answer(msgspec.Struct, frozen=True):
    """Common shape of what pbm answers."""


class Node(_Answer, frozen=True):
    """One member of a replica set, and the agent beside it."""

    host: str = ""
    agent: str = ""
    role: str = ""
    ok: bool = False
    errors: tuple[str, ...] = ()


class ReplicaSet(_Answer, frozen=True):
    """A shard, the config servers, or the one replica set."""

    rs: str
    nodes: tuple[Node, ...] | None = ()

    @property
    def working(self) -> int:
        """Return how many agents are well."""
        return sum(node.ok for node in self.nodes or ())


class Pitr(_Answer, frozen=True):
    """Whether pbm saves the oplog all the time: ``conf`` is to, ``run`` does."""

    conf: bool = False
    run: bool = False
    error: str = ""


class Operation(_Answer, frozen=True, rename={"started": "startTS"}):
    """What pbm does just now; ``type`` empty: nothing."""

    type: str = ""
    name: str = ""
    status: str = ""
    started: int = 0


class Snapshot(_Answer, frozen=True, rename={"restore_to": "restoreTo", "version": "pbmVersion"}):
    """One of pbm's backups in its list. ``restore_to`` is the moment (seconds since 1970) that it brings back."""

    name: str
    status: str = ""
    type: str = ""
    error: str = ""
    size: int = 0
    restore_to: int = 0
    version: str = ""
    profile: str = ""


class Span(_Answer, frozen=True):
    """From when to when any moment can be brought back, in seconds since 1970."""

    start: int
    end: int


class Range(_Answer, frozen=True, rename={"without_base": "noBaseSnapshot"}):
    """A span of saved oplog; ``without_base``: no backup lies before it, so it is of no use."""

    range: Span
    without_base: bool = False


class Ranges(_Answer, frozen=True, rename={"ranges": "pitrChunks"}):
    """All of them."""

    ranges: tuple[Range, ...] | None = ()


class Storage(_Answer, frozen=True, rename={"pitr": "pitrChunks"}):
    """Where pbm keeps its backups, and which there are."""

    type: str = ""
    path: str = ""
    snapshot: tuple[Snapshot, ...] | None = ()
    pitr: Ranges | None = None


class Status(_Answer, frozen=True):
    """What ``pbm status`` says."""

    cluster: tuple[ReplicaSet, ...] | None = ()
    pitr: Pitr = Pitr()
    running: Operation = Operation()
    backups: Storage = Storage()

    @property
    def busy(self) -> Operation | None:
        """Return what keeps pbm from beginning something else, None: nothing. Saving the oplog does not."""
        return self.running if self.running.type not in ("", "pitr") else None

    @property
    def spans(self) -> tuple[Span, ...]:
        """Return from when to when any moment can be brought back, oldest first."""
        found = (self.backups.pitr.ranges or ()) if self.backups.pitr is not None else ()
        return tuple(sorted((one.range for one in found if not one.without_base), key=lambda span: span.start))

    def snapshot(self, name: str) -> Snapshot | None:
        """Return the backup of that name."""
        return next((one for one in self.backups.snapshot or () if one.name == name), None)


class Member(_Answer, frozen=True, rename={"last_write": "last_write_ts"}):
    """What was saved of one replica set."""

    name: str
    status: str = ""
    node: str = ""
    size: int = 0
    last_write: int = 0
    error: str = ""
    configsvr: bool = False

    @property
    def good(self) -> bool:
        """Tell whether pbm says that it was saved."""
        return self.status == DONE and not self.error


class Description(
    _Answer, frozen=True, rename={"last_write": "last_write_ts", "server": "mongodb_version", "version": "pbm_version"}
):
    """What ``pbm describe-backup`` says; ``last_write`` is the moment that it brings back."""

    name: str
    status: str
    type: str = ""
    opid: str = ""
    last_write: int = 0
    server: str = ""
    fcv: str = ""
    version: str = ""
    size: int = 0
    size_uncompressed: int = 0
    error: str = ""
    profile: str = ""
    storage_type: str = ""
    replsets: tuple[Member, ...] | None = ()

    @property
    def members(self) -> tuple[Member, ...]:
        """Return the replica sets."""
        return self.replsets or ()

    @property
    def trouble(self) -> str:
        """Say why it is no good backup, empty: pbm says that it is one, and of which moment."""
        if self.status != DONE:
            return f"pbm says that it is {self.status or 'nothing'}" + (f": {self.error}" if self.error else "")
        if self.error:
            return f"pbm says: {self.error}"
        bad = [f"{one.name} is {one.status or 'nothing'} {one.error}".strip() for one in self.members if not one.good]
        if bad:
            return "; ".join(bad)
        return "" if self.members and self.last_write > 0 else "pbm names no replica set, or no moment to restore to"


class RestoredSet(_Answer, frozen=True):
    """How far a restore is on one replica set."""

    name: str
    status: str = ""
    error: str = ""


class Restored(_Answer, frozen=True):
    """What ``pbm describe-restore`` says."""

    name: str = ""
    status: str = ""
    error: str = ""
    replsets: tuple[RestoredSet, ...] | None = ()

    @property
    def trouble(self) -> str:
        """Say what of it failed, empty: nothing, as far as it is."""
        told = [self.error, *(f"{one.name}: {one.error}" for one in self.replsets or () if one.error)]
        return "; ".join(filter(None, told))


class _Name(_Answer, frozen=True):
    name: str


_T = TypeVar("_T")


class PbmLink:
    """The program, with the address it works at. Each call is a process that ends with us."""

    def __init__(self, settings: PbmSource) -> None:
        self._settings = settings

    def version(self) -> str:
        """Return its version, such as ``2.14.0``; raises ToolError."""
        done = self._run("version", "--short")
        found = re.search(r"\d+\.\d+\.\d+\S*", done.stdout.decode("utf-8", "replace"))
        if done.code != 0 or found is None:
            raise ToolError(f"{self._settings.pbm} does not look like pbm: it tells no version", hint=INSTALL_HINT)
        return found[0].rstrip('"}')

    def status(self) -> Status:
        """Ask how everything is; raises SourceError, ToolError."""
        return self._asked(Status, "status")

    def describe(self, name: str) -> Description | None:
        """Ask for one backup, None: there is none of that name. Raises SourceError, ToolError."""
        try:
            return self._asked(Description, "describe-backup", name)
        except NotFoundError:
            return None

    def begin(self) -> str:
        """Have a backup begun and return pbm's name of it; raises SourceError (``source-busy``), ToolError."""
        profile = (f"--profile={self._settings.profile}",) if self._settings.profile else ()
        return self._asked(_Name, "backup", f"--type={self._settings.backup_type}", *profile).name

    def cancel(self) -> None:
        """Have the backup that is being made cancelled; raises SourceError, ToolError."""
        self._checked("cancel-backup")

    def delete(self, name: str) -> None:
        """Delete a backup where pbm stored it; what is gone already is none's fault.

        Raises LockedError where pbm needs it, StoreError otherwise.
        """
        try:
            self._checked("delete-backup", name, "--yes")
        except NotFoundError:
            return
        except BackupdError as error:
            if _BASE_OF_PITR in error.message:
                raise LockedError(
                    f"pbm keeps {name}: its saved oplog needs it, and there is no newer backup to begin from",
                    hint="it goes when there is one; or switch PITR off: pbm config --set pitr.enabled=false",
                ) from None
            retryable = error.retryable
            raise StoreError(
                f"pbm did not delete {name}: {error.message}", hint=error.hint, retryable=retryable
            ) from None
        if self.describe(name) is not None:
            raise StoreError(f"pbm was told to delete {name}, and still has it", hint="look at: pbm logs -e delete")

    def restore(self, *words: str) -> str:
        """Have a restore begun and return pbm's name of it; raises SourceError, ToolError."""
        series = tuple(int(part) for part in re.findall(r"\d+", self.version())[:2])
        return self._asked(_Name, "restore", *words, *(("--yes",) if series >= _ASKS_SINCE else ())).name

    def restored(self, name: str) -> Restored | None:
        """Ask for one restore, None: pbm does not know it (yet). Raises SourceError, ToolError."""
        try:
            return self._asked(Restored, "describe-restore", name)
        except NotFoundError:
            return None

    def _asked(self, kind: type[_T], *words: str) -> _T:
        """Return what a command answers: one line of JSON, the last one."""
        lines = self._checked(*words).stdout.decode("utf-8", "replace").strip().splitlines()
        try:
            return msgspec.convert(_filled(json.loads(lines[-1] if lines else "")), kind)
        except (ValueError, msgspec.ValidationError) as error:
            raise ToolError(
                f"pbm {words[0]} answered something else than it is documented to: {error}",
                hint="which version is it? pbm version; docs/sources/pbm.md says which were taken as the model",
            ) from None

    def _checked(self, *words: str) -> Finished:
        """Run a command; raises SourceError, ToolError or NotFoundError by what it says."""
        done = self._run(*words, "--out=json")
        if done.code == 0:
            return done
        raise self._fault(words[0], _said(done))

    def _run(self, *words: str) -> Finished:
        tool = find_tool(self._settings.pbm, hint=INSTALL_HINT)
        extra = {"PBM_MONGODB_URI": self._settings.uri.reveal()}
        return run_bytes([str(tool), *words], extra=extra, timeout=self._settings.timeout)

    def _fault(self, command: str, said: str) -> BackupdError:
        """Return the fault that a command's last words mean."""
        text = f"pbm {command}: {said}"
        if _BUSY in said:
            return SourceError(
                text, hint="it is tried again; what it does: pbm status", code="source-busy", retryable=True
            )
        if _AUTH.search(said):
            hint = "the user of uri needs the rights that pbm's documentation names (role pbmAnyAction and others)"
            return SourceError(text, hint=hint, code="source-auth", retryable=False)
        if _AWAY.search(said):
            hint = "uri names the config servers of the cluster, or the replica set; do they run?"
            return SourceError(text, hint=hint, code="source-unreachable", retryable=True)
        if _UNSET.search(said):
            hint = "it has no storage yet: pbm config --file CONFIG.yaml (docs/sources/pbm.md)"
            return SourceError(text, hint=hint, code="source-failed", retryable=False)
        if _GONE.search(said):
            return NotFoundError(text, hint="see: pbm list")
        return ToolError(text, hint="look at: pbm status; pbm logs")


def moment_of(seconds: int) -> datetime:
    """Return one of pbm's times."""
    return datetime.fromtimestamp(seconds, UTC)


def _said(done: Finished) -> str:
    """Return why a command failed: as JSON on its output, or as a line that begins with "Error:"."""
    for line in reversed(done.stdout.decode("utf-8", "replace").splitlines()):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and (text := found.get("Error") or found.get("error")):
            return str(text)
    lines = [line for line in done.said.splitlines() if line.strip()]
    told = [line.removeprefix("Error:").strip() for line in lines if line.startswith("Error:")]
    return (told or lines or ["it gave no reason"])[-1]


def _filled(found: Any) -> Any:
    """Leave out what is null, which Go writes for an empty list or a pointer to nothing."""
    if isinstance(found, dict):
        return {key: _filled(value) for key, value in found.items() if value is not None}
    return [_filled(item) for item in found] if isinstance(found, list) else found
