"""The demo's accident: payments are written, a collection is dropped, and the second before comes back."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, Final

from nanumpay_backupd.cli.words import plural
from tests.compare import describe_database
from tests.demo.scene import DATABASE, Document, Scene
from tests.demo.teller import DemoError

__all__ = ["undo_an_accident"]

_LOST: Final = "monthlyregistrations"
_PAID: Final = "weeklypaymentplans"
_PAYMENTS: Final = 25


def undo_an_accident(scene: Scene) -> None:
    """Write, drop a collection, and restore the second before."""
    tell, database = scene.tell, scene.database
    tell.step("An accident, and back to the second before")
    tell.note("The application pays: documents that no full backup holds yet.")
    tell.typed(f"db.{_PAID}.insertMany([{{memo: '지급', week: 1}}, ...])", ">")
    database[_PAID].insert_many([_payment(number) for number in range(_PAYMENTS)])
    before = describe_database(scene.mongo, DATABASE)
    good = _end_of_this_second()
    tell.tick(f"{plural(_PAYMENTS, 'payment')}; it is {scene.local(good):%H:%M:%S}, and all is well")
    tell.note("A second later somebody types this in the wrong window:")
    tell.typed(f"db.{_LOST}.drop()", ">")
    gone = database[_LOST].count_documents({})
    database.drop_collection(_LOST)
    tell.note(f"{plural(gone, 'document')} gone, and more is written meanwhile.")
    database[_PAID].insert_one(_payment(_PAYMENTS))
    scene.backupctl("timeline")
    began = time.monotonic()
    scene.backupctl("restore", "latest", "--at", f"{scene.local(good):%H:%M:%S}", "--yes")
    seconds = time.monotonic() - began
    after = describe_database(scene.mongo, DATABASE)
    differing = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if differing:
        raise DemoError(f"what came back is not what was there at {scene.local(good):%H:%M:%S}: {', '.join(differing)}")
    tell.tick(
        f"all {len(after)} collections are again what they were, the dropped one and the last payments too", seconds
    )
    scene.summary.append(("back to the second", f"{plural(gone, 'document')} of a dropped collection, {seconds:.1f} s"))


def _payment(number: int) -> Document:
    payment: dict[str, Any] = {"userName": "김나눔", "week": number, "amount": 110_000, "memo": "지급"}
    return payment


def _end_of_this_second() -> datetime:
    """Wait until this second is over and return it: all of it counts, nothing after it."""
    now = datetime.now(UTC)
    time.sleep(1.05 - now.microsecond / 1e6)
    return now.replace(microsecond=0)
