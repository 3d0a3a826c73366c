"""Redis through a real daemon: encrypted to S3, verified, drilled, and brought back from the bucket alone.

By us on a machine that has nothing else, and by the lines of the page with stock tools.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from nanumpay_backupd.settings.sources import RedisMode
from tests.integration.test_cli import backupctl
from tests.integration.test_redis import seven
from tests.integration.test_sqlite import Nowhere
from tests.keys import age_key
from tests.servers.daemon import Site, open_site
from tests.servers.redis import PASSWORD, Redis, content_of, fill_with_everything, find_redis, start_redis
from tests.servers.s3 import ACCESS_KEY, SECRET_KEY, S3Server, start_s3
from tests.servers.tools import PROJECT

pytestmark = [pytest.mark.servers, seven]

PAGE: Final = PROJECT / "docs" / "sources" / "redis.md"


class Host:
    """A host with a daemon, a Redis with an AOF, a backup of it in each way, and a bucket that has them."""

    def __init__(self, site: Site, s3: S3Server, redis: Redis) -> None:
        self.site = site
        self.s3 = s3
        self.redis = redis
        self.identity = site.folder / "identity"
        self.before = content_of(redis)
        self.backups: dict[str, dict[str, Any]] = {mode: self._save(mode) for mode in RedisMode}

    def ctl(self, *words: str) -> str:
        """Run backupctl, which has to succeed; returns what it said."""
        done = backupctl(self.site.socket, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        assert PASSWORD not in done.stdout + done.stderr
        return done.stdout + done.stderr

    def _save(self, mode: str) -> dict[str, Any]:
        self.ctl("run", mode)
        (run, *_) = self.site.call("ListRuns", job=mode)["runs"]
        backup: dict[str, Any] = self.site.call("DescribeBackup", backup=run["backup"])["backup"]
        assert {(copy["destination"], copy["state"]) for copy in backup["copies"]} == {
            ("local", "verified"),
            ("cloud", "verified"),
        }
        return backup

    def fetched(self, mode: str, folder: Path) -> str:
        """Decrypt the object of a backup with age alone into a folder; returns the name of the backup."""
        name: str = self.backups[mode]["id"]
        (found,) = (self.s3.root / self.s3.bucket).rglob(f"{name}.tar.gz.age")
        assert b"until 2100" not in found.read_bytes()
        subprocess.run(["age", "-d", "-i", self.identity, "-o", folder / f"{name}.tar.gz", found], check=True)
        return name


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host with a job for each way of saving its Redis."""
    root = tmp_path_factory.mktemp("host")
    pair = age_key("first")
    with (
        start_s3(root) as s3,
        start_redis(root / "redis", appendonly="yes", appendfsync="always") as redis,
        open_site(Nowhere(), fill=False) as site,
    ):
        fill_with_everything(redis)
        for name, text in (("identity", pair.identity.reveal()), ("url", redis.settings().url.reveal())):
            (site.folder / name).touch(mode=0o600)
            (site.folder / name).write_text(text)
        jobs = "".join(
            f"""
            [[job]]
            name = "{mode}"
            type = "redis"
            mode = "{mode}"
            url = {{ file = "{site.folder}/url" }}
            {f'data_folder = "{redis.folder}"' if mode == RedisMode.AOF else ""}
            destinations = ["cloud"]
            [job.encryption]
            method = "age"
            scope = "remote"
            recipients = ["{pair.recipient}"]
            decrypt_with = {{ file = "{site.folder}/identity" }}
            """
            for mode in RedisMode
        )
        site.write_config(
            f"""
            [nanumpay]
            enabled = false
            [tools]
            redis_server = "{find_redis()}"
            {jobs}
            [destination.cloud]
            type = "s3"
            bucket = "{s3.bucket}"
            endpoint_url = "{s3.endpoint}"
            path_style = true
            access_key_id = "{ACCESS_KEY}"
            secret_access_key = "{SECRET_KEY}"
            """
        )
        site.start()
        yield Host(site, s3, redis)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Redis]:
    """Give an empty server with a password of the same kind."""
    with start_redis(tmp_path / "other") as redis:
        yield redis


def lines_of(mark: str) -> str:
    """Return the commands of the page behind a mark."""
    (lines,) = re.findall(
        rf"^<!-- test: {mark} -->\n```sh\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert isinstance(lines, str)
    return lines


def typed(lines: str, folder: Path, **more: str) -> str:
    """Type lines in a folder, with Redis' tools on PATH; what gives files to the user redis is as ours."""
    lines = re.sub(r"^chown .*$", "true", lines.replace("-o redis -g redis ", ""), flags=re.MULTILINE)
    path = f"{Path(find_redis()).parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", lines],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(PROJECT), "TMPDIR": str(folder), **more},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("mode", list(RedisMode))
def test_a_drill_of_the_copy_in_the_bucket(host: Host, mode: str) -> None:
    """What is encrypted in the bucket is fetched, opened, loaded by a server of its own and compared."""
    host.ctl("drill", mode, "--from", "cloud")
    (run, *_) = host.site.call("ListRuns", job=mode)["runs"]
    assert (run["action"], run["outcome"]) == ("drill", "succeeded")


@pytest.mark.parametrize("mode", [RedisMode.SNAPSHOT, RedisMode.LOGICAL])
def test_by_the_daemon_from_the_bucket(host: Host, other: Redis, mode: str) -> None:
    """Restored from the bucket into another server, it holds what the first one holds."""
    host.ctl("restore", host.backups[mode]["id"], "--from", "cloud", "--to", f"redis://{other.address}", "--yes")
    assert content_of(other) == host.before


def test_a_login_in_the_address_is_refused_and_not_repeated(host: Host, other: Redis) -> None:
    """What was typed is nowhere told again: not in the fault, not in the run's record."""
    address = f"redis://:not-for-others@{other.address}"
    params = {"backup": host.backups[RedisMode.LOGICAL]["id"], "to_database": address, "safety": False}
    *_, last = host.site.client.stream("Restore", params, timeout=60)
    assert last["run"]["error"]["code"] == "target-refused"
    assert "has a login in it" in last["run"]["error"]["message"]
    assert "not-for-others" not in json.dumps(host.site.call("DescribeRun", run=last["run"]["id"]))
    assert "not-for-others" not in host.site.log()


@pytest.mark.parametrize("mode", [RedisMode.SNAPSHOT, RedisMode.LOGICAL])
def test_the_bucket_alone_into_a_running_server(host: Host, other: Redis, tmp_path: Path, mode: str) -> None:
    """On a machine without host file and daemon, by the lines of the page: bucket and key fill the server again."""
    lines = [line for line in lines_of("new-machine").splitlines() if "--to" not in line and "export" not in line]
    said = typed(machine(lines, host, mode), tmp_path, **secrets(host, other))
    assert host.backups[mode]["id"] in said
    assert PASSWORD not in said
    assert content_of(other) == host.before


@pytest.mark.parametrize("mode", [RedisMode.SNAPSHOT, RedisMode.AOF])
def test_the_bucket_alone_into_a_data_folder(host: Host, tmp_path: Path, mode: str) -> None:
    """The same into a folder, without any server: one that is started there has everything."""
    (tmp_path / "data").mkdir()
    lines = [line for line in lines_of("new-machine").splitlines() if "--to" in line]
    typed(machine(lines, host, mode), tmp_path, **secrets(host, None), DATA=str(tmp_path / "data"))
    with start_redis(tmp_path / "data", appendonly="yes" if mode == RedisMode.AOF else "no") as back:
        assert content_of(back) == host.before


def machine(lines: list[str], host: Host, mode: str) -> str:
    """Fill in what the page leaves open."""
    text = "\n".join(lines).replace("--job cache", f"--job {mode}")
    return text.replace("key.txt", shlex.quote(str(host.identity)))


def secrets(host: Host, server: Redis | None) -> dict[str, str]:
    """Return what the environment of a new machine has."""
    return {
        "PLACE": f"s3://{host.s3.bucket}/nanumpay-backup/",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_ENDPOINT_URL": host.s3.endpoint,
        "REDIS_URL": server.settings().url.reveal() if server is not None else "redis://127.0.0.1:1",
    }


@pytest.mark.parametrize("mode", [RedisMode.SNAPSHOT, RedisMode.AOF])
def test_the_files_by_hand(host: Host, tmp_path: Path, mode: str) -> None:
    """With age, tar and Redis' tools alone, by the lines of the page, a server starts with everything."""
    data = tmp_path / "data"
    data.mkdir()
    name = host.fetched(mode, tmp_path)
    typed(lines_of(f"by-hand-{mode}"), tmp_path, BACKUP=name, DATA=str(data))
    with start_redis(data, appendonly="yes" if mode == RedisMode.AOF else "no") as back:
        assert content_of(back) == host.before


def test_the_keys_by_hand(host: Host, other: Redis, tmp_path: Path) -> None:
    """With age, tar and redis-cli alone, by the lines of the page, all keys come back; and one can be looked up."""
    name = host.fetched(RedisMode.LOGICAL, tmp_path)
    url = {"URL": f"redis://{other.address}", "REDISCLI_AUTH": PASSWORD}
    typed(lines_of("by-hand-logical"), tmp_path, BACKUP=name, **url)
    assert content_of(other) == host.before
    assert "안녕" in typed(lines_of("by-hand-one-key"), tmp_path, BACKUP=name)
