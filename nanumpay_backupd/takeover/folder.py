"""Pure: which folder the backups go to on this host, and what the service's unit needs for it. Makes no folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nanumpay_backupd.settings.schema import Paths
from nanumpay_backupd.system.sandbox import HOME_FOLDERS, setting_line

__all__ = ["APPLICATION", "DEFAULT", "HEADER", "Choice", "Facts", "choose", "drop_in", "hidden_by", "variable_in"]

DEFAULT: Final = Paths().backups
"""Where the daemon keeps backups when nobody says otherwise."""
APPLICATION: Final = Path("/opt/nanumpay/backups")
"""The application's own default."""
HEADER: Final = (
    "# Written by `nanumpay-backupd prepare-folder`, which writes it anew; your own settings go into another file.\n"
)

_OPEN: Final = (DEFAULT, APPLICATION)
"""What the unit itself lets the service write to, beside its state."""
_HIDDEN: Final = {
    "/tmp": "PrivateTmp",  # noqa: S108 - not used, only known
    "/var/tmp": "PrivateTmp",  # noqa: S108
    "/dev": "PrivateDevices",
    "/proc": "ProtectProc",
    "/sys": "ProtectKernelTunables",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of this host. ``host_file`` and ``environment`` are the folder named there, None: none is."""

    host_file: Path | None = None
    environment: Path | None = None
    existing: frozenset[Path] = frozenset()
    """Which of DEFAULT and APPLICATION are there."""
    used: frozenset[Path] = frozenset()
    """Which of them hold backups of this daemon."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A folder, and why it is that one (for a sentence: "…, because WHY")."""

    folder: Path
    why: str
    named: bool = True
    """The daemon is told of it by the host file or by BACKUP_PATH."""


def choose(facts: Facts) -> Choice:
    """Choose as the daemon does; where nobody named a folder, one that is in use, or else one that is there."""
    if facts.host_file is not None:
        return Choice(facts.host_file, "[paths] backups of the host file names it")
    if facts.environment is not None:
        return Choice(facts.environment, "BACKUP_PATH names it")
    for folder in (DEFAULT, APPLICATION):
        if folder in facts.used:
            return Choice(folder, "backups of this daemon are there", named=False)
    for folder in (APPLICATION, DEFAULT):
        if folder in facts.existing:
            return Choice(folder, "it is there, and BACKUP_PATH is not set", named=False)
    return Choice(DEFAULT, "BACKUP_PATH is not set", named=False)


def drop_in(choice: Choice) -> str:
    """Return the drop-in that the service's unit needs for this folder, empty when it needs none."""
    folder = choice.folder
    lines = []
    if not choice.named and folder != DEFAULT:
        lines.append(f"Environment=BACKUP_PATH={folder}")
    if not any(folder.is_relative_to(place) for place in _OPEN):
        lines.append(setting_line("ReadWritePaths", folder))
    if any(folder.is_relative_to(home) for home in HOME_FOLDERS):
        # This one folder and no other: the rest of the homes stays out of sight.
        lines += ["ProtectHome=tmpfs", setting_line("BindPaths", folder)]
    if not lines:
        return ""
    return "\n".join([f"{HEADER}[Service]", *lines, ""])


def hidden_by(folder: Path) -> str:
    """Return the setting of the unit that hides this place from the service whatever a drop-in opens, empty: none."""
    return next((name for place, name in _HIDDEN.items() if folder.is_relative_to(place)), "")


def variable_in(text: str, name: str) -> str | None:
    """Return what an env file as systemd reads it (EnvironmentFile=) sets a variable to, the last time; else None."""
    value = None
    for line in text.replace("\\\n", "").splitlines():
        found = re.match(rf"\s*{re.escape(name)}\s*=\s*(.*?)\s*\Z", line)
        if found:
            value = _unquoted(found[1])
    return value


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        inner = value[1:-1]
        return inner if value[0] == "'" else re.sub(r'\\(["\\$`])', r"\1", inner)
    return re.sub(r"\\(.)", r"\1", value)
