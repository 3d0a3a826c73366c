"""Up to which moment everything is captured, and what of it a wanted moment means. Tables."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from nanumpay_backupd.model import OpTime, Stream
from nanumpay_backupd.pipeline.chains import reached


def stream(position: str, newest: str, checked: int, broken: str = "") -> Stream:
    """Return a stream that was looked at last at a time (seconds since 1970)."""
    return Stream(
        job="shop",
        position=position,
        parent="p",
        since=position,
        chain="c",
        checked=datetime.fromtimestamp(checked, UTC),
        newest=newest,
        broken=broken,
    )


@pytest.mark.parametrize(
    "there, expected",
    [
        # Nothing was written since: all is captured up to the look, but not of its own second, which goes on.
        (stream("100:5", "100:5", 160), OpTime(160, 0)),
        (stream("100:5", "90:1", 160), OpTime(160, 0)),
        # The server's clock is ahead, or the look was in that very second.
        (stream("100:5", "100:5", 100), OpTime(100, 5)),
        (stream("100:5", "100:5", 40), OpTime(100, 5)),
        # There is more than a majority had: what lies between is not captured.
        (stream("100:5", "100:6", 160), OpTime(100, 5)),
        (stream("100:5", "130:1", 160), OpTime(100, 5)),
        # The catalog was lost: nobody knows of a look.
        (stream("100:5", "", 160), OpTime(100, 5)),
        # That it broke later takes nothing back.
        (stream("100:5", "100:5", 160, broken="the oplog rolled over"), OpTime(160, 0)),
    ],
)
def test_reached(there: Stream, expected: OpTime) -> None:
    """The last look counts where it found nothing more, else what was captured."""
    assert reached(there) == expected
