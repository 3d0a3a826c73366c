"""Pure: whether a full differs from those before it so much that data may be lost. Reads no manifest, pins nothing.

A backup is held against what was usual: the median of documents and bytes, and of each collection the least that it
held. So a collection that is empty now and then (a queue) is never missed, and one large backup among small ones does
not make the small ones look lost.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from nanumpay_backupd.system.units import human_size
from nanumpay_backupd.wording import Words, words_for

__all__ = ["HISTORY", "LEAST", "Figures", "Oddity", "in_words", "loses", "oddities", "usual"]

HISTORY: Final = 7
"""How many of the newest backups say what is usual."""
LEAST: Final = 3
"""Fewer say nothing yet."""
_TINY_DOCUMENTS: Final = 100
_TINY_BYTES: Final = 1 << 20
"""A database below both is too small for its size to say anything."""
_COUNTED: Final = 100
"""Documents from which on it is looked at how many a collection lost; of fewer only that all are gone."""
_NAMED: Final = 3


class Figures(msgspec.Struct, frozen=True):
    """What a backup holds, or what is usual: documents, bytes of BSON, documents by collection (``database.name``)."""

    documents: int
    size: int
    collections: dict[str, int] = {}


class Oddity(msgspec.Struct, frozen=True):
    """One difference: ``kind`` is lost, emptied, shrank or grew.

    ``what`` is a collection, ``documents`` or ``bytes``; ``was`` is what is usual, ``now`` what the backup holds.
    """

    kind: str
    what: str
    was: int
    now: int


def usual(history: Sequence[Figures]) -> Figures:
    """Say what backups held that are taken for good; there is at least one.

    Of a collection that one of them lacks nothing is expected.
    """
    names = set.intersection(*(set(item.collections) for item in history))
    least = {name: min(item.collections[name] for item in history) for name in names}
    return Figures(
        documents=int(statistics.median_low([item.documents for item in history])),
        size=int(statistics.median_low([item.size for item in history])),
        collections={name: count for name, count in least.items() if count},
    )


def oddities(found: Figures, expected: Figures, shrink: float, grow: float) -> list[Oddity]:
    """Say in which ways a backup differs from what is usual, the worst first.

    ``shrink``: less than this share of what was is too little (0: nothing about less is said, nor of collections that
    are gone); ``grow``: more than so many times is too much (0: nothing about more is said). Of what is tiny nothing is
    said.
    """
    if expected.documents < _TINY_DOCUMENTS and expected.size < _TINY_BYTES:
        return []
    odd = _missing(found.collections, expected.collections, shrink) if shrink else []
    for what, was, now in (
        ("documents", expected.documents, found.documents),
        ("bytes", expected.size, found.size),
    ):
        if shrink and now < shrink * was:
            return [*odd, Oddity("shrank", what, was, now)]
        if grow and was and now > grow * was:
            return [*odd, Oddity("grew", what, was, now)]
    return odd


def _missing(found: Mapping[str, int], expected: Mapping[str, int], shrink: float) -> list[Oddity]:
    """Look at each collection; those that held most come first."""
    odd = []
    for name, was in sorted(expected.items(), key=lambda item: (-item[1], item[0])):
        now = found.get(name)
        if now is None:
            odd.append(Oddity("lost", name, was, 0))
        elif not now:
            odd.append(Oddity("emptied", name, was, 0))
        elif was >= _COUNTED and now < shrink * was:
            odd.append(Oddity("shrank", name, was, now))
    return sorted(odd, key=lambda item: item.kind == "shrank")


def loses(odd: Sequence[Oddity]) -> bool:
    """Tell whether something that was there is not there any more; growth alone is no loss."""
    return any(item.kind != "grew" for item in odd)


def in_words(odd: Sequence[Oddity], source: str = "mongodb") -> str:
    """Say what is odd of a backup of that type of source, for people; of many only the first are named."""
    said = [_told(item, words_for(source)) for item in odd[:_NAMED]]
    more = len(odd) - _NAMED
    return "; ".join([*said, *([f"and {more} more"] if more > 0 else [])])


def _told(item: Oddity, words: Words) -> str:
    if item.what == "bytes":
        return f"{human_size(item.now)} of data instead of {human_size(item.was)}"
    if item.what == "documents":
        return f"{item.now:,} {words.items} instead of {item.was:,}"
    if item.kind == "lost":
        return f"{words.part} {item.what} is gone (it held {item.was:,})"
    if item.kind == "emptied":
        return f"{words.part} {item.what} is empty (it held {item.was:,})"
    return f"{words.part} {item.what} holds {item.now:,} instead of {item.was:,}"
