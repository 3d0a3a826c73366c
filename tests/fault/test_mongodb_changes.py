"""MongoDB that stops, steps down, is turned round or takes rights away while the daemon works with it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest
from pymongo.errors import PyMongoError

from tests.servers.daemon import Site, backup_settings, open_site, slow_mongodump, wait_for
from tests.servers.mongod import Mongod, start_mongod, start_replica_set

pytestmark = [pytest.mark.servers, pytest.mark.fault_long]

BACK: Final = "Without MongoDB the schedule and the last good settings go on; it comes back by itself."
DURING: Final = "What happens to MongoDB during a dump makes it fail or be told of, and the next run succeeds."
LAST: Final = "Settings that are saved in a storm end in the last ones, and cost bounded work."


def configure(site: Site, tool: Path | None = None) -> None:
    """Write a host file without drills."""
    tools = f"[tools]\nmongodump = '{tool}'\n" if tool is not None else ""
    site.write_config(
        f"{tools}[retry]\nattempts = 1\ndelay = '1s'\n[nanumpay]\ndrill = 'never'", top="timezone = 'UTC'"
    )


class Dump:
    """A run that stands in the middle of its dump."""

    def __init__(self, site: Site, at: str = "start") -> None:
        self.path = slow_mongodump(site, at=at)
        self._wait = Path(f"{self.path}.wait")
        self._site = site

    @contextlib.contextmanager
    def standing(self) -> Iterator[str]:
        """Begin a run and give its id while its mongodump stands still."""
        Path(f"{self.path}.waiting").unlink(missing_ok=True)
        self._wait.touch()
        run = self._site.begin()
        try:
            wait_for(Path(f"{self.path}.waiting").exists, "mongodump to stand still")
            yield run
        finally:
            self._wait.unlink(missing_ok=True)


def in_force(site: Site, time_of_day: str) -> bool:
    """Tell whether the daily backup is planned for that time."""
    hour, minute = map(int, time_of_day.split(":"))
    return bool(site.job()["schedule"] == [f"{minute} {hour} * * *"])


def succeeds(site: Site) -> dict[str, Any]:
    """Make a run, which must be good; what was there before stays."""
    before = set(site.artifacts())
    run = site.run()
    assert run["outcome"] == "succeeded", run["error"]
    assert set(site.artifacts()) > before
    assert "Traceback" not in site.log()
    return run


@pytest.mark.promise(LAST, item=7)
def test_a_hundred_saves_a_second(mongod_rs: Mongod) -> None:
    """Five seconds of them: the last one holds, the daemon answers meanwhile and does not plan for each of them."""
    with open_site(mongod_rs) as site:
        configure(site)
        site.start()
        seconds, count, end = 5, 0, time.monotonic()
        assert site.process is not None
        before = os.sysconf("SC_CLK_TCK"), _ticks(site.process.pid)
        while time.monotonic() < end + seconds:
            site.save(backup_settings(time=f"{count // 60 % 24:02}:{count % 60:02}"))
            count += 1
            if count % 100 == 0:
                assert site.status()["pid"] == site.process.pid
            time.sleep(0.008)
        last = f"{(count - 1) // 60 % 24:02}:{(count - 1) % 60:02}"
        wait_for(lambda: in_force(site, last), "the last save")
        spent = (_ticks(site.process.pid) - before[1]) / before[0]
        assert spent < seconds + 2, "a storm must not keep a processor busy after its end"
        succeeds(site)


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@pytest.mark.promise(DURING, item=7)
def test_a_server_that_is_stopped_and_restarted_during_a_dump() -> None:
    """The run fails by a fault that says so; the server back, all goes on without a restart of the daemon."""
    with start_mongod(replica_set=True) as server, open_site(server) as site:
        dump = Dump(site)
        configure(site, dump.path)
        site.start()
        good = succeeds(site)
        with dump.standing() as run:
            server.kill()
        # mongodump waits for half a minute for a server, and what broke is tried once more.
        wait_for(lambda: not site.job().get("running"), "the end of the run", 200)
        failed = site.ended(run)
        assert failed["outcome"] == "failed", failed
        assert failed["error"]["retryable"] or failed["error"]["code"] in {"tool-failed", "source-failed"}
        assert site.staged() == []
        assert f"{good['backup']}.tar.gz" in site.artifacts()
        again = site.run()
        assert (again["outcome"], again["error"]["code"]) == ("failed", "source-unreachable")
        server.restart()
        wait_for(lambda: site.status()["settings"]["connected"], "the watch to be back")
        succeeds(site)


@pytest.mark.promise(DURING, item=7)
def test_a_primary_that_steps_down_during_a_dump() -> None:
    """The full succeeds, and is of one moment or says why not, or it fails; the next one succeeds."""
    with start_replica_set() as servers, open_site(servers) as site:
        dump = Dump(site, at="dump")
        configure(site, dump.path)
        site.start()
        succeeds(site)
        with dump.standing() as run, servers.primary().direct() as client:
            with contextlib.suppress(PyMongoError):
                client.admin.command("replSetStepDown", 5, secondaryCatchUpPeriodSecs=2, force=True)
            servers.primary()
        ended = site.ended(run)
        assert ended["outcome"] in {"succeeded", "failed"}, ended
        if ended["outcome"] == "failed":
            assert ended["error"]["retryable"], ended["error"]
        else:
            backup = site.call("DescribeBackup", backup=ended["backup"])["backup"]
            consistency = backup["manifest"]["consistency"]
            assert consistency["level"] == "point-in-time" or consistency["reason"]
        succeeds(site)
        site.save(backup_settings(time="04:44"))
        wait_for(lambda: in_force(site, "04:44"), "a save at the new primary")


@pytest.mark.promise(DURING, item=7)
def test_rights_that_are_taken_away_in_the_middle() -> None:
    """The run fails as source-auth or as the tool says it, without the password; with the right back it succeeds."""
    password = "only for tests/가"
    with start_mongod(replica_set=True, auth=True) as server, server.client() as client, open_site(server) as site:
        roles = [{"role": "backup", "db": "admin"}, {"role": "read", "db": site.database}]
        client.admin.command("createUser", "keeper", pwd=password, roles=roles)
        options = "replicaSet=rs0&authSource=admin"
        site.uri = f"mongodb://keeper:{quote(password, safe='')}@{server.address}/{site.database}?{options}"
        dump = Dump(site)
        configure(site, dump.path)
        site.start()
        good = succeeds(site)
        with dump.standing() as run:
            client.admin.command("revokeRolesFromUser", "keeper", roles=roles)
        failed = site.ended(run)
        assert failed["outcome"] == "failed", failed
        assert failed["error"]["code"] in {"source-auth", "tool-failed", "source-failed", "dump-incomplete"}
        refused = site.run()
        assert (refused["outcome"], refused["error"]["code"]) == ("failed", "source-auth"), refused["error"]
        assert f"{good['backup']}.tar.gz" in site.artifacts()
        assert password not in site.log()
        client.admin.command("grantRolesToUser", "keeper", roles=roles)
        succeeds(site)


@pytest.mark.promise(BACK, item=7)
def test_a_standalone_that_becomes_a_replica_set_and_back_under_the_daemon() -> None:
    """Runs and settings follow what the server is, each time without a restart of the daemon."""
    with start_mongod() as server, open_site(server) as site:
        configure(site)
        site.start()
        succeeds(site)
        for replica_set, mode in ((True, "change-stream"), (False, "polling")):
            server.restart(replica_set=replica_set)
            wait_for(lambda mode=mode: site.status()["settings"]["mode"] == mode, mode)  # type: ignore[misc]
            time_of_day = "05:01" if replica_set else "05:02"
            with server.direct() as client:
                client[site.database].admins.update_many(
                    {"systemSettings.backup": {"$exists": True}}, {"$set": {"systemSettings.backup.time": time_of_day}}
                )
            wait_for(lambda wanted=time_of_day: in_force(site, wanted), "a save")  # type: ignore[misc]
            succeeds(site)
