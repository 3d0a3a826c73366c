"""Pure: which lines of a crontab run the old backup program. Reads and writes no crontab.

A line goes when all it does is run that program. One that does something else besides, or that cannot be read for sure,
stays and is told: as long as it stays it is harmless, because the program's name now leads to the daemon.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

__all__ = ["Verdict", "Without", "judge", "without_old_program"]

_PROGRAM: Final = "nanumpay-backup"
_NAMED: Final = re.compile(rf"(?<![\w.-]){_PROGRAM}(?![\w/-]|\.\w)")
"""The program's own name, not that of an archive, of a folder of backups or of this daemon."""
_MARK: Final = re.compile(rb"[ \t]*#[ \t]*nanumpay-backup[ \t\r]*")
"""The comment that the application writes above its line."""
_LINE: Final = re.compile(rb"[^\n]*\n|[^\n]+")
_VARIABLE: Final = re.compile(r"""(?:"[^"]*"|'[^']*'|[A-Za-z_]\w*)[ \t]*=""")
_ENTRY: Final = re.compile(r"(?:@[A-Za-z_]+|[-*?~0-9](?:[^ \t]*[ \t]+){4}[^ \t]+)[ \t]+(?P<command>.*)")
_INPUT: Final = re.compile(r"(?<!\\)%")
"""The first one ends the command; what follows is its standard input."""
_DATE: Final = re.compile(r"\$\(date[^()]*\)|`date[^`]*`")
_TOKEN: Final = re.compile(
    r"""(?P<space>[ \t\r]+)|(?P<descriptor>[0-9]+(?=[<>]))|(?P<operator>[;&|()<>]+)
      |(?P<word>(?:[^ \t\r;&|()<>'"\\] | \\. | '[^']*' | "(?:[^"\\]|\\.)*")+)""",
    re.VERBOSE,
)
_PIECE: Final = re.compile(
    r"""\\(?P<escaped>.)|'(?P<single>[^']*)'|"(?P<double>(?:[^"\\]|\\.)*)"|(?P<plain>[^\\'"]+)"""
)
_ASSIGNMENT: Final = re.compile(r"[A-Za-z_]\w*=")

_REDIRECTION: Final = re.compile(r"&>>?|[<>]+[&|]?")
_HELPERS: Final = frozenset(
    "cd test [ sleep true : export set umask . source exit echo printf date logger tee mail".split()
)
"""What only serves the program beside it: says something, waits, prepares its environment, takes its output."""
_WRAPPERS: Final = {
    "chronic": (0, ""),
    "command": (0, ""),
    "env": (0, "u"),
    "exec": (0, ""),
    "flock": (1, "wE"),
    "ionice": (0, "cn"),
    "nice": (0, "n"),
    "nohup": (0, ""),
    "runuser": (0, "ug"),
    "setsid": (0, ""),
    "stdbuf": (0, "ioe"),
    "sudo": (0, "ug"),
    "systemd-cat": (0, "tp"),
    "time": (0, ""),
    "timeout": (1, "sk"),
}
"""Programs that run another: how many words of their own stand before it, and which short options take a value."""
_SHELLS: Final = frozenset({"sh", "bash", "dash"})
_SHELL_COMMAND: Final = re.compile(r"-[a-z]*c")


class Verdict(Enum):
    """What is to be done about a line."""

    TAKE = "take"
    """It runs the old program, and nothing else."""
    TELL = "tell"
    """It names the old program, and somebody has to look at it; it stays."""
    LEAVE = "leave"
    """It is none of our business."""


@dataclass(frozen=True, slots=True)
class Without:
    """A crontab without the old program; lines are given without their ends."""

    kept: bytes
    """The new crontab: every line that is left is as it was, to the byte."""
    taken: tuple[bytes, ...]
    doubtful: tuple[bytes, ...]
    """Lines that stay, although they name the program."""


def without_old_program(crontab: bytes) -> Without:
    """Take the lines of the old program out of a user's crontab, each with the application's comment above it."""
    lines = _LINE.findall(crontab)
    verdicts = [judge(line) for line in lines]
    for at in reversed(range(len(lines) - 1)):
        if verdicts[at + 1] is Verdict.TAKE and _MARK.fullmatch(lines[at].removesuffix(b"\n")):
            verdicts[at] = Verdict.TAKE

    def those(wanted: Verdict) -> tuple[bytes, ...]:
        pairs = zip(lines, verdicts, strict=True)
        return tuple(line.rstrip(b"\r\n") for line, verdict in pairs if verdict is wanted)

    kept = b"".join(line for line, verdict in zip(lines, verdicts, strict=True) if verdict is not Verdict.TAKE)
    return Without(kept=kept, taken=those(Verdict.TAKE), doubtful=those(Verdict.TELL))


def judge(line: bytes) -> Verdict:
    """Judge one line of a user's crontab by itself (crontab(5); comments, also disabled lines, are left)."""
    text = line.decode("utf-8", "surrogateescape").rstrip("\r\n").lstrip(" \t")
    if text.startswith("#") or not _NAMED.search(text):
        return Verdict.LEAVE
    entry = None if _VARIABLE.match(text) else _ENTRY.fullmatch(text)
    if entry is None:
        return Verdict.TELL
    command = _INPUT.split(entry["command"], maxsplit=1)[0].replace("\\%", "%")
    return _judge_command(command)


def _judge_command(command: str) -> Verdict:
    """Judge a shell command that names the program: all its parts must run it, or serve it."""
    try:
        programs = [_name(words[0]) for words in _simple_commands(_DATE.sub("DATE", command))]
    except ValueError:
        return Verdict.TELL
    surely = _PROGRAM in programs and all(program == _PROGRAM or program in _HELPERS for program in programs)
    return Verdict.TAKE if surely else Verdict.TELL


def _simple_commands(command: str) -> Iterator[list[str]]:
    """Split a shell command line into its simple commands, without redirections and what they are wrapped in.

    Raises ValueError where that takes more than splitting words.
    """
    if any(mark in command for mark in ("$(", "`", ">(", "<(")):
        raise ValueError("another command's output")
    words: list[str] = []
    redirected = False
    for kind, text in _tokens(command):
        if kind == "word":
            if not redirected:
                words.append(text)
            redirected = False
            continue
        if _REDIRECTION.sub("", text):
            yield from _unwrapped(words)
            words = []
        redirected = _REDIRECTION.search(text) is not None
    yield from _unwrapped(words)


def _tokens(command: str) -> Iterator[tuple[str, str]]:
    """Yield the words, their quotes taken off, and operators of a command line, up to a comment."""
    at, between = 0, True
    while at < len(command) and not (between and command[at] == "#"):
        found = _TOKEN.match(command, at)
        if found is None or found.lastgroup is None:
            raise ValueError("a quote that is never closed")
        at, between = found.end(), found.lastgroup != "word"
        if found.lastgroup == "word":
            yield "word", _PIECE.sub(_unquoted, found[0])
        elif found.lastgroup == "operator":
            yield "operator", found[0]


def _unquoted(piece: re.Match[str]) -> str:
    if piece["double"] is not None:
        return re.sub(r'\\(["\\$`])', r"\1", piece["double"])
    return piece["escaped"] or piece["single"] or piece["plain"] or ""


def _unwrapped(words: Sequence[str]) -> Iterator[list[str]]:
    """Yield what a simple command really runs: behind its assignments, ``nice``, ``flock``, ``sh -c`` and the like."""
    rest = list(words)
    while True:
        while rest and _ASSIGNMENT.match(rest[0]):
            del rest[0]
        if not rest:
            return
        program = _name(rest[0])
        if program in _SHELLS:
            yield from _of_shell(rest)
            return
        if program not in _WRAPPERS:
            yield rest
            return
        rest = _behind(rest, *_WRAPPERS[program])


def _of_shell(words: list[str]) -> Iterator[list[str]]:
    """Yield what a shell is told to run: the command of its option ``-c``, or a program's file."""
    at = next((at for at, word in enumerate(words[1:], 1) if not word.startswith("-")), len(words))
    if at < len(words) and _SHELL_COMMAND.fullmatch(words[at - 1]):
        yield from _simple_commands(words[at])
    else:
        yield words[at:] or words


def _behind(words: Sequence[str], own: int, valued: str) -> list[str]:
    """Return what stands behind a wrapper's own options and words."""
    at = 1
    while at < len(words) and words[at].startswith("-"):
        option = words[at]
        at += 1
        if option == "--":
            break
        if len(option) == 2 and option[1] in valued:
            at += 1
    return list(words[at + own :])


def _name(word: str) -> str:
    return word.rpartition("/")[2]
