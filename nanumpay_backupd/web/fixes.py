"""Commands that stand in a hint, so that they can be copied. Pure; reads sentences of the daemon, runs nothing."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["commands_in"]

_PROGRAMS: Final = (
    "backupctl|nanumpay-backupd|nanumpay-backup-web|systemctl|journalctl|timedatectl|chmod|chown|apt-get|"
    "pip|usermod|install|sqlite3|pg_dump|redis-cli|mongosh"
)
_COMMAND: Final = re.compile(rf"(?<![\w/.'\"=-])((?:sudo )?(?:{_PROGRAMS})(?: (?:'[^']*'|\"[^\"]*\"|[^\s;,()'\"]+))+)")
_AS_ROOT: Final = re.compile(r"\bas root: (.+)$")
_PLAIN: Final = re.compile(r"[a-z]+")
_WORDS: Final = 2
"""Plain words that a command has; where more follow, the sentence goes on behind its first."""


def commands_in(hint: str) -> list[str]:
    """Return the commands of a hint in their order; of one that is told "as root" the whole line."""
    if found := _AS_ROOT.search(hint):
        return [found[1]]
    commands = []
    for text in _COMMAND.findall(hint):
        words = text.rstrip(".:").split(" ")
        begin = 2 if words[0] == "sudo" else 1
        if words[begin - 1] == "install" and not words[begin].startswith("-"):
            continue  # the verb, not the program
        plain = [at for at, word in enumerate(words) if at >= begin and _PLAIN.fullmatch(word)]
        if len(plain) > _WORDS:
            words = words[: plain[1]]
        commands.append(" ".join(words))
    return list(dict.fromkeys(commands))
