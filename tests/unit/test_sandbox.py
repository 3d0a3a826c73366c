"""What the service's sandbox is in the way of: told from real mount tables, and the commands that open it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nanumpay_backupd.system.sandbox import Hindrance, hindrance, way_out
from tests.servers.tools import PROJECT

# As it is in a service with ProtectSystem=strict, ProtectHome=yes and ReadWritePaths=/opt/nanumpay/data/backups; the
# disks below /mnt are mounted read-only for everybody, /srv/b is a bind mount whose name has a space in it.
SERVICE = r"""
700 600 8:1 / / ro,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
701 700 0:5 / /dev ro,nosuid,noexec - tmpfs tmpfs rw,mode=755
702 700 8:1 /opt/nanumpay/data/backups /opt/nanumpay/data/backups rw,relatime - ext4 /dev/sda1 rw,errors=remount-ro
703 700 0:25 /systemd/inaccessible/dir /home ro,nosuid,nodev,noexec - tmpfs tmpfs rw,size=400k,mode=755
704 700 0:25 /systemd/inaccessible/dir /root ro,nosuid,nodev,noexec - tmpfs tmpfs rw,size=400k,mode=755
705 700 8:17 / /mnt/frozen ro,relatime - ext4 /dev/sdb1 ro
706 700 8:33 / /mnt/nas ro,relatime shared:9 - nfs4 nas:/export rw,vers=4.2
707 706 8:33 /open /mnt/nas/open rw,relatime - nfs4 nas:/export rw,vers=4.2
708 700 8:1 /b /srv/b\040c ro,relatime - ext4 /dev/sda1 rw
709 700 8:1 /var/lib/nanumpay-backupd /var/lib/nanumpay-backupd rw - ext4 /dev/sda1 rw
710 700 0:60 / /run/user ro,nosuid - tmpfs tmpfs ro,mode=755
"""


@pytest.mark.parametrize(
    "path, expected",
    [
        ("/opt/nanumpay/data/backups", Hindrance.NONE),
        ("/opt/nanumpay/data/backups/.backupd/staging", Hindrance.NONE),
        ("/opt/nanumpay/data/backups2", Hindrance.READ_ONLY),
        ("/var/lib/nanumpay-backupd/catalog.db", Hindrance.NONE),
        ("/var/backups", Hindrance.READ_ONLY),
        ("/", Hindrance.READ_ONLY),
        ("/home/alice/backups", Hindrance.HIDDEN),
        ("/home", Hindrance.HIDDEN),
        ("/homes", Hindrance.READ_ONLY),
        ("/root/.secret", Hindrance.HIDDEN),
        ("/run/user/1000", Hindrance.HIDDEN),
        ("/mnt/frozen/backups", Hindrance.NONE),
        ("/mnt/nas/backups", Hindrance.READ_ONLY),
        ("/mnt/nas/open/backups", Hindrance.NONE),
        ("/srv/b c/d", Hindrance.READ_ONLY),
    ],
)
def test_what_is_in_the_way(path: str, expected: Hindrance) -> None:
    """Read-only for this service alone is the sandbox; read-only for everybody is not; the deepest mount counts."""
    assert hindrance(Path(path), SERVICE) is expected


@pytest.mark.parametrize(
    "after, expected",
    [
        ("711 705 8:49 / /mnt/frozen rw - ext4 /dev/sdd1 rw", Hindrance.NONE),
        ("711 705 8:49 / /mnt/frozen ro - ext4 /dev/sdd1 rw", Hindrance.READ_ONLY),
    ],
)
def test_the_last_mount_of_a_place_counts(after: str, expected: Hindrance) -> None:
    """What is mounted over another mount of the same place is what a path leads to."""
    assert hindrance(Path("/mnt/frozen/x"), f"{SERVICE}{after}\n") is expected


@pytest.mark.parametrize("text", ["", "garbage", "1 2 3", "700 600 8:1 / / ro - ext4", "\n\n - \n"])
def test_what_is_no_table_hinders_nothing(text: str) -> None:
    """A table that cannot be read says nothing."""
    assert hindrance(Path("/x"), text) is Hindrance.NONE


def in_a_service(script: str, path: Path) -> str:
    """Change the mounts in a mount namespace of its own, then return what `way_out` says of ``path`` there."""
    program = (
        f"from pathlib import Path; from nanumpay_backupd.system.sandbox import *; print(way_out(Path({str(path)!r})))"
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", f'{script}; exec "$0" -c "$1"', sys.executable, program],
        capture_output=True,
        text=True,
        env={**os.environ, "INVOCATION_ID": "0" * 32},
        cwd=PROJECT,
        timeout=60,
    )
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
class TestRealMounts:
    """The same with the kernel's own table."""

    def test_read_only_here_alone(self, tmp_path: Path) -> None:
        """The commands make the folder, add it to the drop-in and restart; a link is followed."""
        folder = tmp_path / "dis%k one"
        folder.mkdir()
        link = tmp_path / "link"
        link.symlink_to(folder)
        place = shlex.quote(str(folder))
        said = in_a_service(f"mount --bind {place} {place}; mount -o remount,ro,bind {place}", link / "new")
        drop_ins = "/etc/systemd/system/nanumpay-backupd.service.d"
        value = str(folder / "new").replace("%", "%%")
        assert said == (
            f"the service may not write there; as root: "
            f"install -d -o root -g root -m 0750 {shlex.quote(str(folder / 'new'))} && install -d {drop_ins} && "
            f"printf '%s\\n' '[Service]' 'ReadWritePaths=\"-{value}\"' >> {drop_ins}/folders.conf && "
            "systemctl daemon-reload && systemctl restart nanumpay-backupd"
        )

    def test_hidden(self, tmp_path: Path) -> None:
        """A covered home is opened for that one folder."""
        cover = tmp_path / "systemd" / "inaccessible" / "dir"
        cover.mkdir(parents=True)
        home = tmp_path / "home"
        home.mkdir()
        said = in_a_service(f"mount --bind {cover} {home}", home / "backups")
        assert said.startswith("the service does not see that folder; as root: install -d ")
        assert f"'[Service]' ProtectHome=tmpfs BindPaths=-{home}/backups >> " in said
        assert "/homes.conf && " in said

    def test_nothing_in_the_way(self, tmp_path: Path) -> None:
        """Where nothing is in the way nothing is said, nor where this is no service."""
        assert in_a_service("true", tmp_path) == ""
        assert way_out(Path("/proc/x"), environ={}) == ""
