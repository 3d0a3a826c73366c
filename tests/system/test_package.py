"""The package on a host with the application and the old program: takeover, upgrade, removal, purge, and back again.

One story from top to bottom on one host, told in the order of the file.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Final

import pytest

from nanumpay_backupd import __version__
from nanumpay_backupd.errors import EXIT_OK
from tests.system.conftest import MakeHost
from tests.system.container import wait_for
from tests.system.host import SERVICE, Host, without_place
from tests.system.packages import OLD_VERSION, PACKAGE, SHIM, application
from tests.system.page import block, paste

BACKUPS: Final = "/opt/nanumpay/backups"
"""The application's own default, which its env file names here."""
ENV_FILE: Final = f"MONGODB_URI=mongodb://localhost:27017/nanumpay\nBACKUP_PATH={BACKUPS}\nJWT_SECRET=s3cr3t\n"
LINES: Final = """\
# nanumpay-backup
0 2 * * * /opt/nanumpay/bin/nanumpay-backup >> /logs/backup.log 2>&1
"""
OTHERS: Final = """\
MAILTO=ops@example.com

# a remark on /opt/nanumpay/bin/nanumpay-backup
5 4 * * * rsync -a /srv/nanumpay-backups/ nas:/backups/
\t@daily  echo 'spaces   and %% signs'
"""
OLD_ARCHIVE: Final = "nanumpay-backup-2026-11-01T17-00-00.tar.gz"
WAITING: Final = "[b]ackupctl wait --timeout 15m"
"""What the package's own script runs before an upgrade; as a pattern that does not match itself."""
_LINE: Final = re.compile(r"^✅ 압축 완료: (nanumpay-backup-.+\.tar\.gz)$", re.MULTILINE)
# What a host remembers of any package that was installed and of any service that ran.
_BOOKKEEPING: Final = re.compile(
    r"/(var/log|var/lib/dpkg|var/lib/apt|var/cache|var/lib/systemd|var/lib/mongodb|var/spool/cron|var/tmp|tmp|root)(/|$)"
    r"|/etc/(passwd|group|shadow|gshadow)-?$|/etc/\.pwd\.lock$|/etc/sub[ug]id-$"
)


@pytest.fixture(scope="module")
def site(new_host: MakeHost, tmp_path_factory: pytest.TempPathFactory) -> Host:
    """A host on which the application and its old backup program have been at work."""
    host = new_host("site")
    host.run("useradd --system --user-group --home-dir /opt/nanumpay --no-create-home nanumpay")
    package = application(tmp_path_factory.mktemp("application"), "1")
    host.copy_in(package, f"/root/{package.name}")
    host.run(f"dpkg -i {package.name}")
    host.put("/etc/nanumpay/nanumpay.env", ENV_FILE, mode="0600")
    host.run(f"install -d -o nanumpay -g nanumpay {BACKUPS} && mkdir -p x/nanumpay && touch x/nanumpay/a.bson")
    host.run(f"tar -czf {BACKUPS}/{OLD_ARCHIVE} -C /root x")
    before, _, after = OTHERS.partition("\n\n")
    for user, table in (("root", f"{before}\n\n{LINES}{after}"), ("nanumpay", LINES), ("www-data", OTHERS)):
        host.run(f"crontab -u {user} -", stdin=table)
    host.wait_mongod()
    host.fill()
    host.save(without_place())
    return host


def files(host: Host) -> set[str]:
    """Return the path of everything on a host's disk that is not bookkeeping."""
    found = host.run("find / -xdev -not -type s -print").out.splitlines()
    return {path for path in found if not _BOOKKEEPING.match(path)}


@pytest.fixture(scope="module")
def bare(site: Host) -> set[str]:
    """What was on the host's disk before the package came."""
    return files(site)


def run_now(host: Host, **more: str) -> str:
    """Do what the application does: start the program as its own user with its three variables; returns the file."""
    given = {
        "MONGODB_URI": "mongodb://localhost:27017/nanumpay",
        "BACKUP_PATH": BACKUPS,
        "FORCE_BACKUP": "true",
        **more,
    }
    words = " ".join(f"{name}={value}" for name, value in given.items())
    done = host.run(f"runuser -u nanumpay -- env -i PATH=/usr/bin:/bin {words} {SHIM}", timeout=300)
    (name,) = _LINE.findall(done.out)
    assert host.path(f"{BACKUPS}/{name}").is_file()
    return str(name)


def test_the_old_crontab_lines_go_and_nothing_else(site: Host, bare: set[str], older_package: Path) -> None:
    """Root's and the application's crontabs lose the old lines; the rest stays, a copy is kept, it is told."""
    said = site.install(older_package).said
    assert site.run("crontab -l").out == OTHERS
    assert (
        "no crontab for nanumpay" in site.run("crontab -u nanumpay -l", check=False).err
        or not site.run("crontab -u nanumpay -l").out
    )
    assert site.run("crontab -u www-data -l").out == OTHERS
    before, _, after = OTHERS.partition("\n\n")
    (kept,) = site.path("/var/lib/nanumpay-backupd").glob("crontab.root.*")
    assert kept.read_text(encoding="utf-8") == f"{before}\n\n{LINES}{after}"
    assert "taken out of root's crontab" in said
    assert "taken out of nanumpay's crontab" in said


def test_the_folder_in_use_is_taken_over(site: Host) -> None:
    """Backups go where BACKUP_PATH says, and what the old program left there is listed."""
    status = site.ask("status")
    assert (status["version"], status["backups_path"]) == (OLD_VERSION, BACKUPS)
    assert [(item["artifact"], item["state"]) for item in site.ask("list")["backups"]] == [(OLD_ARCHIVE, "legacy")]


def test_run_now_of_the_application(site: Host) -> None:
    """The program at the application's path keeps its contract to the letter, by way of the daemon."""
    name = run_now(site)
    stem = name.removesuffix(".tar.gz")
    listed = site.run(f"tar -tzf {BACKUPS}/{name}").out.splitlines()
    assert f"{stem}/nanumpay/users.bson" in listed
    assert all(path.startswith(f"{stem}/") for path in listed)
    assert (site.runs()[0]["outcome"], site.runs()[0]["backup"]) == ("succeeded", stem)


def test_run_now_without_the_daemon(site: Host) -> None:
    """Stopped with its socket, the daemon is not missed: the program does the work itself."""
    site.run(f"systemctl stop {SERVICE}.socket {SERVICE}")
    name = run_now(site)
    site.run(f"systemctl start {SERVICE}.socket {SERVICE}")
    assert f"{BACKUPS}/{name}" in site.run(f"ls {BACKUPS}/*.tar.gz").out


def test_the_applications_own_package_may_have_that_path(site: Host, tmp_path: Path) -> None:
    """Its program is kept beside ours, and when it comes in a new version too."""
    assert "old-program" in site.run(f"dpkg-divert --list {SHIM}").out
    assert site.run(f"{SHIM}.old-program").out == "the old program 1\n"
    package = application(tmp_path, "2")
    site.copy_in(package, f"/root/{package.name}")
    site.run(f"dpkg -i {package.name}")
    assert site.run(f"{SHIM}.old-program").out == "the old program 2\n"
    assert "FORCE_BACKUP" in site.run(f"{SHIM} --help").out


def start_upgrade(host: Host, package: Path) -> subprocess.Popen[str]:
    """Start the upgrade and return when it waits for the end of something."""
    host.copy_in(package, f"/root/{package.name}")
    upgrade = host.start(f"export DEBIAN_FRONTEND=noninteractive; {block('upgrade')}")
    wait_for(lambda: host.run(f"pgrep -f '{WAITING}'", check=False).code == EXIT_OK, "an upgrade that waits")
    return upgrade


def test_an_upgrade_does_not_cut_a_restore_off(site: Host, package: Path) -> None:
    """A restore that outlasts the waiting makes the upgrade fail with the reason; all stays as it was."""
    daemon = site.main_pid()
    site.hold_restores("elsewhere")
    try:
        restore = site.start("backupctl restore latest --to-db elsewhere --yes")
        site.wait_held()
        upgrade = start_upgrade(site, package)
        # In place of a quarter of an hour.
        site.run(f"pkill -f '{WAITING}'")
        said, _ = upgrade.communicate(timeout=60)
        assert upgrade.returncode != EXIT_OK
        assert "a restore is running" in said
    finally:
        site.release()
    told, _ = restore.communicate(timeout=60)
    assert restore.returncode == EXIT_OK, told
    assert (site.main_pid(), site.ask("status")["version"]) == (daemon, OLD_VERSION)
    known = site.run(f"dpkg-query -W -f '${{Status}} ${{Version}}' {PACKAGE}").out
    assert known == f"install ok installed {OLD_VERSION}"


def test_an_upgrade_comes_between_runs(site: Host, package: Path) -> None:
    """The upgrade waits for the end of a running backup; then the new version runs, with what the old one knew."""
    known = {item["id"] for item in site.ask("list")["backups"]}
    site.host_file('timezone = "Asia/Tokyo"\n')
    site.hold_dumps()
    try:
        run = site.begin()
        site.wait_held()
        upgrade = start_upgrade(site, package)
        assert site.ask("status")["version"] == OLD_VERSION
    finally:
        site.release()
    said, _ = upgrade.communicate(timeout=120)
    assert upgrade.returncode == 0, said
    site.wait_active()
    assert site.ask("status")["version"] == __version__
    assert site.ended(run)["outcome"] == "succeeded"
    assert known < {item["id"] for item in site.ask("list")["backups"]}
    # The administrator's file is kept without a question, and code that the new version has no more is gone.
    assert 'timezone = "Asia/Tokyo"' in site.run("cat /etc/nanumpay/backupd.toml").out
    assert site.run("find /opt/nanumpay-backupd -name 'left_out_later*'").out == ""
    assert site.backup()["outcome"] == "succeeded"
    assert site.run(f"dpkg -V {PACKAGE}", check=False).out == "??5?????? c /etc/nanumpay/backupd.toml\n"


def test_installed_again_nothing_changes(site: Host, package: Path) -> None:
    """The maintainer scripts can run twice: no crontab is touched, backups and settings are the same."""
    before = site.ask("list")["backups"]
    said = site.install(package, "--reinstall").said
    assert "taken out of" not in said
    assert site.ask("list")["backups"] == before
    assert site.run("crontab -l").out == OTHERS


def test_removed(site: Host) -> None:
    """Without the package the old program is in its place again; backups, settings and state stay, crontabs too."""
    stored = [path.name for path in site.stored(BACKUPS)]
    paste(site, "remove")
    assert site.run(SHIM).out == "the old program 2\n"
    assert [path.name for path in site.stored(BACKUPS)] == stored
    assert site.run("ls /etc/nanumpay/backupd.toml /var/lib/nanumpay-backupd/catalog.db").code == EXIT_OK
    assert site.run("crontab -l").out == OTHERS
    for unit in (f"{SERVICE}.service", f"{SERVICE}.socket"):
        assert site.show("ActiveState", unit=unit) == "inactive"
    assert site.run("pgrep -u nanumpay", check=False).out == ""
    assert site.run("command -v backupctl nanumpay-backupd", check=False).out == ""
    assert not site.path("/opt/nanumpay-backupd").exists()


def test_installed_again_it_finds_its_backups(site: Host, package: Path) -> None:
    """After removal and a new installation the catalog is the old one."""
    site.install(package)
    listed = {item["artifact"]: item["state"] for item in site.ask("list")["backups"]}
    assert listed.pop(OLD_ARCHIVE) == "legacy"
    assert set(listed) == {path.name for path in site.stored(BACKUPS)} - {OLD_ARCHIVE}
    assert set(listed.values()) == {"verified"}
    assert site.ask("status")["timezone"] == "Asia/Tokyo"


def test_purged(site: Host, bare: set[str]) -> None:
    """After a purge nothing of ours is left on the disk, but the backups; the application's own files are untouched."""
    stored = [path.name for path in site.stored(BACKUPS)]
    paste(site, "purge")
    assert [path.name for path in site.stored(BACKUPS)] == stored
    left = {path for path in files(site) - bare if not path.startswith(f"{BACKUPS}/")}
    assert left == set()
    assert bare - files(site) == set()
    assert site.run("cat /etc/nanumpay/nanumpay.env").out == ENV_FILE
    assert site.run(f"systemctl list-unit-files '{SERVICE}*' --no-legend", check=False).out == ""
    assert not site.path(f"/run/{SERVICE}").exists()
    assert site.run("systemctl is-system-running", check=False).out == "running\n"


def test_purged_and_installed_again_it_finds_its_backups(site: Host, package: Path) -> None:
    """Without any state the manifests beside the backups tell all of them."""
    site.install(package)
    listed = {item["artifact"]: item["state"] for item in site.ask("list")["backups"]}
    assert listed.pop(OLD_ARCHIVE) == "legacy"
    assert set(listed) == {path.name for path in site.stored(BACKUPS)} - {OLD_ARCHIVE}
    assert set(listed.values()) == {"verified"}
    assert site.backup()["outcome"] == "succeeded"


@pytest.mark.parametrize("named", ["", "/srv/own/backups"], ids=["nobody names a folder", "a folder of one's own"])
def test_the_service_may_write_where_backups_go(site: Host, package: Path, named: str) -> None:
    """Whichever folder it is, the installation makes it, opens it to the service, and a purge leaves the backups."""
    stored = site.stored(BACKUPS)
    site.run(f"dpkg --purge {PACKAGE}", timeout=120)
    site.put("/etc/nanumpay/nanumpay.env", f"BACKUP_PATH={named}\n" if named else "PORT=80\n", mode="0600")
    site.install(package)
    wanted = named or BACKUPS
    assert site.ask("status")["backups_path"] == wanted
    assert site.backup()["outcome"] == "succeeded"
    made = site.stored(wanted)
    assert set(made) - set(stored)
    site.run(f"dpkg --purge {PACKAGE}", timeout=120)
    assert site.stored(wanted) == made
    assert not site.path(f"/etc/systemd/system/{SERVICE}.service.d").exists()
