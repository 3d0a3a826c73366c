"""Figures of a running daemon by TCP, by a Unix socket and from the file, as Prometheus' own checker takes them."""

from __future__ import annotations

import contextlib
import grp
import http.client
import os
import signal
import socket
import stat
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain

from nanumpay_backupd.metrics import web
from nanumpay_backupd.metrics.table import METRICS
from nanumpay_backupd.model import Outcome
from tests.servers.daemon import Site, backup_settings, catalog, open_site, wait_for
from tests.servers.mongod import Mongod, find_mongod
from tests.servers.process import free_port, is_listening
from tests.servers.promtool import promtool
from tests.servers.s3 import ACCESS_KEY, SECRET_KEY, start_s3

pytestmark = pytest.mark.servers

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]
PLAIN: Final = "text/plain; version=0.0.4; charset=utf-8"
PROMETHEUS: Final = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
"""What Prometheus says that it understands."""


class Reply:
    """An answer: its status, its fields and its body."""

    def __init__(self, found: http.client.HTTPResponse) -> None:
        self.status = found.status
        self.headers = found.headers
        self.text = found.read().decode()


class UnixConnection(http.client.HTTPConnection):
    """HTTP by a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self) -> None:
        """Connect to the file."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(self._path)


def fetch(where: str, path: str = "/metrics", *, method: str = "GET", **headers: str) -> Reply:
    """Ask at an address as [metrics] listen has it."""
    host, _, port = where.rpartition(":")
    made = UnixConnection(where) if where.startswith("/") else http.client.HTTPConnection(host, int(port), timeout=20)
    with contextlib.closing(made) as connection:
        connection.request(method, path, headers=headers)
        return Reply(connection.getresponse())


def values(text: str, *, form: str = "plain") -> Values:
    """Read a scrape by the parser of the client library."""
    found = (open_metrics if form == "open" else plain)(text)
    return {
        (sample.name.removeprefix("nanumpay_backup_"), frozenset(sample.labels.items())): sample.value
        for family in found
        for sample in family.samples
    }


def value(found: Values, metric: str, **labels: str) -> float | None:
    """Return one value, None when it is not there."""
    return found.get((metric, frozenset(labels.items())))


def scrape(where: str) -> Values:
    """Fetch and read."""
    reply = fetch(where)
    assert reply.status == 200, reply.text
    return values(reply.text)


def up(where: str) -> None:
    """Wait until somebody listens there."""
    host, _, port = where.rpartition(":")
    wait_for(lambda: is_listening(host.strip("[]"), int(port)), where)


def listening(site: Site, where: str, more: str = "") -> str:
    """Write the host file with that address, or reload a running daemon with it; returns the address."""
    site.write_config(f"[metrics]\nlisten = '{where}'\n{more}")
    return where


@pytest.fixture
def site(mongod_rs: Mongod) -> Iterator[Site]:
    """A site; not started."""
    with open_site(mongod_rs, backup_settings(storage={"type": "none"})) as site:
        yield site


def test_figures_of_real_backups_are_those_of_the_status_and_promtool_finds_no_fault(
    mongod_rs: Mongod, tmp_path: Path
) -> None:
    """Full, slices, a drill, a verification, an upload that waits: every metric of the table has a sample.

    By TCP, by the Unix socket and in the file it is the same, OpenMetrics included; promtool's linter takes all.
    """
    gone = free_port()
    settings = backup_settings(ftp={"host": "127.0.0.1", "port": gone, "username": "u", "password": "p"})
    with start_s3(tmp_path) as s3, open_site(mongod_rs, settings) as site:
        where = f"127.0.0.1:{free_port()}"
        file = site.folder / "node" / "backupd.prom"
        file.parent.mkdir()
        listening(
            site,
            where,
            f"textfile = '{file}'\n[nanumpay]\npitr = '1s'\nrpo = '1h'\nrto = '1h'\ndestinations = ['cloud']\n"
            f"verify = '0 4 1 * *'\ndrill = '0 5 1 * *'\n[tools]\nmongod = '{find_mongod()}'\n"
            f"[channel.hook]\naddress = 'json://127.0.0.1:{gone}/x'\n"
            f"[destination.cloud]\ntype = 's3'\nbucket = '{s3.bucket}'\naccess_key_id = '{ACCESS_KEY}'\n"
            f"secret_access_key = '{SECRET_KEY}'\nendpoint_url = '{s3.endpoint}'\npath_style = true\n",
        )
        site.start()
        assert site.run()["outcome"] == "degraded"
        wait_for(lambda: site.job()["protection"]["stream"] == "ok", "slices")
        *_, last = site.client.stream("Drill", {"job": "nanumpay"}, timeout=60)
        assert last["run"]["outcome"] == "succeeded"
        site.client.call("Verify", {"backup": "latest", "source": "local"})
        wait_for(lambda: site.job()["protection"]["last_verify"], "the verification")
        wait_for(
            lambda: value(scrape(where), "last_run_outcome", job_name="nanumpay", action="verify", outcome="succeeded"),
            "the verification in the metrics",
        )

        reply = fetch(where)
        assert reply.headers["Content-Type"] == PLAIN
        promtool("check", "metrics", text=reply.text)
        found = values(reply.text)
        named = {name for name, _ in found}
        table = {metric.full_name.removeprefix("nanumpay_backup_") for metric in METRICS}
        # How long the oplog reaches is known once it has begun to drop something; no spread is demanded here, and
        # this host is alone, and its jobs are in no group.
        elsewhere = {name for name in table if name.startswith(("fleet_", "group_"))}
        assert table - {"oplog_window_seconds", "spread_kept"} - elsewhere <= named <= table - elsewhere
        compare_with_status(site, found)

        again = fetch(where, Accept=PROMETHEUS)
        assert again.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
        assert again.text.endswith("# EOF\n")
        assert {name for name, _ in values(again.text, form="open")} == named

        wait_for(lambda: value(values(file.read_text()), "notifications_failing", channel="hook"), "the file", 70)
        promtool("check", "metrics", text=file.read_text())
        assert {name for name, _ in values(file.read_text())} == named
        assert stat.S_IMODE(file.stat().st_mode) == 0o644
        assert os.listdir(file.parent) == [file.name]

        listening(site, str(site.folder / "m.sock"))
        site.call("Reload")
        wait_for((site.folder / "m.sock").exists, "the socket")
        promtool("check", "metrics", text=fetch(str(site.folder / "m.sock")).text)
        wait_for(lambda: not is_listening("127.0.0.1", int(where.rpartition(":")[2])), "the end of the port")
        # What nobody writes any more is not left to be read as if it were true.
        wait_for(lambda: not file.exists(), "the end of the file")


def test_a_host_of_a_fleet_tells_its_part(site: Site) -> None:
    """Who scrapes all hosts sees which one makes the backups, that the lease is known, and who is there."""
    where = f"127.0.0.1:{free_port()}"
    listening(site, where, "[fleet]\nenabled = true\nhost = 'one'\nlease = '5s'\n")
    site.start()
    up(where)
    wait_for(lambda: site.status()["fleet"]["role"] == "holder", "the lease")
    wait_for(lambda: value(scrape(where), "fleet_role", state="holder"), "the lease in the metrics")
    found = scrape(where)
    assert [value(found, "fleet_role", state=state) for state in ("ending", "standby")] == [0, 0]
    assert (value(found, "fleet_lease_known"), value(found, "fleet_lease_token")) == (1, 1)
    assert [value(found, "fleet_hosts", state=state) for state in ("there", "gone")] == [1, 0]
    promtool("check", "metrics", text=fetch(where).text)


def test_a_group_tells_how_it_is_as_one(site: Site, tmp_path: Path) -> None:
    """What is made together has figures of its own: when, how it ended, and whether all of it is there."""
    (tmp_path / "a").write_text("a", encoding="utf-8")
    where = f"127.0.0.1:{free_port()}"
    job = f"[[job]]\nname = 'files'\ntype = 'files'\npath = ['{tmp_path}']\n"
    listening(site, where, f"{job}[group.shop]\njobs = ['nanumpay', 'files']\n")
    site.start()
    up(where)
    of = {"group_name": "shop"}
    found = scrape(where)
    assert value(found, "group_enabled", **of) == 1
    assert (value(found, "group_next_due_timestamp_seconds", **of) or 0) > time.time()
    assert value(found, "group_newest_whole", **of) is None
    site.run("shop")
    wait_for(lambda: value(scrape(where), "group_newest_whole", **of), "the group in the metrics")
    found = scrape(where)
    outcomes = [name.value for name in Outcome if value(found, "group_last_run_outcome", outcome=name.value, **of)]
    assert outcomes == ["succeeded"]
    assert value(found, "group_last_run_timestamp_seconds", **of) == pytest.approx(time.time(), abs=60)
    promtool("check", "metrics", text=fetch(where).text)


def compare_with_status(site: Site, found: Values) -> None:
    """The figures are those that backupctl shows."""
    status = site.status()
    job = status["jobs"][0]
    shown = job["protection"]
    of = {"job_name": "nanumpay"}
    assert value(found, "build_info", version=status["version"]) == 1
    assert value(found, "health", state=status["health"]) == 1
    assert sum(item for (name, _), item in found.items() if name == "problems") == len(status["problems"])
    assert value(found, "problems", severity="warning", job_name="nanumpay", kind="copies") == 1
    assert value(found, "uploads_pending", destination="app", **of) == job["pending_uploads"] == 1
    copies = {
        place: value(found, "copies", destination=place, kind="full", **of) for place in ("local", "app", "cloud")
    }
    assert copies == {"local": 1, "app": 0, "cloud": 1}
    fulls = [item for item in site.list_backups() if item["kind"] == "full"]
    made = datetime.fromisoformat(fulls[0]["created"]).timestamp()
    for place in ("local", "cloud"):
        assert value(found, "newest_verified_timestamp_seconds", destination=place, **of) == pytest.approx(made)
        assert value(found, "newest_verified_bytes", destination=place, **of) == fulls[0]["size"]
    assert value(found, "newest_verified_bytes", destination="app", **of) is None
    assert (value(found, "rpo_kept", **of), value(found, "rto_kept", **of)) == (1, 1)
    assert value(found, "restore_duration_seconds", **of) == shown["restore_seconds"]
    assert value(found, "rpo_objective_seconds", **of) == shown["rpo"] == 3600
    for run, action in ((job["last_run"], "backup"), (shown["last_drill"], "drill")):
        ended = datetime.fromisoformat(run["ended"]).timestamp()
        assert value(found, "last_run_timestamp_seconds", action=action, **of) == pytest.approx(ended)
        assert value(found, "last_run_outcome", action=action, outcome=run["outcome"], **of) == 1
        assert value(found, "runs_total", action=action, outcome=run["outcome"], **of) == 1
        assert value(found, "runs_total", action=action, outcome="interrupted", **of) == 0
    due = datetime.fromisoformat(job["next_run"]).timestamp()
    assert value(found, "next_due_timestamp_seconds", task="backup", **of) == due


def has_ipv6() -> bool:
    """Tell whether this host has a loopback address of version 6."""
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


def test_reload_starts_moves_and_stops(site: Site) -> None:
    """Off by default, in force without a restart, and a Unix socket has the rights of the control socket."""
    port = free_port(2)
    first, second = f"127.0.0.1:{port}", f"{'[::1]' if has_ipv6() else '127.0.0.1'}:{port + 1}"
    site.write_config("[control]\ngroup = 'adm'\n")
    site.start()
    assert not is_listening("127.0.0.1", port)
    group = "[control]\ngroup = 'adm'\n"
    listening(site, first, group)
    site.signal(signal.SIGHUP)
    up(first)
    listening(site, second, group)
    site.call("Reload")
    up(second)
    assert not is_listening("127.0.0.1", port)
    path = site.folder / "metrics.sock"
    listening(site, str(path), group)
    site.call("Reload")
    wait_for(path.exists, "the socket")
    assert fetch(str(path)).status == 200
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(site.socket.stat().st_mode) == 0o660
    assert path.stat().st_gid == site.socket.stat().st_gid == grp.getgrnam("adm").gr_gid
    site.write_config()
    site.call("Reload")
    wait_for(lambda: not path.exists(), "the end of the socket")
    assert not any("metrics" in text for text in site.status()["problems"])


def test_what_does_not_work_is_told_once_and_costs_no_backup(site: Site) -> None:
    """A taken port and a missing folder: backups go on, status and journal say what to do, and it mends itself."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file = site.folder / "node" / "backupd.prom"
        listening(site, f"127.0.0.1:{port}", f"textfile = '{file}'\n")
        site.start()
        assert site.run()["outcome"] == "succeeded"
        assert site.run()["outcome"] == "succeeded"
        problems = site.status()["problems"]
        assert len(problems) == 2
        for start in (
            f"metrics cannot be served at 127.0.0.1:{port}: Address already in use → see who it is",
            f"metrics cannot be written to {file}: No such file or directory → make the folder",
        ):
            assert any(text.startswith(start) for text in problems), problems
        assert site.status()["health"] == "warning"
        assert (site.log().count("cannot be served"), site.log().count("cannot be written")) == (1, 1)
    file.parent.mkdir()
    assert site.run()["outcome"] == "succeeded"
    wait_for(lambda: site.status()["problems"] == [], "both to work")
    assert value(values(file.read_text()), "health", state="ok") is not None
    assert scrape(f"127.0.0.1:{port}")


@pytest.fixture(scope="module")
def running(mongod_rs: Mongod) -> Iterator[Site]:
    """A running site with metrics."""
    with open_site(mongod_rs, backup_settings(storage={"type": "none"})) as site:
        listening(site, f"127.0.0.1:{free_port()}")
        site.start()
        yield site


@pytest.fixture
def where(running: Site) -> str:
    """The address of a running daemon's metrics."""
    address = str(running.call("GetSettings")["settings"]["host"]["metrics"]["listen"])
    up(address)
    return address


def test_the_server_says_what_it_does_not_do(where: str) -> None:
    """HEAD without a body, other pages and other methods refused, nonsense too; the connection ends each time."""
    head = fetch(where, method="HEAD")
    assert (head.status, head.text, head.headers["Connection"]) == (200, "", "close")
    assert int(head.headers["Content-Length"]) > 1000
    assert fetch(where, "/").status == fetch(where, "/metrics/../x").status == 404
    assert "/metrics" in fetch(where, "/").text
    refused = fetch(where, method="POST")
    assert (refused.status, refused.headers["Allow"]) == (405, "GET, HEAD")
    assert fetch(where, "/metrics?name=x").status == 200
    assert fetch(where, Accept="application/openmetrics-text;version=99;q=x,;,=").headers["Content-Type"] == PLAIN


NONSENSE: Final = (
    (b"\r\n\r\n", 400),
    (b"GET\r\n\r\n", 400),
    (b"GET /metrics\r\n\r\n", 400),
    (b"GET /metrics HTTP/2\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
    (b"GET /metrics HTTP/1.1\r\nX: " + b"a" * 20_000, 431),
    (b"GET /metrics HTTP/1.0\r\n\r\n", 200),
)


def test_nonsense_gets_its_answer(where: str) -> None:
    """What is no request is told so."""
    for sent, status in NONSENSE:
        with raw(where) as connection:
            connection.sendall(sent)
            assert connection.recv(100).startswith(f"HTTP/1.1 {status} ".encode()), sent


@contextlib.contextmanager
def raw(where: str) -> Iterator[socket.socket]:
    """Open a plain connection."""
    host, _, port = where.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        yield connection


def test_slow_and_many_callers_lock_nobody_out(running: Site, where: str) -> None:
    """Silent ones, many times as many as are served at once, and ones that read nothing: Prometheus is served.

    The daemon keeps few descriptors for them, and answers backupctl.
    """
    assert running.process is not None
    folder = Path(f"/proc/{running.process.pid}/fd")
    fetch(where)
    before = len(os.listdir(folder))
    with contextlib.ExitStack() as stack:
        for at in range(web._MOST * 5):
            connection = stack.enter_context(raw(where))
            with contextlib.suppress(OSError):
                connection.sendall((b"", b"GET /met", b"GET /metrics HTTP/1.1\r\n\r\n")[at % 3])
            if at % 10 == 9:
                assert fetch(where).status == 200
        assert running.status()["health"]
        wait_for(lambda: len(os.listdir(folder)) <= before + web._MOST + 2, "few connections")
    wait_for(lambda: len(os.listdir(folder)) <= before + 1, "none left")
    assert "Traceback" not in running.log()


def test_a_catalog_that_cannot_be_read_is_told(running: Site, where: str) -> None:
    """No figures rather than wrong ones: 503 with the reason; the last ones answer while they are young."""
    with catalog(running) as db:
        db.execute("ALTER TABLE copies RENAME TO copies_gone")
    try:
        wait_for(lambda: fetch(where).status == 503, "the fault")
        assert "the catalog" in fetch(where).text
    finally:
        with catalog(running) as db:
            db.execute("ALTER TABLE copies_gone RENAME TO copies")
    wait_for(lambda: fetch(where).status == 200, "the end of the fault")
