"""Secrets stay where they belong: not in argv, environments, logs, status, settings, records, manifests or errors."""

from __future__ import annotations

import contextlib
import json
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from nanumpay_backupd.control.client import RemoteError
from tests.servers.daemon import Site, backup_settings, open_site, slow_mongodump, wait_for
from tests.servers.mongod import PASSWORD as MONGO_PASSWORD
from tests.servers.mongod import Mongod, start_mongod
from tests.servers.process import free_port

pytestmark = [
    pytest.mark.servers,
    pytest.mark.promise("Secrets stand in no command line, no environment, no log, no record and no error.", item=14),
]

FTP_PASSWORD = "ftp-Geheimnis/비밀:@1"
S3_SECRET = "s3-Geheimnis/비밀+2"
FILE_SECRET = "datei-Geheimnis=비밀3"
WRONG = "falsches-Geheimnis-4"


def forms(secret: str) -> set[bytes]:
    """Return a secret as it may be written: as it is, in a URI, in JSON."""
    texts = {secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1]}
    return {text.encode() for text in texts}


ALL = set().union(*(forms(secret) for secret in (MONGO_PASSWORD, FTP_PASSWORD, S3_SECRET, FILE_SECRET, WRONG)))


def leaks(data: bytes | str) -> set[bytes]:
    """Return the secrets found in some output."""
    raw = data.encode() if isinstance(data, str) else data
    return {secret for secret in ALL if secret in raw}


@pytest.fixture(scope="module")
def guarded() -> Iterator[Mongod]:
    """A mongod that asks for a password."""
    with start_mongod(auth=True) as server:
        yield server


@pytest.fixture
def site(guarded: Mongod, tmp_path: Path) -> Iterator[Site]:
    """A running site with four secrets, whose two destinations nobody answers at, and whose every event is kept."""
    closed = free_port()
    settings = backup_settings(
        s3={"bucket": "backups", "accessKeyId": "AKIAEXAMPLE", "secretAccessKey": S3_SECRET},
        ftp={"host": "127.0.0.1", "port": closed, "username": "u", "password": FTP_PASSWORD},
    )
    (tmp_path / "secret").write_text(FILE_SECRET, encoding="utf-8")
    (tmp_path / "secret").chmod(0o600)
    with open_site(guarded, settings) as site:
        site.write_config(
            "[nanumpay]\ndestinations = ['cloud']\n[retry]\nattempts = 2\ndelay = '1s'\n[log]\nlevel = 'debug'\n"
            f"[tools]\nmongodump = '{slow_mongodump(site, at='start')}'\n"
            f"[destination.cloud]\ntype = 's3'\nbucket = 'backups'\naccess_key_id = 'AKIAEXAMPLE'\npath_style = true\n"
            f"secret_access_key = {{ file = '{tmp_path}/secret' }}\nendpoint_url = 'http://127.0.0.1:{closed}'\n"
        )
        site.start(environment={"MONGODB_URI": site.uri})
        yield site


def everything(site: Site) -> str:
    """Return all that the daemon answers to somebody who looks."""
    calls = ["GetStatus", "GetSettings", "ListJobs", "ListRuns", "ListBackups", "Doctor", "Prune"]
    return json.dumps([site.call(name) for name in calls], ensure_ascii=False)


def watch(site: Site, kept: list[Any]) -> threading.Thread:
    """Keep every event from now on, until the daemon stops."""
    stream = site.client.stream("Watch")
    begun = threading.Event()

    def follow() -> None:
        with contextlib.suppress(Exception):
            begun.set()
            kept.extend(stream)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    assert begun.wait(10)
    return thread


def test_a_run_leaks_nothing(site: Site) -> None:
    """A whole run with failing uploads and retries: no secret in any process's argv, in what is told or kept."""
    events: list[Any] = []
    watching = watch(site, events)
    wait = Path(f"{site.folder}/mongodump.wait")
    wait.touch()
    run = site.begin()
    wait_for(Path(f"{site.folder}/mongodump.waiting").exists, "a mongodump at work")
    seen = site.processes()
    assert any("mongodump --config=/dev/fd/" in command for command in seen.values()), seen
    for pid, command in seen.items():
        assert not leaks(command), f"argv of {pid}"
        if pid != site.process.pid:  # type: ignore[union-attr]  # which was given MONGODB_URI on purpose
            assert not leaks(Path(f"/proc/{pid}/environ").read_bytes()), f"environment of {command}"
    wait.unlink()
    assert site.ended(run)["outcome"] == "degraded"
    assert site.newest(trigger="retry")["outcome"] == "failed"
    assert not leaks(everything(site))
    assert site.stop() == 0
    watching.join(10)
    assert len(events) > 5
    assert not leaks(json.dumps(events, ensure_ascii=False))
    assert not leaks(site.log())
    for path in site.folder.rglob("*"):
        if path.is_file() and path not in {site.config, site.state / "settings.json"}:
            assert not leaks(path.read_bytes()), path
    assert leaks((site.state / "settings.json").read_bytes()), "the last good settings are whole"
    assert stat.S_IMODE((site.state / "settings.json").stat().st_mode) == 0o600


def test_errors_leak_nothing(site: Site) -> None:
    """Wrong passwords, a URI that cannot be read: what is said of them does not contain them."""
    good, config = site.uri, site.config.read_text(encoding="utf-8")
    for uri in (
        good.replace(quote(MONGO_PASSWORD, safe=""), WRONG),
        f"mongodb://root:{WRONG}@127.0.0.1:notaport/x",
        f"mongodb://root:{WRONG}@127.0.0.1/x?tls=true&tlsCAFile=/nowhere",
    ):
        site.config.write_text(config.replace(good, uri), encoding="utf-8")
        told = ""
        try:
            told = site.call("Reload")["message"]
            problem = wait_for(lambda: site.status()["settings"].get("problem"), f"a problem with {uri}") or {}
            told += json.dumps(problem) + json.dumps(site.run(force=True))
        except RemoteError as error:
            told += f"{error.message} {error.hint}"
        assert told
        assert not leaks(told), uri
        assert not leaks(everything(site)), uri
    assert not leaks(site.log())
    assert not leaks(site.notify.status)
