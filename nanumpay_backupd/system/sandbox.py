"""What the service's own sandbox is in the way of, and the commands that open it. Knows mounts and units, no settings.

systemd gives a service a view of the files of its own: read-only mounts over what it may not write (ProtectSystem=),
empty folders over what it may not see (ProtectHome=, InaccessiblePaths=). A disk that is read-only itself is another
matter.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Final

__all__ = ["FOLDERS", "HOMES", "HOME_FOLDERS", "Hindrance", "hidden", "hindrance", "setting_line", "way_out"]

_UNIT: Final = "nanumpay-backupd"
_DROP_INS: Final = f"/etc/systemd/system/{_UNIT}.service.d"
FOLDERS: Final = "folders"
HOMES: Final = "homes"
"""Names of the drop-ins that the commands write; ready-made ones of that name are in systemd/drop-ins."""
_OCTAL: Final = re.compile(r"\\([0-7]{3})")
HOME_FOLDERS: Final = ("/home", "/root", "/run/user")
"""What ProtectHome= is about."""
_COVERS: Final = "/systemd/inaccessible/"
"""Where systemd keeps the empty files and folders that it lays over others."""


class Hindrance(Enum):
    """How the sandbox is in the way of a path."""

    NONE = "none"
    READ_ONLY = "read-only"
    HIDDEN = "hidden"


def hindrance(path: Path, mountinfo: str) -> Hindrance:
    """Tell how the mounts in ``mountinfo`` (/proc/self/mountinfo) are in the way of writing at ``path``.

    ``path`` is absolute and without links; it need not exist.
    """
    found: tuple[str, str, str, frozenset[str], frozenset[str]] | None = None
    for line in mountinfo.splitlines():
        left, dash, right = line.partition(" - ")
        fields, rest = left.split(" "), right.split(" ")
        if not dash or len(fields) < 6 or len(rest) < 3:
            continue
        point = _plain(fields[4])
        # A later mount covers an earlier one of the same place; of nested ones the deepest counts.
        if path.is_relative_to(point) and (found is None or len(point) >= len(found[0])):
            found = point, fields[3], rest[0], frozenset(fields[5].split(",")), frozenset(rest[2].split(","))
    if found is None:
        return Hindrance.NONE
    point, root, kind, options, of_the_disk = found
    if _COVERS in root or (point in HOME_FOLDERS and kind == "tmpfs"):
        return Hindrance.HIDDEN
    if "ro" in options and "ro" not in of_the_disk:
        return Hindrance.READ_ONLY
    return Hindrance.NONE


def way_out(path: Path, *, environ: Mapping[str, str] = os.environ) -> str:
    """Return the commands that open ``path``, a folder, for the service; empty where its sandbox is not in the way.

    Outside of a service (no $INVOCATION_ID) it is never the sandbox.
    """
    real = Path(os.path.realpath(path))
    found = _hindrance_here(real, environ)
    if found is Hindrance.READ_ONLY:
        line = setting_line("ReadWritePaths", real)
        return f"the service may not write there; as root: {_commands(real, FOLDERS, line)}"
    if found is Hindrance.HIDDEN:
        lines = ("ProtectHome=tmpfs", setting_line("BindPaths", real))
        return f"the service does not see that folder; as root: {_commands(real, HOMES, *lines)}"
    return ""


def hidden(path: Path, *, environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whether the service's sandbox covers the place where ``path`` is or would be."""
    return _hindrance_here(Path(os.path.realpath(path)), environ) is Hindrance.HIDDEN


def _hindrance_here(path: Path, environ: Mapping[str, str]) -> Hindrance:
    if "INVOCATION_ID" not in environ:
        return Hindrance.NONE
    try:
        mountinfo = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return Hindrance.NONE
    return hindrance(path, mountinfo)


def _commands(folder: Path, name: str, *lines: str) -> str:
    """Write what makes the folder, adds the drop-in and starts the service with it."""
    user = pwd.getpwuid(os.geteuid()).pw_name
    text = " ".join(shlex.quote(line) for line in ("[Service]", *lines))
    steps = (
        f"install -d -o {user} -g {user} -m 0750 {shlex.quote(str(folder))}",
        f"install -d {_DROP_INS}",
        f"printf '%s\\n' {text} >> {_DROP_INS}/{name}.conf",
        "systemctl daemon-reload",
        f"systemctl restart {_UNIT}",
    )
    return " && ".join(steps)


def setting_line(setting: str, path: Path) -> str:
    """Write a path as units want it; without the folder the service shall start all the same ("-")."""
    value = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'{setting}="-{value}"' if re.search(r"[\s\"'\\]", value) else f"{setting}=-{value}"


def _plain(field: str) -> str:
    """Undo the escapes of /proc/self/mountinfo (space, tab, newline, backslash)."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)
