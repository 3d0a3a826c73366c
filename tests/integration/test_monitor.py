"""The monitor against real servers: who does not answer, what ends, what was lost, and that it is told once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.errors import EXIT_OK, EXIT_REFUSED, EXIT_UNHEALTHY
from nanumpay_backupd.lookout import Sight, look
from nanumpay_backupd.model import LOCAL, Copy, CopyState, ErrorInfo
from nanumpay_backupd.monitoring.faults import AGAIN
from nanumpay_backupd.monitoring.memory import Memory, keep
from nanumpay_backupd.pipeline.layout import Layout
from nanumpay_backupd.settings.schema import (
    Destination,
    FtpDestination,
    HealthLimits,
    JobEncryption,
    LocalDestination,
    MongoSource,
    Paths,
    RunSpec,
)
from nanumpay_backupd.stores.factory import open_store
from nanumpay_backupd.system.clock import SystemClock
from nanumpay_backupd.system.secrets import Secret
from tests.keys import pgp_key
from tests.servers.certs import make_certificate
from tests.servers.daemon import Site, backup_settings, catalog, open_site, wait_for
from tests.servers.ftp import start_pyftpdlib
from tests.servers.mongod import Mongod, start_mongod
from tests.servers.post import WebServer, silent_server
from tests.servers.process import free_port
from tests.servers.s3 import start_s3
from tests.workbench import job_spec, published

pytestmark = pytest.mark.servers


@pytest.fixture
def site(mongod_rs: Mongod) -> Iterator[Site]:
    """A site; not started."""
    with open_site(mongod_rs, backup_settings(storage={"type": "none"})) as site:
        yield site


@pytest.fixture
def web() -> Iterator[WebServer]:
    """Where webhooks arrive."""
    server = WebServer().start()
    yield server
    server.stop()


def seen(folder: Path, *destinations: Destination, patience: float = 10.0, **job: Any) -> dict[str, Sight]:
    """Look at the places of a job, as its worker process does; returns what was seen by place."""
    paths = Paths(backups=folder / "backups", state=folder / "state", socket=folder / "s")
    spec = RunSpec(
        run="none", job=job_spec(destinations=destinations, **job), paths=paths, trigger="manual", action="look"
    )
    with Catalog(paths.state / "catalog.db") as opened:
        found = list(look(spec, opened, SystemClock(), open_store, patience))
    assert len({one.place for one in found}) == len(found)
    return {one.place: one for one in found}


def ctl(site: Site, *words: str) -> subprocess.CompletedProcess[str]:
    """Run backupctl."""
    argv = [sys.executable, "-m", "nanumpay_backupd.cli", "--socket", str(site.socket), *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


def checks(site: Site, **params: Any) -> dict[tuple[str, str], dict[str, Any]]:
    """Return what Monitor says, by place and check."""
    return {(one["destination"], one["check"]): one for one in site.call("Monitor", **params)["checks"]}


def test_places_are_looked_at_side_by_side(tmp_path: Path) -> None:
    """One that is silent, one that refuses and one whose folder is gone hold up none of the others."""
    with silent_server() as silent, start_s3(tmp_path) as s3, start_pyftpdlib(tmp_path / "ftp") as ftp:
        started = SystemClock().monotonic()
        found = seen(
            tmp_path,
            ftp.destination(name="silent", port=silent, timeout=60.0),
            FtpDestination(name="away", host="127.0.0.1", port=free_port(), timeout=5.0),
            s3.destination(name="wrong", secret_access_key=Secret("no")),
            s3.destination(name="cloud"),
            ftp.destination(name="office"),
            LocalDestination(name="usb", path=str(tmp_path / "usb"), require_mount=True),
            patience=4.0,
        )
        assert SystemClock().monotonic() - started < 30  # not the minute that the silent one may take
    codes = {place: one.fault.code for place, one in found.items() if one.fault is not None}
    assert codes["silent"] == codes["away"] == "destination-unreachable"
    assert codes["wrong"] == "destination-auth"
    assert codes.keys() == {"silent", "away", "wrong", "usb"}
    assert found[LOCAL].free
    assert "within 4 s" in str(found["silent"].fault)


def test_a_copy_that_somebody_deleted_there(tmp_path: Path) -> None:
    """The newest good copy that should be at a place is asked for: gone or cut short is a failure, wherever it is."""
    usb = LocalDestination(name="usb", path=str(tmp_path / "usb"))
    layout = Layout(tmp_path / "backups")
    layout.create()
    with Catalog(tmp_path / "state" / "catalog.db") as opened:
        backup = published(layout, opened)
        now = datetime.now(UTC)
        copy = Copy(
            backup=backup.id,
            destination="usb",
            state=CopyState.UPLOADED,
            key=backup.artifact,
            size=backup.size,
            updated=now,
        )
        opened.save_copy(copy)
    there = tmp_path / "usb" / backup.artifact
    there.parent.mkdir()
    there.write_bytes(bytes(backup.size))
    found = seen(tmp_path, usb)
    assert found["usb"].fault is None
    assert found[LOCAL].fault is None
    assert found["usb"].device == found[LOCAL].device == os.stat(tmp_path).st_dev
    there.write_bytes(b"short")
    fault = seen(tmp_path, usb)["usb"].fault
    assert fault is not None
    assert (fault.code, backup.id in fault.message) == ("object-missing", True)
    layout.artifact(backup.artifact).unlink()
    local = seen(tmp_path, usb)[LOCAL].fault
    assert local is not None
    assert local.code == "artifact-missing"
    layout.backups.rename(tmp_path / "elsewhere")
    gone = seen(tmp_path, usb)[LOCAL].fault
    assert gone is not None
    assert gone.code == "folder-unusable"


def test_what_ends_is_seen_where_it_is(tmp_path: Path) -> None:
    """Certificates of FTPS, S3 and MongoDB as they are shown, the client's own, keys, and what the host file says."""
    soon, later = make_certificate(tmp_path / "soon", days=6), make_certificate(tmp_path / "later", days=300)
    key, private = pgp_key("short", expires="5d"), pgp_key("private", expires="40d")
    with (
        start_pyftpdlib(tmp_path / "ftp", soon) as ftp,
        start_s3(tmp_path, later) as s3,
        start_mongod(extra_args=("--tlsMode", "preferTLS", "--tlsCertificateKeyFile", str(soon.bundle))) as mongod,
    ):
        uri = f"{mongod.uri_for('pay')}&tls=true&tlsCAFile={soon.authority}&tlsCertificateKeyFile={later.bundle}"
        found = seen(
            tmp_path,
            ftp.destination(name="office"),
            s3.destination(name="cloud"),
            source=MongoSource(uri=Secret(uri), database="pay"),
            encryption=JobEncryption(
                method="openpgp", scope="all", recipients=(str(key.public),), decrypt_with=(private.private,)
            ),
            healths={"cloud": HealthLimits(expires=datetime(2031, 1, 31, tzinfo=UTC).date())},
        )
    assert all(one.fault is None for one in found.values()), found
    days = {
        (place, one.what): round((one.expires - datetime.now(UTC)).total_seconds() / 86400)
        for place, sight in found.items()
        for one in sight.endings
    }
    access = days.pop(("cloud", "the access to cloud (as expires in its table says)"))
    assert access == round((datetime(2031, 1, 31, tzinfo=UTC) - datetime.now(UTC)).total_seconds() / 86400)
    assert days == {
        ("office", f"the certificate of 127.0.0.1:{ftp.port}"): 6,
        ("cloud", f"the certificate of {s3.endpoint.removeprefix('https://')}"): 300,
        ("", f"the certificate of 127.0.0.1:{mongod.port}"): 6,
        ("", f"the certificate for MongoDB in {later.bundle}"): 300,
        ("", "the key short <short@example.com>"): 5,
        ("", "the private key private <private@example.com>"): 40,
    }


def test_a_key_that_is_over(tmp_path: Path) -> None:
    """Nothing can be encrypted to it any more: a fault of the job, and none of its places."""
    made = str(int((datetime.now(UTC) - timedelta(days=20)).timestamp()))
    key = pgp_key("over", expires="5d", made=made)
    found = seen(tmp_path, encryption=JobEncryption(method="openpgp", scope="all", recipients=(str(key.public),)))
    fault = found[""].fault
    assert fault is not None
    assert fault.code == "recipient-unusable"
    assert found[LOCAL].fault is None


def test_a_lost_collection_is_told_once_and_the_last_good_backup_stays(site: Site, web: WebServer) -> None:
    """Dropped by mistake: flagged, told, pinned against retention, over a restart; as usual again, it is over."""
    site.write_config(
        f"[channel.hook]\naddress = 'json://127.0.0.1:{web.port}/hook'\n[nanumpay.retention]\ncount = 2\n"
        "[monitor]\nat = 'never'\n"
    )
    with site.db() as db:
        db.orders.insert_many([{"_id": at, "text": "x" * 100} for at in range(500)])
        site.start()
        for _ in range(3):
            assert site.run()["warnings"] == []
        good = site.list_backups()[0]["id"]
        assert ctl(site, "monitor").returncode == EXIT_OK
        db.orders.drop()
        odd = site.run()
        assert odd["outcome"] == "succeeded"
        assert "orders is gone (it held 500)" in odd["warnings"][0]
        assert good in odd["warnings"][0]
        wait_for(lambda: [item for item in web.requests if "needs attention" in item.json["title"]], "the message")
        site.stop()
        site.start()
        for _ in range(2):
            assert site.run()["warnings"] == []
        states = {item["id"]: (bool(item["odd"]), bool(item["pinned"])) for item in site.list_backups()}
        assert states.pop(good) == (False, True)
        assert list(states.values()) == [(True, False)] * 2
        said = ctl(site, "monitor")
        assert said.returncode == EXIT_UNHEALTHY
        assert "FAILED nanumpay: " in said.stdout
        assert f"is odd: collection {site.database}.orders is gone" in said.stdout
        assert f"as in {odd['backup']}" in said.stdout
        assert f"what was there is in {good}, which is pinned" in said.stdout
        assert "odd" in ctl(site, "list").stdout
        assert ctl(site, "status").returncode == EXIT_UNHEALTHY
        db.orders.insert_many([{"_id": at, "text": "x" * 100} for at in range(500)])
    assert site.run()["warnings"] == []
    assert ctl(site, "monitor").returncode == EXIT_OK
    wait_for(lambda: [item for item in web.requests if "is well again" in item.json["title"]], "the end")
    titles = [item.json["title"].partition("] ")[2] for item in web.requests]
    assert len(titles) == 2, titles
    assert [item["id"] for item in site.list_backups() if item["pinned"]] == []


def test_what_is_meant_is_accepted(site: Site) -> None:
    """By an option; it is over then, the pin is gone, and what is not odd cannot be accepted."""
    with site.db() as db:
        db.orders.insert_many([{"_id": at, "text": "x" * 100} for at in range(500)])
        site.start()
        for _ in range(3):
            site.run()
        db.orders.drop()
    odd = site.run()["backup"]
    assert site.status()["health"] == "failing"
    done = ctl(site, "monitor", "--accept", odd)
    assert (done.returncode, done.stdout.startswith(f"Accepted: from {odd} on")) == (EXIT_OK, True)
    assert site.status()["health"] == "ok"
    assert {(item["odd"], item["pinned"]) for item in site.list_backups()} == {("", "")}
    again = ctl(site, "monitor", "--accept", odd)
    assert (again.returncode, "nothing is odd" in again.stderr) == (EXIT_REFUSED, True)


def test_a_place_that_is_away_is_a_failure_and_uploads_that_wait_tell_it(site: Site, web: WebServer) -> None:
    """Exit code 8 with the place named; while a copy waits for it that is what people are told, and nothing else."""
    port = free_port()
    site.write_config(
        f"[channel.hook]\naddress = 'json://127.0.0.1:{web.port}/hook'\n[retry]\nattempts = 1\n"
        "[nanumpay]\ndestinations = ['office', 'usb']\n[monitor]\nat = 'never'\n"
        f"[destination.office]\ntype = 'ftp'\nhost = '127.0.0.1'\nport = {port}\ntimeout = '2s'\n"
        f"[destination.usb]\ntype = 'local'\npath = '{site.folder}/usb'\n"
        "[destination.usb.monitor]\nmax_total_size = '512B'\nexpires = 2020-01-31\n"
    )
    site.start()
    assert site.run()["outcome"] == "degraded"
    found = checks(site)
    bad = {key: one["code"] for key, one in found.items() if one["state"] == "failed"}
    assert bad == {
        ("office", "reachable"): "destination-unreachable",
        ("usb", "size"): "size-exceeded",
        ("usb", "expiry"): "expiring",
    }
    assert found["usb", "reachable"]["state"] == "ok"
    said = ctl(site, "monitor", "nanumpay", "--last")
    assert said.returncode == EXIT_UNHEALTHY
    assert f"FTP server 127.0.0.1:{port}" in said.stdout
    problems = site.status()["problems"]
    assert sum("office" in line or "upload" in line for line in problems) == 1
    wait_for(lambda: len(web.requests) >= 3, "what is wrong")
    titles = " | ".join(item.json["title"] + item.json["message"] for item in web.requests)
    assert "a copy of nanumpay is missing" in titles
    assert "more than the 512 B that max_total_size allows" in titles
    assert "ended on 2020-01-31" in titles
    assert len(web.requests) == 3


def test_a_place_that_was_away_for_a_moment_is_told_to_nobody(site: Site, web: WebServer) -> None:
    """What did not answer a quarter of an hour ago is looked at again, whatever the schedule, and is well then."""
    (site.folder / "usb").mkdir()
    site.write_config(
        f"[channel.hook]\naddress = 'json://127.0.0.1:{web.port}/hook'\n[monitor]\nat = 'never'\n"
        f"[nanumpay]\ndestinations = ['usb']\n[destination.usb]\ntype = 'local'\npath = '{site.folder}/usb'\n"
    )
    away = ErrorInfo(code="destination-unreachable", message="no answer", hint="plug it in")
    then = datetime.now(UTC) - timedelta(seconds=AGAIN + 30)
    with Catalog(site.state / "catalog.db") as opened:
        keep(opened, Memory(at=then, sights={"nanumpay": (Sight(place="usb", at=then, fault=away),)}))
    site.start()
    wait_for(lambda: checks(site, recorded=True)["usb", "reachable"]["state"] == "ok", "the second look")
    assert not [line for line in site.status()["problems"] if "usb" in line]
    assert web.requests == []


def test_the_daily_round(site: Site) -> None:
    """What was due while the daemon was down is looked at after the start, once; the journal gets a line."""
    (site.folder / "usb").mkdir()
    site.write_config(
        f"[nanumpay]\ndestinations = ['usb']\n[destination.usb]\ntype = 'local'\npath = '{site.folder}/usb'\n"
        "[destination.usb.monitor]\nexpires = 2020-01-31\n"
    )
    site.start()
    assert site.run()["outcome"] == "succeeded"
    assert ctl(site, "monitor").returncode == EXIT_UNHEALTHY
    assert "looked at" not in site.log()
    site.stop()
    with catalog(site) as db:
        ((record,),) = db.execute("SELECT record FROM memory WHERE key = 'monitor'").fetchall()
        memory = json.loads(record)
        memory["at"] = (datetime.now(UTC) - timedelta(hours=47)).isoformat()
        memory["sights"] = {}
        db.execute("UPDATE memory SET record = ? WHERE key = 'monitor'", (json.dumps(memory).encode(),))
    site.start()
    assert ("usb", "reachable") not in checks(site, recorded=True)
    wait_for(lambda: "looked at 2 places: 1 checks failed" in site.log(), "the round")
    found = checks(site, recorded=True)
    assert found["usb", "reachable"]["state"] == "ok"
    assert found["usb", "expiry"]["state"] == "failed"
    assert any("ended on 2020-01-31" in line for line in site.status()["problems"])
    assert site.log().count("looked at") == 1
    # A folder that is gone is a finding like others, and not the end of the question.
    site.backups.rename(site.folder / "elsewhere")
    site.backups.write_text("no folder", encoding="ascii")
    said = ctl(site, "monitor")
    assert (said.returncode, f"{site.backups} cannot be used: Not a directory" in said.stdout) == (EXIT_UNHEALTHY, True)
