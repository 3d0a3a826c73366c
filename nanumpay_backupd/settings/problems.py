"""Collects what is wrong with a piece of configuration, so that all of it is told at once. No rules of its own."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Final

from nanumpay_backupd.errors import ConfigError

__all__ = ["Mismatch", "Problems", "nearest", "show"]

_SHOWN_CHARACTERS: Final = 60
_SHOWN_PROBLEMS: Final = 6


class Mismatch(Exception):  # noqa: N818 - a finding about one value, not a fault of the program
    """A value does not fit: ``reason`` continues the key's path to a sentence, ``fix`` says what to write instead."""

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.fix = fix


class Problems:
    """The problems of one document or file, in the order in which they were found."""

    def __init__(self) -> None:
        self._found: list[tuple[str, str]] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, path: str, reason: str, fix: str) -> None:
        """Note that the key at ``path`` is wrong."""
        self._found.append((f"{path} {reason}", fix))

    def add_error(self, error: ConfigError) -> None:
        """Note a problem that somebody else has already put into words."""
        self._found.append((error.message, error.hint))

    def raise_if_any(self, *, code: str, prefix: str = "") -> None:
        """Raise one ConfigError about all of them: the first as the sentence, the others after it."""
        if not self._found:
            return
        (message, fix), *others = self._found
        fixes = [fix]
        if others:
            shown = others[: _SHOWN_PROBLEMS - 1]
            rest = len(others) - len(shown)
            message += f"; and {len(others)} more: " + "; ".join(text for text, _ in shown)
            message += f"; … ({rest} not shown)" if rest else ""
            fixes += [text for _, text in shown]
        raise ConfigError(prefix + message, hint="; ".join(dict.fromkeys(filter(None, fixes))), code=code)


def show(value: object) -> str:
    """Return a value as a person would write it, cut to a readable length. Not for secrets."""
    if value is None or isinstance(value, (bool, str, int, float)):
        text = json.dumps(value, ensure_ascii=False)
    elif isinstance(value, Mapping):
        return "a table"
    elif isinstance(value, (list, tuple)):
        return "a list"
    else:
        text = f"{value} ({type(value).__name__})"
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that was probably meant, or None when none is close."""
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.6)
    return names[close[0]] if close else None
