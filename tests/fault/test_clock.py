"""Clocks that jump by hours and by years under a real daemon: nothing is deleted by them, nothing waits for years."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from nanumpay_backupd.catalog import Catalog
from nanumpay_backupd.model import to_json
from nanumpay_backupd.pipeline.ageing import lived
from tests.servers.daemon import Site, backup_settings, open_site, wait_for
from tests.servers.mongod import Mongod

_PROMISE = "A clock that jumps, by hours or years, deletes nothing because of its age and delays no backup."

pytestmark = [pytest.mark.servers, pytest.mark.fault_long]

YEARS = timedelta(days=6 * 365)


@pytest.fixture
def site(mongod_rs: Mongod) -> Iterator[Site]:
    """A site that keeps backups for three days, whose daily backup is due in twelve hours; not started."""
    due = datetime.now(UTC) + timedelta(hours=12)
    settings = backup_settings(time=f"{due:%H:%M}", retention={"count": 30, "days": 3})
    with open_site(mongod_rs, settings) as site:
        site.write_config("[nanumpay]\ndrill = 'never'", top="timezone = 'UTC'")
        yield site


def problems(site: Site) -> list[str]:
    """Return the problems that the status tells of the clock."""
    return [text for text in map(str, site.status()["problems"]) if "the clock is" in text]


def due(site: Site) -> datetime:
    """Return when the next backup is planned."""
    return datetime.fromisoformat(str(site.job()["next_run"]))


def there(site: Site) -> set[str]:
    """Return the backups whose file is there."""
    return {name.removesuffix(".tar.gz") for name in site.artifacts()}


def good(run: dict[str, Any]) -> str:
    """Return the backup that a run made."""
    assert run["outcome"] == "succeeded", run["error"]
    return str(run["backup"])


@pytest.mark.promise(_PROMISE, item=6)
def test_a_clock_that_is_years_ahead_deletes_nothing_and_set_back_nothing_waits_for_years(site: Site) -> None:
    """Backups go on, all older ones stay and it is told why; set back, plans are those of the right time again."""
    site.set_clock(timedelta(0))
    site.start()
    made = [good(site.run()), good(site.run())]
    site.set_clock(YEARS)
    made.append(good(site.run()))
    assert there(site) >= set(made), "nothing may be deleted because the clock is wrong"
    (told,) = problems(site)
    assert "retention deletes nothing because of its age" in told
    lines = site.call("Prune")["lines"]
    assert {line["action"] for line in lines} == {"keep"}
    # A restart does not make it true.
    site.stop()
    site.start()
    made.append(good(site.run()))
    assert there(site) >= set(made)
    assert problems(site)
    site.set_clock(timedelta(0))
    now = datetime.now(UTC)
    wait_for(lambda: due(site) < now + timedelta(days=1), "a plan of the right time", 45)
    assert "the clock went back by" in site.log()
    assert problems(site) == []
    made.append(good(site.run()))
    assert there(site) >= set(made)
    assert "Traceback" not in site.log()


@pytest.mark.promise(_PROMISE, item=6)
def test_a_clock_that_really_moved_on_lets_the_old_go(site: Site) -> None:
    """The host was off for four days: what is older than its days is deleted, the newest verified one never."""
    site.start()
    made = good(site.run())
    site.stop()
    site.set_clock(timedelta(hours=95))
    with Catalog(site.state / "catalog.db") as catalog:
        seen = lived(catalog)
        assert seen is not None
        catalog.remember("lived", to_json(msgspec.structs.replace(seen, boot="the one before")))
        # This boot began when the other ended: but for the clock nothing tells how long that was ago.
    site.start()
    newer = good(site.run())
    assert [backup["id"] for backup in site.list_backups()] == [newer]
    assert made not in str(site.artifacts())
    assert problems(site) == []
