"""Colours, symbols, widths and tables of `backupctl`, on streams and pseudo-terminals of every kind."""

from __future__ import annotations

import os
import pty
from collections.abc import Iterator
from typing import TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.cli.terminal import Column, Screen, clean, width
from tests.unit.cli_screens import screen, written


@pytest.mark.parametrize(
    "text,cells",
    [
        ("abc", 3),
        ("백업", 4),
        ("e\u0301", 1),
        ("✓", 1),
        ("\x1b[32m✓\x1b[0m ok", 4),
        ("\uff21", 2),
        ("", 0),
        ("\u200b", 0),
    ],
)
def test_width(text: str, cells: int) -> None:
    """Korean takes two cells, combining marks and colours none."""
    assert width(text) == cells


def test_ambiguous_width() -> None:
    """Characters that some Korean terminals draw wide can be counted as two."""
    assert (width("●…"), width("●…", ambiguous=2)) == (2, 4)


@pytest.mark.parametrize(
    "evil",
    [
        "a\x1b]0;title\x07b",
        "a\x1b[2Jb",
        "a\rb",
        "a\nb",
        "a\x9b31mb",
        "a\u202eb",
        "a\x1b[8mb",
        "a\x00b",
        "a\x1b",
        "\x7f",
    ],
)
def test_no_control_character_of_others_reaches_the_terminal(evil: str) -> None:
    """Whatever a remote server says, it cannot move the cursor, hide text or begin a new line."""
    shown, raw = screen(80, "always")
    shown.line(evil)
    text = written(shown, raw)
    assert text.count("\n") == 1
    assert not any(ord(char) < 32 or 0x7F <= ord(char) < 0xA0 or char == "\u202e" for char in text.rstrip("\n"))


@given(st.text())
def test_cleaning_twice_changes_nothing_more(text: str) -> None:
    """What was made safe is left alone, and nothing gets longer."""
    assert clean(clean(text)) == clean(text)
    assert len(clean(text)) <= len(text)


@pytest.mark.parametrize(
    "columns,color,env,colored",
    [
        (80, "auto", {}, True),
        (0, "auto", {}, False),
        (80, "auto", {"NO_COLOR": "1"}, False),
        (80, "auto", {"NO_COLOR": ""}, True),
        (80, "auto", {"TERM": "dumb"}, False),
        (80, "auto", {"TERM": ""}, False),
        (0, "always", {"NO_COLOR": "1"}, True),
        (80, "never", {}, False),
    ],
)
def test_when_there_are_colours(columns: int, color: str, env: dict[str, str], colored: bool) -> None:
    """Colours are for terminals that have them, unless NO_COLOR or the option say otherwise."""
    shown, raw = screen(columns, color, **env)
    shown.line(shown.paint("failed", "red"))
    assert written(shown, raw) == ("\x1b[31mfailed\x1b[0m\n" if colored else "failed\n")


@pytest.mark.parametrize("encoding,env", [("ascii", {}), ("latin-1", {}), ("euc_kr", {}), ("utf-8", {"TERM": "linux"})])
def test_symbols_fall_back_to_ascii(encoding: str, env: dict[str, str]) -> None:
    """Where the symbols cannot be written or drawn there are ASCII ones, and foreign names do not crash."""
    shown, raw = screen(80, encoding=encoding, **env)
    assert not shown.unicode
    shown.line(f"{shown.mark('dot')} local{shown.symbols['ok']} 백업 \N{SNOWMAN}")
    assert written(shown, raw).startswith("* local=ok ")
    marks = [shown.mark(name) for name in ("dot", "ok", "bad", "warn", "hint")]
    assert marks == ["*", "+", "x", "!", "->"]


def table(columns: int) -> list[str]:
    """Lay out a table with everything that can make room, on so many columns."""
    shown, _ = screen(columns)
    return shown.table(
        Column("NAME", ["백업", "b"]),
        Column("WHEN", ["a long moment", "x"], short=lambda: ["moment", "x"], shorter=lambda: ["m", "x"]),
        Column("SIZE", ["1 B", "10 B"], right=True, drop=1),
        Column("NOTE", ["n", "n"], drop=-1),
    )


@pytest.mark.parametrize(
    "columns,first",
    [
        (0, "백업  a long moment   1 B  n"),
        (31, "백업  a long moment   1 B  n"),
        (30, "백업  moment   1 B  n"),
        (24, "백업  moment   1 B  n"),
        (23, "백업  moment  n"),
        (17, "백업  m     n"),
        (15, "백업  m"),
        (3, "백업  m"),
    ],
)
def test_tables_make_room_step_by_step(columns: int, first: str) -> None:
    """On a narrow terminal cells get short, then columns go, then cells get shorter, then the rest goes."""
    assert table(columns)[1] == first


def test_tables_align_wide_characters() -> None:
    """A column after Korean text begins at the same cell in every line."""
    lines = table(0)
    starts = [width(line[: line.index(mark)]) for line, mark in zip(lines, ("WHEN", "a long", "x"), strict=True)]
    assert starts == [6, 6, 6]


@given(st.text(alphabet="a백✓…\x1b[31m", max_size=60), st.integers(min_value=5, max_value=40))
def test_fitted_lines_fit(text: str, columns: int) -> None:
    """A live line never wraps, even where ambiguous characters are drawn wide."""
    shown, _ = screen(columns)
    assert width(shown.fit(clean(text)), ambiguous=2) < columns


def test_fitting_keeps_colours() -> None:
    """Cutting a coloured line keeps the code that ends the colour."""
    shown, _ = screen(10, "always")
    assert shown.fit(shown.paint("0123456789abc", "red")) == "\x1b[31m0123456\x1b[0m…"


@pytest.fixture
def terminal() -> Iterator[tuple[int, TextIO]]:
    """Open a real pseudo-terminal: its master end, and the slave end as a text stream."""
    master, slave = pty.openpty()
    with os.fdopen(slave, "w", encoding="utf-8") as stream:
        yield master, stream
    os.close(master)


def test_a_real_terminal_is_measured(terminal: tuple[int, TextIO]) -> None:
    """Width and height come from the terminal itself, with usual values when it does not know them."""
    import fcntl
    import struct
    import termios

    master, stream = terminal
    shown = Screen(stream, "auto", {"TERM": "xterm"})
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 91, 0, 0))
    assert (shown.columns, shown.rows, shown.moves, shown.colored) == (91, 33, True, True)
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
    assert (shown.columns, shown.rows) == (80, 24)
    assert Screen(stream, "auto", {"TERM": "xterm", "COLUMNS": "70"}).columns == 70
