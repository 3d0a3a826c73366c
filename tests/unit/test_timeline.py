"""Which moments can be restored, and from which chain: tables, and properties over random fulls and slices."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.model import OpTime
from nanumpay_backupd.timeline import (
    Base,
    Chain,
    Gap,
    Piece,
    Range,
    find_chain,
    gaps,
    needed_from,
    ranges,
    whole_second,
)


def _at(second: int) -> OpTime:
    return OpTime(second, 1)


def _base(name: str, end: int, *, good: bool = True) -> Base:
    return Base(name, _at(end), good)


def _piece(name: str, start: int, end: int, *, good: bool = True) -> Piece:
    return Piece(name, _at(start), _at(end), good)


FULLS = [_base("full-1", 100), _base("full-2", 200)]
STREAM = [_piece("a", 100, 140), _piece("b", 140, 190), _piece("c", 190, 230)]


def test_slices_lead_on_across_a_later_full() -> None:
    """Two fulls and one unbroken stream make one range, from the first full to the end of the last slice."""
    assert ranges(FULLS, STREAM) == [Range(_at(100), _at(230), ("full-1", "full-2"))]


def test_the_newest_full_before_the_moment_is_taken() -> None:
    """A moment after the second full is restored from it, with the one slice that spans it."""
    assert find_chain(FULLS, STREAM, _at(210)) == Chain("full-2", ("c",), _at(210))


def test_a_damaged_full_is_replaced_by_an_older_one_and_a_longer_replay() -> None:
    """When the second full is not good, the first one reaches the same moment through all slices."""
    fulls = [FULLS[0], _base("full-2", 200, good=False)]
    assert find_chain(fulls, STREAM, _at(210)) == Chain("full-1", ("a", "b", "c"), _at(210))


def test_a_damaged_slice_makes_a_gap_up_to_the_next_full() -> None:
    """Without the second slice, what lies behind its beginning is lost until the next full."""
    pieces = [STREAM[0], _piece("b", 140, 190, good=False), STREAM[2]]
    found = ranges(FULLS, pieces)
    assert found == [Range(_at(100), _at(140), ("full-1",)), Range(_at(200), _at(230), ("full-2",))]
    assert gaps(found) == [Gap(_at(140), _at(200))]
    assert find_chain(FULLS, pieces, _at(150)) is None


def test_a_differential_stands_for_the_slices_that_it_spans() -> None:
    """Where a differential reaches further than a slice, it is taken instead of several."""
    pieces = [*STREAM[:2], _piece("diff", 100, 190)]
    assert find_chain(FULLS[:1], pieces, _at(180)) == Chain("full-1", ("diff",), _at(180))


def test_a_quiet_time_is_covered_without_a_slice() -> None:
    """A piece without a backup says that nothing was written: it leads on and is not part of the chain."""
    pieces = [*STREAM, Piece("", _at(230), _at(300))]
    assert find_chain(FULLS, pieces, _at(299)) == Chain("full-2", ("c",), _at(299))
    assert find_chain(FULLS, pieces, _at(301)) is None


def test_the_moment_of_a_full_needs_no_slice() -> None:
    """A full alone restores its own moment, and nothing after it."""
    assert find_chain(FULLS, [], _at(200)) == Chain("full-2", (), _at(200))
    assert find_chain(FULLS, [], _at(201)) is None
    assert find_chain(FULLS, [], _at(99)) is None


def test_slices_before_the_oldest_good_full_are_of_no_use() -> None:
    """What a slice must reach beyond to be needed is the end of the oldest good full."""
    assert needed_from([_base("x", 50, good=False), *FULLS]) == _at(100)
    assert needed_from([]) is None


def test_a_whole_second_holds_everything_written_in_it() -> None:
    """Every oplog time of a second sorts at or before the whole second, and before the next one."""
    assert OpTime(7, 2**31) <= whole_second(7) < OpTime(8, 0)


_SECONDS = st.integers(0, 60)
_BASES = st.lists(st.builds(lambda end, good: (end, good), _SECONDS, st.booleans()), max_size=6).map(
    lambda items: [_base(f"full-{at}", end, good=good) for at, (end, good) in enumerate(items)]
)
_PIECES = st.lists(st.tuples(_SECONDS, st.integers(1, 20), st.booleans()), max_size=10).map(
    lambda items: [_piece(f"s{at}", start, start + length, good=good) for at, (start, length, good) in enumerate(items)]
)


@given(_BASES, _PIECES, _SECONDS)
def test_a_chain_begins_with_a_good_full_and_its_slices_touch(
    bases: list[Base], pieces: list[Piece], second: int
) -> None:
    """A chain's full is not after the moment, each slice leads on from the one before, and the last one reaches it."""
    chain = find_chain(bases, pieces, _at(second))
    if chain is None:
        return
    base = next(item for item in bases if item.backup == chain.base)
    by_name = {piece.backup: piece for piece in pieces}
    assert base.good
    assert base.end <= chain.until == _at(second)
    reached = base.end
    for name in chain.slices:
        piece = by_name[name]
        assert piece.good
        assert piece.start <= reached < piece.end
        assert reached < chain.until
        reached = piece.end
    assert reached >= chain.until


@given(_BASES, _PIECES, _SECONDS)
def test_a_chain_takes_the_newest_full_and_as_few_slices_as_possible(
    bases: list[Base], pieces: list[Piece], second: int
) -> None:
    """No full behind the chosen one reaches the moment, and no chain from it has fewer slices."""
    wanted = _at(second)
    good = [piece for piece in pieces if piece.good]

    def fewest(start: OpTime) -> int | None:
        """Count the slices of the shortest way by trying all of them, one step after the other."""
        places, steps = {start}, 0
        while not any(place >= wanted for place in places):
            further = {piece.end for piece in good for place in places if piece.start <= place < piece.end}
            if not further - places:
                return None
            places, steps = places | further, steps + 1
        return steps

    chain = find_chain(bases, pieces, wanted)
    reaching = {base.end: fewest(base.end) for base in bases if base.good and base.end <= wanted}
    newest = max((end for end, count in reaching.items() if count is not None), default=None)
    if chain is None:
        assert newest is None
        return
    assert next(base.end for base in bases if base.backup == chain.base) == newest
    assert newest is not None
    assert len(chain.slices) == reaching[newest]


@given(_BASES, _PIECES, _SECONDS)
def test_a_moment_has_a_chain_if_and_only_if_it_is_in_a_range(
    bases: list[Base], pieces: list[Piece], second: int
) -> None:
    """Ranges and chains agree on every moment."""
    inside = any(item.first <= _at(second) <= item.last for item in ranges(bases, pieces))
    assert (find_chain(bases, pieces, _at(second)) is not None) == inside


@given(_BASES, _PIECES)
def test_ranges_are_in_order_and_never_touch(bases: list[Base], pieces: list[Piece]) -> None:
    """Each range begins with a full and ends before the next one begins; so gaps are never empty."""
    found = ranges(bases, pieces)
    ends = {base.backup: base.end for base in bases}
    assert all(item.first == ends[item.bases[0]] for item in found)
    assert all(gap.after < gap.before for gap in gaps(found))


@given(_BASES, _PIECES, _PIECES)
def test_more_slices_never_take_a_moment_away(bases: list[Base], pieces: list[Piece], more: list[Piece]) -> None:
    """What could be restored can still be restored when slices are added."""
    for item in ranges(bases, pieces):
        assert any(wide.first <= item.first and item.last <= wide.last for wide in ranges(bases, [*pieces, *more]))
