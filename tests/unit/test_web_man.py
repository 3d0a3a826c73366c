"""nanumpay-backup-web.8 is true: its commands, verbs, options and choices are those of the parser, and no others."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import Final

from nanumpay_backupd.web import command
from tests.servers.tools import PROJECT

PAGE: Final = (PROJECT / "docs" / "man" / "nanumpay-backup-web.8").read_text(encoding="utf-8")


def parsers(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield a parser's commands and what is below them, by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield name, below
                yield from parsers(below)


def test_every_command_and_verb() -> None:
    """Each has its part, or stands in the list of its command."""
    top = command._parser()
    commands = {
        name for action in top._actions if isinstance(action, argparse._SubParsersAction) for name in action.choices
    }
    parts = set(re.findall(r"^\.Ss (\w+)$", PAGE, re.MULTILINE)) - {"Options"}
    assert parts == commands
    verbs = {name for name, _ in parsers(top)} - commands
    assert set(re.findall(r"^\.It Cm (\w+)", PAGE, re.MULTILINE)) == verbs


def test_every_option_and_what_it_may_be() -> None:
    """Long names and choices of all of them are explained; none is made up."""
    wanted: set[str] = set()
    choices: set[str] = set()
    for parser in (command._parser(), *(below for _, below in parsers(command._parser()))):
        for action in parser._actions:
            if action.help is not argparse.SUPPRESS and not isinstance(action, argparse._SubParsersAction):
                wanted |= {name.removeprefix("--") for name in action.option_strings if name.startswith("--")}
                choices |= set(action.choices or ()) if action.option_strings else set()
    explained = set(re.findall(r"^\.It (?:Fl \w , )?(?:Fl )?-(\w+)", PAGE, re.MULTILINE))
    explained |= set(re.findall(r"^\.It Fl -(\w+)", PAGE, re.MULTILINE))
    assert explained == wanted
    words = set(re.findall(r"\w+", " ".join(re.findall(r"^\.Cm (.*)$", PAGE, re.MULTILINE))))
    assert choices <= words
