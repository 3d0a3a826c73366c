"""The control socket as a file: taken over from a dead daemon, never from a living one, never with wrong rights."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import socket
import stat
from pathlib import Path
from typing import Final

from nanumpay_backupd.control.client import DOWN
from nanumpay_backupd.errors import BusyError, ConfigError

__all__ = ["Listener", "group_differs", "mark_down"]

_BACKLOG: Final = 128
_PARENT_MODE: Final = 0o755
_HINT: Final = "check the folder's owner and the configured group; a socket's path has 90 characters at most"
_CONTROL: Final = "control socket"
_GROUP_HINT: Final = (
    "take [control] group out of backupd.toml and let nanumpay-backupd.socket make the socket, with SocketGroup= "
    "(drop-in socket-group.conf): the service may not give a file to another group"
)


class Listener:
    """A listening Unix socket; `close` removes its file if the file is still the one made here."""

    def __init__(self, listening: socket.socket, path: Path | None, shared: Path | None = None) -> None:
        """``path`` is the file to remove at the end, None when it belongs to somebody else (systemd): ``shared``."""
        listening.setblocking(False)  # noqa: FBT003 - its one argument
        self.socket = listening
        self._path = path
        self._shared = shared
        self._identity = None if path is None else _identity(path)

    @classmethod
    def adopt(cls, fd: int, path: Path) -> Listener:
        """Take over the socket at ``path`` that systemd listens on for us.

        Raises ConfigError when it is something else; ``fd`` is left open then.
        """
        try:
            listening = socket.socket(fileno=fd)
        except OSError:
            raise _unusable(fd) from None
        try:
            kind = (listening.family, listening.type)
            if kind != (socket.AF_UNIX, socket.SOCK_STREAM) or not _listens(listening):
                raise _unusable(fd)
            where = listening.getsockname()
            if not isinstance(where, str) or not _same_file(Path(where), path):
                raise ConfigError(
                    f"systemd listens for us on {where!r}, but [paths] socket is {path}",
                    hint="take [paths] socket out of backupd.toml, or set ListenStream= to it: "
                    "systemctl edit nanumpay-backupd.socket (an empty ListenStream= first)",
                    code="control-socket",
                )
        except ConfigError:
            listening.detach()
            raise
        with contextlib.suppress(OSError):
            _down(path).unlink(missing_ok=True)
        return cls(listening, None, path)

    @classmethod
    def open(
        cls, path: Path, *, mode: int, group: str | None, what: str = _CONTROL, group_hint: str = _GROUP_HINT
    ) -> Listener:
        """Listen on ``path``; its folder is created when it is not there. ``what`` it is, is said where it fails.

        Raises BusyError when another daemon answers there, ConfigError when the path or the group cannot be used.
        """
        gid = None if group is None else _gid(group, what)
        _refuse_living(path, what)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            path.parent.mkdir(mode=_PARENT_MODE, parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)
            listening.bind(str(temporary))
            # Rights first, then listening, then the name that callers know: no moment with wrong rights.
            if gid is not None:
                os.chown(temporary, -1, gid)
            temporary.chmod(mode)
            listening.listen(_BACKLOG)
            temporary.replace(path)
            return cls(listening, path)
        except OSError as error:
            listening.close()
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise ConfigError(
                f"the {what} {path} cannot be made: {error.strerror or error}",
                hint=group_hint if group is not None and error.errno == errno.EPERM else _HINT,
                code="control-socket",
            ) from None

    def close(self) -> None:
        """Stop listening and remove the file, unless another daemon has put its own there, or it is systemd's."""
        if self._shared is not None:
            mark_down(self._shared)
        self.socket.close()
        if self._path is not None and self._identity is not None and _identity(self._path) == self._identity:
            with contextlib.suppress(OSError):
                self._path.unlink()


def mark_down(path: Path) -> None:
    """Leave word beside systemd's socket that the daemon is down on purpose (see `client.DOWN`). Best effort."""
    with contextlib.suppress(OSError):
        _down(path).touch(mode=0o644)


def _down(path: Path) -> Path:
    return path.with_name(path.name + DOWN)


def group_differs(path: Path, group: str) -> bool:
    """Tell whether a socket belongs to another group than the one of that name (which may not exist at all)."""
    try:
        return path.stat().st_gid != grp.getgrnam(group).gr_gid
    except (OSError, KeyError):
        return True


def _listens(candidate: socket.socket) -> bool:
    return bool(candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _unusable(fd: int) -> ConfigError:
    return ConfigError(
        f"descriptor {fd}, which systemd passed as the control socket, is no listening Unix stream socket",
        hint="use ListenStream= with a path in nanumpay-backupd.socket",
        code="control-socket",
    )


def _same_file(one: Path, other: Path) -> bool:
    """Tell whether two paths mean one file, also by way of a link such as /var/run."""
    with contextlib.suppress(OSError):
        return one.samefile(other)
    return one == other


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _gid(group: str, what: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigError(
            f"the {what}'s group {group} does not exist", hint=f"create it: groupadd --system {group}"
        ) from None


def _refuse_living(path: Path, what: str) -> None:
    """Raise BusyError when somebody listens on ``path``, ConfigError when it is not a socket at all."""
    try:
        status = path.lstat()
    except OSError:
        return  # not there, or not to be seen: making it will tell
    if not stat.S_ISSOCK(status.st_mode):
        raise ConfigError(
            f"{path} is to be the {what}, but a file of another kind is in its place",
            hint="move that file away, or configure another path",
            code="control-socket",
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # noqa: FBT003 - its one argument
        result = probe.connect_ex(str(path))
    # EAGAIN: its queue of new connections is full, so there is somebody.
    if result in (0, errno.EAGAIN):
        raise BusyError(
            f"another daemon is running: it answers on {path}",
            hint="look at it with: systemctl status nanumpay-backupd",
        )
