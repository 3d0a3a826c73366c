"""docs/guarantees.md is what the tests say now, and a mark that cannot be read is told, not left out."""

from __future__ import annotations

import itertools
import textwrap

import pytest

from tests.guarantees import PAGE, Proof, page, proofs, proofs_in
from tests.servers.tools import PROJECT


def test_the_page_is_up_to_date() -> None:
    """The page is what `make man` would write now."""
    assert PAGE.read_text(encoding="utf-8") == page(proofs()), "run `make man` and look at what changes"


def test_promises_are_sentences_and_each_has_one_topic() -> None:
    """A promise ends with a full stop, stands under one heading, and each of its tests says what must hold."""
    topics: dict[str, int] = {}
    for proof in proofs():
        assert proof.promise[0].isupper(), proof
        assert proof.promise.endswith("."), proof
        assert topics.setdefault(proof.promise, proof.item) == proof.item, proof
        assert proof.sentence, f"{proof.path}::{proof.test} has no docstring"


def test_two_promises_are_not_one_with_a_slip_of_the_pen() -> None:
    """Sentences that differ only in a few letters are one promise that was meant twice."""
    found = sorted({proof.promise for proof in proofs()})
    for one, other in itertools.combinations(found, 2):
        words = [set(text.lower().rstrip(".").split()) for text in (one, other)]
        assert len(words[0] ^ words[1]) > 2, f"write them the same, or further apart:\n{one}\n{other}"


def test_every_module_of_faults_proves_something() -> None:
    """Whatever lies in tests/fault is there for the sake of a promise."""
    proving = {proof.path for proof in proofs()}
    modules = {path.relative_to(PROJECT).as_posix() for path in (PROJECT / "tests" / "fault").glob("test_*.py")}
    assert not modules - proving


MODULE = '''
    import pytest
    KEPT = "Nothing is lost."
    each = pytest.mark.promise("It comes back.", item=2)
    pytestmark = [pytest.mark.servers, pytest.mark.promise(KEPT, item=1)]

    def helper(): "no test"

    @each
    @pytest.mark.fault_long
    def test_a():
        """A | B
        and so on.

        More."""

    @pytest.mark.promise("Others too.", item=3)
    class TestB:
        pytestmark = pytest.mark.fault_long
        def test_c(self): "C."
'''


def test_where_a_mark_may_stand() -> None:
    """Marks of module, class, function and of a name in the module count; the first paragraph is what must hold."""
    found = list(proofs_in(textwrap.dedent(MODULE), "tests/fault/test_x.py"))
    assert [(proof.item, proof.promise, proof.test, proof.sentence, proof.long) for proof in found] == [
        (1, "Nothing is lost.", "test_a", "A | B and so on.", True),
        (2, "It comes back.", "test_a", "A | B and so on.", True),
        (1, "Nothing is lost.", "TestB::test_c", "C.", True),
        (3, "Others too.", "TestB::test_c", "C.", True),
    ]


@pytest.mark.parametrize("mark", ["promise", "promise('A.')", "promise('A.', item=99)", "promise(f'{1}', item=1)"])
def test_a_mark_that_cannot_be_read(mark: str) -> None:
    """It is told with its place."""
    with pytest.raises(ValueError, match=r"^tests/x\.py:1: write"):
        list(proofs_in(f"@pytest.mark.{mark}\ndef test_a(): pass", "tests/x.py"))


def test_what_the_page_looks_like() -> None:
    """Promises stand under their topic, each with a table of its tests; a bar in a sentence does not end its cell."""
    text = page(
        [
            Proof(2, "Two.", "tests/fault/test_x.py", 3, "TestB::test_c_d", "C | D.", long=True),
            Proof(1, "One.", "tests/unit/test_y.py", 3, "test_e", "E.", long=False),
        ]
    )
    assert text.index("## Processes") < text.index("**One.**") < text.index("## Disks") < text.index("**Two.**")
    assert "| [unit/test_y.py](../tests/unit/test_y.py): e | E. |" in text
    assert "| [fault/test_x.py](../tests/fault/test_x.py): TestB: c d ⏱ | C \\| D. |" in text
