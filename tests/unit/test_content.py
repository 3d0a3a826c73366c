"""The digest of a collection's content: the same in any order, another one for any other content."""

from __future__ import annotations

import bson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_128_intdigest

from nanumpay_backupd.sources.content import ContentDigest, documents_in

_documents = st.lists(st.binary(max_size=40).map(lambda data: bson.encode({"_id": data})), max_size=12)


def digest(documents: list[bytes]) -> str:
    """Return the digest of these documents."""
    found = ContentDigest()
    for document in documents:
        found.add(document)
    assert found.count == found.content().documents == len(documents)
    assert found.content().digest == found.hexdigest()
    return found.hexdigest()


@given(_documents, st.randoms())
def test_the_order_does_not_matter(documents: list[bytes], dice: object) -> None:
    """Documents in any order give one digest: the sum of their XXH3-128 modulo 2**128, as 32 hex digits."""
    expected = f"{sum(xxh3_128_intdigest(item) for item in documents) % 2**128:032x}"
    shuffled = list(documents)
    dice.shuffle(shuffled)  # type: ignore[attr-defined]
    assert digest(documents) == digest(shuffled) == expected
    assert len(expected) == 32


@given(_documents.filter(bool), st.data())
def test_any_other_content_is_another_digest(documents: list[bytes], data: st.DataObject) -> None:
    """A flipped bit, a document less, and one that is there twice are all told apart."""
    at = data.draw(st.integers(0, len(documents) - 1))
    flipped = bytearray(documents[at])
    flipped[data.draw(st.integers(0, len(flipped) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    others = [*documents[:at], *documents[at + 1 :]]
    twice = [*documents, documents[at]]
    assert digest(documents) not in (digest([*others, bytes(flipped)]), digest(others), digest(twice))


@given(_documents)
def test_a_batch_is_taken_apart_into_its_documents(documents: list[bytes]) -> None:
    """What stands one after the other comes out one by one; a last one that is cut off is an error."""
    assert [bytes(item) for item in documents_in(b"".join(documents))] == documents
    with pytest.raises(ValueError, match="claims"):
        list(documents_in(b"".join([*documents, bson.encode({"_id": 1})])[:-1]))
    with pytest.raises(ValueError, match="claims"):
        list(documents_in(b"\x04\0\0\0\0"))
