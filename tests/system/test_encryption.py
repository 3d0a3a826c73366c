"""Encryption in the service's own sandbox: secrets as credentials, gpg with its agent, age at its terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest

from tests.keys import PASSPHRASE, age_key, pgp_key
from tests.system.container import wait_for
from tests.system.host import BACKUPS, SERVICE, Host

COPIES: Final = "/opt/nanumpay/data/copies"
"""A further place, to which the service may write."""


@pytest.fixture
def locked(host: Host) -> Iterator[Host]:
    """The installed host, with keys below /etc/nanumpay and as credentials, and a place for copies."""
    key = pgp_key("first")
    host.put("/etc/nanumpay/backup-key.asc", key.public.read_text())
    for name, secret in (("key", key.private), ("phrase", PASSPHRASE), ("identity", age_key("first").identity)):
        host.put(f"/etc/nanumpay/credentials/{name}", secret.reveal() + "\n", mode="0600")
    loads = [f"LoadCredential={name}:/etc/nanumpay/credentials/{name}" for name in ("key", "phrase", "identity")]
    host.drop_in("credentials", *loads)
    yield host
    host.host_file("")
    host.run(f"rm -rf /etc/systemd/system/{SERVICE}.service.d {COPIES}; systemctl daemon-reload")
    host.run(f"systemctl restart {SERVICE}")
    host.wait_active()


def ways() -> dict[str, str]:
    """Return the settings of each way."""
    native = age_key("first").recipient
    return {
        "openpgp key": 'recipients = ["/etc/nanumpay/backup-key.asc"]\ndecrypt_with = [{ credential = "key" }]',
        "openpgp passphrase": 'passphrase = { credential = "phrase" }',
        "age key": f'recipients = ["{native}"]\ndecrypt_with = [{{ credential = "identity" }}]',
        "age passphrase": 'passphrase = { credential = "phrase" }',
    }


@pytest.mark.parametrize("way", ["openpgp key", "openpgp passphrase", "age key", "age passphrase"])
def test_every_way_works_in_the_sandbox(locked: Host, way: str) -> None:
    """Made, proven and restored by the service, with nothing left where gpg worked."""
    locked.host_file(
        f'[nanumpay]\ndestinations = ["disk"]\n[destination.disk]\ntype = "local"\npath = "{COPIES}"\n'
        f'[encryption]\nscope = "all"\nmethod = "{way.split(maxsplit=1)[0]}"\n{ways()[way]}\n'
    )
    locked.run(f"install -d -o nanumpay -g nanumpay {COPIES}")
    locked.drop_in("copies", f"ReadWritePaths={COPIES}")
    locked.run(f"systemctl restart {SERVICE}")
    locked.wait_active()
    doctor = locked.ctl("doctor", check=False).out
    assert "encrypted a few bytes and decrypted them" in doctor, doctor
    run = locked.backup()
    assert run["outcome"] == "succeeded", run
    assert len(locked.ask("show", run["backup"])["backup"]["copies"]) == 2
    assert not list(locked.path(BACKUPS).glob(f"{run['backup']}*"))
    restored = locked.ctl(
        "restore", run["backup"], "--from", "disk", "--to-db", "again", "--yes", check=False, timeout=120
    )
    assert restored.code == 0, restored.said
    wait_for(lambda: not locked.run("pgrep -x gpg-agent", check=False).out, "the end of gpg's agent")
    assert "nanumpay-gpg" not in locked.run("ls /run/nanumpay-backupd /dev/shm").out
    locked.ctl("delete", run["backup"], "--force", "--yes", check=False)
    with locked.mongo() as client:
        client.drop_database("again")
