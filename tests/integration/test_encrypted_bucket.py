"""The host is lost and its disk too: what is encrypted in a bucket, for each method, by stock tools and by ours."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pymongo
import pytest

from tests.compare import describe_database
from tests.keys import OTHER, PASSPHRASE, age_key, gpg, pgp_key
from tests.sample_data import load, save_settings
from tests.servers.daemon import backup_settings, wait_for
from tests.servers.mongod import Mongod
from tests.servers.s3 import ACCESS_KEY, CACHE_SECONDS, SECRET_KEY, S3Server, start_s3
from tests.servers.tools import PROJECT, tools_path

pytestmark = pytest.mark.servers

DATABASE: Final = "lost_shop"


@dataclass(frozen=True)
class Safe:
    """What is in the safe for one method: how to encrypt (TOML), the words that open it, and words that do not."""

    settings: str
    opens: tuple[str, ...]
    does_not: tuple[str, ...]


def _file(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text + "\n", encoding="utf-8")
    path.chmod(0o600)
    return str(path)


def safe(way: str, folder: Path) -> Safe:
    """Put keys into a folder; returns what belongs to a method."""
    right = ("--passphrase-file", _file(folder, "phrase", PASSPHRASE.reveal()))
    wrong = ("--passphrase-file", _file(folder, "other", OTHER.reveal()))
    method, _, kind = way.partition(" ")
    if kind == "passphrase":
        return Safe(f'method = "{method}"\npassphrase = {{ file = "{right[1]}" }}', right, wrong)
    if method == "openpgp":
        first, second = pgp_key("first"), pgp_key("second")
        recipient, keys = str(first.public), (first.private.reveal(), second.private.reveal())
    else:
        one, two = age_key("first"), age_key("second")
        recipient, keys = one.recipient, (one.identity.reveal(), two.identity.reveal())
    files = [_file(folder, name, key) for name, key in zip(("key", "wrong-key"), keys, strict=True)]
    return Safe(
        f'method = "{method}"\nrecipients = ["{recipient}"]', ("--identity", files[0]), ("--identity", files[1])
    )


@dataclass(frozen=True)
class Lost:
    """A bucket with one encrypted backup, the key to it, and a new machine with an empty MongoDB."""

    way: str
    s3: S3Server
    safe: Safe
    server: Mongod
    client: pymongo.MongoClient[dict[str, Any]]
    held: object
    environment: dict[str, str]

    @property
    def stored(self) -> Path:
        """Return the object, as the server has it on its disk."""
        (found,) = (self.s3.root / self.s3.bucket / "shop").glob("*.tar.gz.*[ge]")
        return found

    def restore(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Type ``nanumpay-backupd restore --from s3://… WORDS`` on the new machine."""
        argv = ["restore", "--from", f"s3://{self.s3.bucket}/shop/", "--yes", *words]
        return self.program(*argv)

    def program(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run the product; what it says never has a traceback."""
        done = subprocess.run(
            [sys.executable, "-m", "nanumpay_backupd", *argv],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return done

    def is_back(self) -> bool:
        """Tell whether all is there as it was; what is there is taken away for the next try."""
        same = describe_database(self.client, DATABASE) == self.held
        self.client.drop_database(DATABASE)
        return same


@pytest.fixture(scope="module", params=["openpgp passphrase", "openpgp key", "age key", "age passphrase"])
def lost(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, mongod_standalone: Mongod
) -> Iterator[Lost]:
    """Make a backup by the product's own command, bring it to the bucket, and lose everything else."""
    root = tmp_path_factory.mktemp("lost")
    keys = safe(request.param, root)
    with start_s3(root) as s3, mongod_standalone.client() as client:
        load(client[DATABASE], 0.02)
        save_settings(client[DATABASE], backup_settings(storage={"type": "none"}))
        work = root / "work"
        work.mkdir()
        environment = {
            **os.environ,
            "PATH": tools_path(),
            "PYTHONPATH": str(PROJECT),
            "TMPDIR": str(work),
            "MONGODB_URI": mongod_standalone.uri_for(DATABASE),
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_ENDPOINT_URL": s3.endpoint,
        }
        found = Lost(
            request.param, s3, keys, mongod_standalone, client, describe_database(client, DATABASE), environment
        )
        config = _file(root, "backupd.toml", _host_file(root, s3, keys.settings))
        made = found.program("--config", config, "run-once")
        assert made.returncode == 0, made.stdout + made.stderr
        client.drop_database(DATABASE)
        yield found
        client.drop_database(DATABASE)


def _host_file(root: Path, s3: S3Server, settings: str) -> str:
    return f"""
        [paths]
        backups = "{root}/backups"
        state = "{root}/state"
        [nanumpay]
        destinations = ["cloud"]
        [destination.cloud]
        type = "s3"
        bucket = "{s3.bucket}"
        prefix = "shop/"
        region = "us-east-1"
        endpoint_url = "{s3.endpoint}"
        path_style = true
        access_key_id = "{ACCESS_KEY}"
        secret_access_key = "{SECRET_KEY}"
        [encryption]
        {settings}
    """


def _asked(argv: list[str], answer: str) -> None:
    """Run a tool at a terminal of its own, and answer its question: age takes passphrases in no other way."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp(argv[0], argv)
    os.write(terminal, f"{answer}\n".encode())
    try:
        while os.read(terminal, 1024):
            pass
    except OSError:
        pass  # it has ended
    finally:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _decrypted(lost: Lost, folder: Path) -> bytes:
    """Decrypt the object with the stock tool alone."""
    given = lost.safe.opens[1]
    if lost.way == "age passphrase":
        _asked(["age", "-d", "-o", str(folder / "plain"), str(lost.stored)], PASSPHRASE.reveal())
        return (folder / "plain").read_bytes()
    if lost.way == "age key":
        return subprocess.run(["age", "-d", "-i", given, str(lost.stored)], capture_output=True, check=True).stdout
    home = folder / "home"
    home.mkdir(mode=0o700)
    words = ("--passphrase-file", given) if lost.way == "openpgp passphrase" else ()
    try:
        if not words:
            gpg(home, "--import", given)
        return gpg(home, *words, "--decrypt", str(lost.stored)).stdout
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)


def test_ours_from_the_bucket_alone(lost: Lost) -> None:
    """The bucket, MongoDB and the key bring everything back."""
    done = lost.restore(*lost.safe.opens)
    assert done.returncode == 0, done.stdout + done.stderr
    assert lost.is_back()


def test_stock_tools_from_the_bucket_alone(lost: Lost, tmp_path: Path) -> None:
    """Gpg or age, tar and mongorestore bring everything back without us."""
    subprocess.run(["tar", "-xzf", "-"], input=_decrypted(lost, tmp_path), cwd=tmp_path, check=True)
    (dump,) = tmp_path.glob(f"*/{DATABASE}")
    subprocess.run(
        ["mongorestore", f"--uri=mongodb://{lost.server.address}", f"--db={DATABASE}", "--drop", str(dump)],
        env=lost.environment,
        capture_output=True,
        check=True,
    )
    assert lost.is_back()


def test_no_key_a_wrong_key_and_a_flipped_byte_are_told_apart(lost: Lost) -> None:
    """Each has a code and a sentence of its own, and nothing is changed by any of them."""
    sentences = set()
    for words, code, saying in (
        ((), "key-missing", "there is no such key here"),
        (lost.safe.does_not, "key-wrong", "none of the keys here opens it"),
    ):
        done = lost.restore(*words)
        assert done.returncode == 1, done.stdout + done.stderr
        assert f"(code {code})" in done.stderr
        assert saying in done.stderr
        sentences.add(done.stderr)
    whole = lost.stored.read_bytes()
    try:
        at = len(whole) // 2
        lost.stored.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        wait_for(lambda: _age(lost.stored) > 2 * CACHE_SECONDS, "the server to notice")
        done = lost.restore(*lost.safe.opens)
        assert done.returncode == 1
        assert "is not what was stored there" in done.stderr + done.stdout
        sentences.add(done.stderr)
    finally:
        lost.stored.write_bytes(whole)
    assert len(sentences) == 3
    assert not lost.client[DATABASE].list_collection_names()


def _age(path: Path) -> float:
    """Return for how many seconds a file is as it is."""
    return time.time() - path.stat().st_mtime
