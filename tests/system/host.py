"""A container as a production host with MongoDB: the application's settings, the daemon's answers, the journal.

The application is played from outside: its documents are written through MongoDB's own socket in the container.
"""

from __future__ import annotations

import contextlib
import copy
import json
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pymongo
from bson import ObjectId
from pymongo.database import Database
from pymongo.errors import PyMongoError

from tests.sample_data import DEFAULT_BACKUP
from tests.system.container import Container, Done, wait_for

__all__ = ["BACKUPS", "DATABASE", "SERVICE", "Host", "without_place"]

Document = dict[str, Any]
SERVICE: Final = "nanumpay-backupd"
DATABASE: Final = "nanumpay"
BACKUPS: Final = "/opt/nanumpay/data/backups"
_SOCKET: Final = "/run/mongodb/mongodb-27017.sock"
_HOLD: Final = "waitWithPinnedCursorDuringGetMoreBatch"
_HOLD_RESTORE: Final = "hangDuringBatchInsert"


def without_place(**changes: Any) -> Document:
    """Return the settings of a fresh install, without a remote place, with some fields changed."""
    settings = copy.deepcopy(DEFAULT_BACKUP)
    settings["storage"]["type"] = "none"
    return settings | changes


class Host(Container):
    """A host. What it is asked is asked by commands in it, as an operator would."""

    said = ""
    """What the installation of the package said."""

    # MongoDB and the application

    @contextlib.contextmanager
    def mongo(self) -> Iterator[pymongo.MongoClient[Document]]:
        """Open a client of the host's MongoDB."""
        where = quote(str(self.path(_SOCKET)), safe="")
        client: pymongo.MongoClient[Document] = pymongo.MongoClient(
            f"mongodb://{where}/?directConnection=true", serverSelectionTimeoutMS=20_000
        )
        with client:
            yield client

    @contextlib.contextmanager
    def db(self) -> Iterator[Database[Document]]:
        """Open the application's database."""
        with self.mongo() as client:
            yield client[DATABASE]

    def fill(self, users: int = 400) -> None:
        """Make the application's data: an administrator without settings, and users with some bytes each."""
        with self.db() as db:
            db.admins.insert_one({"loginId": "admin", "permissions": ["full_access"], "isActive": True})
            db.users.insert_many(
                [{"loginId": f"user{at}", "name": "김민준", "memo": "가" * 300} for at in range(users)]
            )

    def save(self, settings: Document) -> None:
        """Save settings the way the application does: the whole ``systemSettings`` of an administrator."""
        change = {"systemSettings": {"maintenanceMode": False, "backup": settings}}
        with self.db() as db:
            db.admins.update_one(
                {"loginId": "admin"}, {"$set": change, "$setOnInsert": {"_id": ObjectId()}}, upsert=True
            )

    def hold_dumps(self) -> None:
        """Make MongoDB hold every dump in the middle of the users; needs more of them than a first batch has."""
        self._fail_point(_HOLD, "alwaysOn", DATABASE)

    def hold_restores(self, database: str) -> None:
        """Make MongoDB hold every restore of users into a database."""
        self._fail_point(_HOLD_RESTORE, "alwaysOn", database)

    def release(self) -> None:
        """Let dumps and restores go on."""
        for name in (_HOLD, _HOLD_RESTORE):
            self._fail_point(name, "off")

    def _fail_point(self, name: str, mode: str, database: str = "") -> None:
        where = {"nss": f"{database}.users", "shouldCheckForInterrupt": True}
        with self.mongo() as client:
            client.admin.command({"configureFailPoint": name, "mode": mode, "data": where})

    def wait_held(self) -> None:
        """Wait until a dump or restore is being held."""

        def look() -> bool:
            with self.mongo() as client:
                pipeline: list[Document] = [
                    {"$currentOp": {"allUsers": True}},
                    {"$match": {"failpointMsg": {"$exists": True}}},
                ]
                return bool(list(client.admin.aggregate(pipeline)))

        wait_for(look, "something that is held in its middle")

    def wait_mongod(self) -> None:
        """Wait until MongoDB takes writes."""

        def look() -> bool:
            with contextlib.suppress(PyMongoError, OSError), self.mongo() as client:
                return bool(client.admin.command("hello")["isWritablePrimary"])
            return False

        wait_for(look, "MongoDB")

    # The daemon

    def install(self, package: Path, *options: str) -> Done:
        """Install a package of ours as the page says, and wait until the daemon is ready."""
        self.copy_in(package, f"/root/{package.name}")
        words = shlex.join(["apt-get", "install", "-y", *options, f"./{package.name}"])
        done = self.run(f"{words} && rm {package.name}", env={"DEBIAN_FRONTEND": "noninteractive"}, timeout=180)
        self.wait_active()
        return done

    def ctl(self, *words: str, user: str = "root", check: bool = True, timeout: float = 60.0) -> Done:
        """Type a `backupctl` command."""
        return self.run(shlex.join(["backupctl", *words]), user=user, check=check, timeout=timeout)

    def ask(self, *words: str) -> Any:
        """Type a `backupctl` command and return what it says with --json."""
        return json.loads(self.ctl(*words, "--json", check=False).out)

    def job(self) -> Document:
        """Return what the status says of the application's job."""
        return dict(next(job for job in self.ask("status")["jobs"] if job["name"] == "nanumpay"))

    def runs(self) -> list[Document]:
        """Return the runs on record, newest first."""
        return list(self.ask("runs")["runs"])

    def ended(self, run: str) -> Document:
        """Wait for the end of a run and return its record."""

        def look() -> Document | None:
            return next((item for item in self.runs() if item["id"] == run and item.get("outcome")), None)

        return wait_for(look, f"the end of run {run}") or {}

    def begin(self) -> str:
        """Start a backup, and return the id of its run at once."""
        return str(json.loads(self.ctl("run", "--no-wait", "--json").out)["run"]["id"])

    def backup(self) -> Document:
        """Make a backup and return its run."""
        return dict(json.loads(self.ctl("run", "--json").out)["run"])

    # systemd

    def show(self, *names: str, unit: str = SERVICE) -> str:
        """Return properties of a unit, one per line."""
        return self.run(f"systemctl show {unit} --value -p {','.join(names)}").out.strip()

    def main_pid(self) -> int:
        """Return the daemon's process id, as it is in the container."""
        return int(self.show("MainPID"))

    def wait_active(self, seconds: float = 60.0) -> None:
        """Wait until the daemon says that it is ready."""
        wait_for(lambda: self.show("ActiveState") == "active", "an active service", seconds)

    def drop_in(self, name: str, *lines: str) -> None:
        """Write a drop-in of the service (``[Service]`` comes by itself) and let systemd read it."""
        self.put(f"/etc/systemd/system/{SERVICE}.service.d/{name}.conf", "\n".join(["[Service]", *lines, ""]))
        self.run("systemctl daemon-reload")

    def journal(self, *matches: str, since: str = "") -> list[Document]:
        """Return the journal's entries as records, oldest first."""
        words = ["journalctl", "--output=json", "--no-pager", "--all", *matches]
        words += [f"--since={since}"] if since else []
        return [json.loads(line) for line in self.run(shlex.join(words)).out.splitlines() if line.startswith("{")]

    def now(self) -> str:
        """Return this moment in the journal's words; hosts have our clock.

        Not a cursor: behind one, the journalctl of Debian 12 leaves out the first entry that matches.
        """
        return f"@{time.time():.6f}"

    def host_file(self, text: str) -> None:
        """Write the host file."""
        self.put("/etc/nanumpay/backupd.toml", text, mode="0640", owner="root:nanumpay")

    def stored(self, folder: str = BACKUPS) -> list[Path]:
        """Return the artifacts in a backups folder, oldest first."""
        return sorted(self.path(folder).glob("nanumpay-backup-*.tar*"))
