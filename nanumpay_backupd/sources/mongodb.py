"""MongoDB through mongodump: what is there, the dump as a child process, and the judgement of what it wrote.

Facts about mongodump 100.x this relies on, each seen on real servers: its standard error has a line
``writing NS to PATH`` when a collection begins and ``done dumping NS (N documents)`` when it ends; a view is written as
metadata only; a time-series collection NAME is dumped as ``system.buckets.NAME``; the URI may be given in a YAML file
by ``--config``, also ``/dev/fd/N``, so that it never stands in argv.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from pymongo import MongoClient
from pymongo.errors import ConfigurationError, InvalidURI, OperationFailure, PyMongoError
from pymongo.uri_parser import parse_uri

from nanumpay_backupd.errors import BackupdError, ConfigError, SourceError, SpaceError, ToolError
from nanumpay_backupd.model import CollectionStat, Consistency, OpTime, SourceInfo
from nanumpay_backupd.settings.schema import MongoSource
from nanumpay_backupd.sources import oplog, settled
from nanumpay_backupd.sources.base import Dump, Estimate, FolderSource, Harvest
from nanumpay_backupd.sources.bson_walk import BsonWalk
from nanumpay_backupd.sources.mongo_member import choose
from nanumpay_backupd.sources.oplog_collection import of_collection
from nanumpay_backupd.system.process import Child, find_tool, run_text, secret_file
from nanumpay_backupd.system.secrets import redact

__all__ = ["INSTALL_HINT", "SHARDED", "MongoDatabase", "cautions"]

INSTALL_HINT: Final = (
    "install MongoDB's package mongodb-database-tools (https://www.mongodb.com/docs/database-tools/), "
    "or set [tools] mongodump in backupd.toml"
)
_TIMEOUT_MS: Final = 5000
_WRITING: Final = re.compile(r"\twriting (?P<rest>.+)$")
_DONE: Final = re.compile(r"\tdone dumping (?P<ns>.+) \((?P<count>\d+) documents?\)$")
_PROGRESS: Final = re.compile(r"\]\s+(?P<ns>\S.*?)\s+(?P<count>\d+)/\d+\s+\(")
_VERSION: Final = re.compile(r"mongodump version: (\S+)")
_DISK_RATIO: Final = 3
"""Bytes of BSON for a byte on the server's disk, where it compresses with snappy (usually 2 to 3)."""
SHARDED: Final = (
    "a sharded cluster's shards have oplogs of their own, which are not captured: "
    "mongodump cannot give one moment of all of them"
)
_USE_PBM: Final = f'{SHARDED}; a job with type = "pbm" has Percona Backup for MongoDB do it (docs/sources/pbm.md)'
_INTERNAL_DATABASES: Final = frozenset({"admin", "config", "local"})
_AUTH_CODES: Final = frozenset({13, 18, 8000})


class MongoDatabase(FolderSource):
    """One database of a MongoDB server, or all of them."""

    def __init__(self, settings: MongoSource) -> None:
        self._settings = settings
        self._facts: _Facts | None = None

    def preflight(self) -> Estimate:
        """Reach the server, list what is there, find mongodump. See `Source.preflight`."""
        tool = find_tool(self._settings.mongodump, hint=INSTALL_HINT)
        match = _VERSION.search(run_text([str(tool), "--version"]))
        if match is None:
            raise ToolError(f"{tool} does not look like mongodump: it tells no version", hint=INSTALL_HINT)
        with _errors_named(self._settings):
            settings, member = choose(self._settings)
        with _errors_named(settings), _connect(settings) as client:
            self._facts = _Facts(settings, client, tool, match.group(1))
        facts = self._facts
        if not facts.collections:
            raise SourceError(
                f"database {self._settings.database!r} on {facts.address} is empty: there is nothing to back up",
                hint="check the database's name in MONGODB_URI (or [mongodb] database)",
                code="source-empty",
                retryable=False,
            )
        return Estimate(
            raw_bytes=facts.raw_bytes,
            summary=f"MongoDB {facts.version} ({facts.topology}) at {facts.address}, "
            f"{len(facts.collections)} collections, mongodump {facts.tool_version}{', ' if member else ''}{member}",
            warnings=cautions(facts.topology),
        )

    def start(self, folder: Path) -> Dump:
        """Start mongodump. See `Source.start`."""
        assert self._facts is not None, "preflight comes first"
        # Chosen again: what a dump is made again for may be the end of the member that it read.
        with _errors_named(self._settings):
            settings, _ = choose(self._settings)
        return _MongoDump(settings, self._facts, folder)

    def check(self, name: str) -> Callable[[bytes], None] | None:
        """Walk BSON files document by document. See `Source.check`."""
        return BsonWalk(name) if name.endswith(".bson") else None


class _Facts:
    """What a look at the server told before the dump."""

    def __init__(
        self, settings: MongoSource, client: MongoClient[dict[str, Any]], tool: Path, tool_version: str
    ) -> None:
        hello = client.admin.command("hello")
        self.version: str = client.server_info()["version"]
        self.topology = _topology(hello)
        self.address = str(hello.get("me") or _hosts(settings))
        self.tool = tool
        self.tool_version = tool_version
        self.databases = (
            (settings.database,)
            if settings.database
            else tuple(name for name in client.list_database_names() if name not in _INTERNAL_DATABASES)
        )
        self.raw_bytes = sum(_data_size(client, name) for name in self.databases)
        self.collections = _list_collections(client, self.databases)

    def still_there(self, settings: MongoSource) -> frozenset[str]:
        """List the collections again, after the dump: those dropped meanwhile cannot be missed."""
        with _errors_named(settings), _connect(settings) as client:
            return _list_collections(client, self.databases)


class _MongoDump(Dump):
    """A running mongodump and what it said; with ``only`` of that one collection."""

    def __init__(self, settings: MongoSource, facts: _Facts, folder: Path, only: str = "") -> None:
        self._settings = settings
        self._facts = facts
        self._folder = folder
        self._lock = threading.Lock()
        self._paths: dict[str, str] = {}
        self._done: dict[str, int] = {}
        self._partial: dict[str, int] = {}
        self._capture, self._inconsistent = _begin_capture(settings, facts, folder, only)
        uri = json.dumps(_dump_uri(settings))
        with secret_file(f"uri: {uri}\n") as fd:
            argv = [
                str(facts.tool),
                f"--config=/dev/fd/{fd}",
                f"--out={folder}",
                f"--numParallelCollections={settings.parallel_collections}",
            ]
            if settings.database:
                argv.append(f"--db={settings.database}")
            if only:
                argv.append(f"--collection={only}")
            self._child = Child(argv, on_line=self._line, pass_fds=(fd,))

    @property
    def running(self) -> bool:
        if self._child.running:
            return True
        if self._capture is None:
            return False
        self._capture.finish()
        return self._capture.running

    @property
    def documents(self) -> int:
        with self._lock:
            return sum(self._done.values()) + sum(count for ns, count in self._partial.items() if ns not in self._done)

    def pause(self) -> None:
        self._child.pause()

    def resume(self) -> None:
        self._child.resume()

    def wait(self, timeout: float) -> bool:
        if self._child.wait(timeout) is None:
            return False
        if self._capture is None:
            return True
        self._capture.finish()
        return self._capture.join(timeout)

    def kill(self) -> None:
        self._child.kill()
        if self._capture is not None:
            self._capture.cancel()

    def harvest(self, sizes: dict[str, int]) -> Harvest:
        """See `Dump.harvest`: exit code, then every collection that was and is there must have been reported whole."""
        code = self._child.wait()
        if code != 0:
            raise _tool_failure("mongodump", code or 0, self._child.tail)
        expected = self._facts.collections & self._facts.still_there(self._settings)
        missing = sorted(ns for ns in expected if ns not in self._done)
        if missing:
            raise ToolError(
                f"mongodump ended without an error, but {_some(missing)} of "
                f"{len(expected)} collections were not dumped",
                hint="check the version of mongodump (mongodump --version) and run again; nothing was published",
                code="dump-incomplete",
                retryable=True,
            )
        consistency = self._consistency()
        stats = tuple(self._stat(ns, count, sizes) for ns, count in sorted(self._done.items()))
        if consistency.level == "point-in-time":
            stats = self._settled(stats, OpTime.parse(consistency.end))
        return Harvest(
            source=SourceInfo(
                type="mongodb",
                server_version=self._facts.version,
                topology=self._facts.topology,
                databases=self._facts.databases,
                collections=stats,
            ),
            consistency=consistency,
            tools={"mongodump": self._facts.tool_version},
            documents=sum(self._done.values()),
            leave_out=(oplog.FILE,) if consistency.level == "none" else (),
            warnings=self._warnings(consistency),
        )

    def _warnings(self, consistency: Consistency) -> tuple[str, ...]:
        """A replica set could give a backup of one moment: tell when it did not. A standalone server never can."""
        if consistency.level != "none" or self._facts.topology != "replica-set":
            return ()
        return (f"this backup is not of one moment: {consistency.reason}",)

    def _consistency(self) -> Consistency:
        """Say whether the dump with its oplog is of one moment, else why not."""
        if self._capture is None:
            return Consistency(level="none", reason=self._inconsistent)
        captured = self._capture.result()
        if captured.problem:
            return Consistency(level="none", reason=captured.problem)
        return Consistency(
            level="point-in-time",
            start=f"{captured.start.time}:{captured.start.inc}",
            end=f"{captured.end.time}:{captured.end.inc}",
            moment=captured.moment,
            entries=captured.entries,
        )

    def _settled(self, stats: tuple[CollectionStat, ...], end: OpTime) -> tuple[CollectionStat, ...]:
        """Add what the collections that changed during the dump held at its end, as far as the server can tell."""
        assert self._capture is not None
        touched = self._capture.result().touched
        if not touched or int(self._facts.version.partition(".")[0]) < settled.OLDEST_SERVER:
            return stats
        try:
            with _connect(self._settings) as client:
                return settled.settle(client, stats, touched, end)
        except PyMongoError:
            return stats

    def _stat(self, ns: str, count: int, sizes: dict[str, int]) -> CollectionStat:
        path = self._paths.get(ns, "")
        if path not in sizes:
            raise ToolError(
                f"mongodump reported {count} documents of {ns}, but its file is not there",
                hint="check the disk and the version of mongodump, then run again; nothing was published",
                code="dump-incomplete",
                retryable=True,
            )
        database, _, name = ns.partition(".")
        kind, indexes = self._metadata(path)
        return CollectionStat(
            database=database, name=name, documents=count, bytes=sizes[path], indexes=indexes, type=kind
        )

    def _metadata(self, path: str) -> tuple[str, int]:
        """Read type and number of indexes from the small metadata file beside a collection's BSON."""
        stem = path.removesuffix(".bson")
        folder, _, name = stem.rpartition("/")
        if name.startswith("system.buckets."):
            stem = f"{folder}/{name.removeprefix('system.buckets.')}"
        try:
            metadata = json.loads((self._folder / f"{stem}.metadata.json").read_bytes())
        except (OSError, ValueError):
            return "collection", 0
        return str(metadata.get("type", "collection")), len(metadata.get("indexes", ()))

    def _line(self, line: str) -> None:
        if done := _DONE.search(line):
            with self._lock:
                self._done[done["ns"]] = int(done["count"])
        elif writing := _WRITING.search(line):
            # A collection's name may contain " to " as well; in its file's name blanks are escaped.
            ns, found, path = writing["rest"].rpartition(f" to {self._folder}/")
            if found:
                self._paths[ns] = path
        elif progress := _PROGRESS.search(line):
            with self._lock:
                self._partial[progress["ns"]] = int(progress["count"])


def _topology(hello: dict[str, Any]) -> str:
    if hello.get("msg") == "isdbgrid":
        return "sharded"
    return "replica-set" if hello.get("setName") else "standalone"


def cautions(topology: str) -> tuple[str, ...]:
    """Return what is to be told before a dump of such a server."""
    return (_USE_PBM,) if topology == "sharded" else ()


def _begin_capture(
    settings: MongoSource, facts: _Facts, folder: Path, only: str
) -> tuple[oplog.OplogCapture | None, str]:
    """Begin to follow the oplog beside the dump; where that is not possible, return the reason instead."""
    if facts.topology == "standalone":
        return None, "a standalone server keeps no oplog, so the collections are of slightly different moments"
    if facts.topology != "replica-set":
        return None, SHARDED
    client = _connect(settings)
    try:
        narrow = of_collection(settings.database, only) if only else None
        capture = oplog.OplogCapture(client, facts.databases, folder / oplog.FILE, narrow=narrow)
    except PyMongoError as error:
        client.close()
        code = getattr(error, "code", None)
        refused = isinstance(error, OperationFailure) and code in _AUTH_CODES
        why = "the user may not read the oplog (give it the role 'backup')" if refused else "the oplog cannot be read"
        return None, f"{why}, so the collections are of slightly different moments"
    capture.begin()
    return capture, ""


def _data_size(client: MongoClient[dict[str, Any]], database: str) -> int:
    """Return the bytes of BSON in a database, as near as this user may know.

    The role ``backup``, which is all that mongodump needs, does not allow dbStats (seen on 6.0). It does allow
    listDatabases, whose size is that on the server's disk; an estimate on the safe side is made from that.
    """
    try:
        return int(client[database].command("dbStats")["dataSize"])
    except OperationFailure as error:
        if error.code not in _AUTH_CODES:
            raise
    listed = client.list_databases(filter={"name": database})
    return sum(int(entry.get("sizeOnDisk", 0)) for entry in listed) * _DISK_RATIO


def _list_collections(client: MongoClient[dict[str, Any]], databases: tuple[str, ...]) -> frozenset[str]:
    """Name what mongodump reports, as ``database.collection``: views hold nothing, buckets stand for time-series."""
    found = set()
    for database in databases:
        for entry in client[database].list_collections():
            name = entry["name"]
            if entry["type"] == "view" or (name.startswith("system.") and not name.startswith("system.buckets.")):
                continue
            if entry["type"] == "timeseries":
                name = f"system.buckets.{name}"
            found.add(f"{database}.{name}")
    return frozenset(found)


def _connect(settings: MongoSource) -> MongoClient[dict[str, Any]]:
    try:
        return MongoClient(
            settings.uri.reveal(),
            serverSelectionTimeoutMS=_TIMEOUT_MS,
            connectTimeoutMS=_TIMEOUT_MS,
            appname="nanumpay-backupd",
        )
    except (OSError, ValueError, TypeError) as error:  # a certificate's file that is not there, a wrong option
        raise ConfigurationError(str(error)) from None


class _errors_named:  # noqa: N801 - a context manager reads like a verb
    """Turns pymongo's exceptions into ours, without secrets."""

    def __init__(self, settings: MongoSource) -> None:
        self._settings = settings

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        # pymongo raises ValueError for some bad addresses (a port of 99999).
        if isinstance(error, (InvalidURI, ConfigurationError, ValueError)):
            raise ConfigError(
                f"MONGODB_URI cannot be used: {redact(str(error))}",
                hint="it looks like mongodb://user:password@host:27017/nanumpay",
            ) from None
        if isinstance(error, OperationFailure) and error.code in _AUTH_CODES:
            raise SourceError(
                f"MongoDB at {_hosts(self._settings)} refused: {redact(_reason(error))}",
                hint="check user, password and authSource in MONGODB_URI; the user needs the role 'backup'",
                code="source-auth",
                retryable=False,
            ) from None
        if isinstance(error, PyMongoError):
            raise SourceError(
                f"MongoDB at {_hosts(self._settings)} cannot be reached: {_first_reason(str(error))}",
                hint="check that mongod runs (systemctl status mongod) and that MONGODB_URI names it",
                code="source-unreachable",
            ) from None


def _reason(error: OperationFailure) -> str:
    """Return the server's own words."""
    return str((error.details or {}).get("errmsg", error))


def _first_reason(text: str) -> str:
    """Shorten pymongo's server selection report to its first clause, without the numbers of faults."""
    first = text.split(" (configured timeouts", 1)[0].split(", Timeout:", 1)[0]
    return redact(re.sub(r"\[Errno \d+\] ", "", first))[:300]


def _hosts(settings: MongoSource) -> str:
    try:
        nodes = parse_uri(settings.uri.reveal(), validate=False)["nodelist"]
    except PyMongoError:
        return "its address"
    # A Unix socket is a path without a port.
    return ", ".join(f"{host}:{port}" if port else host for host, port in nodes)


def _dump_uri(settings: MongoSource) -> str:
    """Return the URI for mongodump, which refuses another database in it than that of ``--db``.

    The URI's database also is the default of authSource, so that is kept by naming it.
    """
    uri = settings.uri.reveal()
    parsed = parse_uri(uri, validate=False)
    named = parsed["database"]
    if named in (None, settings.database):
        return uri
    head, _, options = uri.partition("?")
    head = head[: head.rindex("/")] + "/"
    if "authsource" not in options.lower() and parsed["username"]:
        options = f"{options}&authSource={named}" if options else f"authSource={named}"
    return f"{head}?{options}" if options else head


def _tool_failure(tool: str, code: int, tail: str) -> BackupdError:
    lowered = tail.lower()
    last = _last_words(tail)
    if "no space left" in lowered or "disk quota" in lowered:
        return SpaceError(
            f"the disk filled up while {tool} was writing: {last}",
            hint="free space there or set [paths] backups to a larger disk; "
            "nothing was published, older backups are untouched",
        )
    if code < 0:
        return ToolError(
            f"{tool} was killed by signal {-code}",
            hint="look for the kernel's OOM killer: journalctl -k | grep -i oom; nothing was published",
            code="tool-killed",
            retryable=True,
        )
    if "unauthorized" in lowered or "not authorized" in lowered or "auth error" in lowered:
        return SourceError(
            f"{tool} was refused by the server: {last}",
            hint="give the user of MONGODB_URI the role 'backup'",
            code="source-auth",
            retryable=False,
        )
    return ToolError(
        f"{tool} failed with exit code {code}: {last or 'it said nothing'}",
        hint="the journal has its whole output; nothing was published",
        retryable=True,
    )


def _last_words(tail: str) -> str:
    lines = [line.split("\t", 1)[-1].strip() for line in tail.splitlines() if line.strip()]
    failed = [line for line in lines if line.lower().startswith(("failed", "error"))]
    return (failed or lines or [""])[-1][:400]


def _some(names: list[str], shown: int = 3) -> str:
    listed = ", ".join(names[:shown])
    return listed if len(names) <= shown else f"{listed} and {len(names) - shown} more"
