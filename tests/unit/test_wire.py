"""Framing on the control socket: where a message ends, what is garbage, and that chopping a stream changes nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.control import wire
from nanumpay_backupd.control.wire import MAX_MESSAGE, Frame, Framer, encode

_PROMISE = "No client, whatever it sends and however many they are, stops the daemon or locks others out."

NUL, LINE = b"\0", b"\n"


def frames(*pieces: bytes, end: bool = False, limit: int = MAX_MESSAGE) -> list[Frame]:
    """Feed pieces one after the other, take all there is after each, and return everything taken."""
    framer = Framer(limit)
    taken: list[Frame] = []
    for piece in pieces:
        framer.feed(piece)
        while (frame := framer.take()) is not None:
            taken.append(frame)
    if end:
        framer.end()
        while (frame := framer.take()) is not None:
            taken.append(frame)
    return taken


def bodies(*pieces: bytes, end: bool = False) -> list[tuple[dict[str, Any] | None, bytes]]:
    """As `frames`, but only what was said and how the answer must end."""
    return [(frame.body, frame.terminator) for frame in frames(*pieces, end=end)]


@pytest.mark.parametrize(
    "stream, expected",
    [
        (b'{"a":1}\0', [({"a": 1}, NUL)]),
        (b'{"a":1}\n', [({"a": 1}, LINE)]),
        (b' {"a":1} \r\n', [({"a": 1}, LINE)]),
        (b'{"a":1}\0{"b":2}\0', [({"a": 1}, NUL), ({"b": 2}, NUL)]),
        (b'{"a":1}\n{"b":2}\0{"c":3}\n', [({"a": 1}, LINE), ({"b": 2}, NUL), ({"c": 3}, LINE)]),
        (b'{"a":1}\n\0{"b":2}\0', [({"a": 1}, LINE), ({"b": 2}, NUL)]),
        (b'\n \r\n\0\t\0{"a":1}\0', [({"a": 1}, NUL)]),
        (b'{\n  "a": [\n    1\n  ]\n}\n\0', [({"a": [1]}, NUL)]),
        (b'\n{"a":\n1}\0{"b":2}\n', [({"a": 1}, NUL), ({"b": 2}, LINE)]),
        ('{"a":"\\u0000 백업 \\n"}\n'.encode(), [({"a": "\0 백업 \n"}, LINE)]),
        (b'{"a":1,"a":2}\0', [({"a": 2}, NUL)]),
        (b'{"a":1}', []),
        (b"", []),
    ],
)
def test_messages_end_in_nul_or_newline(stream: bytes, expected: list[Any]) -> None:
    """The first terminator met ends a message and is the one of the answer; blanks between messages are nothing."""
    assert bodies(stream) == expected


@pytest.mark.parametrize(
    "stream, expected",
    [
        (b'{"a":1}', [({"a": 1}, LINE)]),
        (b'{\n "a": 1\n}\n', [({"a": 1}, LINE)]),
        (b'{"a":1}\0{"b":2}  ', [({"a": 1}, NUL), ({"b": 2}, LINE)]),
        (b" \n", []),
        (b'{"a":', [(None, LINE)]),
        (b'{"a":1}{"b":2}', [(None, LINE)]),
        (b'{"a":1}\n{"b"\n:2}', [({"a": 1}, LINE), ({"b": 2}, LINE)]),
    ],
)
def test_at_the_end_of_input_no_terminator_is_needed(stream: bytes, expected: list[Any]) -> None:
    """What a shell sent without a line end is a message when it is complete, and garbage when it is not."""
    assert bodies(stream, end=True) == expected


@pytest.mark.parametrize(
    "stream, terminator, problem",
    [
        (b"GET / HTTP/1.1\r\n", LINE, "not a JSON object"),
        (b"status\0", NUL, "not a JSON object"),
        (b'["a"]\n', LINE, "not a JSON object"),
        (b'{"a":1} {"b":2}\n', LINE, "Extra data (character 9)"),
        (b'{"a":1\0', NUL, "Expecting ',' delimiter"),
        (b'{"method": GetStatus}\n', LINE, "Expecting value (character 12)"),
        (b'{"a": "no end\n', LINE, "Unterminated string"),
        (b'{"a":"\xff"}\0', NUL, "not UTF-8 (byte 7)"),
        (b'{"a":NaN}\0', NUL, "NaN is no number"),
        (b'{"a":-Infinity}\n', LINE, "-Infinity is no number"),
        (b'{"a":"\\ud800"}\n', LINE, "half of a surrogate pair"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"\0", NUL, "nested too deeply"),
        (b'{"a":' + b"[" * 100_000 + b"\n", LINE, "nested too deeply"),
        (b'{"a":' + b"9" * 10_000 + b"}\0", NUL, "too many digits"),
    ],
)
def test_garbage_is_reported_with_its_reason_and_the_stream_goes_on(
    stream: bytes, terminator: bytes, problem: str
) -> None:
    """A message that is no JSON object becomes a problem in words, and the next message is understood again."""
    garbage, good = frames(stream + b'{"a":1}\0')
    assert (garbage.body, garbage.terminator, garbage.fatal) == (None, terminator, False)
    assert problem in garbage.problem
    assert good == Frame({"a": 1}, NUL)


@pytest.mark.parametrize("terminator", [NUL, LINE])
def test_a_message_may_be_exactly_as_long_as_the_limit(terminator: bytes) -> None:
    """The limit counts the message without its terminator: at the limit it is accepted, one byte more is fatal."""
    text = b'{"a":"' + b"x" * 92 + b'"}'
    assert len(text) == 100
    (frame,) = frames(text + terminator, limit=100)
    assert frame.body is not None
    (frame,) = frames(b" " + text + terminator, limit=100)
    assert (frame.body, frame.fatal) == (None, True)
    assert "100 bytes" in frame.problem


@pytest.mark.promise(_PROMISE, item=8)
def test_the_limit_holds_without_any_terminator_and_after_a_first_line() -> None:
    """Endless input ends in one fatal frame as soon as the limit is passed; nothing is kept or understood after it."""
    for head in (b"", b'{"a":\n'):
        framer = Framer(1000)
        framer.feed(head + b"1" * 1001)
        frame = framer.take()
        assert frame is not None
        assert frame.fatal
        framer.feed(b'}\0{"a":1}\0')
        assert framer.take() is None
        assert not framer.pending


def test_pending_tells_whether_a_message_has_begun() -> None:
    """Between messages nothing is pending; from the first byte to the terminator something is."""
    framer = Framer()
    seen = [framer.pending]
    for piece in (b'{"a"', b":1}", b"\n"):
        framer.feed(piece)
        frame = framer.take()
        seen.append(framer.pending)
    assert frame == Frame({"a": 1}, LINE)
    assert seen == [False, True, True, False]


def test_a_long_pretty_printed_message_is_parsed_twice_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its first line a message waits for NUL; it is not tried again at each of its hundred thousand lines."""
    attempts = []
    real = wire._parse

    def counted(text: bytes) -> dict[str, Any]:
        attempts.append(len(text))
        return real(text)

    monkeypatch.setattr(wire, "_parse", counted)
    value = {"a": [1] * 100_000}
    stream = json.dumps(value, indent=1).encode() + NUL
    pieces = [stream[at : at + 1000] for at in range(0, len(stream), 1000)]
    assert frames(*pieces) == [Frame(value, NUL)]
    assert attempts == [1, len(stream) - 1]


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
_OBJECTS = st.dictionaries(st.text(max_size=3), _JSON, max_size=3)


@given(value=_OBJECTS, indent=st.sampled_from([None, 0, 1, 4]), ascii_only=st.booleans(), data=st.data())
def test_any_object_survives_however_it_is_printed(
    value: dict[str, Any], indent: int | None, ascii_only: bool, data: st.DataObject
) -> None:
    """Every JSON object, compact or over many lines, is one message when it ends in NUL, also between others."""
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    if data.draw(st.booleans()):
        text = text.replace("\n", "\r\n")
    expected = [({"x": 1}, NUL), (value, NUL), ({"y": 2}, LINE)]
    assert bodies(b'{"x":1}\0' + text.encode() + NUL + b'{"y":2}\n') == expected


_TOKENS = (
    b"{",
    b"}",
    b'"a"',
    b":",
    b"1",
    b",",
    b"[",
    b"]",
    b" ",
    b"\r",
    b"\n",
    b"\0",
    b"x",
    b"\xff",
    b"\xec\x9e",
    b"\\",
)
_MESSAGES = (b'{"a":1}', b'{"a":1}\n', b'{"a":1}\0', b'{\n"a":\n1\n}\0', b'{"a":NaN}\n', b"\n\n", b"\0\0", b"garbage\n")
_PIECES = st.sampled_from((*_TOKENS, *_MESSAGES))


@given(stream=st.lists(_PIECES, max_size=30).map(b"".join), data=st.data(), limit=st.sampled_from([12, 1 << 20]))
def test_splitting_a_stream_anywhere_gives_the_same_frames(stream: bytes, data: st.DataObject, limit: int) -> None:
    """However a byte stream is chopped on its way, it is understood as the same sequence of messages and garbage."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    whole = frames(stream, end=True, limit=limit)
    assert frames(*pieces, end=True, limit=limit) == whole
    assert frames(*(bytes([byte]) for byte in stream), end=True, limit=limit) == whole


@pytest.mark.promise(_PROMISE, item=8)
@given(stream=st.binary(max_size=200))
def test_no_bytes_at_all_make_the_framer_fail(stream: bytes) -> None:
    """Whatever comes in, the outcome is messages and reported garbage, never an exception, and nothing is left over."""
    framer = Framer()
    framer.feed(stream)
    framer.end()
    while framer.take() is not None:
        pass
    assert not framer.pending


@given(value=_OBJECTS, terminator=st.sampled_from([NUL, LINE]))
def test_what_is_written_is_read_back(value: dict[str, Any], terminator: bytes) -> None:
    """A reply is compact JSON that holds neither terminator inside, so the other side reads the same object."""
    text = encode(value, terminator)
    assert text.endswith(terminator)
    assert NUL not in text[:-1]
    assert LINE not in text[:-1]
    assert json.loads(text[:-1]) == value


def test_replies_are_compact_and_readable() -> None:
    """No blanks between tokens, and Korean text stays Korean."""
    assert encode({"a": [1, "백업"]}, NUL) == '{"a":[1,"백업"]}\0'.encode()


def test_text_that_is_no_unicode_is_sent_with_a_question_mark() -> None:
    """A file name in an old encoding (surrogate escape) does not make the whole reply fail."""
    assert encode({"name": "caf\udce9", "size": 1}, LINE) == b'{"name":"caf?","size":1}\n'


def test_what_is_no_json_is_refused() -> None:
    """A handler that returns an object of Python's own is a defect to be reported, not a reply."""
    with pytest.raises(TypeError):
        encode({"a": object()}, NUL)
