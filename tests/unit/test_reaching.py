"""What the method Timeline leaves out where a picture is asked for, and that it works nothing out twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.control.reaching import Picture, Reach, reach_of, timeline
from nanumpay_backupd.model import OpTime
from nanumpay_backupd.pipeline.chains import Known
from nanumpay_backupd.timeline import Base, Piece
from tests.unit.test_catalog import backup_of

NOW: Final = datetime(2026, 11, 22, tzinfo=UTC)
START: Final = int(NOW.timestamp()) - 100_000
seconds = st.integers(0, 99_999)
moments = st.none() | seconds.map(lambda at: datetime.fromtimestamp(START + at, UTC))


def reach(fulls: list[int], slices: list[tuple[int, int]]) -> Reach:
    """Return what there is with fulls of these seconds, and slices from one second to another."""
    bases = tuple(Base(f"b{at}", OpTime(START + at, 0)) for at in fulls)
    pieces = tuple(Piece(f"s{one}-{two}", OpTime(START + one, 0), OpTime(START + two, 0)) for one, two in slices)
    known = Known(bases, pieces, ())
    return Reach.of("nanumpay", (1, 1), known)


class TestPicture:
    """Fewer fulls, the same truth."""

    @given(
        st.lists(seconds, unique=True, max_size=60),
        st.lists(st.tuples(seconds, seconds).map(sorted).map(tuple), max_size=8),
        st.integers(1, 40),
        moments,
        moments,
    )
    def test_what_is_left_out_is_not_missed(
        self,
        fulls: list[int],
        slices: list[tuple[int, int]],
        spots: int,
        since: datetime | None,
        until: datetime | None,
    ) -> None:
        """All that is told is so in the whole as well; no range of time is missing; each full told is near another."""
        whole = timeline(reach(fulls, slices), None, NOW)
        some = timeline(reach(fulls, slices), Picture(spots, since, until), NOW)
        ranges = {one["first"]: one for one in whole["ranges"]}
        for one in some["ranges"]:
            known = ranges[one["first"]]
            assert (one["last"], one["exact"], one["slices"]) == (known["last"], known["exact"], known["slices"])
            assert set(one["bases"]) <= set(known["bases"])
        spans = [one["first"] for one in whole["ranges"] if one["first"] != one["last"]]
        assert spans == [one["first"] for one in some["ranges"] if one["first"] != one["last"]]
        told = [one["backup"] for one in some["fulls"]]
        assert len(told) <= spots + 3
        if fulls:
            assert {f"b{min(fulls)}", f"b{max(fulls)}"} <= set(told)
        first = (since or datetime.fromtimestamp(START + min(fulls, default=0), UTC)).timestamp() - START
        last = (until or NOW).timestamp() - START
        wide = max((last - first) / spots, 1.0)
        for at in fulls:
            if first <= at <= last:
                assert any(0 <= int(name[1:]) - at <= wide for name in told), at


def test_what_has_not_changed_is_not_read_again(tmp_path: Path) -> None:
    """The same answer while nobody writes; what this or another process writes is there at once."""
    with Catalog(tmp_path / "catalog.db") as catalog, Catalog(tmp_path / "catalog.db") as other:
        empty = reach_of(catalog, "nanumpay", None)
        assert reach_of(catalog, "nanumpay", empty) is empty
        assert reach_of(catalog, "another", empty) is not empty
        for at, writer in enumerate((other, catalog)):
            backup = backup_of(NOW + timedelta(days=at), "local")
            writer.save_backup(backup)
            found = reach_of(catalog, "nanumpay", empty)
            assert len(found.fulls) == at + 1
            assert reach_of(catalog, "nanumpay", found) is found
