"""``python -m tests.guarantees`` writes docs/guarantees.md: what tests promise, in their own words (`make man`).

A test says which promise it proves: ``@pytest.mark.promise("A sentence for an operator.", item=2)`` on a function, a
class or a module (``pytestmark``), or a name that one of these has at the top of its module. It is read, not imported,
so that no server is needed. What a promise means to the product stands in the docs of the product.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from tests.servers.tools import PROJECT

__all__ = ["PAGE", "TOPICS", "Proof", "page", "proofs", "proofs_in"]

PAGE: Final = PROJECT / "docs" / "guarantees.md"
FOLDERS: Final = ("fault", "contract", "integration", "unit", "system")
TOPICS: Final[Mapping[int, str]] = {
    1: "Processes are killed, and the power goes",
    2: "Disks are full, read-only or lie",
    3: "Tools die, hang or lie",
    4: "The network and the destinations fail",
    5: "Files are damaged, swapped or gone",
    6: "Clocks, schedules and retention",
    7: "MongoDB goes, comes back and changes",
    8: "Hostile clients and hostile data",
    9: "Two daemons on one host",
    10: "Memory, descriptors and processes run out",
    11: "More than one host",
    12: "A long time under load",
    13: "What is brought back",
    14: "Secrets",
}
"""The number that ``item`` gives, and the heading under which it stands."""

_HEAD: Final = """\
# Guarantees

What the daemon promises, and the tests that prove it. This page is made from the tests (`make man`): each row is a test
and the sentence that it holds true. Without a mark it runs in `make test`, with ⏱ in `make test-fault`, which takes
longer; the ones in `tests/system` run on a booted Debian (`make test-system`).
"""
_FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)
Names: TypeAlias = Mapping[str, ast.expr]


@dataclass(frozen=True, order=True)
class Proof:
    """A test that proves a promise."""

    item: int
    promise: str
    path: str
    """Below the project's folder."""
    line: int
    test: str
    """As pytest names it in its file: ``TestStop::test_idle``."""
    sentence: str
    """The first paragraph of its docstring."""
    long: bool
    """Runs in `make test-fault` only."""


def proofs() -> list[Proof]:
    """Return all proofs, by topic and promise."""
    paths = [path for folder in FOLDERS for path in sorted((PROJECT / "tests" / folder).rglob("test_*.py"))]
    return sorted(
        proof
        for path in paths
        for proof in proofs_in(path.read_text(encoding="utf-8"), path.relative_to(PROJECT).as_posix())
    )


def proofs_in(source: str, path: str) -> Iterator[Proof]:
    """Yield the proofs of one test module; raises ValueError where a mark cannot be read."""
    tree = ast.parse(source, path)
    names = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    names |= {
        node.target.id: node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and node.value is not None and isinstance(node.target, ast.Name)
    }
    module = _marks(names.get("pytestmark"), names)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            own = [
                mark
                for statement in node.body
                if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "pytestmark"
                for mark in _marks(statement.value, names)
            ]
            inherited = [*module, *own, *_decorated(node, names)]
            for inner in node.body:
                if isinstance(inner, _FUNCTIONS):
                    yield from _of_test(inner, f"{node.name}::", inherited, names, path)
        elif isinstance(node, _FUNCTIONS):
            yield from _of_test(node, "", module, names, path)


def _of_test(
    node: ast.FunctionDef | ast.AsyncFunctionDef, owner: str, inherited: list[ast.expr], names: Names, path: str
) -> Iterator[Proof]:
    if not node.name.startswith("test_"):
        return
    marks = [*inherited, *_decorated(node, names)]
    long = any(_name(mark) == "fault_long" for mark in marks)
    sentence = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
    for mark in marks:
        if _name(mark) == "promise":
            promise, item = _read(mark, names, f"{path}:{mark.lineno}")
            yield Proof(item, promise, path, node.lineno, owner + node.name, sentence, long)


def _decorated(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, names: Names) -> list[ast.expr]:
    return [mark for decorator in node.decorator_list for mark in _marks(decorator, names)]


def _marks(node: ast.expr | None, names: Names) -> list[ast.expr]:
    """Return the marks of an expression: itself, those of a list, and what a name of the module stands for."""
    if isinstance(node, (ast.List, ast.Tuple)):
        return [mark for element in node.elts for mark in _marks(element, names)]
    if isinstance(node, ast.Name) and node.id in names:
        return _marks(names[node.id], names)
    return [node] if node is not None else []


def _name(mark: ast.expr) -> str:
    """Return the name of ``pytest.mark.NAME`` or ``pytest.mark.NAME(...)``."""
    words = ast.unparse(mark.func if isinstance(mark, ast.Call) else mark).split(".")
    return words[2] if words[:2] == ["pytest", "mark"] and len(words) == 3 else ""


def _read(mark: ast.expr, names: Names, where: str) -> tuple[str, int]:
    if isinstance(mark, ast.Call) and len(mark.args) == 1:
        given = mark.args[0]
        text = names.get(given.id) if isinstance(given, ast.Name) else given
        item = next((word.value for word in mark.keywords if word.arg == "item"), None)
        if isinstance(text, ast.Constant) and isinstance(item, ast.Constant) and item.value in TOPICS:
            return str(text.value), int(str(item.value))
    raise ValueError(f'{where}: write @pytest.mark.promise("A sentence.", item=N) with a number of tests/guarantees.py')


def page(found: Iterable[Proof]) -> str:
    """Return the whole page."""
    lines = [_HEAD]
    item, promise = 0, ""
    for proof in sorted(found):
        if proof.item != item:
            lines += [f"\n## {TOPICS[proof.item]}\n"]
        if (proof.item, proof.promise) != (item, promise):
            lines += [f"\n**{proof.promise}**\n", "| test | what must hold |", "|---|---|"]
        item, promise = proof.item, proof.promise
        file = proof.path.removeprefix("tests/")
        mark = " ⏱" if proof.long else ""
        name = proof.test.replace("test_", "").replace("::", ": ").replace("_", " ")
        lines.append(f"| [{file}](../{proof.path}): {name}{mark} | {_cell(proof.sentence)} |")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(page(proofs()), encoding="utf-8")
