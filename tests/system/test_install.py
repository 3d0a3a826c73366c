"""docs/install.md, from its first command to its last: typed as they stand there, they do what the page says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from nanumpay_backupd import __version__
from nanumpay_backupd.errors import EXIT_OK
from tests.system.container import wait_for
from tests.system.host import BACKUPS, SERVICE, Host
from tests.system.page import block, marked, paste, unmarked

# Commands of the page that are not run here, by how they begin, and why.
NOT_RUN: Final = {
    "apt-get install -y mongodb-database-tools": "comes from MongoDB's repository; here the programs are plain files",
    "MONGODB_URI=": "lines of a file",
    "openssl rand -base64 756": "only where MongoDB demands a login",
}
OLD_LINES: Final = "# nanumpay-backup\n0 2 * * * /opt/nanumpay/bin/nanumpay-backup >> /logs/backup.log 2>&1\n"
S3: Final = "systemd-run --collect --unit=s3 -- rclone serve s3 --addr 127.0.0.1:9000 --auth-key KEY,{secret} /srv/s3"


@pytest.fixture
def clean(host: Host) -> Iterator[Host]:
    """The installed host; what a test writes into host file and drop-ins is taken out again."""
    yield host
    host.host_file("")
    host.run(f"rm -rf /etc/systemd/system/{SERVICE}.service.d /etc/systemd/system/{SERVICE}.socket.d")
    paste(host, "restart")


def test_every_command_of_the_page_is_run_by_some_test() -> None:
    """Each marked block is pasted by a test of this folder; each block of commands without a mark is known."""
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("*.py"))
    used = set(re.findall(r"(?:paste\(\w+, |block\()['\"]([\w-]+)['\"]", tests))
    assert used == set(marked())
    left = [text for text in unmarked() if not text.startswith(tuple(NOT_RUN))]
    assert left == []
    assert len(unmarked()) == len(NOT_RUN)


def test_installed(host: Host) -> None:
    """The daemon is active and enabled, has told systemd that it is ready, and says when it will back up."""
    assert "Active: active (running)" in host.said
    assert host.run(f"systemctl is-enabled {SERVICE}.service {SERVICE}.socket").out.split() == ["enabled"] * 2
    assert (host.show("Type"), host.show("SubState")) == ("notify", "running")
    wait_for(lambda: "next backup 02:00 KST" in host.show("StatusText"), "a status line with the next run")
    (ready,) = [entry for entry in host.journal("-u", SERVICE, "-b") if "is ready" in entry["MESSAGE"]][:1]
    assert ready["NANUMPAY_VERSION"] == __version__
    assert host.run("systemctl is-system-running").out == "running\n"


def test_user_folder_and_rights(host: Host) -> None:
    """User and group are there, nobody else may read backups, state and host file, and the daemon is not root."""
    assert "nanumpay" in host.run("id nanumpay").out
    looked = host.run(
        f"stat -c '%n %U:%G %a' {BACKUPS} /var/lib/{SERVICE} /etc/nanumpay/backupd.toml /run/{SERVICE}/control.sock"
    ).out
    assert looked.splitlines() == [
        f"{BACKUPS} nanumpay:nanumpay 750",
        f"/var/lib/{SERVICE} nanumpay:nanumpay 750",
        "/etc/nanumpay/backupd.toml root:nanumpay 640",
        f"/run/{SERVICE}/control.sock nanumpay:nanumpay 660",
    ]
    assert host.run(f"ps -o user= -p {host.main_pid()}").out.strip() == "nanumpay"


def test_check_and_reload(host: Host) -> None:
    """The host file as it came is good, and says nothing; the check and the reload say so."""
    assert paste(host, "reload").out.startswith(
        "/etc/nanumpay/backupd.toml: ok\n  backups in /opt/nanumpay/data/backups"
    )


def test_a_first_backup(host: Host) -> None:
    """Status, doctor and run: a backup that is committed and proven lies in the folder, for the application to read."""
    said = paste(host, "first-backup").out
    assert "daily at 02:00 KST" in said
    assert "0 failed" in said
    (name,) = re.findall(r"^Succeeded after .*: (nanumpay-backup-\S+)\.tar\.gz \(.*, verified\)$", said, re.MULTILINE)
    assert f"{name}.tar.gz" in [path.name for path in host.stored()]
    assert host.path(f"{BACKUPS}/.backupd/manifests/{name}.json").is_file()
    assert host.run(f"stat -c '%U:%G %a' {BACKUPS}/{name}.tar.gz").out == "nanumpay:nanumpay 640\n"


def test_crontabs_of_others(host: Host) -> None:
    """The old lines are shown beforehand, and taken out of the crontab of the user that is named."""
    host.run("crontab -u www-data -", stdin=OLD_LINES + "5 4 * * * true\n")
    assert "www-data" in paste(host, "crontab").out
    assert host.run("crontab -u www-data -l").out == "5 4 * * * true\n"


def test_run_now(host: Host) -> None:
    """The application's "run now" says what the old program said."""
    said = paste(host, "run-now").out
    (name,) = re.findall(r"^✅ 압축 완료: (nanumpay-backup-.+\.tar\.gz)$", said, re.MULTILINE)
    assert name in [path.name for path in host.stored()]


def test_run_once(host: Host) -> None:
    """A backup beside the daemon is in its catalog."""
    before = {run["id"] for run in host.runs()}
    paste(host, "run-once")
    (run,) = [run for run in host.runs() if run["id"] not in before]
    assert run["outcome"] == "succeeded"


def test_a_further_folder(clean: Host) -> None:
    """Without the drop-in the destination fails and doctor names the drop-in; with it the copy is there."""
    clean.host_file(block("folder-config"))
    clean.run(f"systemctl reload {SERVICE}")
    told = clean.ctl("doctor", check=False).out
    assert "folders.conf" in told, told
    assert "ReadWritePaths=-/mnt/nas/nanumpay\n" in paste(clean, "folder").out
    assert "0 failed" in paste(clean, "restart").out
    assert "nas✓" in clean.ctl("run").out
    assert list(clean.path("/mnt/nas/nanumpay").glob("*.tar.gz"))


def test_credentials(clean: Host, figures: dict[str, str]) -> None:
    """A secret that only root can read reaches the service, plain and encrypted, and is seen nowhere."""
    secret = "very-secret-key-1"
    clean.run(f"mkdir -p /srv/s3/my-backups && {S3.format(secret=secret)}")
    endpoint = 'region = "us-east-1"\nendpoint_url = "http://127.0.0.1:9000"\npath_style = true\n'
    clean.host_file(block("credential-config").replace("AKIA…", "KEY") + endpoint)
    try:
        paste(clean, "credential", stdin=secret)
        assert clean.run("stat -c '%U %a' /etc/nanumpay/credentials/s3-secret").out == "root 600\n"
        paste(clean, "restart")
        assert clean.ctl("test", "offsite").code == EXIT_OK
        paste(clean, "credential-encrypted", stdin=secret)
        assert secret not in clean.run("cat /etc/nanumpay/credentials/s3-secret.cred").out
        paste(clean, "restart")
        assert clean.ctl("test", "offsite").code == EXIT_OK
        assert "offsite✓" in clean.ctl("run").out
        seen = clean.run(
            f"cat /proc/{clean.main_pid()}/environ /proc/{clean.main_pid()}/cmdline | tr '\\0' '\\n'; "
            f"systemctl show {SERVICE}; backupctl settings --json; journalctl -u {SERVICE}"
        ).out
        assert secret not in seen
    finally:
        clean.run("systemctl stop s3; rm -rf /etc/nanumpay/credentials")


def test_another_group(clean: Host) -> None:
    """With the socket's drop-in members of another group may look, those of the admin group may do more."""
    clean.run("useradd -m -G adm carol; useradd -m -G adm,sudo dave; useradd -m alice")
    assert clean.ctl("status", user="carol", check=False).code != EXIT_OK
    clean.host_file(block("admin-group"))
    paste(clean, "socket-group")
    assert clean.ctl("status", user="carol").code == EXIT_OK
    assert clean.ctl("prune", "--apply", "--yes", user="carol", check=False).code != EXIT_OK
    assert clean.ctl("prune", "--apply", "--yes", user="dave").code == EXIT_OK
    clean.run(f"rm -r /etc/systemd/system/{SERVICE}.socket.d; systemctl daemon-reload; systemctl stop {SERVICE}")
    clean.run(f"systemctl restart {SERVICE}.socket; systemctl start {SERVICE}")
    assert clean.ctl("status", user="alice", check=False).code != EXIT_OK
    paste(clean, "group")
    assert clean.ctl("status", user="alice").code == EXIT_OK


def test_a_service_that_fails_for_good_tells(clean: Host) -> None:
    """A mistake in the host file ends the service at its start; the alert says so, also by the host's own program."""
    paste(clean, "alert")
    since = clean.now()
    clean.host_file('timezone = "Asia/Seol"\n')
    assert clean.run(f"systemctl restart {SERVICE}", check=False).code != 0
    assert (clean.show("ActiveState"), clean.show("Result")) == ("failed", "exit-code")
    wait_for(lambda: clean.journal("-t", "backup-alert", since=since), "the host's own alert")
    (own,) = clean.journal("-t", "backup-alert", since=since)
    assert own["MESSAGE"] == f"{SERVICE}.service failed on web1: exit-code"
    told = clean.run(f"journalctl -x -p crit --since={since} --no-pager").out
    assert "no backups are made until it runs again" in told
    assert "systemctl reset-failed" in told, "the catalog says what to do"
    # It is done.
    clean.host_file("")
    clean.run(f"systemctl reset-failed {SERVICE}.service {SERVICE}.socket; systemctl start {SERVICE}")
    assert clean.ctl("status").code == EXIT_OK


def test_programs_pages_and_completion_are_in_their_places(host: Host) -> None:
    """The programs, man pages, the documentation that units name, and completion for three shells."""
    names = [
        *("/usr/bin/backupctl", "/usr/sbin/nanumpay-backupd", "/opt/nanumpay/bin/nanumpay-backup"),
        *("/usr/share/man/man1/backupctl.1.gz", "/usr/share/man/man8/nanumpay-backupd.8.gz"),
        *("/usr/share/man/man5/backupd.toml.5.gz", f"/usr/share/doc/{SERVICE}/operations.md"),
        *("/usr/share/bash-completion/completions/backupctl", "/usr/share/zsh/vendor-completions/_backupctl"),
        *("/usr/share/fish/vendor_completions.d/backupctl.fish", f"/usr/share/doc/{SERVICE}/install.md"),
    ]
    host.run("ls " + " ".join(names))
    assert __version__ in host.run("backupctl --version; nanumpay-backupd --version").out


def test_exposure(host: Host, figures: dict[str, str]) -> None:
    """Systemd's own judgement of the sandbox is 1.5 at most."""
    said = host.run(f"systemd-analyze security --no-pager {SERVICE}").out
    (figure,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", said)
    figures["systemd-analyze security"] = f"{figure} (at most 1.5)"
    assert float(figure) <= 1.5


def test_the_units_are_sound(host: Host) -> None:
    """Systemd has nothing to say about any of them."""
    said = host.run(
        f"systemd-analyze verify --man=no {SERVICE}.service {SERVICE}.socket {SERVICE}-alert@x.service"
    ).said
    assert said == ""


def test_nothing_was_written_into_the_packages_files(host: Host) -> None:
    """After all that was done on this host, every file of the package is as it came."""
    assert host.run(f"dpkg -V {SERVICE}", check=False).out == "??5?????? c /etc/nanumpay/backupd.toml\n"
    strays = host.run(
        "find /opt/nanumpay-backupd | sort > all; dpkg -L nanumpay-backupd | grep ^/opt/nanumpay-backupd | sort > own;"
        "comm -23 all own"
    )
    assert strays.out == ""
