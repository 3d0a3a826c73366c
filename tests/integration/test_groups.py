"""A group of MongoDB, files, SQLite and Redis through a real daemon: run, bucket, listing, restore, faults, loss."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from nanumpay_backupd.errors import BackupdError
from tests.integration.test_cli import backupctl
from tests.servers.daemon import Site, open_site, plan_ago, wait_for
from tests.servers.mongod import Mongod
from tests.servers.redis import Redis, find_redis, start_redis
from tests.servers.s3 import ACCESS_KEY, SECRET_KEY, S3Server, start_s3
from tests.servers.tools import PROJECT

pytestmark = pytest.mark.servers
_JOBS: Final = ["nanumpay", "files", "ledger", "cache"]


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server."""
    with start_s3(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """A real Redis server."""
    with start_redis(tmp_path_factory.mktemp("redis"), password="") as server:
        yield server


class House:
    """A daemon, and what it saves: a database, a folder, a ledger, a cache."""

    def __init__(self, site: Site, data: Path, redis: Redis, s3: S3Server) -> None:
        self.site = site
        self.redis = redis
        self.s3 = s3
        self.files = data / "files"
        self.ledger = data / "ledger.db"

    def configure(self, more: str = "", *, jobs: str = json.dumps(_JOBS), before: str = "") -> None:
        """Write the host file; ``before`` are keys of the job of the ledger, ``more`` further tables."""
        self.site.write_config(
            f"""
            [nanumpay]
            destinations = ["cloud"]
            [tools]
            redis_server = "{find_redis()}"
            [destination.cloud]
            type = "s3"
            bucket = "{self.s3.bucket}"
            prefix = "{self.site.folder.name}/"
            endpoint_url = "{self.s3.endpoint}"
            path_style = true
            access_key_id = "{ACCESS_KEY}"
            secret_access_key = "{SECRET_KEY}"
            [[job]]
            name = "files"
            type = "files"
            path = ["{self.files}"]
            destinations = ["cloud"]
            [[job]]
            name = "ledger"
            type = "sqlite"
            path = ["{self.ledger}"]
            {before}
            [[job]]
            name = "cache"
            type = "redis"
            url = "redis://{self.redis.address}"
            mode = "logical"
            destinations = ["cloud"]
            {more}
            [group.shop]
            jobs = {jobs}
            """
        )

    def fill(self, word: str) -> None:
        """Put something into each of them, in the place of what was there."""
        shutil.rmtree(self.files, ignore_errors=True)
        self.files.mkdir(parents=True)
        (self.files / "note").write_text(word)
        self.ledger.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(self.ledger)) as db, db:
            db.execute("CREATE TABLE things (word)")
            db.execute("INSERT INTO things VALUES (?)", (word,))
        self.redis.ask("FLUSHALL")
        self.redis.ask("SET", "word", word)
        with self.site.db() as mongo:
            mongo.words.delete_many({})
            mongo.words.insert_one({"word": word})

    def words(self) -> list[str]:
        """Return what is in each of them, in the order of the group."""
        with self.site.db() as mongo:
            words = [str(one["word"]) for one in mongo.words.find()]
        with contextlib.closing(sqlite3.connect(self.ledger)) as db:
            (ledger,) = db.execute("SELECT word FROM things").fetchone()
        return [*words, (self.files / "note").read_text(), str(ledger), self.redis.ask("GET", "word").decode()]

    def group(self) -> dict[str, Any]:
        """Return what GetStatus says of the group."""
        (group,) = self.site.status()["groups"]
        return dict(group)

    def ended(self, run: str) -> dict[str, Any]:
        """Wait for the end of a group's run, and return its record."""
        wait_for(lambda: self.site.call("DescribeRun", run=run)["run"].get("outcome"), f"the end of run {run}")
        return dict(self.site.call("DescribeRun", run=run)["run"])

    def in_bucket(self) -> list[str]:
        """Return the names of what this site has there."""
        return sorted(path.name for path in self.bucket.iterdir())

    @property
    def bucket(self) -> Path:
        """Return the folder that is the site's part of the bucket."""
        return self.s3.root / self.s3.bucket / self.site.folder.name


@pytest.fixture(scope="module")
def house(mongod_rs: Mongod, redis: Redis, s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A daemon with a group of four jobs, of which one run was made."""
    with open_site(mongod_rs) as site:
        house = House(site, tmp_path_factory.mktemp("data"), redis, s3)
        house.configure()
        house.fill("first")
        site.start()
        yield house


@pytest.fixture(scope="module")
def made(house: House) -> dict[str, Any]:
    """Run the group by its name, and return what it made."""
    done = backupctl(house.site.socket, "run", "shop")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nanumpay dump" in done.stdout
    assert "✓ cache succeeded" in done.stdout
    (found,) = house.site.call("ListBackups", job="shop")["groups"]
    assert f"{found['id']}, whole" in done.stdout
    return dict(found)


def test_a_run_makes_one_thing_of_all_jobs(house: House, made: dict[str, Any]) -> None:
    """There is one run with an id, in which each member's run has its part; all is proven and begins in order."""
    assert [member["job"] for member in made["members"]] == _JOBS
    assert [member["state"] for member in made["members"]] == ["good"] * 4
    assert made["state"] == "whole"
    run = house.site.call("DescribeRun", run=made["run"])["run"]
    assert (run["job"], run["action"], run["outcome"], run["backup"]) == ("shop", "group", "succeeded", made["id"])
    members = [house.site.call("DescribeRun", run=name)["run"] for name in run["members"]]
    assert [(one["job"], one["trigger"], one["group"]) for one in members] == [
        (job, "group", run["id"]) for job in _JOBS
    ]
    # The next one begins as soon as the one before it is committed.
    saved = [next(stage["started"] for stage in one["stages"] if stage["stage"] == "publish") for one in members[:-1]]
    assert all(moment <= later["started"] for moment, later in zip(saved, members[1:], strict=True))


def test_its_manifest_is_here_and_beside_the_copies(house: House, made: dict[str, Any]) -> None:
    """It is a file of its own here, and an object at the bucket, last of all, that names no database and no host."""
    path = house.site.backups / ".backupd/groups" / f"{made['id']}.json"
    here = json.loads(path.read_text())
    assert path.stat().st_mode & 0o777 == 0o640
    assert (here["format"], here["group"], here["sent"]) == (1, "shop", ["cloud"])
    assert f"{made['id']}.json" in house.in_bucket()
    there = json.loads((house.bucket / f"{made['id']}.json").read_text())
    assert there == {**here, "sent": []}
    assert [member["places"] for member in there["members"]] == [["local", "cloud"]] * 2 + [
        ["local"],
        ["local", "cloud"],
    ]
    text = json.dumps(there)
    assert house.site.database not in text
    assert str(house.files) not in text


def test_it_is_listed_shown_and_in_the_status(house: House, made: dict[str, Any]) -> None:
    """People see the group where they see backups, with what to type."""
    listed = backupctl(house.site.socket, "list")
    assert made["id"] in listed.stdout
    own = backupctl(house.site.socket, "list", "shop").stdout
    assert all(member["backup"] in own for member in made["members"])
    shown = backupctl(house.site.socket, "show", made["id"])
    assert shown.returncode == 0, shown.stderr
    assert f"backupctl restore {made['id']} --dry-run" in shown.stdout
    assert "whole: everything of it can be restored" in shown.stdout
    run = backupctl(house.site.socket, "show", made["run"]).stdout
    assert all(job in run for job in _JOBS)
    status = backupctl(house.site.socket, "status").stdout
    assert "group shop" in status
    assert f"{made['id']}, whole" in status
    jobs = backupctl(house.site.socket, "jobs").stdout
    assert "nanumpay files ledger cache" in jobs
    group = house.group()
    assert (group["last_run"]["outcome"], group["newest_whole"]) == ("succeeded", made["id"])
    # The application's form says when: all of them are due with it.
    assert group["next_run"] is not None
    assert {house.site.job(name)["next_run"] for name in _JOBS} == {group["next_run"]}
    assert house.site.job("files")["group"] == "shop"


def test_it_comes_back_as_a_whole(house: House, made: dict[str, Any]) -> None:
    """All plans are shown before anything is done; then everything is as it was, also from the bucket where it is."""
    house.fill("second")
    refused = backupctl(house.site.socket, "restore", "shop", "latest", "--dry-run")
    assert refused.returncode != 0
    assert "--overwrite" in refused.stderr
    plan = backupctl(house.site.socket, "restore", "shop", "latest", "--dry-run", "--overwrite")
    assert plan.returncode == 0, plan.stderr
    assert [f"{at} of 4: {job}" in plan.stdout for at, job in enumerate(_JOBS, 1)] == [True] * 4
    assert "Nothing was done." in plan.stdout
    assert house.words() == ["second"] * 4
    done = backupctl(house.site.socket, "restore", "shop", "latest", "--overwrite", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 backups restored" in done.stdout
    assert house.words() == ["first"] * 4
    run = house.site.runs()[0]
    restored = next(one for one in house.site.runs() if one["action"] == "group-restore")
    assert (run["group"], restored["outcome"], len(restored["members"])) == (restored["id"], "succeeded", 4)
    assert made["id"] in backupctl(house.site.socket, "list").stdout


def test_only_a_part_of_it(house: House, made: dict[str, Any]) -> None:
    """--only-files brings the files back and leaves the databases alone; a place that lacks a copy is told."""
    house.fill("third")
    words = ("restore", made["id"], "--overwrite", "--yes", "--from", "cloud")
    done = backupctl(house.site.socket, *words, "--only-files")
    assert done.returncode == 0, done.stdout + done.stderr
    assert house.words() == ["third", "first", "third", "third"]
    refused = backupctl(house.site.socket, *words)
    assert refused.returncode == 6
    assert "has no copy at 'cloud'" in refused.stderr
    assert house.words() == ["third", "first", "third", "third"]
    begun = backupctl(house.site.socket, "run", "shop", "--only-files")
    assert begun.returncode == 0, begun.stderr
    assert "no group" in begun.stdout
    assert house.group()["newest"]["id"] == made["id"]
    only = next(one for one in house.site.runs() if one["action"] == "group")
    assert (len(only["members"]), only["backup"]) == (1, None)


def test_what_is_not_for_a_group_is_said(house: House, made: dict[str, Any]) -> None:
    """Options of one backup, the name alone, a name that there is not, and options of groups for one backup."""
    for words, text in (
        (("restore", made["id"], "--to", "/x", "--yes"), "--to is for one backup"),
        (("restore", "shop", "--yes"), "backupctl restore shop latest"),
        (("restore", "shops", "latest", "--yes"), "the groups are: shop"),
        (("restore", "latest", "--partial", "--yes"), "--partial is for a group"),
        (("run", "shop", "--kind", "incremental"), "leave out kind"),
        (("run", "shop", "--only-to", "cloud"), "leave out only_to"),
        (("show", "shop-group-2020-01-01T00-00-00"), "there is no group's backup"),
    ):
        refused = backupctl(house.site.socket, *words)
        assert refused.returncode in {2, 6, 7}, (words, refused.stdout, refused.stderr)
        assert text in refused.stderr, (words, refused.stderr)


def test_the_newest_whole_one_is_kept_and_what_gets_lost_is_told(house: House, made: dict[str, Any]) -> None:
    """A member that fails leaves a partial group; the whole one before it is pinned until there is another."""
    site = house.site
    before = [member["backup"] for member in made["members"]]
    assert all("newest whole group" in site.call("DescribeBackup", backup=name)["backup"]["pinned"] for name in before)
    with pytest.raises(BackupdError, match="pinned"):
        site.call("Delete", backup=before[1])
    house.ledger.rename(house.ledger.with_suffix(".away"))
    run = site.run("shop")
    house.ledger.with_suffix(".away").rename(house.ledger)
    assert run["outcome"] == "failed"
    assert "job ledger failed" in run["error"]["message"]
    partial = site.call("DescribeGroup", group=run["backup"])["group"]
    assert (partial["state"], [member["state"] for member in partial["members"]]) == (
        "partial",
        ["good", "good", "never", "good"],
    )
    group = house.group()
    assert (group["newest"]["id"], group["newest_whole"]) == (partial["id"], made["id"])
    assert site.status()["health"] == "failing"
    told = [text for text in site.status()["problems"] if "ledger" in text]
    assert any(text.startswith("group shop: the last run failed") for text in told)
    with pytest.raises(BackupdError, match=r"cannot be restored as a whole: ledger \(no backup was made\)"):
        site.call("RestoreGroup", group=partial["id"], dry_run=True, overwrite=True)
    plans = site.call("RestoreGroup", group=partial["id"], dry_run=True, overwrite=True, partial=True)["plans"]
    assert len(plans) == 3
    # By its name the newest that is whole is meant.
    meant = site.call("RestoreGroup", group="shop", dry_run=True, overwrite=True)
    assert meant["group"]["id"] == made["id"]
    assert all(site.call("DescribeBackup", backup=name)["backup"]["pinned"] for name in before)
    again = site.run("shop")
    assert again["outcome"] == "succeeded", again["error"]
    assert not any(site.call("DescribeBackup", backup=name)["backup"]["pinned"] for name in before)
    lost = site.call("Delete", backup=before[1], force=True)
    assert lost["deleted"]
    assert site.call("DescribeGroup", group=made["id"])["group"]["state"] == "partial"


def test_a_restore_begins_only_where_all_can_be_done(house: House) -> None:
    """One member whose plan cannot be made, here a ledger that is open, keeps all of them as they are."""
    house.fill("fourth")
    held = sqlite3.connect(house.ledger)
    held.execute("BEGIN EXCLUSIVE")
    try:
        done = backupctl(house.site.socket, "restore", "shop", "latest", "--overwrite", "--yes")
    finally:
        held.close()
    assert done.returncode != 0
    assert "is open in process" in done.stderr
    assert house.words() == ["fourth"] * 4


def test_a_restore_that_fails_says_what_was_done(house: House) -> None:
    """The members after the one that failed are not begun, and the last words name all three kinds."""
    site = house.site
    group = site.call("DescribeGroup", group=house.group()["newest_whole"])["group"]
    ledger = site.backups / f"{group['members'][2]['backup']}.tar.gz"
    good = ledger.read_bytes()
    ledger.write_bytes(good[:-9] + bytes(9))
    done = backupctl(site.socket, "restore", group["id"], "--overwrite", "--yes")
    ledger.write_bytes(good)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "job ledger was not restored" in done.stderr
    assert "restored before that: nanumpay, files" in done.stderr
    assert "not begun: cache" in done.stderr
    words = house.words()
    assert (words[0], words[1]) != ("fourth", "fourth")
    assert words[2:] == ["fourth", "fourth"]
    run = next(one for one in site.runs() if one["action"] == "group-restore")
    assert (run["outcome"], len(run["members"])) == ("failed", 3)


def test_a_member_that_is_running_is_waited_for_and_a_cancel_ends_all(house: House) -> None:
    """The group has a backup of its own run; cancelling it ends the member that is running, and begins no other."""
    site = house.site
    site.hold("nanumpay_backupd.pipeline.produce:preflight")
    other = site.begin("files")
    site.wait_held()
    group = site.begin("shop")
    wait_for(lambda: site.job("nanumpay")["running"] or site.job("nanumpay")["last_run"]["group"] == group, "the first")
    site.release()
    ended = house.ended(group)
    assert ended["outcome"] == "succeeded", ended
    files = [site.call("DescribeRun", run=name)["run"] for name in ended["members"]]
    assert next(run["id"] for run in files if run["job"] == "files") != other
    site.hold("nanumpay_backupd.pipeline.produce:preflight")
    begun = site.begin("shop")
    site.wait_held()
    cancelled = backupctl(site.socket, "cancel")
    assert begun in cancelled.stdout, cancelled.stderr
    site.release()
    ended = house.ended(begun)
    assert (ended["outcome"], ended["backup"], len(ended["members"])) == ("cancelled", None, 1)
    site.hold("nanumpay_backupd.pipeline.produce:preflight")
    site.begin("shop")
    site.wait_held()
    with pytest.raises(BackupdError, match="group shop is running already"):
        site.begin("shop")
    site.call("Cancel", run="shop")
    site.release()
    wait_for(lambda: house.group()["running"] is None, "the end")


def test_a_lost_catalog_learns_of_groups_again(house: House) -> None:
    """What is gone here is read anew from the bucket, where each manifest says that its copies have arrived."""
    site = house.site
    known = {one["id"] for one in site.call("ListBackups")["groups"]}
    shutil.rmtree(site.backups / ".backupd/groups")
    assert site.call("ListBackups")["groups"] == []
    site.call("RebuildCatalog")
    assert {one["id"] for one in site.call("ListBackups")["groups"]} == known


def test_a_lost_host_is_restored_from_the_bucket(house: House, tmp_path: Path) -> None:
    """Without a daemon or a catalog the bucket says which backups belong together, and brings them back at once."""
    site = house.site
    group = site.call("DescribeGroup", group=house.group()["newest_whole"])["group"]
    there = [member for member in group["members"] if "cloud" in member["copies"]]
    house.fill("lost")
    words = ("--config", str(site.config), "restore", "--from", "cloud")
    listed = _alone(*words, "--list", folder=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert f"{group['id']}  " in listed.stdout
    assert "  ledger: not at this place" in listed.stdout
    assert all(f"  {member['job']}: {member['backup']}" in listed.stdout for member in there)
    refused = _alone(*words, group["id"], "--overwrite", "--yes", folder=tmp_path)
    assert refused.returncode == 7
    assert "ledger (not at this place)" in refused.stderr
    done = _alone(*words, group["id"], "--overwrite", "--yes", "--partial", "--no-safety-backup", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "(nanumpay, files, cache)" in done.stdout
    assert [word == "lost" for word in house.words()] == [False, False, True, False]
    only = _alone(
        *words, "shop", "--only-files", "--overwrite", "--yes", "--no-safety-backup", "--dry-run", folder=tmp_path
    )
    assert "Nothing was done." in only.stdout, only.stderr


def test_without_a_daemon_the_same_is_made(house: House) -> None:
    """run-once makes the group too: backups of one run, its manifest here and at the bucket; --only-db makes none."""
    site = house.site
    site.stop()
    done = _alone("--config", str(site.config), "run-once", "shop", folder=site.folder)
    assert done.returncode == 0, done.stdout + done.stderr
    made = done.stdout.split()[-1]
    assert made.startswith("shop-group-")
    here = json.loads((site.backups / ".backupd/groups" / f"{made}.json").read_text())
    assert ([member["job"] for member in here["members"]], here["sent"]) == (_JOBS, ["cloud"])
    assert f"{made}.json" in house.in_bucket()
    only = _alone("--config", str(site.config), "run-once", "shop", "--only-files", folder=site.folder)
    assert only.returncode == 0, only.stderr
    assert "files-backup-" in only.stdout
    assert "nanumpay-backup-" not in only.stdout
    site.start()
    assert house.group()["newest_whole"] == made


def _alone(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the daemon's program as one without a daemon does."""
    return subprocess.run(
        [sys.executable, "-m", "nanumpay_backupd", *words],
        env={**os.environ, "PYTHONPATH": str(PROJECT), "TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_what_was_missed_is_caught_up_as_a_group(house: House) -> None:
    """A due time that passed while the daemon was away is made up for by one run of the whole group.

    A member that fails for a passing reason is made again within that run, and belongs to it.
    """
    site = house.site
    site.stop()
    house.configure('[retry]\nattempts = 1\ndelay = "1s"\nrun_delay = "1s"')
    plan_ago(site, 600, "shop")
    house.redis.stop()
    site.start()

    def failed() -> list[dict[str, Any]]:
        return [run for run in site.runs() if (run["job"], run.get("outcome")) == ("cache", "failed")]

    wait_for(failed, "a cache that cannot be reached")
    house.redis.start()
    house.redis.ask("SET", "word", "again")
    run = site.newest(trigger="catch-up")
    assert (run["job"], run["action"], run["outcome"]) == ("shop", "group", "succeeded")
    assert len(run["members"]) > len(_JOBS)
    assert site.call("DescribeGroup", group=run["backup"])["group"]["state"] == "whole"
    assert not any(one["trigger"] in {"schedule", "catch-up", "again"} for one in site.runs() if one["job"] in _JOBS)


def test_a_group_that_is_no_more(house: House) -> None:
    """Its jobs are due by themselves again, and what it made stays; a job that names it is told so."""
    site = house.site
    there = {one["id"] for one in site.call("ListBackups")["groups"]}
    house.configure(jobs='["files", "cache"]')
    site.call("Reload")
    assert house.group()["schedule"] == []
    assert site.job("nanumpay")["next_run"] is not None
    assert site.job("nanumpay")["group"] is None
    assert {one["id"] for one in site.call("ListBackups")["groups"]} == there
    with pytest.raises(BackupdError, match="there is no group 'shopp'"):
        site.call("RestoreGroup", group="shopp", dry_run=True)
