"""The daemon as a real process for tests: a site of its own (folders, host file, database), signals, calls.

A site's database is a small one on a real mongod; the settings in it are saved the way the application saves them.
"""

from __future__ import annotations

import contextlib
import copy
import grp
import importlib
import json
import operator
import os
import pwd
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import pymongo
from bson import ObjectId
from pymongo.database import Database
from pymongo.errors import PyMongoError

from nanumpay_backupd.control.client import Client
from nanumpay_backupd.errors import BackupdError
from tests.sample_data import DEFAULT_BACKUP
from tests.servers.notify import NotifySocket
from tests.servers.tools import PROJECT, find_tool

__all__ = [
    "Site",
    "as_user",
    "backup_settings",
    "catalog",
    "open_site",
    "plan_ago",
    "slow_mongodump",
    "wait_for",
]

Document = dict[str, Any]
T = TypeVar("T")
_PATIENCE: Final = 60.0
_HOLDING: Final = PROJECT / "tests" / "servers" / "holding"


class Server(Protocol):
    """What a site needs of a mongod: `Mongod` and `ReplicaSet` have it."""

    def uri_for(self, database: str) -> str:
        """Return the connection string that names a database."""
        ...

    def client(self, **options: Any) -> pymongo.MongoClient[Document]:
        """Return a new client."""
        ...


def wait_for(condition: Callable[[], T], what: str, seconds: float = _PATIENCE) -> T:
    """Ask again until ``condition`` gives something true, and return that."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited in vain: {what}")
        time.sleep(0.04)
    return result


def backup_settings(**changes: Any) -> Document:
    """Return the settings of a fresh install with some fields changed: ``time="03:00"``, ``ftp={...}``, ``s3={...}``.

    ``ftp`` and ``s3`` choose that storage (ftp, if both) and are merged into it; so is ``retention``.
    """
    settings = copy.deepcopy(DEFAULT_BACKUP)
    for kind in ("s3", "ftp"):
        if kind in changes:
            settings["storage"]["type"] = kind
            settings["storage"][kind] |= changes.pop(kind)
    settings["retention"] |= changes.pop("retention", {})
    return settings | changes


class Site:
    """Folders, host file and database of one daemon, and the daemon itself while it runs. Made by `open_site`."""

    def __init__(self, folder: Path, server: Server, database: str) -> None:
        self.folder = folder
        self.server = server
        self.database = database
        self.uri = server.uri_for(database)
        self.config = folder / "backupd.toml"
        self.backups = folder / "backups"
        self.state = folder / "state"
        self.socket = folder / "control.sock"
        self.log_file = folder / "daemon.log"
        self.notify = NotifySocket(folder / "notify.sock")
        self.client = Client(str(self.socket), timeout=60)
        self.prefix: tuple[str, ...] = ()
        """What its command begins with: on another host (`netns`)."""
        self.process: subprocess.Popen[bytes] | None = None
        self._mongo: pymongo.MongoClient[Document] | None = None
        self._holds = folder / "holds"
        self._holds.mkdir()

    # Settings

    def write_config(self, more: str = "", *, top: str = "", mongodb: str = "") -> None:
        """Write the host file: the site's own places, then ``more`` tables; ``mongodb``: further keys of that table."""
        self.config.write_text(
            f"{top}\n[mongodb]\nuri = '{self.uri}'\npoll_interval = '1s'\n{mongodb}\n"
            f"[paths]\nbackups = '{self.backups}'\nstate = '{self.state}'\nsocket = '{self.socket}'\n{more}\n",
            encoding="utf-8",
        )
        self.config.chmod(0o600)

    @contextlib.contextmanager
    def db(self) -> Iterator[Database[Document]]:
        """Open the site's database; the connection stays until `close`."""
        if self._mongo is None:
            self._mongo = self.server.client()
        yield self._mongo[self.database]

    def fill(self, settings: Document | None = None, documents: int = 40) -> None:
        """Make the database: one administrator with settings, some users."""
        with self.db() as db:
            db.admins.insert_one({"loginId": "admin", "permissions": ["full_access"]})
            db.users.insert_many(
                [{"loginId": f"user{at}", "name": "김민준", "memo": "가" * 50} for at in range(documents)]
            )
        self.save(settings or backup_settings())

    def save(self, settings: Any, login_id: str = "admin") -> None:
        """Save settings the way the application does: the whole ``systemSettings`` object of one administrator."""
        with self.db() as db:
            change = {"$set": {"systemSettings": {"maintenanceMode": False, "backup": settings}}}
            # An _id of our own, so that a later administrator's is higher.
            db.admins.update_one({"loginId": login_id}, {**change, "$setOnInsert": {"_id": ObjectId()}}, upsert=True)

    # Life

    def start(
        self,
        *,
        environment: Mapping[str, str] | None = None,
        clock: float = 0.0,
        stop_budget: float | None = None,
        ready: bool = True,
    ) -> None:
        """Start the daemon and wait until it says READY. ``clock``: seconds that its wall clock is ahead of ours."""
        assert self.process is None or self.process.poll() is not None, "it is running already"
        if not self.config.exists():
            self.write_config()
        shifted = (
            clock or stop_budget is not None or {"NANUMPAY_TEST_DEFECT", "NANUMPAY_TEST_STUCK"} & set(environment or ())
        )
        module = "tests.servers.shifted_daemon" if shifted else "nanumpay_backupd"
        extra = {"NOTIFY_SOCKET": str(self.notify.path), **(environment or {})}
        extra |= {"NANUMPAY_TEST_CLOCK": str(clock), "NANUMPAY_TEST_STOP_BUDGET": str(stop_budget or 60)}
        before = self.notify.count("READY")
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", module, "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment(extra),
                cwd=PROJECT,
            )
        if ready:
            wait_for(lambda: self.notify.count("READY") > before or self._ended(), "READY")
            assert self.process.poll() is None, self.log()

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the environment of a process that belongs to this site."""
        own = {
            "NANUMPAY_TEST_SITE": str(self.folder),
            "NANUMPAY_TEST_HOLD": str(self._holds),
            "PYTHONPATH": f"{_HOLDING}:{PROJECT}",
        }
        return {**os.environ, **own, **(extra or {})}

    def stop(self) -> int:
        """Ask for the end as systemd does, wait for it, and return the exit code."""
        return self.signal(signal.SIGTERM).wait(_PATIENCE)

    def kill(self) -> None:
        """End the daemon at once, and wait until everything it had started is gone too."""
        self.signal(signal.SIGKILL).wait(_PATIENCE)
        wait_for(lambda: not self.processes(), f"the end of {self.processes()}")

    def signal(self, number: signal.Signals) -> subprocess.Popen[bytes]:
        """Send the daemon a signal."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process

    def _ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def close(self) -> None:
        """End the daemon if it runs, drop the database, remove the folders."""
        self.release()
        if self.process is not None and self.process.poll() is None:
            self.kill()
        self.notify.close()
        if self._mongo is not None:
            with contextlib.suppress(PyMongoError), pymongo.timeout(1):
                self._mongo.drop_database(self.database)
            self._mongo.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # Asking

    def call(self, method: str, **params: Any) -> Document:
        """Call a method of the control interface."""
        return self.client.call(method, params)

    def status(self) -> Document:
        """Return what GetStatus says."""
        return self.call("GetStatus")

    def job(self, name: str = "nanumpay") -> Document:
        """Return what GetStatus says of one job."""
        return next(job for job in self.status()["jobs"] if job["name"] == name)

    def runs(self) -> list[Document]:
        """Return the runs on record, newest first."""
        return list(self.call("ListRuns", limit=1000)["runs"])

    def list_backups(self) -> list[Document]:
        """Return the backups on record, newest first."""
        return list(self.call("ListBackups")["backups"])

    def run(self, job: str = "nanumpay", **params: Any) -> Document:
        """Run a job and return its record at the end."""
        *_, last = self.client.stream("Run", {"job": job, **params}, timeout=_PATIENCE)
        return dict(last["run"])

    def begin(self, job: str = "nanumpay", **params: Any) -> str:
        """Start a job and return the id of its run at once."""
        return str(self.call("Run", job=job, **params)["run"]["id"])

    def ended(self, run: str) -> Document:
        """Wait for the end of a run and return its record."""

        def look() -> Document | None:
            record: Document = self.call("DescribeRun", run=run)["run"]
            # The record is written before the worker has gone: a job is free only then.
            return record if record.get("outcome") and not self.job(record["job"]).get("running") else None

        return wait_for(look, f"the end of run {run}") or {}

    def newest(self, *, trigger: str) -> Document:
        """Wait until a run with this trigger has ended and return it."""

        def look() -> Document | None:
            return next((run for run in self.runs() if run["trigger"] == trigger and run.get("outcome")), None)

        return wait_for(look, f"a run by {trigger}") or {}

    def log(self) -> str:
        """Return all that the daemons of this site wrote so far."""
        return self.log_file.read_text(encoding="utf-8") if self.log_file.exists() else ""

    def processes(self) -> dict[int, str]:
        """Return the living processes of this site, by what stands in their environment or on their command line."""
        mark = str(self.folder).encode()
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes()
                if command and (mark in command or mark in (entry / "environ").read_bytes()):
                    found[int(entry.name)] = command.replace(b"\0", b" ").decode("utf-8", "replace").strip()
        return found

    def workers(self) -> list[int]:
        """Return the process ids of the workers."""
        return [pid for pid, command in self.processes().items() if command.endswith("nanumpay_backupd worker")]

    def staged(self) -> list[str]:
        """Return what lies in the staging folder."""
        staging = self.backups / ".backupd" / "staging"
        return sorted(entry.name for entry in staging.iterdir()) if staging.is_dir() else []

    def artifacts(self) -> list[str]:
        """Return the names of the artifacts in the backups folder."""
        return sorted(entry.name for entry in self.backups.glob("*-backup-*.tar*"))

    # Faults

    def hold(self, point: str) -> None:
        """Make the next worker stop at ``module:function``, or behind it with ``:after`` (holding/sitecustomize).

        A point that there is not raises AttributeError here: the worker would only run past it.
        """
        module, name, *_ = point.split(":")
        operator.attrgetter(name)(importlib.import_module(module))
        (self._holds / "held").unlink(missing_ok=True)
        (self._holds / "point").write_text(point, encoding="ascii")

    def set_clock(self, ahead: timedelta) -> None:
        """Set the wall clock of all processes of the site; for the first time before the daemon is started."""
        new = self._holds / "clock.new"
        new.write_text(f"{ahead.total_seconds()}", encoding="ascii")
        new.rename(self._holds / "clock")

    def wait_held(self) -> None:
        """Wait until a worker stands where it was told to."""
        wait_for((self._holds / "held").exists, "a worker at the point where it is to stop")

    def release(self) -> None:
        """Let workers go on, and the next ones through."""
        (self._holds / "point").unlink(missing_ok=True)


@contextlib.contextmanager
def open_site(server: Server, settings: Document | None = None, *, fill: bool = True) -> Iterator[Site]:
    """Make a site with a database of its own; ends the daemon and removes everything at the end of the block."""
    # Not pytest's folder: a socket's path must be short, and other users must be able to get there.
    folder = Path(tempfile.mkdtemp(prefix="backupd-"))
    folder.chmod(0o755)
    site = Site(folder, server, f"site_{uuid.uuid4().hex[:12]}")
    try:
        if fill:
            site.fill(settings)
        yield site
    finally:
        site.close()


@contextlib.contextmanager
def catalog(site: Site) -> Iterator[sqlite3.Connection]:
    """Open the site's catalog from outside, to put something into it."""
    with contextlib.closing(sqlite3.connect(site.state / "catalog.db", timeout=20)) as db, db:
        yield db


def plan_ago(site: Site, seconds: float, job: str = "nanumpay") -> None:
    """Make the persisted plan of a job so many seconds old, as if the daemon had not been there to keep it."""
    due = (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(timespec="microseconds")
    with catalog(site) as db:
        assert db.execute("UPDATE plans SET due = ? WHERE job = ?", (due, job)).rowcount == 1


def as_user(site: Site, user: str, group: str, calls: Sequence[tuple[str, Document]]) -> list[Document]:
    """Make calls as another user of this machine; returns each reply's parameters, or the fault with its exit code.

    A fork and not a program: the user need not be able to read this project.
    """
    uid, gid = pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
            os.write(writing, json.dumps([_answer(site, *call) for call in calls]).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        data = stream.read()
    os.waitpid(pid, 0)
    return list(json.loads(data))


def _answer(site: Site, method: str, params: Document) -> Document:
    try:
        # What a member of the group gets to see may be long; what it is stands in other tests.
        reply = site.client.call(method, params)
        return {"run": reply["run"]} if "run" in reply else {}
    except BackupdError as error:
        return {"code": error.code, "message": error.message, "hint": error.hint, "exit_code": error.exit_code}


def slow_mongodump(site: Site, *, at: str = "dump") -> Path:
    """Write a mongodump that waits while the file beside it, ``<name>.wait``, exists; returns its path.

    ``at``: ``version`` waits when it is asked for its version, ``start`` before it dumps, ``dump`` when all is dumped
    but the process has not ended. Everything else is the real program's doing.
    """
    path = site.folder / "mongodump"
    path.write_text(
        f"#!{sys.executable} -ES\n"
        "import os, subprocess, sys, time\n"
        f"real, at = {str(find_tool('mongodump'))!r}, {at!r}\n"
        "asked = '--version' in sys.argv\n"
        "def wait():\n"
        "    open(__file__ + '.waiting', 'w').close()\n"
        "    while os.path.exists(__file__ + '.wait'):\n"
        "        time.sleep(0.01)\n"
        "if at == 'dump' and not asked:\n"
        "    code = subprocess.call([real, *sys.argv[1:]], close_fds=False)\n"
        "    wait()\n"
        "    sys.exit(code)\n"
        "if asked == (at == 'version'):\n"
        "    wait()\n"
        "os.execv(real, [real, *sys.argv[1:]])\n",
        encoding="utf-8",
    )
    path.chmod(0o755)
    return path
