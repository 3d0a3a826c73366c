"""The Debian 12 that containers start from: made once by debootstrap, kept below .tools, never written to afterwards.

In it is what a host has before the daemon comes: systemd, cron, Python, MongoDB's server and tools as files with a unit
of our making, and vsftpd and rclone (for S3) as places for copies. Nothing of the project, and nothing it brings.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.servers.mongod import find_mongod
from tests.servers.tools import PROJECT, find_tool

__all__ = ["FOLDER", "FTP_PASSWORD", "FTP_USER", "ZONE", "find_image", "make_image"]

FOLDER: Final = PROJECT / ".tools" / "system"
"""Images, and the folders of running containers."""
SUITE: Final = "bookworm"
PACKAGES: Final = (
    # What makes it boot.
    *("systemd", "systemd-sysv", "dbus", "libpam-systemd"),
    # What every Debian host has, and the package depends on.
    *("python3", "adduser", "cron", "openssl", "ca-certificates"),
    # What MongoDB's own packages depend on; here server and tools are plain files.
    *("libcurl4", "libgssapi-krb5-2", "zstd"),
    # What backups can be encrypted with.
    *("gpg", "gpg-agent", "age"),
    # A place to send backups to; not started.
    "vsftpd",
)
ZONE: Final = "Asia/Seoul"
"""The zone of the application's hosts; times in its settings are meant in it."""

FTP_USER: Final = "storage"
FTP_PASSWORD: Final = "secret-of-ftp"
MONGOD_UNIT: Final = """\
[Unit]
Description=MongoDB Database Server
After=network-online.target
Wants=network-online.target

[Service]
User=mongodb
Group=mongodb
RuntimeDirectory=mongodb
ExecStart=/usr/bin/mongod --config /etc/mongod.conf
LimitNOFILE=64000
TimeoutStopSec=20

[Install]
WantedBy=multi-user.target
"""
# The last part is for tests: stopping does not wait for clients, and a dump can be held in its middle by the server.
MONGOD_CONF: Final = """\
storage:
  dbPath: /var/lib/mongodb
  wiredTiger:
    engineConfig:
      cacheSizeGB: 0.25
      configString: log=(file_max=8MB,prealloc=false)
systemLog:
  destination: file
  logAppend: true
  path: /var/log/mongodb/mongod.log
net:
  port: 27017
  bindIp: 127.0.0.1
  unixDomainSocket:
    pathPrefix: /run/mongodb
    filePermissions: 0777
setParameter:
  enableTestCommands: true
  shutdownTimeoutMillisForSignaledShutdown: 100
  diagnosticDataCollectionEnabled: false
"""
MACHINE_ID: Final = "3f1c0e5a9b7d4c2e8a6f1b0d9c8e7a65"
"""Fixed, or each start would be a machine's first, in which systemd enables and disables units."""
SETUP: Final = f"""\
set -eu
ln -sf /usr/share/zoneinfo/{ZONE} /etc/localtime
echo {ZONE} > /etc/timezone
echo web1 > /etc/hostname
echo '127.0.0.1 localhost web1' > /etc/hosts
echo {MACHINE_ID} > /etc/machine-id
install -d -m 2755 -g systemd-journal /var/log/journal
adduser --quiet --system --group --no-create-home --home /var/lib/mongodb mongodb
install -d -o mongodb -g mongodb /var/lib/mongodb /var/log/mongodb
systemctl --quiet enable mongod cron
systemctl --quiet disable vsftpd
adduser --quiet --disabled-password --gecos '' {FTP_USER}
echo {FTP_USER}:{FTP_PASSWORD} | chpasswd
printf '%s\\n' listen=YES listen_ipv6=NO local_enable=YES write_enable=YES seccomp_sandbox=NO \\
    pam_service_name=vsftpd secure_chroot_dir=/run/vsftpd/empty > /etc/vsftpd.conf
# Twice as quick, and these hosts are thrown away.
echo force-unsafe-io > /etc/dpkg/dpkg.cfg.d/quick
# Needs a network, and there is none.
systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer
rm -rf /var/cache/apt/archives/*.deb /var/cache/apt/*.bin /var/lib/apt/lists/*
"""


def _programs() -> dict[str, Path]:
    """Return what is copied to /usr/bin."""
    named = {name: find_tool(name) for name in ("mongodump", "mongorestore", "rclone")}
    return {"mongod": find_mongod(), **named}


def _key() -> str:
    """Return what an image is called: another one for other packages, files or programs."""
    parts = [SUITE, *PACKAGES, MONGOD_UNIT, MONGOD_CONF, SETUP]
    parts += [f"{name} {path.stat().st_size}" for name, path in _programs().items()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def find_image() -> Path | None:
    """Return the image's root folder, None when it was not made yet."""
    image = FOLDER / f"root-{_key()}"
    return image if image.is_dir() else None


def make_image() -> Path:
    """Return the image's root folder; made if there is none (about a minute, root only). Older ones are deleted."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time():
        found = find_image()
        if found is not None:
            return found
        began = time.monotonic()
        print(f"» making a Debian 12 ({SUITE}) to boot, once (about a minute)", flush=True)
        partial = FOLDER / "root.partial"
        shutil.rmtree(partial, ignore_errors=True)
        _debootstrap(partial)
        _fill(partial)
        for old in FOLDER.glob("root-*"):
            shutil.rmtree(old, ignore_errors=True)
        image = FOLDER / f"root-{_key()}"
        partial.rename(image)
        print(f"» it is there after {time.monotonic() - began:.0f} s", flush=True)
        return image


def _debootstrap(root: Path) -> None:
    argv = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(root)]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        sys.stderr.buffer.write(done.stdout[-4000:])
        raise SystemExit(f"debootstrap failed with exit code {done.returncode}")


def _fill(root: Path) -> None:
    """Put MongoDB, rclone and the host's own settings in."""
    for name, path in _programs().items():
        # Over the shell's cp: a copy that shares its blocks where the filesystem can.
        subprocess.run(["cp", "--reflink=auto", str(path.resolve()), str(root / "usr" / "bin" / name)], check=True)
        (root / "usr" / "bin" / name).chmod(0o755)
    (root / "etc" / "mongod.conf").write_text(MONGOD_CONF, encoding="utf-8")
    (root / "lib" / "systemd" / "system" / "mongod.service").write_text(MONGOD_UNIT, encoding="utf-8")
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["chroot", str(root), "sh", "-c", SETUP], check=True, env=environment, stdin=subprocess.DEVNULL)


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    fd = os.open(FOLDER / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
