"""`restore` against real servers: damaged databases come back, and whatever goes wrong says how things stand."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from pymongo import MongoClient

from nanumpay_backupd import worker
from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import BackupdError
from nanumpay_backupd.model import Backup, Outcome, Run, Stage
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.pipeline.report import Recorder
from nanumpay_backupd.pipeline.restore_plan import RestorePlan
from nanumpay_backupd.settings.schema import Destination, MongoSource, Paths, RestoreOrder, RunSpec
from nanumpay_backupd.system.clock import SystemClock
from nanumpay_backupd.system.secrets import Secret
from tests.compare import compare_databases, describe_database
from tests.integration.test_cli import Terminal, backupctl
from tests.sample_data import load
from tests.servers.daemon import Site as DaemonSite
from tests.servers.daemon import as_user, backup_settings, open_site, wait_for
from tests.servers.ftp import FtpServer, start_pyftpdlib
from tests.servers.mongod import PASSWORD, USER, Mongod, start_mongod
from tests.servers.process import free_port
from tests.servers.s3 import S3Server, start_s3
from tests.servers.tools import find_tool
from tests.workbench import Ear, job_spec, small_disk

pytestmark = pytest.mark.servers

DATABASE: Final = "restore_me"
OTHER: Final = "restore_other"
Document = dict[str, Any]


@dataclass
class House:
    """A host with a server, whose worker is run in this process."""

    root: Path
    server: Mongod
    client: MongoClient[Document]
    destinations: tuple[Destination, ...] = ()
    uri: str = ""
    ear: Ear = field(default_factory=Ear)
    count: int = 0
    tool: str = "mongorestore"

    @property
    def layout(self) -> Layout:
        """Return the places in the backups folder."""
        return Layout(self.root / "backups")

    def spec(self, action: str, order: RestoreOrder | None = None) -> RunSpec:
        """Return what the worker is told."""
        self.count += 1
        uri = self.uri or self.server.uri_for(DATABASE)
        source = MongoSource(uri=Secret(uri), database=DATABASE, mongorestore=self.tool)
        return RunSpec(
            run=f"run{self.count}",
            job=job_spec(source=source, destinations=self.destinations),
            paths=Paths(backups=self.layout.backups, state=self.root / "state", socket=self.root / "socket"),
            trigger="manual",
            action=action,
            restore=order,
        )

    def back_up(self) -> Backup:
        """Make a backup and return it with its manifest."""
        run = worker.execute(self.spec("backup"), Ear(), SystemClock())
        assert run.outcome is Outcome.SUCCEEDED, run.error
        assert run.backup
        return self.backup(run.backup)

    def backup(self, name: str) -> Backup:
        """Return a backup as the catalog has it."""
        with Catalog(self.root / "state" / "catalog.db") as catalog:
            backup = catalog.backup(name)
        assert backup is not None
        return backup

    def restore(self, backup: str, **order: Any) -> Run:
        """Restore in this process."""
        self.ear = Ear()
        return worker.execute(self.spec("restore", RestoreOrder(backup=backup, **order)), self.ear, SystemClock())

    def plan(self, backup: str, **order: Any) -> RestorePlan:
        """Ask for the plan."""
        return worker.foresee(self.spec("restore-plan", RestoreOrder(backup=backup, **order)), SystemClock())

    def damage(self) -> None:
        """Do what brings people to restore: rows gone, rows changed, a collection and indexes dropped."""
        db = self.client[DATABASE]
        db.users.delete_many({})
        db.useraccounts.update_many({}, {"$set": {"isActive": False}})
        db.drop_collection("weeklypaymentplans")
        db.admins.drop_indexes()

    def describe(self) -> dict[str, dict[str, str]]:
        """Describe the database."""
        return describe_database(self.client, DATABASE)

    def clean(self) -> bool:
        """Tell whether no staged file is left."""
        return list(self.layout.staging.iterdir()) == []


def _house(root: Path, server: Mongod) -> Iterator[House]:
    with server.client() as client:
        client.drop_database(DATABASE)
        load(client[DATABASE], scale=0.02)
        yield House(root, server, client)
        for name in (DATABASE, OTHER):
            client.drop_database(name)


@pytest.fixture(params=["mongod_standalone", "mongod_rs"])
def any_house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    """A host with either kind of server."""
    yield from _house(tmp_path, request.getfixturevalue(request.param))


@pytest.fixture
def house(tmp_path: Path, mongod_standalone: Mongod) -> Iterator[House]:
    """A host with the usual server."""
    yield from _house(tmp_path, mongod_standalone)


@pytest.fixture
def set_house(tmp_path: Path, mongod_rs: Mongod) -> Iterator[House]:
    """A host with a replica set."""
    yield from _house(tmp_path, mongod_rs)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server."""
    with start_s3(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def ftp(tmp_path: Path) -> Iterator[FtpServer]:
    """A real FTP server, empty."""
    with start_pyftpdlib(tmp_path / "ftp") as running:
        yield running


def text(run: Run) -> str:
    """Return a run's fault as an operator reads it."""
    assert run.error is not None
    return f"{run.error.message} → {run.error.hint}"


def test_a_damaged_database_comes_back_and_what_was_there_is_saved(any_house: House) -> None:
    """Collections, views, time-series, capped, GridFS, validators, collations are equal; the safety backup restores."""
    house = any_house
    before = house.describe()
    assert {entry["type"] for entry in before.values()} == {"collection", "view", "timeseries"}
    backup = house.back_up()
    house.damage()
    damaged = house.describe()

    run = house.restore(backup.id)
    assert (run.outcome, run.error) == (Outcome.SUCCEEDED, None)
    assert house.describe() == before
    assert house.clean()
    assert run.action == "restore"
    assert run.backup is not None
    assert run.backup.startswith("nanumpay-safety-backup-")
    stages = [record.stage for record in run.stages]
    assert stages[0] is Stage.PREFLIGHT
    assert stages[-2:] == [Stage.RESTORE, Stage.COMPARE]
    assert stages.index(Stage.CHECK) < stages.index(Stage.DUMP) < stages.index(Stage.RESTORE)

    house.client[DATABASE].drop_collection("weeklypaymentplans")
    again = house.restore(run.backup, safety=False)
    assert (again.outcome, again.error, again.backup) == (Outcome.SUCCEEDED, None, None)
    assert house.describe() == damaged


def test_into_another_database(any_house: House) -> None:
    """Under another name there is the same, the original stays as it is, and no safety backup is made of nothing."""
    house = any_house
    backup = house.back_up()
    house.damage()
    damaged = house.describe()
    plan = house.plan(backup.id, to_database=OTHER)
    assert (plan.database, plan.target_exists, plan.safety_backup) == (OTHER, False, False)
    run = house.restore(backup.id, to_database=OTHER)
    assert (run.outcome, run.error, run.backup) == (Outcome.SUCCEEDED, None, None)
    assert house.describe() == damaged
    house.client.drop_database(DATABASE)
    assert house.restore(backup.id).outcome is Outcome.SUCCEEDED
    assert compare_databases(house.client, DATABASE, OTHER) == []
    # Now something is there, so it is saved; under its own name.
    house.client[OTHER].users.delete_many({})
    second = house.restore(backup.id, to_database=OTHER)
    assert second.outcome is Outcome.SUCCEEDED
    assert second.backup is not None
    saved = house.backup(second.backup)
    assert saved.manifest is not None
    assert saved.manifest.source.databases == (OTHER,)


def test_one_collection(house: House) -> None:
    """Only that collection is what it was, indexes included; other changes stay."""
    before = house.describe()
    backup = house.back_up()
    house.damage()
    damaged = house.describe()
    assert house.restore(backup.id, collection="users").outcome is Outcome.SUCCEEDED
    after = house.describe()
    assert after["users"] == before["users"]
    # The view looks at the users.
    others = damaged.keys() - {"users", "activeusers"}
    assert {name: after[name] for name in others} == {name: damaged[name] for name in others}
    (series,) = [name for name, entry in before.items() if entry["type"] == "timeseries"]
    house.client[DATABASE].drop_collection(series)
    assert house.restore(backup.id, collection=series, safety=False).outcome is Outcome.SUCCEEDED
    assert house.describe()[series] == before[series]


@pytest.mark.parametrize("place", ["s3", "ftp"])
def test_from_a_remote_copy_when_the_local_file_is_gone(house: House, s3: S3Server, ftp: FtpServer, place: str) -> None:
    """The copy is fetched and checked, and the database comes back; the fetched file is not left behind."""
    house.destinations = (s3.destination(prefix="restore/") if place == "s3" else ftp.destination(),)
    before = house.describe()
    backup = house.back_up()
    (house.layout.backups / backup.artifact).unlink()
    house.damage()
    name = house.destinations[0].name
    assert house.plan(backup.id).copy == name
    run = house.restore(backup.id, safety=False)
    assert (run.outcome, run.error) == (Outcome.SUCCEEDED, None)
    assert Stage.FETCH in [record.stage for record in run.stages]
    assert house.describe() == before
    assert house.clean()


def test_a_damaged_remote_copy_is_refused_and_another_is_named(house: House, ftp: FtpServer) -> None:
    """A copy that changed at its place is found while it is fetched; the good local one is offered."""
    house.destinations = (ftp.destination(),)
    backup = house.back_up()
    flip(ftp.folder / backup.artifact, 2)
    before = house.describe()
    run = house.restore(backup.id, source="office")
    assert run.outcome is Outcome.FAILED
    assert "nothing was changed" in text(run)
    assert f"backupctl restore {backup.id} --from local" in text(run)
    assert house.describe() == before
    assert house.restore(backup.id, source="local", safety=False).outcome is Outcome.SUCCEEDED


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar"])
@pytest.mark.parametrize("inside", ["name", "stamp"])
def test_archives_of_the_old_program(house: House, tmp_path: Path, suffix: str, inside: str) -> None:
    """An archive without manifest restores too, whichever way its folder is called, and is counted afterwards."""
    before = house.describe()
    name = "nanumpay-backup-2025-03-01T02-00-00"
    folder = tmp_path / (name if inside == "name" else "2025-03-01T02-00-00")
    command = [str(find_tool("mongodump")), f"--uri={house.server.uri}", f"--db={DATABASE}", f"--out={folder}"]
    subprocess.run(command, check=True, capture_output=True)
    house.layout.create()
    with tarfile.open(house.layout.backups / f"{name}{suffix}", "w:gz" if suffix.endswith("gz") else "w") as archive:
        archive.add(folder, folder.name)
    house.damage()
    plan = house.plan(name)
    assert any("old program" in warning for warning in plan.warnings)
    run = house.restore(name, safety=False)
    assert (run.outcome, run.error) == (Outcome.SUCCEEDED, None)
    assert house.describe() == before


def flip(path: Path, part: int) -> None:
    """Flip one bit at a ``part``-th of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // part] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["flipped", "cut", "legacy"])
def test_a_damaged_artifact_is_refused_before_anything_is_dropped(house: House, how: str) -> None:
    """A flipped bit or a missing end: the run fails, the database is untouched, an older good backup is named."""
    older = house.back_up()
    wait_for(lambda: f"{SystemClock().now():%Y-%m-%dT%H-%M-%S}" > older.id[-19:], "the next second")
    backup = house.back_up()
    artifact = house.layout.backups / backup.artifact
    if how == "cut":
        os.truncate(artifact, artifact.stat().st_size - 10)
    elif how == "legacy":
        name = "nanumpay-backup-2099-03-01T02-00-00"
        artifact = artifact.rename(artifact.with_name(f"{name}.tar.gz"))
        flip(artifact, 2)
    else:
        flip(artifact, 2)
    house.damage()
    before = house.describe()
    if how == "cut":  # the size alone tells, so it is not even listed as usable
        with pytest.raises(BackupdError, match="cannot be restored") as caught:
            house.plan(backup.id)
        assert caught.value.code == "copy-unusable"
    run = house.restore(backup.id if how != "legacy" else name)
    assert run.outcome is Outcome.FAILED
    assert run.backup is None
    assert f"nothing was changed in database {DATABASE}" in text(run)
    assert older.id in text(run)
    assert house.describe() == before
    assert house.clean()


def test_unknown_names_are_told_before_anything_happens(house: House) -> None:
    """An unknown backup, collection or place, and an impossible database, are faults of the plan."""
    backup = house.back_up()
    for order, code in (
        ({"backup": "nope"}, "not-found"),
        ({"backup": backup.id, "collection": "nope"}, "not-found"),
        ({"backup": backup.id, "source": "nope"}, "not-found"),
        ({"backup": backup.id, "to_database": "admin"}, "refused"),
    ):
        with pytest.raises(BackupdError) as caught:
            house.plan(**order)
        assert caught.value.code == code


def test_a_server_that_cannot_be_reached(house: House) -> None:
    """The fault names the address, and nothing was changed."""
    backup = house.back_up()
    house.uri = f"mongodb://127.0.0.1:{free_port()}/{DATABASE}?serverSelectionTimeoutMS=300"
    run = house.restore(backup.id)
    assert run.error is not None
    assert run.error.code == "source-unreachable"
    assert "nothing was changed" in text(run)


def fake_tool(house: House, body: str) -> None:
    """Put a mongorestore in place that does ``body`` (shell) instead of its work; ``$REAL`` is the real one."""
    path = house.root / "mongorestore"
    real = find_tool("mongorestore")
    path.write_text(
        f'#!/bin/bash\nREAL={real}\n[ "$1" = --version ] && exec $REAL --version\n{body}\n', encoding="utf-8"
    )
    path.chmod(0o755)
    house.tool = str(path)


def test_documents_that_failed_are_a_failure_although_the_exit_code_is_0(house: House) -> None:
    """Mongorestore's last line is believed, not its exit code; the way back is named."""
    backup = house.back_up()
    said = "7 document(s) restored successfully. 3 document(s) failed to restore."
    fake_tool(house, f'echo "2026-11-21T02:00:00.000+0000\t{said}" >&2')
    run = house.restore(backup.id)
    assert run.error is not None
    assert run.error.code == "restore-failed"
    assert "3 documents failed" in text(run)
    assert f"database {DATABASE} is half restored" in text(run)
    assert f"backupctl restore {run.backup}" in text(run)
    assert any(said in message for _, message, _ in house.ear.messages)


def test_without_room_to_unpack_nothing_is_changed(house: House) -> None:
    """A disk that filled up since the backup: refused with what is needed and what is free."""
    with small_disk(house.root / "backups", 120 << 20):
        backup = house.back_up()
        (house.root / "backups" / "ballast").write_bytes(bytes(60 << 20))
        house.damage()
        before = house.describe()
        run = house.restore(backup.id)
        assert run.error is not None
        assert run.error.code == "no-space"
        assert "are free; nothing was changed" in text(run)
        assert house.describe() == before


def test_what_is_there_afterwards_is_counted(house: House) -> None:
    """A mongorestore that claims success but left documents out is found by counting."""
    backup = house.back_up()
    house.damage()
    fake_tool(house, 'echo "x\t9 document(s) restored successfully. 0 document(s) failed to restore." >&2')
    run = house.restore(backup.id, safety=False)
    assert run.error is not None
    assert run.error.code == "restore-incomplete"
    assert f"{DATABASE}.users has 0 documents instead of" in text(run)
    assert run.stages[-1].stage is Stage.COMPARE


def test_cancelled_in_the_middle_says_the_state(house: House) -> None:
    """Before mongorestore began nothing was changed; afterwards the database is half restored, and the way is named."""
    backup = house.back_up()
    fake_tool(house, f"touch {house.root}/begun\nexec sleep 60")
    for stage, sentence in ((Stage.CHECK, "nothing was changed"), (Stage.RESTORE, "half restored")):
        spec = house.spec("restore", RestoreOrder(backup=backup.id, safety=False))
        ear = Stopper(stage, house.root / "begun")
        run = worker.execute(spec, ear, SystemClock(), on_start=ear.take)
        assert run.outcome is Outcome.CANCELLED
        assert sentence in text(run)
    assert f"backupctl restore {backup.id}" in text(run)
    assert house.clean()


class Stopper(Ear):
    """Cancels the run when a stage begins; that of mongorestore once it really has."""

    def __init__(self, stage: Stage, begun: Path) -> None:
        super().__init__()
        self.at = stage
        self.begun = begun
        self.recorder: Recorder | None = None

    def take(self, recorder: Recorder) -> None:
        """Keep what can cancel."""
        self.recorder = recorder

    def stage(self, record: Any) -> None:
        """Cancel in time."""
        super().stage(record)
        if record.stage is not self.at or self.recorder is None:
            return
        if self.at is Stage.RESTORE and record.ended is None:
            threading.Thread(target=self.cancel_later).start()
        else:
            self.recorder.cancel()

    def cancel_later(self) -> None:
        """Cancel as soon as mongorestore runs."""
        wait_for(self.begun.exists, "mongorestore")
        assert self.recorder is not None
        self.recorder.cancel()


def test_the_password_is_not_in_argv(tmp_path: Path) -> None:
    """A server with users: the restore works, and no process ever shows the password on its command line."""
    with start_mongod(auth=True) as server, server.client() as client:
        load(client[DATABASE], scale=0.01)
        house = House(tmp_path, server, client)
        before = house.describe()
        backup = house.back_up()
        client[DATABASE].users.delete_many({})
        # No more rights than docs/operations.md says.
        roles = ["backup", "restore"]
        client.admin.command({"createUser": "restorer", "pwd": PASSWORD, "roles": roles})
        house.uri = server.uri_for(DATABASE).replace(f"//{USER}:", "//restorer:")
        assert "//restorer:" in house.uri
        fake_tool(house, f"tr '\\0' '\\n' < /proc/$$/cmdline > {tmp_path}/argv\nexec $REAL \"$@\"")
        run = house.restore(backup.id, safety=False)
        assert (run.outcome, run.error) == (Outcome.SUCCEEDED, None)
        argv = (tmp_path / "argv").read_text(encoding="utf-8")
        assert "--config=/dev/fd/" in argv
        assert "restorer" not in argv
        assert PASSWORD not in argv
        assert house.describe() == before


def test_the_oplog_is_replayed_also_under_another_name(set_house: House) -> None:
    """What was written while the dump was made is there after a restore, in place and in another database."""
    house = set_house
    db = house.client[DATABASE]
    slow = shutil.which("mongodump", path=f"{find_tool('mongodump').parent}")
    wrapper = house.root / "slow-mongodump"
    wrapper.write_text(
        f"#!{sys.executable} -ES\nimport os, subprocess, sys, time\n"
        f"code = subprocess.call([{slow!r}, *sys.argv[1:]], close_fds=False)\n"
        f"if '--version' in sys.argv:\n    sys.exit(code)\n"
        f"open({str(house.root / 'dumped')!r}, 'w').close()\n"
        f"while not os.path.exists({str(house.root / 'go')!r}):\n    time.sleep(0.01)\nsys.exit(code)\n",
        encoding="utf-8",
    )
    wrapper.chmod(0o755)

    def late() -> None:
        wait_for((house.root / "dumped").exists, "the dump")
        db.users.insert_one({"_id": "late", "loginId": "late"})
        db.late.insert_one({"_id": 1})
        db.admins.delete_many({})
        (house.root / "go").touch()

    thread = threading.Thread(target=late)
    thread.start()
    spec = house.spec("backup")
    source = msgspec.structs.replace(spec.job.source, mongodump=str(wrapper))
    spec = msgspec.structs.replace(spec, job=msgspec.structs.replace(spec.job, source=source))
    made = worker.execute(spec, Ear(), SystemClock())
    thread.join()
    assert made.backup is not None, made.error
    before = house.describe()
    house.damage()
    plan = house.plan(made.backup)
    assert plan.replays_oplog
    run = house.restore(made.backup, safety=False)
    assert (run.outcome, run.error) == (Outcome.SUCCEEDED, None)
    assert house.describe() == before
    # What changed during the dump was read again at its end, so its documents are counted too.
    assert "changed by the oplog" not in run.stages[-1].detail
    other = house.plan(made.backup, to_database=OTHER)
    assert other.replays_oplog
    assert house.restore(made.backup, to_database=OTHER).outcome is Outcome.SUCCEEDED
    assert compare_databases(house.client, DATABASE, OTHER) == []


@pytest.fixture
def site(mongod_rs: Mongod) -> Iterator[DaemonSite]:
    """A daemon with one backup."""
    with open_site(mongod_rs, backup_settings(storage={"type": "none"})) as site:
        site.write_config("[control]\ngroup = 'nogroup'")
        site.start()
        assert site.run()["outcome"] == "succeeded"
        yield site


def test_by_command(site: DaemonSite) -> None:
    """The plan, the refusal off a terminal, the question, the restore; it is no backup run in the status."""
    backup = site.list_backups()[0]["id"]
    last = site.job()["last_run"]["id"]
    with site.db() as db:
        db.users.delete_many({})

    refused = backupctl(site.socket, "restore", "latest")
    assert (refused.returncode, refused.stdout) == (7, "")
    assert "--yes" in refused.stderr
    shown = backupctl(site.socket, "restore", "latest", "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert backup in shown.stdout
    assert "Nothing was done." in shown.stdout
    assert backupctl(site.socket, "restore", "nope", "--dry-run").returncode == 6
    with Terminal(site.socket, "restore", "latest") as terminal:
        terminal.wait_for("type the name of the database:")
        terminal.type("y\n")
        assert terminal.end() == 7
    (answer,) = as_user(site, "nobody", "nogroup", [("Restore", {"backup": "latest", "dry_run": True})])
    assert answer["code"] == "not-allowed"
    with site.db() as db:
        assert db.users.count_documents({}) == 0
    assert [run["action"] for run in site.runs()] == ["backup"]

    with Terminal(site.socket, "restore", "latest") as terminal:
        terminal.wait_for("type the name of the database:")
        terminal.type(f"{site.database}\n")
        assert terminal.end() == 0, terminal.text
    assert "go back to it:" in terminal.text
    with site.db() as db:
        assert db.users.count_documents({}) == 40
    assert site.job()["last_run"]["id"] == last
    run = site.runs()[0]
    assert (run["action"], run["outcome"]) == ("restore", "succeeded")
    assert run["backup"].startswith("nanumpay-safety-backup-")
    assert site.call("DescribeBackup", backup="latest")["backup"]["id"] == backup

    quiet = backupctl(site.socket, "restore", "latest", "--yes", "--no-safety-backup", "--json")
    assert quiet.returncode == 0, quiet.stderr
    assert site.runs()[0].get("backup") is None
    safe = backupctl(site.socket, "restore", run["backup"], "--yes", "--no-safety-backup")
    assert safe.returncode == 0, safe.stderr
    with site.db() as db:
        assert db.users.count_documents({}) == 0


def test_killed_in_the_middle_says_that_the_database_is_half_restored(mongod_rs: Mongod) -> None:
    """Also when the worker could say nothing any more, the record tells what state the target is in."""
    with open_site(mongod_rs, backup_settings(storage={"type": "none"})) as site:
        tool = site.folder / "mongorestore"
        real = find_tool("mongorestore")
        tool.write_text(f'#!/bin/bash\n[ "$1" = --version ] && exec {real} --version\nexec sleep 60\n')
        tool.chmod(0o755)
        site.write_config(f"[tools]\nmongorestore = '{tool}'")
        site.start()
        backup = site.run()["backup"]
        run = site.call("Restore", backup=backup)["run"]["id"]

        def restoring() -> bool:
            return any(stage["stage"] == "restore" for stage in site.call("DescribeRun", run=run)["run"]["stages"])

        wait_for(restoring, "the restore")
        assert site.call("Cancel", run=run)
        record = site.ended(run)
        assert record["outcome"] == "cancelled"
        assert "half restored" in record["error"]["message"]
        assert record["backup"] in record["error"]["hint"]
        second = site.call("Restore", backup=backup, safety=False)["run"]["id"]
        run = second
        wait_for(restoring, "the second restore")
        site.kill()
        site.start()
        record = site.call("DescribeRun", run=second)["run"]
        assert record["outcome"] == "interrupted"
        assert "half restored" in record["error"]["message"]
