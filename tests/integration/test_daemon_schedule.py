"""The daemon's plan kept by a real process: on time, late, caught up once, or too late. When something is due: unit."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from nanumpay_backupd.errors import EXIT_OK
from tests.servers.daemon import Site, backup_settings, open_site, plan_ago, wait_for
from tests.servers.mongod import Mongod

pytestmark = pytest.mark.servers


@pytest.fixture
def site(mongod_rs: Mongod) -> Iterator[Site]:
    """A site whose daily backup is due in twelve hours, not started."""
    due = datetime.now(UTC) + timedelta(hours=12)
    with open_site(mongod_rs, backup_settings(time=f"{due:%H:%M}")) as site:
        site.write_config(top="timezone = 'UTC'")
        yield site


def restart(site: Site, late: float) -> None:
    """Stop the daemon, make its plan so many seconds late, start it again."""
    assert site.stop() == EXIT_OK
    plan_ago(site, late)
    site.start()


def settled(site: Site) -> str:
    """Wait until the daemon has judged what it found at its start and return the next due time, which is to come."""

    def look() -> str:
        status = site.status()
        job = status["jobs"][0]
        return str(job["next_run"]) if job["next_run"] and job["next_run"] > status["now"] else ""

    return wait_for(look, "a plan that lies ahead")


def test_waits_and_fires(mongod_rs: Mongod) -> None:
    """A daemon that waits for its due time starts the run when it comes, as scheduled, and plans the next."""
    with open_site(mongod_rs, backup_settings(time="05:30")) as site:
        site.write_config(top="timezone = 'UTC'")
        for margin in (3, 10, 30):
            # Its clock says some seconds before 05:30; a machine so busy that the start takes longer gets another try.
            now = datetime.now(UTC)
            wanted = (now + timedelta(days=1)).replace(hour=5, minute=30, second=0, microsecond=0)
            site.start(clock=(wanted - now).total_seconds() - margin)
            planned = datetime.fromisoformat(site.job()["next_run"])
            if planned == wanted:
                break
            site.stop()
        assert planned == wanted
        assert site.runs() == []
        run = site.newest(trigger="schedule")
        assert run["outcome"] == "succeeded"
        assert site.job()["next_run"].startswith(f"{wanted + timedelta(days=1):%Y-%m-%dT05:30:00}")
        assert len(site.runs()) == 1


def test_a_full_waits_for_a_snapshot_of_one_collection(mongod_rs: Mongod) -> None:
    """A full that comes due while one collection is backed up is not left out, but made as soon as that is done."""
    with open_site(mongod_rs, backup_settings(time="05:30")) as site:
        site.write_config("[nanumpay]\ndrill = 'never'", top="timezone = 'UTC'")
        site.start()
        for margin in (4, 12, 36):
            due = datetime.fromisoformat(site.job()["next_run"])
            site.stop()
            site.hold("nanumpay_backupd.pipeline.backup:commit")
            site.start(clock=(due - datetime.now(UTC)).total_seconds() - margin)
            snapshot = site.begin(collection="users")
            site.wait_held()
            if datetime.fromisoformat(site.status()["now"]) < due:
                break
            site.release()
        wait_for(lambda: datetime.fromisoformat(site.status()["now"]) > due, "the due time")
        # Below these are runs of tries that were too slow.
        assert site.runs()[0]["id"] == snapshot
        site.release()
        wait_for(lambda: site.runs()[0]["id"] != snapshot and site.runs()[0].get("outcome"), "the full")
        assert [(run["trigger"], run["outcome"]) for run in site.runs()[:2]] == [
            ("schedule", "succeeded"),
            ("manual", "succeeded"),
        ]


def test_late_by_seconds_is_on_schedule(site: Site) -> None:
    """A due time that passed seconds ago, while the daemon was being restarted, is kept as if nothing had been."""
    site.start()
    restart(site, 10)
    assert site.newest(trigger="schedule")["outcome"] == "succeeded"
    assert len(site.runs()) == 1


def test_missed_is_caught_up_once(site: Site) -> None:
    """Days missed while the daemon was down are one catch-up when it is back, and none at the next start."""
    site.start()
    restart(site, 3 * 86400)
    assert site.newest(trigger="catch-up")["outcome"] == "succeeded"
    assert "a backup was missed and is caught up now" in site.log()
    ahead = settled(site)
    assert site.stop() == EXIT_OK
    site.start()
    assert settled(site) == ahead
    # A second one would be on record by now, or this one would be refused as busy.
    assert site.run()["outcome"] == "succeeded"
    assert [run["trigger"] for run in site.runs()] == ["manual", "catch-up"]


def test_too_late_is_left(site: Site) -> None:
    """What was missed longer ago than the window is left alone, and the log says so."""
    site.write_config("[nanumpay]\ncatch_up = '1h'", top="timezone = 'UTC'")
    site.start()
    restart(site, 2 * 3600)
    settled(site)
    assert site.runs() == []
    assert "a backup was missed too long ago to be caught up" in site.log()


def test_disabled_while_down_is_not_caught_up(site: Site) -> None:
    """A job that was switched off while the daemon was down is not caught up, not even when it is switched on again."""
    site.start()
    settings = backup_settings(time=f"{datetime.fromisoformat(site.job()['next_run']):%H:%M}")
    assert site.stop() == EXIT_OK
    plan_ago(site, 7200)
    site.save({**settings, "enabled": False})
    site.start()
    wait_for(lambda: not site.job()["enabled"], "the settings")
    site.save(settings)
    settled(site)
    assert site.run()["outcome"] == "succeeded"
    assert [run["trigger"] for run in site.runs()] == ["manual"]


def test_host_job_of_the_file(site: Site) -> None:
    """A job of the host file has a plan and catches up as the application's does, also where that is switched off."""
    job = "[nanumpay]\nenabled = false\n[[job]]\nname = 'extra'\nschedule = '0 3 * * *'"
    site.write_config(job, top="timezone = 'UTC'")
    site.start()
    assert site.status()["settings"]["mode"] == "off"
    assert site.stop() == EXIT_OK
    plan_ago(site, 7200, "extra")
    site.start()
    assert site.newest(trigger="catch-up")["job"] == "extra"
    assert site.artifacts()[0].startswith("extra-backup-")
