"""Canonical Extended JSON: every type comes back as the very BSON, look-alikes stay as they are, nonsense is named."""

from __future__ import annotations

import io
import itertools
import struct
from datetime import datetime
from typing import Any

import bson
import pytest
from bson import Binary, Code, Decimal128, Int64, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS
from bson.max_key import MaxKey
from bson.min_key import MinKey
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.errors import VerifyError
from nanumpay_backupd.sources.extended_json import JsonLines, ToBson, file_stem, to_bson

OID = "6b0229f0567501e2be18d2b8"


def raw(*elements: bytes) -> bytes:
    """Put a document together from elements, where the driver has no type for them."""
    body = b"".join(elements)
    return struct.pack("<i", len(body) + 5) + body + b"\0"


# As mongoexport 100.7.0 wrote them of documents on MongoDB 6.0.5; the second is the value that was stored.
VALUES: list[tuple[str, Any]] = [
    ('{"$numberInt":"-1"}', -1),
    ('{"$numberInt":"2147483647"}', 2**31 - 1),
    ('{"$numberLong":"5"}', Int64(5)),
    ('{"$numberLong":"-9223372036854775808"}', Int64(-(2**63))),
    ('{"$numberDouble":"1.0"}', 1.0),
    ('{"$numberDouble":"-0.0"}', -0.0),
    ('{"$numberDouble":"0.1"}', 0.1),
    ('{"$numberDouble":"1E+300"}', 1e300),
    ('{"$numberDouble":"1.23456789E+08"}', 123456789.0),
    ('{"$numberDouble":"5E-324"}', 5e-324),
    ('{"$numberDouble":"-Infinity"}', float("-inf")),
    ('{"$numberDouble":"NaN"}', float("nan")),
    ('{"$numberDecimal":"1.00"}', Decimal128("1.00")),
    ('{"$numberDecimal":"-0.00000"}', Decimal128("-0E-5")),
    ('{"$numberDecimal":"1.000000000000000000000000000000000E+6144"}', Decimal128("1E+6144")),
    ('{"$numberDecimal":"NaN"}', Decimal128("NaN")),
    ('"한글 \\u0000 \\" \\\\ / \\u2028 <>& 😀"', '한글 \0 " \\ / \u2028 <>& 😀'),
    ('""', ""),
    ("null", None),
    ("true", True),
    ("false", False),
    ("[]", []),
    ("{}", {}),
    ('[{"$numberInt":"1"},[{"$numberInt":"2"},{"a":{"$numberInt":"3"}}]]', [1, [2, {"a": 3}]]),
    ('{"a":{"b":[]},"c":null}', {"a": {"b": []}, "c": None}),
    ('{"$date":{"$numberLong":"1767229323004"}}', datetime(2026, 1, 1, 1, 2, 3, 4000)),
    ('{"$date":{"$numberLong":"-31536000000"}}', datetime(1969, 1, 1)),
    ('{"$date":{"$numberLong":"1152921504606846976"}}', DatetimeMS(2**60)),
    ('{"$timestamp":{"t":4294967295,"i":4294967294}}', Timestamp(2**32 - 1, 2**32 - 2)),
    ('{"$regularExpression":{"pattern":"a/b\\"\\\\n[가]","options":"imsx"}}', Regex('a/b"\\n[가]', "imsx")),
    ('{"$binary":{"base64":"AAE=","subType":"00"}}', Binary(b"\0\1", 0)),
    ('{"$binary":{"base64":"","subType":"00"}}', Binary(b"", 0)),
    ('{"$binary":{"base64":"YWJj","subType":"02"}}', Binary(b"abc", 2)),
    ('{"$binary":{"base64":"MDEyMzQ1Njc4OWFiY2RlZg==","subType":"03"}}', Binary(b"0123456789abcdef", 3)),
    ('{"$binary":{"base64":"MDEyMzQ1Njc4OWFiY2RlZg==","subType":"04"}}', Binary(b"0123456789abcdef", 4)),
    ('{"$binary":{"base64":"eg==","subType":"ff"}}', Binary(b"z", 255)),
    ('{"$code":"f()"}', Code("f()")),
    ('{"$code":"f()","$scope":{"a":{"$numberInt":"1"}}}', Code("f()", {"a": 1})),
    ('{"$minKey":1}', MinKey()),
    ('{"$maxKey":1}', MaxKey()),
    (f'{{"$oid":"{OID}"}}', ObjectId(OID)),
    (f'{{"$ref":"c","$id":{{"$oid":"{OID}"}},"$db":"d"}}', {"$ref": "c", "$id": ObjectId(OID), "$db": "d"}),
    # Stored documents that only look like a type.
    ('{"$oid":"no"}', {"$oid": "no"}),
    ('{"$date":"no"}', {"$date": "no"}),
    ('{"$numberInt":{"$numberInt":"5"}}', {"$numberInt": 5}),
    ('{"$numberInt":"05"}', {"$numberInt": "05"}),
    ('{"$numberInt":"2147483648"}', {"$numberInt": "2147483648"}),
    ('{"$numberLong":"9223372036854775808"}', {"$numberLong": "9223372036854775808"}),
    ('{"$numberDouble":"1_0"}', {"$numberDouble": "1_0"}),
    ('{"$numberDecimal":"x"}', {"$numberDecimal": "x"}),
    ('{"$timestamp":{"t":"x","i":"y"}}', {"$timestamp": {"t": "x", "i": "y"}}),
    ('{"$binary":{"base64":"?","subType":"00"}}', {"$binary": {"base64": "?", "subType": "00"}}),
    ('{"$code":"no","x":"y"}', {"$code": "no", "x": "y"}),
    ('{"$minKey":"no"}', {"$minKey": "no"}),
    ('{"$code$scope":"no"}', {"$code$scope": "no"}),
    ('{"$regularExpression":{"pattern":"a"}}', {"$regularExpression": {"pattern": "a"}}),
]


@pytest.mark.parametrize("text,value", VALUES)
def test_every_type_comes_back_as_the_very_bson(text: str, value: Any) -> None:
    """Type, value and order are what the driver encodes, down to the byte."""
    line = f'{{"_id":{{"$oid":"{OID}"}},"v":{text},"w":[{text}]}}'.encode()
    assert to_bson(line) == bson.encode({"_id": ObjectId(OID), "v": value, "w": [value]})


@pytest.mark.parametrize(
    "text,expected",
    [
        ('{"s":{"$symbol":"sym"}}', raw(b"\x0es\0\x04\0\0\0sym\0")),
        ('{"u":{"$undefined":true}}', raw(b"\x06u\0")),
        (
            f'{{"p":{{"$dbPointer":{{"$ref":"a.b","$id":{{"$oid":"{OID}"}}}}}}}}',
            raw(b"\x0cp\0\x04\0\0\0a.b\0" + bytes.fromhex(OID)),
        ),
        ('{"k":{"$numberInt":"1"},"k":{"$numberInt":"2"}}', raw(b"\x10k\0\1\0\0\0", b"\x10k\0\2\0\0\0")),
        ('{"":null,"a.b":null}', raw(b"\x0a\0", b"\x0aa.b\0")),
    ],
    ids=["symbol", "undefined", "pointer", "a key twice", "odd names"],
)
def test_what_the_driver_cannot_make_comes_back_too(text: str, expected: bytes) -> None:
    """Deprecated types and keys that stand twice are in old databases."""
    assert to_bson(text.encode()) == expected


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"null", b"[]", b'"x"', b"5", b"{", b"\xff", b'{"a":1}{"a":1}', b'{"$minKey":1}'),
        *(b'{"a\\u0000":1}', b'{"a":"\\ud800"}', b'{"a":99999999999999999999}', b'{"a":' * 100_000),
    ],
    ids=range(13),
)
def test_what_is_no_document_is_refused(line: bytes) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError):
        to_bson(line)


LINES = [f'{{"_id":{{"$numberInt":"{at}"}},"v":"{"x" * (at * 7 % 50)}"}}\n'.encode() for at in range(40)]


@given(st.lists(st.integers(0, len(b"".join(LINES))), max_size=12))
def test_lines_may_come_in_any_pieces(cuts: list[int]) -> None:
    """Wherever a file is cut, the same lines are counted and converted."""
    data = b"".join(LINES)
    places = [0, *sorted(cuts), len(data)]
    out = Kept()
    check, convert = JsonLines("x.json"), ToBson(out, "x.json")
    for start, end in itertools.pairwise(places):
        if start != end:
            check(data[start:end])
        convert.write(data[start:end])
    check(b"")
    convert.close()
    assert (check.count, convert.count) == (40, 40)
    assert bson.decode_all(out.content) == [{"_id": at, "v": "x" * (at * 7 % 50)} for at in range(40)]


class Kept(io.BytesIO):
    """A file whose content is known after it was closed."""

    content = b""

    def close(self) -> None:
        """Keep it."""
        if not self.closed:
            self.content = self.getvalue()
        super().close()


@pytest.mark.parametrize(
    "data,what",
    [
        (b'{"a":1}\n{"a":1', "line 2 of x.json is cut off"),
        (b'{"a":1}\n[]\n', "line 2 of x.json is not one JSON document"),
        (b'{"a":1}\n\n{"a":1}\n', "line 2 of x.json is not one JSON document"),
        (b'{"a":1\n}\n', "line 1 of x.json is not one JSON document"),
        (b"\xff\n", "line 1 of x.json is not one JSON document"),
    ],
)
def test_a_damaged_line_is_named(data: bytes, what: str) -> None:
    """Checking and converting say which line it is; an unfinished with block does not hide the first fault."""
    check, out = JsonLines("x.json"), io.BytesIO()
    with pytest.raises(VerifyError, match=what):
        list(map(check, (data, b"")))
    with pytest.raises(VerifyError, match=what), ToBson(out, "x.json") as convert:
        convert.write(data)
    assert out.closed


@pytest.mark.parametrize(
    "name,stem",
    [
        ("users", "users"),
        ("a b+c/d%", "a+b%2Bc%2Fd%25"),
        ("fs.files", "fs.files"),
        ("급여", "%EA%B8%89%EC%97%AC"),
        ("k" * 238, "k" * 238),
        ("급여" * 20, ("%EA%B8%89%EC%97%AC" * 20)[:208] + "%24AeXmUFyhE056GEKdRt0sj7DAti8"),
    ],
)
def test_files_are_named_as_mongodump_names_them(name: str, stem: str) -> None:
    """Blanks, slashes and letters beyond ASCII are escaped, very long names end in a hash."""
    assert file_stem(name) == stem
