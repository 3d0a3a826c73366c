"""Pure: what each type of source calls what it holds, in English and Korean. Standard library only, for backupctl too.

Every record counts ``documents`` in ``parts``, whatever they are; these are the words in which that is told.
"""

from __future__ import annotations

TYPE_CHECKING = False  # not from typing, as in `errors`
if TYPE_CHECKING:
    from typing import Final

__all__ = ["KEPT_OUTSIDE", "WORDS", "Words", "counted", "words_for"]


class Words:
    """The words of one type of source. ``item`` is what is counted, ``part`` what a backup consists of.

    ``name`` is what the source is, ``heading`` the head of a column of items; ``korean`` has a place for the count.
    """

    __slots__ = ("heading", "item", "items", "korean", "name", "part", "parts")

    def __init__(self, name: str, item: str, items: str, part: str, parts: str, korean: str) -> None:
        self.name = name
        self.item = item
        self.items = items
        self.part = part
        self.parts = parts
        self.korean = korean
        self.heading = items.upper()

    @property
    def parts_of(self) -> str:
        """Return what is backed up, for a sentence: ``databases of Redis``."""
        return f"{self.parts} of {self.name}"

    def count_items(self, count: int) -> str:
        """Return ``1 key`` or ``1,204 keys``."""
        return f"{count:,} {self.item if count == 1 else self.items}"

    def count_parts(self, count: int) -> str:
        """Return ``1 database`` or ``3 databases``."""
        return f"{count:,} {self.part if count == 1 else self.parts}"


WORDS: Final[dict[str, Words]] = {
    "mongodb": Words("MongoDB", "document", "documents", "collection", "collections", "문서 {count}개"),
    "redis": Words("Redis", "key", "keys", "database", "databases", "키 {count}개"),
    "files": Words("files", "file", "files", "folder", "folders", "파일 {count}개"),
    "mariadb": Words("MariaDB or MySQL", "row", "rows", "table", "tables", "행 {count}개"),
    "postgresql": Words("PostgreSQL", "row", "rows", "table", "tables", "행 {count}개"),
    "sqlite": Words("SQLite", "row", "rows", "database", "databases", "행 {count}개"),
    "pbm": Words(
        "a MongoDB cluster", "replica set", "replica sets", "replica set", "replica sets", "레플리카 셋 {count}개"
    ),
    "n8n": Words("n8n", "workflow", "workflows", "workflow", "workflows", "워크플로 {count}개"),
}
KEPT_OUTSIDE: Final = frozenset({"pbm"})
"""The types whose data another program stores: what is read back here is its receipt, and that program is asked."""
_OTHER: Final = Words("another program", "item", "items", "part", "parts", "항목 {count}개")


def words_for(kind: str) -> Words:
    """Return the words of a type of source; of one that is not known (a newer program's), words that fit anything."""
    return WORDS.get(kind or "mongodb", _OTHER)


def counted(kind: str, items: int, parts: int) -> str:
    """Return what a backup of that type of source holds: ``1,204 keys in 3 databases``.

    Without parts, and where each item is a part of its own: the items.
    """
    words = words_for(kind)
    told = parts and words.parts != words.items
    return f"{words.count_items(items)} in {words.count_parts(parts)}" if told else words.count_items(items)
