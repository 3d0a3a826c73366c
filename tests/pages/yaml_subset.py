"""Reads the YAML of the documentation: mappings, lists, texts of several lines, flow lists of words in quotes.

Strict: whatever else YAML can do is refused, so that what is read here means the same to every reader.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

__all__ = ["YamlError", "read"]

_KEY: Final = re.compile(r"([A-Za-z_][\w.-]*):(?: +(.*))?$")
_PLAIN: Final = re.compile(r"[A-Za-z0-9./$](?:(?!: | #).)*(?<!:)$")  # what would end it, or begin something else
# Words that are no texts to some reader or other.
_AMBIGUOUS: Final = frozenset("yes no on off y n null ~".split())


class YamlError(ValueError):
    """Not of the kind that is read here."""


class _Lines:
    """The lines that count, with their indentation, and a place among them."""

    def __init__(self, text: str) -> None:
        self.raw = text.splitlines()
        self.at = 0

    def peek(self) -> tuple[int, str] | None:
        """Return the next line that is neither empty nor a remark."""
        while self.at < len(self.raw):
            line = self.raw[self.at]
            if "\t" in line:
                raise YamlError(f"a tab in {line!r}")
            if line.strip() and not line.lstrip().startswith("#"):
                return len(line) - len(line.lstrip()), line.strip()
            self.at += 1
        return None

    def literal(self, above: int) -> str:
        """Take the lines of a text behind a bar: all that are indented more than the key."""
        start = self.at
        while self.at < len(self.raw) and (not self.raw[self.at].strip() or _indent(self.raw[self.at]) > above):
            self.at += 1
        taken = self.raw[start : self.at]
        depth = min(_indent(line) for line in taken if line.strip())
        return "".join(f"{line[depth:]}\n" for line in taken).rstrip("\n") + "\n"


def read(text: str) -> Any:
    """Return what a document holds: dictionaries, lists, texts, whole numbers, booleans. Raises YamlError."""
    lines = _Lines(text)
    value = _block(lines, 0)
    if (rest := lines.peek()) is not None:
        raise YamlError(f"not understood: {rest[1]!r}")
    return value


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _block(lines: _Lines, depth: int) -> Any:
    found = lines.peek()
    if found is None or found[0] != depth:
        raise YamlError(f"something indented by {depth} is expected, not {found}")
    return _list(lines, depth) if found[1].startswith("- ") else _mapping(lines, depth)


def _list(lines: _Lines, depth: int) -> list[Any]:
    items = []
    while (found := lines.peek()) is not None and found[0] == depth and found[1].startswith("- "):
        inner = found[1][2:]
        if _KEY.match(inner):
            # The first key stands behind the dash: read it as if it stood below.
            lines.raw[lines.at] = " " * (depth + 2) + inner
            items.append(_mapping(lines, depth + 2))
        else:
            lines.at += 1
            items.append(_scalar(inner))
    return items


def _mapping(lines: _Lines, depth: int) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    while (found := lines.peek()) is not None and found[0] == depth and not found[1].startswith("- "):
        key = _KEY.match(found[1])
        if key is None:
            raise YamlError(f"a key is expected in {found[1]!r}")
        if key[1] in entries:
            raise YamlError(f"{key[1]} stands twice")
        lines.at += 1
        entries[key[1]] = _value(lines, depth, (key[2] or "").strip())
    if found is not None and found[0] > depth:
        raise YamlError(f"indented too far: {found[1]!r}")
    return entries


def _value(lines: _Lines, depth: int, text: str) -> Any:
    if text == "|":
        return lines.literal(depth)
    if text:
        return _scalar(text)
    below = lines.peek()
    if below is None or below[0] < depth or (below[0] == depth and not below[1].startswith("- ")):
        return None
    return _block(lines, below[0])


def _scalar(text: str) -> Any:
    """Read one value on its line; a remark may follow one in quotes."""
    if text.startswith('"'):
        closed = re.match(r'("(?:[^"\\]|\\.)*")(?: +#.*)?$', text)
        if closed is None:
            raise YamlError(f"quotes are not closed in {text!r}")
        return json.loads(closed[1])
    if text in ("{}", "[]"):
        return {} if text == "{}" else []
    if text.startswith("["):
        return json.loads(text)
    if text in ("true", "false"):
        return text == "true"
    if text.isdigit():
        return int(text)
    if not _PLAIN.match(text) or text.lower() in _AMBIGUOUS:
        raise YamlError(f"{text!r} belongs in quotes")
    return text
