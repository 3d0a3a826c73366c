"""MongoDB as the target of a restore: what is there before, mongorestore as a child process, the comparison afterwards.

Facts about mongorestore 100.x this relies on, each seen on real servers: a folder below the given one is a database of
that name; its exit code is 0 also when documents failed, which only its last line tells (``N document(s) restored
successfully. M document(s) failed to restore.``); it says ``finished restoring NS (N documents, M failures)`` for each
collection; documents that a collection's validator would refuse fail unless ``--bypassDocumentValidation`` is given;
with ``--oplogReplay`` it refuses a URI that names a database, and entries that fail end it with an exit code.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.database import Database

from nanumpay_backupd.errors import BackupdError, SourceError, ToolError
from nanumpay_backupd.settings.schema import MongoSource
from nanumpay_backupd.sources.base import Expected, TargetFacts
from nanumpay_backupd.sources.mongodb import _connect, _dump_uri, _errors_named, _hosts, _last_words
from nanumpay_backupd.system.process import Child, find_tool, run_text, secret_file

__all__ = ["MongoTarget", "Restoring"]

_INSTALL_HINT: Final = (
    "install MongoDB's package mongodb-database-tools (https://www.mongodb.com/docs/database-tools/), "
    "or set [tools] mongorestore in backupd.toml"
)
_FINISHED: Final = re.compile(r"finished restoring (?P<ns>.+) \((?P<count>\d+) documents?, (?P<failed>\d+) failures?\)")
_TOTAL: Final = re.compile(r"(?P<count>\d+) document\(s\) restored successfully\. (?P<failed>\d+) document\(s\) failed")
_TROUBLE: Final = re.compile(r"continuing through error: (?P<what>.+)")
_BUCKETS: Final = "system.buckets."
_KEPT_TROUBLE: Final = 5
_PARALLEL: Final = 4
"""mongorestore's own default: measured on 1.2 GB it is faster than 2 and takes 140 MB instead of 100."""


class MongoTarget:
    """A server into which databases are restored. Errors are `errors.BackupdError`."""

    def __init__(self, settings: MongoSource) -> None:
        self._settings = settings

    def look(self, databases: Iterable[str]) -> TargetFacts:
        """List what stands in ``databases`` now; raises SourceError when the server cannot be reached or refuses.

        Documents are counted by the server's own record of them, which may be a little off after a crash.
        """
        with _errors_named(self._settings), _connect(self._settings) as client:
            names: list[str] = []
            views: list[str] = []
            documents = 0
            for database in databases:
                db = client[database]
                for entry in db.list_collections():
                    name = entry["name"]
                    if name.startswith("system."):
                        continue
                    if entry["type"] == "view":
                        views.append(name)
                        continue
                    names.append(name)
                    stored = f"{_BUCKETS}{name}" if entry["type"] == "timeseries" else name
                    documents += db[stored].estimated_document_count()
            return TargetFacts(
                address=_hosts(self._settings),
                collections=tuple(sorted(names)),
                views=tuple(sorted(views)),
                documents=documents,
                may_replay=_may_replay(client),
            )

    def tool(self) -> str:
        """Return mongorestore's path, tried; raises ToolError (``tool-missing``) with the install hint."""
        tool = find_tool(self._settings.mongorestore, hint=_INSTALL_HINT)
        if "mongorestore version" not in run_text([str(tool), "--version"]):
            raise ToolError(f"{tool} does not look like mongorestore: it tells no version", hint=_INSTALL_HINT)
        return str(tool)

    def start(self, folder: Path, *, replay: bool, drop: bool = True) -> Restoring:
        """Start mongorestore on the databases in ``folder``; with ``drop`` collections that are there go first."""
        return Restoring(self.tool(), self._settings, folder, replay=replay, drop=drop)

    def drop(self, database: str, collections: Iterable[str]) -> None:
        """Drop collections that must not be there when the restore begins; one that is gone is fine."""
        with _errors_named(self._settings), _connect(self._settings) as client:
            for name in collections:
                client[database].drop_collection(name)

    def differences(self, expected: Iterable[Expected]) -> list[str]:
        """Return in words what is not there as expected; more indexes than expected are fine."""
        with _errors_named(self._settings), _connect(self._settings) as client:
            found: list[str] = []
            for item in expected:
                found += _differences(client[item.database], item)
            return found


class Restoring:
    """A running mongorestore and what it said."""

    def __init__(self, tool: str, settings: MongoSource, folder: Path, *, replay: bool, drop: bool = True) -> None:
        self._lock = threading.Lock()
        self._done: dict[str, int] = {}
        self._failed = 0
        self._total: int | None = None
        self._trouble: list[str] = []
        self._hosts = _hosts(settings)
        # A database in the URI would be taken for --db; authSource stays what it was.
        uri = json.dumps(_dump_uri(msgspec.structs.replace(settings, database="")))
        with secret_file(f"uri: {uri}\n") as fd:
            argv = [
                tool,
                f"--config=/dev/fd/{fd}",
                *(["--drop"] if drop else []),
                "--bypassDocumentValidation",
                f"--numParallelCollections={max(settings.parallel_collections, _PARALLEL)}",
                *(["--oplogReplay"] if replay else []),
                str(folder),
            ]
            self._child = Child(argv, on_line=self._line, pass_fds=(fd,))

    @property
    def documents(self) -> int:
        """Return the documents of the collections that are finished."""
        with self._lock:
            return sum(self._done.values())

    @property
    def tail(self) -> str:
        """Return the last lines that mongorestore said, without secrets."""
        return self._child.tail

    @property
    def complained(self) -> bool:
        """Tell whether it said itself that something could not be restored, rather than being called wrongly."""
        with self._lock:
            return bool(self._failed) or "\tFailed: " in self.tail

    def wait(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds; tells whether it has ended."""
        return self._child.wait(timeout) is not None

    def kill(self) -> None:
        """End it at once; may be called at any time and twice."""
        self._child.kill()

    def judge(self) -> int:
        """Return how many documents an ended mongorestore restored; raises ToolError or SourceError when not all."""
        code = self._child.wait() or 0
        if code != 0:
            raise _failure(code, self._child.tail, self._hosts)
        if self._total is None:
            raise ToolError(
                "mongorestore ended without saying how many documents it restored",
                hint="check its version (mongorestore --version)",
                code="restore-failed",
            )
        if self._failed:
            trouble = f": {self._trouble[0]}" if self._trouble else ""
            raise ToolError(
                f"mongorestore ended without an error, but {self._failed} documents failed{trouble}",
                hint="the run's log has what it said",
                code="restore-failed",
            )
        return self._total

    def _line(self, line: str) -> None:
        with self._lock:
            if done := _FINISHED.search(line):
                self._done[done["ns"]] = int(done["count"])
            elif total := _TOTAL.search(line):
                self._total, self._failed = int(total["count"]), int(total["failed"])
            elif (trouble := _TROUBLE.search(line)) and len(self._trouble) < _KEPT_TROUBLE:
                self._trouble.append(trouble["what"][:300])


def _differences(db: Database[dict[str, Any]], item: Expected) -> Iterable[str]:
    namespace = f"{item.database}.{item.name}"
    if item.documents is not None:
        count = _count(db[item.name], item.documents)
        if count != item.documents:
            yield f"{namespace} has {count} documents instead of {item.documents}"
    # What was a collection in the dump may be a view after the replay; then nothing is expected, and it has no indexes.
    indexes = len(list(db[item.name.removeprefix(_BUCKETS)].list_indexes())) if item.indexes else 0
    if indexes < item.indexes:
        yield f"{namespace} has {indexes} indexes instead of {item.indexes}"


def _count(collection: Collection[dict[str, Any]], expected: int) -> int:
    """Count documents: by the server's own record, and one by one where that is not ``expected``.

    That record is kept with every write. It is off at most where the server crashed, or moves data between shards.
    """
    recorded = collection.estimated_document_count()
    return recorded if recorded == expected else collection.count_documents({})


def _may_replay(client: MongoClient[dict[str, Any]]) -> bool:
    """Tell whether the user may do anything on any resource, as replaying an oplog demands; without users: yes."""
    info = client.admin.command("connectionStatus", showPrivileges=True)["authInfo"]
    if not info["authenticatedUsers"]:
        return True
    return any(
        item["resource"].get("anyResource") and "anyAction" in item["actions"]
        for item in info.get("authenticatedUserPrivileges", ())
    )


def _failure(code: int, tail: str, hosts: str) -> BackupdError:
    last, lowered = _last_words(tail), tail.lower()
    if code < 0:
        return ToolError(
            f"mongorestore was killed by signal {-code}",
            hint="look for the kernel's OOM killer: journalctl -k | grep -i oom",
            code="tool-killed",
        )
    if "unauthorized" in lowered or "not authorized" in lowered or "auth error" in lowered:
        return SourceError(
            f"MongoDB at {hosts} refused mongorestore: {last}",
            hint="give the user of MONGODB_URI the role 'restore' as well",
            code="source-auth",
            retryable=False,
        )
    return ToolError(
        f"mongorestore failed with exit code {code}: {last or 'it said nothing'}",
        hint="check that mongod runs and has room (its own log), then restore again",
        code="restore-failed",
    )
