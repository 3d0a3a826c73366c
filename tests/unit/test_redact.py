"""What is masked in text that people read, and what is not although somebody chose it as a secret."""

from __future__ import annotations

import pytest

from nanumpay_backupd.system import secrets
from nanumpay_backupd.system.secrets import Secret, redact


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin without a secret; those of a test are forgotten after it."""
    monkeypatch.setattr(secrets, "_known", set())


@pytest.mark.parametrize(
    "secret, text, told",
    [
        ("correct horse", "refused: correct horse", "refused: ***"),
        ("p@ss/wörd", "as p%40ss%2Fw%C3%B6rd in an address", "as *** in an address"),
        ("horse battery", "horse+battery", "***"),
        ("mongodb://u:p@ss@h/db", "no answer: mongodb://u:p@ss@h/db", "no answer: ***"),
        ("anything", "mongodb://u:pw@h/db and ftp://a:b@c", "mongodb://u:***@h/db and ftp://a:***@c"),
        ("short", "a short word", "a short word"),
        ("mongodb", "mongodb and mongodump", "mongodb and mongodump"),
        ("mongodb://", "mongodb://u:pw@h/db", "mongodb://u:***@h/db"),
    ],
)
def test_what_is_masked(secret: str, text: str, told: str) -> None:
    """A secret is masked as it is and as it stands in an address; words that say nothing are left alone."""
    Secret(secret)
    assert redact(text) == told


def test_the_longest_first() -> None:
    """Of two secrets of which one holds the other nothing is left over."""
    Secret("battery")
    Secret("battery staple")
    assert redact("battery staple, battery") == "***, ***"
