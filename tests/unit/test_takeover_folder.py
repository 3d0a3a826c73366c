"""Which folder backups go to on a host, what the service's unit needs for it, and that nothing of others is changed."""

from __future__ import annotations

import getpass
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.errors import ConfigError, NotFoundError, RefusedError
from nanumpay_backupd.takeover.folder import (
    APPLICATION,
    DEFAULT,
    HEADER,
    Choice,
    Facts,
    choose,
    drop_in,
    hidden_by,
    variable_in,
)
from nanumpay_backupd.takeover.folders import Host, prepare_folder

NAS = Path("/mnt/nas/nanumpay")
BOTH = frozenset({DEFAULT, APPLICATION})
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="owners are root's to change")


@pytest.mark.parametrize(
    "facts,folder,named",
    [
        (Facts(), DEFAULT, False),
        (Facts(environment=NAS), NAS, True),
        (Facts(environment=DEFAULT, existing=BOTH, used=frozenset({APPLICATION})), DEFAULT, True),
        (Facts(host_file=NAS, environment=APPLICATION, existing=BOTH), NAS, True),
        (Facts(existing=frozenset({DEFAULT})), DEFAULT, False),
        (Facts(existing=frozenset({APPLICATION})), APPLICATION, False),
        (Facts(existing=BOTH), APPLICATION, False),
        (Facts(existing=BOTH, used=frozenset({DEFAULT})), DEFAULT, False),
        (Facts(existing=BOTH, used=frozenset({APPLICATION})), APPLICATION, False),
        (Facts(existing=BOTH, used=BOTH), DEFAULT, False),
    ],
)
def test_choice(facts: Facts, folder: Path, named: bool) -> None:
    """Named ones as the daemon takes them; else where backups of this daemon are, else what the application uses."""
    choice = choose(facts)
    assert (choice.folder, choice.named) == (folder, named)
    assert choice.why


@pytest.mark.parametrize(
    "folder,named,lines",
    [
        (DEFAULT, False, []),
        (DEFAULT, True, []),
        (APPLICATION, True, []),
        (DEFAULT / "daily", True, []),
        (APPLICATION, False, ["Environment=BACKUP_PATH=/opt/nanumpay/backups"]),
        (NAS, True, ["ReadWritePaths=-/mnt/nas/nanumpay"]),
        (Path("/opt/nanumpay/backups2"), True, ["ReadWritePaths=-/opt/nanumpay/backups2"]),
        (Path("/mnt/my disk/100%"), True, ['ReadWritePaths="-/mnt/my disk/100%%"']),
        (Path('/mnt/a"b\\c'), True, ['ReadWritePaths="-/mnt/a\\"b\\\\c"']),
        (
            Path("/home/kim/backups"),
            True,
            ["ReadWritePaths=-/home/kim/backups", "ProtectHome=tmpfs", "BindPaths=-/home/kim/backups"],
        ),
    ],
)
def test_drop_in(folder: Path, named: bool, lines: list[str]) -> None:
    """Only what the unit does not allow by itself is opened, and the daemon is told of a folder that nobody named."""
    text = drop_in(Choice(folder, "", named=named))
    assert text == (HEADER + "[Service]\n" + "".join(f"{line}\n" for line in lines) if lines else "")


@pytest.mark.parametrize(
    "place,setting",
    [
        ("/tmp/x", "PrivateTmp"),
        ("/var/tmp", "PrivateTmp"),
        ("/dev/shm/b", "PrivateDevices"),
        ("/tmpx", ""),
        ("/mnt", ""),
    ],
)
def test_places_that_the_service_cannot_see(place: str, setting: str) -> None:
    """A folder in one of the unit's own places is refused by the name of the setting, its neighbours are not."""
    assert hidden_by(Path(place)) == setting


@pytest.mark.parametrize(
    "text,value",
    [
        ("", None),
        ("BACKUP_PATH=/a", "/a"),
        ("  BACKUP_PATH = /a  \r\n", "/a"),
        ("BACKUP_PATH=/a\nBACKUP_PATH=/b\n", "/b"),
        ("BACKUP_PATH='/a b'\n", "/a b"),
        ('BACKUP_PATH="/a \\"b\\""\n', '/a "b"'),
        ("BACKUP_PATH=/a\\ b\n", "/a b"),
        ("BACKUP_PATH=\\\n/a\n", "/a"),
        ("#BACKUP_PATH=/a\n; BACKUP_PATH=/a\n", None),
        ("export BACKUP_PATH=/a\n", None),
        ("MY_BACKUP_PATH=/a\nBACKUP_PATH2=/a\n", None),
        ("BACKUP_PATH=\n", ""),
    ],
)
def test_variable(text: str, value: str | None) -> None:
    """The env file is read as systemd reads it, which is what the daemon then is given."""
    assert variable_in(text, "BACKUP_PATH") == value


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), min_size=1).map(
        lambda name: f"/{name}"
    )
)
def test_a_folder_stays_one_word_of_the_drop_in(name: str) -> None:
    """Whatever a folder is called, the drop-in has one line for it, and no half quote."""
    folder = Path(name)
    text = drop_in(Choice(folder, "", named=True))
    for line in text.removeprefix(f"{HEADER}[Service]\n").splitlines():
        value = line.partition("=")[2]
        bare = value.replace("\\\\", "").replace('\\"', "")
        assert bare.count('"') in {0, 2}
        assert bare.replace("%%", "").count("%") == 0
        assert not re.search(r"\s", value) or (value[0] == '"' and value[-1] == '"')


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """Describe a host whose env file names a folder, all of it below the test's own."""
    env_file = tmp_path / "nanumpay.env"
    env_file.write_text(f"BACKUP_PATH={tmp_path / 'srv' / 'backups'}\n", encoding="utf-8")
    return Host(
        host_file=tmp_path / "backupd.toml",
        env_file=env_file,
        drop_in=tmp_path / "unit.d" / "10-backups-folder.conf",
        user=getpass.getuser(),
    )


@pytest.fixture(autouse=True)
def _places_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests have their folders in /tmp, where a service could not have them."""
    monkeypatch.setattr("nanumpay_backupd.takeover.folders.hidden_by", lambda folder: "")


@as_root
def test_folder_and_drop_in_are_made_once(host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing folder is made for the user alone, the service is let in, and a second time changes nothing."""
    folder = tmp_path / "srv" / "backups"
    assert prepare_folder(host) == 0
    assert folder.stat().st_mode & 0o7777 == 0o750
    assert f"ReadWritePaths=-{folder}" in host.drop_in.read_text(encoding="utf-8")
    before = (folder.stat().st_ctime_ns, host.drop_in.stat().st_ctime_ns)
    capsys.readouterr()
    assert prepare_folder(host) == 0
    assert (folder.stat().st_ctime_ns, host.drop_in.stat().st_ctime_ns) == before
    assert capsys.readouterr().out == f"Backups go to {folder}: BACKUP_PATH names it.\n"


@as_root
def test_the_drop_in_goes_when_it_is_not_needed(host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the folder back in its usual place nothing of ours is left below /etc."""
    assert prepare_folder(host) == 0
    monkeypatch.setattr("nanumpay_backupd.takeover.folder._OPEN", (tmp_path,))
    assert prepare_folder(host) == 0
    assert not host.drop_in.parent.exists()


@as_root
def test_somebody_elses_drop_in_of_that_name_stays(host: Host) -> None:
    """A file that does not begin with our words was put there by the administrator."""
    host.drop_in.parent.mkdir()
    host.drop_in.write_text("[Service]\nReadWritePaths=/mine\n", encoding="utf-8")
    assert prepare_folder(host) == 0
    assert host.drop_in.read_text(encoding="utf-8") == "[Service]\nReadWritePaths=/mine\n"


@as_root
@pytest.mark.parametrize(
    "content,handed_over",
    [
        pytest.param([], True, id="empty"),
        pytest.param(["nanumpay-backup-2026-11-20T17-00-00.tar.gz", ".backupd", "lost+found"], True, id="backups"),
        pytest.param(["nanumpay-backup-2026-11-20T17-00-00.tar.gz", "photos"], False, id="something else too"),
    ],
)
def test_roots_folder_is_given_away_only_with_nothing_but_backups(
    host: Host, tmp_path: Path, content: list[str], handed_over: bool
) -> None:
    """A folder of root's becomes the user's when it serves backups alone; its files keep their owner."""
    folder = tmp_path / "srv" / "backups"
    folder.mkdir(parents=True)
    for name in content:
        (folder / name).touch()
    prepare_folder(Host(host.host_file, host.env_file, host.drop_in, user="nobody"))
    assert (folder.owner() == "nobody") is handed_over
    assert all((folder / name).owner() == "root" for name in content)


@as_root
def test_what_others_may_have_written_gives_nothing_away(host: Host, tmp_path: Path) -> None:
    """Neither through a link nor on the word of an env file that others can write does a folder change its owner."""
    target = tmp_path / "roots"
    target.mkdir()
    link = tmp_path / "link"
    link.symlink_to(target)
    host.env_file.write_text(f"BACKUP_PATH={link}\n", encoding="utf-8")
    nobody = Host(host.host_file, host.env_file, host.drop_in, user="nobody")
    prepare_folder(nobody)
    assert target.owner() == "root"
    host.env_file.write_text(f"BACKUP_PATH={target}\n", encoding="utf-8")
    host.env_file.chmod(0o666)
    prepare_folder(nobody)
    assert target.owner() == "root"


@as_root
def test_what_cannot_serve_is_refused(host: Host, tmp_path: Path) -> None:
    """A file in the folder's place, a link to nowhere and an unknown user are told, and nothing is made."""
    (tmp_path / "srv").mkdir()
    (tmp_path / "srv" / "backups").touch()
    with pytest.raises(ConfigError, match="this is no folder"):
        prepare_folder(host)
    (tmp_path / "srv" / "backups").unlink()
    (tmp_path / "srv" / "backups").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError):
        prepare_folder(host)
    with pytest.raises(NotFoundError):
        prepare_folder(Host(host.host_file, host.env_file, host.drop_in, user="no-such-user"))
    assert not host.drop_in.exists()


def test_the_host_file_wins_and_need_not_be_whole(
    host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Credentials that only the service has are no obstacle; what is no TOML is left out of account, and told."""
    assert host.host_file is not None
    host.host_file.write_text(
        '[mongodb]\nuri = { credential = "uri" }\n[paths]\nbackups = "/mnt/nas"\n', encoding="utf-8"
    )
    assert prepare_folder(host, dry_run=True) == 0
    assert capsys.readouterr().out == "Backups go to /mnt/nas: [paths] backups of the host file names it.\n"
    host.host_file.write_text("[paths\n", encoding="utf-8")
    assert prepare_folder(host, dry_run=True) == 0
    said = capsys.readouterr()
    assert "srv/backups" in said.out
    assert "is not taken into account" in said.err
    assert not host.drop_in.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may")
def test_only_root_prepares(host: Host) -> None:
    """Others may look, and are told so."""
    with pytest.raises(RefusedError):
        prepare_folder(host)
