"""What the daemon says, in the reader's language: its sentences are English and made in many rooms. Pure.

A table (locale/said.LANGUAGE.json) has a sentence's English as it is in the daemon's source, with ``{name}`` for what
is put in, and what that is in the language. What is put in stays as it is, but for lengths of time (``{span…}``) and
for sentences in a sentence (``{text…}``); ``{n}`` is a number, ``{size}`` one of bytes. What is in no table is shown in
English, marked as such. Tests compare the tables with the daemon's source.
"""

from __future__ import annotations

import importlib.resources
import json
import re
from functools import cache
from typing import Final, NamedTuple

from markupsafe import Markup

from nanumpay_backupd.notifiers.words import CAUSES
from nanumpay_backupd.web.words import Words

__all__ = ["Book", "book", "cause", "told", "translated"]

_PLACE: Final = re.compile(r"\{(\w+)\}")
_SPAN: Final = re.compile(r"(\d+)([smhdw])")
_LENGTHS: Final = {"ko": {"s": "초", "m": "분", "h": "시간", "d": "일", "w": "주"}}
_DAYS: Final = re.compile(r"(\d+) days?")
_LOOKS: Final = {"n": r"[\d.,]+", "size": r"[\d.,]+ [kMGTP]?B"}
"""How what is put in looks, by its name, which may have a digit behind it."""
_BETWEEN: Final = "; "
_DEEP: Final = 4


class _Line(NamedTuple):
    pattern: re.Pattern[str]
    text: str


class Book:
    """All sentences of one language."""

    def __init__(self, language: str, sentences: dict[str, str]) -> None:
        self.sentences = sentences
        self._lengths = _LENGTHS.get(language, {})
        # The longest first: what is put in may hold anything, also the end of a longer sentence.
        ordered = sorted(sentences.items(), key=lambda item: -len(_PLACE.sub("", item[0])))
        self._lines = [_Line(_compiled(english), text) for english, text in ordered]

    def say(self, english: str, depth: int = 0) -> str | None:
        """Return what that is in this language, None: nobody has said."""
        if (length := self._length(english)) is not None:
            return length
        if _BETWEEN in english:
            parts = [self.say(part, depth) for part in english.split(_BETWEEN)]
            if all(part is not None for part in parts):
                return _BETWEEN.join(part for part in parts if part is not None)
        for line in self._lines:
            found = line.pattern.fullmatch(english)
            if found is None:
                continue
            values = {name: self._put(name, value, depth) for name, value in found.groupdict().items()}
            if all(value is not None for value in values.values()):
                return line.text.format(**values)
        return None

    def _put(self, name: str, value: str, depth: int) -> str | None:
        if name.startswith("span"):
            return self._length(value)
        if name.startswith("text"):
            return self.say(value, depth + 1) if depth < _DEEP else None
        return value

    def _length(self, value: str) -> str | None:
        if (days := _DAYS.fullmatch(value)) is not None:
            value = f"{days[1]}d"
        if not value or _SPAN.sub("", value):
            return None
        return " ".join(f"{count}{self._lengths[unit]}" for count, unit in _SPAN.findall(value))


def _compiled(english: str) -> re.Pattern[str]:
    parts = _PLACE.split(english)
    made = [re.escape(part) if at % 2 == 0 else f"(?P<{part}>{_looks(part)})" for at, part in enumerate(parts)]
    return re.compile("".join(made), re.DOTALL)


def _looks(name: str) -> str:
    """Return what may be put in: so a sentence is not taken for another one that ends alike."""
    return next((looks for kind, looks in _LOOKS.items() if re.fullmatch(rf"{kind}\d?", name)), ".+?")


@cache
def book(language: str) -> Book | None:
    """Return the sentences of a language, None: it is the daemon's own."""
    file = importlib.resources.files(__package__).joinpath("locale", f"said.{language}.json")
    return Book(language, json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None


def translated(t: Words, english: str) -> str | None:
    """Return a sentence of the daemon in the language of a page, None: it is shown as it is."""
    found = book(t.language)
    return found.say(english) if found is not None else None


def cause(t: Words, code: str) -> str:
    """Return what a fault's code means, empty: the daemon's own sentence is in the language of the page, or unknown."""
    return CAUSES.get(code) or t.texts.get(f"fault.{code}", "") if t.language == "ko" else ""


def told(t: Words, english: str) -> Markup:
    """Return a sentence of the daemon for a page; the original is in its title, or marked as English."""
    if t.language == "en":
        return Markup("{}").format(english)
    own = translated(t, english)
    if own is None:
        return Markup('<span lang="en">{}</span>').format(english)
    return Markup('<span title="{}">{}</span>').format(english, own)
