"""The daemon's sentences on Korean pages: the table is of what the daemon really says, and puts in what it should."""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.system.units import human_span
from nanumpay_backupd.web.said import book, told, translated
from nanumpay_backupd.web.words import words
from tests.servers.tools import PROJECT

BOOK: Final = json.loads((PROJECT / "nanumpay_backupd/web/locale/said.ko.json").read_text(encoding="utf-8"))
PLACE: Final = re.compile(r"\{\w+\}")
KOREAN: Final = words("ko")


@cache
def source() -> str:
    """Return all texts in the daemon's source, one after the other."""
    found = []
    for file in (PROJECT / "nanumpay_backupd").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)  # noqa: PERF401 - three levels of a comprehension are hard to read
    return "\n".join(found)


def is_said(piece: str, pieces: int = 3) -> bool:
    """Tell whether words are in the source, as one text or as a few that are put together there."""
    piece = piece.strip(" ,")
    if piece in source():
        return True
    cuts = [at for at, mark in enumerate(piece) if mark == " "]
    return pieces > 1 and any(piece[:at] in source() and is_said(piece[at:], pieces - 1) for at in reversed(cuts))


@pytest.mark.parametrize("english", BOOK)
def test_the_daemon_says_that(english: str) -> None:
    """Each piece of a sentence is in the daemon's source: when that changes, so must the table."""
    for piece in PLACE.split(english):
        for words_ in re.split(r"[\"(){}]|: ?$|^: ?", piece):
            assert len(words_.strip()) < 3 or is_said(words_), words_


@pytest.mark.parametrize("english", BOOK)
def test_nothing_that_is_put_in_is_lost(english: str) -> None:
    """What a sentence is about stands in the Korean one as well, and the Korean one is Korean."""
    assert set(PLACE.findall(BOOK[english])) == set(PLACE.findall(english))
    assert re.search("[가-힣]", BOOK[english]) or PLACE.sub("", english).strip(" :,") == "job"


@given(st.sampled_from(sorted(BOOK)), st.floats(1, 10**7), st.text("abc/.-_019", min_size=1, max_size=12))
def test_what_is_put_in_is_put_in(english: str, seconds: float, name: str) -> None:
    """Names stay as they are, lengths of time are in Korean, sentences in sentences are translated too."""

    def filled(found: re.Match[str]) -> str:
        inner = found[0].strip("{}")
        if inner.startswith("span"):
            return human_span(seconds)
        known = {"text": "the last run was good", "n": "1,024", "size": "1.25 GB"}
        return known.get(inner.rstrip("23"), f"x{name}")

    said = translated(KOREAN, PLACE.sub(filled, english))
    assert said is not None
    assert re.search("[가-힣]", said) or english.startswith("job")
    if "{span}" in english:
        assert human_span(seconds) not in said.split()
        assert str(round(seconds))[:1].isdigit()


@pytest.mark.parametrize(
    "english, korean",
    [
        (
            "job nanumpay: the RPO of 15m is missed: nothing after 2026-11-22 03:04:05 UTC can be restored",
            "nanumpay: RPO 15분을 지키지 못하고 있습니다. 2026-11-22 03:04:05 UTC 이후는 복원할 수 없습니다.",
        ),
        (
            "see why there is none since: backupctl runs; make one now: backupctl run nanumpay",
            "그 뒤로 없는 까닭: backupctl runs; 지금 만들기: backupctl run nanumpay",
        ),
        ("the newest verified backup is 2d12h old (limit 3d)", "검증된 최신 백업이 2일 12시간 전 것입니다. (한도 3일)"),
        ("12.3 GB are free", "12.3 GB 남음"),
    ],
)
def test_sentences(english: str, korean: str) -> None:
    """As a person would say it."""
    assert translated(KOREAN, english) == korean


def test_what_nobody_has_translated() -> None:
    """It is shown in English, marked as such, and never as markup; on English pages everything is as it is."""
    odd = "<b>something new</b>"
    assert translated(KOREAN, odd) is None
    assert told(KOREAN, odd) == '<span lang="en">&lt;b&gt;something new&lt;/b&gt;</span>'
    assert told(words("en"), odd) == "&lt;b&gt;something new&lt;/b&gt;"
    shown = told(KOREAN, "<i> can be written")
    assert "<i>" not in shown
    assert 'title="&lt;i&gt; can be written"' in shown
    assert book("en") is None
