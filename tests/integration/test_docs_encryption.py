"""docs/encryption.md: keys are made, settings read, backups restored, with the commands as they stand there.

`nanumpay-backupd restore --from` of encrypted copies is tried here too, at a terminal and without one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pymongo
import pytest

from nanumpay_backupd.settings.hostfile import parse_host_file
from nanumpay_backupd.settings.merge import build_jobs
from nanumpay_backupd.settings.schema import JobEncryption
from nanumpay_backupd.system.secrets import Secret
from nanumpay_backupd.transforms.age import Age
from nanumpay_backupd.transforms.openpgp import OpenPgp
from tests.compare import describe_database
from tests.integration.test_cli import Terminal
from tests.integration.test_docs_restore import Document, block
from tests.keys import PASSPHRASE, age_key
from tests.sample_data import load, save_settings
from tests.servers.daemon import backup_settings
from tests.servers.mongod import Mongod, start_mongod
from tests.servers.tools import PROJECT, tools_path

pytestmark = pytest.mark.servers

PAGE: Final = "encryption.md"
DATABASE: Final = "nanumpay"
KEY_PASSPHRASE: Final = "that of the key itself"


@dataclass(frozen=True)
class Desk:
    """A machine of an operator: an environment, a gpg of his own, a MongoDB, and the copies of three hosts."""

    server: Mongod
    client: pymongo.MongoClient[Document]
    folder: Path
    environment: dict[str, str]
    held: object
    backups: dict[str, str]

    def place(self, way: str) -> Path:
        """Return the folder with the copies of one host."""
        return self.folder / way / "usb"

    def run(self, *command: str, cwd: Path | None = None, given: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command as the operator does."""
        return subprocess.run(
            command,
            cwd=cwd or self.folder,
            env=self.environment,
            input=given,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def paste(self, name: str, cwd: Path | None = None, **more: str) -> str:
        """Run a block of the page; returns what it said."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block(PAGE, name)],
            cwd=cwd or self.folder,
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def restore(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Type ``nanumpay-backupd restore WORDS``, not at a terminal."""
        return self.run(sys.executable, "-m", "nanumpay_backupd", "restore", *words)

    def empty(self) -> None:
        """Take the data away."""
        self.client.drop_database(DATABASE)

    def is_back(self) -> bool:
        """Tell whether all is there again."""
        return describe_database(self.client, DATABASE) == self.held

    def host(self, way: str, settings: str) -> None:
        """Make a backup by the product's own command on a host with these settings."""
        root = self.folder / way
        root.mkdir()
        config = root / "backupd.toml"
        config.write_text(_host_file(self.server.uri_for(DATABASE), root, settings), encoding="utf-8")
        config.chmod(0o600)
        done = self.run(sys.executable, "-m", "nanumpay_backupd", "--config", str(config), "run-once")
        assert done.returncode == 0, done.stdout + done.stderr
        (artifact,) = (root / "backups").glob("*.tar.gz")
        self.backups[way] = artifact.name.removesuffix(".tar.gz")


def _host_file(uri: str, root: Path, settings: str) -> str:
    return f"""
        [mongodb]
        uri = "{uri}"
        [paths]
        backups = "{root}/backups"
        state = "{root}/state"
        [nanumpay]
        destinations = ["usb"]
        [destination.usb]
        type = "local"
        path = "{root}/usb"
        {settings}
    """


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """Make keys by the page's commands, and backups with them, and with a passphrase and age."""
    folder = tmp_path_factory.mktemp("desk")
    home = folder / "gnupg"
    home.mkdir(mode=0o700)
    (folder / "key-passphrase").write_text(KEY_PASSPHRASE + "\n")
    (folder / "phrase.txt").write_text(PASSPHRASE.reveal() + "\n")
    # Nobody sits at this terminal to whom pinentry could turn.
    (home / "gpg.conf").write_text(f"batch\npinentry-mode loopback\npassphrase-file {folder / 'key-passphrase'}\n")
    work = folder / "work"
    work.mkdir()
    with start_mongod() as server, server.client() as client:
        environment = {
            **os.environ,
            "PATH": tools_path(),
            "PYTHONPATH": str(PROJECT),
            "GNUPGHOME": str(home),
            "MONGODB_URI": server.uri_for("elsewhere"),
            "URI": f"mongodb://{server.address}",
            "TMPDIR": str(work),
        }
        load(client[DATABASE], 0.02)
        save_settings(client[DATABASE], backup_settings(storage={"type": "none"}))
        found = Desk(server, client, folder, environment, describe_database(client, DATABASE), {})
        try:
            found.paste("openpgp-key")
            (folder / "backup-key.txt").write_text(age_key("first").identity.reveal() + "\n")
            key = str(folder / "backup-key.asc")
            found.host("key", block(PAGE, "openpgp-config").replace("/etc/nanumpay/backup-key.asc", key))
            found.host("phrase", f'[encryption]\nmethod = "openpgp"\npassphrase = "{PASSPHRASE.reveal()}"\n')
            found.host("age", f'[encryption]\nmethod = "age"\nrecipients = ["{age_key("first").recipient}"]\n')
            yield found
        finally:
            subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)


def read(name: str, **files: Path) -> JobEncryption:
    """Read the settings of a block, with other files, as those of the job ``nanumpay``."""
    text = block(PAGE, name)
    for old, new in files.items():
        text = re.sub(rf'{{ credential = "{old.replace("_", "-")}" }}', f'{{ file = "{new}" }}', text)
    return build_jobs(parse_host_file(text, "page", environ={}), None)[0].encryption


def test_the_settings_are_accepted(desk: Desk) -> None:
    """Every piece of the host file on the page means what it says there."""
    desk.paste("passphrase")
    assert (desk.folder / "backup-passphrase").stat().st_mode & 0o077 == 0
    assert read("openpgp-config").recipients == ("/etc/nanumpay/backup-key.asc",)
    found = read("passphrase-config", backup_passphrase=desk.folder / "backup-passphrase")
    assert (found.method, found.scope, len(found.passphrase.reveal())) == ("openpgp", "remote", 40)
    assert read("age-config").method == "age"
    for name in ("backup-key.sec", "key-passphrase"):
        (desk.folder / name).chmod(0o600)
    found = read(
        "decrypt-config",
        backup_key=desk.folder / "backup-key.sec",
        backup_key_passphrase=desk.folder / "key-passphrase",
    )
    with OpenPgp(recipients=[str(desk.folder / "backup-key.asc")], keys=found.decrypt_with) as sealing:
        assert sealing.unseal(sealing.seal(b"hello"), "message") == b"hello"


def test_age_keys_are_made(desk: Desk, tmp_path: Path) -> None:
    """The public half that is printed is one to which can be encrypted."""
    said = desk.paste("age-key", tmp_path)
    with Age(recipients=[said.split()[-1]], keys=[Secret((tmp_path / "backup-key.txt").read_text())]) as sealing:
        assert sealing.unseal(sealing.seal(b"hello"), "message") == b"hello"


@pytest.mark.promise("Every backup restores with stock tools alone, by the commands of the docs.", item=13)
def test_restored_by_hand(desk: Desk, tmp_path: Path) -> None:
    """With gpg or age, tar and mongorestore alone, everything is as it was; the closed manifest can be read."""
    for way, name in (("key", "by-hand-openpgp"), ("age", "by-hand-age")):
        folder = tmp_path / way
        shutil.copytree(desk.place(way), folder)
        shutil.copy(desk.folder / "backup-key.txt", folder)
        desk.empty()
        desk.paste(name, folder, BACKUP=desk.backups[way])
        assert desk.is_back()
    whole = json.loads(desk.paste("by-hand-manifest", tmp_path / "key", BACKUP=desk.backups["key"]))
    assert whole["source"]["databases"] == [DATABASE]


def test_restored_on_a_new_machine(desk: Desk) -> None:
    """The page's two commands list without a key and restore with it."""
    desk.empty()
    said = desk.paste("restore-bare", PLACE=str(desk.place("key")))
    assert desk.backups["key"] in said
    assert "says no more than this without a key" in said
    assert "encrypted" in said.partition("\n")[0]
    assert desk.is_back()
    assert list((desk.folder / "work").iterdir()) == []


@pytest.mark.promise("Damage of one copy costs no other one, and no restore takes it for good.", item=5)
def test_no_key_a_wrong_one_and_a_broken_file(desk: Desk, tmp_path: Path) -> None:
    """Three different endings, and in none of them is anything changed."""
    desk.empty()
    place = tmp_path / "usb"
    shutil.copytree(desk.place("age"), place)
    identity = str(desk.folder / "backup-key.txt")
    wrong = tmp_path / "wrong.txt"
    wrong.write_text(age_key("second").identity.reveal())
    for words, code in (
        ((), "key-missing"),
        (("--identity", str(wrong)), "key-wrong"),
        (("--passphrase-file", str(desk.folder / "phrase.txt")), "key-missing"),
    ):
        done = desk.restore("--from", str(place), "--yes", *words)
        assert done.returncode == 1, done.stdout + done.stderr
        assert f"(code {code})" in done.stderr
        assert "Traceback" not in done.stderr
    done = desk.restore("--from", str(place), "--yes", "--identity", str(tmp_path / "none"))
    assert (done.returncode, "No such file" in done.stderr) == (2, True)
    done = desk.restore("--from", str(place), "--yes", "--identity", str(desk.folder / "backup-key.asc"))
    assert (done.returncode, "is a public key" in done.stderr) == (2, True)
    artifact = place / f"{desk.backups['age']}.tar.gz.age"
    content = bytearray(artifact.read_bytes())
    content[len(content) // 2] ^= 1
    artifact.write_bytes(bytes(content))
    done = desk.restore("--from", str(place), "--yes", "--identity", identity)
    assert done.returncode == 1
    assert "is not what was stored there" in done.stderr + done.stdout
    assert not desk.client[DATABASE].list_collection_names()
    assert desk.restore("--from", str(desk.place("age")), "--yes", "--identity", identity).returncode == 0
    assert desk.is_back()


def test_a_passphrase_is_asked_for_at_the_terminal(desk: Desk) -> None:
    """It is not shown while it is typed, a wrong one is asked for again, and nothing of it is left."""
    desk.empty()
    with Typing(desk, "--from", str(desk.place("phrase")), "--yes") as terminal:
        terminal.wait_for(f"Passphrase of {desk.backups['phrase']}.tar.gz.gpg: ")
        terminal.type("a wrong passphrase\n")
        # Both may come in one read.
        terminal.wait_for("none of the keys here opens it")
        terminal.text = terminal.text.partition("none of the keys here opens it")[2]
        terminal.wait_for("Passphrase of ")
        terminal.type(PASSPHRASE.reveal() + "\n")
        assert terminal.end() == 0, terminal.text
    assert PASSPHRASE.reveal() not in terminal.text
    assert desk.is_back()


class Typing(Terminal):
    """The command at a terminal."""

    program = "nanumpay_backupd"

    def __init__(self, desk: Desk, *words: str) -> None:
        super().__init__(desk.folder, "restore", *words, **desk.environment)


def test_check_config_and_rebuild_say_what_is_encrypted(desk: Desk) -> None:
    """A person who asks the configuration sees it; the catalog of a new machine is made with and without the key."""
    config = desk.folder / "key" / "backupd.toml"
    command = [sys.executable, "-m", "nanumpay_backupd", "--config", str(config)]
    done = desk.run(*command, "check-config")
    assert "encryption: openpgp to 1 recipient: the copies elsewhere" in done.stdout
    hidden = config.with_name("all.toml")
    hidden.write_text(config.read_text() + '\nscope = "all"\n')
    hidden.chmod(0o600)
    done = desk.run(*command[:-1], str(hidden), "check-config")
    assert "warning: encryption with scope" in done.stdout
    assert "hides the backups from the application" in done.stdout
    shutil.rmtree(desk.folder / "key" / "state")
    done = desk.run(*command, "rebuild")
    assert "1 copies of job nanumpay found at its destinations" in done.stdout, done.stdout + done.stderr
