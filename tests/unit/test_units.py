"""The files for systemd: in step with the product, accepted by systemd itself, and as closed as they are said to be."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from nanumpay_backupd import daemon
from nanumpay_backupd.settings.hostfile import parse_host_file
from nanumpay_backupd.system.sandbox import FOLDERS, HOMES
from tests.servers.tools import PROJECT

FILES = PROJECT / "systemd"
DROP_INS = sorted((FILES / "drop-ins").glob("*.conf"))
SERVICE = (FILES / "nanumpay-backupd.service").read_text(encoding="utf-8")
SOCKET = (FILES / "nanumpay-backupd.socket").read_text(encoding="utf-8")
WEB = "./nanumpay-backup-web.service"
INSTALLED = "/usr/share/nanumpay-backupd/drop-ins"
# What systemd calls OK or better; the project's own limit.
MOST_EXPOSED = 1.5
systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not on this machine")


def value(text: str, key: str) -> str:
    """Return the last value of a setting."""
    return str(re.findall(rf"^{key}=(.*)$", text, re.MULTILINE)[-1])


def unit_of(drop_in: Path) -> str:
    """Return the unit that a drop-in is for."""
    if drop_in.name.startswith("web-"):
        return "nanumpay-backup-web.service"
    return (
        f"nanumpay-backupd.{'socket' if '[Socket]' in drop_in.read_text(encoding='utf-8').splitlines() else 'service'}"
    )


def unit_folder(folder: Path) -> Path:
    """Copy the units to where systemd-analyze can look at them, with programs that exist everywhere."""
    for path in [*FILES.glob("*.service"), *FILES.glob("*.socket")]:
        text = path.read_text(encoding="utf-8")
        text = (
            text.replace("=/usr/sbin/nanumpay-backupd serve", "=/bin/true")
            .replace("=/usr/bin/backupctl", "=/bin/true")
            .replace("=/usr/bin/nanumpay-backup-web serve", "=/bin/true")
        )
        (folder / path.name).write_text(text, encoding="utf-8")
    return folder


def analyze(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze on the units in a folder."""
    return subprocess.run(
        ["systemd-analyze", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", "SYSTEMD_UNIT_PATH": f"{folder}:"},
    )


def test_places_are_those_of_the_product() -> None:
    """Folders and socket of the units are the defaults of the host file."""
    paths = parse_host_file("", "", environ={}).paths
    assert value(SOCKET, "ListenStream") == str(paths.socket)
    assert f"/run/{value(SERVICE, 'RuntimeDirectory')}" == str(paths.socket.parent)
    assert f"/var/lib/{value(SERVICE, 'StateDirectory')}" == str(paths.state)
    assert f"-{paths.backups}" in value(SERVICE, "ReadWritePaths").split()
    tmpfiles = (FILES / "nanumpay-backupd.tmpfiles").read_text(encoding="utf-8")
    assert f"\nd {paths.socket.parent} {value(SERVICE, 'RuntimeDirectoryMode')} nanumpay nanumpay -\n" in tmpfiles
    assert f"\nd {paths.state} {value(SERVICE, 'StateDirectoryMode')} nanumpay nanumpay -\n" in tmpfiles


def test_the_page_is_whom_the_host_file_names() -> None:
    """User, folder and rights of the page's unit are the defaults of ``[web]``; it cannot read what its group could."""
    web = parse_host_file("", "", environ={}).web
    unit = (FILES / "nanumpay-backup-web.service").read_text(encoding="utf-8")
    assert value(unit, "User") == web.user
    assert f"/var/lib/{value(unit, 'StateDirectory')}" == str(web.state)
    users = (FILES / "nanumpay-backupd.sysusers").read_text(encoding="utf-8")
    assert f"\nu {web.user} - " in users
    tmpfiles = (FILES / "nanumpay-backupd.tmpfiles").read_text(encoding="utf-8")
    assert f"\nd {web.state} {value(unit, 'StateDirectoryMode')} {web.user} {web.user} -\n" in tmpfiles
    assert value(unit, "SupplementaryGroups") == value(SOCKET, "SocketGroup")
    paths = parse_host_file("", "", environ={}).paths
    closed = [Path(path.lstrip("-")) for path in value(unit, "InaccessiblePaths").split()]
    assert all(any(path.is_relative_to(one) for one in closed) for path in (paths.backups, paths.state))


def test_the_daemon_ends_before_systemd_loses_patience() -> None:
    """TimeoutStopSec is longer than what the daemon itself needs at most."""
    assert int(value(SERVICE, "TimeoutStopSec")) > daemon._STOP_BUDGET + 15


@pytest.mark.parametrize("drop_in", DROP_INS, ids=lambda path: path.stem)
def test_a_drop_in_says_how_it_is_installed(drop_in: Path) -> None:
    """Its head says what for, and has the command with its own name and the folder of the unit that it is for."""
    text = drop_in.read_text(encoding="utf-8")
    assert text.startswith("# For: ")
    command = re.search(r"^#   install -D -m 0644 (\S+) \\\n#     (\S+)$", text, re.MULTILINE)
    assert command is not None
    assert command[1] == f"{INSTALLED}/{drop_in.name}"
    assert command[2] == f"/etc/systemd/system/{unit_of(drop_in)}.d/{drop_in.name}"
    assert "systemctl daemon-reload" in text


def test_every_drop_in_is_on_the_page() -> None:
    """docs/operations.md has one line for each drop-in, and for no other."""
    page = (PROJECT / "docs" / "operations.md").read_text(encoding="utf-8")
    section = page.partition("\n### What the service may do\n")[2].partition("\n### ")[0]
    shown = re.findall(r"^\| `([\w-]+\.conf)` \|", section, re.MULTILINE)
    assert sorted(shown) == sorted(path.name for path in DROP_INS)


def test_the_drop_ins_that_faults_name_are_there() -> None:
    """The commands for a folder that the sandbox closes write drop-ins that are ready-made as well."""
    assert {FOLDERS, HOMES, "credentials", "socket-group"} <= {path.stem for path in DROP_INS}


@systemd
@pytest.mark.parametrize("drop_in", [None, *DROP_INS], ids=lambda path: path.stem if path else "none")
def test_systemd_takes_the_units(tmp_path: Path, drop_in: Path | None) -> None:
    """Systemd finds nothing to complain of, with each of the drop-ins and without."""
    folder = unit_folder(tmp_path)
    if drop_in is not None:
        place = folder / f"{unit_of(drop_in)}.d"
        place.mkdir()
        shutil.copy(drop_in, place)
    units = ["./nanumpay-backupd.service", "./nanumpay-backupd.socket", "./nanumpay-backupd-alert@x.service", WEB]
    done = analyze(folder, "verify", "--man=no", *units)
    assert (done.returncode, done.stderr) == (0, "")


@systemd
@pytest.mark.parametrize(
    "unit", ["nanumpay-backupd.service", "nanumpay-backupd-alert@.service", "nanumpay-backup-web.service"]
)
def test_the_units_are_closed(tmp_path: Path, unit: str) -> None:
    """Systemd's own measure of what a service could do to the host is within the limit."""
    folder = unit_folder(tmp_path)
    done = analyze(folder, "security", "--offline=yes", "--no-pager", f"./{unit}")
    overall = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert overall is not None, done.stderr
    assert float(overall[1]) <= MOST_EXPOSED
