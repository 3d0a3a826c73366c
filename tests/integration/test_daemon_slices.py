"""Slices, proofs and objectives as the daemon keeps them by itself: real processes, servers, kills, rolled-over oplogs.

How slices are read and restored has tests of its own (`test_pitr`); so have the rules of what is due when (unit).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
import pytest

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import EXIT_BUSY, EXIT_FAILED, EXIT_NOT_FOUND, EXIT_OK, EXIT_REFUSED, EXIT_UNHEALTHY
from nanumpay_backupd.model import OpTime
from nanumpay_backupd.pipeline.inventory import backup_from_manifest
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.pipeline.publish import rewrite_manifest
from nanumpay_backupd.timeline import Base, Piece, Range, ranges
from tests.servers.daemon import Site, backup_settings, open_site, slow_mongodump, wait_for
from tests.servers.mongod import Mongod, find_mongod, start_mongod
from tests.servers.s3 import ACCESS_KEY, CACHE_SECONDS, SECRET_KEY, S3Server, start_s3
from tests.servers.tools import find_tool

pytestmark = pytest.mark.servers

PITR: Final = "pitr = '1s'"
Document = dict[str, Any]


class Dumps:
    """The site's mongodump, which waits at the end of a dump while it is held."""

    def __init__(self, site: Site) -> None:
        self.path = slow_mongodump(site)
        self._wait, self._waiting = (self.path.with_name(f"mongodump.{word}") for word in ("wait", "waiting"))

    def hold(self) -> None:
        """Make the next one wait."""
        self._waiting.unlink(missing_ok=True)
        self._wait.touch()

    def wait_held(self) -> None:
        """Wait until it waits."""
        wait_for(self._waiting.exists, "a mongodump that waits")

    def release(self) -> None:
        """Let it go on."""
        self._wait.unlink(missing_ok=True)


def backupctl(site: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run backupctl against the site's daemon, as a user would who is not at a terminal."""
    argv = [str(find_tool("backupctl")), "--socket", str(site.socket), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, env=site.environment(), timeout=120, check=False)


def protection(site: Site) -> Document:
    """Return what the status says of the job's protection."""
    return dict(site.job()["protection"])


def problems(site: Site) -> list[str]:
    """Return the problems in the status that concern how well the job is protected."""
    return [text for text in site.status()["problems"] if "storage.ftp" not in text]


def until(site: Site) -> datetime:
    """Return up to which moment everything can be restored."""
    return datetime.fromisoformat(protection(site)["recoverable_until"])


def follows(site: Site) -> None:
    """Wait until the changes are being saved."""
    wait_for(lambda: protection(site)["stream"] == "ok", f"slices that follow on: {protection(site)}")


def looked(site: Site, times: int = 1) -> None:
    """Wait until the daemon has looked for changes that often, from now on."""
    for _ in range(times):
        mark = until(site)
        wait_for(lambda mark=mark: until(site) > mark, "a look at the oplog")  # type: ignore[misc]


def slices(site: Site) -> list[Document]:
    """Return the slices on record, oldest first."""
    found = site.call("ListBackups", slices=True)["backups"]
    return [item for item in reversed(found) if item["kind"] in {"incremental", "differential"}]


def fulls(site: Site) -> list[Document]:
    """Return the fulls on record, oldest first."""
    return [item for item in reversed(site.list_backups()) if item["kind"] == "full"]


def slice_runs(site: Site) -> list[Document]:
    """Return the runs that made slices, or tried to, newest first."""
    runs = site.call("ListRuns", limit=1000, slices=True)["runs"]
    return [run for run in runs if run["action"] == "slice"]


def write(site: Site, name: str) -> None:
    """Write one document."""
    with site.db() as db:
        db.marks.insert_one({"_id": name})


def marks(site: Site, database: str = "") -> set[str]:
    """Return what was written so far, in the job's database or another one."""
    with site.db() as db:
        return {item["_id"] for item in db.client[database or site.database].marks.find()}


def saved(site: Site, name: str) -> Document:
    """Write one document and wait for the slice that holds it; returns that."""
    before = {item["id"] for item in slices(site)}
    write(site, name)

    def look() -> Document | None:
        new = [item for item in slices(site) if item["id"] not in before and item["state"] == "verified"]
        there = [copy["state"] in {"uploaded", "verified"} for item in new for copy in item["copies"]]
        return new[0] if new and all(there) else None

    return wait_for(look, f"the slice with {name}") or {}


def repaired(site: Site, count: int) -> Document:
    """Wait until so many fulls were made out of turn, all in all, and return the last of them."""

    def look() -> Document | None:
        runs = [run for run in site.runs() if run["trigger"] == "repair" and run.get("outcome")]
        return runs[0] if len(runs) == count else None

    run = wait_for(look, f"full number {count} that is made out of turn") or {}
    assert run["outcome"] == "succeeded"
    return next(item for item in fulls(site) if item["id"] == run["backup"])


def restored(site: Site, at: str, *more: str) -> set[str]:
    """Restore a moment into a database beside, as a user would, and return what was written by then."""
    beside = f"{site.database}_back"
    done = backupctl(site, "restore", "latest", "--at", at, "--to-db", beside, "--yes", *more)
    assert done.returncode == EXIT_OK, done.stderr + done.stdout
    try:
        return marks(site, beside)
    finally:
        with site.db() as db:
            db.client.drop_database(beside)


def way(site: Site, place: str = "local") -> list[Range]:
    """Work out from what lies at one place what can be restored from there."""
    bases, pieces = [], []
    for item in [*fulls(site), *slices(site)]:
        if any(copy["destination"] == place and copy["state"] in {"uploaded", "verified"} for copy in item["copies"]):
            good, end = item["state"] == "verified", OpTime.parse(item["end"])
            if item["kind"] == "full":
                bases.append(Base(item["id"], end, good))
            else:
                pieces.append(Piece(item["id"], OpTime.parse(item["start"]), end, good))
    return ranges(bases, pieces)


def text_of(moment: datetime) -> str:
    """Write a moment as a user may, in UTC."""
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def next_second() -> datetime:
    """Wait for the next whole second, in which nothing was written yet, and return the one that is over."""
    over = datetime.now(UTC).replace(microsecond=0)
    wait_for(lambda: datetime.now(UTC) >= over + timedelta(seconds=1), "the next second")
    return over


@contextlib.contextmanager
def prepared(server: Mongod, settings: Document | None = None) -> Iterator[Site]:
    """Open a site whose collection of marks is there already, so that each mark is one entry of the oplog."""
    with open_site(server, settings) as site:
        write(site, "first")
        yield site
        Dumps(site).release()
        site.release()
        assert "Traceback" not in site.log()
        assert "code=internal" not in site.log()


@pytest.fixture(scope="class")
def house(mongod_rs: Mongod) -> Iterator[Site]:
    """A site on the replica set whose changes are saved every second; its daemon runs and has made a first full."""
    with prepared(mongod_rs) as site:
        site.write_config(f"[nanumpay]\n{PITR}\n[tools]\nmongodump = '{Dumps(site).path}'")
        site.start()
        follows(site)
        yield site


class TestEverySecond:
    """A job whose changes are saved every second, while other things go on."""

    def test_the_first_full_is_made_by_itself_and_once(self, mongod_rs: Mongod) -> None:
        """Without any full the slices wait, one is made out of turn, the slices follow on, and no other is made."""
        with prepared(mongod_rs) as site:
            dumps = Dumps(site)
            site.write_config(f"[nanumpay]\n{PITR}\n[tools]\nmongodump = '{dumps.path}'")
            dumps.hold()
            site.start()
            dumps.wait_held()
            assert protection(site)["stream"] == "waiting"
            (problem,) = problems(site)
            assert "no verified full of one moment yet" in problem
            assert "one is made by itself" in problem
            assert "error" not in site.log(), "that there is no full yet is no fault"
            dumps.release()
            follows(site)
            assert problems(site) == []
            looked(site, 2)
            assert [(run["trigger"], run["outcome"]) for run in site.runs()] == [("repair", "succeeded")]
            assert [run["error"]["code"] for run in slice_runs(site)] == ["chain-missing"]

    def test_nothing_written_leaves_no_trace(self, house: Site) -> None:
        """While nothing is written the moment moves on without files, records or lines; a write makes a slice."""
        looked(house)
        files, runs, log = slices(house), slice_runs(house), house.log()
        looked(house, 3)
        assert slices(house) == files
        assert slice_runs(house) == runs
        made = saved(house, "written")
        assert made["documents"] == 1
        assert made["run"] in [run["id"] for run in slice_runs(house)]
        assert made["run"] not in [run["id"] for run in house.runs()]
        assert house.log() == log
        assert protection(house)["slices"] == len(files) + 1

    def test_a_moment_without_writes_can_be_restored(self, house: Site) -> None:
        """A second in which, and after which, nothing was written is restored as any other."""
        saved(house, "before the silence")
        next_second()
        quiet = next_second()
        assert "before the silence" in restored(house, text_of(quiet))

    def test_slices_go_on_beside_a_long_full(self, house: Site) -> None:
        """While a full takes its time slices are made; behind its moment they are the full's own; there is no gap."""
        dumps = Dumps(house)
        dumps.hold()
        run = house.begin()
        dumps.wait_held()
        during = saved(house, "during the dump")
        assert house.job()["running"] == run
        dumps.release()
        full = house.ended(run)
        assert full["outcome"] == "succeeded"
        after = saved(house, "after the dump")
        chains = [
            house.call("DescribeBackup", backup=item["id"])["backup"]["manifest"]["chain"] for item in (during, after)
        ]
        assert chains == [fulls(house)[0]["id"], full["backup"]]
        assert any(item["end"] == fulls(house)[-1]["end"] for item in slices(house)), "cut at the full's moment"
        (whole,) = way(house)
        assert len(whole.bases) == len(fulls(house))

    def test_one_lane_one_run(self, house: Site) -> None:
        """A second verification is busy (exit 5); a full and slices run beside the first; cancelling means that one."""
        house.hold("nanumpay_backupd.pipeline.recheck:sync_local")
        first = house.call("Verify", job="nanumpay")["run"]["id"]
        house.wait_held()
        busy = backupctl(house, "verify")
        assert busy.returncode == EXIT_BUSY, busy
        assert first in busy.stderr
        assert backupctl(house, "drill").returncode == EXIT_BUSY
        assert house.run()["outcome"] == "succeeded"
        saved(house, "beside a verification")
        house.hold("nanumpay_backupd.sources.oplog_slice:OplogReader.read")
        house.wait_held()
        assert house.call("Cancel")["run"]["id"] == first
        house.release()
        ended = wait_for(lambda: house.call("DescribeRun", run=first)["run"].get("outcome"), "the end")
        assert ended == "cancelled"

    def test_a_slice_by_hand_waits_for_the_scheduled_one(self, house: Site) -> None:
        """Asked for while one is taken by schedule it is not busy, but done after it, recorded, and exits with 0."""
        house.hold("nanumpay_backupd.sources.oplog_slice:OplogReader.read")
        house.wait_held()
        argv = [str(find_tool("backupctl")), "--socket", str(house.socket), "run", "--kind", "incremental", "--json"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, env=house.environment()) as asked:
            # It has asked as soon as it waits for the answer: there is no other way to see it from outside.
            time.sleep(1.0)
            write(house, "asked for")
            house.release()
            out, _ = asked.communicate(timeout=60)
        assert asked.returncode == EXIT_OK, out
        run = json.loads(out)["run"]
        assert run["trigger"] == "manual"
        assert run["id"] in [item["id"] for item in slice_runs(house)]
        assert "skipped" not in [item["outcome"] for item in slice_runs(house)]

    def test_a_killed_worker_and_a_restart_lose_nothing(self, house: Site) -> None:
        """SIGKILL of a scheduled slice's worker is told; after a restart the stream goes on where it was."""
        before = saved(house, "before the kill")
        house.hold("nanumpay_backupd.pipeline.slices:commit")
        write(house, "while it dies")
        house.wait_held()
        for worker in house.workers():
            os.kill(worker, signal.SIGKILL)
        house.release()
        wait_for(lambda: protection(house)["stream"] == "failing", "the fault in the status")
        (problem,) = problems(house)
        assert "the worker was killed by signal 9" in problem
        assert house.staged() == []
        assert house.stop() == EXIT_OK
        write(house, "while it is down")
        house.start()
        follows(house)
        looked(house)
        after = [item for item in slices(house) if item["created"] > before["created"]]
        assert after[0]["start"] == before["end"]
        assert sum(item["documents"] for item in after) == 2
        assert len(way(house)) == 1
        assert problems(house) == []
        assert "missed" not in house.log(), "a slice that was cut off is no backup to be caught up"

    def test_a_lost_catalog_costs_no_gap(self, house: Site) -> None:
        """With the catalog deleted and rebuilt the slices go on from the newest one, and every moment is there."""
        before = saved(house, "before the loss")
        assert house.stop() == EXIT_OK
        for path in house.state.glob("catalog.db*"):
            path.unlink()
        write(house, "without a catalog")
        house.start()
        done = backupctl(house, "rebuild")
        assert done.returncode == EXIT_OK, done.stderr
        follows(house)
        looked(house)
        after = [item for item in slices(house) if item["created"] > before["created"]]
        assert [item["start"] for item in after] == [before["end"]]
        (whole,) = way(house)
        assert len(whole.bases) == len(fulls(house))
        assert restored(house, "latest") == marks(house)
        assert [run["trigger"] for run in house.runs() if run["action"] == "backup"] == [], "no full was needed"


@pytest.fixture(scope="class")
def plain(mongod_rs: Mongod) -> Iterator[Site]:
    """A site on the replica set without any slices by schedule; its daemon runs and it has one full."""
    with prepared(mongod_rs) as site:
        site.start()
        assert site.run()["outcome"] == "succeeded"
        yield site


KILLS = [
    "nanumpay_backupd.sources.oplog_slice:OplogReader.read:after",
    "nanumpay_backupd.pipeline.publish:_settle",
    "nanumpay_backupd.pipeline.slices:commit:after",
    "nanumpay_backupd.pipeline.slices:prove_and_encrypt",
    "nanumpay_backupd.pipeline.slices:prove_and_encrypt:after",
]


class TestByHand:
    """A job whose changes are only saved when somebody asks for it."""

    def test_slices_by_hand(self, plain: Site) -> None:
        """Both kinds are watched, recorded and exit with 0, also when there is nothing new, which they say."""
        write(plain, "by hand")
        made = backupctl(plain, "run", "--kind", "incremental")
        assert made.returncode == EXIT_OK, made.stderr
        assert "1 oplog entry" in made.stdout
        nothing = backupctl(plain, "run", "--kind", "incremental")
        assert nothing.returncode == EXIT_OK, nothing.stderr
        assert "nothing new since" in nothing.stdout
        both = backupctl(plain, "run", "--kind", "differential")
        assert both.returncode == EXIT_OK, both.stderr
        assert "-diff-" in both.stdout
        runs = slice_runs(plain)[:3]
        assert [(run["trigger"], run["outcome"]) for run in runs] == [("manual", "succeeded")] * 3
        assert [bool(run["backup"]) for run in runs] == [True, False, True]
        assert protection(plain)["stream"] == "off"
        assert len(way(plain)) == 1

    def test_a_dropped_collection_comes_back_without_any_slices_by_schedule(self, plain: Site) -> None:
        """For a moment after the last full the daemon captures the changes first; what came later is not there."""
        write(plain, "to be kept")
        wanted = next_second()
        with plain.db() as db:
            db.drop_collection("marks")
        done = backupctl(plain, "restore", "latest", "--at", text_of(wanted), "--yes")
        assert done.returncode == EXIT_OK, done.stderr + done.stdout
        assert "to be kept" in marks(plain)

    def test_moments_that_cannot_be_restored_are_refused(self, plain: Site) -> None:
        """Before the first full: not found, with the range. In the future: refused. Nothing is changed or begun."""
        before, runs = marks(plain), plain.runs()
        first = datetime.fromisoformat(plain.call("Timeline")["ranges"][0]["first"])
        early = backupctl(plain, "restore", "latest", "--at", text_of(first - timedelta(seconds=1)), "--yes")
        assert early.returncode == EXIT_NOT_FOUND, early
        assert "before the first backup" in early.stderr
        assert f"{first:%Y-%m-%d %H:%M:%S} to " in early.stderr
        late = backupctl(plain, "restore", "latest", "--at", text_of(datetime.now(UTC) + timedelta(hours=1)), "--yes")
        assert late.returncode == EXIT_REFUSED, late
        assert "in the future" in late.stderr
        assert marks(plain) == before
        assert plain.runs() == runs

    @pytest.mark.parametrize("point", KILLS)
    def test_a_slice_is_whole_or_not_there(self, plain: Site, point: str) -> None:
        """Killed wherever it is, it leaves nothing half done: after the next one all changes are in proven slices."""
        plain.hold(point)
        write(plain, point)
        run = plain.begin(kind="incremental")
        plain.wait_held()
        for worker in plain.workers():
            os.kill(worker, signal.SIGKILL)
        plain.release()
        wait_for(
            lambda: plain.call("DescribeRun", run=run)["run"].get("outcome") == "interrupted", "the end of the run"
        )
        wait_for(lambda: not plain.staged(), "an empty staging folder")
        assert plain.run(kind="incremental")["outcome"] == "succeeded"
        assert {item["state"] for item in slices(plain)} == {"verified"}
        assert len(way(plain)) == 1
        ends = [(item["start"], item["end"]) for item in slices(plain) if item["kind"] == "incremental"]
        assert all(one[1] == other[0] for one, other in itertools.pairwise(ends)), "they touch and do not overlap"
        if point == KILLS[-1]:
            assert restored(plain, "latest") == marks(plain)


@pytest.fixture(scope="class")
def rough() -> Iterator[Site]:
    """A site on a server of its own that promises three seconds, with its changes saved every second."""
    with start_mongod(replica_set=True) as server, prepared(server) as site:
        site.write_config(
            f"[nanumpay]\n{PITR}\nrpo = '3s'\n[tools]\nmongodump = '{Dumps(site).path}'",
            mongodb="connect_timeout = '500ms'",
        )
        site.start()
        follows(site)
        yield site


@pytest.fixture(scope="class")
def aside(rough: Site) -> Iterator[Site]:
    """A site on the same server without slices by schedule, with one full."""
    assert isinstance(rough.server, Mongod)
    with prepared(rough.server) as site:
        site.start()
        assert site.run()["outcome"] == "succeeded"
        yield site


class TestTroubledServer:
    """A server that is stopped, and whose oplog rolls over."""

    def test_the_rpo_is_missed_while_the_server_is_down(self, rough: Site) -> None:
        """With the server running it is kept, also without writes; stopped it is missed, and status says why."""
        server = rough.server
        assert isinstance(server, Mongod)
        wait_for(lambda: protection(rough)["rpo_kept"], "a kept RPO")
        server.kill()
        wait_for(lambda: protection(rough)["rpo_kept"] is False, "a missed RPO")
        wait_for(lambda: protection(rough)["stream"] == "failing", "the fault of the slices")
        told = "\n".join(problems(rough))
        assert "the RPO of 3s is missed: nothing after" in told
        assert f"the changes are not being saved: MongoDB at {server.address} cannot be reached" in told
        server.start()
        server.wait_writable()
        follows(rough)
        wait_for(lambda: protection(rough)["rpo_kept"], "a kept RPO")
        saved(rough, "after the outage")
        assert problems(rough) == []
        assert len(way(rough)) == 1

    @pytest.mark.promise("An oplog that rolled over or was lost is a gap that is told, and a new full follows.", item=7)
    def test_an_oplog_that_rolled_over_is_a_gap_and_a_new_full(self, rough: Site, aside: Site) -> None:
        """Told and mended by itself: one full out of turn, slices from there on, a gap that is not restored."""
        server, dumps = rough.server, Dumps(rough)
        assert isinstance(server, Mongod)
        saved(rough, "before the gap")
        log = rough.log()
        rough.signal(signal.SIGSTOP)
        wait_for(lambda: not rough.workers(), "the end of a slice that is under way")
        next_second()  # of the second in which a range ends, what was captured of it can be restored
        write(rough, "lost")
        lost = next_second()
        server.forget_oplog()
        write(rough, "after the oplog was lost")
        dumps.hold()
        rough.signal(signal.SIGCONT)
        dumps.wait_held()
        assert protection(rough)["stream"] == "broken"
        told = "\n".join(problems(rough))
        assert "the changes are not being saved: the oplog rolled over before it was read" in told
        assert "a new full is made by itself" in told
        dumps.release()
        follows(rough)
        wait_for(lambda: problems(rough) == [], "no problem any more")
        saved(rough, "after the gap")
        assert [run["trigger"] for run in rough.runs()] == ["repair"] * 2, "the first full of all, and this one"
        new = rough.log().removeprefix(log)
        assert new.count("code=chain-broken") == 1
        assert "the slices begin anew" in new
        shown = rough.call("Timeline")
        (gap,) = shown["gaps"]
        assert datetime.fromisoformat(gap["after"]) < lost < datetime.fromisoformat(gap["before"])
        refused = backupctl(rough, "restore", "latest", "--at", text_of(lost), "--yes")
        assert refused.returncode == EXIT_NOT_FOUND, refused
        assert "it lies in a gap" in refused.stderr
        assert len(shown["ranges"]) == 2
        assert all(
            f"{datetime.fromisoformat(item['first']):%Y-%m-%d %H:%M:%S}" in refused.stderr for item in shown["ranges"]
        )
        assert restored(rough, "latest") == marks(rough)
        # Of a job that promised no slices a mere question makes no new full; it is told what cannot be done, and why.
        late = backupctl(aside, "restore", "latest", "--at", text_of(next_second()), "--dry-run")
        assert late.returncode == EXIT_NOT_FOUND, late
        assert "could not be captured up to now: the oplog rolled over" in late.stderr
        assert [run["trigger"] for run in aside.runs()] == ["manual"]


@pytest.fixture(scope="class")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server."""
    with start_s3(tmp_path_factory.mktemp("cloud")) as server:
        yield server


@pytest.fixture(scope="class")
def away(mongod_rs: Mongod, bucket: S3Server) -> Iterator[Site]:
    """A site that keeps two fulls, here and at S3, and saves its changes every second; its daemon runs."""
    key = f"access_key_id = '{ACCESS_KEY}'\nsecret_access_key = '{SECRET_KEY}'"
    cloud = f"bucket = '{bucket.bucket}'\nendpoint_url = '{bucket.endpoint}'\npath_style = true\n{key}"
    with prepared(mongod_rs, backup_settings(retention={"count": 2})) as site:
        site.write_config(f"[nanumpay]\n{PITR}\ndestinations = ['cloud']\n[destination.cloud]\ntype = 's3'\n{cloud}")
        site.start()
        follows(site)
        yield site


def objects(bucket: S3Server) -> set[str]:
    """Return the names of all artifacts at S3."""
    return {path.name for path in (bucket.root / bucket.bucket).rglob("*") if path.suffix in {".gz", ".zst"}}


class TestTwoPlaces:
    """Copies here and at S3: pruned together, damaged together."""

    def test_slices_go_with_the_fulls_that_need_them(self, away: Site, bucket: S3Server) -> None:
        """At both places slices before the oldest kept full go with the older fulls; prune says why each one stays."""
        early = saved(away, "in the chain of the first full")
        assert away.run()["outcome"] == "succeeded"
        kept = saved(away, "in the chain of the second")
        assert away.run()["outcome"] == "succeeded"
        saved(away, "in the chain of the third")
        assert len(fulls(away)) == 2
        there = {item["id"]: item["artifact"] for item in [*slices(away), *fulls(away)]}
        assert early["id"] not in there
        assert kept["id"] in there
        assert objects(bucket) == set(there.values())
        assert {path.name for path in (away.backups / "slices").iterdir()} == {
            item["artifact"] for item in slices(away)
        }
        for place in ("local", "cloud"):
            (whole,) = way(away, place)
            assert list(whole.bases) == [item["id"] for item in fulls(away)]
        told = backupctl(away, "prune")
        assert told.returncode == EXIT_OK, told.stderr
        lines = [line for line in told.stdout.splitlines() if line.startswith("nanumpay-")]
        assert len(lines) == 2 * len(there)
        assert all("it leads on from a full" in line for line in lines if "-slice-" in line)
        assert "Nothing is to be deleted." in told.stdout

    @pytest.mark.promise("Damage of one copy costs no other one, and no restore takes it for good.", item=5)
    def test_a_damaged_full_costs_nothing_but_a_longer_replay(self, away: Site, bucket: S3Server) -> None:
        """Found by verify at both places: marked, the older one pinned, a full made; every moment is still restored."""
        while len(fulls(away)) < 2:
            saved(away, f"for full number {len(fulls(away)) + 1}")
            assert away.run()["outcome"] == "succeeded"
        older, damaged = fulls(away)
        saved(away, "after the damaged full")
        wanted = next_second()
        saved(away, "after the wanted moment")
        (there,) = (bucket.root / bucket.bucket).rglob(damaged["artifact"])
        for path in (away.backups / damaged["artifact"], there):
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
        time.sleep(2 * CACHE_SECONDS)
        done = backupctl(away, "verify")
        assert done.returncode == EXIT_FAILED, done
        for place in ("local", "cloud"):
            assert f"the copy of {damaged['id']} at {place} is corrupt" in done.stdout + done.stderr
        new = repaired(away, 2)  # the first full of all was one, too
        by_name = {item["id"]: item for item in fulls(away)}
        assert by_name[damaged["id"]]["state"] == "corrupt"
        assert [copy["state"] for copy in by_name[damaged["id"]]["copies"]] == ["corrupt", "corrupt"]
        assert damaged["id"] in by_name[older["id"]]["pinned"]
        assert new["state"] == "verified"
        assert "corrupt" in backupctl(away, "list").stdout
        saved(away, "after the new full")  # only a slice that reaches behind a full joins it to those before
        for place in ("local", "cloud"):
            (whole,) = way(away, place)
            assert list(whole.bases) == [older["id"], new["id"]]
        assert away.call("Timeline")["gaps"] == []
        plan = backupctl(away, "restore", "latest", "--at", text_of(wanted), "--dry-run", "--json")
        assert json.loads(plan.stdout)["plan"]["backup"] == older["id"]
        assert restored(away, text_of(wanted)) == marks(away) - {"after the wanted moment", "after the new full"}


def test_a_drill_and_a_full_do_not_wait_for_each_other(mongod_rs: Mongod) -> None:
    """At one due time a full is made beside a drill that is under way, and the drill that is due comes after that."""
    with prepared(mongod_rs, backup_settings(time="05:30")) as site:
        drill = f"drill = '30 5 * * *'\nrto = '1h'\n[tools]\nmongod = '{find_mongod()}'"
        site.write_config(f"[nanumpay]\n{drill}", top="timezone = 'UTC'")
        site.start()
        assert site.run()["outcome"] == "succeeded"
        for margin in (4, 12, 36):
            # Its clock says some seconds before 05:30; a machine so busy that the start takes longer gets another try.
            due = datetime.fromisoformat(site.job()["next_run"])
            site.stop()
            site.hold("nanumpay_backupd.pipeline.drilling:sync_local")
            site.start(clock=(due - datetime.now(UTC)).total_seconds() - margin)
            first = site.call("Drill", job="nanumpay")["run"]["id"]
            site.wait_held()
            if site.status()["now"] < text_of(due):
                break
            site.release()
        full = site.newest(trigger="schedule")
        assert (full["action"], full["outcome"]) == ("backup", "succeeded")
        assert [run["id"] for run in site.runs() if run["action"] == "drill"] == [first]
        site.release()
        drills = wait_for(lambda: done if len(done := ended_drills(site)) == 2 else [], "both drills")
        assert [(run["trigger"], run["outcome"]) for run in drills] == [
            ("schedule", "succeeded"),
            ("manual", "succeeded"),
        ]
        shown = protection(site)
        assert shown["last_drill"]["id"] == drills[0]["id"]
        assert shown["restore_seconds"] > 0
        assert shown["rto_kept"] is True
        assert "skipped" not in [run["outcome"] for run in site.runs()]
        a_failing_drill_leads_to_a_new_full(site)


def ended_drills(site: Site) -> list[Document]:
    """Return the drills that have ended, newest first."""
    return [run for run in site.runs() if run["action"] == "drill" and run.get("outcome")]


def a_failing_drill_leads_to_a_new_full(site: Site) -> None:
    """What can be read but not restored as it was is marked, status fails, and a full is made out of turn."""
    wrong = fulls(site)[-1]["id"]
    with Catalog(site.state / "catalog.db") as records:
        backup = records.backup(wrong)
        assert backup is not None
        assert backup.manifest is not None
        source = backup.manifest.source
        stats = tuple(msgspec.structs.replace(item, indexes=item.indexes + 1) for item in source.collections)
        source = msgspec.structs.replace(source, collections=stats)
        manifest = msgspec.structs.replace(backup.manifest, source=source)
        rewrite_manifest(Layout(site.backups), manifest)
        records.save_backup(backup_from_manifest(manifest))
    done = backupctl(site, "drill")
    assert done.returncode == EXIT_FAILED, done
    assert "is not what was dumped" in done.stderr
    assert repaired(site, 1)["state"] == "verified"
    assert {item["id"]: item["state"] for item in fulls(site)}[wrong] == "corrupt"
    status = backupctl(site, "status")
    assert status.returncode == EXIT_UNHEALTHY
    assert "the last drill failed" in status.stdout


def test_a_standalone_server_is_one_problem_and_no_flood(mongod_standalone: Mongod) -> None:
    """Where there is no oplog the status says so, with what to do, and nothing is tried over and over."""
    with prepared(mongod_standalone) as site:
        site.write_config(f"[nanumpay]\n{PITR}")
        site.start()
        wait_for(lambda: protection(site)["problem"], "the problem")
        assert site.run()["outcome"] == "succeeded"
        # Nothing is to happen now, so there is nothing to wait for; at one slice each second there would be three.
        time.sleep(3.0)
        (problem,) = problems(site)
        assert "the changes are not being saved" in problem
        assert "is a standalone server, which keeps no record of its changes" in problem
        assert "make it a replica set of one node" in problem
        assert protection(site)["stream"] == "failing"
        assert [run["error"]["code"] for run in slice_runs(site)] == ["no-oplog"]
        assert site.log().count("no-oplog") == 1
        assert [run["trigger"] for run in site.runs()] == ["manual"]
