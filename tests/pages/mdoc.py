"""Reads man pages in mdoc as far as tests compare them: sections, subsections, heads of lists, command lines."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

__all__ = ["Part", "blocks", "command_lines", "sections", "words"]

# These say how the words after them are set, and are no words themselves.
_MACROS: Final = frozenset("Ar Cm Dv Ev Fl Li Nm Ns Oc Oo Op Pa Pf Ql Sx Xr It Ss".split())


@dataclass
class Part:
    """A subsection, or what stands in a section before its first one (with an empty title)."""

    title: str
    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Return all of it on one line, macros included."""
        return " ".join(self.lines)

    @property
    def options(self) -> dict[tuple[str, ...], str]:
        """Return the options that are explained, as they are typed: flags and metavar."""
        found = {}
        for line in self._heads("Fl "):
            flags = re.findall(r"(?:Fl|,) (\S+)", line)
            found[tuple(f"-{flag}" for flag in flags)] = " ".join(re.findall(r"Ar (\S+)", line))
        return found

    @property
    def arguments(self) -> list[str]:
        """Return the arguments that are explained, as their metavar is written: ``BACKUP|latest``."""
        return ["".join(words(line)) for line in (*self._heads("Ar "), *self._heads("Cm "))]

    def _heads(self, macro: str) -> list[str]:
        return [line for line in self.lines if line.startswith(f".It {macro}")]


def sections(page: Path) -> dict[str, list[Part]]:
    """Read a page: the parts of each section."""
    found: dict[str, list[Part]] = {}
    parts: list[Part] = []
    for line in page.read_text(encoding="ascii").splitlines():
        if line.startswith(".Sh "):
            parts = found.setdefault(line.removeprefix(".Sh "), [Part("")])
        elif line.startswith(".Ss "):
            parts.append(Part(" ".join(words(line))))
        elif parts and not line.startswith('.\\"'):
            parts[-1].lines.append(line)
    return found


def words(line: str) -> list[str]:
    """Return the words of a line that is a macro."""
    return [word.replace("\\(dq", '"') for word in line.removeprefix(".").split() if word not in _MACROS]


def blocks(page: Path) -> list[str]:
    """Return the literal blocks of a page."""
    text = page.read_text(encoding="ascii")
    return re.findall(r"^\.Bd .*?\n(.*?)^\.Ed$", text, re.MULTILINE | re.DOTALL)


def command_lines(page: Path, program: str) -> Iterator[list[str]]:
    """Yield the arguments of each call of a program that a page shows on a line of its own."""
    shown = re.findall(r"^\.Dl (.*)$", page.read_text(encoding="ascii"), re.MULTILINE)
    shown += [line for block in blocks(page) for line in block.replace("\\e\n", " ").splitlines()]
    for line in shown:
        typed = shlex.split(re.split(r" >| \|", line)[0])
        if typed[:1] == [program]:
            yield typed[1:]
