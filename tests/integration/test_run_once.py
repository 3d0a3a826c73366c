"""`nanumpay-backupd run-once`, `check-config`: what cron, containers and CI see of them."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanumpay_backupd.errors import (
    EXIT_BUSY,
    EXIT_DEGRADED,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_NOT_FOUND,
    EXIT_OK,
    EXIT_REFUSED,
    EXIT_USAGE,
)
from tests.servers.daemon import Site, backup_settings, catalog, open_site, slow_mongodump, wait_for
from tests.servers.ftp import PASSWORD, start_pyftpdlib
from tests.servers.mongod import Mongod
from tests.servers.process import free_port
from tests.servers.tools import PROJECT

pytestmark = pytest.mark.servers


@pytest.fixture
def site(mongod_rs: Mongod) -> Iterator[Site]:
    """A site on the replica set without a daemon."""
    with open_site(mongod_rs) as site:
        site.write_config()
        yield site


def argv(site: Site, *arguments: str) -> list[str]:
    """Return the command line of the program with this site's host file."""
    return [sys.executable, "-m", "nanumpay_backupd", "--config", str(site.config), *arguments]


def run(site: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    env = site.environment()
    return subprocess.run(argv(site, *arguments), capture_output=True, text=True, env=env, cwd=PROJECT, timeout=120)


class TestRunOnce:
    """One backup in one process."""

    def test_succeeds(self, site: Site) -> None:
        """0, a line per stage and one at the end on standard output, nothing on standard error, the backup verified."""
        done = run(site, "run-once")
        assert done.returncode == EXIT_OK, done.stderr
        assert done.stderr == ""
        lines = done.stdout.splitlines()
        stages = [line.split()[0] for line in lines if " succeeded in " in line]
        assert stages == ["preflight", "dump", "compress", "publish", "verify", "retention"]
        (name,) = site.artifacts()
        assert any(line.startswith("committed ") and name in line for line in lines)
        assert lines[-1].startswith("run ")
        assert lines[-1].endswith(f" succeeded: {name.removesuffix('.tar.gz')}")

    def test_the_changes_alone(self, site: Site) -> None:
        """With --kind incremental only what was written since is saved, and a sentence says when there is nothing."""
        missing = run(site, "run-once", "--kind", "incremental")
        assert missing.returncode == EXIT_FAILED
        assert "no verified full" in missing.stderr
        assert run(site, "run-once").returncode == EXIT_OK
        nothing = run(site, "run-once", "--kind", "incremental")
        assert (nothing.returncode, nothing.stderr) == (EXIT_OK, "")
        assert "nothing new" in nothing.stdout
        with site.db() as db:
            db.users.insert_one({"loginId": "new"})
        done = run(site, "run-once", "--kind", "incremental")
        assert done.returncode == EXIT_OK, done.stderr
        assert "nanumpay-slice-" in done.stdout.splitlines()[-1]

    def test_daemon_knows_it(self, site: Site) -> None:
        """What was made without the daemon is in its list, and its status speaks of it."""
        site.write_config("[[job]]\nname = 'extra'\ncompress = false")
        assert run(site, "run-once", "extra").returncode == EXIT_OK
        assert site.artifacts()[0].endswith(".tar")
        site.start()
        (backup,) = site.list_backups()
        assert (backup["job"], backup["state"]) == ("extra", "verified")
        wait_for(lambda: "last one succeeded" in site.notify.status, "the status line")

    def test_disabled(self, site: Site) -> None:
        """A disabled job is refused with 7, unless forced."""
        site.save(backup_settings(enabled=False))
        done = run(site, "run-once")
        assert done.returncode == EXIT_REFUSED
        assert "job nanumpay is disabled" in done.stderr
        assert "--force" in done.stderr
        assert site.artifacts() == []
        assert run(site, "run-once", "--force").returncode == EXIT_OK

    def test_unknown_job(self, site: Site) -> None:
        """6 and the names that there are."""
        done = run(site, "run-once", "shop")
        assert done.returncode == EXIT_NOT_FOUND
        assert "there is no job 'shop'" in done.stderr
        assert "the jobs are: nanumpay" in done.stderr

    def test_failed_upload(self, site: Site) -> None:
        """3 after the configured tries within the run; the copy is kept, and the reason told."""
        site.write_config("[retry]\nattempts = 2\ndelay = '1s'")
        site.save(backup_settings(ftp={"host": "127.0.0.1", "port": free_port(), "username": "u"}))
        done = run(site, "run-once")
        assert done.returncode == EXIT_DEGRADED
        assert "run degraded" in done.stderr
        assert "127.0.0.1" in done.stderr
        assert len(site.artifacts()) == 1

    def test_uploads(self, site: Site, tmp_path: Path) -> None:
        """0 and the copy is there when the destination works."""
        with start_pyftpdlib(tmp_path) as ftp:
            login = {"host": ftp.host, "port": ftp.port, "username": ftp.user, "password": PASSWORD}
            site.save(backup_settings(ftp=login))
            assert run(site, "run-once").returncode == EXIT_OK
            assert (ftp.folder / site.artifacts()[0]).is_file()

    def test_missing_tool(self, site: Site) -> None:
        """1 and a sentence with what to install; no traceback."""
        site.write_config("[tools]\nmongodump = '/nowhere/mongodump'")
        done = run(site, "run-once")
        assert done.returncode == EXIT_FAILED
        assert "/nowhere/mongodump was not found" in done.stderr
        assert "→ install" in done.stderr
        assert "Traceback" not in done.stderr

    def test_no_settings(self, mongod_rs: Mongod) -> None:
        """1 when there is no document and never was one: nobody said what to keep."""
        with open_site(mongod_rs, fill=False) as site:
            site.write_config()
            done = run(site, "run-once")
        assert done.returncode == EXIT_FAILED
        assert "no document in collection admins" in done.stderr

    def test_busy(self, site: Site) -> None:
        """5 while the daemon has the job, saying which process that is; recorded as skipped."""
        site.start()
        site.hold("nanumpay_backupd.pipeline.backup:produce")
        first = site.begin()
        site.wait_held()
        (worker,) = site.workers()
        done = run(site, "run-once")
        site.release()
        assert done.returncode == EXIT_BUSY
        assert f"job nanumpay is in use by process {worker}" in done.stderr
        assert site.ended(first)["outcome"] == "succeeded"
        assert [run["outcome"] for run in site.runs()] == ["skipped", "succeeded"]

    def test_interrupted_by_a_signal(self, site: Site) -> None:
        """130 on SIGTERM: cancelled, on record as that, nothing staged, nothing published, no process left."""
        site.write_config(f"[tools]\nmongodump = '{slow_mongodump(site, at='dump')}'")
        wait = Path(f"{site.folder}/mongodump.wait")
        wait.touch()
        program = subprocess.Popen(
            argv(site, "run-once"), env=site.environment(), cwd=PROJECT, stdout=subprocess.DEVNULL
        )
        wait_for(Path(f"{site.folder}/mongodump.waiting").exists, "a mongodump at work")
        program.send_signal(signal.SIGTERM)
        assert program.wait(60) == EXIT_INTERRUPTED
        wait_for(lambda: not site.processes(), "no process")
        assert site.staged() == []
        assert site.artifacts() == []
        with catalog(site) as db:
            assert db.execute("SELECT outcome FROM runs").fetchall() == [("cancelled",)]


class TestCheckConfig:
    """Reading the host file only."""

    def test_good(self, site: Site) -> None:
        """0, where things are, and every job with its schedule and destinations."""
        job = "[[job]]\nname = 'shop'\nschedule = '30 3 * * *'\ndestinations = ['disk']"
        told = (
            "[channel.ops]\naddress = 'mailtos://ops:pw-of-ops@mail.example.com?to=a@example.com'\njobs = ['shop']\n"
            "[channel.chat]\naddress = 'json://chat.example.com/x'\nseverity = 'none'\nevents = ['failed', 'report']\n"
            "[channel.later]\naddress = { credential = 'only-the-service-has-it' }\n"
        )
        site.write_config(f"{told}[destination.disk]\ntype = 'local'\npath = '/mnt/disk'\n{job}")
        done = run(site, "check-config")
        assert done.returncode == EXIT_OK
        assert f"{site.config}: ok" in done.stdout
        assert str(site.backups) in done.stdout
        assert "job nanumpay: schedule from the application's settings" in done.stdout
        assert "job shop: schedule 30 3 * * *; further destinations: disk" in done.stdout
        assert "channel ops: E-Mail; is told warning and worse of shop" in done.stdout
        assert "channel chat: JSON; is told failed, report\n" in done.stdout
        assert "channel later: not checked; is told warning and worse" in done.stdout
        assert "pw-of-ops" not in done.stdout
        assert not site.state.exists(), "checking changes nothing"

    def test_a_reader_who_leaves(self, site: Site) -> None:
        """Who looks at the first lines only (`| head`) sees those, and no traceback."""
        site.write_config("")
        words = f"{sys.executable} -m nanumpay_backupd --config {site.config} check-config"
        done = subprocess.run(
            ["bash", "-c", f"{words} | true; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True, check=True
        )
        assert "Traceback" not in done.stderr
        assert done.stdout.strip() in {"0", "141"}

    @pytest.mark.parametrize(
        "text, words",
        [
            ("[mongodb]\nurl = 'x'", ["mongodb.url", "did you mean mongodb.uri?"]),
            ("[retry]\nattempts = 0", ["retry.attempts", "0"]),
            ("[paths\n", [":1:", "not valid TOML"]),
            ("[[job]]\nname = 'shop'\nschedule = '61 * * * *'", ["job.shop.schedule", "61"]),
            # Only apprise knows what its addresses must look like; the daemon tells at a test, or at the first message.
            ("[channel.chat]\naddress = 'slack://only-one-part'", ["channel chat", "channel.chat.address"]),
        ],
    )
    def test_refused(self, site: Site, text: str, words: list[str]) -> None:
        """2, with the key's path, the reason and the fix; the daemon does not start on it either."""
        site.config.write_text(text, encoding="utf-8")
        done = run(site, "check-config")
        assert done.returncode == EXIT_USAGE
        assert done.stdout == ""
        assert str(site.config) in done.stderr
        assert "→" in done.stderr
        assert "Traceback" not in done.stderr
        for word in words:
            assert word in done.stderr

    def test_daemon_refuses_it(self, site: Site) -> None:
        """The daemon ends with 2 on a wrong host file, which systemd does not try again."""
        site.config.write_text("[mongodb]\nurl = 'x'", encoding="utf-8")
        site.start(ready=False)
        assert site.process is not None
        assert site.process.wait(60) == EXIT_USAGE
        assert "mongodb.url" in site.log()
        assert site.notify.keys() == []

    def test_missing_file(self, site: Site) -> None:
        """A host file that is named but not there is refused; none named and none there means the defaults."""
        site.config.unlink()
        done = run(site, "check-config")
        assert done.returncode == EXIT_USAGE
        assert f"{site.config} does not exist" in done.stderr
