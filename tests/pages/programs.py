"""The two command lines as data: commands, options, arguments, and what words each takes; read from their parsers.

Completions are written from it, and the man pages are compared with it. No shell and no roff here.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from nanumpay_backupd import arguments
from nanumpay_backupd.cli import options

__all__ = ["PROGRAMS", "Command", "Item", "Program", "read_programs"]

# What may stand for a metavar: words as they are, @KIND for those that the daemon knows (`backupctl complete KIND`),
# @files and @dirs for the shell's own, nothing where only the user knows.
_WORDS: Final[Mapping[str, str]] = {
    "BACKUP": "@backups",
    "BACKUP|RUN": "latest @backups @runs",
    "BACKUP|latest": "latest @backups",
    "C": "@collections",
    "CHANNEL": "@channels",
    "DATE": "",
    "DEST": "@destinations",
    "DESTINATION": "@remote",
    "DIR": "@dirs",
    "DURATION": "",
    "FILE": "@files",
    "HOST": "",
    "JOB": "@jobs",
    "KEY=VALUE": "",
    "N": "",
    "NAME": "",
    "PART": "@files",
    "PATH": "@files",
    "PLACE": "@named @dirs",
    "RUN": "@runs",
    "SWAP": "@swaps",
    "TEXT": "",
    "TIME": "latest",
    "ROLE": "",
    "SCOPE": "",
    "USER": "",
    "VERB": "",
}
_SPECIAL: Final[Mapping[tuple[str, str], str]] = {
    ("cancel", "RUN"): "@running",
    ("list", "JOB"): "@jobs @groups",
    ("restore", "BACKUP|latest"): "latest @backups @made @groups",
    ("run", "JOB"): "@jobs @groups",
    ("show", "BACKUP|RUN"): "latest @backups @runs @made",
}


@dataclass(frozen=True)
class Item:
    """An option (``flags``, the long one last) or an argument (no flags).

    ``metavar`` is empty for an option that takes no value; ``words`` are those that may follow, as in `_WORDS`.
    """

    flags: tuple[str, ...]
    metavar: str
    words: tuple[str, ...]
    help: str
    required: bool

    @property
    def name(self) -> str:
        """Return the long flag, or the only one."""
        return self.flags[-1]

    @property
    def dynamic(self) -> bool:
        """Tell whether the daemon knows some of the words."""
        return any(word.startswith("@") and word not in ("@files", "@dirs") for word in self.words)


@dataclass(frozen=True)
class Command:
    """A command, or with the empty name what stands before one. ``options`` are those of all commands too."""

    name: str
    help: str
    options: tuple[Item, ...]
    arguments: tuple[Item, ...]


@dataclass(frozen=True)
class Program:
    """A program: ``top`` is what may stand before the command."""

    name: str
    top: Command
    commands: tuple[Command, ...]

    @property
    def identifier(self) -> str:
        """Return the name as shells allow it in names of functions."""
        return self.name.replace("-", "_")

    @property
    def all(self) -> tuple[Command, ...]:
        """Return the top and all commands."""
        return (self.top, *self.commands)

    @property
    def common(self) -> tuple[Item, ...]:
        """Return the options that every command takes."""
        first, *rest = [command.options for command in self.commands]
        return tuple(item for item in first if all(item in others for others in rest))


def _items(parser: argparse.ArgumentParser, command: str) -> Iterator[Item]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) or action.help is argparse.SUPPRESS:
            continue
        metavar = str(action.metavar or action.dest.upper()) if action.nargs != 0 else ""
        if action.choices is not None:
            words = tuple(map(str, action.choices))
        else:
            words = tuple((_SPECIAL.get((command, metavar)) or (_WORDS[metavar] if metavar else "")).split())
        # The order in which the flags were declared, the long one last.
        flags = tuple(sorted(action.option_strings, key=len))
        text = (action.help or "") % {"prog": parser.prog} if "%(" in (action.help or "") else action.help or ""
        yield Item(flags, metavar, words, text, required=action.required)


def _command(parser: argparse.ArgumentParser, name: str, text: str) -> Command:
    items = list(_items(parser, name))
    plain = tuple(item for item in items if not item.flags)
    return Command(name, text, tuple(item for item in items if item.flags), plain)


def _program(parser: argparse.ArgumentParser) -> Program:
    commands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    found = tuple(
        _command(commands.choices[shown.dest], shown.dest, shown.help or "") for shown in commands._choices_actions
    )
    return Program(parser.prog, _command(parser, "", ""), found)


def read_programs() -> dict[str, Program]:
    """Read both programs from their parsers."""
    return {parser.prog: _program(parser) for parser in (options.build_parser(), arguments.build_parser())}


PROGRAMS: Final = read_programs()
