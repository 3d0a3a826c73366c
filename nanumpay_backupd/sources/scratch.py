"""Scratch places for drills: a mongod of our own, else a database beside the job's own. Restores nothing into them.

Facts about mongod this relies on, each seen on MongoDB 6.0: ``--bind_ip`` with a socket's path and ``--nounixsocket``
(which is about the usual socket in /tmp) make it listen on that socket alone, on no TCP port; the socket is there well
before it answers; its log says in lines of severity E and F what ended it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec
from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from nanumpay_backupd.errors import RefusedError, ToolError
from nanumpay_backupd.settings.schema import MongoSource
from nanumpay_backupd.sources.mongodb import _connect, _errors_named, _hosts
from nanumpay_backupd.system.files import remove_tree
from nanumpay_backupd.system.process import Child, find_tool, run_text
from nanumpay_backupd.system.secrets import Secret, redact

__all__ = ["Scratch", "ScratchDatabase", "ScratchServer", "impossible", "scratch_name"]

_INSTALL_HINT: Final = (
    "install mongod on this host (MongoDB's package mongodb-org-server; it need not run), "
    "or set [tools] mongod in backupd.toml"
)
_VERSION: Final = re.compile(r"db version v(\d+)\.(\d+)(\S*)")
_LONGEST_SOCKET: Final = 107
"""Bytes of a socket's path that the kernel takes (sun_path)."""
_START_SECONDS: Final = 60.0
_NAP: Final = 0.05
_LOG_TAIL: Final = 64 << 10
_REFUSED: Final = frozenset({13, 8000})
_PROBE: Final = "drill"
_PREFIX: Final = "nanumpay-drill-"


class Scratch(ABC):
    """A place to restore into, thrown away afterwards. ``settings`` say how it is reached, once it was started."""

    described: str
    settings: MongoSource
    replays: bool
    """Whether databases keep their names there, so that the oplog can be replayed."""

    @abstractmethod
    def names(self, databases: Iterable[str]) -> dict[str, str]:
        """Return the name that each database gets there."""

    def prepare(self, folder: Path) -> None:  # noqa: B027 - most places need nothing
        """Change what was unpacked into ``folder`` so that it stays as it is once it is restored there."""

    @abstractmethod
    def start(self, check: Callable[[], None]) -> None:
        """Make it ready; ``check`` is called while that takes its time, and may raise. Raises BackupdError."""

    @property
    def gone(self) -> bool:
        """Tell, at no cost, whether it is known to have ended."""
        return False

    @abstractmethod
    def trouble(self) -> str:
        """Return why nothing can be restored there any more, empty: all is well."""

    @abstractmethod
    def stop(self) -> None:
        """Throw it away; may be called at any time and twice. Raises BackupdError where something had to be left."""


class ScratchServer(Scratch):
    """A mongod of our own in a folder of our own: only this user reaches it, and it ends when this process does."""

    replays = True

    def __init__(self, settings: MongoSource, folder: Path, oldest: str) -> None:
        """Find mongod; ``folder`` (not there yet) gets its data, ``oldest`` is the version of the data's server.

        Raises ToolError: ``tool-missing``, ``tool-too-old``.
        """
        self._tool, self.version = _find(settings.mongod, oldest)
        self._folder = folder
        self._log = folder / "mongod.log"
        self._sockets: Path | None = None
        self._child: Child | None = None
        self.described = f"a mongod {self.version} of its own"
        self.settings = settings

    def names(self, databases: Iterable[str]) -> dict[str, str]:
        """See `Scratch.names`."""
        return {name: name for name in databases}

    def start(self, check: Callable[[], None]) -> None:
        """Start mongod and wait until it answers; raises ToolError (``scratch-failed``) with its own words."""
        data = self._folder / "data"
        data.mkdir(mode=0o700, parents=True)
        self._folder.chmod(0o700)
        socket = self._socket()
        uri = f"mongodb://{quote(str(socket), safe='')}/?directConnection=true"
        self.settings = msgspec.structs.replace(self.settings, uri=Secret(uri), database="")
        self._child = Child(self._argv(data, socket), both=True)
        for _ in range(int(_START_SECONDS / _NAP)):
            # Waiting for its end is our way to sleep.
            if self._child.wait(_NAP) is not None:
                break
            check()
            if socket.exists() and _answers(uri):
                return
        why = self.trouble() or f"it did not answer within {_START_SECONDS:.0f} s{self._last_words()}"
        self.stop()
        raise ToolError(
            f"the scratch mongod could not be started: {why}",
            hint=f"try it by hand: {self._tool} --version; is there room in {self._folder.parent}?",
            code="scratch-failed",
            retryable=True,
        )

    @property
    def gone(self) -> bool:
        """See `Scratch.gone`."""
        return self._child is None or not self._child.running

    def trouble(self) -> str:
        """See `Scratch.trouble`."""
        if self._child is None:
            return "it was not started"
        if self._child.running:
            return ""
        return f"it ended with code {self._child.wait()}{self._last_words()}"

    def stop(self) -> None:
        """Kill mongod (nobody needs what it would still write) and remove its data."""
        if self._child is not None:
            self._child.kill()
        for folder in (self._folder, self._sockets):
            if folder is not None:
                remove_tree(folder)

    def _argv(self, data: Path, socket: Path) -> list[str]:
        return [
            str(self._tool),
            f"--dbpath={data}",
            f"--logpath={self._log}",
            f"--bind_ip={socket}",
            "--nounixsocket",
            "--filePermissions=0600",
            # What is written is read once and thrown away: a large cache would only take memory from others.
            "--wiredTigerCacheSizeGB=0.25",
            "--wiredTigerEngineConfigString=log=(file_max=8MB,prealloc=false)",
            "--setParameter=diagnosticDataCollectionEnabled=false",
            # Documents past their time are to be compared, not removed.
            "--setParameter=ttlMonitorEnabled=false",
            "--slowms=600000",
            # Nothing of a drill runs JavaScript (views are made, not asked), and its compiler needs memory that can be
            # written and executed, which the service must not have: mongod would not even start (seen with 6.0).
            "--noscripting",
        ]

    def _socket(self) -> Path:
        """Return where the socket goes: into the folder, else, as commas part addresses, to a shorter or plainer path.

        That one is not swept with the folder, so its name tells the process it belongs to.
        """
        socket = self._folder / "mongod.sock"
        if len(bytes(socket)) <= _LONGEST_SOCKET and "," not in str(socket):
            return socket
        self._sockets = _socket_folder()
        return self._sockets / "mongod.sock"

    def _last_words(self) -> str:
        """Return what mongod complained about last, as the rest of a sentence."""
        words = ""
        with contextlib.suppress(OSError), self._log.open("rb") as stream:
            stream.seek(max(0, self._log.stat().st_size - _LOG_TAIL))
            for line in stream.read().splitlines():
                with contextlib.suppress(ValueError):
                    entry = json.loads(line)
                    if entry["s"] in ("E", "F"):
                        reason = entry.get("attr", {}).get("error") or entry.get("attr", {}).get("message") or ""
                        words = f"{entry['msg']} {reason}".strip()
        if not words and self._child is not None:
            # Wrong options are told before there is a log.
            words = (self._child.tail.splitlines() or [""])[0]
        return f" ({redact(words)[:300]})" if words else ""


class ScratchDatabase(Scratch):
    """A database on the job's own server, beside the real one. Under its other name no oplog can be replayed."""

    replays = False

    def __init__(self, settings: MongoSource, run: str, earlier: Iterable[str]) -> None:
        """Name it after ``run``; ``earlier`` are runs that are dead, whose databases are dropped too."""
        self.settings = settings
        self._name = scratch_name(settings.database, run)
        self._dead = frozenset(scratch_name(settings.database, other) for other in earlier)
        self._made = False
        self._drops_whole = False
        self.described = f"database {self._name} at {_hosts(settings)}"

    def names(self, databases: Iterable[str]) -> dict[str, str]:
        """See `Scratch.names`; there is one database."""
        return dict.fromkeys(databases, self._name)

    def prepare(self, folder: Path) -> None:
        """Take out what would make the server remove documents that are past their time.

        Who may drop collections only (as the role ``restore`` has it) may not drop the list of views, which would keep
        the database there for ever: then views go too, and time-series collections, which are views to a server, are
        refused. Raises RefusedError (``drill-impossible``).
        """
        for path in folder.glob("*/*.metadata.json"):
            with contextlib.suppress(ValueError):
                metadata = json.loads(path.read_bytes())
                kind = metadata.get("type", "collection")
                if kind == "timeseries" and not self._drops_whole:
                    raise impossible("the user of MONGODB_URI may not drop a database with time-series collections")
                if kind == "view" and not self._drops_whole:
                    path.unlink()
                    continue
                for part in (metadata.get("options"), *metadata.get("indexes", ())):
                    if isinstance(part, dict):
                        part.pop("expireAfterSeconds", None)
                path.write_text(json.dumps(metadata), encoding="utf-8")

    def start(self, check: Callable[[], None]) -> None:
        """Drop what dead drills left, and try to make the database.

        Raises RefusedError (``drill-impossible``) when this user may not, SourceError when the server does not answer.
        """
        check()
        with _errors_named(self.settings), _connect(self.settings) as client:
            try:
                for name in self._dead & set(client.list_database_names()):
                    _drop(client, name)
                self._made = True
                client[self._name].create_collection(_PROBE)
                self._drops_whole = _drop(client, self._name)
            except OperationFailure as error:
                if error.code not in _REFUSED:
                    raise
                why = f"the user of MONGODB_URI may not make a database beside {self.settings.database!r}"
                raise impossible(why) from None

    def trouble(self) -> str:
        """Return why the server does not answer, empty: it does."""
        try:
            with _connect(self.settings) as client:
                client.admin.command("ping")
        except PyMongoError as error:
            return redact(str(error))[:300]
        return ""

    def stop(self) -> None:
        """Drop the database."""
        if not self._made:
            return
        with _errors_named(self.settings), _connect(self.settings) as client:
            _drop(client, self._name)
        self._made = False


def impossible(why: str) -> RefusedError:
    """Say that there is no place for a drill."""
    return RefusedError(
        f"no drill is possible: no mongod was found on this host, and {why}",
        hint=_INSTALL_HINT,
        code="drill-impossible",
    )


def scratch_name(database: str, run: str) -> str:
    """Return the name of a drill's database: it tells the run, so that none but its own is ever dropped."""
    mark = hashlib.sha256(run.encode()).hexdigest()[:12]
    return f"{database.encode()[:40].decode(errors='ignore')}_drill_{mark}"


def _find(name: str, oldest: str) -> tuple[Path, str]:
    tool = find_tool(name, hint=_INSTALL_HINT)
    match = _VERSION.search(run_text([str(tool), "--version"]))
    if match is None:
        raise ToolError(f"{tool} does not look like mongod: it tells no version", hint=_INSTALL_HINT)
    version = f"{match[1]}.{match[2]}{match[3]}"
    if (int(match[1]), int(match[2])) < _series(oldest):
        raise ToolError(
            f"{tool} is of version {version}, but the backup is of a server of version {oldest}",
            hint="install a mongod of that version or a newer one, and name it in [tools] mongod of backupd.toml",
            code="tool-too-old",
        )
    return tool, version


def _series(version: str) -> tuple[int, int]:
    """Return the release series, such as (6, 0); (0, 0) for what is no version."""
    match = re.match(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match is not None else (0, 0)


def _socket_folder() -> Path:
    """Make a short folder of our own for a socket, and remove those of processes that are gone."""
    base = Path(tempfile.gettempdir())
    for left in base.glob(f"{_PREFIX}*"):
        owner = left.name.removeprefix(_PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):
            if left.stat().st_uid == os.getuid() and owner.isdecimal() and not Path(f"/proc/{owner}").exists():
                remove_tree(left)
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=base))


def _answers(uri: str) -> bool:
    client: MongoClient[Mapping[str, Any]] = MongoClient(uri, serverSelectionTimeoutMS=500)
    with client, contextlib.suppress(PyMongoError):
        return bool(client.admin.command("ping")["ok"])
    return False


def _drop(client: MongoClient[dict[str, Any]], name: str) -> bool:
    """Drop a database, collection by collection where that is all this user may; tells whether it was in one go."""
    try:
        client.drop_database(name)
    except OperationFailure as error:
        if error.code not in _REFUSED:
            raise
    else:
        return True
    for entry in list(client[name].list_collections()):
        if not entry["name"].startswith("system."):
            client[name].drop_collection(entry["name"])
    return False
