"""A real OpenSSH server for tests: sshd with internal-sftp in a chroot, one login, keys or a password. Needs root.

It runs in namespaces of its own: there are accounts that the host does not have, and what it started ends with it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from nanumpay_backupd.settings.schema import SftpDestination
from nanumpay_backupd.system.secrets import Secret
from tests.servers.process import Program, free_port, serving
from tests.servers.tools import PROJECT

__all__ = ["PASSPHRASE", "PASSWORD", "SshServer", "start_sshd"]

PASSWORD: Final = "geheim+fuer%Tests"
PASSPHRASE: Final = "noch ein Geheimnis"
USER: Final = "backup"
_UID: Final = 48123


@dataclass
class SshServer:
    """A running server. Its login sees ``home`` of this disk as ``base``, and may write nowhere else."""

    host: str
    port: int
    home: Path
    base: str
    keys: Path
    """Folder with the login's keys (``plain``, ``locked``) and the host's (``host``, ``other``)."""
    program: Program = field(repr=False)

    def destination(self, **changes: Any) -> SftpDestination:
        """Return settings that reach this server with the key; ``changes`` replace single ones."""
        settings: dict[str, Any] = {
            "name": "nas",
            "host": self.host,
            "port": self.port,
            "username": USER,
            "private_key": self.key("plain"),
            "host_key": (self.fingerprint,),
            "path": f"{self.base}/nanumpay",
            "timeout": 10.0,
        }
        return SftpDestination(**{**settings, **changes})

    def key(self, name: str) -> Secret:
        """Return the text of a key."""
        return Secret((self.keys / name).read_text(encoding="ascii").rstrip())

    @property
    def folder(self) -> Path:
        """Return where the objects of `destination` lie."""
        return self.home / "nanumpay"

    @property
    def fingerprint(self) -> str:
        """Return the fingerprint of the host key, worked out without the driver's library."""
        raw = base64.b64decode((self.keys / "host.pub").read_text(encoding="ascii").split()[1])
        return "SHA256:" + base64.b64encode(hashlib.sha256(raw).digest()).decode("ascii").rstrip("=")

    def cut(self) -> None:
        """End all connections at once, as a server does that dies; the listener stays."""
        for child in self._sessions():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    def _sessions(self) -> list[int]:
        found: list[int] = []
        waiting = [grandchild for child in _children(self.program.process.pid) for grandchild in _children(child)]
        while waiting:
            found.append(waiting.pop())
            waiting += _children(found[-1])
        return found


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    except OSError:
        return []


@contextlib.contextmanager
def start_sshd(
    folder: Path, *, address: str = "127.0.0.1", port: int = 0, extra: str = "", sftp: str = "internal-sftp"
) -> Iterator[SshServer]:
    """Run sshd over ``folder / "root" / "files"``. ``extra`` are further lines of sshd_config."""
    program = PROJECT / ".tools" / "bin" / "sshd"
    if not program.exists() or os.geteuid() != 0 or shutil.which("unshare") is None:
        raise RuntimeError("tests with sshd need `make tools` and root")
    folder.mkdir(parents=True, exist_ok=True)
    root, keys, settings = folder / "root", folder / "keys", folder / "etc"
    home = root / "files"
    for each in (home, keys, settings):
        each.mkdir(parents=True, exist_ok=True)
    root.chmod(0o755)
    os.chown(home, _UID, _UID)
    _make_keys(keys)
    _make_accounts(settings)
    port = port or free_port()
    config = settings / "sshd_config"
    config.write_text(
        _CONFIG.format(address=address, port=port, keys=keys, settings=settings, user=USER, sftp=sftp) + extra,
        encoding="ascii",
    )
    script = _START.format(settings=settings, root=root, program=program, config=config, keys=keys)
    argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", script]
    with serving(argv, folder / "sshd.log", address, port) as started:
        yield SshServer(address, port, home, "/files", keys, started)


def _make_keys(keys: Path) -> None:
    for name, passphrase in (("host", ""), ("other", ""), ("plain", ""), ("locked", PASSPHRASE)):
        if not (keys / name).exists():
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", name, "-f", str(keys / name)], check=True
            )
    allowed = "".join((keys / f"{name}.pub").read_text(encoding="ascii") for name in ("plain", "locked"))
    (keys / "authorized").write_text(allowed, encoding="ascii")
    (keys / "authorized").chmod(0o644)


def _make_accounts(settings: Path) -> None:
    """Write accounts as the host has them, with one more who logs in, and sshd's own."""
    more = f"{USER}:x:{_UID}:{_UID}::/:/usr/sbin/nologin\nsshd:x:{_UID + 1}:65534::/run/sshd:/usr/sbin/nologin\n"
    (settings / "passwd").write_text(f"root:x:0:0:root:/root:/bin/bash\n{more}", encoding="ascii")
    (settings / "group").write_text(f"root:x:0:\nnogroup:x:65534:\n{USER}:x:{_UID}:\n", encoding="ascii")
    asked = ["openssl", "passwd", "-6", "-stdin"]
    secret = subprocess.run(asked, check=True, input=PASSWORD, text=True, stdout=subprocess.PIPE).stdout.strip()
    (settings / "shadow").write_text(f"root:*:19000::::::\n{USER}:{secret}:19000::::::\n", encoding="ascii")
    (settings / "shadow").chmod(0o600)


# The chroot has to lie in folders that only root may write to, and the keys where the login can read them.
_START: Final = """\
for name in passwd group shadow; do mount --bind {settings}/$name /etc/$name; done
mount --rbind {root} /mnt
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/sshd
cp {keys}/authorized /run/authorized
exec {program} -D -e -f {config}
"""
_CONFIG: Final = """\
ListenAddress {address}
Port {port}
HostKey {keys}/host
AuthorizedKeysFile /run/authorized
StrictModes no
PidFile {settings}/sshd.pid
LogLevel ERROR
UsePAM no
PasswordAuthentication yes
KbdInteractiveAuthentication no
MaxStartups 100
AllowUsers {user}
ChrootDirectory /mnt
ForceCommand {sftp}
Subsystem sftp {sftp}
DisableForwarding yes
PermitTTY no
"""
