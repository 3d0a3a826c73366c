"""Walking BSON files by their length words: every cut gives the same count, and damage is found."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise

import bson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.errors import VerifyError
from nanumpay_backupd.sources.bson_walk import BsonWalk
from nanumpay_backupd.sources.content import ContentDigest
from tests.workbench import documents

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text() | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcdef", max_size=5), inner, max_size=3),
    max_leaves=8,
)
records = st.dictionaries(st.text("abcdef지급", max_size=8), values, max_size=5)


def walked(pieces: Sequence[bytes]) -> BsonWalk:
    """Walk the pieces to their end."""
    walker = BsonWalk("nanumpay/users.bson")
    for piece in pieces:
        if piece:
            walker(piece)
    walker(b"")
    return walker


def walk(pieces: Sequence[bytes]) -> int:
    """Walk the pieces to their end and return the documents counted."""
    return walked(pieces).count


@given(st.lists(records, max_size=8), st.data())
def test_pieces_cut_anywhere_give_the_same_count(found: list[dict[str, object]], data: st.DataObject) -> None:
    """Wherever the reader's chunks end, also in a length word, every document is counted and digested once."""
    content = b"".join(bson.encode(document) for document in found)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=12)))
    pieces = [content[start:end] for start, end in pairwise([0, *cuts, len(content)])]
    walker = walked(pieces)
    assert walker.count == len(found)
    digest = ContentDigest()
    for document in reversed(found):
        digest.add(bson.encode(document))
    assert (walker.count, walker.digest) == (digest.count, digest.hexdigest())


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7])
def test_pieces_smaller_than_a_document(size: int) -> None:
    """Even byte by byte the count is right."""
    content = documents(5, 30)
    assert walk([content[at : at + size] for at in range(0, len(content), size)]) == 5


@given(st.integers(0, 9), st.data())
def test_a_file_that_is_cut_off_is_damaged(count: int, data: st.DataObject) -> None:
    """A file that ends anywhere but behind a document is not whole."""
    content = documents(count + 1, 40)
    size = len(content) // (count + 1)
    length = data.draw(st.integers(1, len(content) - 1).filter(lambda length: length % size != 0))
    with pytest.raises(VerifyError, match=f"damaged at byte {length // size * size}"):
        walk([content[:length]])


@pytest.mark.parametrize(
    "garbage, sentence",
    [
        pytest.param(struct.pack("<i", 4) + bytes(8), "claims 4 bytes", id="too short for a document"),
        pytest.param(struct.pack("<i", -1) + bytes(8), "claims -1 bytes", id="negative"),
        pytest.param(struct.pack("<i", (16 << 20) + (16 << 10) + 1) + bytes(8), "claims 16793601 bytes", id="too long"),
        pytest.param(bytes(64), "claims 0 bytes", id="zeros, as a lost block leaves them"),
        pytest.param(b"mongodump: error\n", "bytes", id="text"),
        pytest.param(struct.pack("<i", 6) + b"xx" + bytes(8), "does not end where it says", id="no end mark"),
    ],
)
def test_what_is_no_document_is_damage_and_says_where(garbage: bytes, sentence: str) -> None:
    """The message names the file, the byte and what is wrong there."""
    before = documents(2, 50)
    with pytest.raises(VerifyError, match=sentence) as caught:
        walk([before + garbage])
    assert f"nanumpay/users.bson is damaged at byte {len(before)}" in caught.value.message
    assert caught.value.code == "verify-failed"
    assert caught.value.hint


def test_the_largest_document_a_server_keeps_is_fine() -> None:
    """16 MiB and the server's internal allowance pass, in chunks as they are read."""
    content = bson.encode({"data": bytes((16 << 20) - 100)})
    assert walk([content[at : at + (1 << 20)] for at in range(0, len(content), 1 << 20)]) == 1


def test_a_largest_documents_length_is_believed_in_one_piece_as_well() -> None:
    """A length beyond the limit is nonsense, also where as many bytes are there."""
    with pytest.raises(VerifyError, match="claims 16793601 bytes"):
        walk([struct.pack("<i", 16793601) + bytes(16793597)])


def test_an_empty_file_has_no_documents() -> None:
    """An empty collection's file is whole."""
    assert walk([]) == 0
    assert walked([]).digest == ContentDigest().hexdigest()
