"""The man pages are true: every command, option, argument, exit code and key is in them, and nothing else is."""

from __future__ import annotations

import argparse
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Final

import pytest

from nanumpay_backupd import arguments, errors
from nanumpay_backupd.cli import options
from nanumpay_backupd.settings.document import FIELDS
from nanumpay_backupd.settings.hostfile import parse_host_file
from nanumpay_backupd.settings.options import (
    CHANNEL,
    DESTINATIONS,
    GROUP,
    JOB,
    JOB_ENCRYPTION,
    MONITOR,
    PLACE_MONITOR,
    RETENTION,
    SINGLE,
    TOP,
)
from nanumpay_backupd.settings.source_tables import SOURCES
from nanumpay_backupd.settings.tables import Table
from nanumpay_backupd.worker import EXIT_CODES
from tests.pages.__main__ import written
from tests.pages.mdoc import Part, blocks, command_lines, sections, words
from tests.pages.programs import PROGRAMS, Command, Item, Program
from tests.servers.tools import PROJECT, find_tool

FOLDER: Final = PROJECT / "docs" / "man"
PAGES: Final = sorted(FOLDER.iterdir())
KEYS: Final = FOLDER / "backupd.toml.5"
OF_PROGRAM: Final = {"backupctl": FOLDER / "backupctl.1", "nanumpay-backupd": FOLDER / "nanumpay-backupd.8"}
ORDER: Final = "NAME,SYNOPSIS,DESCRIPTION,ENVIRONMENT,FILES,EXIT STATUS,EXAMPLES,SEE ALSO".split(",")
COMMANDS: Final = [(program, command) for program in PROGRAMS.values() for command in program.commands]

both = pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
each = pytest.mark.parametrize("program,command", COMMANDS, ids=[f"{p.name}-{c.name}" for p, c in COMMANDS])
pages = pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])


def parts_of(program: Program) -> dict[str, Part]:
    """Return the subsections of a program's page by their first word."""
    return {part.title.split()[0]: part for found in sections(OF_PROGRAM[program.name]).values() for part in found[1:]}


@pytest.mark.parametrize("path,text", list(written()), ids=[path.name for path, _ in written()])
def test_what_is_written_from_the_parsers_is_up_to_date(path: Path, text: str) -> None:
    """Completions and keys are what `make man` would write now."""
    assert path.read_text(encoding="utf-8") == text, "run `make man` and look at what changes"


@both
def test_every_command_has_its_part_and_no_other_has_one(program: Program) -> None:
    """The subsections are the commands, and one for the options of all of them."""
    assert set(parts_of(program)) == {"Options", *(command.name for command in program.commands)}


def _signature(items: tuple[Item, ...]) -> dict[tuple[str, ...], str]:
    return {item.flags: item.metavar for item in items}


@both
def test_the_options_of_all_commands(program: Program) -> None:
    """They are explained once, with their metavars, and nothing else is."""
    assert parts_of(program)["Options"].options == _signature(program.top.options)


@each
def test_options_and_arguments_of_a_command(program: Program, command: Command) -> None:
    """Those of its own are explained in its part, none is missing and none is made up; the title has the arguments."""
    part = parts_of(program)[command.name]
    own = tuple(item for item in command.options if item not in program.common)
    assert part.options == _signature(own)
    names = [item.metavar for item in command.arguments]
    assert sorted(part.arguments) == sorted(names)
    title = part.title.replace(" | ", "|").split()
    demanded = [word for item in own if item.required for word in (item.name[1:], item.metavar)]
    assert title[1:] == [*names, *demanded, *(["options"] if own else [])]


@each
def test_the_words_that_may_be_chosen(program: Program, command: Command) -> None:
    """Where a choice is to be made, each word is named."""
    text = parts_of(program)[command.name].text
    for item in (*command.options, *command.arguments):
        if item not in program.common and not item.dynamic:
            for word in item.words:
                assert word.startswith("@") or re.search(rf"(?<![\w-]){word}(?![\w-])", text), f"{item.name}: {word}"


@each
def test_exit_codes_of_a_command(program: Program, command: Command) -> None:
    """Page and help name the same codes."""
    parser = {"backupctl": options.build_parser, "nanumpay-backupd": arguments.build_parser}[program.name]()
    shown = _subparser(parser, command.name).epilog or ""
    told = re.search(r"(?:exit codes: |The exit code is )(.*?)(?=\n\n|\.$|\Z)", shown, re.DOTALL)
    explained = re.search(r"The exit status is (.*?)(?:\.(?: |$)|$)", parts_of(program)[command.name].text)
    assert _numbers(told[1] if told else "") - {"40"} == _numbers(explained[1] if explained else "")


def _subparser(parser: argparse.ArgumentParser, name: str) -> argparse.ArgumentParser:
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    found = commands.choices[name]
    assert isinstance(found, argparse.ArgumentParser)
    return found


def _numbers(text: str) -> set[str]:
    return set(re.findall(r"\b\d+\b", text))


def _codes(program: str) -> set[int]:
    """Return every exit code that a program can end with."""
    if program == "backupctl":
        return {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    kinds: list[type[errors.BackupdError]] = [errors.BackupdError, *errors.BackupdError.__subclasses__()]
    # Asked by backupctl only.
    return {0, *EXIT_CODES.values(), *(kind.exit_code for kind in kinds)} - {errors.EXIT_UNREACHABLE}


@both
def test_exit_codes(program: Program) -> None:
    """EXIT STATUS has every code with which the program can end, and no other."""
    (part,) = sections(OF_PROGRAM[program.name])["EXIT STATUS"]
    listed = [int(line.split()[1]) for line in part.lines if line.startswith(".It ")]
    assert listed == sorted(_codes(program.name))


@both
def test_the_command_lines_of_the_pages_are_taken(program: Program) -> None:
    """What the pages show on a line of its own can be typed."""
    parse = {"backupctl": options.parse, "nanumpay-backupd": arguments.parse}[program.name]
    shown = [line for page in PAGES for line in command_lines(page, program.name)]
    assert len(shown) > 5
    for line in shown:
        parse(line)


@pages
def test_sections_stand_in_the_usual_order(page: Path) -> None:
    """Whoever looks for the exit codes finds them where other pages have them; each page points to the others."""
    found = [name for name in sections(page) if name in ORDER]
    assert found == [name for name in ORDER if name in found]
    assert {"NAME", "SYNOPSIS", "DESCRIPTION", "FILES", "EXAMPLES", "SEE ALSO"} <= set(found)
    (see,) = sections(page)["SEE ALSO"]
    others = {f"{other.stem} {other.suffix[1:]}" for other in PAGES if other != page}
    assert {" ".join(words(line)[:2]) for line in see.lines} >= others


@pages
def test_the_variables_of_the_environment_are_read(page: Path) -> None:
    """A variable that a page explains is one that the program, or a library of it, knows."""
    known = "".join(path.read_text(encoding="utf-8") for path in (PROJECT / "nanumpay_backupd").rglob("*.py"))
    for part in sections(page).get("ENVIRONMENT", []):
        for name in re.findall(r"^\.It Ev (.*)$", "\n".join(part.lines), re.MULTILINE):
            for variable in name.split(" , "):
                assert re.search(rf"\b{variable}\b", known), variable


def test_every_key_of_the_host_file_is_explained_under_its_table() -> None:
    """Tables and keys of the page are those that the checking works with, and those of docs/configuration.md."""
    page = sections(KEYS)
    parts = [part for name in ("KEYS", "DESTINATIONS", "NOTIFICATIONS", "JOBS") for part in page[name][1:]]
    explained = {part.title: part.arguments for part in parts}
    wanted = {
        _title(table): [option.key for option in table.options]
        for table in (TOP, *SINGLE, CHANNEL, JOB, RETENTION, MONITOR, PLACE_MONITOR, JOB_ENCRYPTION, GROUP)
    }
    wanted |= {
        f'[destination.NAME], type = "{kind}"': [option.key for option in table.options]
        for kind, table in DESTINATIONS.items()
    }
    wanted |= {f'[[job]], type = "{kind}"': [option.key for option in table.options] for kind, table in SOURCES.items()}
    assert explained == wanted
    (fields,) = page["THE APPLICATION'S SETTINGS"]
    assert fields.arguments == [field.path for field in FIELDS]
    reference = (PROJECT / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.]+)` \|", reference, re.MULTILINE)
    assert sorted(rows) == sorted([*fields.arguments, *(key for keys in explained.values() for key in keys)])


def _title(table: Table) -> str:
    return "[[job]]" if table is JOB else f"[{table.path}]" if table.path else "Before the first table"


def test_the_examples_of_the_host_file_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each can be taken as it stands."""
    (tmp_path / "offsite-secret").write_text("s", encoding="ascii")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    shown = blocks(KEYS)
    assert len(shown) == 3
    for text in shown:
        assert tomllib.loads(text)
        parse_host_file(text, "example", environ={})


@pages
@pytest.mark.parametrize(
    "command",
    [
        ["man", "--warnings", "-E", "UTF-8", "-l"],
        ["groff", "-ww", "-mandoc", "-Tutf8"],
        ["mandoc", "-Tlint", "-W", "warning"],
    ],
    ids=["man", "groff", "mandoc"],
)
def test_pages_are_set_without_a_complaint(page: Path, command: list[str]) -> None:
    """man-db, groff and mandoc have nothing to say about a page."""
    done = subprocess.run(
        [find_tool(command[0]), *command[1:], page], capture_output=True, text=True, check=False, timeout=60
    )
    complaints = done.stderr if command[0] != "mandoc" else done.stdout
    assert (complaints, done.returncode) == ("", 0)
