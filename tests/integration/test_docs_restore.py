"""The commands of docs/ that people paste in need are run as they stand there, on a backup that the product made."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pymongo
import pytest

from tests.compare import compare_databases, describe_database
from tests.sample_data import load, save_settings
from tests.servers.daemon import backup_settings, open_site
from tests.servers.ftp import PASSWORD, FtpServer, start_pyftpdlib
from tests.servers.mongod import Mongod, start_mongod
from tests.servers.s3 import ACCESS_KEY, SECRET_KEY, S3Server, start_s3
from tests.servers.tools import PROJECT

pytestmark = pytest.mark.servers

DATABASE: Final = "nanumpay"
Document = dict[str, Any]


def block(page: str, name: str) -> str:
    """Return the fenced block behind the mark ``<!-- test: NAME -->`` of a page, as it stands there."""
    text = (PROJECT / "docs" / page).read_text(encoding="utf-8")
    found = re.findall(rf"^<!-- test: {name} -->\n```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(found) == 1, f"{page} has {len(found)} blocks marked {name}"
    return str(found[0])


@dataclass(frozen=True)
class House:
    """One MongoDB with the application's data, two remote places, and the backup made of it."""

    client: pymongo.MongoClient[Document]
    uri: str
    backups: Path
    backup: str
    s3: S3Server
    ftp: FtpServer

    def paste(self, page: str, name: str, folder: Path, environment: dict[str, str] | None = None) -> str:
        """Run a block of a page with a shell that stops at the first failure; returns all it said."""
        own = {"BACKUP": self.backup, "URI": self.uri, **(environment or {})}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block(page, name)],
            cwd=folder,
            env={**os.environ, **own},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        return said

    def artifact_in(self, folder: Path) -> Path:
        """Bring the artifact into an empty folder, as an operator would."""
        return Path(shutil.copy(self.backups / f"{self.backup}.tar.gz", folder))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Make one backup with copies at an S3 and an FTP server, by the product's own command."""
    folder = tmp_path_factory.mktemp("house")
    with (
        start_mongod() as mongod,
        start_s3(folder) as s3,
        start_pyftpdlib(folder / "ftp") as ftp,
        mongod.client() as client,
    ):
        load(client[DATABASE], 0.05)
        save_settings(client[DATABASE], backup_settings(storage={"type": "none"}))
        config = folder / "backupd.toml"
        config.write_text(_host_file(folder, mongod.uri_for(DATABASE), s3, ftp), encoding="utf-8")
        config.chmod(0o600)
        command = [sys.executable, "-m", "nanumpay_backupd", "--config", str(config), "run-once"]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        (artifact,) = (folder / "backups").glob("*.tar.gz")
        backup = artifact.name.removesuffix(".tar.gz")
        yield House(client, f"mongodb://{mongod.address}", folder / "backups", backup, s3, ftp)


def _host_file(folder: Path, uri: str, s3: S3Server, ftp: FtpServer) -> str:
    return f"""
        [mongodb]
        uri = "{uri}"
        [paths]
        backups = "{folder}/backups"
        state = "{folder}/state"
        [nanumpay]
        destinations = ["offsite", "office"]
        [destination.offsite]
        type = "s3"
        bucket = "{s3.bucket}"
        endpoint_url = "{s3.endpoint}"
        path_style = true
        access_key_id = "{ACCESS_KEY}"
        secret_access_key = "{SECRET_KEY}"
        [destination.office]
        type = "ftp"
        host = "{ftp.host}"
        port = {ftp.port}
        username = "{ftp.user}"
        password = "{PASSWORD}"
        """


@pytest.mark.promise("Every backup restores with stock tools alone, by the commands of the docs.", item=13)
def test_restore_by_hand_brings_everything_back(house: House, tmp_path: Path) -> None:
    """After damage to the database the two commands of the contract make it what it was, collection by collection."""
    before = describe_database(house.client, DATABASE)
    house.client[DATABASE].users.delete_many({})
    house.client[DATABASE].useraccounts.update_many({}, {"$set": {"isActive": False}})
    house.client[DATABASE].drop_collection("weeklypaymentplans")
    house.artifact_in(tmp_path)
    said = house.paste("operations.md", "restore-by-hand", tmp_path)
    assert " 0 document(s) failed to restore" in said
    assert describe_database(house.client, DATABASE) == before


def test_restore_into_another_database(house: House, tmp_path: Path) -> None:
    """Under another name there is the same, and the original is not touched."""
    before = describe_database(house.client, DATABASE)
    house.artifact_in(tmp_path)
    house.paste("operations.md", "restore-other-database", tmp_path)
    assert compare_databases(house.client, DATABASE, "nanumpay_check") == []
    assert describe_database(house.client, DATABASE) == before
    house.client.drop_database("nanumpay_check")


@pytest.mark.parametrize("tail", ["", f"/{DATABASE}"], ids=["URI without a database", "URI with it"])
def test_restore_one_collection(house: House, tmp_path: Path, tail: str) -> None:
    """One collection is what it was, indexes included; what changed elsewhere meanwhile stays changed."""
    before = describe_database(house.client, DATABASE)
    house.client[DATABASE].users.delete_many({})
    house.client[DATABASE].users.drop_indexes()
    house.client[DATABASE].admins.insert_one({"loginId": "new"})
    house.artifact_in(tmp_path)
    house.paste("operations.md", "restore-one-collection", tmp_path, {"URI": house.uri + tail})
    after = describe_database(house.client, DATABASE)
    assert after["users"] == before["users"]
    assert after["admins"] != before["admins"]
    house.client[DATABASE].admins.delete_one({"loginId": "new"})
    assert describe_database(house.client, DATABASE) == before


@pytest.mark.promise("Every backup restores with stock tools alone, by the commands of the docs.", item=13)
def test_the_checksum_line_tells_a_whole_file_from_a_damaged_one(house: House, tmp_path: Path) -> None:
    """It says OK of the file as it is, and fails when a byte of it changed."""
    assert ": OK" in house.paste("operations.md", "check-sum", house.backups)
    copy = house.artifact_in(tmp_path)
    shutil.copytree(house.backups / ".backupd" / "manifests", tmp_path / ".backupd" / "manifests")
    with copy.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        last = stream.read(1)
        stream.seek(-1, os.SEEK_END)
        stream.write(bytes([last[0] ^ 1]))
    with pytest.raises(AssertionError, match="FAILED"):
        house.paste("operations.md", "check-sum", tmp_path)


@pytest.mark.promise("Every backup restores with stock tools alone, by the commands of the docs.", item=13)
def test_a_copy_is_fetched_from_s3(house: House, tmp_path: Path) -> None:
    """The rclone lines bring the very artifact."""
    keys = {"S3_PROVIDER": "Other", "S3_ENDPOINT": house.s3.endpoint, "S3_KEY": ACCESS_KEY, "S3_SECRET": SECRET_KEY}
    own = {**keys, "S3_BUCKET": house.s3.bucket, "RCLONE_CONFIG": os.devnull}
    house.paste("operations.md", "fetch-from-s3", tmp_path, own)
    name = f"{house.backup}.tar.gz"
    assert (tmp_path / name).read_bytes() == (house.backups / name).read_bytes()


@pytest.mark.promise("Every backup restores with stock tools alone, by the commands of the docs.", item=13)
def test_a_copy_is_fetched_from_ftp(house: House, tmp_path: Path) -> None:
    """The curl line brings the very artifact."""
    own = {"FTP_USER": f"{house.ftp.user}:{PASSWORD}", "FTP_HOST": f"{house.ftp.host}:{house.ftp.port}"}
    house.paste("operations.md", "fetch-from-ftp", tmp_path, own)
    name = f"{house.backup}.tar.gz"
    assert (tmp_path / name).read_bytes() == (house.backups / name).read_bytes()


@pytest.mark.parametrize("name", ["python-client", "varlink-client"])
def test_the_examples_for_programs_talk_to_a_daemon(tmp_path: Path, name: str, mongod_rs: Mongod) -> None:
    """The clients of docs/protocol.md, pasted as they are but for the socket's path, tell the health of a daemon."""
    with open_site(mongod_rs, backup_settings(storage={"type": "none"})) as site:
        site.start()
        program = block("protocol.md", name).replace("/run/nanumpay-backupd/control.sock", str(site.socket))
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split()[0] in ("ok", "warning")
        if name == "varlink-client":
            assert done.stdout.split()[-1] == "succeeded"


def test_the_shell_line_gets_an_answer(mongod_rs: Mongod) -> None:
    """The first socat line of docs/protocol.md is answered with the status, in one line of JSON."""
    text = (PROJECT / "docs" / "protocol.md").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("echo ") and "GetStatus" in line)
    with open_site(mongod_rs, backup_settings(storage={"type": "none"})) as site:
        site.start()
        command = line.partition(" | jq")[0].replace("/run/nanumpay-backupd/control.sock", str(site.socket))
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout.startswith('{"parameters":{"version"')
        assert done.stdout.endswith("}\n")
