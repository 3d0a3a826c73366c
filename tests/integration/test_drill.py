"""`drill` against real servers: a good backup is proven, whatever is wrong with a bad one is named, nothing stays."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from pymongo import MongoClient

from nanumpay_backupd import worker
from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.model import Backup, BackupState, Content, CopyState, Manifest, Outcome, Run, Stage
from nanumpay_backupd.pipeline.inventory import backup_from_manifest
from nanumpay_backupd.pipeline.publish import read_manifest, rewrite_manifest
from nanumpay_backupd.settings.schema import MongoSource, RestoreOrder, RunSpec, VerifyOrder, encode_spec
from nanumpay_backupd.sources.scratch import ScratchServer, scratch_name
from nanumpay_backupd.sources.snapshot import read_content
from nanumpay_backupd.system.clock import SystemClock
from nanumpay_backupd.system.secrets import Secret
from tests.integration.test_restore import DATABASE, House, flip, text
from tests.sample_data import load
from tests.servers.daemon import wait_for
from tests.servers.ftp import FtpServer, start_pyftpdlib
from tests.servers.mongod import Mongod, find_mongod, start_mongod
from tests.servers.tools import find_tool
from tests.workbench import Ear, small_disk

pytestmark = pytest.mark.servers

NOWHERE: Final = "no-such-mongod"


@dataclass
class Yard(House):
    """A host whose backups are drilled."""

    mongod: str = ""
    database: str = DATABASE
    dump_tool: str = "mongodump"

    def spec(self, action: str, order: RestoreOrder | None = None, verify: VerifyOrder | None = None) -> RunSpec:
        """Return what the worker is told."""
        spec = super().spec(action, order)
        source = msgspec.structs.replace(
            spec.job.source,
            database=self.database,
            mongod=self.mongod or str(find_mongod()),
            mongodump=self.dump_tool,
        )
        job = msgspec.structs.replace(spec.job, source=source)
        return msgspec.structs.replace(spec, job=job, verify=verify)

    def drill(self, backup: str = "", source: str = "") -> Run:
        """Drill in this process."""
        self.ear = Ear()
        order = VerifyOrder(backup=backup, level="restore", source=source)
        return worker.execute(self.spec("drill", verify=order), self.ear, SystemClock())

    def scratch_databases(self) -> list[str]:
        """Return the databases of drills on the job's own server."""
        return [name for name in self.client.list_database_names() if "_drill_" in name]


def _yard(root: Path, server: Mongod) -> Iterator[Yard]:
    with server.client() as client:
        client.drop_database(DATABASE)
        load(client[DATABASE], scale=0.02)
        yield Yard(root, server, client)
        client.drop_database(DATABASE)


@pytest.fixture(params=["mongod_standalone", "mongod_rs"])
def any_yard(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Yard]:
    """A host with either kind of server."""
    yield from _yard(tmp_path, request.getfixturevalue(request.param))


@pytest.fixture
def yard(tmp_path: Path, mongod_standalone: Mongod) -> Iterator[Yard]:
    """A host with the usual server."""
    yield from _yard(tmp_path, mongod_standalone)


@pytest.fixture
def set_yard(tmp_path: Path, mongod_rs: Mongod) -> Iterator[Yard]:
    """A host with a replica set."""
    yield from _yard(tmp_path, mongod_rs)


@pytest.fixture
def ftp(tmp_path: Path) -> Iterator[FtpServer]:
    """A real FTP server, empty."""
    with start_pyftpdlib(tmp_path / "ftp") as running:
        yield running


def script(yard: Yard, name: str, body: str) -> str:
    """Put a program in the place of a tool: it tells the real one's version, else does ``body`` ($real is that one)."""
    real = find_mongod() if name == "mongod" else find_tool(name)
    path = yard.root / f"own-{name}"
    path.write_text(f'#!/bin/bash\nreal={real}\n[ "$1" = --version ] && exec "$real" --version\n{body}\n')
    path.chmod(0o755)
    return str(path)


def manifest_of(backup: Backup) -> Manifest:
    """Return a backup's manifest."""
    assert backup.manifest is not None
    return backup.manifest


def amend(yard: Yard, manifest: Manifest) -> None:
    """Put another manifest in a backup's place, in the folder and in the catalog."""
    rewrite_manifest(yard.layout, manifest)
    with Catalog(yard.root / "state" / "catalog.db") as catalog:
        catalog.save_backup(backup_from_manifest(manifest))


def amend_collections(yard: Yard, manifest: Manifest, name: str = "", **changes: Any) -> None:
    """Let a manifest say something else of one collection, or of all."""
    stats = tuple(
        msgspec.structs.replace(item, **changes) if name in ("", item.name) else item
        for item in manifest.source.collections
    )
    source = msgspec.structs.replace(manifest.source, collections=stats)
    amend(yard, msgspec.structs.replace(manifest, source=source))


def rewrite(yard: Yard, backup: Backup, name: str, change: Callable[[bytes], bytes]) -> None:
    """Change one file of the artifact; size and checksum in the manifest are made to match."""
    path = yard.layout.artifact(backup.artifact)
    with tarfile.open(path) as old:
        members = [(member, old.extractfile(member)) for member in old]
        plain = [(member, content.read() if content is not None else b"") for member, content in members]
    with tarfile.open(path, "w:gz") as new:
        for member, content in plain:
            data = change(content) if member.name.endswith(f"/{name}") else content
            member.size = len(data)
            new.addfile(member, io.BytesIO(data))
    data = path.read_bytes()
    manifest = manifest_of(yard.backup(backup.id))
    artifact = msgspec.structs.replace(manifest.artifact, size=len(data), sha256=sha256(data).hexdigest())
    amend(yard, msgspec.structs.replace(manifest, artifact=artifact))


def code_of(run: Run) -> str:
    """Return the code of a run's fault, empty: it has none."""
    return run.error.code if run.error is not None else ""


def nothing_stays(yard: Yard) -> None:
    """Assert that neither data nor a database of a drill is left, and no mongod of ours runs."""
    assert yard.clean()
    assert {name: yard.client[name].list_collection_names() for name in yard.scratch_databases()} == {}
    assert running_below(yard.root) == []


def running_below(folder: Path) -> list[int]:
    """Return the processes that name a folder in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if bytes(folder) in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def test_a_good_backup_is_proven(any_yard: Yard) -> None:
    """Views, time-series, capped, GridFS, validators, collations: all is as dumped, and the proof is kept."""
    yard = any_yard
    backup = yard.back_up()
    before = yard.describe()
    assert {entry["type"] for entry in before.values()} == {"collection", "view", "timeseries"}
    run = yard.drill()
    assert (run.outcome, run.error, run.action) == (Outcome.SUCCEEDED, None, "drill")
    assert run.backup == backup.id
    assert [record.stage for record in run.stages] == [Stage.PREFLIGHT, Stage.CHECK, Stage.RESTORE, Stage.COMPARE]
    assert yard.describe() == before
    nothing_stays(yard)
    after = yard.backup(backup.id)
    assert after.state is BackupState.VERIFIED
    assert read_manifest(yard.layout.manifest(backup.id)) == manifest_of(after)
    proof = manifest_of(after).verification[-1]
    assert (proof.level, proof.ok, proof.documents) == ("restore", True, backup.documents)
    assert proof.bytes == manifest_of(backup).artifact.raw_bytes
    assert proof.seconds > 0
    assert "indexes and options as dumped" in proof.detail
    assert "not compared" not in proof.detail

    # An older manifest knows no digests; the artifact tells them.
    amend_collections(yard, manifest_of(after), digest="")
    assert yard.drill(backup.id).outcome is Outcome.SUCCEEDED
    again = manifest_of(yard.backup(backup.id))
    assert again.source == manifest_of(after).source
    assert len(again.verification) == len(manifest_of(after).verification)


def test_all_databases_are_proven_together(yard: Yard) -> None:
    """A job over all of a server's databases is drilled as a whole."""
    yard.client["drill_second"].notes.insert_one({"text": "두 번째"})
    try:
        yard.database = ""
        yard.back_up()
        run = yard.drill()
        assert (run.outcome, run.error) == (Outcome.SUCCEEDED, None)
        nothing_stays(yard)
        yard.mongod = NOWHERE
        assert code_of(yard.drill()) == "drill-impossible"
    finally:
        yard.client.drop_database("drill_second")


def while_it_is_dumped(yard: Yard, work: Callable[[], None]) -> Backup:
    """Make a backup, and do some work after mongodump has read everything and before it ends."""
    read, done = yard.root / "read", yard.root / "done"
    yard.dump_tool = script(
        yard,
        "mongodump",
        f'"$real" "$@"; code=$?; touch "{read}"; while [ ! -e "{done}" ]; do sleep 0.02; done; exit $code',
    )

    def meanwhile() -> None:
        wait_for(read.exists, "the dump")
        try:
            work()
        finally:
            done.touch()

    thread = threading.Thread(target=meanwhile)
    thread.start()
    try:
        return yard.back_up()
    finally:
        thread.join()


def test_what_changed_during_the_dump_is_held_against_the_server_itself(set_yard: Yard) -> None:
    """Collections that the oplog changes are compared with what the server held at the backup's moment."""
    yard = set_yard
    db = yard.client[DATABASE]

    def work() -> None:
        db.users.delete_many({"position": "L"})
        db.users.update_many({}, {"$set": {"memo": "덤프 중 변경", "extra": 1}, "$unset": {"bank": 1}})
        db.admins.insert_one({"_id": "late", "loginId": "late"})
        db.admins.create_index("late")
        db.systemmetrics.insert_one({"at": datetime(2026, 1, 1, tzinfo=UTC), "host": "late", "value": 1})
        db.activitylogs.insert_one({"late": True})
        # Past the validator, as a restore or an administrator may write.
        db.plannercommissions.update_one({}, {"$set": {"commission": "none"}}, bypass_document_validation=True)
        db.planneraccounts.drop()
        db.made.insert_one({"late": True})
        db.command("collMod", "activeusers", viewOn="users", pipeline=[{"$match": {"status": "inactive"}}])
        with yard.client.start_session() as session, session.start_transaction():
            db.weeklypaymentplans.insert_one({"_id": "late"}, session=session)
            db.useraccounts.delete_many({"isActive": True}, session=session)

    backup = while_it_is_dumped(yard, work)
    manifest = manifest_of(backup)
    stats = {item.name: item for item in manifest.source.collections}
    settled = {name for name, item in stats.items() if item.settled is not None}
    touched = {
        "users",
        "admins",
        "plannercommissions",
        "system.buckets.systemmetrics",
        "weeklypaymentplans",
        "useraccounts",
    }
    # The last writes before the dump may be in its oplog too.
    assert touched <= settled
    assert "planneraccounts" not in settled
    for name in touched:
        assert stats[name].settled == read_content(db[name]), name
    run = yard.drill()
    assert (run.outcome, run.error) == (Outcome.SUCCEEDED, None)
    unknown = 1 + ("activitylogs" not in settled)
    assert f"{unknown} of them changed during the dump" in run.stages[-1].detail
    nothing_stays(yard)

    wrong = stats["useraccounts"].settled
    assert wrong is not None
    other = f"{int(wrong.digest, 16) ^ 1:032x}"
    amend_collections(yard, manifest, "useraccounts", settled=msgspec.structs.replace(wrong, digest=other))
    failed = yard.drill()
    assert code_of(failed) == "drill-failed"
    assert "useraccounts" in text(failed)


def test_a_large_part_of_the_dump_is_not_read_twice(set_yard: Yard) -> None:
    """What changed is read again only while it is a small part of the dump: the rest stays unknown."""
    db = set_yard.client[DATABASE]
    db.filler.insert_many([{"_id": at, "text": "x" * 1_000_000} for at in range(20)])

    def work() -> None:
        db.filler.delete_one({"_id": 3})
        db.users.delete_many({})

    backup = while_it_is_dumped(set_yard, work)
    stats = {item.name: item.settled for item in manifest_of(backup).source.collections}
    assert stats["filler"] is None
    assert stats["users"] == Content(documents=0, digest="0" * 32)


def flip_a_letter(data: bytes) -> bytes:
    """Change one letter of one text in a BSON file."""
    at = data.index(b"user00000007")
    return data[: at + 11] + b"8" + data[at + 12 :]


def other_document(yard: Yard, backup: Backup) -> None:
    """Change one document in the artifact, so that all but its digest matches."""
    rewrite(yard, backup, "monthlyregistrations.bson", lambda data: data.replace(b"2025-07", b"2024-07", 1))


def two_alike(yard: Yard, backup: Backup) -> None:
    """Change one document in an artifact without digests so that a unique index cannot be built."""
    amend_collections(yard, manifest_of(backup), digest="")
    rewrite(yard, backup, "users.bson", flip_a_letter)


def fewer_indexes(yard: Yard, backup: Backup) -> None:
    """Take an index out of the artifact."""

    def change(data: bytes) -> bytes:
        metadata = json.loads(data)
        metadata["indexes"].pop()
        # As long as before, so that the manifest's sizes still fit.
        return json.dumps(metadata, separators=(",", ":")).encode().ljust(len(data))

    rewrite(yard, backup, "admins.metadata.json", change)


def changing_tool(yard: Yard, backup: Backup) -> None:
    """Put a mongorestore in place that restores another document than it was given."""
    yard.tool = script(
        yard, "mongorestore", 'sed -i s/2025-07/2024-07/ "${@: -1}"/*/monthlyregistrations.bson; exec "$real" "$@"'
    )


def lying_tool(*options: str) -> Callable[[Yard, Backup], None]:
    """Return what puts a mongorestore in place that leaves something out."""

    def put(yard: Yard, backup: Backup) -> None:
        yard.tool = script(yard, "mongorestore", f'exec "$real" {" ".join(options)} "$@"')

    return put


@pytest.mark.parametrize(
    "spoil, code, words",
    [
        (other_document, "verify-checksum", "other documents of restore_me.monthlyregistrations than"),
        (two_alike, "drill-failed", "cannot be restored"),
        (fewer_indexes, "drill-failed", "admins has 1 indexes in the archive, 2 in the manifest"),
        (changing_tool, "drill-failed", "monthlyregistrations has as many documents as it should have, but not"),
        (
            lying_tool("--noIndexRestore", "--noOptionsRestore", "--nsExclude=*systemmetrics"),
            "drill-failed",
            "activitylogs has the options {} instead of … admins has no index loginId_1",
        ),
        (lying_tool("--nsExclude=*.users"), "drill-failed", "users is not there"),
    ],
    ids=["document", "unique", "manifest", "changed", "shape", "collection"],
)
def test_a_backup_that_does_not_restore_is_corrupt(
    yard: Yard, spoil: Callable[[Yard, Backup], None], code: str, words: str
) -> None:
    """What differs is named; the backup is corrupt from then on, and is not restored by mistake."""
    backup = yard.back_up()
    spoil(yard, yard.backup(backup.id))
    before = yard.describe()
    run = yard.drill()
    assert run.outcome is Outcome.FAILED
    assert code_of(run) == code
    assert run.backup == backup.id
    assert backup.id in text(run)
    assert all(part in text(run) for part in words.split(" … ")), text(run)
    assert yard.describe() == before
    nothing_stays(yard)
    after = yard.backup(backup.id)
    assert after.state is BackupState.CORRUPT
    assert [copy.state for copy in after.copies] == [CopyState.CORRUPT]
    manifest = read_manifest(yard.layout.manifest(backup.id))
    assert manifest is not None
    assert (manifest.verification[-1].level, manifest.verification[-1].ok) == ("restore", False)
    assert manifest.verification[-1].detail in text(run)
    assert code_of(yard.drill()) == "not-found"
    assert code_of(yard.drill(backup.id)) == "copy-unusable"


def test_without_mongod_a_database_beside_the_real_one_is_used(set_yard: Yard) -> None:
    """It is dropped afterwards, whatever happens, and so is what dead drills left; others' databases stay."""
    yard = set_yard
    yard.mongod = NOWHERE
    db = yard.client[DATABASE]
    older = yard.back_up()

    def work() -> None:
        db.users.delete_many({"position": "L"})

    backup = while_it_is_dumped(yard, work)
    assert manifest_of(backup).consistency.entries > 0
    before = yard.describe()
    first = yard.drill()
    assert (first.outcome, first.error) == (Outcome.SUCCEEDED, None)
    proof = manifest_of(yard.backup(backup.id)).verification[-1]
    assert scratch_name(DATABASE, first.id) in proof.detail
    assert yard.describe() == before

    dead, foreign = scratch_name(DATABASE, first.id), f"{DATABASE}_drill_0123456789ab"
    for name in (dead, foreign):
        yard.client[name].left.insert_one({})
    try:
        assert yard.drill().outcome is Outcome.SUCCEEDED
        assert yard.scratch_databases() == [foreign]
        changing_tool(yard, backup)
        assert code_of(yard.drill()) == "drill-failed"
        assert backup.id in yard.backup(older.id).pinned
        assert yard.scratch_databases() == [foreign]
    finally:
        yard.client.drop_database(foreign)
    nothing_stays(yard)


def test_without_mongod_and_with_few_rights(tmp_path: Path) -> None:
    """Whoever may only dump is told what a drill takes; whoever may restore needs no more, and nothing is left."""
    with start_mongod(auth=True) as server:
        for yard in _yard(tmp_path, server):
            yard.mongod = NOWHERE
            for name, roles in (("dumper", ["backup"]), ("restorer", ["backup", "restore"])):
                yard.client.admin.command("createUser", name, pwd="a-password", roles=roles)
            yard.uri = f"mongodb://dumper:a-password@{server.address}/{DATABASE}?authSource=admin"
            backup = yard.back_up()
            run = yard.drill()
            assert run.outcome is Outcome.DEGRADED
            assert code_of(run) == "drill-impossible"
            assert "[tools] mongod" in text(run)
            assert yard.backup(backup.id).state is BackupState.VERIFIED
            yard.uri = yard.uri.replace("dumper", "restorer")
            run = yard.drill()
            assert code_of(run) == "drill-impossible"
            assert "time-series" in text(run)
            nothing_stays(yard)
            yard.client[DATABASE].drop_collection("systemmetrics")
            yard.back_up()
            run = yard.drill()
            assert (run.outcome, run.error) == (Outcome.SUCCEEDED, None)
            assert "not validated" in run.stages[-1].detail
            nothing_stays(yard)


def test_a_remote_copy_is_fetched_and_a_damaged_one_is_only_that(yard: Yard, ftp: FtpServer) -> None:
    """Of several copies the damaged one is marked; the backup stays good as long as another is there."""
    yard.destinations = (ftp.destination(),)
    backup = yard.back_up()
    run = yard.drill(source="office")
    assert (run.outcome, run.error) == (Outcome.SUCCEEDED, None)
    assert Stage.FETCH in [record.stage for record in run.stages]
    flip(ftp.folder / backup.artifact, 2)
    run = yard.drill(backup.id, source="office")
    assert code_of(run) == "verify-checksum"
    assert f"backupctl restore {backup.id} --from local" in text(run)
    after = yard.backup(backup.id)
    assert after.state is BackupState.VERIFIED
    assert {copy.destination: copy.state for copy in after.copies} == {
        "local": CopyState.VERIFIED,
        "office": CopyState.CORRUPT,
    }
    assert yard.drill().outcome is Outcome.SUCCEEDED
    flip(yard.layout.artifact(backup.artifact), 2)
    run = yard.drill()
    assert run.outcome is Outcome.FAILED
    assert yard.backup(backup.id).state is BackupState.CORRUPT
    nothing_stays(yard)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_or_cancelled_no_mongod_and_no_data_stay(yard: Yard, number: signal.Signals) -> None:
    """A killed worker takes its mongod with it, and its data goes with the next drill; a cancelled one tidies up."""
    backup = yard.back_up()
    yard.tool = script(yard, "mongorestore", "exec sleep 60")
    spec = yard.spec("drill", verify=VerifyOrder(level="restore"))
    process = subprocess.Popen(
        [sys.executable, "-m", "nanumpay_backupd", "worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdin is not None
    process.stdin.write(encode_spec(spec))
    process.stdin.close()

    def names() -> str:
        return " ".join(Path(f"/proc/{pid}/cmdline").read_text() for pid in running_below(yard.root))

    def restoring() -> bool:
        with Catalog(yard.root / "state" / "catalog.db") as catalog:
            run = catalog.run(spec.run)
        return run is not None and run.stages[-1:] != () and run.stages[-1].stage is Stage.RESTORE

    wait_for(restoring, "the restore")
    wait_for(lambda: "mongod" in names(), "mongod")
    process.send_signal(number)
    process.wait(30)
    wait_for(lambda: running_below(yard.root) == [], "the end of mongod")
    assert yard.clean() is (number is signal.SIGTERM)
    assert yard.backup(backup.id).state is BackupState.VERIFIED
    yard.tool = "mongorestore"
    assert yard.drill().outcome is Outcome.SUCCEEDED
    nothing_stays(yard)


DIES: Final = 'kill -9 $(cat "${@: -1}/../scratch/data/mongod.lock"); exec "$real" "$@"'


@pytest.mark.parametrize(
    "tool, body, code, words",
    [
        ("mongod", "", "tool-too-old", "4.4.29"),
        ("mongod", 'exec "$real" --setParameter=nonsense=1 "$@"', "scratch-failed", "nonsense"),
        ("mongod", 'rm -r "${1#--dbpath=}"; exec "$real" "$@"', "scratch-failed", "NonExistentPath"),
        ("mongorestore", DIES, "scratch-failed", "ended with code -9"),
    ],
    ids=["old", "options", "data", "dies"],
)
def test_a_place_that_fails_says_nothing_about_the_backup(
    yard: Yard, tool: str, body: str, code: str, words: str
) -> None:
    """With a mongod that is too old, does not start or dies, nothing was tried: the backup stays what it was."""
    backup = yard.back_up()
    path = script(yard, tool, body)
    if code == "tool-too-old":
        Path(path).write_text("#!/bin/bash\necho 'db version v4.4.29'\n")
    yard.mongod, yard.tool = (path, yard.tool) if tool == "mongod" else (yard.mongod, path)
    run = yard.drill()
    assert run.outcome is Outcome.DEGRADED
    assert code_of(run) == code
    assert words in text(run)
    assert yard.backup(backup.id).state is BackupState.VERIFIED
    assert manifest_of(yard.backup(backup.id)) == manifest_of(backup)
    nothing_stays(yard)


def test_without_room_nothing_is_begun(yard: Yard) -> None:
    """The room for a second copy of the data is asked for before anything is unpacked."""
    db = yard.client[DATABASE]
    db.filler.insert_many([{"_id": at, "text": "x" * 1_000_000} for at in range(30)])
    yard.back_up()
    with small_disk(yard.root / "small", 90 << 20) as disk:
        shutil.copytree(yard.layout.backups, disk / "backups")
        spec = yard.spec("drill", verify=VerifyOrder(level="restore"))
        paths = msgspec.structs.replace(spec.paths, backups=disk / "backups")
        run = worker.execute(msgspec.structs.replace(spec, paths=paths), Ear(), SystemClock())
        assert code_of(run) == "no-space"
        assert list((disk / "backups" / ".backupd" / "staging").iterdir()) == []


def listening(pid: int) -> set[str]:
    """Return on what a process listens: paths of sockets, and ``tcp`` for anything of the network."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(link).removeprefix("socket:[").removesuffix("]"))
    found = set()
    for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[6] in inodes and len(fields) > 7:
            found.add(fields[7])
    for name in ("tcp", "tcp6"):
        rows = Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
        found.update("tcp" for row in rows if row.split()[9] in inodes)
    return found


@pytest.mark.parametrize("inside", ["data", "a" * 100, "one,two"])
def test_nobody_else_reaches_the_scratch_server(tmp_path: Path, inside: str) -> None:
    """It listens on one socket in a private folder and on no port, also where the path is too long for a socket."""
    settings = MongoSource(uri=Secret("mongodb://127.0.0.1:1"), database="x", mongod=str(find_mongod()))
    folder = tmp_path / inside / "scratch"
    server = ScratchServer(settings, folder, "6.0.5")
    try:
        server.start(lambda: None)
        (pid,) = running_below(folder)
        (path,) = listening(pid)
        assert stat.S_IMODE(Path(path).stat().st_mode) & 0o077 == 0
        assert stat.S_IMODE(Path(path).parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        with MongoClient[dict[str, Any]](server.settings.uri.reveal(), serverSelectionTimeoutMS=5000) as client:
            client.x.y.insert_one({})
        assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 30 << 20
    finally:
        server.stop()
        server.stop()
    assert running_below(folder) == []
    assert not folder.exists()
    assert not Path(path).parent.exists()
