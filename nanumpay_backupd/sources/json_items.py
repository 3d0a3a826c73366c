"""Takes JSON apart while it comes: an array's objects one by one, whatever its size. Knows no meaning."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, Final

__all__ = ["MOST_ITEM", "JsonItems", "parse"]

MOST_ITEM: Final = 256 << 20
"""Characters that one object may have: more is none, but a server or a file that never ends one."""
_HEADS: Final = (None, re.compile(r"\s*\["), re.compile(r'\s*\{\s*"data"\s*:\s*\['))
_BETWEEN: Final = re.compile(r"[\s,]*")


class JsonItems:
    """Yields the objects that stand ``level`` brackets deep: 0 the document itself, 1 in an array, 2 in ``{"data": [``.

    What is around them is parsed at the end, by `around`. Memory is that of the largest object; where level 2 begins
    with another key than ``data``, that of all.
    """

    def __init__(self, level: int) -> None:
        self._head = _HEADS[level]
        self._text = codecs.getincrementaldecoder("utf-8")()
        self._decoder = json.JSONDecoder(parse_constant=_refuse)
        self._buffer = ""
        self._again = 0
        self._around: list[str] = []

    def feed(self, piece: bytes) -> Iterator[Any]:
        """Take the next piece, then ``b""`` for the end, and yield the objects that are whole by now.

        Raises ValueError where it is no JSON.
        """
        self._buffer += self._text.decode(piece, final=not piece)
        # A long object comes in many pieces: it is not tried anew with each of them.
        if not piece or len(self._buffer) >= self._again:
            yield from self._whole(last=not piece)
        if len(self._buffer) > MOST_ITEM:
            raise ValueError(f"an object in it is longer than {MOST_ITEM >> 20} MiB")

    def around(self) -> Any:
        """Return, after the end, what is around the objects, each of which is 0 there; raises ValueError."""
        return _decoded("".join([*self._around, self._buffer]), self._decoder)

    def _whole(self, *, last: bool) -> Iterator[Any]:
        position, buffer = 0, self._buffer
        if self._head is not None:
            head = self._head.match(buffer)
            if head is None:
                return
            self._around.append(head[0])
            self._head, position = None, head.end()
        while True:
            between = _BETWEEN.match(buffer, position)
            begin = between.end() if between is not None else position
            if buffer[begin : begin + 1] != "{":
                break
            try:
                item, end = self._decoder.raw_decode(buffer, begin)
            except json.JSONDecodeError as error:
                if last:
                    raise ValueError(f"it is cut off or damaged: {error.msg}") from None
                break
            except RecursionError:
                raise ValueError("it is nested too deeply") from None
            self._around += [buffer[position:begin], "0"]
            position = end
            yield item
        self._buffer = buffer[position:]
        self._again = 2 * len(self._buffer)


def parse(data: bytes) -> Any:
    """Read JSON as the standard has it; raises ValueError, also where it is nested too deeply or not UTF-8."""
    return _decoded(data.decode("utf-8"), json.JSONDecoder(parse_constant=_refuse))


def _decoded(text: str, decoder: json.JSONDecoder) -> Any:
    try:
        return decoder.decode(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")
