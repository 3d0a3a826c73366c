"""The page's words in Korean and English, from locale/*.json, and which language somebody wants. No layout.

A key that is missing is an error, never an empty place on a page; a test compares the languages.
"""

from __future__ import annotations

import importlib.resources
import json
from functools import cache
from typing import Final

__all__ = ["LANGUAGES", "Words", "chosen", "words"]

LANGUAGES: Final = ("ko", "en")


class Words:
    """All words of one language; called with a key and what is to be put into the sentence."""

    def __init__(self, language: str, texts: dict[str, str]) -> None:
        self.language = language
        self.texts = texts

    def __call__(self, key: str, **values: object) -> str:
        """Return a text; raises KeyError for a key that there is not."""
        text = self.texts[key]
        return text.format(**values) if values else text

    def of(self, prefix: str, value: object) -> str:
        """Return what a word of the protocol is called, the word itself where it is a new one."""
        return self.texts.get(f"{prefix}.{value}", str(value))

    def count(self, key: str, number: int) -> str:
        """Return a text about so many things: ``key.one`` where that differs and there is one."""
        one = f"{key}.one"
        return self(one if number == 1 and one in self.texts else key, n=f"{number:,}")


@cache
def words(language: str) -> Words:
    """Return the words of a language: those of ``LANGUAGE.json``, and of single pages in ``LANGUAGE.PAGE.json``."""
    texts: dict[str, str] = {}
    for file in importlib.resources.files(__package__).joinpath("locale").iterdir():
        if file.name.startswith(f"{language}.") and file.name.endswith(".json"):
            more = json.loads(file.read_text(encoding="utf-8"))
            assert not texts.keys() & more.keys(), f"{file.name} says again what another file says"
            texts |= more
    return Words(language, texts)


def chosen(wanted: str, configured: str, accepted: str) -> str:
    """Return the language to use: what was picked, else what is configured, else what the browser asks for."""
    for name in (wanted, configured):
        if name in LANGUAGES:
            return name
    ranked: list[tuple[float, str]] = []
    for part in accepted[:500].split(","):
        name, _, quality = part.strip().partition(";q=")
        short = name.partition("-")[0].lower()
        try:
            weight = float(quality) if quality else 1.0
        except ValueError:
            continue
        if short in LANGUAGES and weight > 0:
            ranked.append((-weight, short))
    return min(ranked, key=lambda item: item[0])[1] if ranked else "en"
