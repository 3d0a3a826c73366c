"""The daemon as a process on a real mongod: readiness, what systemd is told, settings, reload, who may do what."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nanumpay_backupd.control.client import RemoteError
from nanumpay_backupd.errors import EXIT_BUSY, EXIT_FAILED, EXIT_OK, EXIT_REFUSED
from tests.servers.daemon import Site, as_user, backup_settings, catalog, open_site, plan_ago, wait_for
from tests.servers.mongod import Mongod
from tests.servers.process import free_port
from tests.servers.tools import find_tool

pytestmark = pytest.mark.servers


@pytest.fixture
def site(mongod_rs: Mongod) -> Iterator[Site]:
    """A site on the replica set, not started."""
    with open_site(mongod_rs) as site:
        yield site


@pytest.fixture(scope="module")
def shared(mongod_rs: Mongod) -> Iterator[Site]:
    """A site whose daemon runs for the whole module and has two backups; its tests leave at least those."""
    with open_site(mongod_rs) as site:
        site.write_config("[control]\ngroup = 'nogroup'")
        site.start()
        assert [site.run()["outcome"] for _ in range(2)] == ["succeeded", "succeeded"]
        yield site


def problems(site: Site) -> str:
    """Return the problems in the status as one text."""
    return "\n".join(site.status()["problems"])


def backupctl(site: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run backupctl against the site's daemon."""
    argv = [str(find_tool("backupctl")), "--socket", str(site.socket), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, env=site.environment(), timeout=60)


class TestReadiness:
    """READY means: settings are loaded, the socket answers."""

    def test_ready_means_loaded_and_answering(self, site: Site) -> None:
        """At the moment of READY the socket answers, and with the settings in force."""
        site.start()
        status = site.status()
        assert status["settings"]["origin"] == "database"
        assert status["jobs"][0]["next_run"]
        assert site.notify.keys() == ["READY"]
        assert status["pid"] == site.process.pid  # type: ignore[union-attr]

    def test_not_ready_while_nothing_is_known(self, site: Site) -> None:
        """Before the first word from MongoDB the socket answers already, but READY is not said, not even by SIGHUP."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            site.uri = f"mongodb://127.0.0.1:{silent.getsockname()[1]}/x"
            site.write_config(mongodb="connect_timeout = '5m'")
            site.start(ready=False)
            wait_for(site.socket.exists, "the socket")
            assert site.status()["settings"]["mode"] == "connecting"
            site.signal(signal.SIGHUP)
            wait_for(lambda: "configuration reloaded" in site.log(), "the reload")
            assert site.notify.keys() == []
            assert site.stop() == EXIT_OK
        assert site.notify.keys() == ["STOPPING"]

    def test_doctor_waits_for_the_first_connection(self, site: Site) -> None:
        """Ready with the settings of before, MongoDB is not reached yet: that is no fault to doctor."""
        site.start()
        site.stop()
        site.start()
        checks = {check["name"]: check["state"] for check in site.call("Doctor")["checks"]}
        assert checks["settings"] == "ok"

    @pytest.mark.promise("A daemon that hangs is ended by its watchdog; one that works feeds it.", item=10)
    def test_watchdog_is_fed(self, site: Site) -> None:
        """With WATCHDOG_USEC beats come, also while a run is going on; the status line says which stage that is in."""
        site.start(environment={"WATCHDOG_USEC": "200000"})
        site.hold("nanumpay_backupd.pipeline.proving:prove")
        run = site.begin()
        site.wait_held()
        wait_for(lambda: site.notify.status.startswith("nanumpay is running (verify)"), "the stage in the status line")
        beats = site.notify.count("WATCHDOG")
        site.notify.wait_for("WATCHDOG", beats + 3)
        site.release()
        assert site.ended(run)["outcome"] == "succeeded"

    def test_no_watchdog_unasked(self, shared: Site) -> None:
        """Without WATCHDOG_USEC nobody is bothered with beats."""
        assert shared.notify.count("WATCHDOG") == 0

    def test_status_line(self, site: Site) -> None:
        """The line in systemctl status tells the next backup in the configured zone and how the last one went."""
        site.write_config(top="timezone = 'Asia/Seoul'")
        site.start()
        wait_for(lambda: site.notify.status == "next backup 02:00 KST", "the status line")
        site.run()
        last = r"next backup 02:00 KST, last one succeeded \d+(\.\d+)? k?B in \d+\.\d s"
        wait_for(lambda: re.fullmatch(last, site.notify.status), "the status line after a run")
        assert site.job()["timezone"] == "Asia/Seoul"
        assert datetime.fromisoformat(site.job()["next_run"]).astimezone(UTC).hour == 17
        site.stop()
        site.start()
        wait_for(lambda: re.fullmatch(last, site.notify.status), "the same line after a restart")

    def test_defect_ends_with_failure(self, site: Site) -> None:
        """When a part of the daemon breaks down the daemon ends with an exit code that makes systemd start it anew."""
        site.start(environment={"NANUMPAY_TEST_DEFECT": "1"}, ready=False)
        assert site.process is not None
        assert site.process.wait(60) == EXIT_FAILED
        assert "the scheduler stopped by a defect" in site.log()

    def test_unusable_state_folder(self, site: Site) -> None:
        """A state folder that cannot be is a sentence with a hint, not a traceback."""
        site.state = site.log_file / "state"
        site.write_config()
        site.start(ready=False)
        assert site.process is not None
        assert site.process.wait(60) == EXIT_FAILED
        assert f"the state folder {site.state} cannot be used: Not a directory" in site.log()
        assert "Traceback" not in site.log()


@pytest.mark.promise(
    "Two daemons never work on the same folders: the second one refuses and says who holds them.", item=9
)
class TestOneDaemon:
    """One daemon per state folder and per socket."""

    @pytest.mark.parametrize(
        "same, words",
        [
            ("state", "the state folder {site.state} is in use by process {pid}"),
            ("socket", "another daemon is running"),
        ],
    )
    def test_second_daemon_refuses(self, shared: Site, mongod_rs: Mongod, same: str, words: str) -> None:
        """A second daemon on the same state folder or socket ends as busy and says who is there; the first stays."""
        assert shared.process is not None
        with open_site(mongod_rs) as second:
            setattr(second, same, getattr(shared, same))
            second.write_config()
            second.start(ready=False)
            assert second.process is not None
            assert second.process.wait(60) == EXIT_BUSY
            assert words.format(site=shared, pid=shared.process.pid) in second.log()
            assert "Traceback" not in second.log()
        assert shared.status()["pid"] == shared.process.pid


@pytest.mark.promise("Without MongoDB the schedule and the last good settings go on; it comes back by itself.", item=7)
class TestWithoutMongoDB:
    """The daemon starts and stays up without MongoDB, says so, and recovers by itself."""

    def test_outages(self, tmp_path: Path) -> None:
        """Down at a fresh start, up, down again, down at a restart, up again: always READY, always right."""
        server = Mongod(tmp_path / "db", port=free_port())
        with open_site(server, fill=False) as site:
            site.write_config(mongodb="connect_timeout = '500ms'")
            site.start()
            wait_for(lambda: f"MongoDB at {server.address}" in site.notify.status, "the reason in the status line")
            assert site.status()["health"] == "failing"
            assert site.job()["next_run"] is None
            assert "does not run by itself until this is mended" in problems(site)
            try:
                server.start()
                site.fill(backup_settings(time="04:10"))
                wait_for(lambda: site.job()["next_run"], "a plan once MongoDB is there")
                assert site.status()["settings"]["mode"] == "polling"
                assert not site.status()["settings"].get("problem")
                wait_for(lambda: site.notify.status == "next backup 04:10 UTC", "a status line without the problem")

                plan = site.job()["next_run"]
                server.kill()
                wait_for(lambda: not site.status()["settings"]["connected"], "the outage")
                assert "the last good settings stay in force" in problems(site)
                assert site.job()["next_run"] == plan
                assert site.status()["health"] == "warning"

                assert site.stop() == EXIT_OK
                plan_ago(site, 7200)
                site.start()
                assert site.status()["settings"]["origin"] == "cache"
                # Missed while down, but there is nothing to back up from yet: it is not wasted on that.
                assert site.job()["next_run"] < site.status()["now"]
                wait_for(lambda: site.log().count("does not answer") == 3, "a line about each of the three outages")
                assert site.runs() == []

                server.start()
                assert site.newest(trigger="catch-up")["outcome"] == "succeeded"
                assert site.status()["settings"]["origin"] == "database"
                assert site.log().count("does not answer") == 3, "told once each, not at every attempt"
            finally:
                server.kill()


class TestSettings:
    """What is saved in the application is in force at once; what is wrong is told and changes nothing."""

    def test_change_replaces_the_plan(self, site: Site, record_property: Callable[[str, object], None]) -> None:
        """A saved time is the next run in the status without anything else being done."""
        site.start()
        assert site.status()["settings"]["mode"] == "change-stream"
        for time_of_day in ("05:17", "06:18", "07:19"):
            site.save(backup_settings(time=time_of_day))
            began = time.monotonic()
            while f"T{time_of_day}:00Z" not in site.job()["next_run"]:
                assert time.monotonic() - began < 60
            record_property("settings_to_status_ms", round((time.monotonic() - began) * 1000))
        assert site.runs() == []

    def test_polling_on_a_standalone_server(self, mongod_standalone: Mongod) -> None:
        """Where there are no change streams the settings are polled, the status says so, and a change is noticed."""
        with open_site(mongod_standalone) as site:
            site.start()
            assert site.status()["settings"]["mode"] == "polling"
            assert "standalone" in site.status()["settings"]["server"]
            site.save(backup_settings(time="05:17"))
            wait_for(lambda: "T05:17:00Z" in site.job()["next_run"], "the new plan")
            assert site.run()["outcome"] == "succeeded"

    def test_disabled_stops_the_plan(self, site: Site) -> None:
        """``enabled: false`` takes the plan away and refuses a run that nobody insists on; true brings it back."""
        site.start()
        site.save(backup_settings(enabled=False))
        wait_for(lambda: site.job()["next_run"] is None, "no plan")
        wait_for(lambda: site.notify.status.startswith("no backup is planned"), "the status line")
        with pytest.raises(RemoteError) as refused:
            site.run()
        assert refused.value.code == "job-disabled"
        assert site.run(force=True)["outcome"] == "succeeded"
        site.save(backup_settings())
        wait_for(lambda: site.job()["next_run"], "the plan")

    @pytest.mark.promise(
        "Without MongoDB the schedule and the last good settings go on; it comes back by itself.", item=7
    )
    def test_bad_document_keeps_the_last_good(self, site: Site) -> None:
        """A document that cannot be used leaves the plan; path, reason and fix are in the status until it is mended."""
        site.start()
        plan = site.job()["next_run"]
        site.save(backup_settings(time="25:00"))
        problem = wait_for(lambda: site.status()["settings"].get("problem"), "the problem")
        assert problem is not None
        assert "systemSettings.backup.time" in problem["message"]
        assert "25:00" in problem["message"]
        assert "the last good settings stay in force" in problem["message"]
        assert "and save" in problem["hint"]
        assert site.job()["next_run"] == plan
        assert problem["message"] in problems(site)
        assert problem["message"] in site.notify.status
        assert site.log().count("systemSettings.backup.time") == 1
        with site.db() as db:
            db.admins.delete_many({})
        wait_for(lambda: "no document" in problems(site), "the news that the document vanished")
        assert site.job()["next_run"] == plan
        site.save(backup_settings(time="03:03"))
        wait_for(lambda: "T03:03:00Z" in site.job()["next_run"], "the mended settings")
        assert not site.status()["settings"].get("problem")

    def test_differing_administrators_warn(self, site: Site) -> None:
        """Two administrators with different settings: those of the lowest _id are in force, and the status says so."""
        site.save(backup_settings(time="09:09"), login_id="second")
        site.start()
        assert "T02:00:00Z" in site.job()["next_run"]
        (warning,) = [text for text in site.job()["warnings"] if "differ" in text]
        assert "second" in warning
        assert warning in problems(site)

    def test_catalog_that_cannot_keep_the_plan(self, site: Site) -> None:
        """Where the plan cannot be written down it is in force all the same, and the daemon stays up."""
        site.start()
        with catalog(site) as db:
            db.execute("DROP TABLE plans")
        site.save(backup_settings(time="05:17"))
        wait_for(lambda: "T05:17:00Z" in (site.job()["next_run"] or ""), "the new plan")
        assert "the plan of job nanumpay cannot be saved" in site.log()


class TestReload:
    """SIGHUP and the method Reload read the host file again."""

    def test_sighup(self, site: Site) -> None:
        """SIGHUP: RELOADING with the time, the new configuration, READY; what must wait for a restart is told.

        Rules of how long to keep are in force for each place.
        """
        site.start()
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        site.write_config("[[job]]\nname = 'extra'\nschedule = '30 3 * * *'")
        site.signal(signal.SIGHUP)
        site.notify.wait_for("READY", 2)
        reloading = site.notify.wait_for("RELOADING")
        assert before <= int(reloading["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        assert site.notify.keys() == ["READY", "RELOADING", "READY"]
        assert "T03:30:00Z" in site.job("extra")["next_run"]
        site.write_config(
            "[nanumpay.retention]\nkeep_all_for_days = 7\nkeep_monthly_for_months = 4\n"
            "[destination.local.retention]\ncount = 3\nmax_total_size = '5GB'\n"
            f"[nanumpay]\ndestinations = ['usb']\n[destination.usb]\ntype = 'local'\npath = '{site.folder}/usb'"
        )
        assert site.call("Reload")["message"] == f"reloaded {site.config}"
        (job,) = site.status()["jobs"]
        assert job["name"] == "nanumpay"
        assert [(held["destination"], held["rule"]) for held in job["retention"]] == [
            ("local", "3, at most 30 days; at most 5.00 GB"),
            ("usb", "all of 7 days, then one a month for 4 months"),
        ]
        running = site.status()["backups_path"]
        site.backups = site.folder / "elsewhere"
        site.write_config("[control]\ngroup = 'nogroup'")
        message = site.call("Reload")["message"]
        assert "what changed in [paths] and [control] group waits for: systemctl restart" in message
        assert site.status()["backups_path"] == running

    def test_refused_reload_changes_nothing(self, site: Site) -> None:
        """A host file with a mistake keeps what is running; path, reason and fix are told until it is right."""
        site.write_config("[[job]]\nname = 'extra'\nschedule = '30 3 * * *'")
        site.start()
        jobs = site.status()["jobs"]
        site.write_config("[control]\ngruop = 'adm'")
        with pytest.raises(RemoteError, match=r"control\.gruop") as refused:
            site.call("Reload")
        assert refused.value.code == "config-invalid"
        assert "did you mean control.group?" in refused.value.hint
        site.signal(signal.SIGHUP)
        site.notify.wait_for("READY", 3)
        assert site.status()["jobs"] == jobs
        assert "the last reload was refused" in problems(site)
        assert "control.gruop" in problems(site)
        assert "did you mean control.group?" in problems(site)
        site.write_config()
        site.call("Reload")
        assert "reload" not in problems(site)


class TestAccess:
    """The socket's group looks and runs; deleting is for root, the service's user and the admin group."""

    def test_member_of_the_group(self, shared: Site) -> None:
        """A user of the group sees all and starts runs, but deletes, unpins, accepts, reloads and rebuilds nothing."""
        backup = shared.list_backups()[-1]["id"]
        calls = [
            ("GetStatus", {}),
            ("GetSettings", {}),
            ("ListBackups", {}),
            ("Prune", {}),
            ("Delete", {"backup": backup}),
            ("Prune", {"apply": True}),
            ("Unpin", {"backup": backup}),
            ("AcceptBackup", {"backup": backup}),
            ("Reload", {}),
            ("RebuildCatalog", {}),
            ("Run", {"job": "nanumpay"}),
        ]
        answers = as_user(shared, "nobody", "nogroup", calls)
        assert [answer.get("code") for answer in answers] == [*[None] * 4, *["not-allowed"] * 6, None]
        assert answers[4]["exit_code"] == 7
        assert "use sudo" in answers[4]["hint"]
        assert shared.ended(answers[-1]["run"]["id"])["outcome"] == "succeeded"
        assert backup in [item["id"] for item in shared.list_backups()]

    def test_stranger(self, shared: Site) -> None:
        """A user outside of the group does not even get a connection, and is told which group would help."""
        (answer,) = as_user(shared, "daemon", "daemon", [("GetStatus", {})])
        assert answer["code"] == "permission-denied"
        assert "nogroup" in answer["hint"]


class TestRuns:
    """One run per job at a time; deleting and pruning never take the last good one."""

    @pytest.mark.promise(
        "Two backups of one second, a prune during a run, one run during another: nothing is lost by it.",
        item=6,
    )
    def test_overlap_is_skipped(self, shared: Site) -> None:
        """A second run of a job is refused as busy, recorded as skipped, and backupctl ends with 5."""
        shared.hold("nanumpay_backupd.pipeline.backup:produce")
        first = shared.begin()
        shared.wait_held()
        with pytest.raises(RemoteError) as busy:
            shared.run()
        done = backupctl(shared, "run", "nanumpay")
        shared.release()
        assert busy.value.exit_code == EXIT_BUSY
        assert first in busy.value.message
        assert done.returncode == EXIT_BUSY, done
        assert first in done.stderr + done.stdout
        assert shared.ended(first)["outcome"] == "succeeded"
        assert [run["outcome"] for run in shared.runs()[:3]] == ["skipped", "skipped", "succeeded"]
        assert shared.job()["last_run"]["id"] == first
        wait_for(lambda: "last one succeeded" in shared.notify.status, "a status line about the run that was one")

    @pytest.mark.promise(
        "The newest verified backup and what is pinned are never deleted, whatever the settings say.", item=6
    )
    def test_newest_verified_stays(self, shared: Site) -> None:
        """The newest verified backup is not deleted unless one insists; an older one is."""
        newest, *_, oldest = shared.list_backups()
        with pytest.raises(RemoteError) as refused:
            shared.call("Delete", backup=newest["id"])
        assert refused.value.code == "newest-verified"
        assert refused.value.exit_code == 7
        assert newest["artifact"] in shared.artifacts()
        deleted = shared.call("Delete", backup=oldest["id"])["deleted"]
        assert [(line["backup"], line["destination"], line["action"]) for line in deleted] == [
            (oldest["id"], "local", "delete")
        ]
        assert oldest["artifact"] not in shared.artifacts()
        assert shared.run()["outcome"] == "succeeded"
        insisted = backupctl(shared, "delete", shared.list_backups()[0]["id"], "--force", "--yes")
        assert insisted.returncode == EXIT_OK, insisted.stderr
        assert newest["artifact"] in shared.artifacts()
        assert shared.run()["outcome"] == "succeeded"

    @pytest.mark.promise(
        "Two backups of one second, a prune during a run, one run during another: nothing is lost by it.",
        item=6,
    )
    def test_deleting_during_a_run_is_busy(self, shared: Site) -> None:
        """A backup of a job that is running cannot be deleted meanwhile: busy, and not half done."""
        oldest = shared.list_backups()[-1]
        shared.hold("nanumpay_backupd.pipeline.backup:produce")
        run = shared.begin()
        shared.wait_held()
        with pytest.raises(RemoteError) as busy:
            shared.call("Delete", backup=oldest["id"])
        shared.release()
        shared.ended(run)
        assert busy.value.exit_code == EXIT_BUSY
        assert oldest["artifact"] in shared.artifacts()

    def test_prune_is_dry_unless_applied(self, shared: Site) -> None:
        """Prune tells what retention would delete and why; only with ``apply`` it is gone."""
        shared.save(backup_settings(retention={"count": 1}))
        wait_for(lambda: shared.job()["retention_count"] == 1, "the new retention")
        before = shared.artifacts()
        lines = shared.call("Prune")["lines"]
        doomed = [line["backup"] for line in lines if line["action"] == "delete"]
        assert len(doomed) == len(before) - 1
        assert all(line["reason"] for line in lines)
        assert shared.artifacts() == before
        assert shared.call("Prune", apply=True)["applied"]
        assert shared.artifacts() == [f"{line['backup']}.tar.gz" for line in lines if line["action"] == "keep"]
        shared.save(backup_settings())
        wait_for(lambda: shared.job()["retention_count"] == 7, "the old retention")
        assert shared.run()["outcome"] == "succeeded"

    def test_pinned_stays_until_it_is_let_go(self, shared: Site) -> None:
        """Neither prune nor delete take it; who pinned it is told; the pin outlives a rebuild of the catalog."""
        assert shared.run()["outcome"] == "succeeded"
        newest, oldest = shared.list_backups()[0], shared.list_backups()[-1]
        assert newest != oldest
        done = backupctl(shared, "pin", oldest["id"], "--reason", "for the auditor")
        assert done.returncode == EXIT_OK, done.stderr
        (pin,) = shared.call("Pin", backup=oldest["id"], reason=" for  the auditor ")["pins"]
        assert (pin["owner"], pin["reason"]) == (pwd.getpwuid(os.getuid()).pw_name, "for the auditor")
        with pytest.raises(RemoteError) as refused:
            shared.call("Delete", backup=oldest["id"])
        assert (refused.value.code, refused.value.exit_code) == ("pinned", EXIT_REFUSED)
        shared.call("RebuildCatalog")
        assert shared.list_backups()[-1]["pinned"] == f"for the auditor ({pin['owner']})"
        future = (datetime.now(UTC) + timedelta(days=400)).isoformat()
        foreseen = shared.call("Prune", at=future)
        told = {line["backup"]: line for line in foreseen["lines"] if line["destination"] == "local"}
        assert told[oldest["id"]]["reason"].startswith("pinned: for the auditor")
        assert foreseen["at"]
        assert shared.call("Unpin", backup=oldest["id"]) == {"backup": oldest["id"], "pins": []}
        told = {line["backup"]: line for line in shared.call("Prune", at=future)["lines"]}
        assert (told[oldest["id"]]["action"], told[newest["id"]]["action"]) == ("delete", "keep")
        assert oldest["artifact"] in shared.artifacts()

    def test_prune_looks_ahead_along_the_schedule(self, shared: Site) -> None:
        """A daily backup for 40 days: seven of them are there then, none of today's; nothing is deleted by looking."""
        before = shared.artifacts()
        at = (datetime.now(UTC) + timedelta(days=40)).isoformat()
        lines = shared.call("Prune", at=at, assume_schedule=True)["lines"]
        assert [line["action"] for line in lines if line.get("assumed")] == ["keep"] * 7
        assert {line["action"] for line in lines if not line.get("assumed")} == {"delete"}
        assert shared.artifacts() == before

    @pytest.mark.parametrize(
        "asked, words",
        [
            ({"at": "2020-01-01T00:00:00Z"}, "no moment in the future"),
            ({"at": "2999-01-01"}, "no moment in the future"),
            ({"at": "soon"}, "no moment in the future"),
            ({"at": "2999-01-01T00:00:00Z", "apply": True}, "cannot be deleted now"),
            ({"assume_schedule": True}, "there is none"),
            ({"at": "2999-01-01T00:00:00Z", "assume_schedule": True}, "more than 10,000 backups"),
            ({"job": "nobody", "at": "2999-01-01T00:00:00Z"}, "there is no job"),
        ],
    )
    def test_a_look_ahead_that_makes_no_sense(self, shared: Site, asked: dict[str, object], words: str) -> None:
        """It is refused with what is wrong."""
        with pytest.raises(RemoteError, match=words):
            shared.call("Prune", **asked)

    def test_crashed_helper_is_an_error(self, shared: Site) -> None:
        """A helper process that breaks down is told as a defect, never as "nothing to delete"."""
        place = shared.backups / ".backupd" / "locks"
        shutil.move(place, place.with_name("moved"))
        place.write_text("not a folder", encoding="ascii")
        try:
            with pytest.raises(RemoteError) as failed:
                shared.call("Prune", apply=True)
        finally:
            place.unlink()
            shutil.move(place.with_name("moved"), place)
        assert failed.value.exit_code == EXIT_FAILED

    def test_vanished_file_is_missing(self, shared: Site) -> None:
        """A file that the application deleted is missing in the list, and the next run is fine with it."""
        oldest = shared.list_backups()[-1]
        (shared.backups / oldest["artifact"]).unlink()
        (copy,) = shared.call("DescribeBackup", backup=oldest["id"])["backup"]["copies"]
        assert copy["state"] == "missing"
        assert shared.run()["outcome"] == "succeeded"
