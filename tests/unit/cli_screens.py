"""Screens for tests of `backupctl`: on memory instead of a terminal, and a terminal's eye on what was written."""

from __future__ import annotations

import io
import re

from nanumpay_backupd.cli.terminal import Screen

__all__ = ["screen", "seen", "written"]


class _Terminal(io.TextIOWrapper):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def screen(columns: int = 0, color: str = "never", encoding: str = "utf-8", **env: str) -> tuple[Screen, io.BytesIO]:
    """Make a screen on memory; with ``columns`` it is a terminal."""
    raw = io.BytesIO()
    kind = _Terminal if columns else io.TextIOWrapper
    settings = {"TERM": "xterm", "COLUMNS": str(columns)} | env
    return Screen(kind(raw, encoding=encoding, newline=""), color, settings), raw


def written(screen: Screen, raw: io.BytesIO) -> str:
    """Return what was written, as the terminal gets it."""
    screen.stream.flush()
    return raw.getvalue().decode(screen.stream.encoding)


def seen(text: str) -> list[str]:
    """Return the lines that a terminal shows after this text: cursor up, carriage return, erase to the end."""
    lines, row = [""], 0
    for part in re.split(r"(\x1b\[\d*[A-Za-z]|\r|\n)", text):
        if part == "\n":
            row += 1
            lines.extend([""] * (row + 1 - len(lines)))
        elif part.startswith("\x1b") and part.endswith("A"):
            row -= int(part[2:-1])
        elif part == "\x1b[J":
            lines[row:] = [""]
        elif part and part != "\r":
            assert not part.startswith("\x1b"), f"unknown sequence {part!r}"
            assert not lines[row], "written over a line that was not erased"
            lines[row] = part
    return [line for line in lines if line]
