"""The documentation says what the code does: links, codes, methods, commands, options and tests that it names exist."""

from __future__ import annotations

import ast
import contextlib
import re
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Final

import pytest

import nanumpay_backupd
from nanumpay_backupd import arguments
from nanumpay_backupd.cli.options import COMMANDS, parse
from nanumpay_backupd.control.idl import Interface
from nanumpay_backupd.errors import UsageError
from nanumpay_backupd.moments import read_moment
from tests.servers.tools import PROJECT

DOCS: Final = (*sorted(PROJECT.glob("README*.md")), PROJECT / "CHANGELOG.md", *sorted(PROJECT.glob("docs/**/*.md")))
OPERATIONS: Final = PROJECT / "docs" / "operations.md"
PROTOCOL: Final = PROJECT / "docs" / "protocol.md"
ARCHITECTURE: Final = PROJECT / "docs" / "architecture.md"
# Written by `make bench`, so a checkout that never ran it has none.
GENERATED: Final = frozenset({PROJECT / "docs" / "benchmarks.md"})
ids = [str(path.relative_to(PROJECT)) for path in DOCS]
FENCED: Final = re.compile(r"^ *```\w*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", FENCED.sub("", text))


def _anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, made the way GitHub makes them."""
    text = FENCED.sub("", _text(path))
    headings = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("path", DOCS, ids=ids)
def test_every_relative_link_resolves(path: Path) -> None:
    """A link leads to a file of the project, and its anchor to a heading of that page."""
    for target in re.findall(r"\]\(([^)\s]+)\)", _without_code(_text(path))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists() or file in GENERATED, f"{target} leads nowhere"
        if anchor and file.suffix == ".md":
            assert anchor in _anchors(file), f"{target}: no such heading"


def _codes_in_source() -> set[str]:
    """Collect every error code: keywords and defaults named so, faults given as tables, and those of the stores."""
    found: set[str] = set()
    for path in Path(nanumpay_backupd.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(_text(path))):
            found.update(_codes_of(node))
    # Fields of the journal and of other records have the same name.
    return {code for code in found if re.fullmatch(r"[a-z]+(-[a-z]+)*", code)}


def _codes_of(node: ast.AST) -> Iterator[str]:
    values: list[ast.expr | None] = []
    if isinstance(node, ast.Call):
        values += [keyword.value for keyword in node.keywords if keyword.arg in ("code", "ERROR_CODE")]
    elif isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        values += [node.value for item in targets if isinstance(item, ast.Name) and item.id == "default_code"]
    elif isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        values += [value for key, value in pairs if isinstance(key, ast.Constant) and key.value == "code"]
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        # The stores hand their codes on as plain values.
        values += [node] if re.fullmatch(r"(destination|object)-[a-z]+(-[a-z]+)*", node.value) else []
    for value in values:
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.value


def test_every_error_code_is_documented_and_no_other() -> None:
    """An operator who looks a code up finds it, and nothing is described that the program never says."""
    section = _text(OPERATIONS).partition("\n## Error codes\n")[2]
    documented = re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE)
    assert len(documented) == len(set(documented)), "a code stands twice"
    assert set(documented) == _codes_in_source()


def test_every_method_and_type_of_the_interface_is_documented() -> None:
    """docs/protocol.md has a row for each method and a paragraph for each type of the .varlink file, and no other."""
    text = files("nanumpay_backupd.control").joinpath("com.nanumpay.Backup.varlink").read_text(encoding="utf-8")
    page = _text(PROTOCOL)
    section = page.partition("\n## Methods\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([A-Za-z]+)`", section, re.MULTILINE)) == set(Interface(text).methods)
    types = page.partition("\n## Types\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^type (\w+)", text, re.MULTILINE)) <= set(
        re.findall(r"^\*\*(\w+)\*\*", types, re.MULTILINE)
    )
    for name, fields in re.findall(r"^type (\w+) \((.*?)\)$", text, re.MULTILINE | re.DOTALL):
        paragraph = re.search(rf"^\*\*{name}\*\*.*?(?=^$)", types, re.MULTILINE | re.DOTALL)
        assert paragraph is not None, f"type {name} is not told of"
        for field in re.findall(r"(\w+):", fields):
            assert f"`{field}`" in paragraph[0], f"type {name}: {field} is not told of"
    errors = set(re.findall(r"^error (\w+)", text, re.MULTILINE))
    assert errors <= set(re.findall(r"`com\.nanumpay\.Backup\.(\w+)`", page))


def _pieces_of_code(path: Path) -> Iterator[str]:
    """Yield the lines of fenced blocks and the inline code of a page."""
    text = _text(path)
    for block in FENCED.findall(text):
        yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"`([^`\n]+)`", FENCED.sub("", text).replace("\\|", ""))


def _command_lines(path: Path, name: str) -> Iterator[list[str]]:
    """Yield the arguments of every call of a program that a page shows; texts that only speak of it are left out."""
    for piece in _pieces_of_code(path):
        for found in re.findall(rf"(?<![\w/.-]){name}((?: (?:[^|;&#)>`\"',]|(?<= )\"[^\"`]*\")*)?)", piece):
            words = shlex.split(found.strip().rstrip("."))
            if words and "…" not in words and not words[0].isupper():
                yield words


@pytest.mark.parametrize("path", DOCS, ids=ids)
def test_every_backupctl_line_is_one_that_backupctl_takes(path: Path) -> None:
    """What can be pasted from a page is a command line that the parser accepts, options included."""
    for words in _command_lines(path, "backupctl"):
        if words == ["--json"]:
            continue
        if len(words) == 1 and words[0].isalpha():  # the name of a command, perhaps without what it needs
            assert words[0] in COMMANDS
            continue
        try:
            with contextlib.suppress(SystemExit):  # --help
                parse(words)
        except UsageError as error:
            pytest.fail(f"backupctl {' '.join(words)}: {error.message}")


def test_the_backupctl_lines_are_found() -> None:
    """The search above does look at something: every command is shown in operations.md or protocol.md."""
    shown = {words[0] for page in (OPERATIONS, PROTOCOL) for words in _command_lines(page, "backupctl")}
    table = set(re.findall(r"`([a-z]+)`", _text(PROTOCOL).partition("## `backupctl --json`")[2]))
    assert set(COMMANDS) <= shown | table
    assert len(shown) >= 15


@pytest.mark.parametrize("path", DOCS, ids=ids)
def test_every_line_of_the_daemons_program_is_one_that_it_takes(path: Path) -> None:
    """The same for nanumpay-backupd itself."""
    parser = arguments.build_parser()
    commands = {"serve", "run-once", "check-config", "rebuild", "restore", "take-over-crontab", "prepare-folder"}
    for words in _command_lines(path, "nanumpay-backupd"):
        if words == ["restore"] or "--help" in words:  # only spoken of
            continue
        if words[0] in commands or words[0].startswith("--"):
            parser.parse_args(words)


def test_the_examples_of_restore_are_taken() -> None:
    """What the help shows can be typed."""
    lines = re.findall(r"^  nanumpay-backupd (restore .*)$", arguments._RESTORE_EXAMPLES, re.MULTILINE)
    assert len(lines) >= 5
    for line in lines:
        options = arguments.build_parser().parse_args(shlex.split(line))
        assert options.place
        if options.at:
            read_moment(options.at, UTC, datetime(2026, 11, 22, tzinfo=UTC))


def test_every_test_that_a_page_names_exists() -> None:
    """The invariants' table names tests by file and function, and they are there."""
    named = [name for path in DOCS for name in re.findall(r"`(tests/[\w/]+\.py(?:::\w+)*)`", _text(path))]
    assert len(named) > 20
    for name in named:
        file, *names = name.split("::")
        source = PROJECT / file
        assert source.is_file(), f"{file} does not exist"
        for part in names:
            assert re.search(rf"^ *(?:async )?(?:def|class) {part}\b", _text(source), re.MULTILINE), (
                f"{name} does not exist"
            )


def test_every_room_is_on_the_map() -> None:
    """docs/architecture.md has one line for each module and folder of the package, and for no other."""
    section = _text(ARCHITECTURE).partition("\n## The rooms\n")[2].partition("\n## ")[0]
    shown = set(re.findall(r"^\| `([\w/.]+)` \|", section, re.MULTILINE))
    package = Path(nanumpay_backupd.__file__).parent
    rooms = {f"{entry.name}/" for entry in package.iterdir() if (entry / "__init__.py").is_file()}
    rooms |= {entry.name for entry in package.glob("*.py") if entry.name != "__init__.py"}
    assert shown == rooms


def test_both_readmes_have_the_same_content() -> None:
    """The Korean page shows the same commands and outputs and leads to the same pages as the English one."""
    english, korean = (_text(PROJECT / name) for name in ("README.md", "README.ko.md"))
    for pattern in (r"^```.*?^```", r"\]\((docs/[^)]+|(?!README)[A-Z]+\.md|LICENSE)\)", r"^#"):
        assert re.findall(pattern, english, re.MULTILINE | re.DOTALL) == re.findall(
            pattern, korean, re.MULTILINE | re.DOTALL
        )
