"""`nanumpay-backupd prepare-folder`: makes the backups folder and the unit's drop-in for it, and tells it.

Run as root by the package and by hand, as often as one likes: what is done is not done again. Which folder it is, is
decided next door (`folder`). The application's user owns folders on the way, so nothing of others is given away here:
no link is followed where an owner is changed, and what is changed was looked at through the same open file.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import stat
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nanumpay_backupd.errors import EXIT_OK, ConfigError, NotFoundError, RefusedError
from nanumpay_backupd.settings.hostfile import DEFAULT_HOST_FILE
from nanumpay_backupd.system.files import write_atomic
from nanumpay_backupd.system.process import run_bytes
from nanumpay_backupd.takeover.folder import (
    APPLICATION,
    DEFAULT,
    HEADER,
    Facts,
    choose,
    drop_in,
    hidden_by,
    variable_in,
)

__all__ = ["Host", "prepare_folder"]

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OURS: Final = ("nanumpay-", ".backupd", "lost+found")
"""What a folder of backups holds, by the beginnings of names."""


@dataclass(frozen=True, slots=True)
class Host:
    """Where `prepare_folder` finds things on a host, and for whom it prepares the folder."""

    host_file: Path | None = None
    """None: the default place."""
    env_file: Path = Path("/etc/nanumpay/nanumpay.env")
    drop_in: Path = Path("/etc/systemd/system/nanumpay-backupd.service.d/10-backups-folder.conf")
    user: str = "nanumpay"


def prepare_folder(host: Host, *, dry_run: bool = False) -> int:
    """Make the backups folder where it is missing, and the drop-in that lets the service write there; returns 0.

    An existing folder is left as it is, but one of root's that holds nothing but backups: that is given to the user of
    the service, without what is in it. Raises RefusedError when the caller is not root, NotFoundError when there is no
    such user, ConfigError for a folder that cannot serve.
    """
    if os.geteuid() != 0 and not dry_run:
        raise RefusedError("only root may prepare the backups folder", hint="use sudo, or only look with --dry-run")
    choice = choose(_facts(host))
    setting = hidden_by(choice.folder)
    if setting:
        raise ConfigError(
            f"backups cannot go to {choice.folder}: the service does not see that place ({setting}= in its unit)",
            hint=f"name another folder: BACKUP_PATH in {host.env_file}",
        )
    _say(f"Backups go to {choice.folder}: {choice.why}.")
    if dry_run:
        return EXIT_OK
    try:
        _make(choice.folder, host)
        _write_drop_in(host.drop_in, drop_in(choice))
    except OSError as error:
        raise ConfigError(
            f"{error.filename or choice.folder}: {error.strerror}",
            hint=f"put this right, or name another folder: BACKUP_PATH in {host.env_file}",
        ) from None
    return EXIT_OK


def _facts(host: Host) -> Facts:
    known = (DEFAULT, APPLICATION)
    return Facts(
        host_file=_absolute(_host_file_folder(host.host_file or DEFAULT_HOST_FILE)),
        environment=_absolute(variable_in(_text(host.env_file), "BACKUP_PATH")),
        existing=frozenset(folder for folder in known if folder.is_dir()),
        used=frozenset(folder for folder in known if (folder / ".backupd" / "manifests").is_dir()),
    )


def _host_file_folder(path: Path) -> object:
    """Return ``[paths] backups`` of the host file; the rest is not checked: its credentials are not here to be read."""
    try:
        paths = tomllib.loads(_text(path)).get("paths")
    except (tomllib.TOMLDecodeError, UnicodeEncodeError) as error:
        _warn(f"{path} is not taken into account: {error}.")
        return None
    return paths.get("backups") if isinstance(paths, dict) else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return ""


def _absolute(value: object) -> Path | None:
    return Path(value) if isinstance(value, str) and value.startswith("/") else None


def _make(folder: Path, host: Host) -> None:
    try:
        account = pwd.getpwnam(host.user)
    except KeyError:
        raise NotFoundError(f"there is no user {host.user!r}", hint="systemd-sysusers nanumpay-backupd.conf") from None
    if not os.path.lexists(folder):
        folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _make_new(folder, account)
        _say(f"It was made for the user {host.user}.")
    elif not folder.is_dir():
        raise NotADirectoryError(0, "this is no folder", str(folder))
    elif not _may_write(folder, host.user) and _is_roots_word(host.env_file) and _give(folder, account):
        _say(f"It was root's and was given to the user {host.user}; what is in it is as it was.")
    if not _may_write(folder, host.user):
        _warn(f"the user {host.user} cannot write into {folder}; look at: namei -l {folder}")


def _make_new(folder: Path, account: pwd.struct_passwd) -> None:
    parent = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.mkdir(folder.name, mode=0o700, dir_fd=parent)
        fd = os.open(folder.name, _FOLDER, dir_fd=parent)
    finally:
        os.close(parent)
    try:
        os.fchown(fd, account.pw_uid, account.pw_gid)
        os.fchmod(fd, 0o750)
    finally:
        os.close(fd)


def _give(folder: Path, account: pwd.struct_passwd) -> bool:
    """Give a folder of root's that holds nothing but backups to the user; tells whether it was one."""
    try:
        fd = os.open(folder, _FOLDER)
    except OSError:  # a link
        return False
    try:
        opened = Path(f"/proc/self/fd/{fd}")
        if opened.readlink() != folder or os.fstat(fd).st_uid != 0:
            return False
        if not all(entry.name.startswith(_OURS) for entry in opened.iterdir()):
            return False
        os.fchown(fd, account.pw_uid, account.pw_gid)
        return True
    finally:
        os.close(fd)


def _is_roots_word(path: Path) -> bool:
    """Tell whether what a file says is root's word: nobody else can have written it (or it is not there)."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return True
    return found.st_uid == 0 and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _may_write(folder: Path, user: str) -> bool:
    """Tell whether a user may work in a folder: the kernel knows rights, access lists and the folders above."""
    runuser = shutil.which("runuser")
    if runuser is None:
        return True
    test = ["test", "-w", str(folder), "-a", "-x", str(folder)]
    return run_bytes([runuser, "-u", user, "--", *test]).code == 0


def _write_drop_in(path: Path, text: str) -> None:
    """Write or remove our drop-in; one that does not begin with our words is somebody else's."""
    there = _text(path)
    if there == text or (there and not there.startswith(HEADER)):
        return
    if text:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_atomic(path, text.encode("utf-8", "surrogateescape"), mode=0o644)
        _say(f"{path} was written: with it the service knows the folder and may write there.")
    else:
        path.unlink()
        with contextlib.suppress(OSError):
            path.parent.rmdir()
        _say(f"{path} is not needed any more and was removed.")
    _say("That counts from the next start of the service (systemctl daemon-reload, then restart).")


def _say(sentence: str) -> None:
    sys.stdout.write(f"{sentence}\n")


def _warn(sentence: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(f"nanumpay-backupd: {sentence}\n")
