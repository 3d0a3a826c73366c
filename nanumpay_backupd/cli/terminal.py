"""What is known of the terminal: colours, symbols, widths, tables. Knows nothing of backups.

Texts come from other machines (a banner of an FTP server can end up in an error message), so everything written goes
through one filter that lets no control character pass but the few colours made here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TextIO

__all__ = ["Column", "Screen", "clean", "width"]

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_COLOUR = re.compile("(\x1b\\[(?:0|1|2|31|32|33|36)m)")
_UNSAFE = re.compile("\x1b(?!\\[(?:0|1|2|31|32|33|36)m)|[\x00-\x1a\x1c-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")

_UNICODE = {
    "dot": "●",
    "ok": "✓",
    "bad": "✗",
    "warn": "!",
    "hint": "→",
    "wait": "…",
    "spin": "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏",
    # For a drawing that must fit: none of these is wide on any terminal.
    "span": "▬",
    "full": "◉",
    "whole": "∘",
    "gap": "✗",
    "void": "∙",
}
_ASCII = {"dot": "*", "ok": "=ok", "bad": "=", "warn": "!", "hint": "->", "wait": "=", "spin": "|/-\\"}
_ASCII |= {"span": "=", "full": "F", "whole": "o", "gap": "x", "void": "."}
_ASCII_MARKS = {"ok": "+", "bad": "x"}


def clean(text: str) -> str:
    """Replace control characters, line ends and text-direction marks by spaces; keeps only this module's colours."""
    return _UNSAFE.sub(" ", text)


def width(text: str, *, ambiguous: int = 1) -> int:
    """Count the terminal cells that a text takes, colours not counted; East Asian wide characters take two.

    ``ambiguous`` says how many cells a character takes that is wide on some Korean terminals only.
    """
    if text.isascii() and "\x1b" not in text:
        return len(text)
    return _cells(_COLOUR.sub("", text), ambiguous)


@lru_cache(1000)  # in a long table the same few cells come again and again
def _cells(text: str, ambiguous: int) -> int:
    import unicodedata  # only where something is not ASCII

    cells = 0
    for char in text:
        kind = unicodedata.east_asian_width(char)
        if kind in {"W", "F"}:
            cells += 2
        elif unicodedata.category(char) not in {"Mn", "Me", "Cf"}:
            cells += ambiguous if kind == "A" else 1
    return cells


class Column:
    """One column of a table: its title and its cells, and how it makes room on a narrow terminal.

    ``short`` and ``shorter`` make briefer cells. ``drop`` lets the column go: those above 0 (highest first) after the
    short cells were tried, those below 0 (highest first) after the shorter ones.
    """

    def __init__(
        self,
        title: str,
        cells: list[str],
        *,
        right: bool = False,
        short: Callable[[], list[str]] | None = None,
        shorter: Callable[[], list[str]] | None = None,
        drop: int = 0,
    ) -> None:
        self.title = title
        self.cells = cells
        self.right = right
        self.short = short
        self.shorter = shorter
        self.drop = drop
        self._measure()

    def use(self, cells: Callable[[], list[str]] | None) -> None:
        """Show other cells, where there are some."""
        if cells is not None:
            self.cells = cells()
            self._measure()

    def padded(self) -> list[str]:
        """Return the title and the cells, all of the column's width."""
        texts = [self.title, *self.cells]
        if self.right:
            return [" " * (self.width - wide) + text for text, wide in zip(texts, self._widths, strict=True)]
        return [text + " " * (self.width - wide) for text, wide in zip(texts, self._widths, strict=True)]

    def _measure(self) -> None:
        # Once for each cell: a table may have ten thousand rows.
        self._widths = [width(self.title), *map(width, self.cells)]
        self.width = max(self._widths)


class Screen:
    """A stream to write lines on, with what it can do. ``color`` is ``auto``, ``always`` or ``never``."""

    def __init__(self, stream: TextIO, color: str = "auto", env: Mapping[str, str] = os.environ) -> None:
        self.stream = stream
        self.env = env
        terminal = env.get("TERM", "")
        self.tty = stream.isatty()
        self.moves = self.tty and terminal not in {"", "dumb"}
        self.colored = color == "always" or (color == "auto" and self.moves and not env.get("NO_COLOR"))
        # The Linux console's font lacks most of the symbols although its encoding has them.
        self.unicode = terminal != "linux" and _encodes(stream)
        self.symbols = _UNICODE if self.unicode else _ASCII
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")  # a Korean name on an ASCII terminal is "??", not a crash

    @property
    def columns(self) -> int:
        """Cells in one line of the terminal; 0 when the stream is not one and lines may be as long as they like."""
        if not self.tty:
            return 0
        given = self.env.get("COLUMNS", "")
        if given.isdigit() and int(given):
            return int(given)
        try:
            return os.get_terminal_size(self.stream.fileno()).columns or 80
        except (OSError, ValueError):
            return 80

    @property
    def rows(self) -> int:
        """Lines of the terminal; 24 when it does not say."""
        try:
            return os.get_terminal_size(self.stream.fileno()).lines or 24
        except (OSError, ValueError):
            return 24

    def paint(self, text: str, *styles: str) -> str:
        """Colour a text, where colours are wanted. Styles: bold, dim, red, green, yellow, cyan."""
        if not self.colored or not text:
            return text
        return "".join(f"\x1b[{_STYLES[style]}m" for style in styles) + f"{text}\x1b[0m"

    def mark(self, name: str) -> str:
        """Return a symbol that stands alone at the start of a line (``ok``, ``bad``, ``warn``, ``dot``, ``hint``)."""
        return self.symbols[name] if self.unicode else _ASCII_MARKS.get(name, _ASCII[name])

    def line(self, text: str = "") -> None:
        """Write one line, made safe."""
        self.stream.write(clean(text) + "\n")

    def lines(self, texts: list[str]) -> None:
        """Write several lines."""
        self.stream.write("".join([f"{clean(text)}\n" for text in texts]))

    def raw(self, text: str) -> None:
        """Write cursor movements and what was made safe before, at once."""
        self.stream.write(text)
        self.stream.flush()

    def fit(self, text: str) -> str:
        """Cut a text so that it stays on one line of the terminal, whatever its font does; colours are kept."""
        room = self.columns - 1
        if room < 1 or width(text, ambiguous=2) <= room:
            return text
        room -= 2
        parts = []
        for part in _COLOUR.split(text):
            fitting = part
            if not part.startswith("\x1b"):
                while fitting and width(fitting, ambiguous=2) > room:
                    fitting = fitting[:-1]
                room = -1 if fitting != part else room - width(fitting, ambiguous=2)
            parts.append(fitting)
        return "".join(parts) + ("…" if self.unicode else "..")

    def table(self, *given: Column, indent: str = "") -> list[str]:
        """Lay out a table with a title line; on a terminal that is too narrow, cells get shorter and columns go."""
        columns = self._narrow(list(given), len(indent))
        title, *rows = ["  ".join(row).rstrip() for row in zip(*(column.padded() for column in columns), strict=True)]
        return [indent + self.paint(title, "dim"), *(indent + row for row in rows)]

    def _narrow(self, columns: list[Column], indent: int) -> list[Column]:
        if not self.tty:
            return columns
        room = self.columns - indent
        for early in (True, False):
            for column in columns:
                if _total(columns) > room:
                    column.use(column.short if early else column.shorter)
            for column in sorted(columns, key=lambda one: -one.drop):
                if _total(columns) > room and (column.drop > 0 if early else column.drop < 0):
                    columns = [one for one in columns if one is not column]
        return columns


def _total(columns: list[Column]) -> int:
    return sum(column.width for column in columns) + 2 * (len(columns) - 1)


def _encodes(stream: TextIO) -> bool:
    try:
        "".join(_UNICODE.values()).encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeError, LookupError):
        return False
    return True
