"""The commands of docs/recovery.md are run as they stand there, on backups that the product made of a busy database."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import pytest
from pymongo import MongoClient

from nanumpay_backupd.model import Backup, Kind, OpTime
from nanumpay_backupd.settings.schema import LocalDestination
from nanumpay_backupd.timeline import whole_second
from tests.chain_story import Content, Story, read
from tests.integration.test_cli import Terminal, backupctl
from tests.integration.test_docs_restore import block
from tests.oracle import FOREIGN, Oracle
from tests.servers.daemon import backup_settings, open_site
from tests.servers.mongod import Mongod, start_mongod
from tests.servers.s3 import ACCESS_KEY, SECRET_KEY, start_s3

pytestmark = pytest.mark.servers

DATABASE: Final = "nanumpay"
PAGE: Final = "recovery.md"
ACCIDENT: Final = "dropped_by_accident"
Document = dict[str, Any]


def run(script: str, folder: Path, **environment: str) -> str:
    """Run a script with a shell that stops at the first failure; returns all it said."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


def paste(name: str, folder: Path, **environment: str) -> str:
    """Run a block of the page."""
    return run(block(PAGE, name), folder, **environment)


@dataclass(frozen=True)
class Busy:
    """A busy database's backups: two fulls, slices before and after the second, a differential; and who knows all.

    ``between`` is a full that no slice follows, made before the second.
    """

    story: Story
    oracle: Oracle
    fulls: tuple[Backup, Backup]
    between: Backup
    slices: tuple[Backup, ...]
    differential: Backup
    usb: Path

    def seconds(self, first: OpTime, last: OpTime) -> list[int]:
        """Return the whole seconds between two moments: all that was written in one is known, and was captured."""
        return list(range(first.seconds + 1, last.seconds))

    def state(self, second: int) -> Content:
        """Return what the database held at the end of a second."""
        return {**self.oracle.state(whole_second(second)), "users": {"stays": {"_id": "stays", "seen": True}}}


def delete_users(server: Mongod) -> None:
    """Drop a collection, delete one user by itself, and one in a transaction."""
    with server.client() as client, client.start_session() as session:
        users = client[DATABASE].users
        users.insert_many([{"_id": "by itself"}, {"_id": "in a transaction"}, {"_id": "stays"}])
        users.delete_one({"_id": "by itself"})
        client[DATABASE].create_collection(ACCIDENT)
        client[DATABASE].drop_collection(ACCIDENT)
        with session.start_transaction():
            users.delete_one({"_id": "in a transaction"}, session=session)
            users.update_one({"_id": "stays"}, {"$set": {"seen": True}}, session=session)


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Busy]:
    """Random writers, transactions and collections that come and go, for some seconds."""
    root = tmp_path_factory.mktemp("busy")
    with start_mongod(replica_set=True) as server:
        with server.client() as client:
            client[FOREIGN].create_collection("log")
        story = Story(server, DATABASE, root, (LocalDestination(name="usb", path=str(root / "usb")),))
        oracle = Oracle(server, DATABASE, seed=5, pause=0.01)
        slices = []
        with oracle.at_work():
            time.sleep(0.5)
            with oracle.no_renames:
                first = story.full()
            delete_users(server)
            for _ in range(2):
                time.sleep(0.9)
                slices.append(story.slice())
            with oracle.no_renames:
                between = story.full()
            time.sleep(2.1)
            with oracle.no_renames:
                second = story.full()
            for _ in range(2):
                time.sleep(0.9)
                slices.append(story.slice())
        differential = story.slice(Kind.DIFFERENTIAL)
        slices.append(story.slice())
        yield Busy(story, oracle, (first, second), between, tuple(slices), differential, root / "usb")


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Mongod]:
    """A server to restore on."""
    with start_mongod() as server:
        yield server


@pytest.fixture
def client(elsewhere: Mongod) -> Iterator[MongoClient[Document]]:
    """Have an empty server."""
    with elsewhere.client() as client:
        client.drop_database(DATABASE)
        yield client


def in_seoul(second: int) -> str:
    """Write a second as the page does."""
    return f"{datetime.fromtimestamp(second, ZoneInfo('Asia/Seoul')):%Y-%m-%d %H:%M:%S %z}"


@pytest.mark.promise("Every backup restores with stock tools alone, by the commands of the docs.", item=13)
@pytest.mark.parametrize("after", [0, 1], ids=["before the second full", "after the second full"])
@pytest.mark.parametrize("remote", [False, True], ids=["backups folder", "remote place"])
def test_a_moment_by_hand(
    busy: Busy, elsewhere: Mongod, client: MongoClient[Document], tmp_path: Path, after: int, *, remote: bool
) -> None:
    """Stock tools alone make the database what it was at the end of a second, whichever full it is reached from."""
    folder = Path(shutil.copytree(busy.usb if remote else busy.story.layout.backups, tmp_path / "copies"))
    if remote:
        paste("lay-out", folder)
    base = OpTime.parse(busy.fulls[after].end)
    last = OpTime.parse(busy.slices[-1].end if after else busy.fulls[1].end)
    second = busy.seconds(base, last)[-1]
    said = paste("moment-by-hand", folder, BACKUP=busy.fulls[after].id, URI=elsewhere.uri, MOMENT=in_seoul(second))
    assert " 0 document(s) failed to restore" in said
    assert read(client, DATABASE) == busy.state(second)


@pytest.mark.parametrize("which", ["first", "between", "second"])
def test_a_full_without_slices_by_hand(
    busy: Busy, elsewhere: Mongod, client: MongoClient[Document], tmp_path: Path, which: str
) -> None:
    """Where no slice follows the newest full before a moment, the page's lines begin with the full before it."""
    folder = Path(shutil.copytree(busy.story.layout.backups, tmp_path / "copies"))
    first, second = busy.fulls
    newest, last = {
        "first": (first, busy.between.end),
        "between": (busy.between, second.end),
        "second": (second, busy.slices[-1].end),
    }[which]
    moment = busy.seconds(OpTime.parse(newest.end), OpTime.parse(last))[-1]
    lines = "\n".join([block(PAGE, "full-with-slices"), "echo BEGUN $BACKUP", block(PAGE, "moment-by-hand")])
    said = run(lines, folder, BACKUP=newest.id, URI=elsewhere.uri, MOMENT=in_seoul(moment))
    assert f"BEGUN {first.id if which == 'between' else newest.id}\n" in said
    assert read(client, DATABASE) == busy.state(moment)


def test_the_slices_of_a_full_touch(busy: Busy) -> None:
    """What the page says of the manifests holds: the chain has no gap, and begins not after the full's end."""
    for full in busy.fulls:
        found = [json.loads(path.read_bytes()) for path in sorted(busy.story.layout.manifests.glob("*-slice-*.json"))]
        spans = [OpTime.parse(full.end)]
        for one in (manifest for manifest in found if manifest["chain"] == full.id):
            assert OpTime.parse(one["consistency"]["start"]) <= spans[-1]
            spans.append(OpTime.parse(one["consistency"]["end"]))
        assert len(spans) >= 3
    assert OpTime.parse(busy.differential.start) == OpTime.parse(busy.fulls[1].end)


def test_a_moment_by_hand_from_a_differential(
    busy: Busy, elsewhere: Mongod, client: MongoClient[Document], tmp_path: Path
) -> None:
    """One differential in place of the loop does the same."""
    folder = Path(shutil.copytree(busy.story.layout.backups, tmp_path / "copies"))
    lines = block(PAGE, "moment-by-hand").splitlines()
    loop = slice(next(at for at, line in enumerate(lines) if line.startswith("for ")), lines.index("done") + 1)
    lines[loop] = [f"zstd -dcq slices/{busy.differential.artifact} >> $BACKUP/oplog.bson"]
    second = busy.seconds(OpTime.parse(busy.fulls[1].end), OpTime.parse(busy.differential.end))[-1]
    run("\n".join(lines), folder, BACKUP=busy.fulls[1].id, URI=elsewhere.uri, MOMENT=in_seoul(second))
    assert read(client, DATABASE) == busy.state(second)


def test_a_slice_is_searched(busy: Busy, elsewhere: Mongod, client: MongoClient[Document], tmp_path: Path) -> None:
    """Loaded as the page says, every change is a document; the queries find what was dropped and deleted, and when."""
    folder = Path(shutil.copytree(busy.story.layout.backups, tmp_path / "copies"))
    one = busy.slices[0]
    said = paste("read-slice", folder, SLICE=one.id, URI=elsewhere.uri)
    assert f"{one.documents} document(s) restored successfully. 0 document(s) failed" in said
    changes = client.slice_check.changes
    first, last = OpTime.parse(one.start), OpTime.parse(one.end)
    stamps = [OpTime(item["ts"].time, item["ts"].inc) for item in changes.find({}, {"ts": 1})]
    assert first < min(stamps)
    assert max(stamps) <= last  # the last entry of all may be of another database
    page = block(PAGE, "search-slice")
    queries = [json.loads(f"[{found}]") for found in re.findall(r"find\((\{.*?\}, \{[^{}]*\})\)", page)]
    assert len(queries) == len(page.splitlines())
    dropped, deleted, transacted = (list(changes.find(*query)) for query in queries)
    names = {item["o"]["drop"] for item in dropped}
    assert ACCIDENT in names
    assert all(re.fullmatch(r"(passing|renamed)\d+", name) for name in names - {ACCIDENT})
    assert [item["o"]["_id"] for item in deleted] == ["by itself"]
    (found,) = transacted
    assert first.moment <= found["wall"].replace(tzinfo=UTC) <= last.moment + timedelta(seconds=1)
    client.drop_database("slice_check")


def test_validators_only_warn_meanwhile(elsewhere: Mongod, client: MongoClient[Document], tmp_path: Path) -> None:
    """Documents that were written past a validator end the replay; with the line of the page they do not."""
    with start_mongod(replica_set=True) as server, server.client() as source:
        story = Story(server, DATABASE, tmp_path)
        names = {"usual": {}, "said": {"validationAction": "error"}}
        for name, more in names.items():
            source[DATABASE].command({"create": name, "validator": {"balance": {"$gte": 0}}, **more})
            source[DATABASE][name].insert_one({"_id": 1, "balance": 1})
        story.mark("begin")
        full = story.full()
        for name in names:
            source[DATABASE][name].insert_one({"_id": 2, "balance": -1}, bypass_document_validation=True)
        story.mark("end")
        story.slice()
    own = {"BACKUP": full.id, "URI": elsewhere.uri, "MOMENT": in_seoul(story.moment("end").seconds)}
    with pytest.raises(AssertionError, match="Failed: restore error: error applying oplog"):
        paste("moment-by-hand", story.layout.backups, **own)
    client.drop_database(DATABASE)
    shutil.rmtree(story.layout.backups / full.id)
    # Between unpacking and restoring, as the page says.
    unpack, _, rest = block(PAGE, "moment-by-hand").partition("\n")
    run("\n".join([unpack, block(PAGE, "let-validators-warn"), rest]), story.layout.backups, **own)
    assert read(client, DATABASE) == story.held("end")
    for name in names:
        (found,) = client[DATABASE].list_collections(filter={"name": name})
        assert found["options"]["validationAction"] == "warn"


def typed(name: str, moment: str) -> list[list[str]]:
    """Return the words of a block's `backupctl` commands, with another moment than the page has."""
    lines = [line for line in block(PAGE, name).splitlines() if line.startswith("backupctl ")]
    assert lines
    return [
        [moment if re.fullmatch(r"[\d:]{5,8}", word) else word for word in shlex.split(line, comments=True)[1:]]
        for line in lines
    ]


@pytest.mark.promise("Any moment that is offered is restored exactly.", item=13)
def test_back_to_a_moment(mongod_rs: Mongod) -> None:
    """A collection was dropped: the three commands bring it back, as do those for a part, beside, and back again."""
    with open_site(mongod_rs, backup_settings(storage={"type": "none"})) as site, site.db() as db:
        site.start()
        assert site.run()["outcome"] == "succeeded"
        db.users.insert_one({"_id": "late", "name": "after the full"})
        good = read(db.client, site.database)
        moment = datetime.now(ZoneInfo(site.status()["timezone"]) if site.status()["timezone"] else None)
        time.sleep(1.1)
        db.drop_collection("users")
        db.later.insert_one({})
        bad = read(db.client, site.database)

        look, dry, restore = typed("back-to-a-moment", f"{moment:%H:%M:%S}")
        assert "recoverable until" in backupctl(site.socket, *look).stdout
        assert backupctl(site.socket, *dry).stdout.endswith("Nothing was done.\n")
        assert read(db.client, site.database) == bad
        with Terminal(site.socket, *restore) as terminal:
            terminal.wait_for("type the name of the database:")
            terminal.type(f"{site.database}\n")
            assert terminal.end() == 0, terminal.text
        assert read(db.client, site.database) == good
        (back,) = re.findall(r"backupctl (restore nanumpay-safety-backup-\S+)", terminal.text)
        assert backupctl(site.socket, *back.split(), "--yes", "--no-safety-backup").returncode == 0
        assert read(db.client, site.database)["later"] == bad["later"]

        part, beside, swapped = typed("a-part-or-beside", f"{moment:%H:%M:%S}")
        for words in (part, beside, *typed("several-moments", f"{moment:%H:%M:%S}")):
            done = backupctl(site.socket, *dict.fromkeys([*words, "--yes"]), "--no-safety-backup")
            assert done.returncode == 0, done.stderr
        assert read(db.client, site.database)["users"] == good["users"]
        for name in ("nanumpay_1030", "nanumpay_0900", "nanumpay_1000"):
            assert read(db.client, name) == good
            db.client.drop_database(name)
        db.users.delete_many({})
        done = backupctl(site.socket, *swapped, "--yes")
        assert done.returncode == 0, done.stderr
        assert {**read(db.client, site.database), **good} == read(db.client, site.database)


@pytest.mark.promise("The catalog may be lost: the manifests beside the backups have what it takes to go on.", item=5)
def test_a_new_machine(tmp_path: Path, mongod_rs: Mongod) -> None:
    """From the bucket alone: the data are back, and with them the settings by which the new daemon finds the copies."""
    with start_s3(tmp_path) as s3:
        storage = {
            "bucket": s3.bucket,
            "region": "us-east-1",
            "accessKeyId": ACCESS_KEY,
            "secretAccessKey": SECRET_KEY,
            "prefix": "nanumpay-backup/",
        }
        more = f"[nanumpay.s3]\nendpoint_url = '{s3.endpoint}'\npath_style = true\n"
        with open_site(mongod_rs, backup_settings(s3=storage)) as old:
            old.write_config(more)
            old.start()
            assert old.run()["outcome"] == "succeeded"
            backup = old.list_backups()[0]["id"]
            with old.db() as db, mongod_rs.client() as client:
                held = read(client, old.database)
                db.client.drop_database(old.database)
            old.kill()
            database = old.database
            assert held
            with start_mongod(replica_set=True) as server, server.client() as client:
                keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
                own = {"PLACE": f"s3://{s3.bucket}/nanumpay-backup/", "AWS_ENDPOINT_URL": s3.endpoint, **keys}
                said = paste("new-machine", tmp_path, MONGODB_URI=server.uri_for(database), **own)
                assert said.count(backup) >= 3
                assert read(client, database) == held
                with open_site(server, fill=False) as new:
                    new.database, new.uri = database, server.uri_for(database)
                    new.write_config(more)
                    new.start()
                    said = paste(
                        "learn", tmp_path, **without_systemd(tmp_path), NANUMPAY_BACKUPD_SOCKET=str(new.socket)
                    )
                    (line,) = [line for line in said.splitlines() if line.startswith(backup)]
                    assert line.endswith("app✓")


def without_systemd(folder: Path) -> dict[str, str]:
    """Stand in for systemd, which a build machine has not: the daemon that is to be started runs already."""
    program = folder / "bin" / "systemctl"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\n[ "$*" = "start nanumpay-backupd" ]\n', encoding="ascii")
    program.chmod(0o755)
    return {"PATH": f"{program.parent}:{os.environ['PATH']}"}
